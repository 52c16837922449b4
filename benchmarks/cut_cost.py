"""What the closed-form cut of the dense network takes: beside an epoch, and by calibration rows.

Each number of rows is cut in a process of its own, whose peak memory is told. Rows beyond the
54,000 images are windows that slide over them, so that no number of rows fills the memory by being
there. Beside seconds by the clock stand those that the processor worked, which a busy machine
changes less. What is quick is the median of several.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import keras
import numpy as np

import secateur
from benchmarks.fashion import network, print_table, splits
from benchmarks.throughput import epoch_of

KEEP, BATCH = 0.5, 128
REPEATS, OFTEN = 5, 60_000  # cuts of at most so many rows are repeated


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[60_000, 600_000, 6_000_000])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(_cut(arguments.child)))
        return
    print_table([f"an epoch of 54,000 rows, batch {BATCH}", "takes (s)", "of work (s)"], _epochs())
    print()
    table: list[list[object]] = []
    for rows in (8_000, *arguments.rows):
        command = [sys.executable, "-m", "benchmarks.cut_cost", "--child", str(rows)]
        done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(done.splitlines()[-1])
        taken = [f"{found[kind]:.2f}" for kind in ("clock", "worked")]
        per_row = 1e6 * found["worked"] / rows
        megabytes = f"{found['peak_mb']:,.0f} ({found['peak_mb'] - found['before_mb']:+,.0f})"
        table.append([f"{rows:,}", *taken, f"{per_row:.0f}", megabytes])
    print_table(
        ["calibration rows", "cut takes (s)", "of work (s)", "µs of work a row",
         "peak memory, MB (by the cut)"],
        table,
    )  # fmt: skip


def _cut(count: int) -> dict[str, float]:
    """Seconds of one cut, and the process's peak memory before and after it."""
    keras.utils.set_random_seed(0)
    model = network()
    flat = splits()[0].ravel()
    step = max(1, min(784, (len(flat) - 784) // count // 4 * 4))
    shape, strides = (count, 784), (step * flat.itemsize, flat.itemsize)
    rows = np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)
    secateur.shrink(model, rows[:512], "units", keep=KEEP)  # TensorFlow's own first costs
    before = _peak_mb()
    repeats = REPEATS if count <= OFTEN else 1
    spans = [
        _span(lambda: secateur.shrink(model, rows, "units", keep=KEEP)) for _ in range(repeats)
    ]
    clock, worked = np.median(spans, axis=0)
    return {"clock": clock, "worked": worked, "before_mb": before, "peak_mb": _peak_mb()}


def _span(run: Callable[[], object]) -> np.ndarray:
    start = _now()
    run()
    return _now() - start


def _now() -> np.ndarray:
    """Seconds by the clock, and those that the processor worked for this process."""
    return np.array([time.monotonic(), time.process_time()])


def _epochs() -> list[list[object]]:
    """Seconds of an epoch, of both kinds of `_now`, of the compiled loop and of Keras' own."""
    train = splits()[0]
    kept = network()
    kept.compile(keras.optimizers.Adam(1e-3), "mse")
    trainings = {
        "the compiled loop": epoch_of(network(), train, BATCH),
        "Keras fit": lambda: kept.fit(train, train, batch_size=BATCH, epochs=1, verbose=0),
    }
    spans: dict[str, list[np.ndarray]] = {name: [] for name in trainings}
    for _ in range(REPEATS + 1):  # the first pays for compiling
        for name, train_on in trainings.items():
            spans[name].append(_span(train_on))
    return [
        [name, *(f"{one:.2f}" for one in np.median(found[1:], axis=0))]
        for name, found in spans.items()
    ]


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
