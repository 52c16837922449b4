"""Quality of the dense network on Fashion-MNIST, cut to 75, 50 and 25% of its hidden width.

One seed (`--seed`), 30 epochs of batch 128 for the baseline and for the networks from scratch, 3
epochs of recovery. Selection (the best epoch) is by validation rows; test rows only score.
"""

from __future__ import annotations

import argparse
import time

import keras
from sklearn.decomposition import PCA

import secateur
from benchmarks.fashion import network, print_table, splits
from secateur.metrics import mean_squared_error, squared_errors

WIDTHS = (0.75, 0.5, 0.25)
# The best on validation rows of batches 64 and 128 with learning rates 0.001 to 0.004.
RECOVERY = {"batch": 64, "learning_rate": 2e-3}


def main() -> None:
    """Train, cut, recover, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--recovery", type=int, default=3)
    arguments = parser.parse_args()
    seed, epochs = arguments.seed, arguments.epochs
    train, validation, test = splits()

    def trained_from_scratch(width: float) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return secateur.recover(
            network(width), train, validation, epochs=epochs, patience=epochs, seed=seed
        )[0]

    pca = PCA(32, random_state=seed).fit(train)
    pca_mse = squared_errors(test, pca.inverse_transform(pca.transform(test))).mean()
    baseline = trained_from_scratch(1.0)
    reference = mean_squared_error(baseline, test)
    rows: list[list[object]] = [
        ["PCA, code 32", "", f"{pca_mse:.5f}", "", "", f"{pca_mse / reference:.3f}", "", ""],
        ["baseline", f"{baseline.count_params():,}", f"{reference:.5f}", "", "", "1.000", "", ""],
    ]
    for width in WIDTHS:
        start = time.monotonic()
        cut, report = secateur.shrink(baseline, train[:8_000], "units", keep=width)
        seconds = time.monotonic() - start
        recovered, _ = secateur.recover(
            cut, train, validation, epochs=arguments.recovery, seed=seed, **RECOVERY
        )
        scratch = mean_squared_error(trained_from_scratch(width), test)
        uncompensated = mean_squared_error(report.uncompensated, test)
        final = mean_squared_error(recovered, test)
        rows.append(
            [
                f"{width:.0%} of the width",
                f"{cut.count_params():,}",
                f"{final:.5f}",
                f"{uncompensated:.5f}",
                f"{mean_squared_error(cut, test):.5f}",
                f"{final / reference:.3f}",
                f"{scratch:.5f} ({final / scratch:.3f})",
                f"{seconds:.1f}",
            ]
        )
    print_table(
        ["network", "parameters", "test MSE", "after the cut", "after compensation",
         "to baseline", f"from scratch, {epochs} epochs (ratio)", "cut takes (s)"],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
