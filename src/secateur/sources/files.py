"""The user's own files: their endings say how they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from secateur.errors import InputError
from secateur.settings import DataSettings
from secateur.sources.arrays import read_npy, read_npz
from secateur.sources.checks import listed, reading
from secateur.sources.source import Source, SourceFile
from secateur.sources.tables import read_csv, read_parquet

READERS: dict[str, Callable[[Path, str, str | None], Source]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def read_file(settings: DataSettings) -> Source:
    """The rows of `data.path`, with the labels that `data.label` names.

    A folder stands for all its files of a known ending, one below the other by name, so that rows
    may arrive as new files. They hold the same columns in the same order.

    Raises:
        InputError: the file is missing, empty or broken, its ending is unknown, what it holds is
            not rows of numbers, or the files of a folder differ in what they hold.
    """
    path = settings.path
    with reading(path):
        files = _files_in(path) if path.is_dir() else [path]
    parts = [_read_one(file, settings.label) for file in files]
    whole = parts[0] if len(parts) == 1 and path == files[0] else _stacked(parts, files, path)
    return replace(
        whole,
        files=tuple(
            SourceFile(file.name, part.md5, len(part.rows))
            for file, part in zip(files, parts, strict=True)
        ),
    )


def _read_one(path: Path, label: str | None) -> Source:
    with reading(path):
        if path.suffix.lower() not in READERS:
            raise InputError(
                f"{path} has the unknown ending {path.suffix!r}; allowed: {', '.join(READERS)}, or "
                "a folder of such files"
            )
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty")
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, _md5).hexdigest()
    return READERS[path.suffix.lower()](path, md5, label)


def _files_in(folder: Path) -> list[Path]:
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in READERS
    )
    if not files:
        others = listed(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise InputError(
            f"data.path is the folder {folder}, which holds {others}; allowed: files of the kind "
            f"{', '.join(READERS)}"
        )
    return files


def _stacked(parts: list[Source], files: list[Path], folder: Path) -> Source:
    """The rows of several files, one below the other, in memory."""
    first = parts[0]
    for part in parts[1:]:
        if part.feature_names != first.feature_names or part.rows.shape[1:] != first.rows.shape[1:]:
            raise InputError(
                f"the files of {folder} must hold the same columns in the same order: "
                f"{part.origin} has {_columns(part)}, {first.origin} {_columns(first)}"
            )
    md5 = _md5()
    for file, part in zip(files, parts, strict=True):
        md5.update(f"{file.name}:{part.md5}\n".encode())
    return replace(
        first,
        origin=str(folder),
        rows=np.concatenate([part.rows for part in parts]),
        md5=md5.hexdigest(),
        path=folder.as_posix(),
        labels=None
        if first.labels is None
        else np.concatenate([part.labels for part in parts if part.labels is not None]),
    )


def _columns(source: Source) -> str:
    if source.feature_names is not None:
        return listed(map(repr, source.feature_names))
    return f"rows of the shape {source.rows.shape[1:]}"


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)
