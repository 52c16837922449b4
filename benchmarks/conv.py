"""Filters of a convolutional autoencoder on Fashion-MNIST, cut to half of its MACs.

One seed (`--seed`); the same recovery for every cut, at several learning rates. Selection (the best
epoch of a recovery, each network's best rate) is by validation rows; test rows only score.

How far the cuts lie apart depends on how far the baseline has come: one that was trained briefly
still gains from any epoch, which hides what a cut has cost. It depends on the rate as much: at a
tenth of the baseline's, as networks are often fine-tuned, little is learned that a cut has lost; at
its own, a network nearly learns anew. So the last table holds each at the rate that suits it best.

Magnitude is the classical control: the L2 norm of each filter, nothing repaired; the same share of
every layer, or whichever filters have the lowest norms.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.decomposition import PCA

import secateur
from benchmarks.fashion import print_table, splits
from secateur.metrics import mean_squared_error, squared_errors
from secateur.saving import architecture, from_architecture

TARGET = {"macs": 0.5}
TRAINING = {"batch": 128, "learning_rate": 2e-3}
RATES = (2e-4, 1e-3, 2e-3)
OURS = "OBS, least squares"
CUTS = {
    OURS: {"importance": "obs", "compensate": "least_squares"},
    "magnitude": {"importance": "magnitude", "compensate": "none", "scope": "local"},
    "magnitude, global": {"importance": "magnitude", "compensate": "none", "scope": "global"},
    "random": {"importance": "random", "compensate": "none", "scope": "local"},
}
Train = Callable[..., keras.Model]


def network() -> keras.Model:
    """BatchNorm, a skip connection, a Flatten-Dense-Reshape bottleneck, transposed convolutions."""
    image = keras.Input((28, 28, 1))

    def block(x: object, kind: type[keras.Layer], filters: int, strides: int, relu: bool = True):
        x = kind(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        return layers.ReLU()(x) if relu else x

    h = block(image, layers.Conv2D, 16, 2)
    skip = block(h, layers.Conv2D, 32, 2)
    h = block(skip, layers.Conv2D, 32, 1)
    h = block(h, layers.Conv2D, 32, 1, relu=False)
    h = layers.ReLU()(layers.Add()([h, skip]))
    code = layers.Dense(32, name="code")(layers.Flatten()(h))
    h = layers.Dense(7 * 7 * 32, activation="relu")(code)
    h = layers.Reshape((7, 7, 32))(h)
    h = block(h, layers.Conv2DTranspose, 32, 2)
    h = block(h, layers.Conv2DTranspose, 16, 2)
    return keras.Model(image, layers.Conv2D(1, 3, padding="same", activation="sigmoid")(h))


def main() -> None:
    """Train, cut, recover at every rate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20, help="of the baseline")
    parser.add_argument("--recovery", type=int, default=3, help="epochs")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="of recovery")
    parser.add_argument("--cuts", choices=CUTS, nargs="+", default=list(CUTS)[:3])
    parser.add_argument("--calibration", type=int, default=4_000, help="rows that a cut looks at")
    parser.add_argument("--from-scratch", action="store_true", help="our shape, as many epochs")
    parser.add_argument("--baselines", type=Path, help="a folder that keeps them for another run")
    arguments = parser.parse_args()
    train, validation, test = (rows.reshape(-1, 28, 28, 1) for rows in splits())

    def trained(model: keras.Model, epochs: int, **rate: float) -> keras.Model:
        return secateur.recover(
            model, train, validation, epochs=epochs, patience=epochs, seed=arguments.seed,
            **{**TRAINING, **rate},
        )[0]  # fmt: skip

    baseline = _baseline(arguments, trained)
    reference = mean_squared_error(baseline, test)

    def scored(error: float) -> list[str]:
        return [f"{error:.5f}", f"{error / reference:.3f}"]

    networks = {"baseline": baseline}
    _print_row("network", "parameters", "MACs", "cut takes (s)", "test MSE after the cut",
               "compensated", "to baseline", is_head=True)  # fmt: skip
    _print_row("PCA, code 32", "", "", "", "", *scored(_pca_error(train, test)))
    _print_row("baseline", *_sizes(baseline), "", "", *scored(reference))
    for name in dict.fromkeys([OURS, *arguments.cuts]):
        start = time.monotonic()
        networks[name], report = secateur.shrink(
            baseline, train[: arguments.calibration], "units", TARGET, **CUTS[name]
        )
        seconds = f"{time.monotonic() - start:.0f}"
        bare, error = (
            mean_squared_error(one, test) for one in (report.uncompensated, networks[name])
        )
        _print_row(name, *_sizes(networks[name]), seconds, f"{bare:.5f}", *scored(error))

    networks["baseline, trained on"] = networks.pop("baseline")
    print(f"\n{arguments.recovery} epochs of recovery:\n")
    _print_row("rate", "network", "validation MSE", "test MSE", "to baseline", "ours to it",
               is_head=True)  # fmt: skip
    best: dict[str, tuple[float, float, float]] = {}
    for rate in arguments.rates:
        ours = None
        for name in sorted(networks, key=lambda name: name != OURS):
            found = trained(networks[name], arguments.recovery, learning_rate=rate)
            chosen_by, error = (mean_squared_error(found, rows) for rows in (validation, test))
            ours = error if name == OURS else ours
            _print_row(f"{rate:g}", name, f"{chosen_by:.5f}", *scored(error), f"{ours / error:.3f}")
            best[name] = min(best.get(name, (np.inf, 0, 0)), (chosen_by, rate, error))
    print("\nEach at its best rate by validation:\n")
    rows = [
        [name, f"{rate:g}", *scored(error), f"{best[OURS][2] / error:.3f}"]
        for name, (_, rate, error) in best.items()
    ]
    print_table(["network", "rate", "test MSE", "to baseline", "ours to it"], rows)
    if arguments.from_scratch:
        keras.utils.set_random_seed(arguments.seed)
        fresh = trained(from_architecture(architecture(networks[OURS])), arguments.epochs)
        error, ratio = scored(mean_squared_error(fresh, test))
        print(f"\nOur shape from scratch, {arguments.epochs} epochs: {error}, {ratio} to baseline")


def _baseline(arguments: argparse.Namespace, trained: Train) -> keras.Model:
    name = f"conv_{arguments.seed}_{arguments.epochs}.keras"
    kept = arguments.baselines and arguments.baselines / name
    if kept and kept.is_file():
        return secateur.load(kept)
    keras.utils.set_random_seed(arguments.seed)
    baseline = trained(network(), arguments.epochs)
    if kept:
        secateur.save(baseline, kept)
    return baseline


def _print_row(*cells: str, is_head: bool = False) -> None:
    """A row of a Markdown table, at once, as what comes before it may take minutes."""
    print(f"| {' | '.join(cells)} |", flush=True)
    if is_head:
        print(f"|{'---|' * len(cells)}")


def _sizes(model: keras.Model) -> tuple[str, str]:
    counted = secateur.costs(model)
    return f"{counted.parameters:,}", f"{counted.macs:,}"


def _pca_error(train: np.ndarray, test: np.ndarray) -> float:
    flat = [rows.reshape(len(rows), -1) for rows in (train, test)]
    pca = PCA(32, random_state=0).fit(flat[0])
    return float(squared_errors(flat[1], pca.inverse_transform(pca.transform(flat[1]))).mean())


if __name__ == "__main__":
    main()
