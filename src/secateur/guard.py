"""Did quality hold? A paired test on validation rows, never a bare mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from secateur.errors import InputError

_RESAMPLES_AT_ONCE = 64


@dataclass(frozen=True)
class Verdict:
    """What the guard found.

    Attributes:
        accepted: whether the upper bound lies within the tolerance.
        mse_rise: the candidate's mean squared error over the baseline's, minus 1.
        upper_bound: the upper confidence bound of that rise.
        tolerance: the largest rise accepted.
        confidence: of the bound, one-sided.
        resamples: of the bootstrap.
    """

    accepted: bool
    mse_rise: float
    upper_bound: float
    tolerance: float
    confidence: float
    resamples: int


def judge(
    baseline_errors: np.ndarray,
    candidate_errors: np.ndarray,
    tolerance: float = 0.1,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Verdict:
    """Whether a candidate reconstructs as well as the baseline, within a tolerance.

    Rows are resampled in pairs (Efron & Tibshirani 1993, percentile bootstrap): what makes a row
    hard is common to both models and cancels, so a small true change is not drowned by the rows'
    own spread.

    Args:
        baseline_errors: (rows,) the baseline's mean squared error of each validation row.
        candidate_errors: (rows,) the candidate's, of the same rows in the same order.
        tolerance: largest accepted relative rise of the mean, ≥ 0.
        confidence: of the one-sided upper bound, in [0.5, 1).
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: the arrays are not of one length of at least 2, hold values that are not
            finite, or the baseline's mean is zero, so that nothing is relative to it.
    """
    _check(baseline_errors, candidate_errors)
    result = stats.bootstrap(
        (candidate_errors, baseline_errors),
        _rise,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=_RESAMPLES_AT_ONCE,
        confidence_level=confidence,
        alternative="less",
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    upper_bound = float(result.confidence_interval.high)
    return Verdict(
        accepted=upper_bound <= tolerance,
        mse_rise=float(_rise(candidate_errors, baseline_errors)),
        upper_bound=upper_bound,
        tolerance=tolerance,
        confidence=confidence,
        resamples=resamples,
    )


def _rise(candidate: np.ndarray, baseline: np.ndarray, axis: int = -1) -> np.ndarray:
    return candidate.mean(axis=axis) / baseline.mean(axis=axis) - 1


def _check(baseline: np.ndarray, candidate: np.ndarray) -> None:
    if baseline.ndim != 1 or baseline.shape != candidate.shape or len(baseline) < 2:
        raise InputError(
            f"the guard compares two arrays of row errors of one length, at least 2; got the "
            f"shapes {baseline.shape} and {candidate.shape}"
        )
    if not (np.isfinite(baseline).all() and np.isfinite(candidate).all()):
        raise InputError("the guard got row errors that are not finite")
    if baseline.mean() == 0:
        raise InputError("the baseline's error is zero on every row; no rise is relative to that")
