"""Dependency groups: units that can only leave a model together with all that hangs on them.

    dense_1 (3 units)           unit 0: dense_1 kernel[:, 0], bias[0]; dense_2 kernel[0, :]
       ↓                        unit 1: dense_1 kernel[:, 1], bias[1]; dense_2 kernel[1, :]
    dense_2                     unit 2: ...

Skips unite the units of several producers; a Flatten gives a unit several rows of its consumer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np

from secateur.errors import InputError
from secateur.graph.code import code_atoms
from secateur.graph.counting import Counts
from secateur.graph.labels import Classes, compact, varying_axes
from secateur.graph.rules import rule_of
from secateur.graph.trace import Axis, Trace, trace
from secateur.graph.walk import Place

KeptUnits = Mapping[str, Sequence[int] | np.ndarray]
"""Group's name -> indices of the units that stay, sorted; a group not named keeps all its units."""

CODE = "it is the code"


@dataclass(frozen=True, eq=False)
class Slice:
    """Where the units of a group lie along one axis of one layer's variable."""

    layer: keras.Layer
    path: str
    """The layer's name, with the nested models it is in: `encoder/dense_1`."""
    variable: Any
    axis: int
    positions: np.ndarray
    """(units, k) ints: the positions along the axis that belong to each unit."""
    places: tuple[Place, ...] = ()
    """For what reads the units: the calls that do; `inputs_at` tells what they read."""


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are alike: made by the same producers, read by the same consumers.

    Unit u is at `positions[u]` of every slice. Cutting it takes these positions out of all slices.
    """

    name: str
    """Its first producer's path; what makes units of several kinds numbers the later ones."""
    units: int
    producers: tuple[Slice, ...]
    """Variables whose positions make the units, such as a kernel's columns."""
    carriers: tuple[Slice, ...]
    """Variables that hold something for each unit: biases, normalizations, depthwise kernels."""
    consumers: tuple[Slice, ...]
    """Variables of mixing layers that weigh the units, such as the next kernel's rows."""
    frozen: str | None
    """Why none of the units may be cut; None if they may."""
    is_code: bool
    """Whether the units are the model's bottleneck."""
    normalizations: tuple[str, ...]
    """Paths of what normalizes over the units (LayerNormalization and the like): when some leave,
    the others change too, so that a cut is not the same as silencing."""
    counts: Counts = field(repr=False)
    """Of the whole model, by the numbers of units that stay."""

    @property
    def slices(self) -> tuple[Slice, ...]:
        """Every place where the units are."""
        return (*self.producers, *self.carriers, *self.consumers)

    @property
    def unit_parameters(self) -> int:
        """Parameters that leave with one unit while all else stays."""
        return self.counts.parameters({}) - self.counts.parameters({self.name: self.units - 1})

    @property
    def unit_macs(self) -> int:
        """Multiply-accumulates a sample that leave with one unit while all else stays."""
        return self.counts.macs_of_units({}) - self.counts.macs_of_units(
            {self.name: self.units - 1}
        )


@dataclass
class Analysis:
    """A model's groups, and what cutting needs to know beyond them."""

    groups: tuple[Group, ...]
    trace: Trace
    classes: Classes
    units_of: dict[str, np.ndarray]
    """Group's name -> (units,) class of each unit."""
    counts: Counts


def dependency_groups(model: keras.Model, cut_code: bool = False) -> tuple[Group, ...]:
    """The dependency groups of a model, in the order of their first producers.

    Args:
        model: a built functional or Sequential model, which may hold others.
        cut_code: whether the bottleneck may be cut too.

    Raises:
        InputError: the model has no graph that could be read.
    """
    return analyse(model, cut_code).groups


def analyse(model: keras.Model, cut_code: bool = False) -> Analysis:
    """The groups of a model with all that was found on the way to them."""
    found = trace(model, rule_of)
    classes = _rectangular(found)
    alike: dict[_Kind, list[int]] = defaultdict(list)
    axes_of = _axes_of_classes(found, classes)
    kind_of = _kinds(model, found, classes)
    for unit, axes in axes_of.items():
        if any(axis.role == "makes" for axis, _ in axes):
            alike[kind_of(unit, axes)].append(unit)
    names = _names([axes_of[units[0]] for units in alike.values()])
    units_of = {name: np.array(units) for name, units in zip(names, alike.values(), strict=True)}
    counts = Counts(model.weights, found, classes, units_of)
    groups = tuple(
        _group(name, kind, [axes_of[unit] for unit in units], counts, cut_code)
        for name, (kind, units) in zip(names, alike.items(), strict=True)
    )
    return Analysis(groups, found, classes, units_of, counts)


class _Kind(NamedTuple):
    """What the units of one group have in common."""

    reason: str | None
    is_code: bool
    normalizations: tuple[str, ...]
    holds: tuple[tuple[int, int], ...]  # id of the axis, number of positions on it
    repeats: tuple[int, ...]  # positions on each axis along which kernels repeat


PositionsOnAxes = list[tuple[Axis, np.ndarray]]


def _axes_of_classes(found: Trace, classes: Classes) -> dict[int, PositionsOnAxes]:
    """For each class, in the order of their first atoms: the positions it holds on each axis."""
    axes_of: dict[int, PositionsOnAxes] = defaultdict(list)
    for axis in found.axes.values():
        known = np.where(axis.ids > 0, classes.of_atom[np.maximum(axis.ids, 0)], -1)
        order = np.argsort(known, kind="stable")
        values, starts = np.unique(known[order], return_index=True)
        for value, positions in zip(values, np.split(order, starts[1:]), strict=True):
            if value >= 0:
                axes_of[int(value)].append((axis, positions))
    first = {int(known): atom for atom, known in reversed(list(enumerate(classes.of_atom)))}
    return dict(sorted(axes_of.items(), key=lambda item: first[item[0]]))


def _kinds(
    model: keras.Model, found: Trace, classes: Classes
) -> Callable[[int, PositionsOnAxes], _Kind]:
    code = set(classes.of_atom[code_atoms(model, found)].tolist())
    normalized = [(path, set(classes.of_atom[atoms].tolist())) for path, atoms in found.normalized]
    along = [
        Counter(classes.of_atom[ids[ids > 0]].tolist())
        for product in found.products
        for ids in product.along
    ]

    def kind_of(unit: int, axes: PositionsOnAxes) -> _Kind:
        return _Kind(
            classes.reasons.get(unit),
            unit in code,
            tuple(path for path, units in normalized if unit in units),
            tuple((id(axis), len(positions)) for axis, positions in axes),
            tuple(units[unit] for units in along),
        )

    return kind_of


def _names(firsts: Sequence[PositionsOnAxes]) -> list[str]:
    names: list[str] = []
    for axes in firsts:
        path = next(axis.path for axis, _ in axes if axis.role == "makes")
        same = sum(name.split(":")[0] == path for name in names)
        names.append(f"{path}:{same + 1}" if same else path)
    return names


def _group(
    name: str, kind: _Kind, units: Sequence[PositionsOnAxes], counts: Counts, cut_code: bool
) -> Group:
    slices = {
        role: tuple(
            _slice(axis, np.stack([unit[index][1] for unit in units]))
            for index, (axis, _) in enumerate(units[0])
            if axis.role == role
        )
        for role in ("makes", "carries", "reads")
    }
    return Group(
        name=name,
        units=len(units),
        producers=slices["makes"],
        carriers=slices["carries"],
        consumers=slices["reads"],
        frozen=kind.reason or (CODE if kind.is_code and not cut_code else None),
        is_code=kind.is_code,
        normalizations=kind.normalizations,
        counts=counts,
    )


def _slice(axis: Axis, positions: np.ndarray) -> Slice:
    return Slice(axis.layer, axis.path, axis.variable, axis.axis, positions, tuple(axis.places))


def _rectangular(found: Trace) -> Classes:
    """The classes, united further until what is left of every tensor is a whole block."""
    while True:
        classes = found.atoms.classes()
        ragged = [
            ids
            for visit in found.visits
            for ids in visit.outputs
            if ids.ndim > 2 and len(varying_axes(_leaving_at(ids, classes))) > 1
        ]
        if not ragged:
            return classes
        for ids in ragged:
            rows = compact(ids).reshape(-1, compact(ids).shape[-1])
            found.atoms.unite(rows, rows[:1])


def _leaving_at(ids: np.ndarray, classes: Classes) -> np.ndarray:
    """The classes of elements that may leave, and -1 for those that cannot."""
    ids = compact(ids)
    known = classes.of_atom[np.maximum(ids, 0)]
    return np.where((ids > 0) & ~np.isin(known, list(classes.reasons)), known, -1)


def kept_atoms(analysis: Analysis, kept: KeptUnits) -> np.ndarray:
    """(atoms,) bools: whether each atom stays.

    Raises:
        InputError: a group is unknown or frozen, or its indices are not sorted, unique units.
    """
    groups = {group.name: group for group in analysis.groups}
    stays = np.ones(len(analysis.classes.of_atom), bool)
    for name, indices in kept.items():
        units = _checked(groups, name, indices)
        leaving = np.delete(analysis.units_of[name], units)
        stays &= ~np.isin(analysis.classes.of_atom, leaving)
    return stays


def _checked(groups: Mapping[str, Group], name: str, indices: Any) -> np.ndarray:
    if name not in groups:
        raise InputError(f"there is no group {name!r}; the model has {', '.join(groups) or 'none'}")
    group = groups[name]
    units = np.asarray(indices)
    is_sorted = units.ndim == 1 and len(units) > 0 and bool((np.diff(units) > 0).all())
    if not is_sorted or units.dtype.kind not in "iu" or units[0] < 0 or units[-1] >= group.units:
        raise InputError(
            f"the kept units of {name!r} are {units.tolist()}; needed are one or more different "
            f"indices in ascending order, from 0 to {group.units - 1}"
        )
    if len(units) < group.units and group.frozen and not group.is_code:
        raise InputError(f"{name!r} cannot be cut: {group.frozen}")
    return units
