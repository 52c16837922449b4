from __future__ import annotations

import numpy as np
import pytest

from secateur.errors import InputError
from secateur.guard import judge


@pytest.fixture
def errors() -> np.ndarray:
    """(2000,) of widely spread row errors."""
    return np.random.default_rng(0).lognormal(sigma=1.0, size=2000)


def test_the_same_model_is_accepted_without_tolerance(errors):
    verdict = judge(errors, errors, tolerance=0.0)
    assert verdict.accepted
    assert verdict.upper_bound == 0.0


def test_a_rise_beyond_the_tolerance_is_rejected(errors):
    assert not judge(errors, errors * 1.2, tolerance=0.1).accepted


def test_rows_are_compared_in_pairs(errors):
    """A rise of 9% on every row is certain, though the rows' spread is ten times as large."""
    verdict = judge(errors, errors * 1.09, tolerance=0.1)
    assert verdict.accepted
    assert verdict.upper_bound == pytest.approx(0.09)


def test_a_mean_within_the_tolerance_is_not_enough(errors):
    noise = np.random.default_rng(1).normal(scale=3.0, size=len(errors))
    noisy = errors + noise - noise.mean() + 0.08 * errors.mean()
    verdict = judge(errors, noisy, tolerance=0.1)
    assert verdict.mse_rise == pytest.approx(0.08)
    assert verdict.upper_bound > 0.1
    assert not verdict.accepted


def test_the_bound_covers_the_truth_as_often_as_stated():
    """The true rise is under the 90% bound in 90% of repeated draws, give or take 3 deviations."""
    truth, draws = 0.05, 400
    covered = 0
    for seed in range(draws):
        random = np.random.default_rng(10_000 + seed)
        baseline = random.gamma(2.0, size=200)
        candidate = baseline * (1 + truth + 0.5 * random.normal(size=200))
        verdict = judge(baseline, candidate, confidence=0.9, resamples=400, seed=seed)
        covered += verdict.upper_bound >= truth
    assert covered / draws == pytest.approx(0.9, abs=3 * np.sqrt(0.09 / draws))


def test_a_seed_gives_one_verdict(errors):
    worse = errors * np.random.default_rng(2).uniform(0.9, 1.2, len(errors))
    assert judge(errors, worse, seed=5) == judge(errors, worse, seed=5)
    assert judge(errors, worse, seed=5).upper_bound != judge(errors, worse, seed=6).upper_bound


@pytest.mark.parametrize(
    ("baseline", "candidate", "message"),
    [
        (np.ones(3), np.ones(4), r"shapes \(3,\) and \(4,\)"),
        (np.ones(1), np.ones(1), "at least 2"),
        (np.ones(3), np.array([1, np.nan, 1]), "not finite"),
        (np.zeros(3), np.ones(3), "error is zero on every row"),
    ],
)
def test_errors_that_cannot_be_compared_are_refused(baseline, candidate, message):
    with pytest.raises(InputError, match=message):
        judge(baseline, candidate)
