"""Which rank each kernel gets: losses against multiplications saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Option:
    """One way to do with fewer multiplications.

    Attributes:
        macs: what is left of the multiply-accumulates.
        loss: what it costs, in a measure that all options share.
        kept: of what it gives, in [0, 1].
        what: whatever tells it from the others.
    """

    macs: int
    loss: float
    kept: float = 1.0
    what: Any = None


def spread(offers: Sequence[Sequence[Option]], budget: int) -> list[Option]:
    """One option an offer, so that together they stay within a budget and lose little.

    What loses least for each multiplication that it saves is taken first, along the lower convex
    hull of each offer.

    Args:
        offers: per kernel what may become of it, the first as it is now.
        budget: of multiply-accumulates; where no choice stays within, all become cheapest.
    """
    chosen = [offer[0] for offer in offers]
    steps = sorted(
        (step for number, offer in enumerate(offers) for step in _steps(number, offer)),
        key=lambda step: step[0],
    )
    left = sum(option.macs for option in chosen) - budget
    for _, number, option in steps:
        if left <= 0:
            break
        left -= chosen[number].macs - option.macs
        chosen[number] = option
    while True:  # what is left of the budget goes where it helps most
        gains = [
            (chosen[number].loss - one.loss, number, one)
            for number, offer in enumerate(offers)
            for one in offer
            if one.macs - chosen[number].macs <= -left and one.loss < chosen[number].loss
        ]
        if not gains:
            return chosen
        _, number, option = max(gains, key=lambda gain: gain[0])
        left += option.macs - chosen[number].macs
        chosen[number] = option


def _steps(number: int, offer: Sequence[Option]) -> Iterator[tuple[float, int, Option]]:
    """Along the hull: loss a multiplication saved, the offer's number, where the step leads."""
    here = offer[0]
    while True:
        cheaper = [one for one in offer if one.macs < here.macs]
        if not cheaper:
            return
        there = min(cheaper, key=lambda one: (_slope(here, one), one.macs))
        yield _slope(here, there), number, there
        here = there


def _slope(here: Option, there: Option) -> float:
    return (there.loss - here.loss) / (here.macs - there.macs)
