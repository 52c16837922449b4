"""Closed-form repair of what remains when units leave.

A consumer multiplies its input H (rows, inputs) with a kernel V (inputs, outputs). A unit leaves by
losing its rows of V; what it contributed is taken over, as far as least squares allows, by the
inputs that stay and by the bias, the kernel's last row, whose input is always one.

Optimal Brain Surgeon (Hassibi & Stork 1993), applied to whole units as in channel pruning by least
squares (He et al. 2017) and in Optimal Brain Compression (Frantar & Alistarh 2022).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

Compensate = Literal["least_squares", "bias", "none"]

RIDGE = 1e-6


class Moments:
    """Second moments of a consumer's input, gathered batch by batch in float64.

    The memory it takes is (inputs + 1)², however many rows pass.
    """

    def __init__(self, inputs: int) -> None:
        self.rows = 0
        self.total = np.zeros((inputs + 1, inputs + 1))
        self.cross_total = np.zeros((inputs + 1, inputs + 1))

    def add(self, now: np.ndarray, before: np.ndarray) -> None:
        """Count a batch in.

        Args:
            now: (rows, inputs), the consumer's input in the model as it is cut so far.
            before: (rows, inputs), the same input in the model that was to be shrunk.
        """
        now, before = with_ones(now), with_ones(before)
        self.total += now.T @ now
        self.cross_total += now.T @ before
        self.rows += len(now)

    @property
    def gram(self) -> np.ndarray:
        """E[hhᵀ], (inputs + 1, inputs + 1)."""
        return self.total / self.rows

    @property
    def cross(self) -> np.ndarray:
        """E[h·h_beforeᵀ], (inputs + 1, inputs + 1)."""
        return self.cross_total / self.rows


def with_ones(inputs: np.ndarray) -> np.ndarray:
    """The inputs in float64 with a column of ones behind them, for the bias."""
    inputs = np.asarray(inputs, np.float64)
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)


class Consumer:
    """One consumer while units leave: its kernel, repaired after each, and what the next costs.

    Attributes:
        kernel: (inputs + 1, outputs) float64, the bias as last row. Rows of units that left are 0.
    """

    def __init__(
        self,
        kernel: np.ndarray,
        moments: Moments,
        positions: np.ndarray,
        compensate: Compensate = "least_squares",
        ridge: float = RIDGE,
    ) -> None:
        """Start from all units.

        Args:
            kernel: (inputs + 1, outputs), the bias as last row.
            moments: of the consumer's input.
            positions: (units, k), the inputs that belong to each unit.
            compensate: what takes over when a unit leaves: the other inputs and the bias, the bias
                alone, or nothing.
            ridge: added to the moments' diagonal, as a share of its mean.
        """
        self.positions = positions
        self.compensate = compensate
        self.means = moments.gram[:, -1]
        gram = moments.gram
        gram[np.diag_indices_from(gram)] += ridge * np.trace(gram) / len(gram)
        self.inverse = np.linalg.inv(gram)
        self.kernel = np.array(kernel, np.float64)
        if compensate == "least_squares":
            # Earlier cuts have moved this input: first fit the kernel to what it gave before them.
            drift = moments.cross - moments.gram
            self.kernel += self.inverse @ (drift @ self.kernel)

    def costs(self) -> np.ndarray:
        """(units,): the output's mean squared change if that unit left, after the best repair."""
        rows = self.kernel[self.positions]  # (units, k, outputs)
        blocks = self.inverse[self.positions[:, :, None], self.positions[:, None, :]]
        if blocks.shape[1] == 1:
            return (rows[:, 0] ** 2).sum(axis=1) / blocks[:, 0, 0]
        return np.einsum("uko,uko->u", rows, np.linalg.solve(blocks, rows))

    def remove(self, unit: int) -> None:
        """Take a unit out and let what remains take over."""
        leaving = self.positions[unit]
        lost = self.kernel[leaving]
        # (inputs + 1, k): how every input answers for the leaving ones.
        answer = np.linalg.solve(self.inverse[np.ix_(leaving, leaving)], self.inverse[leaving]).T
        if self.compensate == "least_squares":
            self.kernel -= answer @ lost
        elif self.compensate == "bias":
            self.kernel[-1] += self.means[leaving] @ lost
        self.kernel[leaving] = 0
        self.inverse -= answer @ self.inverse[leaving]
        # Exact zeros, and an identity block that no later division trips over.
        self.inverse[leaving] = 0
        self.inverse[:, leaving] = 0
        self.inverse[leaving, leaving] = 1


def remove_cheapest(consumers: Sequence[Consumer], count: int) -> list[tuple[int, float]]:
    """Take out the unit that costs all its consumers least, again and again.

    Returns:
        `count` pairs of a unit and its cost, in the order they left.
    """
    left: list[tuple[int, float]] = []
    for _ in range(count):
        costs = np.sum([consumer.costs() for consumer in consumers], axis=0)
        costs[[unit for unit, _ in left]] = np.inf
        unit = int(np.argmin(costs))
        left.append((unit, float(costs[unit])))
        for consumer in consumers:
            consumer.remove(unit)
    return left


def remove_in_order(
    consumers: Sequence[Consumer], units: Iterable[int]
) -> list[tuple[int, float]]:
    """Take out the named units; what each cost when its turn came."""
    left: list[tuple[int, float]] = []
    for unit in units:
        left.append((unit, float(sum(consumer.costs()[unit] for consumer in consumers))))
        for consumer in consumers:
            consumer.remove(unit)
    return left
