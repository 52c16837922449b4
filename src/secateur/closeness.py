"""How close a smaller model is to the one it came from, beside how well it does: ‖M − Mₛ‖²."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from secateur.errors import InputError
from secateur.graph import with_code
from secateur.masks import kernels, masked_least_squares
from secateur.metrics import batches, squared_errors


@dataclass(frozen=True)
class Closeness:
    """Squared distances between an original and what it was shrunk to.

    Attributes:
        output_distance: mean squared difference of the outputs, in the unit of the error.
        code_distance: mean squared difference of the codes, after the linear map that brings the
            smaller model's closest to the original's; None where a model has no code.
        code_share: that as a share of the variance of the original's code, in [0, 1]; None also
            where that does not vary.
        weight_distance: sum of squared differences of the kernels whose shapes match; None if no
            shape does.
        weight_share: that as a share of the original kernels' sum of squares.
        weights_compared: how many weights these kernels have.
    """

    output_distance: float
    code_distance: float | None
    code_share: float | None
    weight_distance: float | None
    weight_share: float | None
    weights_compared: int


def closeness(original: keras.Model, shrunk: keras.Model, rows: np.ndarray) -> Closeness:
    """Compare two models on rows.

    Args:
        original: the model before it was shrunk.
        shrunk: of the same input and output shape.
        rows: (rows, ...) in the models' input shape, at least one.
    """
    with_codes = [_with_code(model) for model in (original, shrunk)]
    has_codes = all(has_code for _, has_code in with_codes)
    (theirs, _), (ours, _) = with_codes
    distance, moments = 0.0, _Moments()
    for batch in batches(rows):
        wanted, given = (
            keras.tree.flatten(model(batch, training=False)) for model in (theirs, ours)
        )
        distance += float(squared_errors(np.asarray(wanted[0]), np.asarray(given[0])).sum())
        if has_codes:
            moments.add(np.asarray(given[1]), np.asarray(wanted[1]))
    code, share = moments.unexplained() if has_codes else (None, None)
    return Closeness(distance / len(rows), code, share, *_weights(original, shrunk))


def _with_code(model: keras.Model) -> tuple[keras.Model, bool]:
    try:
        return with_code(model), True
    except InputError:
        return model, False


class _Moments:
    """Second moments of two codes, from which the best linear map between them follows."""

    def __init__(self) -> None:
        self.rows = 0
        self.gram = self.cross = self.power = self.total = np.zeros(())

    def add(self, given: np.ndarray, wanted: np.ndarray) -> None:
        """Take in a batch of both codes, one row each."""
        ours = np.asarray(given.reshape(len(given), -1), np.float64)
        theirs = np.asarray(wanted.reshape(len(wanted), -1), np.float64)
        ours = np.hstack([ours, np.ones((len(ours), 1))])
        self.rows += len(ours)
        self.gram = self.gram + ours.T @ ours
        self.cross = self.cross + ours.T @ theirs
        self.power = self.power + (theirs**2).sum(axis=0)
        self.total = self.total + theirs.sum(axis=0)

    def unexplained(self) -> tuple[float, float | None]:
        """The mean squared difference that no map explains, and its share of the variance."""
        gram, cross, power = self.gram / self.rows, self.cross / self.rows, self.power / self.rows
        kernel = masked_least_squares(gram, cross, np.ones(cross.shape, bool))
        # E|y - hV|² from moments alone; rounding may leave less than nothing.
        loss = power - 2 * (kernel * cross).sum(axis=0) + (kernel * (gram @ kernel)).sum(axis=0)
        distance = max(0.0, float(loss.mean()))
        variance = float((power - (self.total / self.rows) ** 2).mean())
        return distance, min(1.0, distance / variance) if variance > 0 else None


def _weights(original: keras.Model, shrunk: keras.Model) -> tuple[float | None, float | None, int]:
    theirs, ours = kernels(original), kernels(shrunk)
    pairs = [
        (np.asarray(theirs[path], np.float64), np.asarray(ours[path], np.float64))
        for path in theirs
        if path in ours and tuple(theirs[path].shape) == tuple(ours[path].shape)
    ]
    if not pairs:
        return None, None, 0
    distance = float(sum(((before - after) ** 2).sum() for before, after in pairs))
    whole = float(sum((before**2).sum() for before, _ in pairs))
    return distance, distance / whole if whole else None, sum(before.size for before, _ in pairs)
