"""How many weights every layer gives, and in what pattern.

A kernel is looked at as its matrix (inputs, outputs), divided into cells that leave as one: blocks
of `rows` inputs times `columns` outputs. A cell of one entry is a single weight.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from secateur.errors import InputError

Allocation = Literal["global", "lamp", "erk", "uniform"]


@dataclass(frozen=True)
class Pattern:
    """The shape that zeros take.

    Attributes:
        rows: inputs of a cell.
        columns: outputs of a cell.
        stay: of every `among` consecutive inputs of an output so many stay; None where no run has
            a number of its own.
        among: see `stay`.
    """

    rows: int = 1
    columns: int = 1
    stay: int | None = None
    among: int = 1

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """`unstructured`, N:M such as `2:4`, or blocks of inputs x outputs such as `4x1`.

        Raises:
            InputError: the text is none of these.
        """
        if text == "unstructured":
            return cls()
        found = re.fullmatch(r"([1-9]\d*)([:x])([1-9]\d*)", text if isinstance(text, str) else "")
        if found:
            one, other = int(found[1]), int(found[3])
            if found[2] == "x":
                return cls(rows=one, columns=other)
            if one < other:
                return cls(stay=one, among=other)
        raise InputError(
            "pattern must be unstructured, N:M with N < M such as 2:4, or blocks of inputs x "
            f"outputs such as 4x1, got {text!r}"
        )

    def in_cells(self, entries: np.ndarray) -> np.ndarray:
        """A matrix, (inputs, outputs), by cell; border cells are filled up with zeros.

        Returns:
            (cells of the inputs, rows, cells of the outputs, columns).
        """
        inputs, outputs = entries.shape
        padded = np.pad(entries, [(0, -inputs % self.rows), (0, -outputs % self.columns)])
        tall, wide = padded.shape[0] // self.rows, padded.shape[1] // self.columns
        return padded.reshape(tall, self.rows, wide, self.columns)

    def summed(self, entries: np.ndarray) -> np.ndarray:
        """The sum of a matrix' entries in each cell."""
        return self.in_cells(entries).sum(axis=(1, 3))

    def spread(self, cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A value a cell, spread over a matrix of this shape."""
        tall = np.repeat(cells, self.rows, axis=0)
        return np.repeat(tall, self.columns, axis=1)[: shape[0], : shape[1]]

    def guarded(self, scores: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Scores with infinity for those that N:M lets stay, the highest of every run."""
        if self.stay is None:
            return scores
        cells, outputs = scores.shape
        # Cells that have left rank last, and so does what fills the last run up.
        filled = np.full((-(-cells // self.among) * self.among, outputs), -1.0)
        filled[:cells] = np.where(sizes > 0, scores, -1)
        runs = filled.reshape(-1, self.among, outputs)
        highest = np.argsort(-runs, axis=1, kind="stable")[:, : self.stay]
        np.put_along_axis(runs, highest, np.inf, axis=1)
        guarded = runs.reshape(-1, outputs)[:cells]
        return np.where(sizes > 0, guarded, scores)


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one kernel.

    Attributes:
        scores: (cells,) float64 >= 0: what it costs when the cell leaves; infinite where it has to
            stay.
        sizes: (cells,) ints: its entries that are alive; 0 where the cell has left.
        shape: of the kernel.
    """

    scores: np.ndarray
    sizes: np.ndarray
    shape: tuple[int, ...]


def leaving(kernels: Sequence[Cells], budget: int, allocation: Allocation) -> list[np.ndarray]:
    """Which cells leave.

    Args:
        kernels: the cells of every kernel.
        budget: so many entries stay alive in all; exactly so many where cells are single entries,
            and fewer by less than a cell (a cell a kernel, where kernels have budgets of their
            own) otherwise. Of every kernel the dearest cell stays, whatever the budget.
        allocation: `global` compares the scores of all kernels with each other; `lamp` does so with
            each score as a share of what is left of its kernel (Lee et al. 2021); `uniform` leaves
            every kernel the same share; `erk` leaves a kernel a density in proportion to the sum of
            its axes by their product (Mocanu et al. 2018; Evci et al. 2020).

    Returns:
        Per kernel (cells,) bools.
    """
    scored = [_lamp(one) for one in kernels] if allocation == "lamp" else kernels
    kernels = [_with_one_that_stays(one) for one in scored]
    if allocation in ("global", "lamp"):
        together = Cells(
            np.concatenate([one.scores for one in kernels]),
            np.concatenate([one.sizes for one in kernels]),
            (),
        )
        ends = np.cumsum([len(one.scores) for one in kernels])[:-1]
        return np.split(_cheapest(together, budget), ends)
    alive = np.array([one.sizes.sum() for one in kernels])
    weights = alive if allocation == "uniform" else np.array([_erk(one.shape) for one in kernels])
    budgets = _apportioned(budget, weights, alive)
    return [_cheapest(one, share) for one, share in zip(kernels, budgets, strict=True)]


def _with_one_that_stays(cells: Cells) -> Cells:
    """A kernel without entries would pass for one that has not begun (see `secateur.masks`)."""
    scores = cells.scores.copy()
    scores[np.argmax(np.where(cells.sizes > 0, scores, -1))] = np.inf
    return replace(cells, scores=scores)


def _lamp(cells: Cells) -> Cells:
    alive = np.flatnonzero(cells.sizes)
    order = alive[np.argsort(-cells.scores[alive], kind="stable")]
    scores = cells.scores.copy()
    left = np.cumsum(scores[order])
    scores[order] /= np.maximum(left, np.finfo(float).tiny)
    return replace(cells, scores=scores)


def _erk(shape: tuple[int, ...]) -> float:
    return float(sum(shape))


def _cheapest(cells: Cells, budget: int) -> np.ndarray:
    may_leave = np.flatnonzero((cells.sizes > 0) & np.isfinite(cells.scores))
    order = may_leave[np.argsort(cells.scores[may_leave], kind="stable")]
    gone = np.cumsum(cells.sizes[order])
    surplus = int(cells.sizes.sum()) - budget
    count = 0 if surplus <= 0 else int(np.searchsorted(gone, surplus)) + 1
    leaves = np.zeros(len(cells.sizes), bool)
    leaves[order[:count]] = True
    return leaves


def _apportioned(budget: int, weights: np.ndarray, most: np.ndarray) -> list[int]:
    """A budget in whole numbers by weight, none beyond its most, in all as near as they allow."""
    shares = np.zeros(len(weights))
    full = np.zeros(len(weights), bool)
    while not full.all():
        left = budget - most[full].sum()
        shares[~full] = left * weights[~full] / weights[~full].sum()
        over = ~full & (shares >= most)
        if not over.any():
            break
        full |= over
        shares[over] = most[over]
    whole = np.floor(shares).astype(int)
    missing = min(budget, int(most.sum())) - int(whole.sum())
    for index in np.argsort(whole - shares, kind="stable")[:missing]:
        whole[index] += 1
    return [int(one) for one in whole]


def budget_of(keep: float, alive: int) -> int:
    """So many of the entries that are alive stay: the fraction, rounded half up."""
    return math.floor(keep * alive + 0.5)
