"""Operations that only move elements: they are run on the ids themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from secateur.graph.labels import Ids, varying_axes
from secateur.graph.rules.carrying import needing, unknown
from secateur.graph.trace import Call, Labels, Rule


def _moved(call: Call) -> Sequence[Ids]:
    if any(None in shape[1:] for shape in call.input_shapes):
        return needing(call, f"{call.path} moves elements of a tensor of unknown size")
    args, kwargs = keras.tree.map_structure(_tensor_of_ids, (call.args, call.kwargs))
    try:
        moved = keras.tree.flatten(call.operation.call(*args, **kwargs))
    except Exception:  # the batch may be named in its arguments, and here it has one row
        return unknown(call)
    outputs = [np.asarray(output) for output in moved]
    return outputs if [ids.shape for ids in outputs] == call.output_shapes else unknown(call)


def _tensor_of_ids(value: Any) -> Any:
    return keras.ops.convert_to_tensor(value.ids) if isinstance(value, Labels) else value


def _reshaped(call: Call) -> Sequence[Ids]:
    """By the shapes alone, for the arguments may name a batch."""
    if call.input.size != math.prod(call.output_shape):
        return unknown(call)
    return [call.input.reshape(call.output_shape)]


def _get_item(call: Call) -> Sequence[Ids]:
    """`x[:, 2:5]`: parts of an axis of units must be whole ranges."""
    key = slices_of(call.args[1], call.input.ndim)
    parts = [part for part in key if part is not None]
    for axis in varying_axes(call.input):
        if not isinstance(parts[axis], slice) or parts[axis].step not in (None, 1):
            return needing(call, f"{call.path} picks single units")
    return _moved(call)


def slices_of(key: Any, rank: int) -> list[Any]:
    """An index with its ellipsis written out: a slice, int or None (a new axis) each."""
    parts = list(key) if isinstance(key, (tuple, list)) else [key]
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    place = parts.index(Ellipsis)
    missing = rank - sum(part is not None and part is not Ellipsis for part in parts)
    return [*parts[:place], *[slice(None)] * missing, *parts[place + 1 :]]


def _pad(call: Call) -> Sequence[Ids]:
    widths = np.broadcast_to(call.operation.pad_width, (call.input.ndim, 2))
    ids = call.settled(call.input)
    axes = varying_axes(ids)
    if any(widths[axis].any() for axis in axes):
        return needing(call, f"{call.path} pads units with constants")
    axis = axes[0] if axes else -1
    return [call.spread(call.channels(ids, axis), axis)]


RULES: dict[type | str, Rule] = {
    "GetItem": _get_item,
    "Pad": _pad,
    "Reshape": _reshaped,
    **dict.fromkeys(
        [
            layers.Concatenate,
            layers.Flatten,
            layers.Permute,
            layers.Reshape,
            "Concatenate",
            "DepthToSpace",
            "ExpandDims",
            "Flip",
            "Moveaxis",
            "Repeat",
            "Slice",
            "SpaceToDepth",
            "Split",
            "Squeeze",
            "Stack",
            "Swapaxes",
            "Tile",
            "Transpose",
        ],
        _moved,
    ),
}
