"""What the closed-form cut of the dense network takes: beside an epoch, and by calibration rows.

Each number of rows is cut in a process of its own, whose peak memory is told. Rows beyond the
54,000 images are windows that slide over them, so that no number of rows fills the memory by being
there. Beside seconds by the clock stand those that the processor worked, which a busy machine
changes less.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import keras
import numpy as np

import secateur
from benchmarks.fashion import network, print_table, splits

KEEP = 0.5


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[60_000, 600_000, 6_000_000])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(_cut(arguments.child)))
        return
    clock, worked = _epoch_seconds()
    print(f"one training epoch, 54,000 rows, batch 128: {clock:.1f} s ({worked:.1f} s of work)\n")
    table: list[list[object]] = []
    for rows in (8_000, *arguments.rows):
        command = [sys.executable, "-m", "benchmarks.cut_cost", "--child", str(rows)]
        done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(done.splitlines()[-1])
        taken = [f"{found[kind]:.1f}" for kind in ("clock", "worked")]
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
    start = _now()
    secateur.shrink(model, rows, "units", keep=KEEP)
    clock, worked = _now() - start
    return {"clock": clock, "worked": worked, "before_mb": before, "peak_mb": _peak_mb()}


def _now() -> np.ndarray:
    """Seconds by the clock, and those that the processor worked for this process."""
    return np.array([time.monotonic(), time.process_time()])


def _epoch_seconds() -> np.ndarray:
    """What two more epochs take, halved: compiling is in neither. Both kinds of `_now`."""
    train, validation, _ = splits()
    model = network()
    spans = []
    for epochs in (1, 3):
        start = _now()
        secateur.recover(model, train, validation[:100], epochs=epochs, patience=epochs, batch=128)
        spans.append(_now() - start)
    return (spans[1] - spans[0]) / 2


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
