"""Removing hidden units, group by group, and letting the next layer take over what they gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from secateur.errors import InputError
from secateur.methods.base import Amount, Method, RoundReport

if TYPE_CHECKING:
    import keras

    from secateur.allocation import Path
    from secateur.answers import Answers
    from secateur.budgets import Budget
    from secateur.graph import Group
    from secateur.mixing import Remembered

Importance = Literal[
    "obs", "obs_layer", "magnitude", "magnitude_l1", "magnitude_l2", "taylor", "obd", "fpgm",
    "activation", "random",
]  # fmt: skip
Compensate = Literal["least_squares", "bias", "none"]
Scope = Literal["local", "global", "erk", "adaptive"]
Normalize = Literal["none", "mean", "max", "lamp"]

# Cuts that are made where what they cost is only known afterwards.
_CORRECTIONS = 4


@dataclass(frozen=True)
class Units(Method):
    """Remove units of hidden layers and close the gap in closed form.

    Layers are cut from the input to the output. In each, the unit that costs least leaves, what it
    gave the next layer is taken over by the units that stay, and the costs of the others are
    counted anew (Optimal Brain Surgeon, Hassibi & Stork 1993, on whole units; the least squares is
    that of channel pruning, He et al. 2017).

    Attributes:
        keep: the fraction of units that stays, in (0, 1]; at least one of every layer does.
        importance: what says which unit leaves: `obs`, how much the model's error rises without it
            after the best repair of the next layers; `obs_layer`, how much these layers themselves
            change; `magnitude_l1` and `magnitude_l2` (also called `magnitude`), norms of the unit's
            own weights; `taylor` and `obd`, first and second order of the loss without them;
            `fpgm`, their distance to all other units' (geometric median); `activation`, the root
            mean square of what the unit gives; `random`.
        scope: which layers give: `local`, all the same fraction; `global`, whichever hold the units
            of lowest importance; `erk`, by the shapes of their kernels; `adaptive`, whichever raise
            the model's error least for what they save. See `secateur.allocation.spread`. Left out,
            it is adaptive where a target is given, and else local.
        normalize: what makes importances of different layers comparable in a global scope: `none`,
            `mean`, `max` or `lamp`, see `secateur.allocation.paths_of`.
        compensate: what takes over: `least_squares`, the other units and the bias; `bias`, the
            bias alone; `none`.
        cut_code: whether the code, the model's bottleneck, is cut too.
        multiple: widths after a cut are multiples of it, unless the whole group is narrower.
        minimum: units of a group that stay whatever `keep` says.
        seed: of `random`, and of the signs that sample how the model answers to its layers.
    """

    amount: ClassVar[Amount | None] = Amount()

    keep: float
    importance: Importance = "obs"
    scope: Scope | None = None
    normalize: Normalize = "none"
    compensate: Compensate = "least_squares"
    cut_code: bool = False
    multiple: int = 1
    minimum: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        number = isinstance(self.keep, int | float) and not isinstance(self.keep, bool)
        if not number or not 0 < self.keep <= 1:
            raise InputError(f"keep must be in (0, 1], got {self.keep!r}")
        knobs = (
            ("importance", Importance),
            ("scope", Scope),
            ("normalize", Normalize),
            ("compensate", Compensate),
        )
        for knob, kind in knobs:
            value = getattr(self, knob)
            if value not in get_args(kind) and not (knob == "scope" and value is None):
                allowed = ", ".join(get_args(kind))
                raise InputError(f"{knob} must be one of {allowed}, got {value!r}")
        if self.normalize != "none" and self.scope != "global":
            raise InputError(
                f"normalize is of scope global: leave it out with scope {self.scope!r}"
            )
        for knob in ("multiple", "minimum"):
            value = getattr(self, knob)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{knob} must be a whole number from 1, got {value!r}")

    def shrink(self, model: keras.Model, sample: np.ndarray) -> tuple[keras.Model, RoundReport]:
        """See `Method.shrink`."""
        from secateur.allocation import Price, spread

        cut = _Cut(self, model, sample)
        groups = [one for one in cut.groups if not one.frozen]
        if self.scope in (None, "local") or self.keep == 1:
            return cut.to({group.name: self._units_kept(group) for group in groups})
        units = sum(group.units for group in groups)
        limit = max(self.keep * units, len(groups))
        return cut.to(
            spread(cut.paths, Price(lambda widths: sum(widths.values())), limit, self.scope)
        )

    def shrink_within(
        self, model: keras.Model, sample: np.ndarray, budget: Budget
    ) -> tuple[keras.Model, RoundReport]:
        """See `Method.shrink_within`: spread over the layers, unit by unit."""
        from secateur.allocation import price_of, spread

        price = price_of(budget.cost, model, budget.limit)
        cut = _Cut(self, model, sample)
        made: dict[tuple[int, ...], tuple[keras.Model, RoundReport]] = {}
        limit = budget.limit_for(price({}), budget.before)
        while len(made) < _CORRECTIONS:
            widths = spread(cut.paths, price, limit, self.scope or "adaptive")
            if (key := tuple(widths.values())) in made:
                break
            made[key] = cut.to(widths)
            limit = budget.limit_for(price(widths), budget.measure(made[key][0]))
        return budget.best(list(made.values()))

    def shrink_to(
        self, model: keras.Model, sample: np.ndarray, widths: Mapping[str, int]
    ) -> tuple[keras.Model, RoundReport]:
        """What `shrink` gives, with widths of the caller's choice.

        Args:
            model: the autoencoder; it stays as it is.
            sample: (rows, ...) calibration sample in the model's input shape.
            widths: group's name -> number of units that stay; one not named keeps all its units.
        """
        return _Cut(self, model, sample).to(widths)

    def _units_kept(self, group: Group) -> int:
        from secateur.allocation import widths_of
        from secateur.graph import crossed_widths

        wanted = int(self.keep * group.units / self.multiple + 0.5) * self.multiple
        widths = widths_of(group.units, self.multiple, self.minimum, crossed_widths(group))
        return max((one for one in widths if one <= wanted), default=widths[-1])


class _Cut:
    """Cutting one model, as often as it takes.

    Units that leave are silenced in a copy, their rows in the next kernels zero, so that all layers
    keep their places while later groups are looked at; at the end they leave together.
    """

    def __init__(self, units: Units, model: keras.Model, sample: np.ndarray) -> None:
        from secateur.saving import copy_model

        self._units, self._model, self._sample = units, model, sample
        self._silenced = copy_model(model)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups of the copy."""
        from secateur.graph import dependency_groups

        return dependency_groups(self._silenced, self._units.cut_code)

    @cached_property
    def _original(self) -> Remembered:
        from secateur.mixing import Remembered

        return Remembered(self._model, self._sample)

    @cached_property
    def answers(self) -> Answers:
        """How the whole model answers to its layers."""
        from secateur.answers import Answers

        return Answers(self._silenced, self._sample, self._units.seed)

    @cached_property
    def paths(self) -> list[Path]:
        """The paths of the groups, by which a budget is spread."""
        from secateur.allocation import paths_of

        units = self._units
        return paths_of(
            self._silenced, self._sample, self.answers, units.importance, units.normalize,
            units.compensate, units.cut_code, units.multiple, units.minimum, units.seed,
        )  # fmt: skip

    def to(self, widths: Mapping[str, int]) -> tuple[keras.Model, RoundReport]:
        """Cut to widths, and what was done."""
        from secateur.compensation import Followers, consumers_of, renew_batch_norm_if_better
        from secateur.graph import unit_keeper
        from secateur.importance import Scene, leave

        units, silenced = self._units, self._silenced
        answers = None if units.importance == "obs_layer" else self.answers
        kept: dict[str, np.ndarray] = {}
        report = RoundReport()
        groups = self.groups
        followers = Followers(groups, silenced, self._original, self._sample)
        try:
            for number, group in enumerate(groups):
                count = group.units - widths.get(group.name, group.units)
                if count == 0:
                    reason = group.frozen or "the budget takes none of its units"
                    report.skipped.append(
                        {"layer": group.name, "units": group.units, "reason": reason}
                    )
                    if not kept:
                        continue  # nothing before this group has changed
                followers.catch_up(number)
                original = self._original if kept else silenced  # alike as long as nothing is cut
                consumers = consumers_of(
                    group, silenced, original, self._sample, units.compensate, answers
                )
                scene = Scene(group, consumers, silenced, self._sample)
                removed, _ = leave(scene, count, units.importance, units.seed)
                for consumer in consumers:
                    consumer.write()
                followers.add(consumers, number + 1)
                if count:
                    leaving = [unit for unit, _ in removed]
                    kept[group.name] = np.setdiff1d(np.arange(group.units), leaving)
                    report.groups.append(_what_went(group.name, group.units, removed))
            followers.catch_up(len(groups))
            copy_kept = unit_keeper(silenced, kept)
            cut = copy_kept()
        finally:
            silenced.set_weights(self._model.get_weights())
        if kept and units.compensate != "none":
            renew_batch_norm_if_better(cut, self._sample)
        return cut, replace(report, uncompensated=copy_kept())


def _what_went(name: str, units: int, removed: list[tuple[int, float]]) -> dict[str, Any]:
    return {
        "layer": name,
        "units_before": units,
        "units_after": units - len(removed),
        "removed": [{"unit": unit, "cost": cost} for unit, cost in removed],
    }
