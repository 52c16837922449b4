"""Attention over several heads: a unit is a head, with its query, key, value and output."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from keras import layers

from secateur.graph.labels import Ids
from secateur.graph.rules.carrying import unknown
from secateur.graph.trace import Call, Labels, Rule


def _multi_head_attention(call: Call) -> list[Ids]:
    layer = call.operation
    arguments = _arguments(call)
    if call.input.ndim != 3 or len(layer._output_shape or (1,)) != 1:
        return unknown(call)
    heads = call.makes("query/kernel", 1)
    for name in ("key/kernel", "value/kernel"):
        call.makes(name, 1, heads)
    _attend(call, arguments, heads, heads)
    return _outputs(call, call.makes("attention_output/kernel", 2), heads)


def _grouped_query_attention(call: Call) -> list[Ids]:
    """The query heads that share a key and a value leave together with them."""
    heads = call.makes("key/kernel", 1)
    call.makes("value/kernel", 1, heads)
    query_heads = call.makes("query/kernel", 1, np.repeat(heads, call.operation.num_repeats))
    _attend(call, _arguments(call), query_heads, heads)
    # Its output is always as wide as the query.
    made = call.makes("attention_output/kernel", 2)
    call.unite(made, call.channels(call.input, -1))
    return _outputs(call, made, query_heads)


def attention_sizes(layer: Any) -> tuple[int, int, int]:
    """An attention layer's number of query heads, and the size of a key and of a value."""
    if isinstance(layer, layers.GroupQueryAttention):
        return layer.num_query_heads, layer.head_dim, layer.head_dim
    return layer.num_heads, layer.key_dim, layer.value_dim


def _arguments(call: Call) -> dict[str, Any]:
    bound = inspect.signature(call.operation.call).bind(*call.args, **call.kwargs).arguments
    return {name: value.ids for name, value in bound.items() if isinstance(value, Labels)}


def _attend(call: Call, arguments: dict[str, Ids], query_heads: Ids, heads: Ids) -> None:
    query, value = arguments.pop("query"), arguments.pop("value")
    key = arguments.pop("key", value)
    for ids in arguments.values():
        call.freeze(ids, f"{call.path} takes it for a mask")
    for name, ids, own in (
        ("query", query, query_heads),
        ("gate", query, query_heads),
        ("key", key, heads),
        ("value", value, heads),
    ):
        if call.has(f"{name}/kernel"):
            call.reads(f"{name}/kernel", 0, call.channels(ids, -1), part=name)
            call.carries(f"{name}/kernel", 1, own)
            call.carries(f"{name}/bias", 0, own)
            call.multiplies(f"{name}/kernel", ids.shape[1])
    call.reads("attention_output/kernel", 0, query_heads, part="attention_output")
    call.multiplies("attention_output/kernel", query.shape[1])
    # Queries with keys, and scores with values.
    _, key_size, value_size = attention_sizes(call.operation)
    call.multiplies(None, query.shape[1] * value.shape[1] * (key_size + value_size), query_heads)


def _outputs(call: Call, made: Ids, heads: Ids) -> list[Ids]:
    call.carries("attention_output/bias", 0, made)
    outputs = [call.spread(made, -1)]
    for shape in call.output_shapes[1:]:  # the scores: (batch, heads, ...)
        outputs.append(np.broadcast_to(heads.reshape(1, -1, 1, 1), shape))
    return outputs


RULES: dict[type | str, Rule] = {
    layers.MultiHeadAttention: _multi_head_attention,
    layers.GroupQueryAttention: _grouped_query_attention,
}
