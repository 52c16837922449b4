"""Removing layers and factoring kernels beside cutting units, at equal MACs, on Fashion-MNIST.

    python -m benchmarks.structures [--epochs 15] [--removed 1 2]

The dense network loses one hidden layer, then two; `low_rank` and `units` get the MACs that this
leaves as their target. Every cut recovers for 3 epochs, and its shape is trained from scratch as
long as the baseline. One seed; the best epoch is chosen by validation rows, test rows only score.
"""

from __future__ import annotations

import argparse

import keras
from sklearn.decomposition import PCA

import secateur
from benchmarks.dense import RECOVERY
from benchmarks.fashion import network, splits
from secateur.costs import count_macs
from secateur.metrics import mean_squared_error, squared_errors
from secateur.saving import architecture, from_architecture

HEADER = ["network", "MACs", "parameters", "after the cut", "after compensation",
          "test MSE after 3 epochs", "to baseline", "same shape from scratch"]  # fmt: skip


def main() -> None:
    """Train, cut, recover; each row is printed when it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--removed", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    seed, epochs = arguments.seed, arguments.epochs
    train, validation, test = splits()

    def trained(model: keras.Model) -> keras.Model:
        options = {"epochs": epochs, "patience": epochs}
        return secateur.recover(model, train, validation, seed=seed, **options)[0]

    def from_scratch(model: keras.Model) -> float:
        keras.utils.set_random_seed(seed)
        return mean_squared_error(trained(from_architecture(architecture(model))), test)

    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    keras.utils.set_random_seed(seed)
    baseline = trained(network())
    reference, macs = mean_squared_error(baseline, test), count_macs(baseline)[0]
    pca = PCA(32, random_state=seed).fit(train)
    pca_mse = squared_errors(test, pca.inverse_transform(pca.transform(test))).mean()
    _print("PCA, code 32", 2 * 784 * 32, "", "", "", f"{pca_mse:.5f}", pca_mse / reference, "")
    _print("baseline", macs, baseline.count_params(), "", "", f"{reference:.5f}", 1.0, "")
    sample = train[:8_000]
    for removed in arguments.removed:
        cuts = {"layers": secateur.shrink(baseline, sample, "layers", count=removed)}
        target = {"macs": count_macs(cuts["layers"][0])[0]}
        cuts |= {
            method: secateur.shrink(baseline, sample, method, target=target)
            for method in ("low_rank", "units")
        }
        for method, (cut, report) in cuts.items():
            recovered, _ = secateur.recover(cut, train, validation, epochs=3, seed=seed, **RECOVERY)
            after = mean_squared_error(recovered, test)
            _print(
                f"{method}, {count_macs(cut)[0] / macs:.0%} of the MACs",
                count_macs(cut)[0],
                cut.count_params(),
                f"{mean_squared_error(report.uncompensated, test):.5f}",
                f"{mean_squared_error(cut, test):.5f}",
                f"{after:.5f}",
                after / reference,
                f"{from_scratch(cut):.5f}",
            )


def _print(name: str, macs: int, parameters: object, *cells: object) -> None:
    numbers = [f"{one:.3f}" if isinstance(one, float) else str(one) for one in cells]
    count = f"{parameters:,}" if isinstance(parameters, int) else parameters
    print(f"| {' | '.join([name, f'{macs:,}', str(count), *numbers])} |", flush=True)


if __name__ == "__main__":
    main()
