"""Shrinking the bottleneck itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from secateur.errors import InputError
from secateur.methods.base import Amount, Method, RoundReport

if TYPE_CHECKING:
    import keras

    from secateur.graph import Group

_RIDGE = 1e-6


@dataclass(frozen=True)
class Code(Method):
    """Take units out of the code, the model's bottleneck, and refit all that reads it.

    Where the code is linear, it is first turned, which changes no output: its units become those
    directions that the next layer's pre-activations depend on most, without correlation and of
    variance one, so that what leaves is least (reduced-rank regression, Izenman 1975). Elsewhere
    the unit leaves whose loss costs the next layers least after the best repair (Optimal Brain
    Surgeon, Hassibi & Stork 1993).

    Attributes:
        keep: the fraction of the code's units that stays, in (0, 1]; at least one stays.
        turn: whether a linear code is turned first. A code with pruned weights around it never is.
        inactive: units whose variance over the sample is at most this leave too, whatever `keep`
            says; at least 0. It is how the dimensions that a variational code has given up are
            found (Burda et al. 2016 use 0.01); without it variance decides nothing.
    """

    amount: ClassVar[Amount | None] = Amount(step=1e-3)

    keep: float = 1.0
    turn: bool = True
    inactive: float | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.keep) or not 0 < self.keep <= 1:
            raise InputError(f"keep must be in (0, 1], got {self.keep!r}")
        if not isinstance(self.turn, bool):
            raise InputError(f"turn must be true or false, got {self.turn!r}")
        if self.inactive is not None and (not _is_number(self.inactive) or self.inactive < 0):
            raise InputError(f"inactive must be at least 0 or null, got {self.inactive!r}")

    def shrink(self, model: keras.Model, sample: np.ndarray) -> tuple[keras.Model, RoundReport]:
        """See `Method.shrink`."""
        from secateur.graph import dependency_groups, keep_units
        from secateur.refitting import refit
        from secateur.saving import copy_model

        turned = copy_model(model)
        kept: dict[str, np.ndarray] = {}
        report = RoundReport(skipped=_others(model))
        for group in dependency_groups(turned, cut_code=True):
            if not group.is_code:
                continue
            entry = {"layer": group.name, "units": group.units}
            if group.frozen:
                report.skipped.append({**entry, "reason": group.frozen})
                continue
            idle = self._idle(group, turned, sample)
            count = max(group.units - max(1, int(self.keep * group.units + 0.5)), len(idle))
            count = min(count, group.units - 1)
            if count == 0:
                report.skipped.append({**entry, "reason": "all its units are to stay"})
                continue
            is_turned = self.turn and not idle and _turn(group, turned, sample)
            removed = _removed(group, turned, sample, count, idle)
            leaving = [unit for unit, _ in removed]
            kept[group.name] = np.setdiff1d(np.arange(group.units), leaving)
            report.groups.append(
                {
                    "layer": group.name,
                    "units_before": group.units,
                    "units_after": group.units - count,
                    "removed": [{"unit": unit, "cost": cost} for unit, cost in removed],
                    "turned": is_turned,
                }
            )
        uncompensated, cut = keep_units(model, kept), keep_units(turned, kept)
        if kept:
            refit(cut, model, sample)
        return cut, RoundReport(report.groups, report.skipped, uncompensated)

    def _idle(self, group: Group, model: keras.Model, sample: np.ndarray) -> list[int]:
        """Inactive units, the least active first; one is left if all are."""
        if self.inactive is None:
            return []
        variances = np.max(
            [
                (np.diag(covariance)[rows]).max(axis=1)
                for covariance, _, _, rows in _readers(group, model, sample)
            ],
            axis=0,
        )
        order = np.argsort(variances, kind="stable")
        return [int(unit) for unit in order if variances[unit] <= self.inactive][: group.units - 1]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _others(model: keras.Model) -> list[dict[str, Any]]:
    from secateur.graph import dependency_groups

    return [
        {"layer": group.name, "units": group.units, "reason": "it is not the code"}
        for group in dependency_groups(model)
        if not group.is_code
    ]


Reader = tuple[np.ndarray, np.ndarray, Any, np.ndarray]
"""A layer that reads the code: covariance of its inputs, its kernel without bias, its map, and
(units, k) rows of the kernel that belong to each unit."""


def _readers(group: Group, model: keras.Model, sample: np.ndarray) -> list[Reader]:
    from secateur.mixing import linear_maps, moments_of

    found: list[Reader] = []
    for part in group.consumers:
        maps = linear_maps(part.layer, part.variable)
        for linear, moments in zip(maps, moments_of(maps, part.places, model, sample), strict=True):
            means = moments.means[: linear.inputs]
            covariance = moments.now[: linear.inputs, : linear.inputs]
            if linear.bias is not None:
                covariance = covariance - np.outer(means, means)
            kernel = linear.matrix()[: linear.inputs]
            found.append((covariance, kernel, linear, linear.inputs_of(part.axis, part.positions)))
    if not found:
        raise InputError(f"nothing that can be refitted reads the code {group.name!r}")
    return found


def _turn(group: Group, model: keras.Model, sample: np.ndarray) -> bool:
    """Turn a linear code between dense layers in place, if it is one; say whether."""
    import keras

    from secateur.masks import alive

    layers = [one.layer for one in (*group.producers, *group.consumers)]
    kernels = [one.variable for one in (*group.producers, *group.consumers)]
    if len(group.producers) != 1 or not all(type(one) is keras.layers.Dense for one in layers):
        return False
    maker = layers[0]
    is_whole = all(
        np.array_equal(one.positions, np.arange(maker.units)[:, None]) for one in group.slices
    )
    is_dense = all(alive(kernel).all() for kernel in kernels)
    if not is_whole or not is_dense or maker.activation is not keras.activations.linear:
        return False
    if len(group.carriers) != int(maker.use_bias) or not _reads_directly(group, model, sample):
        return False
    readers = _readers(group, model, sample)
    values, vectors = np.linalg.eigh(readers[0][0])
    values = np.maximum(values, _RIDGE * max(values.max(), _RIDGE))
    root = vectors * np.sqrt(values) @ vectors.T
    inverse_root = vectors / np.sqrt(values) @ vectors.T
    directions, _, _ = np.linalg.svd(root @ np.hstack([kernel for _, kernel, _, _ in readers]))
    maker.kernel.assign(np.asarray(maker.kernel, np.float64) @ inverse_root @ directions)
    if maker.use_bias:
        maker.bias.assign(np.asarray(maker.bias, np.float64) @ inverse_root @ directions)
    for _, kernel, linear, _ in readers:
        matrix = linear.matrix()
        matrix[: linear.inputs] = directions.T @ root @ kernel
        linear.write(matrix)
    return True


def _reads_directly(group: Group, model: keras.Model, sample: np.ndarray) -> bool:
    """Whether all consumers read what the producer makes, as it makes it."""
    from secateur.graph import inputs_at
    from secateur.mixing import mixing_layers

    maker = next(one for one in mixing_layers(model) if one.kernel is group.producers[0].variable)
    places = [one.places for one in group.consumers]
    if len(maker.places) != 1 or any(len(one) != 1 for one in places):
        return False
    batch = sample[:64]
    (read,) = inputs_at(model, maker.places)(batch)
    (linear,) = maker.maps
    made = linear.rows(read) @ linear.matrix()
    scale = np.abs(made).max()
    return all(
        np.abs(np.asarray(given).reshape(made.shape) - made).max() <= 1e-4 * scale
        for one in places
        for given in inputs_at(model, one)(batch)
    )


def _removed(
    group: Group, model: keras.Model, sample: np.ndarray, count: int, first: list[int]
) -> list[tuple[int, float]]:
    """The units that leave, with what each costs the readers after the best repair."""
    from secateur.compensation import consumers_of, remove_cheapest, remove_in_order

    consumers = consumers_of(group, model, model, sample, "least_squares")
    removed = remove_in_order(consumers, first)
    return removed + remove_cheapest(consumers, count - len(first), gone=first)
