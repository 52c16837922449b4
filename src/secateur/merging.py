"""Two linear layers in a row as the one that they are, exactly."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from secateur.graph import layer_at, replace_layers
from secateur.graph.folding import _scale_and_shift
from secateur.graph.kinds import CONVOLUTIONS
from secateur.graph.neighbours import LinearPair
from secateur.graph.rules.carrying import channel_axis
from secateur.masks import alive
from secateur.mixing import linear_maps
from secateur.norms import _pads_nothing


def why_not_merged(model: keras.Model, pair: LinearPair) -> str | None:
    """Why two layers cannot be one; None if they can.

    Args:
        model: the model that they are in.
        pair: one of its `linear_pairs`.
    """
    first, second = layer_at(model, pair.first), layer_at(model, pair.second)
    rank = len(first.output.shape)
    norms = [one for one in _between(model, pair) if _is_norm(one)]
    axes = {channel_axis(one) % rank for one in (first, second)} | {
        one.axis % rank for one in norms
    }
    if len(axes) != 1:
        return "they mix along different axes"
    if first.dtype_policy != second.dtype_policy:
        return "their numbers are of different types"
    for one in (first, second):
        if not one.trainable:
            return f"{one.name} is frozen: not trainable"
        if getattr(one, "groups", 1) != 1:
            return f"{one.name} has groups"
        if one.kernel_constraint is not None:
            return f"the kernel of {one.name} is under a constraint"
        if not alive(one.kernel).all():
            return f"{one.name} has pruned weights, whose zeros a product would not keep"
    if _is_pointwise(second):
        return None
    if not _is_pointwise(first):
        return "the windows of both would make a larger one"
    _, bias = _kernel_and_bias(model, pair)
    if bias.any() and not _pads_nothing(second):
        return f"{second.name} pads with zeros what the bias of {first.name} has been added to"
    return None


def merge(model: keras.Model, pair: LinearPair) -> keras.Model:
    """A copy in which one layer, of the second's name, gives what the two gave.

    Args:
        model: the model that they are in; it stays as it is.
        pair: one of its `linear_pairs`, for which `why_not_merged` is None.
    """
    first, second = layer_at(model, pair.first), layer_at(model, pair.second)
    matrix, bias = _kernel_and_bias(model, pair)
    (reading,) = linear_maps(second, second.kernel)
    kernel = reading.matrix()[: reading.inputs]
    if _is_pointwise(second):
        host, product, shift = first, matrix @ kernel, bias @ kernel
    else:
        host = second
        taps = kernel.reshape(-1, matrix.shape[1], reading.outputs)
        product = np.einsum("ab,tbo->tao", matrix, taps).reshape(-1, reading.outputs)
        shift = bias @ taps.sum(axis=0)
    if second.use_bias:
        shift = shift + reading.matrix()[-1]
    merged = _like(host, second, use_bias=bool(first.use_bias or second.use_bias or shift.any()))
    gone = dict.fromkeys([pair.first, *pair.between], ())
    copy = replace_layers(model, {**gone, pair.second: [merged]})
    (made,) = linear_maps(merged, merged.kernel)
    made.write(np.vstack([product, shift]) if merged.use_bias else product)
    return copy


def _like(host: Any, second: Any, use_bias: bool) -> Any:
    """A layer of the host's kind with the outputs, the activation and the name of the second."""
    config, other = host.get_config(), second.get_config()
    size = "units" if "units" in config else "filters"
    outputs = other["units"] if "units" in other else other["filters"]
    own = {key: other.get(key) for key in ("name", "activation", "activity_regularizer")}
    own = {key: value for key, value in own.items() if key in config}
    return type(host).from_config({**config, **own, size: outputs, "use_bias": use_bias})


def _kernel_and_bias(model: keras.Model, pair: LinearPair) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, outputs) and (outputs,) of the first layer, with what normalizes it."""
    first = layer_at(model, pair.first)
    (linear,) = linear_maps(first, first.kernel)
    matrix = linear.matrix()
    kernel = matrix[: linear.inputs]
    bias = matrix[-1] if linear.bias is not None else np.zeros(linear.outputs)
    for norm in filter(_is_norm, _between(model, pair)):
        scale, shift = _scale_and_shift(norm)
        kernel, bias = kernel * scale, bias * scale + shift
    return kernel, bias


def _between(model: keras.Model, pair: LinearPair) -> list[Any]:
    return [layer_at(model, path) for path in pair.between]


def _is_norm(layer: Any) -> bool:
    return type(layer) is layers.BatchNormalization


def _is_pointwise(layer: Any) -> bool:
    if type(layer) is layers.Dense:
        return True
    is_plain = type(layer) in CONVOLUTIONS and layer.groups == 1
    return is_plain and {*layer.kernel_size, *layer.strides} == {1}
