"""What a model would cost after a cut, without making it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import keras

from secateur.graph.groups import analyse

Numbers = Mapping[str, int]
"""Group's name -> number of units that stay; a group not named keeps all its units."""


class Footprint:
    """Parameters and multiply-accumulates of a model by the numbers of units that stay.

    All units of a group take the same from every variable, so numbers suffice, and asking is cheap.

    Args:
        model: a built functional or Sequential model.

    Raises:
        InputError: the model has no graph that could be read.
    """

    def __init__(self, model: keras.Model) -> None:
        analysis = analyse(model)
        self._units = {group.name: group.units for group in analysis.groups}
        self._shapes = {id(one): tuple(one.shape) for one in model.weights}
        self._uses = {key: uses for key, (_, uses) in analysis.trace.macs.items()}
        self._positions: dict[tuple[int, int], dict[str, int]] = defaultdict(dict)
        for group in analysis.groups:
            for one in group.slices:
                width = one.positions.shape[1]
                self._positions[id(one.variable), one.axis][group.name] = width

    def parameters(self, kept: Numbers) -> int:
        """Elements of all variables that are left, counted as `keras.Model.count_params` does."""
        return sum(self._elements(variable, kept) for variable in self._shapes)

    def macs(self, kept: Numbers) -> int:
        """Multiply-accumulates of a sample in the kernels that are left.

        Counted are products with kernels, not the element-wise work between them. An axis of
        unknown length counts as one.
        """
        return sum(self._elements(variable, kept) * uses for variable, uses in self._uses.items())

    def shape(self, variable: Any, kept: Numbers) -> tuple[int, ...]:
        """What is left of a variable's shape."""
        return self._shape(id(variable), kept)

    def uses(self, variable: Any) -> int:
        """How often a sample multiplies each element of a variable."""
        return self._uses.get(id(variable), 0)

    def _elements(self, variable: int, kept: Numbers) -> int:
        return math.prod(self._shape(variable, kept))

    def _shape(self, variable: int, kept: Numbers) -> tuple[int, ...]:
        return tuple(
            size - self._leaving(variable, axis, kept)
            for axis, size in enumerate(self._shapes[variable])
        )

    def _leaving(self, variable: int, axis: int, kept: Numbers) -> int:
        widths = self._positions.get((variable, axis), {})
        return sum(
            width * (self._units[name] - kept.get(name, self._units[name]))
            for name, width in widths.items()
        )
