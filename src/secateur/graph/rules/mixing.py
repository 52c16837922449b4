"""Layers whose kernels read units and make others."""

from __future__ import annotations

import math

import numpy as np
from keras import layers

from secateur.graph.kinds import CONVOLUTIONS, DEPTHWISE, TRANSPOSED
from secateur.graph.labels import Ids, varying_axes
from secateur.graph.rules.carrying import channel_axis, needing, unknown
from secateur.graph.trace import Call, Rule


def dense(call: Call) -> Ids:
    """Reads and makes along the last axis."""
    call.reads("kernel", 0, call.channels(call.input, -1))
    call.multiplies("kernel", math.prod(call.input.shape[:-1]))
    return _made(call, "kernel", 1, -1)


def _conv(call: Call) -> Ids:
    layer = call.operation
    axis = channel_axis(layer)
    call.multiplies("kernel", _positions(call.output_shape, axis))
    read = call.channels(call.input, axis)
    made = _made(call, "kernel", -1, axis)
    if layer.groups == 1:
        call.reads("kernel", -2, read)
    else:
        _unite_blocks(call, read, call.makes("kernel", -1), layer.groups)
    return made


def _conv_transpose(call: Call) -> Ids:
    axis = channel_axis(call.operation)
    call.multiplies("kernel", _positions(call.input.shape, axis))
    # Kernels are (..., out, in).
    call.reads("kernel", -1, call.channels(call.input, axis))
    return _made(call, "kernel", -2, axis)


def _depthwise_conv(call: Call) -> Ids:
    layer = call.operation
    axis = channel_axis(layer)
    call.multiplies("kernel", _positions(call.output_shape, axis))
    read = call.channels(call.input, axis)
    call.carries("kernel", -2, read)
    widened = np.repeat(read, layer.depth_multiplier)
    call.carries("bias", 0, widened)
    return call.spread(widened, axis)


def _separable_conv(call: Call) -> Ids:
    layer = call.operation
    axis = channel_axis(layer)
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


def _embedding(call: Call) -> Ids:
    return call.spread(call.makes("embeddings", 1), -1)


def einsum_letters(equation: str, rank: int) -> tuple[str, str, str]:
    """The axes of an EinsumDense's input, kernel and output, an ellipsis written out."""
    read, rest = equation.replace(" ", "").split(",")
    kernel, made = rest.split("->")
    named = len(read.replace("...", ""))
    spare = "".join(letter for letter in "ZYXWVUTSRQPO" if letter not in equation)[: rank - named]
    return read.replace("...", spare), kernel, made.replace("...", spare)


def _einsum_dense(call: Call) -> Ids | list[Ids]:
    """Units are made along the first axis that the kernel adds; axes after it are theirs."""
    ids = call.settled(call.input)
    read, kernel, made = einsum_letters(call.operation.equation, ids.ndim)
    shape = call.shape("kernel")
    lengths = {**dict(zip(kernel, shape, strict=True)), **dict(zip(read, ids.shape, strict=True))}
    elided = ids.ndim - len(call.operation.equation.split(",")[0].replace("...", ""))
    is_mistaken = tuple(lengths[letter] for letter in made) != call.output_shape
    # Equally long axes hide it until one of them is cut.
    is_hidden = elided > 2 and any(0 < axis < elided for axis in varying_axes(ids))
    if call.operation.equation.startswith("...") and (is_mistaken or is_hidden):
        return needing(call, f"Keras turns round the axes that {call.path} leaves alone")
    if is_mistaken:
        return unknown(call)
    kept = {read[axis]: call.along(ids, axis) for axis in varying_axes(ids) if read[axis] in made}
    outside = [units for letter, units in kept.items() if letter not in kernel]
    repeats = math.prod(size for letter, size in lengths.items() if letter not in kernel)
    call.multiplies("kernel", repeats // math.prod(map(len, outside)), *outside)
    for axis in varying_axes(ids):
        if read[axis] not in kernel + made:
            call.freeze(ids, f"{call.path} sums over it")
    for axis, letter in enumerate(kernel):
        if letter in read and letter in made:
            call.carries("kernel", axis, call.along(ids, read.index(letter)))
        elif letter in read:
            call.reads("kernel", axis, call.along(ids, read.index(letter)))
    new = next((letter for letter in kernel if letter not in read), None)
    if new is not None:
        units = call.makes("kernel", kernel.index(new))
        if kept:
            call.freeze(units, f"{call.path} has other units along another axis")
        kept = kept or {new: units}
    _carry_bias(call, made, kept)
    if not kept:
        return np.broadcast_to(call.fixed(f"{call.path} makes no units"), call.output_shape)
    letter, units = next(iter(kept.items()))
    return call.spread(units, made.index(letter))


def _carry_bias(call: Call, made: str, units: dict[str, Ids]) -> None:
    axes = call.operation.bias_axes or ""
    for axis, letter in enumerate(letter for letter in made if letter in axes):
        if letter in units:
            call.carries("bias", axis, units[letter])


RULES: dict[type | str, Rule] = {
    layers.Dense: dense,
    layers.EinsumDense: _einsum_dense,
    layers.Embedding: _embedding,
    **dict.fromkeys(CONVOLUTIONS, _conv),
    **dict.fromkeys(TRANSPOSED, _conv_transpose),
    **dict.fromkeys(DEPTHWISE, _depthwise_conv),
    **dict.fromkeys([layers.SeparableConv1D, layers.SeparableConv2D], _separable_conv),
}
