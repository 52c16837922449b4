"""One cut of a model, by any method."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from secateur.errors import InputError
from secateur.methods import make_method
from secateur.methods.base import RoundReport


def shrink(
    model: keras.Model, sample: np.ndarray, method: str, **options: Any
) -> tuple[keras.Model, RoundReport]:
    """A smaller copy of an autoencoder: cut and compensated, not trained.

    Args:
        model: a built Keras model; it stays as it is.
        sample: (rows, ...) calibration sample in the model's input shape, finite.
        method: a name in `secateur.METHODS`.
        options: the method's knobs.

    Returns:
        The smaller model, and a report of what went and what was left alone.

    Raises:
        InputError: the method, an option or the sample cannot be used.
    """
    chosen = make_method(method, options)
    sample = np.asarray(sample)
    if sample.shape[1:] != tuple(model.input_shape[1:]) or not len(sample):
        raise InputError(
            f"the calibration sample has the shape {sample.shape}; the model needs "
            f"{('rows', *model.input_shape[1:])}, at least one row"
        )
    if not np.isfinite(sample).all():
        raise InputError("the calibration sample holds values that are not finite")
    return chosen.shrink(model, sample)
