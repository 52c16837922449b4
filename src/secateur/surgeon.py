"""Optimal Brain Surgeon on single weights (Hassibi & Stork 1993; Frantar & Alistarh 2022).

Every output's column of a kernel is a least squares of its own, so that columns lose their weights
independently: each by its own inverse Gram matrix, downdated exactly after every weight.
"""

from __future__ import annotations

import numpy as np

from secateur.masks import RIDGE
from secateur.sparsity import Pattern

_BATCH_BYTES = 2**26
_SHARE = 32  # of what is left in a column, so much leaves between two updates of whole matrices


def leaving_costs(
    covariance: np.ndarray, kernel: np.ndarray, pattern: Pattern, ridge: float = RIDGE
) -> np.ndarray:
    """What each cell of a kernel costs when its turn comes, all others having been repaired.

    In each column the cheapest cell leaves, what it gave is taken over by those that stay, and the
    costs are counted anew, until none is left. In a column no cell costs less than one that left
    before it, so that the cells above any threshold are what the removal had left at some time.

    Args:
        covariance: (inputs, inputs) of the layer's inputs; the second moments where the layer has
            no bias that could take a mean over.
        kernel: (inputs, outputs); zeros have left already.
        pattern: the cells. With N:M those that stay cost infinity.
        ridge: added to the covariance's diagonal, as a share of its mean.

    Returns:
        (cells of the inputs, cells of the outputs) float64: how much the output's mean squared
        change, summed over outputs, grows; 0 for cells that have left already.
    """
    cells = np.moveaxis(pattern.in_cells(kernel), 2, 0)
    living = (cells != 0).any(axis=(2, 3))
    # Columns with equally many cells take equally many steps.
    order = np.argsort(living.sum(axis=1), kind="stable")
    at_once = max(1, _BATCH_BYTES // (8 * len(kernel) ** 2))
    damped = covariance + (ridge * np.trace(covariance) / len(kernel) or 1.0) * np.eye(len(kernel))
    found = np.zeros(living.shape)
    for start in range(0, len(order), at_once):
        some = order[start : start + at_once]
        found[some] = _Columns(damped, cells[some], living[some], pattern).costs()
    return found.T


class _Columns:
    """b columns that lose cell after cell in step: a cells each, of r inputs and c outputs.

    Arrays over cells shrink with what is left; `cell` says which of the kernel's cells is where.
    """

    def __init__(
        self, damped: np.ndarray, weights: np.ndarray, living: np.ndarray, pattern: Pattern
    ) -> None:
        """Start from what is alive: weights (b, a, r, c), living (b, a)."""
        columns, cells, self.height, self.width = weights.shape
        self.weights = weights.reshape(columns, -1, self.width).copy()  # (b, a·r, c)
        self.living = living.copy()
        self.cell = np.tile(np.arange(cells), (columns, 1))
        self.found = np.where(living, np.inf, 0.0)
        self.dearest = np.zeros(columns)
        self.inverse = _inverses(damped, np.repeat(living, self.height, axis=1))
        self.run = np.arange(cells) // (pattern.among if pattern.stay else cells)
        lengths = np.bincount(self.run)
        gone = np.stack([np.bincount(self.run[~one], minlength=len(lengths)) for one in living])
        self.may_leave = np.maximum(lengths - (pattern.stay or 0) - gone, 0)  # (b, runs)
        self.column = np.arange(columns)[:, None]

    def costs(self) -> np.ndarray:
        """(b, cells): see `leaving_costs`."""
        while (left := int(self._eligible(self.cell, self.living).sum(axis=1).max())) > 0:
            self._drop_the_dead()
            self._remove(max(1, left // _SHARE))
        return self.found

    def _eligible(self, cell: np.ndarray, living: np.ndarray) -> np.ndarray:
        return living & (np.take_along_axis(self.may_leave, self.run[cell], axis=1) > 0)

    def _drop_the_dead(self) -> None:
        """Go on with smaller arrays when every column has lost enough."""
        width = int(self.living.sum(axis=1).max())
        if width > 0.75 * self.living.shape[1]:
            return
        stay = np.argsort(~self.living, axis=1, kind="stable")[:, :width]
        entries = self._entries(stay)
        self.weights = self.weights[self.column, entries]
        self.inverse = self.inverse[self.column[:, :, None], entries[:, :, None], entries[:, None]]
        self.living = np.take_along_axis(self.living, stay, axis=1)
        self.cell = np.take_along_axis(self.cell, stay, axis=1)

    def _entries(self, cells: np.ndarray) -> np.ndarray:
        """(b, k · r): where the entries of cells (b, k) are."""
        within = np.arange(self.height)
        return (cells[:, :, None] * self.height + within).reshape(len(cells), -1)

    def _remove(self, count: int) -> None:
        """Take `count` cells out of every column that has so many.

        They are found among the cheapest, in small matrices that hold these alone; the whole
        matrices follow in one go. That is the same as one by one, but for cells that only become
        cheap meanwhile.
        """
        costs = self._costs(self.inverse, self.weights)
        costs[~self._eligible(self.cell, self.living)] = np.inf
        several = min(self.living.shape[1], 2 * count + 8)
        near = np.sort(np.argpartition(costs, several - 1, axis=1)[:, :several], axis=1)
        gone = self._remove_among(near, count)
        chosen = np.take_along_axis(near, np.argsort(~gone, axis=1, kind="stable"), 1)[:, :count]
        left = np.arange(count) < gone.sum(axis=1)[:, None]
        entries, leaves = self._entries(chosen), np.repeat(left, self.height, axis=1)
        rows = self.inverse[self.column, entries] * leaves[:, :, None]
        answer = np.linalg.solve(self._block(entries, leaves), rows)  # (b, k·r, a·r)
        lost = self.weights[self.column, entries]
        self.weights -= answer.swapaxes(1, 2) @ lost
        self.inverse -= rows.swapaxes(1, 2) @ answer
        # Exact zeros, and ones on the diagonal that no later division trips over.
        column, place = np.broadcast_to(self.column, entries.shape)[leaves], entries[leaves]
        self.weights[column, place] = 0
        self.inverse[column, place] = 0
        self.inverse[column, :, place] = 0
        self.inverse[column, place, place] = 1
        self.living[np.broadcast_to(self.column, chosen.shape)[left], chosen[left]] = False

    def _block(self, entries: np.ndarray, leaves: np.ndarray) -> np.ndarray:
        """(b, k, k): the inverse among these entries; ones for those that do not leave."""
        block = self.inverse[self.column[:, :, None], entries[:, :, None], entries[:, None]]
        both = leaves[:, :, None] & leaves[:, None]
        return np.where(both, block, np.eye(entries.shape[1]))

    def _remove_among(self, near: np.ndarray, count: int) -> np.ndarray:
        """Take out one after the other among some cells (b, m), noting what each costs.

        Returns:
            (b, m) bools: which have gone.
        """
        entries = self._entries(near)
        inverse = self.inverse[self.column[:, :, None], entries[:, :, None], entries[:, None]]
        weights = self.weights[self.column, entries]
        cell = np.take_along_axis(self.cell, near, axis=1)
        living = np.take_along_axis(self.living, near, axis=1)
        gone = np.zeros(near.shape, bool)
        every = self.column[:, 0]
        for _ in range(count):
            costs = self._costs(inverse, weights)
            costs[~self._eligible(cell, living)] = np.inf
            best = costs.argmin(axis=1)
            some = np.isfinite(costs[every, best])
            column, leaving = every[some], best[some]
            self.dearest[column] = np.maximum(self.dearest[column], costs[column, leaving])
            self.found[column, cell[column, leaving]] = self.dearest[column]
            self.may_leave[column, self.run[cell[column, leaving]]] -= 1
            living[column, leaving] = False
            gone[column, leaving] = True
            _take_out(inverse, weights, self._entries(best[:, None]), some)
        return gone

    def _costs(self, inverse: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(b, k): what each of the cells in these arrays would cost now."""
        columns, cells = len(weights), weights.shape[1] // self.height
        rows = weights.reshape(columns, cells, self.height, self.width)
        if self.height == 1:
            diagonal = np.diagonal(inverse, axis1=1, axis2=2)
            return (rows[:, :, 0] ** 2).sum(axis=2) / diagonal
        each = np.arange(cells)
        blocks = inverse.reshape(columns, cells, self.height, cells, self.height)
        own = np.moveaxis(blocks[:, each, :, each, :], 0, 1)
        return (rows * np.linalg.solve(own, rows)).sum(axis=(2, 3))


def _take_out(
    inverse: np.ndarray, weights: np.ndarray, entries: np.ndarray, columns: np.ndarray
) -> None:
    """Repair and downdate, in place, where `columns` (b,) is true."""
    column = np.arange(len(entries))[:, None]
    rows = inverse[column, entries] * columns[:, None, None]
    block = inverse[column[:, :, None], entries[:, :, None], entries[:, None]]
    answer = np.linalg.solve(block, rows)
    weights -= answer.swapaxes(1, 2) @ weights[column, entries]
    inverse -= rows.swapaxes(1, 2) @ answer
    where = np.flatnonzero(columns)[:, None]
    place = entries[columns]
    weights[where, place] = 0
    inverse[where, place] = 0
    inverse[where, :, place] = 0
    inverse[where, place, place] = 1


def _inverses(damped: np.ndarray, living: np.ndarray) -> np.ndarray:
    """(b, n, n): the inverse among what is alive in each column; ones for what is not."""
    entries = living.shape[1]  # what fills up the last cell is not alive
    found = np.empty((len(living), entries, entries))
    patterns, pattern_of = np.unique(living, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        inverse = np.eye(entries)
        alive = np.flatnonzero(pattern)
        inverse[np.ix_(alive, alive)] = np.linalg.inv(damped[np.ix_(alive, alive)])
        found[pattern_of.ravel() == number] = inverse
    return found
