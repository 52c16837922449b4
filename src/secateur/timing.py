"""What things cost in LiteRT on this machine: activations, and one model beside another."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from secateur.activations import NAMES
from secateur.export import calibration_sample, export_litert
from secateur.latency import measure_latency
from secateur.schemes import FLOAT32

SHAPE = (64, 64, 16)  # of what the timed activations make
_RANGE_ROWS = 64
_SEED = 0


def activation_costs(
    scheme: str = FLOAT32, names: Sequence[str] = NAMES, runs: int = 200, repeats: int = 5
) -> dict[str, float]:
    """What activations cost, in ns a value over none.

    Each is timed behind a 1 x 1 convolution of 16 channels on 64 x 64 positions, one thread,
    against the same convolution alone. Medians of `runs` calls; of `repeats` such medians the
    least, since whatever else runs on a machine only adds.

    Args:
        scheme: of the LiteRT file, a name in `secateur.schemes.SCHEMES`.
        names: of `keras.activations`.
        runs: timed calls a median.
        repeats: medians of each, taken in turns.
    """
    sample = np.random.default_rng(_SEED).normal(size=(4, *SHAPE)).astype(np.float32)
    models = {}
    for name in dict.fromkeys(("linear", *names)):
        layer = keras.layers.Conv2D(
            SHAPE[-1],
            1,
            activation=name,
            kernel_initializer=keras.initializers.GlorotUniform(_SEED),
        )
        models[name] = keras.Sequential([keras.Input(SHAPE), layer])
    medians = latencies(models, sample, scheme, runs, repeats)
    values = np.prod(SHAPE) / 1000
    return {
        name: max(0.0, round(float((medians[name] - medians["linear"]) / values), 2))
        for name in names
    }


def latencies(
    models: Mapping[str, keras.Model],
    sample: np.ndarray,
    scheme: str = FLOAT32,
    runs: int = 200,
    repeats: int = 5,
) -> dict[str, float]:
    """How long models take for one row, in µs, measured side by side on one thread.

    Args:
        models: by name, all of one input shape.
        sample: (rows, ...) in that shape, float32: training rows.
        scheme: of the LiteRT files, a name in `secateur.schemes.SCHEMES`.
        runs: timed calls a median.
        repeats: medians of each, taken in turns; the least counts.

    Raises:
        InputError: a model cannot be exported.
    """
    rows = np.asarray(calibration_sample(sample, _RANGE_ROWS), np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: Path(scratch, f"{place}.tflite") for place, name in enumerate(models)}
        for name, file in files.items():
            export_litert(models[name], file, rows, scheme)
        times: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(repeats):
            for name, file in files.items():
                times[name].append(measure_latency(file, runs, warm_up=20).median_us)
    return {name: min(found) for name, found in times.items()}
