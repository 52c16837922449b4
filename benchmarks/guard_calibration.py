"""How often the guard is wrong, on draws from populations whose losses are known.

Errors are lognormal (sigma 0.6), with a noise of each model's own (sigma 0.2). *Accepted though
worse*: of candidates whose true loss is exactly the tolerance, the share let through; it should be
at most 5%. *Rejected though unchanged*: of candidates that lost nothing, at tolerances of 1 and 2
of the bounds' median margins over the loss, the share turned away, and what the guard says itself
of that chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.fashion import print_table
from secateur.guard import Verdict, judge

METRICS = ("mse", "p99_error", "auc", "partial_auc", "spearman", "decisions")
SIZES = ((300, 30), (1000, 100), (5000, 300))
WORSE, UNCHANGED = (1.05, 0.15), (1.0, 0.0)


def main() -> None:
    """Draw, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--confidence", type=float, default=0.95)
    asked = parser.parse_args()
    truth = true_losses(WORSE)
    rows: list[list[object]] = []
    for size in SIZES:
        worse = list(verdicts(WORSE, size, truth, asked.draws, asked.confidence))
        wrong = {name: np.mean([v.metrics[name].accepted for v in worse]) for name in METRICS}
        margins = {
            name: float(
                np.median([v.metrics[name].upper_bound - v.metrics[name].loss for v in worse])
            )
            for name in METRICS
        }
        told: dict[float, list[Verdict]] = {
            times: list(
                verdicts(
                    UNCHANGED, size, {name: times * margins[name] for name in METRICS},
                    asked.draws, asked.confidence,
                )
            )
            for times in (1, 2)
        }  # fmt: skip
        for name in METRICS:
            row: list[object] = [*size, name, f"{truth[name]:.4f}", f"{wrong[name]:.1%}"]
            for times, judged in told.items():
                row.append(f"{times * margins[name]:.4f}")
                if name in ("spearman", "decisions"):
                    row.append("")  # no two models that differ agree in all
                    continue
                seen = np.mean([not v.metrics[name].accepted for v in judged])
                stated = np.mean([v.metrics[name].false_rejection for v in judged])
                row.append(f"{seen:.1%} ({stated:.1%})")
            rows.append(row)
        together = np.mean([v.accepted for v in worse])
        rows.append([*size, "all at once", "", f"{together:.1%}", "", "", "", ""])
    print_table(
        ["rows", "anomalies", "metric", "true loss", "accepted though worse", "tolerance",
         "rejected though unchanged (stated)", "tolerance", "rejected though unchanged (stated)"],
        rows,
    )  # fmt: skip


def draw(
    random: np.random.Generator, rise: float, shift: float, rows: int, anomalies: int
) -> dict[str, np.ndarray]:
    """Errors of two models that see the same difficulty in a row."""
    normal, far = random.lognormal(0, 0.6, rows), random.lognormal(1.6, 0.6, anomalies)

    def seen(errors: np.ndarray) -> np.ndarray:
        return errors * random.lognormal(0, 0.2, len(errors))

    return {
        "baseline_errors": seen(normal),
        "candidate_errors": seen(normal) * rise,
        "baseline_anomaly_errors": seen(far),
        "candidate_anomaly_errors": seen(far) * rise * np.exp(-shift),
    }


def verdicts(
    population: tuple[float, float],
    size: tuple[int, int],
    tolerances: dict[str, float],
    draws: int,
    confidence: float,
) -> Iterator[Verdict]:
    """The guard's verdicts on repeated draws."""
    metrics: dict[str, Any] = {name: {"absolute": amount} for name, amount in tolerances.items()}
    for seed in range(draws):
        random = np.random.default_rng([21, seed])
        yield judge(
            **draw(random, *population, *size),
            metrics=metrics,
            confidence=confidence,
            resamples=500,
            seed=seed,
            alarm_quantile=0.95,
        )


def true_losses(population: tuple[float, float]) -> dict[str, float]:
    """Of a sample so large that chance is no matter."""
    many = draw(np.random.default_rng(20), *population, 1_000_000, 300_000)
    generous: dict[str, Any] = {name: {"absolute": 9.0} for name in METRICS}
    found = judge(**many, metrics=generous, resamples=100, alarm_quantile=0.95).metrics
    return {name: one.loss for name, one in found.items()}


if __name__ == "__main__":
    main()
