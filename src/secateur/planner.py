"""How a ladder follows a goal: what a round is asked for, and what the next one goes by.

A round cuts the last good model to a step of what it costs. Is it accepted, the next one goes on
from it. Is it rejected, the next one starts again from the last good model with half the step, on a
logarithmic scale, and recovers longer. Towards a limit, steps stay as they are until it is reached;
without one, every round after a rejection halves the step, so that the ladder closes in on the
smallest model that the guard lets through, and ends when a step is no longer worth a round.

Nothing here looks at how clearly a round was accepted or rejected, nor at how many rounds there
are: so a wider tolerance changes only what comes behind the first rejection, and a round more
changes no other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from secateur.settings import GoalSettings, RecoverySettings

FINEST_STEP = 0.95  # a round that saves less than this leaves is not worth its training
_LONGEST_RECOVERY = 4


@dataclass(frozen=True)
class Aim:
    """A goal without its tolerance, which is the guard's alone.

    Attributes:
        cost: what is to fall, a name in `secateur.budgets.COSTS`.
        limit: where it has fallen enough: an absolute amount, or a fraction below 1 of what the
            baseline has; None is as far as the guard lets it.
        step: the fraction of the cost that the first round keeps, in (0, 1).
    """

    cost: str
    limit: float | None
    step: float

    @classmethod
    def of(cls, goal: GoalSettings) -> Aim:
        """What a goal aims at."""
        return cls(goal.cost, goal.limit, goal.step)


@dataclass(frozen=True)
class Course:
    """What the next round goes by.

    Attributes:
        step: the fraction of the last good model's cost that it keeps.
        recovery: how many times as long it recovers as its settings say.
        searching: whether a round was rejected before.
        stopped: whether there is nothing more to do.
    """

    step: float
    recovery: int = 1
    searching: bool = False
    stopped: bool = False

    @classmethod
    def of(cls, decision: Mapping[str, Any], aim: Aim) -> Course:
        """The course that a decision holds; the baseline's holds none: there it starts."""
        names = ("step", "recovery", "searching")
        known = {name: decision[name] for name in names if name in decision}
        return cls(**{"step": aim.step, **known}, stopped=decision["stopped"])

    def as_json(self) -> dict[str, Any]:
        """Plain values, as `of` reads them."""
        return asdict(self)

    def after(self, aim: Aim, accepted: bool, *, reached: bool, lowered: bool) -> Course:
        """The course behind a round that followed this one.

        Args:
            aim: of the ladder.
            accepted: what the guard said.
            reached: whether the round's model is within the limit.
            lowered: whether it costs less than the model it was cut from.
        """
        if accepted and (reached or not lowered):
            return replace(self, stopped=True)
        if accepted and (aim.limit is not None or not self.searching):
            return self
        step = math.sqrt(self.step)
        recovery = self.recovery if accepted else min(2 * self.recovery, _LONGEST_RECOVERY)
        return Course(step, recovery, searching=True, stopped=step > FINEST_STEP)


def progress_of(budget: Mapping[str, Any] | None, limit: float | None) -> dict[str, bool]:
    """What a round came to, from its report's `budget`: the words of `Course.after`."""
    if budget is None:
        return {"reached": False, "lowered": False}
    return {
        "reached": limit is not None and budget["reached"] <= limit,
        "lowered": budget["reached"] < budget["before"],
    }


def longer(recovery: RecoverySettings, course: Course) -> RecoverySettings:
    """A recovery as long as the course asks for."""
    times = course.recovery
    return recovery.model_copy(
        update={
            "epochs": times * recovery.epochs,
            "patience": times * recovery.patience,
            "steps": None if recovery.steps is None else times * recovery.steps,
        }
    )


def proposed_rounds(
    goal: GoalSettings, share: float | None = None, norms: bool = False
) -> list[dict[str, Any]]:
    """A ladder for a goal: how many rounds, and by which methods.

    Args:
        goal: where to.
        share: the limit as a fraction of what the baseline has, where both are known.
        norms: whether the baseline has normalizations, which fold into their neighbours at no loss.

    Returns:
        Rounds as in `params.yaml`, without parents and recoveries. Steps to the limit, or five down
        where there is none, and then some to go on where the guard rejects one.
    """
    steps = 5 if share is None else max(1, math.ceil(math.log(share) / math.log(goal.step) - 1e-9))
    method = "weights" if goal.cost in ("nonzeros", "nonzero_macs") else "units"
    fold = [{"method": "fold"}] if norms else []
    return fold + [{"method": method} for _ in range(steps + 3)]
