"""Finding the bottleneck of an autoencoder."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
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


def code_width(model: keras.Model) -> int:
    """How many numbers the code has; 0 if the model has no hidden tensor."""
    tensor = _code_tensor(graph_of_model(model))
    return 0 if tensor is None else _width(tensor)


def code_makers(model: keras.Model) -> set[str]:
    """Paths of what makes the code: its layer with a kernel, and what follows up to the code."""
    graph, prefix = _unwrapped(graph_of_model(model), "")
    tensor = _code_tensor(graph)
    return set() if tensor is None else set(_making(graph, prefix, tensor))


def _making(graph: Any, prefix: str, tensor: Any) -> Iterator[str]:
    operation = tensor._keras_history.operation
    calls = [node for node, _ in nodes(graph) if node.operation is operation]
    yield prefix + operation.name
    inner = graph_of(operation)
    if inner is not None:
        place = next(at for one in calls for at, made in enumerate(one.outputs) if made is tensor)
        yield from _making(inner, f"{prefix}{operation.name}/", inner._outputs[place])
        return
    has_kernel = any(one.name.endswith("kernel") for one in getattr(operation, "weights", []))
    if len(calls) == 1 and len(calls[0].input_tensors) == 1 and not has_kernel:
        yield from _making(graph, prefix, calls[0].input_tensors[0])


def rivals_of_code(model: keras.Model) -> set[str]:
    """Paths of the operations before which a narrower place would be taken for the code.

    Those in a nested model are among them if it is one itself.
    """
    graph, prefix = _unwrapped(graph_of_model(model), "")
    rivals = [*_rivals(graph), *_passed_by_all(graph, graph._outputs)]
    return set(_makers(graph, prefix, rivals))


def _makers(graph: Any, prefix: str, tensors: list[Any]) -> Iterator[str]:
    for node, _ in nodes(graph):
        if any(one is tensor for one in node.outputs for tensor in tensors):
            path = prefix + node.operation.name
            yield path
            inner = graph_of(node.operation)
            if inner is not None:
                yield from _makers(inner, path + "/", _passed_by_all(inner, _made(inner)))


def _unwrapped(graph: Any, prefix: str) -> tuple[Any, str]:
    """The first graph that has hidden tensors, and the path of the nested model it is in."""
    inner = [(graph_of(node.operation), node.operation.name) for node, _ in nodes(graph)]
    if len(inner) != 1 or inner[0][0] is None:
        return graph, prefix
    return _unwrapped(inner[0][0], f"{prefix}{inner[0][1]}/")


def _code_tensor(graph: Any) -> Any | None:
    rivals = _rivals(_unwrapped(graph, "")[0])
    return _narrowest(rivals) if rivals else None


def _rivals(graph: Any) -> list[Any]:
    """The tensors of which the narrowest is the code."""
    hidden = [one for one in _made(graph) if not any(one is other for other in graph._outputs)]
    input_width = sum(map(_width, graph._inputs))
    narrow = [one for one in _passed_by_all(graph, hidden) if _width(one) < input_width]
    return narrow or hidden


def _made(graph: Any) -> list[Any]:
    return [one for node, _ in nodes(graph) for one in node.outputs]


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
