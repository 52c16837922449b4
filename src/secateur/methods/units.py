"""Removing hidden units, group by group, and letting the next layer take over what they gave."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from secateur.errors import InputError
from secateur.methods.base import Amount, Method, RoundReport

if TYPE_CHECKING:
    import keras

Importance = Literal[
    "obs", "magnitude", "magnitude_l1", "magnitude_l2", "taylor", "obd", "fpgm", "activation",
    "random",
]  # fmt: skip
Compensate = Literal["least_squares", "bias", "none"]


@dataclass(frozen=True)
class Units(Method):
    """Remove units of hidden layers and close the gap in closed form.

    Layers are cut from the input to the output. In each, the unit that costs least leaves, what it
    gave the next layer is taken over by the units that stay, and the costs of the others are
    counted anew (Optimal Brain Surgeon, Hassibi & Stork 1993, on whole units; the least squares is
    that of channel pruning, He et al. 2017).

    Attributes:
        keep: the fraction of every hidden layer's units that stays, in (0, 1]; at least one stays.
        importance: what says which unit leaves: `obs`, the next layers' mean squared change after
            the best repair; `magnitude_l1` and `magnitude_l2` (also called `magnitude`), norms of
            the unit's own weights; `taylor` and `obd`, first and second order of the loss without
            them; `fpgm`, their distance to all other units' (geometric median); `activation`, the
            root mean square of what the unit gives; `random`.
        compensate: what takes over: `least_squares`, the other units and the bias; `bias`, the
            bias alone; `none`.
        cut_code: whether the code, the model's bottleneck, is cut too.
        multiple: widths after a cut are multiples of it, unless the whole group is narrower.
        minimum: units of a group that stay whatever `keep` says.
        seed: of `random`.
    """

    amount: ClassVar[Amount | None] = Amount()

    keep: float
    importance: Importance = "obs"
    compensate: Compensate = "least_squares"
    cut_code: bool = False
    multiple: int = 1
    minimum: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        number = isinstance(self.keep, int | float) and not isinstance(self.keep, bool)
        if not number or not 0 < self.keep <= 1:
            raise InputError(f"keep must be in (0, 1], got {self.keep!r}")
        for knob, kind in (("importance", Importance), ("compensate", Compensate)):
            if getattr(self, knob) not in get_args(kind):
                allowed = ", ".join(get_args(kind))
                raise InputError(f"{knob} must be one of {allowed}, got {getattr(self, knob)!r}")

        for knob in ("multiple", "minimum"):
            value = getattr(self, knob)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{knob} must be a whole number from 1, got {value!r}")

    def shrink(self, model: keras.Model, sample: np.ndarray) -> tuple[keras.Model, RoundReport]:
        """See `Method.shrink`."""
        from secateur.compensation import (
            consumers_of,
            remove_cheapest,
            remove_in_order,
            renew_batch_norm_if_better,
        )
        from secateur.graph import dependency_groups, keep_units
        from secateur.importance import Scene, leaving_order
        from secateur.saving import copy_model

        # Units that leave are silenced in a copy, their rows in the next kernels zero, so that all
        # layers keep their places while later groups are looked at; at the end they leave together.
        silenced = copy_model(model)
        kept: dict[str, np.ndarray] = {}
        report = RoundReport()
        for group in dependency_groups(silenced, self.cut_code):
            count = 0 if group.frozen else group.units - self._units_kept(group.units)
            if group.frozen:
                report.skipped.append(
                    {"layer": group.name, "units": group.units, "reason": group.frozen}
                )
            if count == 0 and not kept:
                continue  # nothing before this group has changed
            consumers = consumers_of(group, silenced, model, sample, self.compensate)
            if self.importance == "obs" and consumers:
                removed = remove_cheapest(consumers, count)
            else:
                # What nothing is known to read cannot be weighed by its readers.
                importance = "magnitude" if self.importance == "obs" else self.importance
                scene = Scene(group, consumers, silenced, sample)
                order = leaving_order(scene, importance, self.seed)
                removed = remove_in_order(consumers, order[:count])
            for consumer in consumers:
                consumer.write()
            if count:
                leaving = [unit for unit, _ in removed]
                kept[group.name] = np.setdiff1d(np.arange(group.units), leaving)
                report.groups.append(_what_went(group.name, group.units, removed))
        cut, uncompensated = keep_units(silenced, kept), keep_units(model, kept)
        if kept and self.compensate != "none":
            renew_batch_norm_if_better(cut, sample)
        return cut, replace(report, uncompensated=uncompensated)

    def _units_kept(self, units: int) -> int:
        rounded = int(self.keep * units / self.multiple + 0.5) * self.multiple
        return min(units, max(rounded, self.multiple, self.minimum))


def _what_went(name: str, units: int, removed: list[tuple[int, float]]) -> dict[str, Any]:
    return {
        "layer": name,
        "units_before": units,
        "units_after": units - len(removed),
        "removed": [{"unit": unit, "cost": cost} for unit, cost in removed],
    }
