"""Writing kernels as products of two smaller ones, where that takes fewer multiplications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from secateur.errors import InputError
from secateur.methods.base import Amount, Method, RoundReport

if TYPE_CHECKING:
    import keras

    from secateur.budgets import Budget
    from secateur.factoring import Part
    from secateur.mixing import MixingLayer
    from secateur.ranks import Option

_CORRECTIONS = 4  # of a budget's estimates


@dataclass(frozen=True)
class LowRank(Method):
    """Put two layers in the place of one, with as many units between them as its outputs need.

    The factors are those with the least mean squared change of the layer's outputs over the sample,
    each output weighed by how strongly the model answers to it (whitened singular value
    decomposition: Zhang et al. 2016, "Accelerating very deep convolutional networks"; Wang et al.
    2024, SVD-LLM). A convolution becomes itself with fewer filters and a pointwise one behind or
    before it, or a column and a row (Jaderberg et al. 2014), whichever loses less for its MACs. The
    second layer keeps the name, the bias and the activation; the first is called after it, with
    `_rank` behind. Of two layers that are linear one after the other, such as an earlier round
    leaves, what lies between them gets narrower. All layers behind are refitted to what they gave.

    Left alone are kernels with pruned weights, whose zeros no product would keep.

    Attributes:
        keep: the fraction of the model's MACs that stays, at most, in (0, 1]. Ranks are spread over
            the layers by what they lose for each multiplication saved.
        energy: in place of `keep`: each layer gets the cheapest factors that keep this share of the
            variance of its outputs, in (0, 1).
        cut_code: whether a rank may be as small as the code, so that the model gets a new narrowest
            place, or its code gets narrower.
        multiple: ranks are multiples of it.
        seed: of the random signs by which the model's answer is sampled.
    """

    amount: ClassVar[Amount | None] = Amount()

    keep: float | None = None
    energy: float | None = None
    cut_code: bool = False
    multiple: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.energy is None):
            raise InputError(
                f"low_rank needs either keep or energy, got {self.keep!r} and {self.energy!r}"
            )
        if self.keep is not None and not (_is_number(self.keep) and 0 < self.keep <= 1):
            raise InputError(f"keep must be in (0, 1], got {self.keep!r}")
        if self.energy is not None and not (_is_number(self.energy) and 0 < self.energy < 1):
            raise InputError(f"energy must be in (0, 1), got {self.energy!r}")
        if not isinstance(self.cut_code, bool):
            raise InputError(f"cut_code must be true or false, got {self.cut_code!r}")
        if type(self.multiple) is not int or self.multiple < 1:
            raise InputError(f"multiple must be a whole number from 1, got {self.multiple!r}")

    def shrink(self, model: keras.Model, sample: np.ndarray) -> tuple[keras.Model, RoundReport]:
        """See `Method.shrink`."""
        from secateur.costs import count_macs
        from secateur.ranks import spread

        work = _Work(model, sample, self, is_idle=self.keep == 1)
        if self.energy is not None:
            return work.done([_cheapest(offer, self.energy) for offer in work.offers])
        macs, _ = count_macs(model)
        allowed = int(float(self.keep or 1) * macs)
        cut, report = work.done(spread(work.offers, work.left_of(allowed, macs)))
        reached, _ = count_macs(cut)
        if reached > allowed:
            why = "the layers may have no rank that saves more"
            budget = {"cost": "macs", "asked": allowed, "reached": reached, "before": macs}
            report = replace(report, budget={**budget, "why": why})
        return cut, report

    def shrink_within(
        self, model: keras.Model, sample: np.ndarray, budget: Budget
    ) -> tuple[keras.Model, RoundReport]:
        """See `Method.shrink_within`: ranks are tried on models that are not refitted."""
        work = _Work(model, sample, self)
        tried: list[tuple[float, list[Option]]] = []
        for _ in range(_CORRECTIONS):
            chosen = work.choice_within(budget)
            if any(chosen == known for _, known in tried):
                break
            # Measuring corrects the estimates.
            tried.append((budget.measure(work.factored(chosen)), chosen))
            if not budget.is_estimated:
                break
        fitting = [one for one in tried if one[0] <= budget.limit]
        _, best = max(fitting, key=lambda one: one[0]) if fitting else tried[-1]
        return work.done(best)


def _cheapest(offer: Sequence[Option], energy: float) -> Option:
    """The one with the fewest multiplications that keeps a share of the variance."""
    good = [one for one in offer if one.kept >= energy]
    return min(good, key=lambda one: (one.macs, one.loss))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Work:
    """A model, and what may become of its kernels.

    Attributes:
        offers: per part its options; the first is the part as it is now.
    """

    def __init__(
        self, model: keras.Model, sample: np.ndarray, method: LowRank, is_idle: bool = False
    ) -> None:
        from secateur.factoring import find_parts, offers

        self._model = model
        self._sample = sample
        self._parts, self._skipped = find_parts(model)
        self.offers = [[part.as_it_is] for part in self._parts]
        if not is_idle:
            self.offers = offers(
                self._parts, model, sample, method.cut_code, method.multiple, method.seed
            )

    def left_of(self, allowed: int, macs: int) -> int:
        """What is left of a budget for the model's MACs when all but the parts have theirs."""
        return allowed - macs + sum(part.macs for part in self._parts)

    def choice_within(self, budget: Budget) -> list[Option]:
        """The options with the most MACs that are thought to keep to a budget."""
        from secateur.ranks import spread

        best, low, high = spread(self.offers, 0), 0, sum(part.macs for part in self._parts)
        while high - low > 1:
            middle = (low + high) // 2
            tried = spread(self.offers, middle)
            if budget.estimate(self.factored(tried)) <= budget.limit:
                best, low = tried, middle
            else:
                high = middle
        return best

    def factored(self, chosen: Sequence[Option], is_bare: bool = False) -> keras.Model:
        """See `secateur.factoring.factored`."""
        from secateur.factoring import factored

        return factored(self._model, self._taken(chosen), is_bare)

    def done(self, chosen: Sequence[Option]) -> tuple[keras.Model, RoundReport]:
        """The factored and refitted model, and what was done."""
        from secateur.refitting import refit
        from secateur.saving import copy_model

        report = RoundReport(skipped=list(self._skipped))
        for part, offer, option in zip(self._parts, self.offers, chosen, strict=True):
            if option is offer[0]:
                report.skipped.extend(_left_alone(part, has_choice=len(offer) > 1))
            else:
                report.groups.extend(_what_went(part, option))
        if not report.groups:
            same = copy_model(self._model)
            return same, replace(report, uncompensated=same)
        cut = self.factored(chosen)
        refit(cut, self._model, self._sample)
        return cut, replace(report, uncompensated=self.factored(chosen, is_bare=True))

    def _taken(self, chosen: Sequence[Option]) -> list[tuple[Part, Option]]:
        pairs = zip(self._parts, chosen, strict=True)
        return [(part, option) for part, option in pairs if option is not part.as_it_is]


def _left_alone(part: Part, has_choice: bool) -> list[dict[str, Any]]:
    reason = "others save more for what they lose" if has_choice else "no rank would save MACs"
    return [
        {"layer": one.path, "units": one.maps[0].outputs, "reason": reason} for one in part.layers
    ]


def _what_went(part: Part, option: Option) -> list[dict[str, Any]]:
    factors, rank = option.what
    entry = {
        **_entry(part.layer, part.layer.maps[0].outputs),
        "rank": rank,
        "energy": option.kept,
        "macs_before": part.macs,
        "macs_after": option.macs,
    }
    if part.before is None:
        return [{**entry, "split": factors.split.name}]
    return [_entry(part.before, rank), {**entry, "narrowed": part.before.path}]


def _entry(layer: MixingLayer, units_after: int) -> dict[str, Any]:
    units = layer.maps[0].outputs
    return {"layer": layer.path, "units_before": units, "units_after": units_after, "removed": []}
