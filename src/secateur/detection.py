"""From reconstruction errors to decisions: which rows are anomalies."""

from __future__ import annotations

import numpy as np

from secateur.errors import InputError


def threshold(errors: np.ndarray, quantile: float) -> float:
    """The reconstruction error that a given share of normal rows does not exceed.

    One of the errors themselves, so that at most (1 - quantile) of these rows lie above it,
    however few they are.

    Args:
        errors: (rows,) of normal rows that the model was not trained on, scored by the very
            artifact that is to decide: a quantized file has errors of its own.
        quantile: the share, in (0, 1).

    Raises:
        InputError: there are no errors, some are not finite, or the quantile is out of range.
    """
    if not 0 < quantile < 1:
        raise InputError(f"detection.quantile is {quantile}; allowed: between 0 and 1")
    if len(errors) == 0 or not np.isfinite(errors).all():
        raise InputError(
            f"a threshold needs the finite errors of at least one row; got {len(errors)} errors, "
            f"{int(np.count_nonzero(~np.isfinite(errors)))} of them not finite"
        )
    return float(np.quantile(errors, quantile, method="inverted_cdf"))


def anomalous(errors: np.ndarray, threshold: float) -> np.ndarray:
    """(rows,) bool, True where the reconstruction error lies above the threshold."""
    return errors > threshold
