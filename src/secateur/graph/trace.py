"""Following units through a model: which positions of which variables and tensors hold them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np

from secateur.graph.labels import Atoms, Ids, atoms_in, compact, sizes, spread, varying_axes
from secateur.graph.shapes import Shape, shapes_of
from secateur.graph.walk import Place, graph_of, graph_of_model, run

Role = Literal["makes", "carries", "reads"]
Rule = Callable[["Call"], Ids | Sequence[Ids]]


@dataclass(frozen=True)
class Labels:
    """The ids of a tensor, wrapped so that they cannot be taken for a constant."""

    ids: Ids
    shape: tuple[int | None, ...]
    """The tensor's own shape."""
    dtype: str = "float32"


@dataclass
class Axis:
    """One axis of a variable whose positions belong to units."""

    layer: keras.Layer
    path: str  # the layer's name, with the nested models it is in: encoder/dense_1
    variable: Any
    axis: int
    ids: Ids  # (size of the axis,)
    role: Role
    places: list[Place] = field(default_factory=list)


@dataclass
class Visit:
    """One call of an operation: what it reads and gives."""

    operation: Any
    place: Place
    inputs: tuple[Ids, ...]
    outputs: tuple[Ids, ...]


@dataclass(frozen=True)
class Product:
    """Multiply-accumulates of a sample in one call.

    Attributes:
        variable: each of its elements is multiplied; None where activations meet each other.
        times: how often, in all positions.
        along: (size,) ids of each axis of units along which that is repeated.
    """

    variable: Any | None
    times: int
    along: tuple[Ids, ...] = ()


@dataclass
class Trace:
    """All that is known about a model's units before they are grouped."""

    rule_of: Callable[[Any], Rule]
    atoms: Atoms = field(default_factory=Atoms)
    axes: dict[tuple[int, int], Axis] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)
    first_visits: dict[int, Visit] = field(default_factory=dict)  # by id of the operation
    tensors: dict[int, Ids] = field(default_factory=dict)  # by id of the KerasTensor
    normalized: list[tuple[str, np.ndarray]] = field(default_factory=list)  # path, atoms
    products: list[Product] = field(default_factory=list)
    uncounted: list[Call] = field(default_factory=list)  # calls that are not in `products`
    whole: dict[int, str] = field(default_factory=dict)  # by id of the operation: why it stays so

    def uses(self, variable: Any) -> int:
        """How often a sample multiplies each element of a variable."""
        found = (one for one in self.products if one.variable is variable)
        return sum(one.times * math.prod(map(len, one.along)) for one in found)


class Call:
    """One call of an operation, as a rule sees it."""

    def __init__(
        self,
        trace: Trace,
        node: Any,
        place: Place,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shapes: Mapping[int, Shape],
    ) -> None:
        self.trace = trace
        self.operation = node.operation
        self.place = place
        self.path = "/".join(name for name, _ in place)
        self.repeats = 1  # how often the operation runs in this call
        self.args = args
        self.kwargs = kwargs
        # A mask says which positions count, and holds no units.
        tensors = {**kwargs, "mask": None} if isinstance(self.operation, keras.Layer) else kwargs
        given = [one for one in keras.tree.flatten((args, tensors)) if isinstance(one, Labels)]
        self.inputs = [one.ids for one in given]
        self.input_shapes = [one.shape for one in given]
        self.output_shapes = [sizes(shapes[id(tensor)]) for tensor in node.outputs]

    @property
    def input(self) -> Ids:
        """The ids of the first input."""
        return self.inputs[0]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the first output's ids."""
        return self.output_shapes[0]

    def channels(self, ids: Ids, axis: int) -> Ids:
        """The ids along one axis, united over all the others: (size of the axis,)."""
        axis %= ids.ndim
        rows = np.moveaxis(compact(ids), axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        elsewhere = set(varying_axes(ids)) - {axis}
        if elsewhere and axis not in varying_axes(ids) and ids.shape[axis] > 1:
            reason = f"{self.path} works along another axis"
            self.freeze(ids, reason)
            return np.broadcast_to(self.fixed(reason), ids.shape[axis : axis + 1])
        if elsewhere:
            self.trace.atoms.unite(rows, rows[:1])
        return np.broadcast_to(rows[0], ids.shape[axis : axis + 1])

    def spread(self, vector: Ids, axis: int) -> Ids:
        """The first output's ids if they differ along one axis only."""
        return spread(vector, axis % len(self.output_shape), self.output_shape)

    def along(self, ids: Ids, axis: int) -> Ids:
        """The ids along an axis if they differ along it, and else ids of what cannot leave."""
        varying = varying_axes(ids)
        if axis % ids.ndim in varying or (not varying and ids.shape[axis] == 1):
            return self.channels(ids, axis)
        fixed = self.fixed(f"{self.path} has other units along another axis")
        return np.broadcast_to(fixed, ids.shape[axis])

    def settled(self, ids: Ids) -> Ids:
        """The ids, united until they differ along one axis at most."""
        if len(varying_axes(ids)) < 2:
            return ids
        return spread(self.channels(ids, -1), ids.ndim - 1, ids.shape)

    def atoms(self, number: int) -> Ids:
        """New units."""
        return self.trace.atoms.make(number)

    def units_of(self, name: str, axis: int) -> Ids | None:
        """The ids that an earlier call gave to an axis of a variable."""
        variable = variable_of(self.operation, name)
        known = self.trace.axes.get((id(variable), axis % len(variable.shape)))
        return None if known is None else known.ids

    def has(self, name: str) -> bool:
        """Whether the layer has a variable of that name."""
        return next(_variables_of(self.operation, name), None) is not None

    def shape(self, name: str) -> tuple[int, ...]:
        """A variable's shape."""
        return tuple(variable_of(self.operation, name).shape)

    def makes(self, name: str, axis: int, ids: Ids | None = None) -> Ids:
        """Say that an axis of a variable makes units: new ones, one a position, or the given."""
        if ids is None:
            ids = self.units_of(name, axis)
        if ids is None:
            ids = self.atoms(self.shape(name)[axis])
        self._bind(name, axis, ids, "makes", None)
        return ids

    def carries(self, name: str, axis: int, ids: Ids) -> None:
        """Say that an axis of a variable, if the layer has it, holds a position for each id."""
        if self.has(name):
            self._bind(name, axis, ids, "carries", None)

    def reads(self, name: str, axis: int, ids: Ids, part: str | None = None) -> None:
        """Say that an axis of a variable weighs these ids and mixes them.

        Args:
            name: the variable's name, or the last parts of its path.
            axis: the variable's axis.
            ids: (size of the axis,).
            part: the layer inside this one that does so, if it is not the layer itself.
        """
        self._bind(name, axis, ids, "reads", part)

    def multiplies(self, name: str | None, times: int, *along: Ids) -> None:
        """Say what is multiplied in this call.

        Args:
            name: of a variable, each of whose elements is; None for activations.
            times: how often a sample does so.
            along: (size,) ids of axes of units along which that is repeated.
        """
        variable = None if name is None else variable_of(self.operation, name)
        self.trace.products.append(Product(variable, times * self.repeats, along))

    def _bind(self, name: str, axis: int, ids: Ids, role: Role, part: str | None) -> None:
        variable = variable_of(self.operation, name)
        key = (id(variable), axis % len(variable.shape))
        known = self.trace.axes.setdefault(
            key, Axis(self.operation, self.path, variable, key[1], ids, role)
        )
        if role == "reads":
            known.places.append((*self.place, (part, 0)) if part else self.place)
        self.trace.atoms.unite(known.ids, ids)

    def normalizes(self, ids: Ids) -> None:
        """Say that what becomes of each of these units depends on all of them."""
        self.trace.normalized.append((self.path, atoms_in(ids)))

    def within(
        self, layer: keras.Layer, ids: Ids, shapes: list[tuple[int, ...]], repeats: int = 1
    ) -> list[Ids]:
        """What a layer inside this one gives for these ids, in these shapes."""
        inner = copy.copy(self)
        inner.operation = layer
        inner.path = f"{self.path}/{layer.name}"
        inner.repeats = self.repeats * repeats
        inner.args, inner.kwargs, inner.inputs = (Labels(ids, ids.shape),), {}, [ids]
        inner.input_shapes, inner.output_shapes = [ids.shape], shapes
        outputs = _apply(inner, self.trace.rule_of(layer))
        _remember(inner, outputs)
        return outputs

    def unite(self, first: Ids, second: Ids) -> None:
        """Let elements at equal positions leave together or not at all."""
        self.trace.atoms.unite(first, second)

    def freeze(self, ids: Ids, reason: str) -> None:
        """Let none of these leave."""
        self.trace.atoms.freeze(ids, reason)

    def fixed(self, reason: str) -> Ids:
        """Ids of all outputs' elements that cannot leave."""
        return self.trace.atoms.fixed(reason)


def variable_of(layer: keras.Layer, name: str) -> Any:
    """A layer's variable by its name, or by the last parts of its path.

    Raises:
        LookupError: the layer has none of that name.
    """
    found = next(_variables_of(layer, name), None)
    if found is None:
        raise LookupError(f"{layer.name} has no variable {name!r}")
    return found


def _variables_of(layer: keras.Layer, name: str) -> Iterator[Any]:
    parts = name.split("/")
    return (one for one in layer.weights if one.path.split("/")[-len(parts) :] == parts)


def trace(model: keras.Model, rule_of: Callable[[Any], Rule]) -> Trace:
    """A model's units followed from where they are made to where they are read.

    Args:
        model: a built functional or Sequential model.
        rule_of: the rule for an operation.

    Raises:
        InputError: the model has no graph that could be read.
    """
    graph = graph_of_model(model)
    found = Trace(rule_of)
    tied = found.atoms.fixed("it is tied to the model's input")
    inputs = [np.broadcast_to(tied, sizes(tensor.shape)) for tensor in graph._inputs]
    outputs = _trace_graph(found, graph, inputs, ())
    for ids in outputs:
        found.atoms.freeze(ids, "it makes the model's output", is_foremost=True)
    for axis in found.axes.values():
        if id(axis.layer) in found.whole:  # in another of its calls
            found.atoms.freeze(axis.ids, found.whole[id(axis.layer)])
    return found


def _trace_graph(found: Trace, graph: Any, inputs: Sequence[Ids], path: Place) -> list[Ids]:
    def call(node: Any, step: tuple[str, int], args: Any, kwargs: Any) -> list[Labels]:
        call = Call(found, node, (*path, step), args, kwargs, shapes)
        inner = graph_of(node.operation)
        if inner is None:
            outputs = _apply(call, found.rule_of(node.operation))
        else:
            outputs = _trace_graph(found, inner, call.inputs, call.place)
            outputs = [
                _fit(found, ids, shape)
                for ids, shape in zip(outputs, call.output_shapes, strict=True)
            ]
        _remember(call, outputs)
        for tensor, ids in zip(node.outputs, outputs, strict=True):
            found.tensors.setdefault(id(tensor), ids)
        return [
            Labels(ids, shapes[id(tensor)], tensor.dtype)
            for ids, tensor in zip(outputs, node.outputs, strict=True)
        ]

    shapes = shapes_of(graph)
    fitted = []
    for tensor, ids in zip(graph._inputs, inputs, strict=True):
        ids = _fit(found, ids, sizes(tensor.shape))
        found.atoms.unite(found.tensors.setdefault(id(tensor), ids), ids)
        fitted.append(Labels(ids, tensor.shape, tensor.dtype))
    return [labels.ids for labels in run(graph, fitted, call)]


def _apply(call: Call, rule: Rule) -> list[Ids]:
    outputs = rule(call)
    outputs = [outputs] if isinstance(outputs, np.ndarray) else list(outputs)
    return [
        np.broadcast_to(ids, shape) for ids, shape in zip(outputs, call.output_shapes, strict=True)
    ]


def _fit(found: Trace, ids: Ids, shape: tuple[int, ...]) -> Ids:
    """The ids of a tensor, for a graph that knows another set of its sizes."""
    for axis, size in enumerate(shape):
        if size == 1 < ids.shape[axis]:
            first = ids.take([0], axis)
            found.atoms.unite(ids, first)
            ids = first
    return np.broadcast_to(ids, shape)


def _remember(call: Call, outputs: Sequence[Ids]) -> None:
    """Keep the call; an operation has one configuration, so its calls leave the same units."""
    visit = Visit(call.operation, call.place, tuple(call.inputs), tuple(outputs))
    call.trace.visits.append(visit)
    first = call.trace.first_visits.setdefault(id(call.operation), visit)
    for known, ids in zip(first.inputs, visit.inputs, strict=True):
        if known.shape == ids.shape and _has_sizes(call.operation):
            call.unite(known, ids)


def _has_sizes(operation: Any) -> bool:
    """Whether an operation's configuration or arguments name the sizes of its tensors."""
    return not isinstance(operation, keras.Layer) or isinstance(operation, keras.layers.Reshape)
