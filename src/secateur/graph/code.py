"""Finding the bottleneck of an autoencoder."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import keras
import numpy as np

from secateur.errors import InputError
from secateur.graph.labels import Ids, atoms_in, sizes
from secateur.graph.trace import Trace
from secateur.graph.walk import graph_of, graph_of_model, nodes


def code_atoms(model: keras.Model, found: Trace) -> Ids:
    """The atoms that the code is made of, flat; none if the model has no hidden tensor.

    The code is the narrowest tensor that everything passes through; where skips leave none that is
    narrower than the input, it is the narrowest of all. A nested model counts as one step, so that
    the code of an encoder and a decoder is what the encoder gives.
    """
    tensor = _code_tensor(graph_of_model(model))
    return np.zeros(0, int) if tensor is None else atoms_in(found.tensors[id(tensor)])


def with_code(model: keras.Model) -> keras.Model:
    """The same layers as a model with two outputs: the model's (first) output and its code.

    Raises:
        InputError: the model has no graph that could be read, or no hidden tensor.
    """
    graph = graph_of_model(model)
    while (tensor := _code_tensor(graph)) is not None:
        if any(tensor is one for node, _ in nodes(graph) for one in node.outputs):
            inputs = graph._inputs if len(graph._inputs) > 1 else graph._inputs[0]
            return keras.Model(inputs, [graph._outputs[0], tensor])
        ((node, _),) = nodes(graph)  # nothing but a call of another model
        graph = graph_of(node.operation)
    raise InputError(f"the model {model.name!r} has no hidden tensor that could be its code")


def _code_tensor(graph: Any) -> Any | None:
    outputs = {id(tensor) for tensor in graph._outputs}
    calls = [node for node, _ in nodes(graph)]
    hidden = [one for node in calls for one in node.outputs if id(one) not in outputs]
    if not hidden:
        inner = [graph_of(node.operation) for node in calls]
        return _code_tensor(inner[0]) if len(inner) == 1 and inner[0] is not None else None
    input_width = sum(map(_width, graph._inputs))
    narrow = [one for one in _passed_by_all(graph, hidden) if _width(one) < input_width]
    return _narrowest(narrow or hidden)


def _narrowest(tensors: list[Any]) -> Any:
    """The narrowest tensor; of several, the one in the middle."""
    width = min(map(_width, tensors))
    narrowest = [tensor for tensor in tensors if _width(tensor) == width]
    return narrowest[len(narrowest) // 2]


def _width(tensor: Any) -> int:
    return math.prod(sizes(tensor.shape))


def _passed_by_all(graph: Any, tensors: list[Any]) -> list[Any]:
    """Those of the tensors that lie on every path from the inputs to the outputs."""
    calls = [node for node, _ in nodes(graph)]
    paths_to = Counter({id(tensor): 1 for tensor in graph._inputs})
    for node in calls:
        arriving = sum(paths_to[id(tensor)] for tensor in node.input_tensors)
        paths_to.update({id(tensor): arriving for tensor in node.outputs})
    paths_from = Counter(id(tensor) for tensor in graph._outputs)
    for node in reversed(calls):
        leaving = sum(paths_from[id(tensor)] for tensor in node.outputs)
        paths_from.update({id(tensor): leaving for tensor in node.input_tensors})
    total = sum(paths_to[id(tensor)] for tensor in graph._outputs)
    return [one for one in tensors if paths_to[id(one)] * paths_from[id(one)] == total]
