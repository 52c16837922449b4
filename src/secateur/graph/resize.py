"""What a cut leaves of tensors, variables and the configurations of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from secateur.graph.labels import Ids
from secateur.graph.trace import Trace, Visit

Config = dict[str, Any]


class Left:
    """What is left when some atoms leave."""

    def __init__(self, trace: Trace, stays: np.ndarray) -> None:
        self._trace = trace
        self._stays = stays

    def mask(self, ids: Ids) -> np.ndarray:
        """Which elements stay, bools of the ids' shape."""
        return np.where(ids > 0, self._stays[np.maximum(ids, 0)], True)

    def shape(self, ids: Ids, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape that is left of a tensor; what was not known stays so."""
        mask = self.mask(ids)
        axes = range(mask.ndim)
        sizes = [
            int(mask.any(tuple(other for other in axes if other != axis)).sum()) for axis in axes
        ]
        return tuple(
            size if size is None or axis == 0 else sizes[axis] for axis, size in enumerate(shape)
        )

    def positions(self, variable: Any) -> dict[int, np.ndarray]:
        """Axis -> positions that stay, for the axes of a variable that hold units."""
        return {
            axis: np.flatnonzero(self.mask(self._trace.axes[id(variable), axis].ids))
            for axis in range(len(variable.shape))
            if (id(variable), axis) in self._trace.axes
        }

    def size(self, layer: keras.Layer, name: str, axis: int) -> int:
        """The size that is left of a variable's axis."""
        variable = next(one for one in layer.weights if one.name == name)
        axis %= len(variable.shape)
        positions = self.positions(variable)
        return len(positions[axis]) if axis in positions else int(variable.shape[axis])


def take(values: Any, positions: dict[int, np.ndarray]) -> np.ndarray:
    """An array with only these positions along these axes."""
    array = keras.ops.convert_to_numpy(values)
    for axis, kept in positions.items():
        array = array.take(kept, axis)
    return array


def resized(operation: Any, visit: Visit, left: Left) -> Config:
    """An operation's configuration for what is left around it."""
    config = dict(operation.get_config())
    rule = RESIZE.get(type(operation))
    return {**config, **rule(operation, visit, left)} if rule else config


def _dense(layer: Any, _: Visit, left: Left) -> Config:
    return {"units": left.size(layer, "kernel", 1)}


def _conv(layer: Any, _: Visit, left: Left) -> Config:
    filters = left.size(layer, "kernel", -1)
    return {"filters": filters, "groups": max(1, layer.groups * filters // layer.filters)}


def _conv_transpose(layer: Any, _: Visit, left: Left) -> Config:
    return {"filters": left.size(layer, "kernel", -2)}


def _separable_conv(layer: Any, _: Visit, left: Left) -> Config:
    return {"filters": left.size(layer, "pointwise_kernel", -1)}


def _reshape(layer: Any, visit: Visit, left: Left) -> Config:
    whole = layer.compute_output_shape((None, *visit.inputs[0].shape[1:]))
    return {"target_shape": left.shape(visit.outputs[0], whole)[1:]}


RESIZE: dict[type, Callable[[Any, Visit, Left], Config]] = {
    layers.Dense: _dense,
    **dict.fromkeys([layers.Conv1D, layers.Conv2D, layers.Conv3D], _conv),
    **dict.fromkeys(
        [layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose], _conv_transpose
    ),
    **dict.fromkeys([layers.SeparableConv1D, layers.SeparableConv2D], _separable_conv),
    layers.Reshape: _reshape,
}
