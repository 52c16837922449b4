"""How long a LiteRT file takes for one row on this machine: measured, never counted."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np
from ai_edge_litert.interpreter import Interpreter


@dataclass(frozen=True)
class Latency:
    """The time of one call, in microseconds: median, lower and upper quartile."""

    median_us: float
    q1_us: float
    q3_us: float


def measure_latency(path: str | os.PathLike[str], runs: int, warm_up: int) -> Latency:
    """Time calls of a LiteRT file on one thread, with one fixed row.

    Only the call itself is timed: copying the row in and the result out is not part of it.

    Args:
        path: the `.tflite` file.
        runs: timed calls, at least 1.
        warm_up: calls before them that are not timed.
    """
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    interpreter.set_tensor(details["index"], _fixed_row(details["shape"], details["dtype"]))
    for _ in range(warm_up):
        interpreter.invoke()
    times_ns = np.empty(runs)
    for run in range(runs):
        start = time.perf_counter_ns()
        interpreter.invoke()
        times_ns[run] = time.perf_counter_ns() - start
    q1, median, q3 = (np.quantile(times_ns, (0.25, 0.5, 0.75)) / 1000).tolist()
    return Latency(median_us=median, q1_us=q1, q3_us=q3)


def _fixed_row(shape: np.ndarray, kind: type) -> np.ndarray:
    """Values over the whole range: a row of zeros might take a short cut."""
    low, high = (0, 1)
    if np.issubdtype(kind, np.integer):
        low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    return np.linspace(low, high, int(np.prod(shape))).reshape(shape).astype(kind)
