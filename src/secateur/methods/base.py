"""What every shrinking method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import numpy as np


@dataclass(frozen=True)
class RoundReport:
    """What a method did to a model, and what it left alone.

    Attributes:
        groups: per cut layer: `layer`, `units_before`, `units_after`, and `removed`, the units
            that went with their cost, in the order they went.
        skipped: per layer left alone: `layer`, `units` and the `reason`.
        uncompensated: the model after the cut alone, for comparison with the compensated one.
    """

    groups: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    uncompensated: keras.Model | None = None


@dataclass(frozen=True)
class Method(ABC):
    """A way of shrinking: a frozen dataclass whose fields are its knobs."""

    @abstractmethod
    def shrink(self, model: keras.Model, sample: np.ndarray) -> tuple[keras.Model, RoundReport]:
        """A smaller, compensated, untrained copy of a model, and what was done.

        Args:
            model: the autoencoder; it stays as it is.
            sample: (rows, ...) calibration sample in the model's input shape.
        """
