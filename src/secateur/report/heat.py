"""What every layer has to lose, as a map whose colours say how much."""

from __future__ import annotations

from typing import Any

from secateur.report.rows import Rows


def heat(sensitivity: Rows) -> dict[str, Any] | None:
    """The rows of `sensitivity.json` by layer, each cell with its heat; None without rows.

    A cell's heat is in [0, 1]: the root of the rise over the error of the whole model, so that
    small rises can be told apart, and 1 from where the error doubles.
    """
    if not sensitivity:
        return None
    layers: dict[str, dict[str, Any]] = {}
    for row in sensitivity:
        rise = None if row["rise"] is None else row["rise"] / row["mse"] if row["mse"] else 0.0
        layer = layers.setdefault(row["layer"], {"units": row["units"], "cells": []})
        warmth = 1.0 if rise is None else min(1.0, max(0.0, rise) ** 0.5)
        layer["cells"].append({"rise": rise, "removed": row["removed"], "heat": round(warmth, 3)})
    ratios = dict.fromkeys(row["ratio"] for row in sensitivity)
    return {"ratios": list(ratios), "layers": layers, "mse": sensitivity[0]["mse"]}
