"""Which unit every element of a tensor belongs to.

A tensor's *ids* are an int array shaped like the tensor, with length 1 along the batch and along
axes of unknown length. An id > 0 is an *atom*: a place where one layer makes one unit. An id <= 0
stands for elements that cannot leave. Atoms that can only leave together are united; what is united
in the end is one unit of a dependency group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ids = np.ndarray

PADDING = 0  # what an operation fills in by itself, such as the zeros of a pad


def sizes(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """The shape of the ids of a tensor of that shape."""
    return (1, *(size or 1 for size in shape[1:]))


def compact(ids: Ids) -> Ids:
    """The same ids without repetition along axes that were only broadcast."""
    return ids[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in ids.strides)]


def atoms_in(ids: Ids) -> np.ndarray:
    """The atoms among ids, flat and without repetition."""
    atoms = np.unique(compact(ids))
    return atoms[atoms > 0]


def varying_axes(ids: Ids) -> tuple[int, ...]:
    """The axes along which the ids differ."""
    ids = compact(ids)
    return tuple(
        axis
        for axis, size in enumerate(ids.shape)
        if size > 1 and (ids != ids.take([0], axis)).any()
    )


def spread(vector: Ids, axis: int, shape: tuple[int, ...]) -> Ids:
    """Ids of a shape that differ along one axis only, as `vector` says."""
    column = [1] * len(shape)
    column[axis] = len(vector)
    return np.broadcast_to(vector.reshape(column), shape)


@dataclass(frozen=True)
class Classes:
    """What was united: the class of every atom, and why some classes cannot be cut."""

    of_atom: np.ndarray
    reasons: dict[int, str]


class Atoms:
    """Atoms as they are made, united and frozen."""

    def __init__(self) -> None:
        self._count = 1
        self._reasons_of_fixed = ["it is padded with constants"]
        self._pairs: list[tuple[Ids, Ids]] = []
        self._frozen: list[tuple[Ids, str]] = []

    def make(self, number: int) -> Ids:
        """New atoms, one a unit."""
        self._count += number
        return np.arange(self._count - number, self._count)

    def fixed(self, reason: str) -> Ids:
        """An id for elements that cannot leave; whatever is united with it is frozen."""
        self._reasons_of_fixed.append(reason)
        return np.array([1 - len(self._reasons_of_fixed)])

    def freeze(self, ids: Ids, reason: str, is_foremost: bool = False) -> None:
        """Let none of these leave; the first reason given is the one that is kept."""
        frozen = atoms_in(ids), reason
        self._frozen.insert(0 if is_foremost else len(self._frozen), frozen)

    def unite(self, first: Ids, second: Ids) -> None:
        """Let elements at equal positions leave together or not at all."""
        first, second = _distinct_pairs(first, second)
        self._freeze_beside_fixed(first, second)
        self._freeze_beside_fixed(second, first)
        both = (first > 0) & (second > 0)
        self._pairs.append((first[both], second[both]))

    def _freeze_beside_fixed(self, ids: Ids, others: Ids) -> None:
        beside = (ids > 0) & (others <= 0)
        for fixed in np.unique(others[beside]):
            self.freeze(ids[beside & (others == fixed)], self._reasons_of_fixed[-fixed])

    def classes(self) -> Classes:
        """The classes of all atoms made so far."""
        rows = np.concatenate([np.zeros(0, int), *(first for first, _ in self._pairs)])
        columns = np.concatenate([np.zeros(0, int), *(second for _, second in self._pairs)])
        links = coo_array((np.ones(len(rows), bool), (rows, columns)), (self._count, self._count))
        _, of_atom = connected_components(links, directed=False)
        reasons: dict[int, str] = {}
        for atoms, reason in self._frozen:
            for known in np.unique(of_atom[atoms]):
                reasons.setdefault(int(known), reason)
        return Classes(of_atom, reasons)


def _distinct_pairs(first: Ids, second: Ids) -> tuple[Ids, Ids]:
    first, second = np.broadcast_arrays(first, second)
    repeated = tuple(
        slice(0, 1) if a == b == 0 else slice(None)
        for a, b in zip(first.strides, second.strides, strict=True)
    )
    pairs = np.stack([first[repeated].ravel(), second[repeated].ravel()])
    pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
    return pairs[0], pairs[1]
