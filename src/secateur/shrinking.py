"""One cut of a model, by any method."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from secateur.budgets import Target, shrink_within
from secateur.errors import InputError
from secateur.grids import grids_of
from secateur.methods import check_order, make_method
from secateur.methods.base import RoundReport
from secateur.metrics import batches


def shrink(
    model: keras.Model,
    sample: np.ndarray,
    method: str,
    target: Target | None = None,
    **options: Any,
) -> tuple[keras.Model, RoundReport]:
    """A smaller copy of an autoencoder: cut and compensated, not trained.

    Args:
        model: a built Keras model; it stays as it is.
        sample: (rows, ...) calibration sample in the model's input shape, finite.
        method: a name in `secateur.METHODS`.
        target: what the result may cost, such as `{"macs": 0.5}` or `{"int8_bytes": 65536}`: one of
            `secateur.budgets.COSTS` and a fraction in (0, 1] of what the model has or an absolute
            amount. It takes the place of the method's knob that says how much goes.
        options: the method's knobs.

    Returns:
        The smaller model, and a report of what went and what was left alone.

    Raises:
        InputError: the method, the target, an option or the sample cannot be used.
    """
    chosen = make_method(method, options, target)
    sample = np.asarray(sample)
    if sample.shape[1:] != tuple(model.input_shape[1:]) or not len(sample):
        raise InputError(
            f"the calibration sample has the shape {sample.shape}; the model needs "
            f"{('rows', *model.input_shape[1:])}, at least one row"
        )
    if not all(np.isfinite(batch).all() for batch in batches(sample)):
        raise InputError("the calibration sample holds values that are not finite")
    if chosen.deploys_as is None and grids_of(model):
        check_order("int8", None, f"{method} cannot cut this model, whose weights lie on a grid")
    if target is None:
        return chosen.shrink(model, sample)
    return shrink_within(chosen, model, sample, target)
