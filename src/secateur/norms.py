"""Folding BatchNormalization forward, into the layers that read what it gives.

`secateur.graph.fold_norms` folds into the layer before. That fails where an activation lies
between, as in Dense, ReLU, BatchNormalization, Dense; there the next kernel can take it over.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from secateur.graph import fold_norms, foldable_norms, is_crossed, layer_at, replace_layers
from secateur.graph.folding import _numbers, _scale_and_shift
from secateur.graph.kinds import CONVOLVING, DEPTHWISE, SEPARABLE, TRANSPOSED
from secateur.graph.rules.carrying import channel_axis
from secateur.graph.walk import graph_of, graph_of_model, nodes

_READERS = (layers.Dense, *CONVOLVING)

# They move or copy elements, and do nothing else in inference.
_MOVERS = (
    layers.Dropout,
    layers.Flatten,
    layers.Identity,
    layers.Permute,
    layers.Reshape,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)

Affine = tuple[np.ndarray, np.ndarray]
"""Scale and shift of what a layer reads, each (its channels,) float64."""


def fold_all_norms(model: keras.Model) -> tuple[keras.Model, dict[str, tuple[str, ...]]]:
    """A copy without all normalizations that can go, backward or forward, and where each went.

    Args:
        model: a built functional or Sequential model, which may hold others.

    Returns:
        The copy, which gives the same in inference, and the paths of the normalizations with those
        of the layers that took each over; the model itself if none could go.

    Raises:
        InputError: the model has no graph that could be read.
    """
    folded = model
    into: dict[str, tuple[str, ...]] = {}
    while True:
        # A normalization that leaves may bring the next one beside a layer that can take it.
        backward = foldable_norms(folded)
        if backward:
            folded = fold_norms(folded)
            into.update((norm, (path,)) for path, norm in backward)
            continue
        forward = forward_norms(folded)
        if not forward:
            return folded, into
        folded = fold_norms_forward(folded)
        into.update(forward)


def forward_norms(model: keras.Model) -> dict[str, tuple[str, ...]]:
    """Paths of normalizations, and of the layers that alone read each and can take it over.

    Args:
        model: a built functional or Sequential model, which may hold others.

    Raises:
        InputError: the model has no graph that could be read.
    """
    return {norm: tuple(readers) for norm, readers in _found(model).items()}


def fold_norms_forward(model: keras.Model) -> keras.Model:
    """A copy without the normalizations of `forward_norms`, which gives the same in inference.

    A layer with kernel V that reads s * h + t gives what one with kernel s * V gives of h, plus
    t V. The latter goes into its bias, which is exact where the layer pads nothing.

    Args:
        model: a built functional or Sequential model, which may hold others.

    Raises:
        InputError: the model has no graph that could be read.
    """
    found = _found(model)
    readers = {path: affine for one in found.values() for path, affine in one.items()}
    replacements: dict[str, list[keras.Layer]] = {norm: [] for norm in found}
    for path in readers:
        layer = layer_at(model, path)
        replacements[path] = [type(layer).from_config({**layer.get_config(), "use_bias": True})]
    folded = replace_layers(model, replacements)
    for path, (scale, shift) in readers.items():
        _absorb(layer_at(model, path), layer_at(folded, path), scale, shift)
    return folded


def _found(model: keras.Model) -> dict[str, dict[str, Affine]]:
    found: dict[str, dict[str, Affine]] = {}
    taken: set[str] = set()  # layers that take a normalization over, one at a time
    for norm, readers in _search(graph_of_model(model), ""):
        if taken.isdisjoint(readers):
            found[norm] = readers
            taken.update(readers)
    return found


def _search(graph: Any, prefix: str) -> list[tuple[str, dict[str, Affine]]]:
    found = []
    calls = [node for node, _ in nodes(graph)]
    for node in calls:
        inner = graph_of(node.operation)
        if inner is not None:
            found += _search(inner, f"{prefix}{node.operation.name}/")
        elif isinstance(node.operation, layers.BatchNormalization):
            readers = _readers(graph, calls, node)
            if readers:
                named = {prefix + name: affine for name, affine in readers.items()}
                found.append((prefix + node.operation.name, named))
    return found


def _readers(graph: Any, calls: list[Any], node: Any) -> dict[str, Affine]:
    """Name and affine of all layers that read a normalization, if all can take it over."""
    norm = node.operation
    if not _is_called_once(norm, calls):
        return {}
    column = [1] * len(node.outputs[0].shape)
    column[norm.axis] = -1
    shape = [1, *(size or 1 for size in node.outputs[0].shape[1:])]
    affine = [np.broadcast_to(one.reshape(column), shape) for one in _scale_and_shift(norm)]
    readers: dict[str, Affine] = {}
    todo = [(node.outputs[0], affine)]
    while todo:
        tensor, affine = todo.pop()
        if any(tensor is output for output in graph._outputs):
            return {}
        for call in calls:
            if not any(tensor is one for one in call.input_tensors):
                continue
            layer = call.operation
            if isinstance(layer, _MOVERS) and _is_called_once(layer, calls):
                todo.append((call.outputs[0], [_moved(layer, one) for one in affine]))
                continue
            scale, shift = (_along_channels(layer, one) for one in affine)
            if scale is None or shift is None or not _is_called_once(layer, calls):
                return {}
            if not _takes_over(layer, shift):
                return {}
            readers[layer.name] = (scale, shift)
    return readers


def _is_called_once(layer: Any, calls: list[Any]) -> bool:
    return sum(node.operation is layer for node in calls) == 1


def _moved(layer: keras.Layer, values: np.ndarray) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(layer(values, training=False)), np.float64)


def _along_channels(layer: Any, values: np.ndarray) -> np.ndarray | None:
    """(channels,): the values along the axis that a layer mixes; None if they differ elsewhere."""
    rows = np.moveaxis(values, channel_axis(layer), -1)
    rows = rows.reshape(-1, rows.shape[-1])
    return rows[0] if np.array_equal(rows, np.broadcast_to(rows[0], rows.shape)) else None


def _takes_over(layer: Any, shift: np.ndarray) -> bool:
    if type(layer) not in _READERS or getattr(layer, "groups", 1) != 1:
        return False
    if is_crossed(layer, layer.output.shape[channel_axis(layer)]):
        return False
    return not shift.any() or _pads_nothing(layer)


def _pads_nothing(layer: Any) -> bool:
    """Whether the kernel meets values of its input alone, everywhere: no zeros of a padding."""
    if isinstance(layer, layers.Dense):
        return True
    if isinstance(layer, TRANSPOSED):
        return set(layer.kernel_size) == {1} == set(layer.strides)
    return layer.padding == "valid" or set(layer.kernel_size) == {1}


def _absorb(layer: Any, folded: Any, scale: np.ndarray, shift: np.ndarray) -> None:
    """Give the folded layer a layer's kernel and bias, for an input that is scaled and shifted."""
    bias = _numbers(layer.bias) if layer.use_bias else 0.0
    if isinstance(layer, SEPARABLE):
        depthwise, pointwise = _numbers(layer.depthwise_kernel), _numbers(layer.pointwise_kernel)
        folded.depthwise_kernel.assign(depthwise * scale[:, None])
        folded.pointwise_kernel.assign(pointwise)
        given = _summed(depthwise * shift[:, None]).ravel() @ _summed(pointwise)
    else:
        kernel = _numbers(layer.kernel)
        # Kernels end in (in, out); those of transposed convolutions in (out, in).
        axis = (1, -1) if isinstance(layer, TRANSPOSED) else (-1, 1)
        folded.kernel.assign(kernel * scale.reshape(axis))
        given = _summed(kernel * shift.reshape(axis))
        if not isinstance(layer, DEPTHWISE):
            given = given.sum(axis=axis.index(-1))
    folded.bias.assign(bias + given.ravel())


def _summed(kernel: np.ndarray) -> np.ndarray:
    """The last two axes of a kernel, summed over all others."""
    return kernel.sum(axis=tuple(range(kernel.ndim - 2)))
