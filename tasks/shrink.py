"""Stage `shrink`: take the parent's model, cut it, compensate, recover."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from typing import Any

import numpy as np

from secateur import paths
from secateur.closeness import closeness
from secateur.methods.base import RoundReport
from secateur.metrics import mean_squared_error
from secateur.recovery import recover
from secateur.saving import load
from secateur.settings import BASELINE, RoundSettings, load_settings
from secateur.shrinking import shrink
from secateur.sources.prepared import load_rows
from tasks.command import main
from tasks.rung import check_guard, resumable, write_cut, write_rung

logger = logging.getLogger(__name__)

_PASSED = (
    paths.MODEL,
    paths.MASKS,
    paths.VALIDATION_ERRORS,
    paths.ANOMALY_ERRORS,
    paths.HISTORY,
)


def run(rung: str) -> None:
    """Make one round's model from its parent's; after a stop, pass the parent's model through."""
    settings = load_settings()
    check_guard(settings)
    wanted = settings.round(rung)
    decision = paths.read_json(paths.DECISIONS / wanted.parent / paths.DECISION)
    if decision["stopped"]:
        _pass_through(rung, wanted)
    else:
        _shrink(rung, wanted, settings.seed, settings.baseline.training.epochs)


def _shrink(rung: str, wanted: RoundSettings, seed: int, baseline_epochs: int) -> None:
    train, validation = load_rows(paths.TRAIN), load_rows(paths.VALIDATION)
    baseline = load(paths.rung_folder(BASELINE) / paths.MODEL)
    parent = load(paths.rung_folder(wanted.parent) / paths.MODEL)
    sample = calibration_sample(train, wanted.calibration_rows, seed)
    cut, report = shrink(parent, sample, wanted.method, wanted.target, **wanted.options)
    scores = {
        "before_cut": mean_squared_error(parent, validation),
        "after_cut": mean_squared_error(report.uncompensated, validation),
        "after_compensation": mean_squared_error(cut, validation),
    }
    teachers = {"none": None, "baseline": baseline, "parent": parent}
    options = wanted.recovery.model_dump(exclude={"teacher"})
    options["original_epochs"] = options["original_epochs"] or baseline_epochs
    metrics: dict[str, Any] = {
        "rung": rung,
        "parent": wanted.parent,
        "method": wanted.method,
        "state": "shrunk",
        "validation_mse": scores,
    }
    with resumable(rung) as checkpoint:
        model, history = recover(
            cut,
            train,
            validation,
            teachers[wanted.recovery.teacher],
            seed=seed,
            name=rung,
            checkpoint=checkpoint,
            **options,
        )
        metrics["closeness"] = asdict(closeness(baseline, model, validation))
        with paths.publishing(paths.rung_folder(rung)) as folder:
            write_rung(folder, model, history, report, metrics, validation)
    logger.info(
        "%s: validation MSE %.5g, cut %.5g, compensated %.5g, recovered %.5g",
        rung, *scores.values(),
    )  # fmt: skip


def calibration_sample(train: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """At most `rows` training rows, drawn without replacement, in their own order."""
    if len(train) <= rows:
        return np.asarray(train)
    drawn = np.random.default_rng(seed).choice(len(train), rows, replace=False)
    return np.asarray(train[np.sort(drawn)])


def _pass_through(rung: str, wanted: RoundSettings) -> None:
    parent_folder = paths.rung_folder(wanted.parent)
    metrics = paths.read_json(parent_folder / paths.METRICS)
    passed = {
        "rung": rung, "parent": wanted.parent, "state": "passed_through",
        "epochs": 0, "best_epoch": 0, "attempts": 0, "gave_up": False, "setbacks": [],
    }  # fmt: skip
    with paths.publishing(paths.rung_folder(rung)) as folder:
        for name in _PASSED:
            shutil.copyfile(parent_folder / name, folder / name)
        architecture = paths.read_json(parent_folder / paths.ARCHITECTURE)
        paths.write_json(folder / paths.ARCHITECTURE, {**architecture, "state": "passed_through"})
        write_cut(folder, RoundReport())
        paths.write_json(folder / paths.METRICS, {**metrics, **passed})
    logger.info("%s: the ladder stopped before it; passes %s through", rung, wanted.parent)


if __name__ == "__main__":
    main(run)
