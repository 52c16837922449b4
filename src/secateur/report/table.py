"""The frontier as one flat table, for spreadsheets, DVC plots and notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from secateur.report.rows import PRECISIONS, Row, Rows, latency_of

_WORDS = ("name", "kind", "of", "state", "champion", "deployed")
_COUNTS = ("parameters", "nonzeros", "macs", "size_bytes", "gzip_bytes")
_STEPS = ("before_cut", "after_cut", "after_compensation", "after_recovery")
_SCORES = ("test_mse", "test_mse_ratio", "psnr_db", "p99_error", "auc", "partial_auc")
_CLOSENESS = (
    "output_distance", "code_distance", "code_share", "weight_distance", "weight_share",
)  # fmt: skip
_EXPORTED = ("test_mse", "largest_deviation", "bytes")
_QUARTILES = ("median_us", "q1_us", "q3_us")


def frontier_table(rungs: Rows, latency: Mapping[str, Any]) -> pd.DataFrame:
    """All numbers of the rungs and controls, one row each, missing where there is none.

    Args:
        rungs: the rows of `rungs.json`.
        latency: the content of `latency.json`, in microseconds.

    Returns:
        A table whose columns are the same whatever was measured: names and states, counts
        (nullable integers), `validation_mse_*`, distances from the baseline (`output_distance`,
        …), test scores, and for the float32, the int8 and the deployed file its score, deviation,
        bytes, and latency quartiles (`int8_median_us`).
    """
    table = pd.DataFrame([_flatten(row, latency) for row in rungs])
    counts = [*_COUNTS, *(f"{file}_bytes" for file in (*PRECISIONS, "deployed"))]
    numbers = [name for name in table.columns if name not in (*_WORDS, *counts)]
    return table.astype(dict.fromkeys(counts, "Int64") | dict.fromkeys(numbers, "float64"))


def _flatten(row: Row, latency: Mapping[str, Any]) -> dict[str, Any]:
    steps = row["validation_mse"] or {}
    flat = {name: row[name] for name in (*_WORDS, *_COUNTS)}
    flat |= {name: row[name] for name in ("compression_ratio", "theoretical_speedup")}
    flat |= {f"validation_mse_{step}": steps.get(step) for step in _STEPS}
    flat |= {name: (row["closeness"] or {}).get(name) for name in _CLOSENESS}
    flat |= {name: row[name] for name in _SCORES}
    schemes = {"float32": "float32", "int8": "int8", "deployed": row["deployed"] or "float32"}
    for file, scheme in schemes.items():
        exported = row[scheme] or {}
        quartiles = latency_of(latency, row["name"], scheme) or {}
        flat |= {f"{file}_{name}": exported.get(name) for name in _EXPORTED}
        flat |= {f"{file}_{name}": quartiles.get(name) for name in _QUARTILES}
    return flat
