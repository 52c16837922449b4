"""NumPy's files. Pickles are never loaded: they could run code."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np

from secateur.errors import InputError
from secateur.sources.checks import anomaly_labels, check_numbers, listed, reading
from secateur.sources.source import Source

LOG = logging.getLogger(__name__)
DATA = "X"  # the array of rows, where an archive holds several


def read_npy(path: Path, md5: str, label: str | None) -> Source:
    """The rows of an .npy file, memory-mapped: (rows, features) or (rows, height, width).

    Raises:
        InputError: a label is asked for, or the file does not hold an array of numbers.
    """
    if label is not None:
        raise InputError(
            f"{path} cannot hold labels, but data.label is {label!r}; allowed: null, or an .npz "
            f"file with the arrays 'X' and {label!r}"
        )
    with reading(path):
        rows = np.lib.format.open_memmap(path, mode="r")
    return _source(path, md5, rows, str(path), labels=None)


def read_npz(path: Path, md5: str, label: str | None) -> Source:
    """The array `X` of an .npz archive, or its only array beside the labels.

    Raises:
        InputError: an array is missing, cannot be told apart or does not hold numbers.
    """
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} cannot be read as .npz: it is not a zip archive")
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        names = list(archive.files)
        if label is not None and label not in names:
            raise InputError(
                f"{path} has no array {label!r} (data.label); its arrays are {_named(names)}"
            )
        beside = [name for name in names if name != label]
        if DATA not in beside and len(beside) != 1:
            raise InputError(
                f"{path} must hold the rows as {DATA!r} or as its only array beside the labels; "
                f"its arrays are {_named(names)}, data.label is {label!r}"
            )
        data = DATA if DATA in beside else beside[0]
        rows = _member(archive, data, path)
        labels = None if label is None else _member(archive, label, path)
    unused = [name for name in beside if name != data]
    if label is None and unused:
        LOG.warning(
            "%s: %s not used; if an array marks the anomalies, name it in data.label",
            path,
            _named(unused),
        )
    return _source(
        path,
        md5,
        rows,
        f"array {data!r} of {path}",
        None if labels is None else anomaly_labels(labels, f"array {label!r} of {path}"),
    )


def _member(archive: np.lib.npyio.NpzFile, name: str, path: Path) -> np.ndarray:
    array = archive[name]
    if not isinstance(array, np.ndarray):  # other files in the archive come as bytes
        raise InputError(f"{name!r} in {path} is not an array")
    return array


def _source(
    path: Path, md5: str, rows: np.ndarray, origin: str, labels: np.ndarray | None
) -> Source:
    check_numbers(rows, origin)
    return Source(
        name="file",
        origin=origin,
        rows=rows,
        md5=md5,
        path=path.as_posix(),
        labels=labels,
        image_shape=tuple(rows.shape[1:]) if rows.ndim > 2 else None,
    )


def _named(names: list[str]) -> str:
    return listed((repr(name) for name in names), most=20) or "none"
