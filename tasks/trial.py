"""One trial of a study: a ladder under its own settings, in its own folder, up to its verdicts.

`python -m tasks.trial FOLDER` runs the very bodies of the pipeline's stages there. Trials that
share data, seed and baseline share these files too: the first to come makes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from secateur import paths
from secateur.settings import BASELINE, Settings, load_settings
from tasks import baseline, export, judge, plan, prepare, shrink
from tasks.command import main
from tasks.study import BASE, OUTCOME, point


def run(folder: str) -> None:
    """Bring a trial to its end from wherever it is, and leave its outcome in `trial.json`.

    Args:
        folder: holds `params.yaml` and the link `base`, as `tasks.study` lays them out.
    """
    os.chdir(folder)
    with _alone(Path("trial.lock")):
        if Path(OUTCOME).exists():
            return
        with _inside(Path(BASE)), _alone(Path("base.lock")):
            _make_base()
        for shared in (paths.PREPARED, paths.rung_folder(BASELINE), paths.DECISIONS / BASELINE):
            point(shared, Path(BASE) / shared)
        settings = load_settings()
        plan.run()
        for rung in settings.rounds:
            # Written last: a round that has it is whole.
            if not (paths.DECISIONS / rung / paths.DECISION).exists():
                shrink.run(rung)
                judge.run(rung)
        outcome = _outcome(settings)
        with paths.publishing(Path()) as scratch:
            paths.write_json(scratch / OUTCOME, outcome)


def _make_base() -> None:
    if not (paths.DECISIONS / BASELINE / paths.DECISION).exists():
        prepare.run()
        baseline.run()


def _outcome(settings: Settings) -> dict[str, Any]:
    """What the study's table tells of a trial; nothing here has seen test data."""
    minimise = settings.champion.minimised_for(settings.goal)
    rungs = [_rung(rung, minimise) for rung in settings.rungs]
    champion = min((rung for rung in rungs if rung["accepted"]), key=lambda rung: rung[minimise])
    first = rungs[0]
    return {
        "champion": champion["rung"],
        "minimise": minimise,
        minimise: champion[minimise],
        "share": champion[minimise] / first[minimise],
        "validation_mse": champion["validation_mse"],
        "mse_to_baseline": champion["validation_mse"] / first["validation_mse"],
        "accepted": sum(rung["accepted"] for rung in rungs[1:]),
        "rungs": rungs,
    }


def _rung(rung: str, minimise: str) -> dict[str, Any]:
    metrics = paths.read_json(paths.rung_folder(rung) / paths.METRICS)
    accepted = paths.read_json(paths.DECISIONS / rung / paths.DECISION)["accepted"]
    costs = dict(metrics["costs"])
    if minimise not in costs:
        export.run(rung)
        costs |= paths.read_json(paths.EXPORTS / rung / paths.COSTS)
    return {
        "rung": rung,
        "accepted": accepted,
        minimise: costs[minimise],
        "validation_mse": metrics["validation_mse"]["after_recovery"],
    }


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a folder; the system lets go of it however this process ends."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    outside = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(outside)


if __name__ == "__main__":
    main(run)
