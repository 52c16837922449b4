"""What flows into a call somewhere in a model, nested models included."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from secateur.graph.labels import sizes
from secateur.graph.walk import Place, graph_of, graph_of_model, nodes, run

_UNCOMPILED = 32  # pieces that are read without compiling
_UNCOMPILED_NUMBERS = 2**25  # that are made at most of a piece

Found = dict[Place, list[Any]]


def inputs_at(model: keras.Model, places: Sequence[Place]) -> Callable[[Any], list[tf.Tensor]]:
    """A function from a batch of rows to what the calls at these places read.

    What a call reads is its first input. A model rebuilt by `keep_units` has its calls at the
    places of the original's groups. A layer inside a layer (a projection of an attention, the layer
    of a TimeDistributed) that is called several times gives its inputs one below the other.

    Args:
        model: a built functional or Sequential model.
        places: see `Slice.places`.
    """
    graph = graph_of_model(model)

    def read(rows: Any) -> list[list[tf.Tensor]]:
        found: Found = {place: [] for place in places}
        with contextlib.suppress(_Enough):
            _run(graph, keras.tree.flatten(rows), (), found)
        return [found[place] for place in places]

    compiled = tf.function(read, reduce_retracing=True)
    at_once = max(1, _UNCOMPILED_NUMBERS // numbers_made(model))
    pieces_read = 0

    def read_batch(rows: Any) -> list[tf.Tensor]:
        # Compiling takes longer than a few batches do, but keeps less of them in memory.
        nonlocal pieces_read
        count = len(keras.tree.flatten(rows)[0])
        pieces_read += math.ceil(count / at_once)
        if pieces_read > _UNCOMPILED:
            return [tf.concat(calls, 0) for calls in compiled(rows)]
        pieces = [read(piece) for piece in _pieces(rows, count, at_once)]
        return [
            tf.concat([tf.concat(call, 0) for call in zip(*calls, strict=True)], 0)
            for calls in zip(*pieces, strict=True)
        ]

    return read_batch


def numbers_made(model: keras.Model) -> int:
    """How many numbers all calls of a model make of one row, nested models' included."""
    return sum(math.prod(sizes(one.shape)) for one in _made(graph_of_model(model)))


def _pieces(rows: Any, count: int, at_once: int) -> Iterator[Any]:
    for start in range(0, count, at_once):
        piece = slice(start, start + at_once)
        yield keras.tree.map_structure(operator.itemgetter(piece), rows)


class _Enough(Exception):  # noqa: N818
    """All that was asked for has been found."""


def _made(graph: Any) -> Iterator[Any]:
    """All tensors that are made in a graph and in the models nested in it."""
    for node, _ in nodes(graph):
        yield from node.outputs
        inner = graph_of(node.operation)
        if inner is not None:
            yield from _made(inner)


def _run(graph: Any, inputs: Sequence[Any], path: Place, found: Found) -> list[Any]:
    def call(node: Any, step: tuple[str, int], args: Any, kwargs: Any) -> list[Any]:
        if all(found.values()):
            raise _Enough
        place = (*path, step)
        tensors = [one for one in keras.tree.flatten((args, kwargs)) if tf.is_tensor(one)]
        if place in found:
            found[place].append(tensors[0])
        inner = graph_of(node.operation)
        if inner is not None:
            return _run(inner, tensors, place, found)
        with _listening(node.operation, place, found):
            return keras.tree.flatten(node.operation(*args, **kwargs))

    values = [
        keras.ops.convert_to_tensor(value, dtype=tensor.dtype)
        for value, tensor in zip(inputs, graph._inputs, strict=True)
    ]
    return run(graph, values, call)


@contextlib.contextmanager
def _listening(layer: Any, place: Place, found: Found) -> Iterator[None]:
    """Note what is read by the layers inside a layer that are asked for."""
    wanted = [one for one in found if one[: len(place)] == place and len(one) == len(place) + 1]
    parts = [(one, part) for one in wanted for part in layer._layers if part.name == one[-1][0]]
    for one, part in parts:
        # Past Keras' own __setattr__: the layer stays as it was, and built.
        object.__setattr__(part, "call", _noting(part.call, found[one]))
    try:
        yield
    finally:
        for _, part in parts:
            object.__delattr__(part, "call")


@contextlib.contextmanager
def calls_noted(layers: Sequence[Any]) -> Iterator[list[list[Any]]]:
    """What each of the layers reads while the block runs: a list a layer, an entry a call."""
    notes: list[list[Any]] = [[] for _ in layers]
    for layer, found in zip(layers, notes, strict=True):
        object.__setattr__(layer, "call", _noting(layer.call, found))
    try:
        yield notes
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def _noting(call: Callable[..., Any], notes: list[Any]) -> Callable[..., Any]:
    def noting(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        notes.append(inputs)
        return call(inputs, *args, **kwargs)

    return noting
