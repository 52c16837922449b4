"""Linear layers that stand next to each other: two that are one, or could be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras import layers

from secateur.graph.kinds import CONVOLUTIONS, TRANSPOSED
from secateur.graph.walk import graph_of, graph_of_model, nodes

# In inference they give what they read.
IDLE = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
PLAIN = (layers.Dense, *CONVOLUTIONS, *TRANSPOSED)


class LinearPair(NamedTuple):
    """The paths of two layers that are one linear map together."""

    first: str
    second: str
    between: tuple[str, ...]
    """What does nothing in inference, and normalizations."""


def linear_pairs(model: keras.Model, over_norms: bool = False) -> tuple[LinearPair, ...]:
    """The pairs of Dense layers and convolutions without activation between them.

    Both are called once, and the second alone reads what the first makes.

    Args:
        model: a built functional or Sequential model, which may hold others.
        over_norms: whether BatchNormalization may stand between them, as it is linear too.

    Raises:
        InputError: the model has no graph that could be read.
    """
    graph = graph_of_model(model)
    return tuple(dict.fromkeys(_pairs(graph, "", call_counts(graph), over_norms)))


def is_idle(operation: Any) -> bool:
    """Whether an operation gives what it reads, in inference."""
    if isinstance(operation, layers.Activation):
        return operation.activation is keras.activations.linear
    return isinstance(operation, IDLE)


def call_counts(graph: Any) -> Counter[int]:
    """How often each operation, by its id, is called in a graph and in the models nested in it."""
    counts: Counter[int] = Counter()
    todo, seen = [graph], set()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for node, _ in nodes(one):
            counts[id(node.operation)] += 1
            inner = graph_of(node.operation)
            if inner is not None:
                todo.append(inner)
    return counts


def readers_of(tensor: Any, calls: list[Any]) -> list[Any]:
    """The calls that read a tensor."""
    return [node for node in calls if any(tensor is one for one in node.input_tensors)]


def _pairs(graph: Any, prefix: str, counts: Counter[int], over_norms: bool) -> Iterator[LinearPair]:
    calls = [node for node, _ in nodes(graph)]
    for node in calls:
        inner = graph_of(node.operation)
        if inner is not None:
            yield from _pairs(inner, f"{prefix}{node.operation.name}/", counts, over_norms)
        elif type(node.operation) in PLAIN and counts[id(node.operation)] == 1:
            found = _before(graph, calls, node, counts, over_norms)
            if found is not None:
                first, between = found
                yield LinearPair(
                    prefix + first.name,
                    prefix + node.operation.name,
                    tuple(prefix + one.name for one in between),
                )


def _before(
    graph: Any, calls: list[Any], node: Any, counts: Counter[int], over_norms: bool
) -> tuple[Any, list[Any]] | None:
    """The linear layer that a call reads, and what stands between them."""
    between: list[Any] = []
    tensor = node.input_tensors[0]
    while True:
        maker = tensor._keras_history.operation
        is_output = any(tensor is output for output in graph._outputs)
        if is_output or len(readers_of(tensor, calls)) != 1 or counts[id(maker)] != 1:
            return None
        is_norm = over_norms and type(maker) is layers.BatchNormalization
        if not is_idle(maker) and not is_norm:
            is_linear = type(maker) in PLAIN and maker.activation is keras.activations.linear
            return (maker, between) if is_linear else None
        between.insert(0, maker)
        tensor = next(one for one in calls if one.operation is maker).input_tensors[0]
