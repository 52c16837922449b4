"""What a model costs, counted from its graph: nothing is run or timed here."""

from __future__ import annotations

import gzip
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from secateur.saving import save


@dataclass(frozen=True)
class Costs:
    """What a model costs.

    Attributes:
        parameters: numbers in its weights, BatchNorm statistics included.
        nonzeros: those of them that are not zero.
        macs: multiply-accumulate operations of one row's forward pass.
        nonzero_macs: those whose weight is not zero.
        peak_activation_bytes: the most float32 activation memory alive at once when the graph
            runs one row in its own order, as a microcontroller would.
        size_bytes: its `.keras` file.
        gzip_bytes: that file's weights, gzipped: what zeros and shared values save in transit.
    """

    parameters: int
    nonzeros: int
    macs: int
    nonzero_macs: int
    peak_activation_bytes: int
    size_bytes: int
    gzip_bytes: int


def costs(model: keras.Model) -> Costs:
    """Count what a built model costs.

    Raises:
        NotImplementedError: a layer with weights whose MACs nobody taught this module to count.
    """
    weights = [np.asarray(weight) for weight in model.weights]
    macs, nonzero_macs = _macs(model)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "model.keras")
        save(model, path)
        size_bytes = path.stat().st_size
    raw = b"".join(weight.tobytes() for weight in weights)
    return Costs(
        parameters=sum(weight.size for weight in weights),
        nonzeros=sum(int(np.count_nonzero(weight)) for weight in weights),
        macs=macs,
        nonzero_macs=nonzero_macs,
        peak_activation_bytes=_peak_activation_bytes(model),
        size_bytes=size_bytes,
        gzip_bytes=len(gzip.compress(raw, mtime=0)),
    )


def _macs(model: keras.Model) -> tuple[int, int]:
    """Multiply-accumulates of one row: every weight counted as often as a row uses it."""
    macs = nonzero = 0
    for node in _calls(model):
        for kernel, uses in _kernels(node):
            macs += uses * kernel.size
            nonzero += uses * int(np.count_nonzero(kernel))
    return macs, nonzero


def _kernels(node: keras.Node) -> list[tuple[np.ndarray, int]]:
    """The arrays a call multiplies its input with, and how often it uses each of their numbers."""
    layer = node.operation
    for kind, count in _MIXING.items():
        if isinstance(layer, kind):
            return count(layer, node)
    unknown = [weight.name for weight in getattr(layer, "weights", []) if len(weight.shape) > 1]
    if unknown and not isinstance(layer, _NOT_MIXING):
        raise NotImplementedError(
            f"cannot count the MACs of layer {layer.name!r} ({type(layer).__name__}), which holds "
            f"{', '.join(unknown)}"
        )
    return []


def _once_per(shape: tuple[int | None, ...], data_format: str) -> int:
    """Positions of a tensor (batch, *positions, channels), or channels first."""
    positions = shape[2:] if data_format == "channels_first" else shape[1:-1]
    return math.prod(size or 1 for size in positions)


def _per_output_position(layer: keras.Layer, node: keras.Node) -> list[tuple[np.ndarray, int]]:
    data_format = getattr(layer, "data_format", "channels_last")
    return [(np.asarray(layer.kernel), _once_per(node.outputs[0].shape, data_format))]


def _per_input_position(layer: keras.Layer, node: keras.Node) -> list[tuple[np.ndarray, int]]:
    return [(np.asarray(layer.kernel), _once_per(node.input_tensors[0].shape, layer.data_format))]


_MIXING: dict[type, Callable[[keras.Layer, keras.Node], list[tuple[np.ndarray, int]]]] = {
    keras.layers.Dense: _per_output_position,
    keras.layers.Conv1DTranspose: _per_input_position,
    keras.layers.Conv2DTranspose: _per_input_position,
    keras.layers.Conv3DTranspose: _per_input_position,
    keras.layers.Conv1D: _per_output_position,
    keras.layers.Conv2D: _per_output_position,
    keras.layers.Conv3D: _per_output_position,
    keras.layers.DepthwiseConv1D: _per_output_position,
    keras.layers.DepthwiseConv2D: _per_output_position,
}
_NOT_MIXING = (keras.layers.PReLU, keras.layers.LayerNormalization, keras.layers.Embedding)


def _peak_activation_bytes(model: keras.Model) -> int:
    """The most bytes alive at once when calls run in graph order and a tensor dies after its last.

    An element-wise operation that is part of a layer (its activation) works in place; any other
    call holds its inputs and outputs at once.
    """
    calls = _calls(model)
    last_use = {
        id(tensor): step for step, node in enumerate(calls) for tensor in node.input_tensors
    }
    last_use.update({id(tensor): len(calls) for tensor in model.outputs})
    alive: dict[int, int] = {}
    peak = 0
    for step, node in enumerate(calls):
        alive.update({id(tensor): _bytes(tensor) for tensor in node.outputs})
        peak = max(peak, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last_use.get(name, step) > step}
    return peak


def _bytes(tensor: keras.KerasTensor) -> int:
    return 4 * math.prod(size or 1 for size in tensor.shape[1:])


def _calls(model: keras.Model) -> list[keras.Node]:
    """The graph's calls in the order they run, nested models opened."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    in_order = [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
    ]
    opened: list[keras.Node] = []
    for node in in_order:
        if isinstance(node.operation, keras.Model):
            opened += [inner for inner in _calls(node.operation) if not inner.is_input]
        else:
            opened.append(node)
    return opened
