"""Parameters and multiply-accumulates: of a model, and of what any cut would leave of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from secateur.graph.labels import Classes, Ids, sizes
from secateur.graph.rules import RULES, kind
from secateur.graph.trace import Call, Labels, Product, Trace

Numbers = Mapping[str, int]
"""Group's name -> number of units that stay; a group not named keeps all its units."""


class Counts:
    """Parameters and multiply-accumulates by the numbers of units that stay.

    All units of a group take the same from every variable, so numbers suffice.

    Args:
        weights: the model's variables.
        found: see `secateur.graph.trace`.
        classes: of its atoms.
        units_of: group's name -> (units,) class of each unit.
    """

    def __init__(
        self,
        weights: Sequence[Any],
        found: Trace,
        classes: Classes,
        units_of: Mapping[str, np.ndarray],
    ) -> None:
        self._weights = weights
        self._found = found
        self._classes = classes
        self._units = {name: len(units) for name, units in units_of.items()}
        self._group_of = {
            int(unit): name for name, units in units_of.items() for unit in units.tolist()
        }
        self._axes = {key: self._axis(axis.ids) for key, axis in found.axes.items()}

    def parameters(self, kept: Numbers) -> int:
        """Elements of all variables that are left, shared ones once."""
        return sum(self._elements(variable, kept) for variable in self._weights)

    def macs(self, kept: Numbers) -> int:
        """Multiply-accumulates of a sample that are left.

        Counted are products with kernels, and of activations with each other where sums follow, not
        the element-wise work between them. An axis of unknown length counts as one.

        Raises:
            NotImplementedError: a layer's products cannot be counted.
        """
        return self.macs_of_units(kept) + self._other_macs

    def macs_of_units(self, kept: Numbers) -> int:
        """Those of them whose number depends on units."""
        return sum(
            times
            * (1 if variable is None else self._elements(variable, kept))
            * math.prod(self._left(*axis, kept) for axis in along)
            for variable, times, along in self._products
        )

    @cached_property
    def _products(self) -> list[tuple[Any, int, list[tuple[int, dict[str, int]]]]]:
        return [
            (one.variable, one.times, [self._axis(ids) for ids in one.along])
            for one in self._found.products
        ]

    @cached_property
    def _other_macs(self) -> int:
        return sum(one.times for one in uncounted_products(self._found))

    def _axis(self, ids: Ids) -> tuple[int, dict[str, int]]:
        """The length of an axis, and how much of it a unit of each group takes."""
        groups: dict[str, int] = {}
        for known in self._classes.of_atom[ids[ids > 0]].tolist():
            if known in self._group_of:
                groups[self._group_of[known]] = groups.get(self._group_of[known], 0) + 1
        return len(ids), {name: all_of // self._units[name] for name, all_of in groups.items()}

    def shape(self, variable: Any, kept: Numbers) -> tuple[int, ...]:
        """What is left of a variable's shape."""
        return tuple(
            self._left(size, self._axes.get((id(variable), axis), (size, {}))[1], kept)
            for axis, size in enumerate(variable.shape)
        )

    def _elements(self, variable: Any, kept: Numbers) -> int:
        return math.prod(self.shape(variable, kept))

    def _left(self, size: int, widths: Mapping[str, int], kept: Numbers) -> int:
        return size - sum(
            width * (self._units[name] - kept.get(name, self._units[name]))
            for name, width in widths.items()
        )


def uncounted_products(found: Trace) -> list[Product]:
    """Products that the graph's rules do not count, found in TensorFlow's own graph of each layer.

    Raises:
        NotImplementedError: a layer's products cannot be counted.
    """
    return [one for call in found.uncounted for one in _products_in(call)]


def _products_in(call: Call) -> list[Product]:
    """Products of a call that nobody wrote a rule for, or whose units its rule cannot follow."""
    layer = call.operation
    has_kernels = isinstance(layer, keras.Layer) and any(
        len(one.shape) > 1 for one in layer.weights
    )
    if kind(layer) in RULES and (not has_kernels or isinstance(layer, layers.Embedding)):
        return []
    specs = keras.tree.map_structure(_spec, (call.args, call.kwargs))
    try:
        graph = tf.function(lambda args, kwargs: layer(*args, **kwargs)).get_concrete_function(
            *specs
        )
        times = _multiplied(graph.graph, _steps(call))
    except Exception as error:
        raise NotImplementedError(
            f"cannot count the MACs of layer {call.path!r} ({type(layer).__name__}): {error}"
        ) from error
    return [Product(None, times * call.repeats)]


def _spec(value: Any) -> Any:
    if isinstance(value, Labels):
        return tf.TensorSpec(sizes(value.shape), value.dtype)
    return value


def _steps(call: Call) -> int | None:
    """How often a loop inside the layer runs; None where nobody knows."""
    is_recurrent = isinstance(call.operation, (layers.RNN, layers.Bidirectional))
    return call.input.shape[1] if is_recurrent else None


def _multiplied(graph: Any, steps: int | None) -> int:
    """Multiply-accumulates of a TensorFlow graph and of all that it calls."""
    total = 0
    operations = graph.get_operations()
    loops = [one for one in operations if one.type in _LOOPS]
    # Keras tries one step outside of a loop, to see what it gives; nobody runs that.
    for operation in loops or operations:
        if operation.type in _MULTIPLYING:
            total += _MULTIPLYING[operation.type](operation)
        for name, times in _called(operation, steps):
            total += times * _multiplied(graph._get_function(name).graph, steps)
    return total


def _called(operation: Any, steps: int | None) -> list[tuple[str, int]]:
    """Functions that an operation calls, and how often."""
    if operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
        return [(operation.get_attr("f").name, 1)]
    if operation.type in _LOOPS:
        if steps is None:
            raise ValueError("it holds a loop")
        return [(operation.get_attr("body").name, steps)]
    if operation.type in ("If", "StatelessIf"):
        return [(operation.get_attr("then_branch").name, 1)]
    return []


def _size(tensor: Any) -> int:
    return math.prod(tensor.shape.as_list())


def _matrix_product(operation: Any) -> int:
    """Every number of the output is a sum over an axis of the first factor."""
    names = ("adj_x",) if "Batch" in operation.type else ("transpose_a",)
    axis = -2 if any(operation.get_attr(name) for name in names) else -1
    return _size(operation.outputs[0]) * operation.inputs[0].shape[axis]


def _einsum(operation: Any) -> int:
    """Every combination of indices is one product."""
    read, _ = operation.get_attr("equation").decode().split("->")
    lengths: dict[str, int] = {}
    for letters, tensor in zip(read.split(","), operation.inputs, strict=True):
        before, _, after = letters.partition("...")
        shape = tensor.shape.as_list()
        ends = [*range(len(before)), *range(-len(after), 0)]
        lengths |= {letter: shape[end] for letter, end in zip(before + after, ends, strict=True)}
        spare = shape[len(before) : len(shape) - len(after)]
        if "..." in letters:
            lengths["..."] = max(math.prod(spare), lengths.get("...", 1))
    return math.prod(lengths.values())


def _convolution(operation: Any) -> int:
    """Filters are (..., in, out); each number of the output is a sum over all but the last."""
    filters = operation.inputs[1].shape.as_list()
    return _size(operation.outputs[0]) * math.prod(filters[:-1])


def _depthwise_convolution(operation: Any) -> int:
    """Filters are (..., in, multiplier); each number of the output is a sum over the window."""
    return _size(operation.outputs[0]) * math.prod(operation.inputs[1].shape.as_list()[:-2])


def _transposed_convolution(operation: Any) -> int:
    """Each number of the input meets the filters' (..., out) of its channel."""
    return _size(operation.inputs[2]) * math.prod(operation.inputs[1].shape.as_list()[:-1])


_LOOPS = ("While", "StatelessWhile")
_MULTIPLYING: dict[str, Callable[[Any], int]] = {
    **dict.fromkeys(["MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"], _matrix_product),
    **dict.fromkeys(["Conv2D", "Conv3D"], _convolution),
    **dict.fromkeys(["Conv2DBackpropInput", "Conv3DBackpropInputV2"], _transposed_convolution),
    "DepthwiseConv2dNative": _depthwise_convolution,
    "Einsum": _einsum,
}
