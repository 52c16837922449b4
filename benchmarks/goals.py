"""Goals on Fashion-MNIST's dense network: how small it gets by itself, and how good it stays.

Three goals: as few parameters as the guard allows within 5% and within 10% of the baseline's error,
and a tenth of the parameters, whatever it costs within 60%. Beside them PCA with as many parameters
(counted once, as it shares them between coding and decoding, and counted twice, as a network holds
them) and the last goal's shape from scratch, trained as long as the baseline. Choices are made on
validation rows; test rows only score.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import keras
import numpy as np
from sklearn.decomposition import PCA

import secateur
from benchmarks.fashion import network, print_table, splits
from secateur.ladder import Ladder
from secateur.metrics import mean_squared_error, squared_errors
from secateur.saving import architecture, from_architecture

GOALS = {
    "within 5%": {"within": 0.05, "step": 0.5},
    "within 10%": {"within": 0.10, "step": 0.5},
    "a tenth": {"within": 0.60, "fit": {"parameters": 0.1}, "step": 0.47},
}
ROUNDS = 6


def main() -> None:
    """Train, climb, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30, help="of baseline and from scratch")
    parser.add_argument("--recovery", type=int, default=30, help="epochs of a round, at most")
    parser.add_argument("--goal", choices=GOALS, action="append", help="all, if none is named")
    parser.add_argument("--baseline", type=Path, help="kept here, and taken from here if it exists")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    train, validation, test = splits()

    def trained(model: keras.Model) -> keras.Model:
        return secateur.recover(
            model, train, validation, epochs=asked.epochs, patience=asked.epochs, seed=asked.seed
        )[0]

    if asked.baseline and asked.baseline.exists():
        baseline = secateur.load(asked.baseline)
    else:
        keras.utils.set_random_seed(asked.seed)
        baseline = trained(network())
        if asked.baseline:
            secateur.save(baseline, asked.baseline)
    reference, whole = mean_squared_error(baseline, test), baseline.count_params()

    def row(name: str, parameters: int, mse: float, note: str = "") -> list[object]:
        share = f"{parameters:,} ({parameters / whole:.1%})"
        return [name, share, f"{mse:.5f}", f"{mse / reference:.3f}", note]

    rows = [row("baseline", whole, reference)]
    recovery = {
        "epochs": asked.recovery, "patience": 10, "batch": 64, "learning_rate": 2e-3,
    }  # fmt: skip
    for name in asked.goal or GOALS:
        start = time.monotonic()
        ladder = secateur.compress(
            baseline, train, validation, [{"recovery": recovery}] * ROUNDS,
            goal=GOALS[name], seed=asked.seed,
        )  # fmt: skip
        champion = ladder.champion
        minutes = (time.monotonic() - start) / 60
        note = f"{told(ladder)}; {minutes:.0f} min"
        mse = mean_squared_error(champion, test)
        rows.append(row(name, champion.count_params(), mse, note))
        if name != "a tenth":
            continue
        keras.utils.set_random_seed(asked.seed)
        scratch = trained(reinitialised(champion))
        rows.append(
            row("its shape from scratch", scratch.count_params(), mean_squared_error(scratch, test))
        )
        for label, times in (("PCA, counted once", 1), ("PCA, counted twice", 2)):
            code = (champion.count_params() - 784) // (784 * times)
            pca = PCA(code, random_state=asked.seed).fit(train)
            error = squared_errors(test, pca.inverse_transform(pca.transform(test))).mean()
            rows.append(row(f"{label}: code {code}", 784 * (times * code + 1), float(error)))
    print_table(["model", "parameters", "test MSE", "to baseline", "rounds"], rows)


def told(ladder: Ladder) -> str:
    """Every round's parameters and what the guard said."""
    return ", ".join(
        f"{rung.costs.parameters:,} {'✓' if rung.verdict.accepted else '✗'} "
        f"{rung.verdict.metrics['mse'].upper_bound:+.1%}"
        for rung in ladder.rungs
    )


def reinitialised(model: keras.Model) -> keras.Model:
    """The same architecture with new weights."""
    fresh = from_architecture(architecture(model))
    assert not all(map(np.array_equal, fresh.get_weights(), model.get_weights()))
    return fresh


if __name__ == "__main__":
    main()
