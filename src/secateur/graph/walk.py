"""Walking the calls of a model's graph, into nested models too.

`model.layers` leaves out operations such as `keras.ops.add`, and a layer may be called several
times, so everything here goes by the nodes of the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from secateur.errors import InputError

Place = tuple[tuple[str, int], ...]
"""A call in a model: (operation's name, which of its calls), one pair a level of nesting. A model
rebuilt from another has its calls at the same places."""


def graph_of(operation: Any) -> Any | None:
    """The graph inside a functional or Sequential model; None for anything else."""
    if isinstance(operation, keras.Sequential):
        return operation._functional
    return operation if hasattr(operation, "_nodes_by_depth") else None


def graph_of_model(model: keras.Model) -> Any:
    """The graph of a built functional or Sequential model.

    Raises:
        InputError: the model has no graph that could be read.
    """
    graph = graph_of(model) if isinstance(model, keras.Model) else None
    if graph is None:
        raise InputError(
            f"a built functional or Sequential Keras model is needed, got {type(model).__name__} "
            f"{getattr(model, 'name', model)!r}; a subclassed model has no graph, and a Sequential "
            "one needs an Input or a first call"
        )
    return graph


def nodes(graph: Any) -> Iterator[tuple[Any, tuple[str, int]]]:
    """The calls of a graph in the order in which they can be computed, with their places in it."""
    calls: Counter[str] = Counter()
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.is_input:
                yield node, (node.operation.name, calls[node.operation.name])
                calls[node.operation.name] += 1


def run(
    graph: Any, inputs: Sequence[Any], call: Callable[[Any, tuple[str, int], Any, Any], Any]
) -> list[Any]:
    """Values of the graph's outputs, flat.

    Args:
        graph: see `graph_of`.
        inputs: values for the graph's inputs, flat.
        call: takes a node, its place in this graph, and its arguments with every tensor replaced
            by its value; gives the values of its outputs, flat.
    """
    values = {id(tensor): value for tensor, value in zip(graph._inputs, inputs, strict=True)}
    for node, step in nodes(graph):
        if all(id(tensor) in values for tensor in node.input_tensors):
            args, kwargs = node.arguments.fill_in(values)
            results = call(node, step, args, kwargs)
            values.update(
                (id(tensor), value) for tensor, value in zip(node.outputs, results, strict=True)
            )
    return [values[id(tensor)] for tensor in graph._outputs]


def layer_at(model: keras.Model, path: str) -> keras.Layer:
    """A layer by its path: its name, with the nested models it is in before it."""
    layer: Any = model
    for name in path.split("/"):
        layer = layer.get_layer(name)
    return layer
