"""Closed-form repair of what remains when units leave.

A consumer multiplies its input H (rows, inputs) with a kernel V (inputs, outputs). A unit leaves by
losing its rows of V; what it contributed is taken over, as far as least squares allows, by the
inputs that stay and by the bias, the kernel's last row, whose input is always one. What is between
a unit and the next consumer (activations, normalizations, depthwise kernels, pooling) is not
touched: the consumer's input is looked at where it is read.

Optimal Brain Surgeon (Hassibi & Stork 1993), applied to whole units as in channel pruning by least
squares (He et al. 2017) and in Optimal Brain Compression (Frantar & Alistarh 2022).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import keras
import numpy as np

from secateur.answers import Answers
from secateur.graph import Group, inputs_at
from secateur.graph.rules import rule_of
from secateur.graph.trace import trace
from secateur.graph.walk import Place
from secateur.masks import alive, masked_least_squares, ridge_of
from secateur.metrics import batches, mean_squared_error
from secateur.mixing import LinearMap, Moments, Remembered, linear_maps, moments_of

Compensate = Literal["least_squares", "bias", "none"]


class Consumer:
    """One linear map while units leave: its matrix, repaired after each, and what the next costs.

    Attributes:
        kernel: (inputs, outputs) float64; a bias is its last row, whose input is always one. Rows
            of units that left are zero.
    """

    def __init__(
        self,
        linear_map: LinearMap,
        positions: np.ndarray,
        moments: Moments,
        compensate: Compensate = "least_squares",
        root: np.ndarray | None = None,
        ridge: float | None = None,
    ) -> None:
        """Start from all units.

        Args:
            linear_map: the consumer; `write` gives it the repaired matrix.
            positions: (units, k), the inputs that belong to each unit.
            moments: of its inputs, the bias' one included.
            compensate: what takes over when a unit leaves: the other inputs and the bias, the bias
                alone, or nothing.
            root: (outputs, r), what `costs` weighs the outputs with, such as the root of how
                strongly the model answers to them; all alike if None.
            ridge: added to the moments' diagonal, as a share of its mean; by how many rows they are
                of if None.
        """
        self.map = linear_map
        self.positions = positions
        self.compensate = compensate
        self.moments = moments
        inputs = len(moments.now)
        self.ridge = ridge_of(inputs, moments.rows) if ridge is None else ridge
        # Where no input ever differs from zero, any damping gives a zero answer.
        damping = np.full(inputs, self.ridge * np.trace(moments.now) / inputs or 1.0)
        if linear_map.bias is not None:
            damping[-1] = 0  # so that the bias takes over a constant exactly
        self.inverse = np.linalg.inv(moments.now + np.diag(damping))
        self.kernel = linear_map.matrix()
        self._wanted = moments.cross @ self.kernel
        # Zeros of earlier cuts stay zero; a bias is no kernel and always alive.
        self._alive = np.ones(self.kernel.shape, bool)
        self._alive[: linear_map.inputs] = alive(self.kernel[: linear_map.inputs])
        self._is_sparse = not self._alive.all()
        if compensate == "least_squares" and moments.drift.any():
            # Earlier cuts have moved this input: first fit the kernel to what it gave before them.
            self.kernel += self.inverse @ (moments.drift @ self.kernel)
        # The kernel as costs see it; repaired along with it, which is cheaper than weighing anew.
        self._weighed = self.kernel.copy() if root is None else self.kernel @ root

    def costs(self, unit: int | None = None) -> np.ndarray:
        """What it costs if a unit leaves: the weighed outputs' mean squared change when repaired.

        Returns:
            (units,), or (1,) for one unit.
        """
        positions = self.positions if unit is None else self.positions[[unit]]
        rows = self._weighed[positions]  # (units, k, outputs)
        blocks = self.inverse[positions[:, :, None], positions[:, None, :]]
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
            self._weighed -= answer @ self._weighed[leaving]
        elif self.compensate == "bias" and self.map.bias is not None:
            self.kernel[-1] += self.moments.means[leaving] @ lost
        self.kernel[leaving] = 0
        self._weighed[leaving] = 0
        self._alive[leaving] = False
        self.inverse -= answer @ self.inverse[leaving]
        # Exact zeros, and ones on the diagonal that no later division trips over.
        self.inverse[leaving] = 0
        self.inverse[:, leaving] = 0
        self.inverse[leaving, leaving] = 1

    def write(self) -> None:
        """Give the layer its repaired kernel and bias."""
        if self.compensate == "least_squares" and self._is_sparse:
            fitted = masked_least_squares(
                self.moments.now, self._wanted, self._alive, self.kernel, self.ridge
            )
            self.map.write(fitted)
        else:
            self.map.write(self.kernel)


def consumers_of(
    group: Group,
    model: keras.Model,
    original: keras.Model | Remembered,
    sample: np.ndarray,
    compensate: Compensate,
    answers: Answers | None = None,
) -> list[Consumer]:
    """A group's consumers, with the moments of what they read.

    Args:
        group: of `model`.
        model: the model as it is cut so far.
        original: the same model before any cut, or what is remembered of it and the sample.
        sample: (rows, ...) calibration sample.
        compensate: see `Consumer`.
        answers: how the model answers to what its layers give, which costs then go by.
    """
    consumers = []
    for part in group.consumers:
        maps = linear_maps(part.layer, part.variable)
        found = moments_of(maps, part.places, model, sample, original) if maps else ()
        for one, moments in zip(maps, found, strict=True):
            positions = one.inputs_of(part.axis, part.positions)
            power = float(np.trace(moments.now[: one.inputs, : one.inputs]))
            root = answers.root(one, power) if answers else None
            consumers.append(Consumer(one, positions, moments, compensate, root))
    return consumers


def remove_cheapest(
    consumers: Sequence[Consumer], count: int, gone: Iterable[int] = ()
) -> list[tuple[int, float]]:
    """Take out the unit that costs all its consumers least, again and again.

    Args:
        consumers: of one group.
        count: how many units leave.
        gone: those that have left before.

    Returns:
        `count` pairs of a unit and its cost, in the order they left.
    """
    leaving = list(gone)
    removed: list[tuple[int, float]] = []
    for _ in range(count):
        costs = np.sum([consumer.costs() for consumer in consumers], axis=0)
        costs[leaving] = np.inf
        unit = int(np.argmin(costs))
        leaving.append(unit)
        removed.append((unit, float(costs[unit])))
        for consumer in consumers:
            consumer.remove(unit)
    return removed


def remove_in_order(consumers: Sequence[Consumer], units: Iterable[int]) -> list[tuple[int, float]]:
    """Take out the named units.

    Returns:
        Pairs of a unit and what it cost when its turn came.
    """
    removed: list[tuple[int, float]] = []
    for unit in units:
        cost = sum(float(consumer.costs(unit)[0]) for consumer in consumers)
        removed.append((int(unit), cost))
        for consumer in consumers:
            consumer.remove(unit)
    return removed


def renew_batch_norm_if_better(model: keras.Model, sample: np.ndarray) -> bool:
    """Renew statistics, in place, where the model then errs less on the sample; say whether.

    Least squares fits kernels for the statistics that stand behind them, so there renewing gains
    little or nothing; after cruder repairs it gains much.
    """
    norms = [
        layer for layer in model._flatten_layers() if type(layer) is keras.layers.BatchNormalization
    ]
    if not norms:
        return False
    before = [(np.asarray(norm.moving_mean), np.asarray(norm.moving_variance)) for norm in norms]
    error = mean_squared_error(model, sample)
    renew_batch_norm(model, sample)
    if mean_squared_error(model, sample) < error:
        return True
    for norm, (mean, variance) in zip(norms, before, strict=True):
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)
    return False


def renew_batch_norm(model: keras.Model, sample: np.ndarray) -> None:
    """Give every BatchNormalization of a model, in place, the statistics of a sample.

    They are taken layer by layer from the input to the output, so that each sees what the renewed
    ones before it give.

    Args:
        model: a built functional or Sequential model, which may hold others.
        sample: (rows, ...) in the model's input shape.
    """
    calls: dict[int, tuple[Any, list[Place]]] = {}
    for visit in trace(model, rule_of).visits:
        if type(visit.operation) is keras.layers.BatchNormalization:
            calls.setdefault(id(visit.operation), (visit.operation, []))[1].append(visit.place)
    for norm, places in calls.values():
        read = inputs_at(model, places)
        rows, total, squares = 0, np.zeros(()), np.zeros(())
        for batch in batches(sample):
            for found in read(batch):
                values = np.moveaxis(np.asarray(found, np.float64), norm.axis, -1)
                values = values.reshape(-1, values.shape[-1])
                rows += len(values)
                total = total + values.sum(axis=0)
                squares = squares + (values**2).sum(axis=0)
        mean = total / rows
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(np.maximum(squares / rows - mean**2, 0))
