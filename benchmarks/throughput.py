"""Training rows a second: the compiled loop beside Keras `fit`, and with XLA beside without.

All train on the same rows of Fashion-MNIST with Adam. Epochs alternate, after one of each that pays
for compilation; medians are printed. The arithmetic of a step is counted as six times the
parameters of the kernels a row (two matmuls backward for one forward), against the speed of a large
float32 matmul measured in between. `--networks` compares XLA with TensorFlow's own kernels on kinds
of networks instead: the table by which networks that convolve run without XLA.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks import conv
from benchmarks.fashion import network, print_table, splits
from secateur.training.loop import Patterns, Tally, compiled_training, convolves
from secateur.training.rows import Blocks

_FEW_ROWS = 1280


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", action="store_true")
    arguments = parser.parse_args()
    train, _, _ = splits()
    if arguments.networks:
        print_table(
            ["network", "XLA (rows/s)", "TensorFlow's kernels (rows/s)", "chosen"],
            [_compilers(name, train[:_FEW_ROWS], arguments.rounds) for name in NETWORKS],
        )
        return
    print_table(
        ["batch", "compiled loop (rows/s)", "Keras fit (rows/s)", "ratio", "matmul peak (GFLOP/s)",
         "loop's share of the peak"],
        [_compare(train, batch, arguments.rounds) for batch in (128, 512)],
    )  # fmt: skip


def _compare(train: np.ndarray, batch: int, rounds: int) -> list[object]:
    loop_epoch = epoch_of(network(), train, batch)
    kept = network()
    kept.compile(keras.optimizers.Adam(1e-3), "mse")
    times: dict[str, list[float]] = {"loop": [], "fit": [], "matmul": []}
    for _ in range(rounds + 1):
        times["loop"].append(_seconds(loop_epoch))
        times["fit"].append(
            _seconds(lambda: kept.fit(train, train, batch_size=batch, epochs=1, verbose=0))
        )
        times["matmul"].append(_matmul_seconds())
    loop, fit, matmul = (statistics.median(seconds[1:]) for seconds in times.values())
    weights = sum(kernel.shape[0] * kernel.shape[1] for kernel in kept.weights if kernel.ndim == 2)
    peak = 2 * 2048**3 / matmul
    share = 6 * weights * len(train) / loop / peak
    return [
        batch,
        f"{len(train) / loop:,.0f}",
        f"{len(train) / fit:,.0f}",
        f"{fit / loop:.2f}",
        f"{peak / 1e9:.0f}",
        f"{share:.0%}",
    ]


def _compilers(name: str, rows: np.ndarray, rounds: int) -> list[object]:
    """One network's training under both compilers, in turns."""
    times: dict[bool, list[float]] = {True: [], False: []}
    model = NETWORKS[name]()
    epochs = {xla: epoch_of(NETWORKS[name](), rows, 128, xla) for xla in times}
    for _ in range(rounds + 1):
        for xla, epoch in epochs.items():
            times[xla].append(_seconds(epoch))
    speeds = [f"{len(rows) / statistics.median(seconds[1:]):,.0f}" for seconds in times.values()]
    return [name, *speeds, "TensorFlow's kernels" if convolves(model) else "XLA"]


def epoch_of(
    model: keras.Model, rows: np.ndarray, batch: int, xla: bool | None = None
) -> Callable[[], object]:
    """What trains for an epoch each time it is called."""
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    train = compiled_training(model, optimizer, Patterns(model), xla=xla)
    device = tf.constant(rows.reshape(-1, *model.input_shape[1:]))
    blocks, order = Blocks(rows, batch), np.random.default_rng(0)

    def epoch() -> object:
        steps = tf.constant(blocks.steps(len(rows), order))
        return train(device, steps, tf.constant(len(steps)), Tally.of_nothing()).fetched()

    return epoch


def _images(*hidden: layers.Layer) -> Callable[[], keras.Model]:
    return lambda: keras.Sequential([keras.Input((28, 28, 1)), *map(_fresh, hidden)])


def _lines(*hidden: layers.Layer) -> Callable[[], keras.Model]:
    return lambda: keras.Sequential([keras.Input((28, 28)), *map(_fresh, hidden)])


def _fresh(layer: layers.Layer) -> layers.Layer:
    return type(layer).from_config(layer.get_config())


def _attention() -> keras.Model:
    lines = keras.Input((28, 28))
    hidden = layers.Dense(32)(lines)
    attended = layers.MultiHeadAttention(4, 8)(hidden, hidden)
    hidden = layers.LayerNormalization()(layers.Add()([hidden, attended]))
    return keras.Model(lines, layers.Dense(28)(layers.Dense(64, "gelu")(hidden)))


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "dense": network,
    "attention": _attention,
    "LSTM": _lines(
        layers.LSTM(32), layers.RepeatVector(28), layers.LSTM(32, return_sequences=True),
        layers.Dense(28),
    ),
    "GRU": _lines(
        layers.GRU(32), layers.RepeatVector(28), layers.GRU(32, return_sequences=True),
        layers.Dense(28),
    ),
    "conv1d": _lines(
        layers.Conv1D(16, 5, strides=2, padding="same", activation="relu"),
        layers.Conv1DTranspose(28, 5, strides=2, padding="same"),
    ),
    "patches of 7 x 7": _images(
        layers.Conv2D(32, 7, strides=7, activation="relu"), layers.Conv2DTranspose(1, 7, strides=7)
    ),
    "depthwise": _images(
        layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=8),
        layers.Conv2D(16, 1, activation="relu"), layers.UpSampling2D(2), layers.Conv2D(1, 1),
    ),
    "conv2d": conv.network,
}  # fmt: skip


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


_FACTOR = tf.random.normal((2048, 2048))


def _matmul_seconds() -> float:
    """Of one 2048 x 2048 float32 product, the fastest of several."""
    return min(_seconds(lambda: tf.linalg.matmul(_FACTOR, _FACTOR).numpy()) for _ in range(5))


if __name__ == "__main__":
    main()
