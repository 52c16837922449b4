"""What a cut leaves of tensors, variables and the configurations of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from secateur.graph.kinds import CONVOLUTIONS, RECURRENT, TRANSPOSED
from secateur.graph.labels import Ids
from secateur.graph.rules import kind
from secateur.graph.rules.moving import slices_of
from secateur.graph.trace import Trace, Visit, variable_of

Config = dict[str, Any]


class Left:
    """What is left when some atoms leave."""

    def __init__(self, trace: Trace, stays: np.ndarray) -> None:
        self._trace = trace
        self._stays = stays
        self._understood = set(trace.first_visits) - set(trace.whole)
        self._is_whole = bool(stays.all())

    def is_whole_around(self, operation: Any) -> bool:
        """Whether an operation loses nothing: all units stay, or its own were not followed."""
        return self._is_whole or id(operation) not in self._understood

    def mask(self, ids: Ids) -> np.ndarray:
        """Which elements stay, bools of the ids' shape."""
        return np.where(ids > 0, self._stays[np.maximum(ids, 0)], True)

    def shape(self, ids: Ids, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape that is left of a tensor; what was not known stays so."""
        return tuple(
            size if size is None or axis == 0 else int(self.along(ids, axis).sum())
            for axis, size in enumerate(shape)
        )

    def visit_of(self, operation: Any) -> Visit:
        """The first call of an operation."""
        return self._trace.first_visits[id(operation)]

    def along(self, ids: Ids, axis: int) -> np.ndarray:
        """Which positions of a tensor's axis stay, bools: (size of the axis,)."""
        mask = self.mask(ids)
        others = tuple(other for other in range(mask.ndim) if other != axis % mask.ndim)
        return np.asarray(mask.any(others))

    def positions(self, variable: Any) -> dict[int, np.ndarray]:
        """Axis -> positions that stay, for the axes of a variable that hold units."""
        return {
            axis: np.flatnonzero(self.mask(self._trace.axes[id(variable), axis].ids))
            for axis in range(len(variable.shape))
            if (id(variable), axis) in self._trace.axes
        }

    def size(self, layer: keras.Layer, name: str, axis: int) -> int:
        """The size that is left of a variable's axis."""
        variable = variable_of(layer, name)
        axis %= len(variable.shape)
        positions = self.positions(variable)
        return len(positions[axis]) if axis in positions else int(variable.shape[axis])


def take(values: Any, positions: dict[int, np.ndarray]) -> np.ndarray:
    """An array with only these positions along these axes."""
    array = keras.ops.convert_to_numpy(values)
    for axis, kept in positions.items():
        array = array.take(kept, axis)
    return array


def resized(operation: Any, left: Left) -> Config:
    """An operation's configuration for what is left around it."""
    rule = None if left.is_whole_around(operation) else RESIZE.get(kind(operation))
    changes = rule(operation, left.visit_of(operation), left) if rule else {}
    return {**operation.get_config(), **changes}


def rewritten(operation: Any, left: Left, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """An operation's arguments for what is left of its inputs."""
    rule = None if left.is_whole_around(operation) else REWRITE.get(kind(operation))
    return rule(operation, left.visit_of(operation), left, args) if rule else args


def _dense(layer: Any, _: Visit, left: Left) -> Config:
    return {"units": left.size(layer, "kernel", -1)}


def _conv(layer: Any, _: Visit, left: Left) -> Config:
    filters = left.size(layer, "kernel", -1)
    return {"filters": filters, "groups": layer.groups * filters // layer.filters or 1}


def _conv_transpose(layer: Any, _: Visit, left: Left) -> Config:
    return {"filters": left.size(layer, "kernel", -2)}


def _separable_conv(layer: Any, _: Visit, left: Left) -> Config:
    return {"filters": left.size(layer, "pointwise_kernel", -1)}


def _embedding(layer: Any, _: Visit, left: Left) -> Config:
    return {"output_dim": left.size(layer, "embeddings", 1)}


def _einsum_dense(layer: Any, visit: Visit, left: Left) -> Config:
    partial = layer.partial_output_shape
    whole = visit.outputs[0]
    sizes = left.shape(whole, whole.shape)
    # What the configuration names are the last axes, or, with an ellipsis at the end, the first.
    first = 1 if layer.equation.endswith("...") else whole.ndim - len(partial)
    return {
        "output_shape": tuple(
            None if size is None else sizes[first + place] for place, size in enumerate(partial)
        )
    }


def _multi_head_attention(layer: Any, visit: Visit, left: Left) -> Config:
    made = left.size(layer, "attention_output/kernel", -1)
    query = left.size(layer, "query/kernel", 0)
    keeps_default = layer._output_shape is None and made == query
    return {
        "num_heads": left.size(layer, "query/kernel", 1),
        "output_shape": None if keeps_default else (made,),
    }


def _grouped_query_attention(layer: Any, _: Visit, left: Left) -> Config:
    return {
        "num_query_heads": left.size(layer, "query/kernel", 1),
        "num_key_value_heads": left.size(layer, "key/kernel", 1),
    }


def _recurrent(layer: Any, _: Visit, left: Left) -> Config:
    return {"units": left.size(layer, "recurrent_kernel", 0)}


def _time_distributed(layer: Any, _: Visit, left: Left) -> Config:
    return {"layer": _inner(layer.layer, layer.get_config()["layer"], left)}


def _bidirectional(layer: Any, _: Visit, left: Left) -> Config:
    config = layer.get_config()
    return {
        "layer": _inner(layer.forward_layer, config["layer"], left),
        "backward_layer": _inner(layer.backward_layer, config["backward_layer"], left),
    }


def _inner(layer: Any, config: Config, left: Left) -> Config:
    """A layer's configuration inside its wrapper's; what it was built for no longer holds."""
    rest = {key: value for key, value in config.items() if key != "build_config"}
    return {**rest, "config": resized(layer, left)}


def _group_normalization(layer: Any, visit: Visit, left: Left) -> Config:
    whole = visit.inputs[0]
    channels = left.shape(whole, whole.shape)[layer.axis]
    return {"groups": layer.groups * channels // whole.shape[layer.axis] or 1}


def _reshape(layer: Any, visit: Visit, left: Left) -> Config:
    return {"target_shape": _new_shape(layer.target_shape, visit, left, first=1)}


def _reshape_operation(operation: Any, visit: Visit, left: Left) -> Config:
    return {"newshape": _new_shape(operation.newshape, visit, left, first=0)}


def _new_shape(shape: Any, visit: Visit, left: Left, first: int) -> tuple[int | None, ...]:
    """A shape as it was written, with the sizes that are left; -1 and the batch stay."""
    whole = visit.outputs[0]
    sizes = left.shape(whole, whole.shape)
    return tuple(
        size if size == -1 or axis == 0 else sizes[axis]
        for axis, size in enumerate(shape, start=first)
    )


def _split(operation: Any, visit: Visit, left: Left) -> Config:
    axis = operation.axis
    sizes = [left.shape(ids, ids.shape)[axis] for ids in visit.outputs]
    sections = operation.indices_or_sections
    if isinstance(sections, int) and len(set(sizes)) == 1:
        return {}
    return {"indices_or_sections": tuple(int(end) for end in np.cumsum(sizes)[:-1])}


def _slice(operation: Any, visit: Visit, left: Left) -> Config:
    whole = visit.outputs[0]
    sizes = left.shape(whole, whole.shape)
    return {
        "shape": [
            size if size == -1 or axis == 0 else sizes[axis]
            for axis, size in enumerate(operation.shape)
        ]
    }


def _get_item_key(_: Any, visit: Visit, left: Left, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Ranges of an axis, moved to where their units are now."""
    ids = visit.inputs[0]
    key = slices_of(args[1], ids.ndim)
    axes = np.cumsum([0, *(part is not None for part in key[:-1])])
    moved = (
        _moved_range(part, left.along(ids, axis)) for part, axis in zip(key, axes, strict=True)
    )
    return args[0], tuple(moved)


def _moved_range(part: Any, stays: np.ndarray) -> Any:
    if not isinstance(part, slice) or stays.all():
        return part
    start, stop, _ = part.indices(len(stays))  # units are taken by whole ranges only
    return slice(int(stays[:start].sum()), int(stays[:stop].sum()))


def _slice_starts(
    operation: Any, visit: Visit, left: Left, args: tuple[Any, ...]
) -> tuple[Any, ...]:
    ids = visit.inputs[0]
    starts = [
        int(left.along(ids, axis)[:start].sum()) if axis else start
        for axis, start in enumerate(args[1])
    ]
    return args[0], starts


RESIZE: dict[type | str, Callable[[Any, Visit, Left], Config]] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.Embedding: _embedding,
    layers.GroupNormalization: _group_normalization,
    layers.GroupQueryAttention: _grouped_query_attention,
    layers.MultiHeadAttention: _multi_head_attention,
    layers.Reshape: _reshape,
    layers.Bidirectional: _bidirectional,
    layers.TimeDistributed: _time_distributed,
    "Reshape": _reshape_operation,
    "Slice": _slice,
    "Split": _split,
    **dict.fromkeys(RECURRENT, _recurrent),
    **dict.fromkeys(CONVOLUTIONS, _conv),
    **dict.fromkeys(TRANSPOSED, _conv_transpose),
    **dict.fromkeys([layers.SeparableConv1D, layers.SeparableConv2D], _separable_conv),
}

REWRITE: dict[type | str, Callable[[Any, Visit, Left, tuple[Any, ...]], tuple[Any, ...]]] = {
    "GetItem": _get_item_key,
    "Slice": _slice_starts,
}
