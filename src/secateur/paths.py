"""The only place that knows file names, and the only way files come to be.

All paths are relative to the workspace, the folder that holds `dvc.yaml`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux

SETTINGS = Path("params.yaml")
SCRATCH = Path(".scratch")
FLOW_RUN = SCRATCH / "flow_run"  # the id of the run at work here

PRETRAINED = Path("data/pretrained")  # one trained model that somebody put there

# Prepared data, one folder a split, so that a stage's deps say which splits it may read.
PREPARED = Path("data/prepared")
TRAIN = PREPARED / "train"
VALIDATION = PREPARED / "validation"
TEST = PREPARED / "test"
ROWS = "rows.npy"  # (rows, features) float32, normal rows
ANOMALIES = "anomalies.npy"  # (rows, features) float32; only where the source has labels
DESCRIPTION = PREPARED / "description"
SCHEMA = DESCRIPTION / "schema.json"
SCALING = DESCRIPTION / "scaling.json"

MODELS = Path("models")
MODEL = "model.keras"
METRICS = "metrics.json"
HISTORY = "history.csv"
CUT = "cut.json"
ARCHITECTURE = "architecture.json"  # the model without weights: all that its control needs
START = "start"  # in a round's folder: all of the rung that it was cut from
MASKS = "masks.npz"  # which kernel entries are alive, for kernels that hold zeros
DEPLOYED = "deployed"  # folder: the scheme, and the LiteRT file where the guard judged one
SCHEME = "scheme.json"
VALIDATION_ERRORS = "validation_errors.npy"  # (rows,) float64, mean squared error of each row
ANOMALY_ERRORS = "anomaly_errors.npy"  # (anomalies,) the same of validation's anomalies, if any

DECISIONS = MODELS / "decisions"
EXPORTS = MODELS / "exports"
CONTROLS = MODELS / "controls"
PLAN = MODELS / "plan" / "plan.json"  # what the rounds are for, and no tolerance: see planner
ELECTION = MODELS / "election"
CHAMPION = MODELS / "champion"
DECISION = "decision.json"  # what later rounds go by, and no more: see judge
VERDICT = "verdict.json"  # the numbers behind it
COSTS = "costs.json"
FLOAT32 = "float32.tflite"
INT8 = "int8.tflite"
CHAMPION_RECORD = "champion.json"  # the winner, and who else stood for election
THRESHOLD = "threshold.json"  # by artifact: the error above which a row is an anomaly
REFERENCE = "reference.npy"  # (rows, features) float32, scaled: rows of what it was trained on
CARD = "report.md"
MANIFEST = "manifest.md5"  # of all files beside it, as `md5sum --check` reads it

REPORTS = Path("reports")
EVALUATION = REPORTS / "evaluation"
RUNGS = "rungs.json"  # one row a rung or control
RECONSTRUCTIONS = "reconstructions.npy"  # (3, rows, features): originals, baseline's, champion's
CUTS = "cuts.json"
CONTEXT = "context.json"
METRICS_TABLE = REPORTS / "metrics.json"
LATENCY = REPORTS / "latency.json"
SENSITIVITY = REPORTS / "sensitivity.json"  # one row a layer of the baseline and share of its units
FRONTIER = REPORTS / "frontier.csv"
PAGE = REPORTS / "index.html"
REFRESH = REPORTS / "refresh"  # what the last refresh saw; no stage's out
DRIFT = "drift.json"
CONTEST = "contest.json"
KEPT = SCRATCH / "kept.json"  # who lost against what serves in the last refresh, and against what
ANNOUNCED = SCRATCH / "announced"  # the manifest's md5 of the champion that was last made known
PICTURES = REPORTS / "pictures"


def rung_folder(rung: str) -> Path:
    """Where a rung's model, metrics, history and cut lie."""
    return MODELS / rung


def litert_file(scheme: str) -> str:
    """The name of a rung's LiteRT file of a scheme."""
    return f"{scheme}.tflite"


def errors_file(artifact: Path) -> Path:
    """Beside an artifact: its own errors of the validation rows, (rows,) float64."""
    return artifact.with_suffix(".errors.npy")


def checkpoint(training: str) -> Path:
    """Where a training keeps how far it is: a rung's name, or `controls/` and one."""
    return SCRATCH / "training" / f"{training}.npz"


@contextlib.contextmanager
def publishing(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files appear in `folder` together, and only if all went well.

    Files are renamed into place one by one at the end, so whoever looks sees a whole file or none.
    """
    scratch = SCRATCH / "publishing" / folder
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left
    scratch.mkdir(parents=True)
    try:
        yield scratch
        for file in sorted(path for path in scratch.rglob("*") if path.is_file()):
            target = folder / file.relative_to(scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes `folder` as a whole, and only if all went well.

    Whoever looks finds the old folder or the new one, with nothing of the other in it. On a file
    system that cannot exchange two folders there is none for a moment in between.
    """
    scratch = SCRATCH / "replacing" / folder
    old = scratch.with_name(f"{scratch.name}.old")
    for left_over in (scratch, old):  # by a killed run
        shutil.rmtree(left_over, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            scratch.rename(folder)
        elif not _exchange(scratch, folder):
            folder.rename(old)
            scratch.rename(folder)
    finally:
        for left_over in (scratch, old):
            shutil.rmtree(left_over, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # Linux; Python has no name for it
    if renameat2 is None:
        return False
    return bool(renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def parse_json(content: bytes) -> Any:
    """What a JSON file of this content holds."""
    return json.loads(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whose bytes depend on the content alone."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
