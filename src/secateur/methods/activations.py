"""Swapping activations for cheaper ones, and letting the layers around them make up for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from secateur.errors import InputError
from secateur.methods.base import Method, RoundReport

if TYPE_CHECKING:
    import keras
    import numpy as np

    from secateur.activations import Site

Precision = Literal["float32", "int8"]
Compensate = Literal["least_squares", "none"]

SIMPLE = ("relu", "relu6", "leaky_relu", "hard_tanh", "hard_sigmoid", "hard_swish")
_CHOICE_ROWS = 1024  # of the sample, that replacements are compared on


@cache
def measured_costs() -> dict[str, Any]:
    """The table of what activations cost in LiteRT, and how it was measured.

    `float32` and `int8` map names of `keras.activations` to ns a value over none, on the machine
    that `measured` names; what differs by less than `resolution` is taken to cost the same.
    `python -m benchmarks.activations` measures anew.
    """
    return json.loads(Path(__file__).with_name("activation_costs.json").read_text())


@dataclass(frozen=True)
class Activations(Method):
    """Swap activations for ones that cost LiteRT less, and refit around the swap.

    Which is cheaper says a table of measurements, not the formula: relu is fused into the layer
    before it, tanh is an operation of its own. The layer that reads a swapped activation is
    refitted by least squares to what it gave before, and the layer that feeds it is scaled and
    shifted so that the new one's bends lie where they serve best. Of the replacements that are
    cheaper, the one is taken with which the reading layers come closest to what they gave. The
    model's output keeps its activation.

    Attributes:
        to: the replacement, or several to choose from; None is the simple ones: relu, relu6,
            leaky_relu, hard_tanh, hard_sigmoid and hard_swish.
        literal: swap for `to` even where that costs more, as relu for tanh or sigmoid.
        precision: of the LiteRT file that costs are looked up for, `float32` or `int8`.
        costs: ns a value over none, by name, to take the place of entries of the table: what
            `python -m benchmarks.activations` prints on your machine.
        most_lost: the largest share of what the reading layers give that a swap may lose after the
            refit, in (0, 1]; one that would lose more is left out.
        compensate: `least_squares`, the layers around the swap; `none`.
    """

    to: str | tuple[str, ...] | None = None
    literal: bool = False
    precision: Precision = "float32"
    costs: Mapping[str, float] | None = None
    most_lost: float = 1.0
    compensate: Compensate = "least_squares"

    def __post_init__(self) -> None:
        for knob, kind in (("precision", Precision), ("compensate", Compensate)):
            if getattr(self, knob) not in get_args(kind):
                allowed = ", ".join(get_args(kind))
                raise InputError(f"{knob} must be one of {allowed}, got {getattr(self, knob)!r}")
        if not isinstance(self.literal, bool):
            raise InputError(f"literal must be true or false, got {self.literal!r}")
        is_number = isinstance(self.most_lost, int | float) and not isinstance(self.most_lost, bool)
        if not is_number or not 0 < self.most_lost <= 1:
            raise InputError(f"most_lost must be in (0, 1], got {self.most_lost!r}")
        self._check_costs()
        known = self._table()
        unknown = [name for name in self._names() if name not in known]
        if unknown or not self._names():
            got = ", ".join(map(repr, unknown)) or "none"
            raise InputError(f"to must be among {', '.join(known)}, got {got}")
        if self.literal and self.to is None:
            raise InputError("literal swaps for what `to` names: give it")

    def _check_costs(self) -> None:
        if self.costs is None:
            return
        if not isinstance(self.costs, Mapping):
            raise InputError(f"costs must map names to ns a value, got {self.costs!r}")
        known = measured_costs()[self.precision]
        for name, cost in self.costs.items():
            is_number = isinstance(cost, int | float) and not isinstance(cost, bool)
            if name not in known or not is_number or not 0 <= cost < float("inf"):
                raise InputError(
                    f"costs must map some of {', '.join(known)} to ns a value from 0 on, got "
                    f"{name!r}: {cost!r}"
                )

    def _names(self) -> tuple[str, ...]:
        if self.to is None:
            return SIMPLE
        return (self.to,) if isinstance(self.to, str) else tuple(self.to)

    def _table(self) -> dict[str, float]:
        return {**measured_costs()[self.precision], **(self.costs or {})}

    def shrink(self, model: keras.Model, sample: np.ndarray) -> tuple[keras.Model, RoundReport]:
        """See `Method.shrink`.

        Raises:
            InputError: `to` costs more than every activation there is, and `literal` is false.
        """
        from secateur.activations import free_layers, sites, swap
        from secateur.refitting import refit
        from secateur.saving import copy_model

        found = sites(model)
        self._refuse_what_is_no_simpler(found)
        free = free_layers(model)
        bare = swapped = copy_model(model)
        report = RoundReport()
        for site in found:
            names, why_not = self._replacements(site, free)
            best = self._best(swapped, model, sample, site, names, free) if names else None
            if best is not None and best.lost > self.most_lost:
                why_not = (
                    f"the best replacement, {best.name}, would lose {best.lost:.3g} of what the "
                    f"layers behind give; most_lost is {self.most_lost:g}"
                )
                best = None
            if best is None:
                report.skipped.append(_entry(site) | {"reason": why_not})
                continue
            swapped, bare = best.model, swap(bare, site, best.name)
            report.groups.append(self._what_went(site, best))
        if report.groups and self.compensate == "least_squares":
            refit(swapped, model, sample, only=free)
        return swapped, replace(report, uncompensated=bare)

    def _refuse_what_is_no_simpler(self, found: tuple[Site, ...]) -> None:
        if self.to is None or self.literal:
            return
        table, margin = self._table(), measured_costs()["resolution"]
        here = {
            site.activation: table[site.activation]
            for site in found
            if site.why_not is None and site.activation is not None
        }
        least = min(table[name] for name in self._names())
        if here and least > max(here.values()) + margin:
            costs = ", ".join(f"{name} {cost:g}" for name, cost in here.items())
            raise InputError(
                f"{' or '.join(self._names())} is not simpler: it costs {least:g} ns a value in "
                f"{self.precision}, what is there {costs}; allowed are cheaper ones, or literal: "
                "true to swap all the same"
            )

    def _replacements(self, site: Site, free: tuple[str, ...]) -> tuple[list[str], str]:
        """What may take an activation's place, and why nothing may."""
        if site.why_not is not None or site.activation is None:
            return [], str(site.why_not)
        if not set(site.readers) & set(free):
            return [], "the weights that read it share values, which a refit would part"
        table, margin = self._table(), measured_costs()["resolution"]
        cost = table[site.activation]
        others = [name for name in self._names() if name != site.activation]
        if not self.literal:
            others = [name for name in others if table[name] < cost - margin]
        return others, (
            f"{site.activation} costs {cost:g} ns a value in {self.precision}, and none of "
            f"{', '.join(self._names())} costs less"
        )

    def _best(
        self,
        swapped: keras.Model,
        model: keras.Model,
        sample: np.ndarray,
        site: Site,
        names: list[str],
        free: tuple[str, ...],
    ) -> _Swap:
        """The swap of a site that loses least, made in what the swaps before it have left."""
        from secateur.activations import scale_and_shift, sites, swap
        from secateur.refitting import refit

        here = next(one for one in sites(swapped) if one.path == site.path)
        rows = sample[:_CHOICE_ROWS]
        readers = [path for path in site.readers if path in free]
        tried = []
        for name in names:
            if self.compensate == "none":
                made = swap(swapped, here, name)
            else:
                made = swap(swapped, here, name, *scale_and_shift(swapped, here, name, sample))
            fits = refit(made, model, rows, only=readers).values()
            variance = sum(fit.variance for fit in fits)
            lost = sum(fit.loss for fit in fits) / variance if variance > 0 else 0.0
            if self.compensate == "none":
                made = swap(swapped, here, name)  # what was refitted only told the loss
            tried.append(_Swap(name, lost, made))
        return min(tried, key=lambda one: one.lost)

    def _what_went(self, site: Site, best: _Swap) -> dict[str, Any]:
        table = self._table()
        return _entry(site, "units_before") | {
            "units_after": site.units,
            "removed": [],
            "activation_before": site.activation,
            "activation_after": best.name,
            "values": site.values,
            "ns_before": round(site.values * table[str(site.activation)], 3),
            "ns_after": round(site.values * table[best.name], 3),
            "lost": best.lost,
        }


class _Swap(NamedTuple):
    """A swap that was made: by what, the share that it loses after the refit, and the model."""

    name: str
    lost: float
    model: Any


def _entry(site: Site, units: str = "units") -> dict[str, Any]:
    return {"layer": site.path, units: site.units}
