"""The activation memory of a forward pass, as a microcontroller would plan it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from secateur.graph.kinds import RECURRENT
from secateur.graph.rules import RULES, kind
from secateur.graph.rules.attention import attention_sizes
from secateur.graph.rules.carrying import same
from secateur.graph.rules.joining import ELEMENT_WISE_OPERATIONS
from secateur.graph.shapes import shapes_of
from secateur.graph.walk import graph_of, graph_of_model, run

_BYTES = 4  # of a float32


class _Buffer:
    """A piece of memory: the values of one tensor, or of several that share it."""

    def __init__(self, *shape: int | None) -> None:
        self.shape = tuple(size or 1 for size in shape)
        self.bytes = _BYTES * math.prod(self.shape)


@dataclass
class _Step:
    """One operation at work: what it reads and what it fills.

    Attributes:
        reads: buffers that must be whole until it is done.
        writes: buffers that it fills.
        in_place: whether it may fill the first buffer that it reads, if nobody reads that later.
    """

    reads: Sequence[_Buffer]
    writes: Sequence[_Buffer]
    in_place: bool = False


def peak_activation_bytes(model: keras.Model) -> int:
    """The most float32 activation bytes that are alive at once while one row passes.

    Calls run one after the other in the graph's order, those of nested models in their place. A
    tensor is alive from the call that makes it to the last one that reads it, the model's outputs
    to the end. While a call runs, all it reads and makes is alive, and what it keeps inside: an
    attention its queries, keys, values and scores, a separable convolution what lies between its
    two. Reshaping and what does nothing in inference (dropout) take no memory. An element-wise
    operation of one tensor works in place unless the tensor is needed later, so that an activation
    costs the same as a layer of its own and as part of another. An axis of unknown length counts
    as one.

    Raises:
        InputError: the model has no graph that could be read.
    """
    return max(activation_bytes(model))


def activation_bytes(model: keras.Model) -> list[int]:
    """The bytes that are alive at once before the first call of a model and during each.

    See `peak_activation_bytes`, which is the largest. A model of which units were cut has as many
    calls as it had before.
    """
    graph = graph_of_model(model)
    inputs = [_Buffer(*tensor.shape[1:]) for tensor in graph._inputs]
    steps: list[_Step] = []
    outputs = _schedule(graph, inputs, steps)
    last_read = {id(buffer): index for index, step in enumerate(steps) for buffer in step.reads}
    last_read |= {id(buffer): len(steps) for buffer in outputs}
    alive = {id(buffer): buffer.bytes for buffer in inputs}
    found = [sum(alive.values())]
    for index, step in enumerate(steps):
        if step.in_place and last_read[id(step.reads[0])] == index:
            del alive[id(step.reads[0])]
        alive |= {id(buffer): buffer.bytes for buffer in step.writes}
        found.append(sum(alive.values()))
        alive = {one: size for one, size in alive.items() if last_read.get(one, index) > index}
    return found


def _schedule(graph: Any, inputs: Sequence[_Buffer], steps: list[_Step]) -> list[_Buffer]:
    """Append a graph's steps; returns the buffers of its outputs."""

    def call(node: Any, place: tuple[str, int], args: Any, kwargs: Any) -> list[_Buffer]:
        reads = [one for one in keras.tree.flatten((args, kwargs)) if isinstance(one, _Buffer)]
        inner = graph_of(node.operation)
        if inner is not None:
            return _schedule(inner, reads, steps)
        if kind(node.operation) in _VIEWS:
            return reads[:1]
        writes = [_Buffer(*shapes[id(tensor)][1:]) for tensor in node.outputs]
        inside = _INSIDE.get(type(node.operation), _one_step)
        steps.extend(inside(node, reads, writes))
        return writes

    shapes = shapes_of(graph)
    return run(graph, inputs, call)


def _one_step(node: Any, reads: list[_Buffer], writes: list[_Buffer]) -> list[_Step]:
    operation = kind(node.operation)
    in_place = (
        operation is layers.BatchNormalization
        or RULES.get(operation) is same
        or (operation in ELEMENT_WISE_OPERATIONS and len(reads) == 1)
    )
    return [_Step(reads, writes, in_place)]


def _attention(node: Any, reads: list[_Buffer], writes: list[_Buffer]) -> list[_Step]:
    layer = node.operation
    query, value = reads[0], reads[1] if len(reads) > 1 else reads[0]
    key = reads[2] if len(reads) > 2 else value
    asked, told = math.prod(query.shape[:-1]), math.prod(value.shape[:-1])
    heads, key_size, value_size = attention_sizes(layer)
    stored = getattr(layer, "num_key_value_heads", heads)
    queries, keys = _Buffer(asked, heads, key_size), _Buffer(told, stored, key_size)
    scores, values = _Buffer(heads, asked, told), _Buffer(told, stored, value_size)
    context = _Buffer(asked, heads, value_size)
    return [
        _Step([query], [queries]),
        _Step([key], [keys]),
        _Step([queries, keys], [scores]),
        _Step([value], [values]),
        _Step([scores, values], [context]),
        _Step([context], writes),
    ]


def _separable(node: Any, reads: list[_Buffer], writes: list[_Buffer]) -> list[_Step]:
    layer = node.operation
    positions = writes[0].bytes // _BYTES // layer.filters
    between = _Buffer(positions, layer.pointwise_kernel.shape[-2])
    return [_Step(reads, [between]), _Step([between], writes)]


def _recurrent(node: Any, reads: list[_Buffer], writes: list[_Buffer]) -> list[_Step]:
    """One step of time needs its gates, beside the state that it keeps."""
    layer = node.operation
    states = 2 if isinstance(layer, layers.LSTM) else 1
    gates = _Buffer(layer.cell.recurrent_kernel.shape[-1] + states * layer.units)
    return [_Step(reads, [*writes, gates])]


# Other names for the same memory.
_VIEWS: frozenset[type | str] = frozenset(
    [
        layers.ActivityRegularization,
        layers.AlphaDropout,
        layers.Dropout,
        layers.Flatten,
        layers.GaussianDropout,
        layers.GaussianNoise,
        layers.Identity,
        layers.Reshape,
        layers.SpatialDropout1D,
        layers.SpatialDropout2D,
        layers.SpatialDropout3D,
        "ExpandDims",
        "Identity",
        "Reshape",
        "Squeeze",
        "StopGradient",
    ]
)
_INSIDE: dict[type, Callable[[Any, list[_Buffer], list[_Buffer]], list[_Step]]] = {
    **dict.fromkeys([layers.MultiHeadAttention, layers.GroupQueryAttention], _attention),
    **dict.fromkeys([layers.SeparableConv1D, layers.SeparableConv2D], _separable),
    **dict.fromkeys(RECURRENT, _recurrent),
}
