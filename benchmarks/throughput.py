"""Training rows a second: the compiled loop beside Keras `fit`, on one network in one run.

Both train the dense Fashion-MNIST network with Adam on the same rows. Epochs alternate, after one
of each that pays for compilation; medians are printed. The arithmetic of a step is counted as six
times the parameters of the kernels a row (two matmuls backward for one forward), against the speed
of a large float32 matmul measured in between.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from benchmarks.fashion import network, print_table, splits
from secateur.recovery import _Blocks, _Training
from secateur.settings import TrainingSettings


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    train, _, _ = splits()
    table = [_compare(train, batch, rounds) for batch in (128, 512)]
    print_table(
        ["batch", "compiled loop (rows/s)", "Keras fit (rows/s)", "ratio", "matmul peak (GFLOP/s)",
         "loop's share of the peak"],
        table,
    )  # fmt: skip


def _compare(train: np.ndarray, batch: int, rounds: int) -> list[object]:
    settings = TrainingSettings(batch=batch)
    compiled = _Training(network(), settings, len(train), None, 0.0)
    blocks, order = _Blocks(train, batch), np.random.default_rng(0)
    kept = network()
    kept.compile(keras.optimizers.Adam(settings.learning_rate), "mse")
    times: dict[str, list[float]] = {"loop": [], "fit": [], "matmul": []}
    for _ in range(rounds + 1):
        times["loop"].append(_seconds(lambda: compiled._epoch(blocks, order)))
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
