"""Detection on ADBench's data: does a detector of a quarter of the MACs still tell anomalies apart?

    python -m benchmarks.adbench FOLDER [FOLDER …]

Each folder holds one `.npz` of github.com/Minqi824/ADBench with `X` and `y` (1 = anomaly). Normal
rows are dealt 70 : 15 : 15 into training, validation and test, anomalies in half into validation
and test; features are standardised by training rows. The goal is a quarter of the MACs, and the
guard watches the AUC on validation rows, by which recoveries choose their best epoch too;
`--baseline` says what the baseline chooses its own by. Test rows only score: the difference of the
areas with its paired 95% confidence interval (of the seed's own rows), and over all seeds.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import keras
import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import secateur
from benchmarks.fashion import print_table
from secateur.autoencoders import dense
from secateur.metrics import roc_auc, row_errors

WIDTHS, CODE_SHARE = (64, 32), 0.25
TRAINING = {"epochs": 200, "batch": 64, "learning_rate": 2e-3, "patience": 20}
# Longer than the baseline was trained; what shorter ones lose is in `docs/goals.md`.
RECOVERY = {
    "epochs": 300, "batch": 64, "learning_rate": 2e-3, "patience": 60, "monitor": "auc",
}  # fmt: skip
GOAL = {"fit": {"macs": 0.25}}
# What the fewest anomalies can hold, 35 for validation: a stricter one rejects by chance.
GUARD = {"metrics": {"auc": {"absolute": 0.1}}}
ROUNDS = 6


def main() -> None:
    """Train, climb, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--baseline", choices=["loss", "auc"], default="loss")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    rows: list[list[object]] = []
    for folder in asked.folders:
        (path,) = folder.glob("*.npz")
        with np.load(path) as archive:
            X, y = archive["X"], archive["y"].astype(bool)
        lost = []
        for seed in range(asked.seeds):
            row, drop = compared(X, y, seed, asked.baseline)
            rows.append([path.stem, seed, *row])
            lost.append(drop)
        spread = np.std(lost, ddof=1) if len(lost) > 1 else float("nan")
        mean = f"{np.mean(lost):+.4f} ± {spread:.4f}"
        rows.append([path.stem, "all", "", "", "", "", mean, "", ""])
    print_table(
        ["data", "seed", "MACs", "times fewer", "AUC of baseline", "of champion", "lost",
         "95% interval", "rounds"],
        rows,
    )  # fmt: skip


def compared(X: np.ndarray, y: np.ndarray, seed: int, monitor: str) -> tuple[list[object], float]:
    """One row of the table, and what the AUC lost on test rows."""
    train, rest = train_test_split(X[~y], test_size=0.3, random_state=seed)
    validation, test = train_test_split(rest, test_size=0.5, random_state=seed)
    known, unknown = train_test_split(X[y], test_size=0.5, random_state=seed)
    scaler = StandardScaler().fit(train)
    train, validation, test, known, unknown = (
        scaler.transform(part).astype(np.float32)
        for part in (train, validation, test, known, unknown)
    )
    keras.utils.set_random_seed(seed)
    features = X.shape[1]
    untrained = dense(features, WIDTHS, max(2, round(CODE_SHARE * features)))
    baseline, _ = secateur.recover(
        untrained, train, validation, anomalies=known, seed=seed, monitor=monitor, **TRAINING
    )
    ladder = secateur.compress(
        baseline, train, validation, [{"recovery": RECOVERY}] * ROUNDS,
        guard=GUARD, goal=GOAL, anomalies=known, seed=seed,
    )  # fmt: skip
    champion = ladder.champion
    before, after = (
        {"rows": row_errors(model, test), "anomalies": row_errors(model, unknown)}
        for model in (baseline, champion)
    )
    auc = [roc_auc(errors["rows"], errors["anomalies"]) for errors in (before, after)]
    interval = [-bound(after, before), bound(before, after)]
    macs = [secateur.costs(model).macs for model in (baseline, champion)]
    said = "".join("✓" if rung.verdict.accepted else "✗" for rung in ladder.rungs)
    return [
        f"{macs[0]:,} → {macs[1]:,}",
        f"{macs[0] / macs[1]:.2f}",
        f"{auc[0]:.4f}",
        f"{auc[1]:.4f}",
        f"{auc[0] - auc[1]:+.4f}",
        f"{interval[0]:+.4f} … {interval[1]:+.4f}",
        said,
    ], auc[0] - auc[1]


def bound(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The upper bound of what the AUC lost from one model to the other, at 97.5%."""
    verdict = secateur.judge(
        one["rows"], other["rows"], confidence=0.975, metrics={"auc": {"absolute": 1.0}},
        baseline_anomaly_errors=one["anomalies"], candidate_anomaly_errors=other["anomalies"],
    )  # fmt: skip
    return verdict.metrics["auc"].upper_bound


if __name__ == "__main__":
    main()
