"""Finding one's way in the rows of an evaluation: one row a rung or control, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Rows = Sequence[Row]

PRECISIONS = ("int8", "float32")  # the exported files, the smaller one first
ROUND = "round"
SCRATCH = "scratch"
PCA = "pca"


def baseline_of(rows: Rows) -> Row:
    """The row that all others are compared with."""
    return next(row for row in rows if row["kind"] == "baseline")


def champion_of(rows: Rows) -> Row:
    """The row of the rung that is to be deployed; may be the baseline."""
    return next(row for row in rows if row["champion"])


def rounds_of(rows: Rows) -> list[Row]:
    """The rows of the rounds, in their order."""
    return [row for row in rows if row["kind"] == ROUND]


def controls_of(rows: Rows, kind: str) -> list[Row]:
    """The rows of the controls of a kind that have a score: a skipped control has none."""
    return [row for row in rows if row["kind"] == kind and row["test_mse"] is not None]


def files_of(row: Row) -> list[str]:
    """The schemes of a rung's exported files: float32, int8, and that of its own deployment."""
    schemes = dict.fromkeys([*reversed(PRECISIONS), row["deployed"]])
    return [scheme for scheme in schemes if scheme and row[scheme]]


def is_judged(row: Row) -> bool:
    """Whether the guard judged a LiteRT file of this rung, and not its Keras model."""
    return row["deployed"] not in (None, "float32")


def shown_file(row: Row) -> str | None:
    """The scheme of the file that stands for a rung: the one judged, or else the smallest."""
    if is_judged(row):
        return str(row["deployed"])
    return next((scheme for scheme in PRECISIONS if row[scheme]), None)


def standing(row: Row) -> str:
    """What a row is, in one of the words that marks, badges and legends are keyed by."""
    return str(row["state"] if row["kind"] == ROUND else row["kind"])


def validation_rise(row: Row, rows: Rows) -> float | None:
    """How far the validation error lies above the baseline's, as a fraction of the baseline's."""
    reference = (baseline_of(rows)["validation_mse"] or {}).get("after_recovery")
    own = (row["validation_mse"] or {}).get("after_recovery")
    if not reference or own is None:
        return None
    return float(own / reference - 1)


def guarded_of(rows: Rows) -> dict[str, Mapping[str, Any]]:
    """What the guard found of a metric in any round, by the metric's name: they share tolerances.

    Empty if no round was judged.
    """
    return dict(next((row["guard"] for row in rows if row.get("guard")), {}))


def largest_mse(rows: Rows) -> float | None:
    """The test error up to which a rung would be within the tolerance, if the guard looks at it."""
    mse, reference = guarded_of(rows).get("mse"), baseline_of(rows)["test_mse"]
    if mse is None:
        return None
    return float(
        reference * (1 + mse["tolerance"]) if mse["relative"] else reference + mse["tolerance"]
    )


def latency_of(latency: Mapping[str, Any], rung: str, precision: str) -> Mapping[str, float] | None:
    """The quartiles of a rung's exported file in microseconds, if it was timed."""
    return (latency["rungs"].get(rung) or {}).get(precision)
