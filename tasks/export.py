"""Stage `export`: bundle a rung for deployment."""

from __future__ import annotations

import gzip
import logging
import shutil
from pathlib import Path

import numpy as np

from secateur import paths
from secateur.errors import InputError
from secateur.export import calibration_sample, export_float32, export_int8
from secateur.litert import run_litert
from secateur.metrics import squared_errors
from secateur.saving import load
from secateur.settings import load_settings
from secateur.sources.prepared import load_rows
from tasks.command import main

logger = logging.getLogger(__name__)


def run(rung: str) -> None:
    """Write one rung's bundle: the model, its LiteRT files, how to scale a row, what it costs."""
    settings = load_settings()
    if rung not in settings.rungs:
        raise InputError(f"there is no rung {rung!r}; known: {', '.join(settings.rungs)}")
    source = paths.rung_folder(rung)
    model = load(source / paths.MODEL)
    rows, validation = load_rows(paths.TRAIN), load_rows(paths.VALIDATION)
    sample = calibration_sample(rows, settings.export.calibration_rows)
    with paths.publishing(paths.EXPORTS / rung) as bundle:
        for file in (source / paths.MODEL, source / paths.METRICS, source / paths.CUT):
            shutil.copyfile(file, bundle / file.name)
        shutil.copyfile(paths.SCALING, bundle / paths.SCALING.name)
        float32, int8 = bundle / paths.FLOAT32, bundle / paths.INT8
        float32_deviation = export_float32(model, float32, sample)
        int8_deviation = export_int8(model, int8, sample)
        for artifact in (float32, int8):
            np.save(paths.errors_file(artifact), _errors(artifact, validation))
        costs = {
            "keras_bytes": (bundle / paths.MODEL).stat().st_size,
            "float32_bytes": float32.stat().st_size,
            "int8_bytes": int8.stat().st_size,
            "float32_gzip_bytes": _gzip_bytes(float32),
            "int8_gzip_bytes": _gzip_bytes(int8),
        }
        paths.write_json(bundle / paths.COSTS, costs)
    logger.info(
        "%s exported: float32 %d bytes, at most %.2g from Keras on %d training rows; "
        "int8 %d bytes, at most %.2g",
        rung, costs["float32_bytes"], float32_deviation, len(sample),
        costs["int8_bytes"], int8_deviation,
    )  # fmt: skip


def _errors(artifact: Path, rows: np.ndarray) -> np.ndarray:
    """(rows,) float64: how well the very file reconstructs, which decides what is an anomaly."""
    return squared_errors(rows, run_litert(artifact, rows))


def _gzip_bytes(file: Path) -> int:
    return len(gzip.compress(file.read_bytes(), mtime=0))


if __name__ == "__main__":
    main(run)
