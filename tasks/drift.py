"""Did the data move since the champion was trained? `python -m tasks.drift 0.01 0.1 0.1`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from secateur import paths
from secateur.detection import anomalous
from secateur.drift import Shift, shifts
from secateur.errors import InputError
from secateur.scoring import Scorer
from secateur.settings import DriftSettings, load_settings
from secateur.sources.reading import read_source
from secateur.sources.scaling import Scaling
from secateur.sources.source import Source, as_float64
from tasks.command import main

logger = logging.getLogger(__name__)

ERROR = "reconstruction error"
_MOST_ROWS, _MOST_VALUES = 4096, 2**22  # of the new rows: as many as tell small shifts


def run(significance: str, effect: str, growth: str) -> None:
    """Hold the data as it is now against what the champion was trained on.

    Writes what moved, feature by feature, and whether that is worth a new ladder. New files of a
    folder are looked at alone: among many old rows they would hardly show.
    """
    wanted = DriftSettings(
        significance=float(significance), effect=float(effect), growth=float(growth)
    )
    source = read_source(load_settings().data)
    found = compared(source, wanted)
    with paths.publishing(paths.REFRESH) as folder:
        paths.write_json(folder / paths.DRIFT, found)
    logger.info("%s: %s", "moved" if found["moved"] else "nothing moved", found["message"])


def compared(source: Source, wanted: DriftSettings) -> dict[str, Any]:
    """What became of the data: the content of `drift.json`.

    Raises:
        InputError: its columns are not those that the champion reads.
    """
    found: dict[str, Any] = {"changed": True, "moved": True, "source_md5": source.md5}
    if not paths.CHAMPION.exists():
        return {**found, "message": "no champion serves yet", "features": []}
    schema = paths.read_json(paths.CHAMPION / paths.SCHEMA.name)
    _check_columns(source, schema)
    if source.md5 == schema["source_md5"]:
        message = "the data is still what the champion was trained on"
        return {**found, "changed": False, "moved": False, "message": message, "features": []}
    new = _new_rows(source, schema)
    features, error, alarms = _shifts(source, new, wanted)
    rows = int((~_anomalies(source)).sum())
    growth = rows / _rows_of(schema) - 1
    reasons = list(_reasons(features, error, alarms, growth, wanted))
    return {
        **found,
        "moved": bool(reasons),
        "message": "; ".join(reasons) or _nothing(features, error, growth, wanted),
        "rows": rows,
        "new_rows": len(new),
        "growth": growth,
        "alarms": alarms,
        "error": asdict(error),
        "features": [asdict(shift) for shift in features],
    }


def _check_columns(source: Source, schema: dict[str, Any]) -> None:
    names, known = source.feature_names, schema["feature_names"]
    if source.features == schema["features"] and (names is None or list(names) == known):
        return
    lost, come = (
        sorted(set(known or ()) - set(names or ())),
        sorted(set(names or ()) - set(known or ())),
    )
    detail = f"gone: {', '.join(lost) or 'none'}; new: {', '.join(come) or 'none'}"
    raise InputError(
        f"{source.origin} has {source.features} columns, the champion reads {schema['features']} "
        f"({detail}). A refresh keeps what callers send; to change that, run "
        "`python -m flows.compress`, whose champion reads the new columns"
    )


def _new_rows(source: Source, schema: dict[str, Any]) -> np.ndarray:
    """(new rows,) indices of the normal rows of files that the champion does not know.

    All normal rows where files do not tell.
    """
    known = {file["md5"] for file in schema.get("files", ())}
    new = np.ones(len(source.rows), bool)
    if source.files:
        new = np.repeat(
            [file.md5 not in known for file in source.files], [file.rows for file in source.files]
        )
    normal = ~_anomalies(source)
    return np.flatnonzero(new & normal) if (new & normal).any() else np.flatnonzero(normal)


def _anomalies(source: Source) -> np.ndarray:
    return np.zeros(len(source.rows), bool) if source.labels is None else source.labels


def _rows_of(schema: dict[str, Any]) -> int:
    return int(sum(schema["rows"].values()))


def _shifts(
    source: Source, new: np.ndarray, wanted: DriftSettings
) -> tuple[list[Shift], Shift, float]:
    """By feature, of the reconstruction error, and the share of new rows that raise an alarm."""
    scorer = Scorer(paths.CHAMPION)
    most = min(len(new), _MOST_ROWS, max(1, _MOST_VALUES // source.features))
    raw = as_float64(source.rows[new[np.linspace(0, len(new) - 1, most).round().astype(int)]])
    scaling = Scaling.from_json(paths.read_json(paths.CHAMPION / paths.SCALING.name))
    reference = np.load(paths.CHAMPION / paths.REFERENCE)
    names = [source.column(feature) for feature in range(source.features)]
    criteria = {"significance": wanted.significance, "effect": wanted.effect}
    features = shifts(reference, scaling.apply(raw), names, **criteria)
    errors = scorer.score(raw).reconstruction_error
    before = np.load(paths.errors_file(paths.CHAMPION / paths.FLOAT32))
    (error,) = shifts(before[:, np.newaxis], errors[:, np.newaxis], [ERROR], **criteria)
    return features, error, float(anomalous(errors, scorer.threshold).mean())


def _reasons(
    features: list[Shift], error: Shift, alarms: float, growth: float, wanted: DriftSettings
) -> Iterator[str]:
    moved = [shift for shift in features if shift.moved]
    if moved:
        farthest = ", ".join(f"{shift.name} by {shift.effect:.2f}" for shift in moved[:3])
        yield f"{len(moved)} of {len(features)} features moved, farthest {farthest}"
    if error.moved:
        yield (
            f"the {ERROR} moved by {error.effect:.2f}, {alarms:.1%} of the new rows raise an alarm"
        )
    if abs(growth) >= wanted.growth:
        yield f"there are {growth:+.0%} rows"


def _nothing(features: list[Shift], error: Shift, growth: float, wanted: DriftSettings) -> str:
    return (
        f"no feature moved by {wanted.effect:g} or more beyond chance (farthest "
        f"{features[0].name} by {features[0].effect:.2f}), nor did the {ERROR} "
        f"({error.effect:.2f}), and {growth:+.1%} rows are fewer than {wanted.growth:.0%}"
    )


if __name__ == "__main__":
    main(run)
