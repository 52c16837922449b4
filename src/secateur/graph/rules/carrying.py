"""Operations that keep every unit where it is, and those that need all units."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from secateur.graph.labels import Ids, varying_axes
from secateur.graph.trace import Call, Rule


def unknown(call: Call) -> list[Ids]:
    """Freeze all that the operation touches."""
    return needing(call, f"{call.path} ({type(call.operation).__name__}) is not understood")


def whole(call: Call) -> list[Ids]:
    """Freeze the inputs of an operation that is understood, and cannot do with less."""
    return needing(call, f"{call.path} needs all units")


def needing(call: Call, reason: str) -> list[Ids]:
    """Freeze all inputs and outputs, and say why."""
    for ids in call.inputs:
        call.freeze(ids, reason)
    call.trace.whole.setdefault(id(call.operation), reason)
    call.trace.uncounted.append(call)
    fixed = call.fixed(reason)
    return [np.broadcast_to(fixed, shape) for shape in call.output_shapes]


def same(call: Call) -> Ids:
    """Every element by itself."""
    return call.input


def channel_axis(layer: Any) -> int:
    """The axis of a layer's channels."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def _rescaling(call: Call) -> Ids | list[Ids]:
    is_alike = np.size(call.operation.scale) == np.size(call.operation.offset) == 1
    return call.input if is_alike else whole(call)


def spatial(call: Call) -> Ids:
    """Windows, padding and the like: channels stay apart, positions do not."""
    axis = channel_axis(call.operation)
    ids = call.channels(call.input, axis)
    is_flat = len(call.output_shape) == 2
    return call.spread(ids, -1 if is_flat else axis)


def _batch_normalization(call: Call) -> Ids:
    axis = call.operation.axis
    ids = call.channels(call.input, axis)
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        call.carries(name, 0, ids)
    return call.spread(ids, axis)


def _normalization_over_units(call: Call) -> Ids:
    """A unit's leaving changes the mean and variance of the others, which is accepted."""
    ids = call.settled(call.input)
    axes = np.atleast_1d(call.operation.axis) % ids.ndim
    if set(axes) & set(varying_axes(ids)):
        call.normalizes(ids)
    for position, axis in enumerate(axes):
        for name in ("gamma", "beta", "scale"):
            call.carries(name, position, call.along(ids, int(axis)))
    return ids


def _group_normalization(call: Call) -> Ids:
    """Units of one group of the normalization leave together, so that it stays what it was."""
    layer = call.operation
    ids = call.channels(call.input, layer.axis)
    if layer.groups > 1:
        blocks = ids.reshape(layer.groups, -1)
        call.unite(blocks, blocks[:, :1])
    else:
        call.normalizes(ids)
    for name in ("gamma", "beta"):
        call.carries(name, 0, ids)
    return call.spread(ids, layer.axis)


def _prelu(call: Call) -> Ids:
    ids = call.settled(call.input)
    for axis in set(range(1, ids.ndim)) - set(call.operation.shared_axes or ()):
        call.carries("alpha", axis - 1, call.along(ids, axis))
    return ids


def _softmax(call: Call) -> Ids | list[Ids]:
    axis = call.operation.axis
    axes = {int(one) % call.input.ndim for one in np.atleast_1d(axis)}
    return whole(call) if axes & set(varying_axes(call.input)) else call.input


def _reduction(call: Call) -> Ids | list[Ids]:
    """Sums, means and extremes: over positions, or else over units."""
    operation = call.operation
    ids = call.settled(call.input)
    axes = range(ids.ndim) if operation.axis is None else np.atleast_1d(operation.axis)
    reduced = tuple(int(axis) % ids.ndim for axis in axes)
    if 0 in reduced or set(reduced) & set(varying_axes(ids)):
        return whole(call)
    return ids.max(reduced, keepdims=operation.keepdims)


RULES: dict[type | str, Rule] = {
    layers.BatchNormalization: _batch_normalization,
    layers.LayerNormalization: _normalization_over_units,
    layers.RMSNormalization: _normalization_over_units,
    layers.GroupNormalization: _group_normalization,
    layers.PReLU: _prelu,
    layers.Rescaling: _rescaling,
    layers.Softmax: _softmax,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    **dict.fromkeys(
        ["Amax", "Amin", "Max", "Mean", "Min", "Prod", "Std", "Sum", "Var"], _reduction
    ),
    **dict.fromkeys([layers.Masking, layers.Normalization, layers.UnitNormalization], whole),
    **dict.fromkeys(
        [
            layers.Activation,
            layers.ActivityRegularization,
            layers.AlphaDropout,
            layers.Dropout,
            layers.ELU,
            layers.GaussianDropout,
            layers.GaussianNoise,
            layers.Identity,
            layers.LeakyReLU,
            layers.ReLU,
            layers.SpatialDropout1D,
            layers.SpatialDropout2D,
            layers.SpatialDropout3D,
        ],
        same,
    ),
    **dict.fromkeys(
        [
            layers.AveragePooling1D,
            layers.AveragePooling2D,
            layers.AveragePooling3D,
            layers.Cropping1D,
            layers.Cropping2D,
            layers.Cropping3D,
            layers.GlobalAveragePooling1D,
            layers.GlobalAveragePooling2D,
            layers.GlobalAveragePooling3D,
            layers.GlobalMaxPooling1D,
            layers.GlobalMaxPooling2D,
            layers.GlobalMaxPooling3D,
            layers.MaxPooling1D,
            layers.MaxPooling2D,
            layers.MaxPooling3D,
            layers.RepeatVector,
            layers.Resizing,
            layers.UpSampling1D,
            layers.UpSampling2D,
            layers.UpSampling3D,
            layers.ZeroPadding1D,
            layers.ZeroPadding2D,
            layers.ZeroPadding3D,
        ],
        spatial,
    ),
}
