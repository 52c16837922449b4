"""What the guard promises: paired bounds, every metric, and as few mistakes as it states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from secateur.errors import InputError
from secateur.guard import judge
from secateur.metrics import roc_auc, roc_parts, spearman_parts

ABSOLUTE = {
    "mse": 0.2, "p99_error": 1.0, "auc": 0.02, "partial_auc": 0.05, "spearman": 0.05,
    "decisions": 0.02,
}  # fmt: skip


@pytest.fixture
def errors() -> np.ndarray:
    """(2000,) of widely spread row errors."""
    return np.random.default_rng(0).lognormal(sigma=1.0, size=2000)


def labelled(baseline: np.ndarray, candidate: np.ndarray, **anomalies: Any) -> dict[str, Any]:
    return {
        "baseline_errors": baseline,
        "candidate_errors": candidate,
        "baseline_anomaly_errors": anomalies.get("before", baseline[:100] * 9),
        "candidate_anomaly_errors": anomalies.get("after", candidate[:100] * 9),
    }


@pytest.mark.parametrize("metric", ABSOLUTE)
def test_the_same_model_is_accepted_without_tolerance(errors, metric):
    verdict = judge(**labelled(errors, errors), metrics={metric: {"absolute": 0.0}})
    assert verdict.accepted
    assert verdict.metrics[metric].upper_bound == 0.0


def test_a_tolerance_is_short_for_the_mean_squared_error(errors):
    worse = errors * 1.09
    assert judge(errors, worse, 0.1) == judge(errors, worse, metrics={"mse": {"relative": 0.1}})
    assert judge(errors, worse) == judge(errors, worse, 0.1)


def test_a_rise_beyond_the_tolerance_is_rejected(errors):
    assert not judge(errors, errors * 1.2, tolerance=0.1).accepted


def test_rows_are_compared_in_pairs(errors):
    """A rise of 9% on every row is certain, though the rows' spread is ten times as large."""
    found = judge(errors, errors * 1.09, tolerance=0.1).metrics["mse"]
    assert found.accepted
    assert found.upper_bound == pytest.approx(0.09)


def test_a_mean_within_the_tolerance_is_not_enough(errors):
    noise = np.random.default_rng(1).normal(scale=3.0, size=len(errors))
    noisy = errors + noise - noise.mean() + 0.08 * errors.mean()
    found = judge(errors, noisy, tolerance=0.1).metrics["mse"]
    assert found.loss == pytest.approx(0.08)
    assert found.upper_bound > 0.1
    assert not found.accepted


def test_relative_and_absolute_losses_are_of_one_kind_each(errors):
    found = judge(errors, errors * 1.05, metrics={"p99_error": {"absolute": 1.0}}).metrics
    assert found["p99_error"].loss == pytest.approx(0.05 * np.quantile(errors, 0.99))
    assert not found["p99_error"].relative
    found = judge(errors, errors * 1.05, metrics={"p99_error": {"relative": 0.1}}).metrics
    assert found["p99_error"].loss == pytest.approx(0.05)
    assert found["p99_error"].relative


def test_all_metrics_must_hold(errors):
    shuffled = np.random.default_rng(3).permutation(errors)
    metrics = {"mse": {"relative": 0.3}, "spearman": {"absolute": 0.1}}
    verdict = judge(errors, shuffled, metrics=metrics)
    assert verdict.metrics["mse"].accepted
    assert verdict.failed == ["spearman"]
    assert not verdict.accepted


def test_areas_are_scikit_learns():
    random = np.random.default_rng(4)
    normal, anomalies = random.normal(size=300), random.normal(1, size=60)
    labels, scores = np.repeat([0, 1], [300, 60]), np.concatenate([normal, anomalies])
    assert roc_auc(normal, anomalies) == roc_auc_score(labels, scores)
    assert roc_auc(normal, anomalies, 0.1) == roc_auc_score(labels, scores, max_fpr=0.1)


@pytest.mark.parametrize("max_fpr", [None, 0.1])
def test_parts_of_an_area_vary_as_the_area_does(max_fpr):
    random = np.random.default_rng(5)
    draws = [(random.normal(size=400), random.normal(1.5, size=80)) for _ in range(300)]
    spread = np.std([roc_auc(*draw, max_fpr) for draw in draws])
    told = [
        np.sqrt(sum(part.var() / len(part) for part in roc_parts(*draw, max_fpr)))
        for draw in draws[:50]
    ]
    assert np.mean(told) == pytest.approx(spread, rel=0.1)


def test_parts_of_a_rank_correlation_vary_as_it_does():
    from scipy.stats import spearmanr

    random = np.random.default_rng(6)
    ones = [random.normal(size=400) for _ in range(300)]
    others = [one + random.normal(size=400) for one in ones]
    pairs = list(zip(ones, others, strict=True))
    spread = np.std([spearmanr(*pair).statistic for pair in pairs])
    told = [np.sqrt(spearman_parts(*pair).var() / 400) for pair in pairs[:50]]
    assert np.mean(told) == pytest.approx(spread, rel=0.1)


def test_decisions_are_by_each_models_own_threshold():
    baseline = np.arange(1000.0)
    moved = np.concatenate([np.arange(995.0), 2000 - np.arange(5)])  # other order, same alarms
    found = judge(baseline, moved * 3, metrics={"decisions": {"absolute": 0.01}})
    assert found.metrics["decisions"].loss == 0.0
    swapped = baseline.copy()
    swapped[[0, 999]] = swapped[[999, 0]]
    found = judge(baseline, swapped, metrics={"decisions": {"relative": 0.5}})
    assert found.metrics["decisions"].loss == pytest.approx(
        2 / 1000 / 0.01
    )  # 2 of 10 alarms' worth


def test_a_seed_gives_one_verdict(errors):
    worse = errors * np.random.default_rng(2).uniform(0.9, 1.2, len(errors))
    assert judge(errors, worse, seed=5) == judge(errors, worse, seed=5)
    first, second = (judge(errors, worse, seed=seed).metrics["mse"] for seed in (5, 6))
    assert first.upper_bound != second.upper_bound


def test_too_few_rows_for_a_tolerance_are_told():
    """Of 30 rows, a model that lost nothing could not be let through at 3%; of 3,000 it could."""
    random = np.random.default_rng(7)
    chances = []
    for rows in (30, 3000):
        baseline = random.gamma(2.0, size=rows)
        candidate = baseline * random.normal(1, 0.2, size=rows)
        chances.append(judge(baseline, candidate, tolerance=0.03).metrics["mse"].false_rejection)
    assert chances[0] > 0.5
    assert chances[1] < 0.05


@pytest.mark.parametrize(
    ("baseline", "candidate", "message"),
    [
        (np.ones(3), np.ones(4), r"shapes \(3,\) and \(4,\)"),
        (np.ones(1), np.ones(1), "at least 2"),
        (np.ones(3), np.array([1, np.nan, 1]), "not finite"),
        (np.zeros(3), np.ones(3), "error is zero"),
    ],
)
def test_errors_that_cannot_be_compared_are_refused(baseline, candidate, message):
    with pytest.raises(InputError, match=message):
        judge(baseline, candidate)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": {"ause": {"absolute": 0.1}}}, "ause.*'mse', 'p99_error', 'auc'"),
        ({"metrics": {"mse": {"absolut": 0.1}}}, "unknown key; known here: relative, absolute"),
        ({"metrics": {"mse": {}}}, "exactly one of relative and absolute"),
        ({"metrics": {"mse": {"relative": -1}}}, "greater than or equal to 0, got -1"),
        ({"tolerance": 0.1, "metrics": {"mse": {"relative": 0.1}}}, "short for metrics.mse"),
        ({"metrics": {"auc": {"absolute": 0.01}}}, "auc on 0 validation anomalies; .* least 20"),
        ({"alarm_quantile": 1.5, "metrics": {"decisions": {"absolute": 0.1}}}, "between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(errors, settings, message):
    with pytest.raises(InputError, match=message):
        judge(errors, errors * 1.1, **settings)


# Calibration: on draws from a population whose losses are known, how often is the guard wrong?


@dataclass(frozen=True)
class Population:
    """Errors of two models that see the same difficulty in a row, each with noise of its own.

    `rise` and `shift` make the second worse: by larger errors, and by those of anomalies alone
    rising less.
    """

    rise: float = 1.0
    shift: float = 0.0

    def draw(self, random: np.random.Generator, rows: int, anomalies: int) -> dict[str, Any]:
        normal, far = random.lognormal(0, 0.6, rows), random.lognormal(1.6, 0.6, anomalies)

        def seen(errors: np.ndarray) -> np.ndarray:
            return errors * random.lognormal(0, 0.2, len(errors))

        return labelled(
            seen(normal),
            seen(normal) * self.rise,
            before=seen(far),
            after=seen(far) * self.rise * np.exp(-self.shift),
        )


DRAWS, ROWS, ANOMALIES = 150, 400, 60
WORSE = Population(rise=1.05, shift=0.15)
UNCHANGED = Population()


def verdicts(population: Population, metrics: dict[str, dict[str, float]]) -> Iterator[Any]:
    for seed in range(DRAWS):
        random = np.random.default_rng([11, seed])
        yield judge(
            **population.draw(random, ROWS, ANOMALIES),
            metrics=metrics,
            confidence=0.9,
            resamples=200,
            seed=seed,
            alarm_quantile=0.95,
        )


def true_losses(population: Population) -> dict[str, float]:
    """Of a sample so large that chance is no matter."""
    many = population.draw(np.random.default_rng(12), 150_000, 40_000)
    generous = {name: {"absolute": 9.0} for name in ABSOLUTE}
    told = judge(**many, metrics=generous, resamples=100, alarm_quantile=0.95).metrics
    return {name: found.loss for name, found in told.items()}


def at_most(chance: float) -> float:
    """What a frequency of that chance stays under, by 3 standard deviations."""
    return chance + 3 * float(np.sqrt(chance * (1 - chance) / DRAWS))


@pytest.fixture(scope="module")
def losses() -> dict[str, float]:
    return true_losses(WORSE)


@pytest.fixture(scope="module")
def on_worse(losses) -> list[Any]:
    """Verdicts on a model that is worse by exactly the tolerance: the hardest to reject."""
    return list(verdicts(WORSE, {name: {"absolute": loss} for name, loss in losses.items()}))


@pytest.mark.parametrize("metric", ABSOLUTE)
def test_a_truly_worse_model_is_accepted_no_more_often_than_stated(on_worse, metric):
    wrong = np.mean([verdict.metrics[metric].accepted for verdict in on_worse])
    assert wrong <= at_most(0.1)


def test_with_several_metrics_at_once_neither(on_worse):
    assert np.mean([verdict.accepted for verdict in on_worse]) <= at_most(0.1)


@pytest.mark.parametrize("tolerances", [{"mse": 0.04, "auc": 0.02}, {"mse": 0.1, "auc": 0.06}])
def test_an_unchanged_model_is_rejected_no_more_often_than_stated(tolerances):
    """The guard states the chance itself: large where the tolerance is narrow for these rows."""
    judged = list(
        verdicts(UNCHANGED, {name: {"absolute": amount} for name, amount in tolerances.items()})
    )
    for name, amount in tolerances.items():
        stated = np.mean([verdict.metrics[name].false_rejection for verdict in judged])
        wrong = np.mean([not verdict.metrics[name].accepted for verdict in judged])
        assert wrong <= at_most(stated)
        assert (stated < 0.1) == (amount in (0.1, 0.06))
