"""The user's own file: its ending says how it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from secateur.errors import InputError
from secateur.settings import DataSettings
from secateur.sources.arrays import read_npy, read_npz
from secateur.sources.checks import listed, reading
from secateur.sources.source import Source
from secateur.sources.tables import read_csv, read_parquet

READERS: dict[str, Callable[[Path, str, str | None], Source]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def read_file(settings: DataSettings) -> Source:
    """The rows of `data.path`, with the labels that `data.label` names.

    Raises:
        InputError: the file is missing, empty or broken, its ending is unknown, or what it holds
            is not rows of numbers.
    """
    path = settings.path
    with reading(path):
        if path.is_dir():
            raise InputError(_is_folder(path))
        if path.suffix.lower() not in READERS:
            raise InputError(
                f"{path} has the unknown ending {path.suffix!r}; allowed: {', '.join(READERS)}"
            )
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty")
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, _md5).hexdigest()
    return READERS[path.suffix.lower()](path, md5, settings.label)


def _is_folder(path: Path) -> str:
    files = sorted(file.name for file in path.iterdir() if file.suffix.lower() in READERS)
    return (
        f"data.path is the folder {path}; allowed: one file of the kind {', '.join(READERS)}, "
        f"here: {listed(files) or 'none'}"
    )


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)
