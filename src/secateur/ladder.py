"""A whole ladder in memory: round after round, until the guard says stop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from secateur.costs import Costs, costs
from secateur.deployment import deployed_file
from secateur.guard import Verdict, judge
from secateur.litert import row_errors_of_file
from secateur.methods.base import RoundReport
from secateur.metrics import row_errors
from secateur.planner import Aim, Course, longer, progress_of
from secateur.recovery import History, check_schedule, recover
from secateur.settings import BASELINE, GoalSettings, Settings, parse_settings
from secateur.shrinking import shrink
from secateur.targets import limit_of, target_of


@dataclass(frozen=True)
class Rung:
    """One round's outcome.

    Attributes:
        model: the shrunk, recovered model.
        report: what went and what was left alone.
        history: of the recovery.
        verdict: what the guard said.
        costs: of the model.
        deployed: where the round is deployed as a LiteRT file of a scheme of its own, that file's
            content; the verdict is on it.
    """

    model: keras.Model
    report: RoundReport
    history: History
    verdict: Verdict
    costs: Costs
    deployed: bytes | None = None


@dataclass(frozen=True)
class Ladder:
    """The rounds that ran, until the guard or the goal stopped the ladder.

    Attributes:
        baseline: the model that was to be shrunk.
        rungs: the rounds, in order; without a goal, only the last can be a rejected one.
        goal: what the ladder was for, if it had a goal.
    """

    baseline: keras.Model
    rungs: tuple[Rung, ...]
    goal: GoalSettings | None = None

    @property
    def champion(self) -> keras.Model:
        """The cheapest accepted model, in parameters or by the goal's cost; else the baseline.

        Of models with as many parameters, the one that is deployed in fewest bytes.
        """
        accepted = [rung for rung in self.rungs if rung.verdict.accepted]
        if not accepted:
            return self.baseline
        if self.goal is not None:  # each is cut from the one accepted before it
            return accepted[-1].model
        return min(accepted, key=_parameters_and_bytes).model


def compress(
    model: keras.Model,
    train: np.ndarray,
    validation: np.ndarray,
    rounds: Iterable[Mapping[str, Any]] | int = 8,
    guard: Mapping[str, Any] | None = None,
    seed: int = 0,
    *,
    goal: Mapping[str, Any] | None = None,
    anomalies: np.ndarray | None = None,
) -> Ladder:
    """Shrink an autoencoder round by round, until all rounds ran or the guard or the goal ends it.

    Args:
        model: the trained autoencoder; it stays as it is.
        train: (rows, ...) float32 in the model's input shape; its first rows are the calibration
            sample.
        validation: (rows, ...) float32, which the guard judges on.
        rounds: per round the keys of `params.yaml`'s rounds but `parent`: `method`, `options`,
            `target`, `calibration_rows` and `recovery`; or with a goal just how many there may be,
            each of at most 30 epochs of recovery. A round that says not how much goes follows the
            goal.
        guard: the keys of `params.yaml`'s guard.
        seed: of the order of rows and of the guard's bootstrap.
        goal: the keys of `params.yaml`'s goal, such as `{"within": "2%", "minimise": "macs"}` or
            `{"fit": {"int8_bytes": 65536}}`. Then a rejected round does not end the ladder: the
            next one starts from the last good model, see `secateur.planner`.
        anomalies: (anomalies, ...) float32, never trained on, for guarded metrics that need them,
            and for recoveries that monitor the AUC.

    Raises:
        InputError: a setting, or the rows' shape, is not allowed.
    """
    settings = _validated(rounds, guard or {}, goal)
    settings.check_anomalies(0 if anomalies is None else len(anomalies))
    judged = _Guard(settings, model, validation, anomalies, seed)
    aim = None if settings.goal is None else Aim.of(settings.goal)
    course = None if aim is None else Course(aim.step)
    good, rungs = model, []
    for wanted in settings.rounds.values():
        sample = np.asarray(train[: wanted.calibration_rows])
        target, recovery, limit = wanted.target, wanted.recovery, None
        if wanted.follows_goal and aim and course:
            limit = limit_of(aim, model, sample)
            target = target_of(aim, course, limit, good, sample)
            if target is None:
                break
            recovery = longer(recovery, course)
        cut, report = shrink(good, sample, wanted.method, target, **wanted.options)
        teacher = {"none": None, "baseline": model, "parent": good}[recovery.teacher]
        options = recovery.model_dump(exclude={"teacher"})
        made, history = recover(
            cut, train, validation, teacher, anomalies=anomalies, seed=seed, **options
        )
        deployed = None
        if wanted.deploys_as is not None:
            deployed = deployed_file(made, sample, wanted.deploys_as)
        verdict = judged(made, deployed)
        rungs.append(Rung(made, report, history, verdict, costs(made), deployed))
        if verdict.accepted:
            good = made
        elif aim is None:
            break
        if wanted.follows_goal and aim and course:
            course = course.after(aim, verdict.accepted, **progress_of(report.budget, limit))
            if course.stopped:
                break
    return Ladder(model, tuple(rungs), settings.goal)


class _Guard:
    """The guard with the baseline's errors at hand."""

    def __init__(
        self,
        settings: Settings,
        baseline: keras.Model,
        validation: np.ndarray,
        anomalies: np.ndarray | None,
        seed: int,
    ) -> None:
        self._settings, self._seed = settings, seed
        self._validation, self._anomalies = validation, anomalies
        self._baseline = self._errors(baseline)

    def __call__(self, model: keras.Model, deployed: bytes | None) -> Verdict:
        guard = self._settings.guard
        candidate = self._errors(model if deployed is None else deployed)
        return judge(
            self._baseline[0],
            candidate[0],
            metrics=guard.tolerances_for(self._settings.goal),
            confidence=guard.confidence,
            resamples=guard.resamples,
            seed=self._seed,
            baseline_anomaly_errors=self._baseline[1],
            candidate_anomaly_errors=candidate[1],
        )

    def _errors(self, judged: keras.Model | bytes) -> tuple[np.ndarray, np.ndarray | None]:
        """Of the validation rows and of the anomalies: a model's, or a LiteRT file's."""
        errors_of: Any = row_errors_of_file if isinstance(judged, bytes) else row_errors
        anomalies = self._anomalies
        return (
            errors_of(judged, self._validation),
            None if anomalies is None else errors_of(judged, anomalies),
        )


def _parameters_and_bytes(rung: Rung) -> tuple[int, int]:
    deployed_bytes = rung.costs.size_bytes if rung.deployed is None else len(rung.deployed)
    return rung.costs.parameters, deployed_bytes


def _validated(
    rounds: Iterable[Mapping[str, Any]] | int,
    guard: Mapping[str, Any],
    goal: Mapping[str, Any] | None,
) -> Settings:
    if isinstance(rounds, int):
        rounds = [{"recovery": {"epochs": 30}}] * rounds
    parents, named = BASELINE, {}
    for number, wanted in enumerate(rounds, 1):
        named[f"round_{number}"] = {**wanted, "parent": parents}
        parents = f"round_{number}"
    # Anomalies come as an array of their own, so that no column has to name them.
    given = {"rounds": named, "guard": guard, "goal": goal, "data": {"label": "given"}}
    settings = parse_settings(given, "compress's arguments")
    for checked in settings.rounds.values():
        check_schedule(checked.recovery)
    return settings
