"""What every shrinking method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import keras
    import numpy as np

    from secateur.budgets import Budget


@dataclass(frozen=True)
class RoundReport:
    """What a method did to a model, and what it left alone.

    Attributes:
        groups: per cut layer: `layer`, `units_before`, `units_after`, and `removed`, the units
            that went with their cost, in the order they went.
        skipped: per layer left alone: `layer`, `units` and the `reason`.
        uncompensated: the model after the cut alone, for comparison with the compensated one.
        budget: where a target was given: its `cost`, what was `asked`, `reached` and there
            `before`, and `why`, if what was asked was not reached or nothing had to go.
    """

    groups: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    uncompensated: keras.Model | None = None
    budget: dict[str, Any] | None = None


@dataclass(frozen=True)
class Amount:
    """The knob of a method that says how much goes: a target takes its place and turns it.

    Attributes:
        knob: its name.
        least: with this value all that may go is gone; of a fraction, the smallest worth a try.
        most: with this value nothing goes.
        step: the smallest change of it that is worth a try; 1 for a knob of whole numbers.
        is_logarithmic: whether costs go with its logarithm.
    """

    knob: str = "keep"
    least: float = 1e-6
    most: float = 1.0
    step: float = 1e-6
    is_logarithmic: bool = False

    def between(self, low: float, high: float, share: float = 0.5) -> float | None:
        """A value so far from `low` to `high`, both excluded; None if they are a step apart."""
        if abs(high - low) < 1.5 * self.step:
            return None
        value = low + share * (high - low)
        if self.is_logarithmic:
            value = low * (high / low) ** share
        if isinstance(self.most, int):
            value = round(value)
        lowest, highest = sorted((low, high))
        return min(max(value, lowest + self.step), highest - self.step)


@dataclass(frozen=True)
class Method(ABC):
    """A way of shrinking: a frozen dataclass whose fields are its knobs.

    Attributes:
        amount: the knob that says how much goes; None where nothing says so, and no target can be
            given.
    """

    amount: ClassVar[Amount | None] = None

    @property
    def deploys_as(self) -> str | None:
        """The LiteRT scheme that the result is deployed as, which the guard then judges.

        None leaves that open: the guard judges the Keras model.
        """
        return None

    @abstractmethod
    def shrink(self, model: keras.Model, sample: np.ndarray) -> tuple[keras.Model, RoundReport]:
        """A smaller, compensated, untrained copy of a model, and what was done.

        Args:
            model: the autoencoder; it stays as it is.
            sample: (rows, ...) calibration sample in the model's input shape.
        """

    def shrink_within(
        self, model: keras.Model, sample: np.ndarray, budget: Budget
    ) -> tuple[keras.Model, RoundReport] | None:
        """What `shrink` gives within a budget, where the method knows better than its one knob.

        Args:
            model: the autoencoder, which costs more than the budget allows.
            sample: (rows, ...) calibration sample in the model's input shape.
            budget: the limit, and what models cost.

        Returns:
            None lets `secateur.budgets` turn the knob until the cost fits.
        """
        return None
