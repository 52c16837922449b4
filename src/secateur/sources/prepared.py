"""The prepared arrays, for every stage that reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from secateur import paths
from secateur.errors import InputError


def load_rows(folder: Path) -> np.ndarray:
    """The normal rows of a split: (rows, features) float32, memory-mapped and read-only.

    Args:
        folder: `paths.TRAIN`, `paths.VALIDATION` or `paths.TEST`.

    Raises:
        InputError: the stage `prepare` has not run.
    """
    return _load(folder / paths.ROWS)


def load_anomalies(folder: Path) -> np.ndarray | None:
    """The anomalies of a split: (rows, features) float32, memory-mapped and read-only.

    None where there are none: the source has no labels, or the folder is the training split.
    """
    path = folder / paths.ANOMALIES
    return _load(path) if path.exists() else None


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path} is not here; the stage prepare writes it") from None
