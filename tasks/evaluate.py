"""Stage `evaluate`: score every rung and control on test data. No other stage reads them."""

from __future__ import annotations

import logging
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from secateur import paths
from secateur.costs import costs
from secateur.evaluation import PCAControl, Reconstruct, measure_errors, score
from secateur.graph.code import code_width
from secateur.litert import LiteRTModel
from secateur.metrics import reconstruct
from secateur.saving import load
from secateur.schemes import FLOAT32, INT8
from secateur.settings import BASELINE, Settings, load_settings
from tasks.command import main

logger = logging.getLogger(__name__)

ALWAYS_EXPORTED = (FLOAT32, INT8)
PICTURED_ROWS = 16
_COUNTED = ("parameters", "macs", "nonzeros", "size_bytes", "gzip_bytes")
_NUMBERS = ("test_mse", "test_mse_ratio", "psnr_db", "p99_error", "auc", "partial_auc", *_COUNTED)


@dataclass(frozen=True)
class TestData:
    """The rows no model has seen, mapped from their files, and the range of scaled values."""

    rows: np.ndarray
    anomalies: np.ndarray | None
    data_range: float


def run() -> None:
    """Score all models on the test rows, and gather what the report shows."""
    settings = load_settings()
    test = _test_data()
    champion = paths.read_json(paths.CHAMPION / paths.CHAMPION_RECORD)
    rungs = [_rung(rung, champion, test) for rung in settings.rungs]
    by_name = {row["name"]: row for row in rungs}
    rows = [*rungs, *_from_scratch(settings, by_name, test), _pca(settings, test)]
    _relate(rows, by_name[BASELINE])
    with paths.publishing(paths.REPORTS) as reports:
        folder = reports / paths.EVALUATION.name
        folder.mkdir()
        paths.write_json(folder / paths.RUNGS, rows)
        paths.write_json(folder / paths.CUTS, _cuts(settings))
        paths.write_json(folder / paths.CONTEXT, _context(settings))
        shutil.copyfile(paths.SCHEMA, folder / paths.SCHEMA.name)
        np.save(folder / paths.RECONSTRUCTIONS, _reconstructions(test.rows[:PICTURED_ROWS]))
        table = {row["name"]: _numbers(row) for row in rungs}
        table["champion"] = table[champion["rung"]]
        paths.write_json(reports / paths.METRICS_TABLE.name, table)
    logger.info("on %d test rows:\n%s", len(test.rows), _compact(rows))


def _test_data() -> TestData:
    low, high = paths.read_json(paths.SCHEMA)["scaled_range"]
    anomalies = paths.TEST / paths.ANOMALIES
    return TestData(
        rows=np.load(paths.TEST / paths.ROWS, mmap_mode="r"),
        anomalies=np.load(anomalies, mmap_mode="r") if anomalies.exists() else None,
        data_range=high - low,
    )


def _rung(rung: str, champion: Mapping[str, Any], test: TestData) -> dict[str, Any]:
    bundle = paths.EXPORTS / rung
    metrics = paths.read_json(bundle / paths.METRICS)
    deployed = metrics["deployed"]
    files = {
        scheme: bundle / paths.litert_file(scheme)
        for scheme in dict.fromkeys((*ALWAYS_EXPORTED, deployed))
    }
    states = {candidate["rung"]: candidate["state"] for candidate in champion["candidates"]}
    return {
        "name": rung,
        "kind": "baseline" if rung == BASELINE else "round",
        "of": metrics.get("cut_from"),
        "state": states[rung],
        "champion": rung == champion["rung"],
        "guard": paths.read_json(paths.DECISIONS / rung / paths.VERDICT).get("metrics"),
        **{name: metrics["costs"][name] for name in _COUNTED},
        "validation_mse": metrics["validation_mse"],
        "closeness": metrics["closeness"],
        "deployed": deployed,
        **_scores(_keras(bundle / paths.MODEL), test, files, deployed),
    }


def _from_scratch(
    settings: Settings, rungs: Mapping[str, Mapping[str, Any]], test: TestData
) -> list[dict[str, Any]]:
    """The rounds' architectures, trained from scratch; a control that was skipped has no row."""
    rows = []
    for rung in settings.rounds:
        folder = paths.CONTROLS / rung
        metrics = paths.read_json(folder / paths.METRICS)
        if metrics["state"] == "skipped":
            continue
        model = load(folder / paths.MODEL)
        counted = asdict(costs(model))
        rows.append(
            _control(f"{rung} from scratch", "scratch", rung)
            | {name: counted[name] for name in _COUNTED}
            | {"validation_mse": {"after_recovery": metrics["validation_mse"]}, "closeness": None}
            | _scores(_keras(folder / paths.MODEL), test)
        )
    return rows


def _pca(settings: Settings, test: TestData) -> dict[str, Any]:
    train = np.load(paths.TRAIN / paths.ROWS, mmap_mode="r")
    code = code_width(load(paths.EXPORTS / BASELINE / paths.MODEL))
    pca = PCAControl(train, code, settings.seed)
    return (
        _control(f"PCA {pca.code}", "pca", BASELINE)
        | {name: getattr(pca, name) for name in _COUNTED}
        | {"validation_mse": None, "closeness": None}
        | _scores(pca, test)
    )


def _control(name: str, kind: str, of: str) -> dict[str, Any]:
    return {
        "name": name, "kind": kind, "of": of, "state": None, "champion": False, "guard": None,
        "deployed": None,
    }  # fmt: skip


def _scores(
    model: Reconstruct,
    test: TestData,
    files: Mapping[str, Path] | None = None,
    deployed: str = FLOAT32,
) -> dict[str, Any]:
    """Scores of the model or, where a round is deployed as a file of its own, of that; of files."""
    files = files or {}
    runs = {scheme: LiteRTModel(file) for scheme, file in files.items()}
    errors, file_scores = measure_errors(model, test.rows, runs)
    if deployed != FLOAT32:
        model = runs[deployed]
        errors = measure_errors(model, test.rows)[0]
    anomaly_errors = None if test.anomalies is None else measure_errors(model, test.anomalies)[0]
    return (
        asdict(score(errors, anomaly_errors, test.data_range))
        | dict.fromkeys(ALWAYS_EXPORTED)
        | {
            scheme: asdict(file_scores[scheme]) | {"bytes": file.stat().st_size}
            for scheme, file in files.items()
        }
    )


def _keras(path: Path) -> Reconstruct:
    model = load(path)
    return lambda rows: reconstruct(model, rows)


def _deployed(bundle: Path) -> Reconstruct:
    """What is judged of a bundle: its model, or the file of a scheme of its own."""
    scheme = paths.read_json(bundle / paths.METRICS)["deployed"]
    if scheme == FLOAT32:
        return _keras(bundle / paths.MODEL)
    return LiteRTModel(bundle / paths.litert_file(scheme))


def _relate(rows: list[dict[str, Any]], baseline: Mapping[str, Any]) -> None:
    """Add what a row is in proportion to the baseline."""
    for row in rows:
        row["compression_ratio"] = baseline["parameters"] / row["parameters"]
        row["theoretical_speedup"] = baseline["macs"] / row["macs"]
        row["test_mse_ratio"] = row["test_mse"] / baseline["test_mse"]


def _cuts(settings: Settings) -> dict[str, Any]:
    return {rung: paths.read_json(paths.EXPORTS / rung / paths.CUT) for rung in settings.rungs}


def _reconstructions(originals: np.ndarray) -> np.ndarray:
    """(3, rows, features) float32: the originals, the baseline's and the champion's."""
    made = [_deployed(bundle)(originals) for bundle in (paths.EXPORTS / BASELINE, paths.CHAMPION)]
    return np.stack([np.asarray(originals), *made]).astype(np.float32)


def _context(settings: Settings) -> dict[str, Any]:
    """What the numbers depend on: no clock, no host name, so that equal runs give equal bytes."""
    packages = ("tensorflow", "keras", "numpy", "scikit-learn", "ai-edge-litert", "secateur")
    return {
        "seeds": [settings.seed],
        "minimised": settings.champion.minimised_for(settings.goal),
        "versions": {name: _version(name) for name in packages}
        | {"python": platform.python_version()},
        "settings": settings.model_dump(mode="json"),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree
        return "not installed"


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The row's plain numbers, flat, for `dvc metrics`."""
    numbers = {name: row[name] for name in _NUMBERS if row[name] is not None}
    for scheme in dict.fromkeys((*ALWAYS_EXPORTED, row["deployed"])):
        numbers |= {f"{scheme}_{name}": value for name, value in row[scheme].items()}
    return numbers | {"deployed_bytes": row[row["deployed"]]["bytes"]}


def _compact(rows: list[dict[str, Any]]) -> str:
    """The rows as a table of plain text; a star marks the champion."""
    table = pd.DataFrame(
        {
            "state": row["state"] or "control",
            "parameters": f"{row['parameters']:,}",
            "macs": f"{row['macs']:,}",
            "test mse": f"{row['test_mse']:.6f}",
            "to baseline": f"{row['test_mse_ratio']:.3f}",
            "int8 mse": f"{row['int8']['test_mse']:.6f}" if row["int8"] else "",
            "int8 bytes": f"{row['int8']['bytes']:,}" if row["int8"] else "",
            "deployed as": row["deployed"] or "",
        }
        | ({} if row["auc"] is None else {"auc": f"{row['auc']:.4f}"})
        for row in rows
    )
    table.index = pd.Index([("* " if row["champion"] else "  ") + row["name"] for row in rows])
    return table.to_string()


if __name__ == "__main__":
    main(run)
