"""Stage `export`: bundle a rung for deployment."""

from __future__ import annotations

import gzip
import logging
import shutil
from pathlib import Path

import numpy as np

from secateur import paths
from secateur.errors import InputError
from secateur.export import calibration_sample, export_litert, largest_deviation
from secateur.litert import row_errors_of_file, run_litert
from secateur.metrics import reconstruct
from secateur.saving import load
from secateur.schemes import FLOAT32, INT8
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
    deployed = paths.read_json(source / paths.METRICS)["deployed"]
    rows, validation = load_rows(paths.TRAIN), load_rows(paths.VALIDATION)
    sample = calibration_sample(rows, settings.export.calibration_rows)
    costs: dict[str, int] = {}
    with paths.publishing(paths.EXPORTS / rung) as bundle:
        for file in (source / paths.MODEL, source / paths.METRICS, source / paths.CUT):
            shutil.copyfile(file, bundle / file.name)
        shutil.copyfile(paths.SCALING, bundle / paths.SCALING.name)
        costs["keras_bytes"] = (bundle / paths.MODEL).stat().st_size
        for scheme in dict.fromkeys((FLOAT32, INT8, deployed)):
            file = bundle / paths.litert_file(scheme)
            judged = source / paths.DEPLOYED / file.name
            if judged.exists():
                shutil.copyfile(judged, file)
            else:
                export_litert(model, file, sample, scheme)
            np.save(paths.errors_file(file), row_errors_of_file(file, validation))
            costs[f"{scheme}_bytes"] = file.stat().st_size
            costs[f"{scheme}_gzip_bytes"] = _gzip_bytes(file)
            deviation = largest_deviation(run_litert(file, sample), reconstruct(model, sample))
            logger.info(
                "%s exported: %s %d bytes, at most %.2g from Keras on %d training rows%s",
                rung, scheme, file.stat().st_size, deviation, len(sample),
                "; the guard judges it" if judged.exists() else "",
            )  # fmt: skip
        costs["deployed_bytes"] = costs[f"{deployed}_bytes"]
        paths.write_json(bundle / paths.COSTS, costs)


def _gzip_bytes(file: Path) -> int:
    return len(gzip.compress(file.read_bytes(), mtime=0))


if __name__ == "__main__":
    main(run)
