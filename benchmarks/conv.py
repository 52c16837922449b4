"""Filters of a convolutional autoencoder on Fashion-MNIST, cut to half of its MACs.

One seed (`--seed`); 20 epochs for the baseline and for the same shape from scratch; 3 epochs of
recovery, the same for every cut. Selection (the best epoch, the recovery's learning rate) is by
validation rows; test rows only score.

How far the cuts lie apart depends on how far the baseline has come: one that was trained briefly
still gains from any epoch, which hides what a cut has cost. Magnitude is the classical control: the
L2 norm of each filter, the same share of every layer, nothing repaired.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

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
CUTS = {
    "OBS, least squares": {"importance": "obs", "compensate": "least_squares"},
    "magnitude, uncompensated": {"importance": "magnitude", "compensate": "none", "scope": "local"},
    "random, uncompensated": {"importance": "random", "compensate": "none", "scope": "local"},
}


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
    """Train, cut, recover, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--recovery", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of the recovery")
    parser.add_argument("--calibration", type=int, default=4_000, help="rows that a cut looks at")
    arguments = parser.parse_args()
    train, validation, test = (rows.reshape(-1, 28, 28, 1) for rows in splits())

    def trained(model: keras.Model, epochs: int, **rate: float) -> keras.Model:
        return secateur.recover(
            model, train, validation, epochs=epochs, patience=epochs, seed=arguments.seed,
            **{**TRAINING, **rate},
        )[0]  # fmt: skip

    def recovered(model: keras.Model) -> keras.Model:
        return trained(model, arguments.recovery, learning_rate=arguments.rate)

    keras.utils.set_random_seed(arguments.seed)
    baseline = trained(network(), arguments.epochs)
    reference = mean_squared_error(baseline, test)

    def row(name: str, model: keras.Model, *steps: object) -> list[object]:
        counted, error = secateur.costs(model), mean_squared_error(model, test)
        sizes = f"{counted.parameters:,}", f"{counted.macs:,}"
        return [name, *sizes, *steps, f"{error:.5f}", f"{error / reference:.3f}"]

    rows = [
        _pca(train, test, reference, arguments.seed),
        row("baseline", baseline, "", "", ""),
        row("baseline, trained on", recovered(baseline), "", "", ""),
    ]
    shapes = {}
    for name, options in CUTS.items():
        start = time.monotonic()
        cut, report = secateur.shrink(
            baseline, train[: arguments.calibration], "units", TARGET, **options
        )
        seconds = f"{time.monotonic() - start:.0f}"
        steps = (mean_squared_error(model, test) for model in (report.uncompensated, cut))
        shapes[name] = cut
        rows.append(row(name, recovered(cut), *(f"{error:.5f}" for error in steps), seconds))
    keras.utils.set_random_seed(arguments.seed)
    fresh = from_architecture(architecture(next(iter(shapes.values()))))
    rows.append(row("that shape from scratch", trained(fresh, arguments.epochs), "", "", ""))
    print_table(
        ["network", "parameters", "MACs", "after the cut", "after compensation", "cut takes (s)",
         "test MSE", "to baseline"],
        rows,
    )  # fmt: skip


def _pca(train: np.ndarray, test: np.ndarray, reference: float, seed: int) -> list[Any]:
    flat = [rows.reshape(len(rows), -1) for rows in (train, test)]
    pca = PCA(32, random_state=seed).fit(flat[0])
    error = squared_errors(flat[1], pca.inverse_transform(pca.transform(flat[1]))).mean()
    return ["PCA, code 32", "", "", "", "", "", f"{error:.5f}", f"{error / reference:.3f}"]


if __name__ == "__main__":
    main()
