"""Stage `champion`: publish the elected rung as the one model that serves."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from secateur import paths
from secateur.card import card
from secateur.detection import threshold
from secateur.errors import InputError
from secateur.manifest import write_manifest
from secateur.settings import load_settings
from secateur.sources.prepared import load_rows
from tasks.command import main

logger = logging.getLogger(__name__)

REFERENCE_ROWS, REFERENCE_VALUES = 4096, 2**20  # at most: 4 MB of float32


def run() -> None:
    """Put the winner's bundle in the place of the champion before it, as a whole.

    With it go the thresholds, a sample of what it was trained on, a page that says what it is, and
    the manifest.

    Raises:
        InputError: a refresh compared the winner with what serves, and kept what serves.
    """
    settings = load_settings()
    record = paths.read_json(paths.ELECTION / paths.CHAMPION_RECORD)
    _check_not_kept_out(record["rung"])
    with paths.replacing(paths.CHAMPION) as folder:
        shutil.copytree(paths.EXPORTS / record["rung"], folder, dirs_exist_ok=True)
        shutil.copyfile(paths.SCHEMA, folder / paths.SCHEMA.name)
        paths.write_json(folder / paths.CHAMPION_RECORD, record)
        thresholds = _thresholds(folder, settings.detection.quantile)
        paths.write_json(folder / paths.THRESHOLD, thresholds)
        np.save(folder / paths.REFERENCE, _reference(load_rows(paths.TRAIN)))
        (folder / paths.CARD).write_text(_card(folder))
        write_manifest(folder)
    logger.info("champion: %s with %d %s", record["rung"], record["value"], record["minimise"])


def pairing(rung: str) -> list[str]:
    """What tells one contest from another: the md5s of the winner's model and of what serves."""
    files = paths.EXPORTS / rung / paths.FLOAT32, paths.CHAMPION / paths.MANIFEST
    return [
        hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() if file.exists() else ""
        for file in files
    ]


def _check_not_kept_out(rung: str) -> None:
    kept = paths.read_json(paths.KEPT) if paths.KEPT.exists() else None
    if kept and kept["pairing"] == pairing(rung):
        raise InputError(
            f"{rung} is not promoted, because a refresh kept what serves: {kept['message']}. "
            "`python -m flows.refresh --tolerance SHARE` compares again; to promote without a "
            f"comparison, remove {paths.KEPT} first"
        )


def _thresholds(bundle: Path, quantile: float) -> dict[str, Any]:
    """For each artifact the error above which a row is an anomaly, by its own errors."""
    errors = {
        file.stem: np.load(paths.errors_file(file)) for file in sorted(bundle.glob("*.tflite"))
    }
    return {
        "quantile": quantile,
        "artifacts": {
            artifact: {
                "threshold": threshold(values, quantile),
                "validation_mse": float(values.mean()),
                "validation_rows": len(values),
            }
            for artifact, values in errors.items()
        },
    }


def _reference(train: np.ndarray) -> np.ndarray:
    """Training rows, spread evenly over all of them: what new data is compared with."""
    most = min(len(train), REFERENCE_ROWS, max(1, REFERENCE_VALUES // train.shape[1]))
    return np.asarray(train[np.linspace(0, len(train) - 1, most).round().astype(int)])


def _card(folder: Path) -> str:
    return card(
        **{
            name: paths.read_json(folder / file)
            for name, file in {
                "record": paths.CHAMPION_RECORD,
                "metrics": paths.METRICS,
                "cut": paths.CUT,
                "costs": paths.COSTS,
                "schema": paths.SCHEMA.name,
                "thresholds": paths.THRESHOLD,
            }.items()
        }
    )


if __name__ == "__main__":
    main(run)
