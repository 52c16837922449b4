"""Sizes that Keras loses on the way through a model."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import tensorflow as tf

from secateur.graph.walk import nodes, run

Shape = tuple[int | None, ...]


def shapes_of(graph: Any) -> dict[int, Shape]:
    """The shapes of all tensors that a graph makes, by id of the tensor.

    Some layers give axes of unknown length where all lengths of the input are known, such as
    EinsumDense where its `output_shape` names none. There one row is sent through the graph. What
    stays unknown then is None.
    """
    tensors = [tensor for node, _ in nodes(graph) for tensor in node.outputs]
    shapes = {id(one): tuple(one.shape) for one in tensors}
    are_known = all(None not in tensor.shape[1:] for tensor in graph._inputs)
    if are_known and any(None in shape[1:] for shape in shapes.values()):
        with contextlib.suppress(ValueError, TypeError, tf.errors.OpError):
            seen = _seen(graph)
            shapes |= {one: (shapes[one][0], *shape[1:]) for one, shape in seen.items()}
    return shapes


def _seen(graph: Any) -> dict[int, Shape]:
    seen: dict[int, Shape] = {}

    def call(node: Any, _: tuple[str, int], args: Any, kwargs: Any) -> list[Any]:
        given = keras.tree.flatten(node.operation(*args, **kwargs))
        pairs = zip(node.outputs, given, strict=True)
        seen.update((id(tensor), tuple(value.shape)) for tensor, value in pairs)
        return given

    rows = [
        keras.ops.zeros((one.shape[0] or 1, *one.shape[1:]), one.dtype) for one in graph._inputs
    ]
    run(graph, rows, call)
    return seen
