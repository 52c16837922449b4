"""How far a reconstruction lies from the original."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

_ROWS_AT_ONCE = 4096


def batches(rows: np.ndarray, size: int = _ROWS_AT_ONCE) -> Iterator[np.ndarray]:
    """The rows in order, `size` at a time; the last batch may be smaller."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def reconstruct(model: keras.Model, rows: np.ndarray) -> np.ndarray:
    """What the model makes of the rows, in its own output shape, batch by batch."""
    import keras

    return np.concatenate(
        [keras.ops.convert_to_numpy(model(batch, training=False)) for batch in batches(rows)]
    )


def row_errors(model: keras.Model, rows: np.ndarray) -> np.ndarray:
    """The mean squared error of each row.

    Args:
        model: an autoencoder: its output has the shape of its input.
        rows: (rows, ...) in the model's input shape.

    Returns:
        (rows,) float64.
    """
    import keras

    return np.concatenate(
        [
            squared_errors(batch, keras.ops.convert_to_numpy(model(batch, training=False)))
            for batch in batches(rows)
        ]
    )


def squared_errors(originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """The mean squared error of each row, (rows,) float64, of two arrays of one shape."""
    difference = np.asarray(reconstructions, np.float64) - np.asarray(originals, np.float64)
    return (difference.reshape(len(difference), -1) ** 2).mean(axis=1)


def mean_squared_error(model: keras.Model, rows: np.ndarray) -> float:
    """The mean of the rows' mean squared errors."""
    return float(row_errors(model, rows).mean())


def psnr_db(mse: float, data_range: float) -> float | None:
    """Peak signal-to-noise ratio in decibels; None for a perfect reconstruction."""
    return 10 * math.log10(data_range**2 / mse) if mse > 0 else None
