"""Stage `shrink`: take the parent's model, cut it, compensate, recover."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur import paths
from secateur.methods.base import RoundReport
from secateur.schemes import FLOAT32
from secateur.settings import BASELINE, RoundSettings, Settings, load_settings
from secateur.sources.prepared import load_rows
from tasks.command import main
from tasks.rung import check_anomalies, resumable, write_cut, write_rung

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

_PASSED = (
    paths.MODEL,
    paths.MASKS,
    paths.VALIDATION_ERRORS,
    paths.ANOMALY_ERRORS,
    paths.HISTORY,
    paths.METRICS,
    paths.ARCHITECTURE,
)


def run(rung: str) -> None:
    """Make one round's model from the last good one; after a stop, pass that through."""
    settings = load_settings()
    anomalies = check_anomalies(settings)
    wanted = settings.round(rung)
    decision = paths.read_json(paths.DECISIONS / wanted.parent / paths.DECISION)
    start = _last_good(wanted.parent, decision)
    if decision["stopped"]:
        _pass_through(rung, wanted, start, decision["cut_from"])
    else:
        _shrink(rung, settings, start, decision, anomalies)


def _last_good(parent: str, decision: dict[str, Any]) -> Path:
    """The folder of the last rung that the guard let through: the parent, or what it came from."""
    folder = paths.rung_folder(parent)
    return folder if decision["cut_from"] == parent else folder / paths.START


def _shrink(
    rung: str,
    settings: Settings,
    start: Path,
    decision: dict[str, Any],
    anomalies: np.ndarray | None,
) -> None:
    # TensorFlow takes seconds to import, and rounds behind a stop do without.
    from secateur.closeness import closeness
    from secateur.metrics import mean_squared_error
    from secateur.planner import Aim, Course, longer, progress_of
    from secateur.recovery import recover
    from secateur.saving import load
    from secateur.shrinking import shrink
    from secateur.targets import limit_of, target_of
    from secateur.training.replicas import replicas_of

    wanted, seed = settings.round(rung), settings.seed
    # Hosts of a training must meet before TensorFlow does anything.
    replicas_of(wanted.recovery.devices, wanted.recovery.hosts)
    train, validation = load_rows(paths.TRAIN), load_rows(paths.VALIDATION)
    baseline = load(paths.rung_folder(BASELINE) / paths.MODEL)
    parent = load(start / paths.MODEL)
    sample = calibration_sample(train, wanted.calibration_rows, seed)
    target, recovery, aim, limit = wanted.target, wanted.recovery, None, None
    if wanted.follows_goal:
        aim = Aim(**paths.read_json(paths.PLAN))
        course, limit = Course.of(decision, aim), limit_of(aim, baseline, sample)
        target = target_of(aim, course, limit, parent, sample)
        if target is None:
            _pass_through(rung, wanted, start, decision["cut_from"])
            return
        recovery = longer(recovery, course)
    cut, report = shrink(parent, sample, wanted.method, target, **wanted.options)
    scores = {
        "before_cut": mean_squared_error(parent, validation),
        "after_cut": mean_squared_error(report.uncompensated, validation),
        "after_compensation": mean_squared_error(cut, validation),
    }
    teachers = {"none": None, "baseline": baseline, "parent": parent}
    options = recovery.model_dump(exclude={"teacher"})
    options["original_epochs"] = options["original_epochs"] or settings.baseline.training.epochs
    metrics: dict[str, Any] = {
        "rung": rung,
        "parent": wanted.parent,
        "cut_from": decision["cut_from"],
        "method": wanted.method,
        "state": "shrunk",
        "progress": None if aim is None else progress_of(report.budget, limit),
        "deployed": wanted.deploys_as or FLOAT32,
        "validation_mse": scores,
    }
    with resumable(rung) as checkpoint:
        model, history = recover(
            cut,
            train,
            validation,
            teachers[wanted.recovery.teacher],
            anomalies=anomalies,
            seed=seed,
            name=rung,
            checkpoint=checkpoint,
            **options,
        )
        metrics["closeness"] = asdict(closeness(baseline, model, validation))
        with paths.publishing(paths.rung_folder(rung)) as folder:
            errors_of = _write_deployed(folder / paths.DEPLOYED, metrics["deployed"], model, sample)
            write_rung(folder, model, history, report, metrics, validation, errors_of)
            _copy_rung(start, folder / paths.START)
    logger.info(
        "%s: validation MSE %.5g, cut %.5g, compensated %.5g, recovered %.5g",
        rung, *scores.values(),
    )  # fmt: skip


def _copy_rung(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in _PASSED:
        shutil.copyfile(source / name, target / name)
    scheme = paths.read_json(source / paths.METRICS)["deployed"]
    _write_scheme(target / paths.DEPLOYED, scheme)
    if scheme != FLOAT32:
        name = paths.litert_file(scheme)
        shutil.copyfile(source / paths.DEPLOYED / name, target / paths.DEPLOYED / name)


def _write_scheme(folder: Path, scheme: str) -> None:
    folder.mkdir()
    paths.write_json(folder / paths.SCHEME, {"scheme": scheme})


def _write_deployed(
    folder: Path, scheme: str, model: keras.Model, sample: np.ndarray
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Write what is judged if that is another thing than the model: a LiteRT file.

    Returns:
        From rows to the file's errors of them; None where the model is judged.
    """
    from secateur.deployment import write_deployed
    from secateur.litert import row_errors_of_file

    _write_scheme(folder, scheme)
    if scheme == FLOAT32:
        return None
    file = folder / paths.litert_file(scheme)
    write_deployed(model, file, sample, scheme)
    return partial(row_errors_of_file, file)


def calibration_sample(train: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """At most `rows` training rows, drawn without replacement, in their own order."""
    if len(train) <= rows:
        return np.asarray(train)
    drawn = np.random.default_rng(seed).choice(len(train), rows, replace=False)
    return np.asarray(train[np.sort(drawn)])


def _pass_through(rung: str, wanted: RoundSettings, start: Path, cut_from: str) -> None:
    metrics = paths.read_json(start / paths.METRICS)
    passed: dict[str, Any] = {
        "rung": rung, "parent": wanted.parent, "cut_from": cut_from, "state": "passed_through",
        "progress": None,
        "epochs": 0, "best_epoch": 0, "attempts": 0, "gave_up": False, "setbacks": [],
    }  # fmt: skip
    with paths.publishing(paths.rung_folder(rung)) as folder:
        _copy_rung(start, folder)
        _copy_rung(start, folder / paths.START)
        architecture = paths.read_json(start / paths.ARCHITECTURE)
        paths.write_json(folder / paths.ARCHITECTURE, {**architecture, "state": "passed_through"})
        write_cut(folder, RoundReport())
        paths.write_json(folder / paths.METRICS, {**metrics, **passed})
    logger.info("%s: the ladder has ended before it; passes %s through", rung, cut_from)


if __name__ == "__main__":
    main(run)
