"""Quality of the dense network on Fashion-MNIST with single weights gone, and with units gone.

The baseline is that of `benchmarks.dense`: 30 epochs of batch 128. Weights leave in one cut by the
closed form and the network recovers for 3 epochs; units leave in one cut to a number of
parameters, spread over the layers by what each has to lose, and the network recovers for 8.
Learning rates and batches were chosen by validation rows; test rows only score.

The peers' figures are those measured once on the same data and network, with their own baselines:
tensorflow-model-optimization with 3 epochs, and Torch-Pruning's best (Taylor, 5 steps with an
epoch each and 3 after them). They need other versions of Keras and another framework, and are not
run here.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import secateur
from benchmarks.fashion import network, print_table, splits
from secateur.metrics import mean_squared_error

RECOVERY = {"batch": 64, "learning_rate": 2e-3}
TFMOT = {120_387: 0.01101, 49_121: 0.01749}
TORCH_PRUNING = {222_384: 0.01081, 107_504: 0.01650}


def main() -> None:
    """Train, cut, recover, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--baseline", type=Path, help="a baseline that was trained before")
    parser.add_argument("--only", choices=("weights", "units"))
    asked = parser.parse_args()
    train, validation, test = splits()
    baseline = _baseline(asked, train, validation)

    def recovered(model: keras.Model, epochs: int) -> keras.Model:
        return secateur.recover(
            model, train, validation, epochs=epochs, patience=epochs, seed=asked.seed, **RECOVERY
        )[0]

    def row(name: str, method: str, target: dict[str, int], epochs: int, **options: Any) -> None:
        start = time.monotonic()
        cut, report = secateur.shrink(baseline, train[:8_000], method, target=target, **options)
        seconds = time.monotonic() - start
        final = mean_squared_error(recovered(cut, epochs), test)
        ((_, amount),) = target.items()
        peer = (TFMOT if method == "weights" else TORCH_PRUNING)[amount]
        rows.append(
            [
                name, f"{report.budget['reached']:,}",
                mean_squared_error(report.uncompensated, test), mean_squared_error(cut, test),
                final, f"{final / peer:.3f} of {peer}", f"{seconds:.0f}",
            ]
        )  # fmt: skip

    reference = mean_squared_error(baseline, test)
    rows: list[list[Any]] = [
        ["baseline", f"{baseline.count_params():,}", "", "", reference, "", ""],
    ]
    for epochs in (3, 8):
        longer = mean_squared_error(recovered(baseline, epochs), test)
        rows.append([f"baseline, {epochs} epochs more", "", "", "", longer, "", ""])
    for count in TFMOT if asked.only != "units" else ():
        row("weights, obs", "weights", {"nonzeros": count}, 3)
        plain = {"importance": "magnitude", "compensate": "none"}
        row("weights, magnitude", "weights", {"nonzeros": count}, 3, **plain)
    for count in TORCH_PRUNING if asked.only != "weights" else ():
        row("units, obs, adaptive", "units", {"parameters": count}, 8)
        plain = {"importance": "magnitude", "compensate": "none", "scope": "local"}
        row("units, magnitude, local", "units", {"parameters": count}, 8, **plain)
    for one in rows:
        one[2:5] = [f"{cell:.5f}" if isinstance(cell, float) else cell for cell in one[2:5]]
    print_table(
        ["network", "left", "after the cut", "after compensation", "test MSE, recovered", "peer's",
         "cut takes (s)"],
        rows,
    )  # fmt: skip


def _baseline(asked: argparse.Namespace, train: np.ndarray, validation: np.ndarray) -> keras.Model:
    if asked.baseline and asked.baseline.is_file():
        return secateur.load(asked.baseline)
    keras.utils.set_random_seed(asked.seed)
    trained, _ = secateur.recover(
        network(), train, validation, epochs=asked.epochs, patience=asked.epochs, seed=asked.seed
    )
    if asked.baseline:
        secateur.save(trained, asked.baseline)
    return trained


if __name__ == "__main__":
    main()
