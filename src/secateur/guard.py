"""Did quality hold? Paired tests on validation rows, never a bare mean.

Every guarded metric has a loss that is zero where nothing changed and larger the worse a candidate
is, and an upper confidence bound of that loss. A candidate is accepted if every bound lies within
its tolerance. That needs no correction for the number of metrics: a candidate that is truly worse
in one of them must get past that one (intersection-union test, Berger 1982). `docs/guard.md` has
the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from secateur.detection import anomalous, threshold
from secateur.errors import InputError
from secateur.metrics import FALSE_POSITIVE_RATE, roc_auc, roc_parts, spearman_parts
from secateur.settings import GuardedMetric, Tolerance, guard_settings

_RESAMPLES_AT_ONCE = 64
_QUANTILE = 0.99  # of the worst-case error


@dataclass(frozen=True)
class Finding:
    """What the guard found of one metric.

    Attributes:
        accepted: whether the upper bound lies within the tolerance.
        baseline: the metric of the baseline.
        candidate: the metric of the candidate.
        loss: what was lost, in the tolerance's measure; below zero where something was gained.
        upper_bound: the upper confidence bound of the loss.
        tolerance: the largest loss accepted.
        relative: whether loss, bound and tolerance are fractions of the baseline's.
        false_rejection: the chance that a candidate that lost nothing would be rejected, for the
            spread of these rows alone. Large where the rows are too few for the tolerance.
    """

    accepted: bool
    baseline: float
    candidate: float
    loss: float
    upper_bound: float
    tolerance: float
    relative: bool
    false_rejection: float


@dataclass(frozen=True)
class Verdict:
    """What the guard found.

    Attributes:
        accepted: whether every metric held.
        metrics: the finding of each guarded metric, by name.
        confidence: of each bound, one-sided, and so of an acceptance.
        resamples: of the bootstraps.
    """

    accepted: bool
    metrics: dict[str, Finding]
    confidence: float
    resamples: int

    @property
    def failed(self) -> list[str]:
        """The names of the metrics that did not hold."""
        return [name for name, finding in self.metrics.items() if not finding.accepted]


@dataclass(frozen=True)
class Errors:
    """Two models' mean squared errors of the same rows, in the same order.

    Attributes:
        baseline: (rows,) of validation rows.
        candidate: (rows,).
        baseline_anomalies: (anomalies,) of anomalies that neither model was trained on; may be
            empty.
        candidate_anomalies: (anomalies,).
        alarm_quantile: share of the rows that lies within a model's detection threshold.
    """

    baseline: np.ndarray
    candidate: np.ndarray
    baseline_anomalies: np.ndarray
    candidate_anomalies: np.ndarray
    alarm_quantile: float = 0.99

    @property
    def are_the_same(self) -> bool:
        """Whether there is nothing to tell the models apart by."""
        return np.array_equal(self.baseline, self.candidate) and np.array_equal(
            self.baseline_anomalies, self.candidate_anomalies
        )


@dataclass(frozen=True)
class _Test:
    """A metric's values and its loss, with what chance does to it.

    Attributes:
        baseline: the metric of the baseline.
        candidate: the metric of the candidate.
        loss: of the candidate.
        upper_bound: of the loss.
        bounds_without_loss: upper bounds that a model that lost nothing might get.
    """

    baseline: float
    candidate: float
    loss: float
    upper_bound: float
    bounds_without_loss: np.ndarray


def judge(
    baseline_errors: np.ndarray,
    candidate_errors: np.ndarray,
    tolerance: float | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    *,
    metrics: Mapping[Any, Mapping[str, float] | Tolerance] | None = None,
    baseline_anomaly_errors: np.ndarray | None = None,
    candidate_anomaly_errors: np.ndarray | None = None,
    alarm_quantile: float = 0.99,
) -> Verdict:
    """Whether a candidate is as good as the baseline, within tolerances.

    Rows are resampled in pairs (Efron & Tibshirani 1993, percentile bootstrap): what makes a row
    hard is common to both models and cancels, so a small true change is not drowned by the rows'
    own spread.

    Args:
        baseline_errors: (rows,) the baseline's mean squared error of each validation row.
        candidate_errors: (rows,) the candidate's, of the same rows in the same order.
        tolerance: largest accepted relative rise of the mean of these errors, ≥ 0; short for
            `metrics={"mse": {"relative": tolerance}}`.
        confidence: of the one-sided upper bounds, in [0.5, 1).
        resamples: of the bootstraps.
        seed: of the bootstraps.
        metrics: what is guarded, by name, and the largest loss of it: `relative`, a fraction of
            the baseline's, or `absolute`. `mse`; `p99_error`, the 99th percentile of the errors;
            `spearman`, the rank agreement of the two models' errors; `decisions`, the share of rows
            of which both models, each by its own threshold, say the same; with anomalies `auc`
            and `partial_auc` (up to a false positive rate of 0.1, standardised).
            Without tolerance and metrics, `mse` with a relative 0.1.
        baseline_anomaly_errors: (anomalies,) the baseline's errors of anomalies.
        candidate_anomaly_errors: (anomalies,) the candidate's.
        alarm_quantile: share of the rows that lies within a model's threshold, in (0, 1).

    Raises:
        InputError: a setting is not allowed; the arrays are not of one length of at least 2 or
            hold values that are not finite; there are too few anomalies for a metric; or the
            baseline's value is zero, so that nothing is relative to it.
    """
    settings = guard_settings(
        tolerance=tolerance, confidence=confidence, resamples=resamples, metrics=metrics
    )
    none = np.empty(0)
    errors = Errors(
        np.asarray(baseline_errors),
        np.asarray(candidate_errors),
        none if baseline_anomaly_errors is None else np.asarray(baseline_anomaly_errors),
        none if candidate_anomaly_errors is None else np.asarray(candidate_anomaly_errors),
        alarm_quantile,
    )
    _check(errors)
    settings.check_anomalies(len(errors.baseline_anomalies))
    findings: dict[str, Finding] = {
        name: _find(errors, name, allowed, confidence, resamples, seed)
        for name, allowed in settings.tolerances.items()
    }
    accepted = all(finding.accepted for finding in findings.values())
    return Verdict(accepted, findings, confidence, resamples)


def _find(
    errors: Errors,
    name: GuardedMetric,
    allowed: Tolerance,
    confidence: float,
    resamples: int,
    seed: int,
) -> Finding:
    bootstrap = _Bootstrap(confidence, resamples, np.random.default_rng(seed))
    test = _TESTS[name](errors, allowed.is_relative, bootstrap)
    # Where no row tells the models apart, nothing speaks against the candidate.
    bound = test.loss if errors.are_the_same else test.upper_bound
    return Finding(
        accepted=bound <= allowed.amount,
        baseline=test.baseline,
        candidate=test.candidate,
        loss=test.loss,
        upper_bound=bound,
        tolerance=allowed.amount,
        relative=allowed.is_relative,
        false_rejection=float(np.mean(test.bounds_without_loss > allowed.amount)),
    )


@dataclass(frozen=True)
class _Bootstrap:
    confidence: float
    resamples: int
    random: np.random.Generator

    def of_parts(self, baseline: float, candidate: float, loss: float, *parts: np.ndarray) -> _Test:
        """A test of a loss that varies as the sum of the means of parts does.

        A bootstrap knows no tail but the one it sees, so that its bounds are too low where few
        rows decide. As many rows as may be missing from a sample at this confidence (the rule of
        three) are added, each as bad as the worst that is there.

        Args:
            baseline: the metric of the baseline.
            candidate: the metric of the candidate.
            loss: of the candidate.
            parts: each (rows,), what every row of one kind adds to the loss, around a mean of zero.
        """
        unseen = math.ceil(-math.log(1 - self.confidence))
        padded = [np.append(part, np.repeat(part.max(), unseen)) for part in parts]

        def total(*parts: np.ndarray, axis: int = -1) -> np.ndarray:
            return loss + sum(part.mean(axis=axis) for part in parts)

        return self._test(baseline, candidate, loss, self._distribution(total, padded, pairs=False))

    def of_pairs(
        self,
        baseline: float,
        candidate: float,
        loss: Callable[..., np.ndarray],
        *errors: np.ndarray,
    ) -> _Test:
        """A test of a loss that is a vectorized statistic of the two models' errors."""
        resampled = self._distribution(loss, errors, pairs=True)
        return self._test(baseline, candidate, float(loss(*errors)), resampled)

    def _test(self, baseline: float, candidate: float, loss: float, resampled: np.ndarray) -> _Test:
        bound = max(float(np.quantile(resampled, self.confidence)), loss)
        # What lost nothing shows a loss by chance, spread as here, and the same margin on top.
        by_chance = resampled - resampled.mean()
        return _Test(baseline, candidate, loss, bound, by_chance + bound - loss)

    def _distribution(
        self, statistic: Callable[..., np.ndarray], samples: Sequence[np.ndarray], pairs: bool
    ) -> np.ndarray:
        bootstrapped = stats.bootstrap(
            samples,
            statistic,
            paired=pairs,
            vectorized=True,
            n_resamples=self.resamples,
            batch=_RESAMPLES_AT_ONCE,
            method="percentile",
            rng=self.random,
        )
        return np.asarray(bootstrapped.bootstrap_distribution)


def _mse(errors: Errors, relative: bool, bootstrap: _Bootstrap) -> _Test:
    before, after = float(errors.baseline.mean()), float(errors.candidate.mean())
    _refuse_zero(before, relative)
    if not relative:
        risen = errors.candidate - errors.baseline
        return bootstrap.of_parts(before, after, after - before, risen - risen.mean())
    # The ratio of two means, to first order.
    parts = (errors.candidate - after / before * errors.baseline) / before
    return bootstrap.of_parts(before, after, after / before - 1, parts)


def _p99_error(errors: Errors, relative: bool, bootstrap: _Bootstrap) -> _Test:
    def quantile(values: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.quantile(values, _QUANTILE, axis=axis)

    def rise(candidate: np.ndarray, baseline: np.ndarray, axis: int = -1) -> np.ndarray:
        one, other = quantile(candidate, axis), quantile(baseline, axis)
        return one / other - 1 if relative else one - other

    before, after = float(quantile(errors.baseline)), float(quantile(errors.candidate))
    _refuse_zero(before, relative)
    return bootstrap.of_pairs(before, after, rise, errors.candidate, errors.baseline)


def _auc(
    errors: Errors, relative: bool, bootstrap: _Bootstrap, max_fpr: float | None = None
) -> _Test:
    before = roc_auc(errors.baseline, errors.baseline_anomalies, max_fpr)
    after = roc_auc(errors.candidate, errors.candidate_anomalies, max_fpr)
    theirs, own = (after / before**2, 1 / before) if relative else (1.0, 1.0)
    parts = (
        theirs * of_baseline - own * of_candidate
        for of_baseline, of_candidate in zip(
            roc_parts(errors.baseline, errors.baseline_anomalies, max_fpr),
            roc_parts(errors.candidate, errors.candidate_anomalies, max_fpr),
            strict=True,
        )
    )
    loss = 1 - after / before if relative else before - after
    return bootstrap.of_parts(before, after, loss, *parts)


def _partial_auc(errors: Errors, relative: bool, bootstrap: _Bootstrap) -> _Test:
    return _auc(errors, relative, bootstrap, FALSE_POSITIVE_RATE)


def _spearman(errors: Errors, relative: bool, bootstrap: _Bootstrap) -> _Test:
    """The baseline's own is 1, so that relative and absolute are the same."""
    if min(np.ptp(errors.baseline), np.ptp(errors.candidate)) == 0:
        raise InputError("a model whose errors are all equal ranks nothing: no rank agreement")
    agreement = float(stats.spearmanr(errors.baseline, errors.candidate).statistic)
    parts = spearman_parts(errors.baseline, errors.candidate)
    test = bootstrap.of_parts(1.0, agreement, 1 - agreement, -parts)
    return replace(test, bounds_without_loss=np.zeros(1))  # then the ranks are the same


def _decisions(errors: Errors, relative: bool, bootstrap: _Bootstrap) -> _Test:
    """A share, so its bound is exact (Clopper & Pearson 1934) where a bootstrap sees no rarity.

    Relative is to the share of rows that raise an alarm.
    """
    alarms = [
        anomalous(values, threshold(values, errors.alarm_quantile))
        for values in (errors.baseline, errors.candidate)
    ]
    differing, rows = int(np.count_nonzero(alarms[0] != alarms[1])), len(errors.baseline)
    unit = 1 - errors.alarm_quantile if relative else 1.0
    bound, bound_without = (
        stats.binomtest(count, rows, alternative="less")
        .proportion_ci(bootstrap.confidence, method="exact")
        .high
        / unit
        for count in (differing, 0)
    )
    share = differing / rows
    return _Test(1.0, 1 - share, share / unit, float(bound), np.array([bound_without]))


_TESTS: dict[GuardedMetric, Callable[[Errors, bool, _Bootstrap], _Test]] = {
    "mse": _mse,
    "p99_error": _p99_error,
    "auc": _auc,
    "partial_auc": _partial_auc,
    "spearman": _spearman,
    "decisions": _decisions,
}


def _refuse_zero(value: float, relative: bool) -> None:
    if relative and value == 0:
        raise InputError(
            "the baseline's error is zero; no rise is relative to that, allowed: absolute"
        )


def _check(errors: Errors) -> None:
    pairs = (
        ("row errors", errors.baseline, errors.candidate, 2),
        ("anomaly errors", errors.baseline_anomalies, errors.candidate_anomalies, 0),
    )
    for what, baseline, candidate, least in pairs:
        if baseline.ndim != 1 or baseline.shape != candidate.shape or len(baseline) < least:
            raise InputError(
                f"the guard compares two arrays of {what} of one length, at least {least}; got "
                f"the shapes {baseline.shape} and {candidate.shape}"
            )
        if not (np.isfinite(baseline).all() and np.isfinite(candidate).all()):
            raise InputError(f"the guard got {what} that are not finite")


def described(verdict: Verdict) -> str:
    """The findings in a line, such as `mse +8.1%, at 95% at most +9.3% of +10%`."""
    return "; ".join(
        f"{name} {_amount(found.loss, found)}, at {verdict.confidence:.0%} at most "
        f"{_amount(found.upper_bound, found)} of {_amount(found.tolerance, found)}"
        for name, found in verdict.metrics.items()
    )


def _amount(value: float, finding: Finding | Mapping[str, Any]) -> str:
    relative = finding.relative if isinstance(finding, Finding) else finding["relative"]
    return f"{value:+.1%}" if relative else f"{value:+.4g}"
