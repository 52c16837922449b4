"""What each operation does with the units of its inputs, one small function a kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from secateur.graph.labels import Ids, varying_axes
from secateur.graph.trace import Call, Labels, Rule


def rule_of(operation: Any) -> Rule:
    """The rule for an operation; `_unknown` for one that nobody wrote a rule for."""
    if _is_altered(operation) or not _is_elementwise(getattr(operation, "activation", None)):
        return _unknown
    return RULES.get(type(operation), _unknown)


def _is_altered(operation: Any) -> bool:
    """Whether a layer's variables are not the ones its class documents."""
    return bool(
        getattr(operation, "quantization_mode", None) or getattr(operation, "lora_enabled", False)
    )


def _is_elementwise(activation: Any) -> bool:
    """Whether an activation treats every unit by itself; for a foreign function nobody knows."""
    if isinstance(activation, layers.Layer):
        return RULES.get(type(activation)) is _same
    return activation is None or activation in ELEMENTWISE_ACTIVATIONS


def _unknown(call: Call) -> list[Ids]:
    """Freeze all that the operation touches."""
    kind = type(call.operation).__name__
    reason = f"{call.path} ({kind}) is not understood"
    call.trace.unknown[call.path] = kind
    for ids in call.inputs:
        call.freeze(ids, reason)
    fixed = call.fixed(reason)
    return [np.broadcast_to(fixed, shape) for shape in call.output_shapes]


def _channel_axis(layer: Any) -> int:
    """The axis of a layer's channels."""
    return 1 if layer.data_format == "channels_first" else -1


# Mixing: reads units and makes others.


def _dense(call: Call) -> Ids:
    call.reads("kernel", 0, call.channels(call.input, -1))
    call.multiplies("kernel", math.prod(call.input.shape[:-1]))
    return _made(call, "kernel", 1, -1)


def _conv(call: Call) -> Ids:
    layer = call.operation
    axis = _channel_axis(layer)
    call.multiplies("kernel", _positions(call.output_shape, axis))
    read = call.channels(call.input, axis)
    if layer.groups == 1:
        call.reads("kernel", -2, read)
    made = _made(call, "kernel", -1, axis)
    if layer.groups > 1:
        _unite_blocks(call, read, call.makes("kernel", -1), layer.groups)
    return made


def _conv_transpose(call: Call) -> Ids:
    axis = _channel_axis(call.operation)
    call.multiplies("kernel", _positions(call.input.shape, axis))
    # Kernels are (..., out, in).
    call.reads("kernel", -1, call.channels(call.input, axis))
    return _made(call, "kernel", -2, axis)


def _depthwise_conv(call: Call) -> Ids:
    layer = call.operation
    axis = _channel_axis(layer)
    call.multiplies("kernel", _positions(call.output_shape, axis))
    read = call.channels(call.input, axis)
    call.carries("kernel", -2, read)
    widened = np.repeat(read, layer.depth_multiplier)
    call.carries("bias", 0, widened)
    return call.spread(widened, axis)


def _separable_conv(call: Call) -> Ids:
    layer = call.operation
    axis = _channel_axis(layer)
    for name in ("depthwise_kernel", "pointwise_kernel"):
        call.multiplies(name, _positions(call.output_shape, axis))
    read = call.channels(call.input, axis)
    call.carries("depthwise_kernel", -2, read)
    call.reads("pointwise_kernel", -2, np.repeat(read, layer.depth_multiplier))
    return _made(call, "pointwise_kernel", -1, axis)


def _made(call: Call, name: str, variable_axis: int, axis: int) -> Ids:
    made = call.makes(name, variable_axis)
    call.carries("bias", 0, made)
    return call.spread(made, axis)


def _positions(shape: tuple[int, ...], axis: int) -> int:
    return math.prod(shape) // shape[axis]


def _unite_blocks(call: Call, read: Ids, made: Ids, groups: int) -> None:
    """Grouped convolutions lose whole groups: what one reads and makes leaves together."""
    for ids in (read, made):
        blocks = ids.reshape(groups, -1)
        call.unite(blocks, blocks[:, :1])
    call.unite(read.reshape(groups, -1)[:, 0], made.reshape(groups, -1)[:, 0])


# Carrying: every unit stays where it is.


def _same(call: Call) -> Ids:
    return call.input


def _spatial(call: Call) -> Ids:
    """Windows, padding and the like: channels stay apart, positions do not."""
    axis = _channel_axis(call.operation)
    return call.spread(call.channels(call.input, axis), axis)


def _spatial_last(call: Call) -> Ids:
    return call.spread(call.channels(call.input, -1), -1)


def _batch_normalization(call: Call) -> Ids:
    axis = call.operation.axis
    ids = call.channels(call.input, axis)
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        call.carries(name, 0, ids)
    return call.spread(ids, axis)


def _prelu(call: Call) -> Ids:
    ids = _settled(call)
    for axis in varying_axes(ids):
        if axis not in (call.operation.shared_axes or ()):
            call.carries("alpha", axis - 1, call.channels(ids, axis))
    return ids


def _settled(call: Call) -> Ids:
    """The first input's ids, united until they differ along one axis at most."""
    if len(varying_axes(call.input)) < 2:
        return call.input
    return call.spread(call.channels(call.input, -1), -1)


def _moved(call: Call) -> Sequence[Ids]:
    """Operations that only move elements: run on the ids themselves."""
    if any(None in shape[1:] for shape in call.input_shapes):
        return _unknown(call)

    def ids_of(value: Any) -> Any:
        return keras.ops.convert_to_tensor(value.ids) if isinstance(value, Labels) else value

    args, kwargs = keras.tree.map_structure(ids_of, (call.args, call.kwargs))
    outputs = keras.tree.flatten(call.operation.call(*args, **kwargs))
    ids = [np.asarray(output) for output in outputs]
    if [one.shape for one in ids] != call.output_shapes:
        return _unknown(call)
    return ids


# Uniting and joining.


def _merge(call: Call) -> Ids:
    """Element-wise on several inputs: equal positions leave together."""
    ranks = max(ids.ndim for ids in call.inputs)
    # Keras gives the inputs of fewer axes new ones after the batch.
    inputs = [np.expand_dims(ids, tuple(range(1, 1 + ranks - ids.ndim))) for ids in call.inputs]
    return _met(call, inputs)


def _met(call: Call, inputs: Sequence[Ids]) -> Ids:
    met = inputs[0]
    for ids in inputs[1:]:
        met = _meet(call, met, ids)
    return met


def _meet(call: Call, first: Ids, second: Ids) -> Ids:
    pairs = ((first, second), (second, first))
    repeated = [ids for ids, others in pairs if _is_repeated(ids, others)]
    for ids in repeated:
        call.freeze(ids, f"{call.path} repeats it for other units")
    if not repeated:
        call.unite(first, second)
    # A unit tells more than what cannot leave anyway, and what is repeated is no unit's own.
    told = second if (repeated and repeated[0] is first) or first.max() <= 0 else first
    return np.broadcast_to(told, np.broadcast_shapes(first.shape, second.shape))


def _is_repeated(ids: Ids, others: Ids) -> bool:
    """Whether an element of `ids` meets several units of `others`."""
    return any(ids.shape[axis] == 1 for axis in varying_axes(others))


ELEMENTWISE_ACTIVATIONS = {
    getattr(keras.activations, name)
    for name in (
        "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu",
        "hard_swish", "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6",
        "selu", "sigmoid", "silu", "soft_shrink", "softplus", "softsign", "sparse_plus",
        "sparse_sigmoid", "squareplus", "swish", "tanh", "tanh_shrink", "threshold",
    )
}  # fmt: skip

RULES: dict[type, Rule] = {
    layers.Dense: _dense,
    **dict.fromkeys([layers.Conv1D, layers.Conv2D, layers.Conv3D], _conv),
    **dict.fromkeys(
        [layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose], _conv_transpose
    ),
    **dict.fromkeys([layers.DepthwiseConv1D, layers.DepthwiseConv2D], _depthwise_conv),
    **dict.fromkeys([layers.SeparableConv1D, layers.SeparableConv2D], _separable_conv),
    layers.BatchNormalization: _batch_normalization,
    layers.PReLU: _prelu,
    layers.Add: _merge,
    layers.Subtract: _merge,
    layers.Multiply: _merge,
    layers.Average: _merge,
    layers.Maximum: _merge,
    layers.Minimum: _merge,
    layers.Concatenate: _moved,
    layers.Flatten: _moved,
    layers.Reshape: _moved,
    layers.Permute: _moved,
    **dict.fromkeys(
        [
            layers.Activation,
            layers.ReLU,
            layers.LeakyReLU,
            layers.ELU,
            layers.Identity,
            layers.Dropout,
            layers.AlphaDropout,
            layers.GaussianDropout,
            layers.GaussianNoise,
            layers.ActivityRegularization,
        ],
        _same,
    ),
}
