"""Stage `judge`: did a round keep its quality? Accept it, or stop the ladder."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import numpy as np

from secateur import paths
from secateur.guard import described, judge
from secateur.planner import Aim, Course
from secateur.settings import BASELINE, Settings, load_settings
from tasks.command import main

logger = logging.getLogger(__name__)


def run(rung: str) -> None:
    """Judge one round against the baseline, row by row on validation data.

    `decision.json` holds only what later rounds go by, and `verdict.json` the numbers behind it:
    a guard that judges more strictly to the same end must not make the rounds behind it rerun.
    """
    settings = load_settings()
    parent = settings.round(rung).parent
    before = paths.read_json(paths.DECISIONS / parent / paths.DECISION)
    metrics = paths.read_json(paths.rung_folder(rung) / paths.METRICS)
    if metrics["state"] == "passed_through":
        decision = {**before, "accepted": False, "stopped": True}
        verdict: dict[str, Any] = {"state": "passed_through"}
    else:
        accepted, verdict = _judge(settings, rung)
        decision = _decide(rung, accepted, before, metrics["progress"])
    with paths.publishing(paths.DECISIONS / rung) as folder:
        paths.write_json(folder / paths.DECISION, {**decision, "rung": rung})
        paths.write_json(folder / paths.VERDICT, {"rung": rung, **verdict})


def _decide(
    rung: str, accepted: bool, before: dict[str, Any], progress: dict[str, bool] | None
) -> dict[str, Any]:
    """What the next round goes by: where it starts, and under a goal, its course."""
    decision = {
        **before,
        "accepted": accepted,
        "stopped": not accepted,
        "cut_from": rung if accepted else before["cut_from"],
    }
    plan = paths.read_json(paths.PLAN)
    if plan is None:
        return decision
    course = Course.of(before, aim := Aim(**plan))
    if progress is not None:  # a round that does not follow the goal leaves the course as it is
        course = course.after(aim, accepted, **progress)
    return {**decision, **course.as_json()}


def _judge(settings: Settings, rung: str) -> tuple[bool, dict[str, Any]]:
    (baseline, candidate), (baseline_anomalies, candidate_anomalies) = (
        [np.load(paths.rung_folder(name) / file) for name in (BASELINE, rung)]
        for file in (paths.VALIDATION_ERRORS, paths.ANOMALY_ERRORS)
    )
    verdict = judge(
        baseline,
        candidate,
        metrics=settings.guard.tolerances_for(settings.goal),
        confidence=settings.guard.confidence,
        resamples=settings.guard.resamples,
        seed=settings.seed,
        baseline_anomaly_errors=baseline_anomalies,
        candidate_anomaly_errors=candidate_anomalies,
        alarm_quantile=settings.detection.quantile,
    )
    state = "accepted" if verdict.accepted else "rejected"
    logger.info("%s %s: %s", rung, state, described(verdict))
    for name, finding in verdict.metrics.items():
        if finding.false_rejection > 1 - verdict.confidence:
            logger.warning(
                "%s: %d validation rows are few for this tolerance of %s: a model that lost "
                "nothing would be rejected %.0f%% of the time",
                rung, len(baseline), name, 100 * finding.false_rejection,
            )  # fmt: skip
    numbers = asdict(verdict)
    accepted = numbers.pop("accepted")
    return accepted, {"state": state, **numbers}


if __name__ == "__main__":
    main(run)
