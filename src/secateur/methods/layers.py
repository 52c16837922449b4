"""Removing hidden layers and residual blocks, and merging layers that are linear in a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from secateur.errors import InputError
from secateur.methods.base import Amount, Method, RoundReport

if TYPE_CHECKING:
    import keras

    from secateur.budgets import Budget
    from secateur.shortening import Shortening, Step


@dataclass(frozen=True)
class Layers(Method):
    """Take whole layers out, the ones that are missed least first, and refit what reads them.

    A hidden layer leaves with its activation and normalization, and the next layers get kernels for
    what it read, fitted by least squares to what they gave before (He et al. 2017 do so for single
    channels); that layer goes first after which the model's output changes least. Of a residual
    block the branch leaves that an Add adds (Veit et al. 2016 show how little single ones matter),
    with all that nothing else needs. Two layers that are linear in a row, as removed or swapped
    activations leave them, become one exactly. Nothing leaves that would not lower the MACs, nor
    what makes the code. At the end all layers behind are refitted to what they gave in the
    original. Left alone are layers whose readers have pruned weights, which would not stay zero.

    Attributes:
        count: how many layers and blocks leave or merge, at most; at least 0.
        keep: in place of `count`: the fraction of those that could which stays, in (0, 1].
        most_lost: nothing leaves that costs the next layers more than this share of the variance
            of what they give, in (0, 1].
        merge: whether linear layers in a row become one.
        cut_code: whether the layer that makes the code may leave or merge too.
    """

    amount: ClassVar[Amount | None] = Amount(step=1e-3)

    count: int | None = None
    keep: float | None = None
    most_lost: float = 1.0
    merge: bool = True
    cut_code: bool = False

    def __post_init__(self) -> None:
        if (self.count is None) == (self.keep is None):
            raise InputError(
                f"layers needs either count or keep, got {self.count!r} and {self.keep!r}"
            )
        if self.count is not None and (type(self.count) is not int or self.count < 0):
            raise InputError(f"count must be a whole number from 0, got {self.count!r}")
        for knob in ("keep", "most_lost"):
            value = getattr(self, knob)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value <= 1):
                raise InputError(f"{knob} must be in (0, 1], got {value!r}")
        for knob in ("merge", "cut_code"):
            if not isinstance(getattr(self, knob), bool):
                raise InputError(f"{knob} must be true or false, got {getattr(self, knob)!r}")

    def shrink(self, model: keras.Model, sample: np.ndarray) -> tuple[keras.Model, RoundReport]:
        """See `Method.shrink`."""
        work = self._start(model, sample)
        leaving = self.count
        if leaving is None:
            possible = len(work.possible())
            leaving = possible - int(float(self.keep or 1) * possible + 0.5)
        return _shortened(work, lambda taken: len(taken) >= leaving)

    def shrink_within(
        self, model: keras.Model, sample: np.ndarray, budget: Budget
    ) -> tuple[keras.Model, RoundReport]:
        """See `Method.shrink_within`: layers leave until it is kept to."""
        work = self._start(model, sample)
        return _shortened(
            work,
            lambda _: (
                budget.estimate(work.now) <= budget.limit
                and budget.measure(work.now) <= budget.limit
            ),
        )

    def _start(self, model: keras.Model, sample: np.ndarray) -> Shortening:
        from secateur.shortening import Shortening

        return Shortening(model, sample, self.merge, self.cut_code, self.most_lost)


def _shortened(
    work: Shortening, is_enough: Callable[[list[Step]], bool]
) -> tuple[keras.Model, RoundReport]:
    """Let the cheapest steps be taken until it is enough, or no other can be."""
    taken: list[Step] = []
    while not (is_done := is_enough(taken)) and (step := work.cheapest()) is not None:
        work.take(step)
        taken.append(step)
    groups = [_what_went(step) for step in taken]
    skipped = _what_stayed(work, is_done)
    return work.refitted(), RoundReport(groups, skipped, work.bare)


def _what_went(step: Step) -> dict[str, Any]:
    return {
        "layer": step.name,
        "units_before": step.units,
        "units_after": 0,
        "removed": [],
        "how": step.how,
        "with": [path for path in step.leaves if path != step.name],
        "read_by": list(step.readers),
        "macs_before": step.macs[0],
        "macs_after": step.macs[1],
        "loss": step.loss,
        "share": step.share,
        "change": step.change,
    }


def _what_stayed(work: Shortening, is_done: bool) -> list[dict[str, Any]]:
    """Every layer that stayed, once, and why: what holds for all that might have become of it."""
    reasons: dict[str, dict[str, Any]] = {}
    for step in work.steps():
        entry = reasons.setdefault(step.name, {"layer": step.name, "units": step.units})
        if step.reason is None:
            why = "others are missed less" if is_done else "too much would be lost"
            entry["reason"] = why
            entry |= {name: getattr(step, name) for name in ("loss", "share", "change")}
        elif "share" not in entry:
            known = [one for one in (entry.get("reason"), step.reason) if one]
            entry["reason"] = "; ".join(dict.fromkeys(known))
    return list(reasons.values())
