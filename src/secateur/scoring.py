"""The published model at work: rows in, reconstruction errors and decisions out.

Needs LiteRT, NumPy and Arrow alone: neither Keras nor TensorFlow is imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from secateur import paths
from secateur.detection import anomalous
from secateur.errors import InputError
from secateur.litert import LiteRTModel
from secateur.manifest import read_whole
from secateur.metrics import squared_errors
from secateur.sources.checks import NUMBERS, listed
from secateur.sources.scaling import Scaling


class Scores(NamedTuple):
    """What the model says of some rows, in their order.

    Attributes:
        reconstruction_error: (rows,) float64, the mean squared error in scaled units.
        anomaly: (rows,) bool, whether that lies above the threshold.
    """

    reconstruction_error: np.ndarray
    anomaly: np.ndarray


class Scorer:
    """A published model with its scaling and its threshold, ready to score raw rows.

        scorer = secateur.Scorer("models/champion")
        errors, anomalies = scorer.score(rows)
        for scores in scorer.stream(batches): ...

    All files are read once and checked against the manifest, so a promotion that comes meanwhile
    changes nothing until another `Scorer` is made.

    Attributes:
        artifact: the name of the LiteRT file, such as `float32` or `int8`.
        features: numbers in a row.
        columns: their names, where the model was trained on named ones, else None.
        threshold: the error above which a row is an anomaly.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = paths.CHAMPION,
        artifact: str | None = None,
        threshold: float | None = None,
        threads: int = 1,
    ) -> None:
        """Load a published model.

        Args:
            model: the folder that the stage `champion` published.
            artifact: which of its LiteRT files to run; if None, the one that the guard judged, and
                float32 where it judged none.
            threshold: to decide by, ≥ 0; the one stored for this artifact if None.
            threads: threads that LiteRT may use, ≥ 1.

        Raises:
            InputError: the folder is not there, not whole, or has no such artifact; or a number
                is out of range.
        """
        if threads < 1:
            raise InputError(f"threads is {threads}; allowed: 1 or more")
        files = _read(Path(model))
        stored = json.loads(files[paths.THRESHOLD])["artifacts"]
        if artifact is None:
            artifact = str(json.loads(files.get(paths.METRICS, b"{}")).get("deployed", "float32"))
        if artifact not in stored:
            raise InputError(f"{model} has no artifact {artifact!r}; it has {', '.join(stored)}")
        schema = json.loads(files[paths.SCHEMA.name])
        self.artifact = artifact
        self.features: int = schema["features"]
        names = schema["feature_names"]
        self.columns: tuple[str, ...] | None = None if names is None else tuple(names)
        self.threshold: float = stored[artifact]["threshold"] if threshold is None else threshold
        if not self.threshold >= 0:
            raise InputError(f"the threshold is {threshold}; allowed: 0 or more")
        self._scaling = Scaling.from_json(json.loads(files[paths.SCALING.name]))
        self._litert = LiteRTModel(files[f"{artifact}.tflite"], threads)

    def score(self, rows: np.ndarray, first_row: int = 0) -> Scores:
        """Score a batch; all of its rows are in memory at once.

        Args:
            rows: (rows, features) raw numbers, or (rows, height, width) of as many.
            first_row: what messages call the first of them.

        Raises:
            InputError: the rows are of another width, or hold text, NaN or infinity.
        """
        scaled = self._scaled(np.asarray(rows), first_row)
        if len(scaled) == 0:
            return Scores(np.empty(0), np.empty(0, bool))
        outputs = self._litert(scaled.reshape(-1, *self._litert.row_shape))
        errors = squared_errors(scaled, outputs.reshape(scaled.shape))
        return Scores(errors, anomalous(errors, self.threshold))

    def stream(self, batches: Iterable[np.ndarray]) -> Iterator[Scores]:
        """Score batches as they come, each in the memory that one batch takes.

        Raises:
            InputError: as `score` does, with the row's position in the whole stream.
        """
        first_row = 0
        for batch in batches:
            yield self.score(batch, first_row)
            first_row += len(batch)

    def select(self, names: Sequence[str], origin: object) -> list[int]:
        """Where in a table the columns to score are, in the order of the model's features.

        A model that was trained on named columns finds them by name and leaves others alone; any
        other takes all columns as they stand.

        Args:
            names: of the table's columns.
            origin: what messages call the table.

        Raises:
            InputError: columns are missing or doubled, or there are more or fewer than features.
        """
        if self.columns is None:
            if len(names) != self.features:
                raise InputError(
                    f"{origin} has {len(names)} columns; the model reads {self.features}"
                )
            return list(range(len(names)))
        missing = [name for name in self.columns if name not in names]
        if missing:
            raise InputError(
                f"{origin} lacks {len(missing)} of the model's {self.features} columns: "
                f"{_named(missing)}; its columns are {_named(names)}"
            )
        doubled = [name for name in self.columns if list(names).count(name) > 1]
        if doubled:
            raise InputError(f"{origin} has more than one column {_named(doubled)}")
        return [list(names).index(name) for name in self.columns]

    def _scaled(self, rows: np.ndarray, first_row: int) -> np.ndarray:
        """(rows, features) float32 in the model's units."""
        if rows.dtype.kind not in NUMBERS:
            raise InputError(f"rows hold values of type {rows.dtype}; allowed: real numbers")
        if rows.ndim < 2 or int(np.prod(rows.shape[1:])) != self.features:
            raise InputError(
                f"rows have the shape {rows.shape}; allowed: (rows, {self.features}), the features "
                "that the model was trained on"
            )
        raw = rows.reshape(len(rows), self.features).astype(np.float64)
        scaled = self._scaling.apply(raw)
        bad = np.argwhere(~np.isfinite(scaled))
        if len(bad):
            row, feature = bad[0].tolist()
            name = feature if self.columns is None else repr(self.columns[feature])
            raise InputError(
                f"row {first_row + row} column {name} holds {raw[row, feature]:g} (the first row "
                "is 0); allowed: finite numbers that float32 can hold once scaled"
            )
        return scaled


def _read(model: Path) -> dict[str, bytes]:
    if not (model / paths.MANIFEST).exists() and not model.is_dir():
        raise InputError(f"there is no model at {model}; the stage champion publishes one")
    files = read_whole(model)
    lacking = [
        name
        for name in (paths.THRESHOLD, paths.SCHEMA.name, paths.SCALING.name)
        if name not in files
    ]
    if lacking:
        raise InputError(f"{model} is no published model: it lacks {', '.join(lacking)}")
    return files


def _named(names: Iterable[str]) -> str:
    return listed(map(repr, names), most=20) or "none"
