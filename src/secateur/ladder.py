"""A whole ladder in memory: round after round, until the guard says stop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from pydantic import ValidationError

from secateur.costs import Costs, costs
from secateur.errors import InputError
from secateur.guard import Verdict, judge
from secateur.methods.base import RoundReport
from secateur.metrics import row_errors
from secateur.recovery import History, check_schedule, recover
from secateur.settings import GuardSettings, RoundSettings
from secateur.shrinking import shrink


@dataclass(frozen=True)
class Rung:
    """One round's outcome.

    Attributes:
        model: the shrunk, recovered model.
        report: what went and what was left alone.
        history: of the recovery.
        verdict: what the guard said.
        costs: of the model.
    """

    model: keras.Model
    report: RoundReport
    history: History
    verdict: Verdict
    costs: Costs


@dataclass(frozen=True)
class Ladder:
    """The rounds that ran; the last is a rejected one if the guard stopped the ladder.

    Attributes:
        baseline: the model that was to be shrunk.
        rungs: the rounds, in order.
    """

    baseline: keras.Model
    rungs: tuple[Rung, ...]

    @property
    def champion(self) -> keras.Model:
        """The accepted model with the fewest parameters; the baseline if there is none."""
        accepted = [rung for rung in self.rungs if rung.verdict.accepted]
        if not accepted:
            return self.baseline
        return min(accepted, key=lambda rung: rung.costs.parameters).model


def compress(
    model: keras.Model,
    train: np.ndarray,
    validation: np.ndarray,
    rounds: Iterable[Mapping[str, Any]],
    guard: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Ladder:
    """Shrink an autoencoder round by round, until all rounds ran or the guard rejects one.

    Args:
        model: the trained autoencoder; it stays as it is.
        train: (rows, ...) float32 in the model's input shape; its first rows are the calibration
            sample.
        validation: (rows, ...) float32, which the guard judges on.
        rounds: per round the keys of `params.yaml`'s rounds but `parent`: `method`, `options`,
            `target`, `calibration_rows` and `recovery`.
        guard: the keys of `params.yaml`'s guard.
        seed: of the order of rows and of the guard's bootstrap.

    Raises:
        InputError: a setting, or the rows' shape, is not allowed.
    """
    settings, guard_settings = _validated(rounds, guard or {})
    baseline_errors = row_errors(model, validation)
    current, rungs = model, []
    for wanted in settings:
        sample = np.asarray(train[: wanted.calibration_rows])
        cut, report = shrink(current, sample, wanted.method, wanted.target, **wanted.options)
        teacher = {"none": None, "baseline": model, "parent": current}[wanted.recovery.teacher]
        options = wanted.recovery.model_dump(exclude={"teacher"})
        current, history = recover(cut, train, validation, teacher, seed=seed, **options)
        verdict = judge(
            baseline_errors,
            row_errors(current, validation),
            metrics=guard_settings.tolerances,
            confidence=guard_settings.confidence,
            resamples=guard_settings.resamples,
            seed=seed,
        )
        rungs.append(Rung(current, report, history, verdict, costs(current)))
        if not verdict.accepted:
            break
    return Ladder(model, tuple(rungs))


def _validated(
    rounds: Iterable[Mapping[str, Any]], guard: Mapping[str, Any]
) -> tuple[list[RoundSettings], GuardSettings]:
    try:
        settings = [RoundSettings(**{"parent": "previous", **wanted}) for wanted in rounds]
        guard_settings = GuardSettings(**guard)
    except ValidationError as error:
        raise InputError(f"compress cannot be used so: {error}") from None
    for wanted in settings:
        check_schedule(wanted.recovery)
    return settings, guard_settings
