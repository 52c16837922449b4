"""What a model would cost after a cut, without making it."""

from __future__ import annotations

from typing import Any

import keras

from secateur.graph.counting import Numbers
from secateur.graph.groups import analyse


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
        self._counts, self._trace = analysis.counts, analysis.trace

    def parameters(self, kept: Numbers) -> int:
        """Elements of all variables that are left, counted as `keras.Model.count_params` does."""
        return self._counts.parameters(kept)

    def macs(self, kept: Numbers) -> int:
        """Multiply-accumulates of a sample that are left, counted as `secateur.costs` does.

        Raises:
            NotImplementedError: a layer's products cannot be counted.
        """
        return self._counts.macs(kept)

    def shape(self, variable: Any, kept: Numbers) -> tuple[int, ...]:
        """What is left of a variable's shape."""
        return self._counts.shape(variable, kept)

    def uses(self, variable: Any) -> int:
        """How often a sample multiplies each element of a variable."""
        return self._trace.uses(variable)
