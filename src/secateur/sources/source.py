"""What every source gives: rows of numbers, and what is known about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BLOCK_VALUES = 2**21  # 16 MB of float64: big data passes through memory a block at a time


@dataclass(frozen=True)
class SourceFile:
    """A file and how many of the source's rows it holds."""

    name: str
    md5: str
    rows: int


@dataclass(frozen=True, eq=False)
class Source:
    """Raw rows, as they were found.

    Attributes:
        name: the source's name in `params.yaml`.
        origin: what messages call it: a file, a folder or the name.
        rows: (rows, features), (rows, height, width) or (rows, height, width, channels), any kind
            of number; may be a memory map.
        md5: of the file, or of the array's bytes where there is no file of the user's.
        path: the file that `params.yaml` names, or None.
        labels: (rows,) bool, True = anomaly; None where the source has none.
        test_rows: rows that the source itself sets apart for testing, or None. A source with
            test rows of its own has no labels.
        image_shape: (height, width) or (height, width, channels) where a row is a picture, else
            None.
        feature_names: the columns' names, or None.
        files: what the rows were read from, in order, where that is the user's own.
    """

    name: str
    origin: str
    rows: np.ndarray
    md5: str
    path: str | None = None
    labels: np.ndarray | None = None
    test_rows: np.ndarray | None = None
    image_shape: tuple[int, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    files: tuple[SourceFile, ...] = ()

    @property
    def features(self) -> int:
        """Numbers in a row."""
        return int(np.prod(self.rows.shape[1:]))

    def column(self, feature: int) -> str:
        """What messages call a feature: its name, its pixel or its position."""
        if self.feature_names is not None:
            return f"column {self.feature_names[feature]!r}"
        if self.image_shape is not None:
            place = np.unravel_index(feature, self.image_shape)
            return f"pixel ({', '.join(map(str, place))})"
        return f"column {feature}"


@dataclass(frozen=True, eq=False)
class Selection:
    """Some rows of an array, read only when they are asked for."""

    rows: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def blocks(self) -> Iterator[np.ndarray]:
        """The rows in order, as (≤ block, features) float64 arrays that the caller may change."""
        for start, stop in block_bounds(self.rows, len(self)):
            yield as_float64(self.rows[self.indices[start:stop]])


def block_bounds(rows: np.ndarray, count: int) -> Iterator[tuple[int, int]]:
    """Where blocks of `count` rows of this width start and stop."""
    size = max(1, BLOCK_VALUES // max(1, int(np.prod(rows.shape[1:]))))
    for start in range(0, count, size):
        yield start, min(start + size, count)


def as_float64(block: np.ndarray) -> np.ndarray:
    """(rows, …) numbers as (rows, features) float64; what float64 cannot hold becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return block.reshape(len(block), -1).astype(np.float64)
