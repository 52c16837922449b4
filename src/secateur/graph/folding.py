"""Folding BatchNormalization into the layer before it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from secateur.graph.columns import is_crossed
from secateur.graph.kinds import CONVOLUTIONS, DEPTHWISE, TRANSPOSED
from secateur.graph.rebuild import replace_layers
from secateur.graph.rules.carrying import channel_axis
from secateur.graph.walk import graph_of, graph_of_model, layer_at, nodes

# Where the units are that each of these layers makes: its kernel, and the kernel's axes of them.
MADE: dict[type, tuple[str, tuple[int, ...]]] = {
    layers.Dense: ("kernel", (-1,)),
    **dict.fromkeys(CONVOLUTIONS, ("kernel", (-1,))),
    **dict.fromkeys(TRANSPOSED, ("kernel", (-2,))),
    **dict.fromkeys(DEPTHWISE, ("kernel", (-2, -1))),
    **dict.fromkeys([layers.SeparableConv1D, layers.SeparableConv2D], ("pointwise_kernel", (-1,))),
}


def foldable_norms(model: keras.Model) -> tuple[tuple[str, str], ...]:
    """Pairs of paths: a linear layer, and the BatchNormalization that alone reads what it makes.

    Args:
        model: a built functional or Sequential model, which may hold others.

    Raises:
        InputError: the model has no graph that could be read.
    """
    return tuple(dict.fromkeys(_pairs(graph_of_model(model), "")))


def fold_norms(model: keras.Model) -> keras.Model:
    """A copy without the normalizations of `foldable_norms`, which gives the same in inference.

    A normalization multiplies a unit by s = gamma / sqrt(variance + epsilon) and adds
    beta - mean * s. Kernel and bias of the layer before it do both; one without a bias gets one.

    Args:
        model: a built functional or Sequential model, which may hold others.

    Raises:
        InputError: the model has no graph that could be read.
    """
    pairs = foldable_norms(model)
    replacements: dict[str, list[keras.Layer]] = {norm: [] for _, norm in pairs}
    for path, _ in pairs:
        layer = layer_at(model, path)
        config = {**layer.get_config(), "use_bias": True}
        replacements[path] = [type(layer).from_config(config)]
    folded = replace_layers(model, replacements)
    for path, norm in pairs:
        _fold(layer_at(model, path), layer_at(model, norm), layer_at(folded, path))
    return folded


def _fold(layer: Any, norm: Any, folded: Any) -> None:
    name, axes = MADE[type(layer)]
    kernel = getattr(layer, name)
    scale, shift = _scale_and_shift(norm)
    shape = [size if axis - kernel.ndim in axes else 1 for axis, size in enumerate(kernel.shape)]
    bias = _numbers(layer.bias) if layer.use_bias else 0.0
    getattr(folded, name).assign(_numbers(kernel) * scale.reshape(shape))
    folded.bias.assign(bias * scale + shift)


def _scale_and_shift(norm: Any) -> tuple[np.ndarray, np.ndarray]:
    mean, variance = _numbers(norm.moving_mean), _numbers(norm.moving_variance)
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale *= _numbers(norm.gamma)
    shift = -mean * scale
    return scale, shift + _numbers(norm.beta) if norm.center else shift


def _numbers(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), dtype="float64")


def _pairs(graph: Any, prefix: str) -> list[tuple[str, str]]:
    found = []
    calls = [node for node, _ in nodes(graph)]
    for node in calls:
        inner = graph_of(node.operation)
        if inner is not None:
            found += _pairs(inner, f"{prefix}{node.operation.name}/")
        elif isinstance(node.operation, layers.BatchNormalization):
            before = layer_before(graph, calls, node)
            if before is not None and _is_foldable(before, node.operation):
                found.append((prefix + before.name, prefix + node.operation.name))
    return found


def layer_before(graph: Any, calls: list[Any], reader: Any) -> Any | None:
    """The layer that a call reads, if no other call does and both layers are called once."""
    tensor = reader.input_tensors[0]
    readers = [node for node in calls if any(tensor is one for one in node.input_tensors)]
    is_output = any(tensor is output for output in graph._outputs)
    layer = tensor._keras_history.operation
    called = [node for node in calls if node.operation in (layer, reader.operation)]
    return layer if readers == [reader] and len(called) == 2 and not is_output else None


def _is_foldable(layer: Any, norm: Any) -> bool:
    if type(layer) not in MADE or layer.activation is not keras.activations.linear:
        return False
    rank = len(layer.output.shape)
    if norm.axis % rank != channel_axis(layer) % rank:
        return False
    return not is_crossed(layer, int(norm.moving_mean.shape[0]))
