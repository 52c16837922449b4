"""What a training did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Setback:
    """An attempt that went badly.

    Attributes:
        attempt: which, from 1 on.
        epoch: in which it was seen; the next attempt repeats this epoch.
        learning_rate: that the epoch began with.
        reason: what was seen.
    """

    attempt: int
    epoch: int
    learning_rate: float
    reason: str


@dataclass(frozen=True)
class History:
    """What training did.

    Attributes:
        table: one row an epoch: epoch, attempt, learning_rate, loss, validation_loss,
            validation_auc where there are anomalies, and mean and largest global norm of the
            gradients. Epoch 0 is the model as it came, of which only validation is known. Epochs
            that a setback undid are not in it.
        best_epoch: the epoch whose weights the model ended with.
        setbacks: what went wrong on the way.
        gave_up: whether the last attempt that was allowed ended badly too.
    """

    table: pd.DataFrame
    best_epoch: int
    setbacks: tuple[Setback, ...] = ()
    gave_up: bool = False

    @property
    def validation_loss(self) -> float:
        """The validation loss of the best epoch."""
        return float(self.table["validation_loss"].iloc[self.best_epoch])

    @property
    def epochs(self) -> int:
        """How many epochs count."""
        return len(self.table) - 1

    @property
    def learned_nothing(self) -> bool:
        """Whether all attempts ended badly and left the model as it came."""
        return self.gave_up and self.best_epoch == 0

    def summary(self) -> dict[str, Any]:
        """All but the table, as plain JSON."""
        return {
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "attempts": int(self.table["attempt"].iloc[-1]),
            "gave_up": self.gave_up,
            "setbacks": [asdict(setback) for setback in self.setbacks],
        }
