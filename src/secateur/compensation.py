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

import keras
import numpy as np

from secateur.graph import Group, Slice, inputs_at
from secateur.metrics import batches

Compensate = Literal["least_squares", "bias", "none"]

RIDGE = 1e-6


class Moments:
    """Second moments of a consumer's input, gathered batch by batch in float64.

    The memory it takes is inputs², however many rows pass.

    Attributes:
        now: E[hhᵀ], (inputs, inputs), of the input in the model as it is cut so far.
        drift: E[h·h_beforeᵀ] - E[hhᵀ], (inputs, inputs): how the cuts so far have moved it.
        means: E[h], (inputs,).
    """

    def __init__(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Take them of pairs of batches (rows, inputs): the input now, and before any cut."""
        rows = 0
        now = cross = means = np.zeros(())
        for after, before in pairs:
            rows += len(after)
            now = now + after.T @ after
            cross = cross + after.T @ before
            means = means + after.sum(axis=0)
        self.now: np.ndarray = now / rows
        self.drift: np.ndarray = (cross - now) / rows
        self.means: np.ndarray = means / rows


class Consumer:
    """One consumer while units leave: its kernel, repaired after each, and what the next costs.

    Attributes:
        kernel: (inputs, outputs) float64; a bias is its last row, whose input is always one. Rows
            of units that left are zero.
    """

    def __init__(
        self,
        layer: keras.layers.Dense,
        positions: np.ndarray,
        moments: Moments,
        compensate: Compensate = "least_squares",
        ridge: float = RIDGE,
    ) -> None:
        """Start from all units.

        Args:
            layer: the consumer; `write` gives it the repaired kernel.
            positions: (units, k), the inputs that belong to each unit.
            moments: of its inputs, the bias' one included.
            compensate: what takes over when a unit leaves: the other inputs and the bias, the bias
                alone, or nothing.
            ridge: added to the moments' diagonal, as a share of its mean.
        """
        self.layer = layer
        self.positions = positions
        self.compensate = compensate
        self.means = moments.means
        inputs = len(moments.now)
        damping = ridge * np.trace(moments.now) / inputs * np.eye(inputs)
        self.inverse = np.linalg.inv(moments.now + damping)
        self.kernel = _kernel_with_bias(layer)
        if compensate == "least_squares":
            # Earlier cuts have moved this input: first fit the kernel to what it gave before them.
            self.kernel += self.inverse @ (moments.drift @ self.kernel)

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
        # (inputs, k): how every input answers for the leaving ones.
        answer = np.linalg.solve(self.inverse[np.ix_(leaving, leaving)], self.inverse[leaving]).T
        if self.compensate == "least_squares":
            self.kernel -= answer @ lost
        elif self.compensate == "bias" and self.layer.use_bias:
            self.kernel[-1] += self.means[leaving] @ lost
        self.kernel[leaving] = 0
        self.inverse -= answer @ self.inverse[leaving]
        # Exact zeros, and ones on the diagonal that no later division trips over.
        self.inverse[leaving] = 0
        self.inverse[:, leaving] = 0
        self.inverse[leaving, leaving] = 1

    def write(self) -> None:
        """Give the layer its repaired kernel and bias."""
        inputs = self.layer.kernel.shape[0]
        self.layer.kernel.assign(self.kernel[:inputs])
        if self.layer.use_bias:
            self.layer.bias.assign(self.kernel[inputs])


def consumers_of(
    group: Group,
    model: keras.Model,
    original: keras.Model,
    sample: np.ndarray,
    compensate: Compensate,
) -> list[Consumer]:
    """A group's consumers, with the moments of what they read.

    Args:
        group: of `model`.
        model: the model as it is cut so far.
        original: the same model before any cut.
        sample: (rows, ...) calibration sample.
        compensate: see `Consumer`.
    """
    return [
        Consumer(
            part.layer,
            part.positions,
            Moments(_inputs_now_and_before(part, model, original, sample)),
            compensate,
        )
        for part in group.consumers
    ]


def _inputs_now_and_before(
    part: Slice, model: keras.Model, original: keras.Model, sample: np.ndarray
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    now, before = inputs_at(model, part.places), inputs_at(original, part.places)
    for batch in batches(sample):
        for after, previous in zip(now(batch), before(batch), strict=True):
            yield _as_rows(after, part.layer), _as_rows(previous, part.layer)


def _as_rows(inputs: np.ndarray, layer: keras.layers.Dense) -> np.ndarray:
    """What a consumer multiplies its kernel with: (rows, inputs), ones behind it for a bias."""
    rows = np.asarray(inputs, np.float64).reshape(-1, layer.kernel.shape[0])
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1) if layer.use_bias else rows


def _kernel_with_bias(layer: keras.layers.Dense) -> np.ndarray:
    kernel = np.asarray(layer.kernel, np.float64)
    return np.vstack([kernel, np.asarray(layer.bias)]) if layer.use_bias else kernel


def remove_cheapest(consumers: Sequence[Consumer], count: int) -> list[tuple[int, float]]:
    """Take out the unit that costs all its consumers least, again and again.

    Returns:
        `count` pairs of a unit and its cost, in the order they left.
    """
    removed: list[tuple[int, float]] = []
    for _ in range(count):
        costs = np.sum([consumer.costs() for consumer in consumers], axis=0)
        costs[[unit for unit, _ in removed]] = np.inf
        removed += remove_in_order(consumers, [int(np.argmin(costs))])
    return removed


def remove_in_order(consumers: Sequence[Consumer], units: Iterable[int]) -> list[tuple[int, float]]:
    """Take out the named units.

    Returns:
        Pairs of a unit and what it cost when its turn came.
    """
    removed: list[tuple[int, float]] = []
    for unit in units:
        removed.append((int(unit), float(sum(consumer.costs()[unit] for consumer in consumers))))
        for consumer in consumers:
            consumer.remove(unit)
    return removed
