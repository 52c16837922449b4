"""What an activation costs in LiteRT: the table of `secateur.methods.activations`.

Each is timed behind a convolution of 16 channels on 64 x 64 positions, float32, one thread, against
the same convolution alone. Medians of `--runs` calls; of `--repeats` such medians the least, since
whatever else runs on a machine only adds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np

from benchmarks.fashion import print_table
from secateur.export import export_float32
from secateur.latency import measure_latency

NAMES = (
    "linear", "relu", "relu6", "leaky_relu", "hard_sigmoid", "hard_swish", "sigmoid", "tanh",
    "elu", "silu", "gelu", "softplus", "selu", "mish",
)  # fmt: skip
SHAPE = (64, 64, 16)


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    sample = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, f"{name}.tflite") for name in NAMES}
        for name, path in paths.items():
            keras.utils.set_random_seed(0)
            layer = keras.layers.Conv2D(SHAPE[-1], 1, activation=name)
            export_float32(keras.Sequential([keras.Input(SHAPE), layer]), path, sample)
        times: dict[str, list[float]] = {name: [] for name in NAMES}
        for _ in range(arguments.repeats):
            for name, path in paths.items():
                times[name].append(measure_latency(path, arguments.runs, 20).median_us)
    alone = min(times["linear"])
    values = SHAPE[0] * SHAPE[1] * SHAPE[2] / 1000
    rows: list[list[object]] = [
        [name, f"{min(found):.0f}", f"{(min(found) - alone) / values:.2f}"]
        for name, found in times.items()
    ]
    print_table(["activation", "µs a call", "more than linear, ns a value"], rows)


if __name__ == "__main__":
    main()
