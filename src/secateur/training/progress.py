"""Telling how far a training is; its clock reaches the log and nothing else."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("secateur.recovery")

_SECONDS_BETWEEN_LINES = 2.0  # at least
_LINES = 100  # about as many as that where training takes long


class Progress:
    """Says now and then how far training is, and how long it will take at most."""

    def __init__(self, name: str, epochs: int, steps: int, taken: int = 0) -> None:
        """Start the clock.

        Args:
            name: what is trained.
            epochs: in all, at most.
            steps: in all, at most.
            taken: steps taken before the clock started.
        """
        self.name, self.epochs, self.steps, self._before = name, epochs, steps, taken
        self._start = time.monotonic()
        self._next_line = 0.0

    def report(self, epoch: int, taken: int, loss: float, validation_loss: float) -> None:
        """Log a line, but none too soon after the one before.

        Args:
            epoch: the last one that is done.
            taken: steps taken in all.
            loss: of the epoch at hand, so far.
            validation_loss: of the last one that is done.
        """
        now = time.monotonic()
        if now < self._next_line and taken < self.steps:
            return
        whole = (now - self._start) / (taken - self._before) * (self.steps - self._before)
        eta = whole - (now - self._start)
        self._next_line = now + max(_SECONDS_BETWEEN_LINES, whole / _LINES)
        logger.info(
            "%s: epoch %d/%d, %.0f%%, loss %.5g, validation %.5g, %d:%02d left",
            self.name, epoch, self.epochs, 100 * taken / self.steps, loss, validation_loss,
            *divmod(round(eta), 60),
            extra={
                "progress": {
                    "name": self.name,
                    "epoch": epoch,
                    "epochs": self.epochs,
                    "loss": loss,
                    "validation_loss": validation_loss,
                    "eta_seconds": eta,
                }
            },
        )  # fmt: skip
