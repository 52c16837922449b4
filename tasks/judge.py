"""Stage `judge`: did a round keep its quality? Accept it, or stop the ladder."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import numpy as np

from secateur import paths
from secateur.guard import judge
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
    parent_decision = paths.read_json(paths.DECISIONS / parent / paths.DECISION)
    if parent_decision["stopped"]:
        decision = {"accepted": False, "stopped": True}
        verdict: dict[str, Any] = {"state": "passed_through"}
    else:
        decision, verdict = _judge(settings, rung)
    with paths.publishing(paths.DECISIONS / rung) as folder:
        paths.write_json(folder / paths.DECISION, {"rung": rung, **decision})
        paths.write_json(folder / paths.VERDICT, {"rung": rung, **verdict})


def _judge(settings: Settings, rung: str) -> tuple[dict[str, bool], dict[str, Any]]:
    baseline_errors, errors = (
        np.load(paths.rung_folder(name) / paths.VALIDATION_ERRORS) for name in (BASELINE, rung)
    )
    verdict = judge(baseline_errors, errors, **settings.guard.model_dump(), seed=settings.seed)
    state = "accepted" if verdict.accepted else "rejected"
    logger.info(
        "%s %s: validation MSE %+.1f%%, at %.0f%% confidence at most %+.1f%%, tolerance %+.1f%%",
        rung, state, 100 * verdict.mse_rise, 100 * verdict.confidence,
        100 * verdict.upper_bound, 100 * verdict.tolerance,
    )  # fmt: skip
    numbers = asdict(verdict)
    accepted = numbers.pop("accepted")
    return {"accepted": accepted, "stopped": not accepted}, {"state": state, **numbers}


if __name__ == "__main__":
    main(run)
