"""What flows into a call somewhere in a model, nested models included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from secateur.graph.walk import Place, graph_of, graph_of_model, run


def inputs_at(model: keras.Model, places: Sequence[Place]) -> Callable[[Any], list[tf.Tensor]]:
    """A compiled function from a batch of rows to the first inputs of the calls at these places.

    A model rebuilt by `keep_units` has its calls at the places of the original's groups.

    Args:
        model: a built functional or Sequential model.
        places: see `Slice.places`.
    """
    graph = graph_of_model(model)

    @tf.function(reduce_retracing=True)
    def read(rows: Any) -> list[tf.Tensor]:
        found: dict[Place, tf.Tensor] = {}
        _run(graph, keras.tree.flatten(rows), (), found)
        return [found[place] for place in places]

    return read


def _run(graph: Any, inputs: Sequence[Any], path: Place, found: dict[Place, Any]) -> list[Any]:
    def call(node: Any, step: tuple[str, int], args: Any, kwargs: Any) -> list[Any]:
        place = (*path, step)
        tensors = [one for one in keras.tree.flatten((args, kwargs)) if tf.is_tensor(one)]
        found[place] = tensors[0]
        inner = graph_of(node.operation)
        if inner is not None:
            return _run(inner, tensors, place, found)
        return keras.tree.flatten(node.operation(*args, **kwargs))

    values = [
        keras.ops.convert_to_tensor(value, dtype=tensor.dtype)
        for value, tensor in zip(inputs, graph._inputs, strict=True)
    ]
    return run(graph, values, call)
