"""What a model's graph could do without: hidden layers, and the branches of residual blocks.

    a - Dense - BatchNormalization - ReLU - b - reader      a hidden layer: the reader reads a
    a - [branch] - Add - b - reader                         a block: Add's other input is b
     `------------/

What stands behind must bear the change until a mixing layer can be refitted to what it gave: where
b has as many channels as before, everything does; else only what asks for no number of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers

from secateur.graph.kinds import DEPTHWISE, RECURRENT
from secateur.graph.neighbours import PLAIN, call_counts, readers_of
from secateur.graph.rules import RULES, carrying, joining, kind
from secateur.graph.walk import graph_of, graph_of_model, nodes

NORMS = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.GroupNormalization,
)
MIXING = (
    *PLAIN,
    *RECURRENT,
    *DEPTHWISE,
    layers.EinsumDense,
    layers.GroupQueryAttention,
    layers.MultiHeadAttention,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)


@dataclass(frozen=True)
class Bypass:
    """A hidden layer or a branch that could leave, or why it cannot.

    Attributes:
        name: the layer's path, or that of the block's Add.
        units: of the layer; channels that the branch adds.
        leaves: paths of all that leaves.
        dropped: path of the Add -> the input that it loses; empty for a layer.
        readers: paths of the mixing layers that then read something else.
        reason: why it cannot leave; None if it can.
    """

    name: str
    units: int
    leaves: tuple[str, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    readers: tuple[str, ...] = ()
    reason: str | None = None


def bypasses(model: keras.Model, code: Collection[str]) -> tuple[Bypass, ...]:
    """Every hidden layer, and every branch of an Add that holds a kernel.

    Args:
        model: a built functional or Sequential model, which may hold others.
        code: paths of what makes the code, which stays.

    Raises:
        InputError: the model has no graph that could be read.
    """
    return tuple(_Survey(model, code).found())


@dataclass
class _Level:
    """A graph in the model, and the calls of it."""

    graph: Any
    prefix: str
    calls: list[Any]
    callers: list[tuple[_Level, Any]] = field(default_factory=list)


class _CannotError(Exception):
    """Why something cannot leave."""


class _Survey:
    """One look at a model."""

    def __init__(self, model: keras.Model, code: Collection[str]) -> None:
        graph = graph_of_model(model)
        self._code = code
        self._counts: Counter[int] = call_counts(graph)
        self._levels: dict[int, _Level] = {}
        self._top = self._level(graph, "")

    def _level(self, graph: Any, prefix: str) -> _Level:
        if id(graph) not in self._levels:
            level = _Level(graph, prefix, [node for node, _ in nodes(graph)])
            self._levels[id(graph)] = level
            for node in level.calls:
                inner = graph_of(node.operation)
                if inner is not None:
                    below = self._level(inner, f"{prefix}{node.operation.name}/")
                    below.callers.append((level, node))
        return self._levels[id(graph)]

    def found(self) -> Iterator[Bypass]:
        seen: set[int] = set()
        for level in self._levels.values():
            for node in level.calls:
                operation = node.operation
                if kind(operation) in (layers.Add, "Add"):
                    yield from self._branches(level, node)
                elif id(operation) not in seen and graph_of(operation) is None:
                    seen.add(id(operation))
                    if _has_kernel(operation):
                        yield self._layer(level, node)

    def _layer(self, level: _Level, node: Any) -> Bypass:
        path = level.prefix + node.operation.name
        units = _channels(node.operation, node.outputs[0])
        try:
            tensor, leaves = self._chain(level, node)
            self._check_leaving(level, leaves)
            read = node.input_tensors[0]
            for reader in readers_of(tensor, level.calls):
                if _is_add(reader) and any(one is read for one in reader.input_tensors):
                    raise _CannotError(f"it leaves with its block {reader.operation.name}")
            is_same = tuple(tensor.shape) == tuple(read.shape)
            channel = carrying.channel_axis(node.operation) % len(read.shape)
            readers = self._readers(level, tensor, None if is_same else channel, leaves)
        except _CannotError as why:
            return Bypass(path, units, reason=str(why))
        paths = tuple(level.prefix + one.operation.name for one in leaves)
        return Bypass(path, units, paths, readers=readers)

    def _chain(self, level: _Level, node: Any) -> tuple[Any, list[Any]]:
        """The layer with what only it feeds, element by element, and what that gives."""
        if type(node.operation) not in MIXING:
            raise _CannotError(f"{type(node.operation).__name__} is not understood")
        if self._counts[id(node.operation)] != 1:
            raise _CannotError("it is called several times")
        if len({id(one) for one in node.input_tensors}) != 1 or len(node.outputs) != 1:
            raise _CannotError("it reads several tensors, or makes several")
        read, made = tuple(node.input_tensors[0].shape), tuple(node.outputs[0].shape)
        if _but_channels(node.operation, read) != _but_channels(node.operation, made):
            raise _CannotError(f"it turns {_sizes(read)} into {_sizes(made)}")
        leaves, tensor = [node], node.outputs[0]
        while True:
            readers = readers_of(tensor, level.calls)
            is_output = any(tensor is one for one in level.graph._outputs)
            if is_output or len(readers) != 1 or not _is_carried(readers[0]):
                return tensor, leaves
            if self._counts[id(readers[0].operation)] != 1:
                return tensor, leaves  # one activation layer for many: it stays where it is
            leaves.append(readers[0])
            tensor = readers[0].outputs[0]

    def _check_leaving(self, level: _Level, leaves: list[Any]) -> None:
        inside = Counter(id(node.operation) for node in leaves)
        for node in leaves:
            name = node.operation.name
            if level.prefix + name in self._code:
                raise _CannotError("it makes the code")
            if not getattr(node.operation, "weights", None):
                continue
            if self._counts[id(node.operation)] != inside[id(node.operation)]:
                raise _CannotError(f"{level.prefix}{name} is called elsewhere too")
            if not node.operation.trainable:
                raise _CannotError(f"{level.prefix}{name} is frozen: not trainable")

    def _branches(self, level: _Level, node: Any) -> Iterator[Bypass]:
        operation = node.operation
        path = level.prefix + operation.name
        for index, tensor in enumerate(node.input_tensors):
            alone = self._needed_by_input_alone(level, node, index)
            if not any(_holds_mixing(one.operation) for one in alone):
                continue
            units = int(tensor.shape[-1] or 1)
            try:
                readers = self._check_branch(level, node, index, alone)
            except _CannotError as why:
                yield Bypass(path, units, reason=str(why))
                continue
            # An activation layer that others call too stays with them.
            inside = Counter(id(one.operation) for one in alone)
            leaves = dict.fromkeys(
                level.prefix + one.operation.name
                for one in alone
                if self._counts[id(one.operation)] == inside[id(one.operation)]
            )
            yield Bypass(path, units, tuple(leaves), {path: index}, readers)

    def _check_branch(
        self, level: _Level, node: Any, index: int, alone: list[Any]
    ) -> tuple[str, ...]:
        path = level.prefix + node.operation.name
        if self._counts[id(node.operation)] != 1:
            raise _CannotError(f"{path} is called several times")
        if len(node.input_tensors) < 2:
            raise _CannotError("it adds nothing to anything")
        if any(tuple(one.shape) != tuple(node.outputs[0].shape) for one in node.input_tensors):
            raise _CannotError("it adds tensors of different shapes")
        if path in self._code:
            raise _CannotError("it makes the code")
        self._check_leaving(level, alone)
        if not self._inputs_are_read(level, node, index):
            raise _CannotError("an input of the model would be read by nothing")
        return self._readers(level, node.outputs[0], None, alone)

    def _needed_by_input_alone(self, level: _Level, node: Any, index: int) -> list[Any]:
        """The calls that nothing would need if a call did not read one of its inputs."""
        needed = self._needed(level, node, index)
        everything = self._needed(level, None, 0)
        return [one for one in level.calls if id(one) in everything - needed]

    def _inputs_are_read(self, level: _Level, node: Any, index: int) -> bool:
        needed = self._needed(level, node, index)
        read = {id(one) for call in level.calls if id(call) in needed for one in call.input_tensors}
        read |= {id(one) for one in level.graph._outputs}
        return all(id(one) in read for one in level.graph._inputs)

    def _needed(self, level: _Level, without: Any, index: int) -> set[int]:
        """Ids of the calls that the outputs need, without one input of one call."""
        maker = {id(tensor): node for node in level.calls for tensor in node.outputs}
        todo = [maker[id(one)] for one in level.graph._outputs if id(one) in maker]
        needed: set[int] = set()
        while todo:
            node = todo.pop()
            if id(node) in needed:
                continue
            needed.add(id(node))
            for place, tensor in enumerate(node.input_tensors):
                if id(tensor) in maker and not (node is without and place == index):
                    todo.append(maker[id(tensor)])
        return needed

    def _readers(
        self, level: _Level, tensor: Any, channel: int | None, leaves: list[Any]
    ) -> tuple[str, ...]:
        """Paths of the first layers behind a tensor that can be refitted.

        Args:
            level: where the tensor is.
            tensor: what becomes another one.
            channel: its axis of channels if that has another number of them, else None.
            leaves: the calls that leave, which the tensor may reach again in a model called twice.
        """
        gone = {id(node) for node in leaves}
        found: dict[str, None] = {}
        todo, seen = [(level, tensor, channel)], set()
        while todo:
            level, tensor, channel = todo.pop()
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            for place, output in enumerate(level.graph._outputs):
                if output is tensor:
                    todo += self._outside(level, place, channel)
            for node in readers_of(tensor, level.calls):
                if id(node) in gone:
                    continue
                operation = node.operation
                path = level.prefix + operation.name
                inner = graph_of(operation)
                if inner is not None:
                    if channel is not None:
                        raise _CannotError(f"{path} takes its inputs in one size")
                    below = self._levels[id(inner)]
                    todo += [
                        (below, inner._inputs[place], None)
                        for place, one in enumerate(node.input_tensors)
                        if one is tensor
                    ]
                elif _can_be_refitted(operation):
                    _check_reader(operation, path, channel is None)
                    found[path] = None
                elif channel is None or _asks_for_no_width(node, channel):
                    todo += [(level, one, _moved(channel, tensor, one)) for one in node.outputs]
                else:
                    raise _CannotError(f"{path} behind it needs its units")
        return tuple(found)

    def _outside(
        self, level: _Level, place: int, channel: int | None
    ) -> list[tuple[_Level, Any, int | None]]:
        """Where an output of a nested model goes on."""
        if level is self._top:
            raise _CannotError("it makes the model's output")
        if channel is not None:
            raise _CannotError(f"it makes what {level.prefix.rstrip('/')} gives")
        return [(outer, node.outputs[place], None) for outer, node in level.callers]


def _is_add(node: Any) -> bool:
    return kind(node.operation) in (layers.Add, "Add")


def _has_kernel(operation: Any) -> bool:
    return any(one.name.endswith("kernel") for one in getattr(operation, "weights", []))


def _can_be_refitted(operation: Any) -> bool:
    """Whether a layer could take over what another gave: depthwise and grouped kernels cannot."""
    is_whole = getattr(operation, "groups", 1) == 1 and type(operation) not in DEPTHWISE
    return type(operation) in MIXING and is_whole


def _check_reader(operation: Any, path: str, is_same: bool) -> None:
    from secateur.masks import alive

    if not operation.trainable:
        raise _CannotError(f"{path} behind it is frozen: not trainable")
    if is_same:
        return
    if type(operation) not in (*PLAIN, *RECURRENT):
        raise _CannotError(f"{path} behind it cannot be refitted to another width")
    kernel = operation.cell.kernel if type(operation) in RECURRENT else operation.kernel
    if not alive(kernel).all():
        raise _CannotError(
            f"{path} behind it has pruned weights, whose zeros a new kernel would not keep"
        )


def _holds_mixing(operation: Any) -> bool:
    inner = graph_of(operation)
    if inner is not None:
        return any(_holds_mixing(node.operation) for node, _ in nodes(inner))
    return _has_kernel(operation)


def _is_carried(node: Any) -> bool:
    """Whether a call changes every element by itself, or by norms over them."""
    if len(node.input_tensors) != 1 or len(node.outputs) != 1:
        return False
    operation = node.operation
    return _is_element_wise(operation) or isinstance(operation, (*NORMS, layers.PReLU))


def _is_element_wise(operation: Any) -> bool:
    name = kind(operation)
    return name in joining.ELEMENT_WISE_OPERATIONS or RULES.get(name) is carrying.same


def _asks_for_no_width(node: Any, channel: int) -> bool:
    """Whether a call would take any number of channels along an axis."""
    operation = node.operation
    if isinstance(operation, layers.Concatenate):
        return bool(operation.axis % len(node.outputs[0].shape) == channel)
    if isinstance(operation, layers.Flatten):
        return True
    given = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    if sum(len(getattr(one, "shape", ())) > 0 for one in given) != 1:
        return False  # another tensor, or a constant that has the units too
    return _is_element_wise(operation) or RULES.get(kind(operation)) is carrying.spatial


def _moved(channel: int | None, tensor: Any, given: Any) -> int | None:
    """The axis of channels behind a call: the same, or the last where others came or went."""
    is_same = channel is None or len(tensor.shape) == len(given.shape)
    return channel if is_same else len(given.shape) - 1


def _channels(operation: Any, tensor: Any) -> int:
    return int(tensor.shape[carrying.channel_axis(operation)] or 1)


def _but_channels(operation: Any, shape: tuple[Any, ...]) -> tuple[Any, ...]:
    channel = carrying.channel_axis(operation) % len(shape)
    return (*shape[:channel], *shape[channel + 1 :])


def _sizes(shape: tuple[Any, ...]) -> str:
    return " x ".join("?" if size is None else str(size) for size in shape[1:])
