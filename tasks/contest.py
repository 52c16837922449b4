"""Is the newly elected rung as good as the champion that serves? `python -m tasks.contest 0`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import numpy as np

from secateur import paths
from secateur.guard import described, judge
from secateur.litert import LiteRTModel, run_litert
from secateur.manifest import read_whole
from secateur.metrics import batches, squared_errors
from secateur.settings import load_settings
from secateur.sources.prepared import load_anomalies, load_rows
from secateur.sources.scaling import Scaling
from tasks.champion import pairing
from tasks.command import main

logger = logging.getLogger(__name__)


def run(tolerance: str) -> None:
    """Compare both on the new validation rows, and write what the guard says.

    Whoever loses is remembered, so that the stage `champion` does not publish it after all when
    `dvc repro` or the next run of the ladder comes to it.

    The rows are new to neither if the champion was trained on some of them: that speaks for the
    champion, so it errs on the side of keeping what serves.
    """
    record = paths.read_json(paths.ELECTION / paths.CHAMPION_RECORD)
    found = {"candidate": record["rung"], **contest(record["rung"], float(tolerance))}
    with paths.publishing(paths.REFRESH) as folder:
        paths.write_json(folder / paths.CONTEST, found)
    paths.KEPT.unlink(missing_ok=True)
    if "verdict" in found and not found["accepted"]:
        with paths.publishing(paths.KEPT.parent) as folder:
            lost = {"pairing": pairing(record["rung"]), "message": found["message"]}
            paths.write_json(folder / paths.KEPT.name, lost)
    logger.info("%s: %s", "promote" if found["accepted"] else "keep", found["message"])


def contest(rung: str, tolerance: float) -> dict[str, Any]:
    """Whether an exported rung may take the champion's place, and why: part of `contest.json`."""
    if not paths.CHAMPION.exists():
        return {"accepted": True, "message": "no champion serves yet"}
    serving, candidate = read_whole(paths.CHAMPION), paths.EXPORTS / rung
    if serving[paths.FLOAT32] == (candidate / paths.FLOAT32).read_bytes():
        return {"accepted": False, "message": f"{rung} is the model that serves"}
    settings = load_settings()
    validation, anomalies = load_rows(paths.VALIDATION), load_anomalies(paths.VALIDATION)
    labelled = {name: settings.guard.tolerances[name] for name in settings.guard.labelled}
    anomaly_errors: dict[str, Any] = {}
    if labelled and anomalies is not None:
        outputs = run_litert(candidate / paths.FLOAT32, anomalies)
        anomaly_errors = {
            "baseline_anomaly_errors": _errors_of_serving(serving, anomalies),
            "candidate_anomaly_errors": squared_errors(anomalies, outputs),
        }
    verdict = judge(
        _errors_of_serving(serving, validation),
        np.load(paths.errors_file(candidate / paths.FLOAT32)),
        metrics={"mse": {"relative": tolerance}, **labelled},
        **anomaly_errors,
        confidence=settings.guard.confidence,
        resamples=settings.guard.resamples,
        seed=settings.seed,
    )
    numbers = asdict(verdict)
    message = (
        f"{rung} against the champion on {len(validation):,} new validation rows: "
        f"{described(verdict)}"
    )
    return {"accepted": numbers.pop("accepted"), "message": message, "verdict": numbers}


def _errors_of_serving(serving: dict[str, bytes], validation: np.ndarray) -> np.ndarray:
    """(rows,) the champion's errors in the units of the new data's scaling.

    The champion sees rows as it would in service, by its own scaling. Its errors are then measured
    in the units that the candidate's are in: a column's range may have changed.

    Args:
        serving: the champion's files.
        validation: (rows, features) float32, scaled by the new data's scaling.
    """
    new = Scaling.from_json(paths.read_json(paths.SCALING))
    old = Scaling.from_json(paths.parse_json(serving[paths.SCALING.name]))
    model = LiteRTModel(serving[paths.FLOAT32])
    units = new.scale / old.scale
    errors = []
    for batch in batches(validation):
        inputs = old.apply((batch - new.offset) / new.scale)
        outputs = model(inputs.reshape(-1, *model.row_shape)).reshape(inputs.shape)
        errors.append((((outputs - inputs).astype(np.float64) * units) ** 2).mean(axis=1))
    return np.concatenate(errors)


if __name__ == "__main__":
    main(run)
