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

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
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
from secateur.mixing import (
    LinearMap,
    Moments,
    Remembered,
    linear_maps,
    mixing_layers,
    moments_of,
    norms_behind,
)

Compensate = Literal["least_squares", "bias", "none"]


class Consumer:
    """One linear map while units leave: its matrix, repaired after each, and what the next costs.

    Attributes:
        kernel: (inputs, outputs) float64; a bias is its last row, whose input is always one. Rows
            of units that left are zero.
        places: the calls that read with the map.
    """

    def __init__(
        self,
        linear_map: LinearMap,
        positions: np.ndarray,
        moments: Moments,
        compensate: Compensate = "least_squares",
        root: np.ndarray | None = None,
        ridge: float | None = None,
        places: tuple[Place, ...] = (),
        before: np.ndarray | None = None,
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
            places: the calls that read with the map.
            before: (inputs, outputs), the matrix before any cut; the map's if None.
        """
        self.map = linear_map
        self.places = places
        self.positions = positions
        self.compensate = compensate
        self.moments = moments
        inputs = len(moments.now)
        self.ridge = ridge_of(inputs, moments.rows) if ridge is None else ridge
        # Where no input ever differs from zero, any damping gives a zero answer.
        damping = np.full(inputs, self.ridge * np.trace(moments.now) / inputs or 1.0)
        if linear_map.bias is not None:
            damping[-1] = 0  # so that the bias takes over a constant exactly
        self.kernel = linear_map.matrix()
        self._before = self.kernel.copy() if before is None else before
        # Zeros of earlier cuts stay zero; a bias is no kernel and always alive.
        self._alive = np.ones(self.kernel.shape, bool)
        self._alive[: linear_map.inputs] = alive(self.kernel[: linear_map.inputs])
        self._is_sparse = not self._alive.all()
        # What nothing reads any more takes nothing over.
        read = np.flatnonzero(self._alive.any(axis=1))
        self.inverse = np.eye(inputs)
        self.inverse[np.ix_(read, read)] = np.linalg.inv(
            (moments.now + np.diag(damping))[np.ix_(read, read)]
        )
        if compensate == "least_squares" and moments.drift.any():
            # Earlier cuts have moved this input: first fit the kernel to what it gave before them.
            missing = moments.cross @ self._before - moments.now @ self.kernel
            self.kernel[read] += self.inverse[np.ix_(read, read)] @ missing[read]
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
            self._fit(self.moments)
        else:
            self.map.write(self.kernel)

    def follow(self, model: keras.Model, original: Remembered, sample: np.ndarray) -> None:
        """Give the layer what fits what it reads by now, as layers before it have changed again.

        Args:
            model: as it is cut so far.
            original: what is remembered of the same model before any cut, and of the sample.
            sample: (rows, ...) calibration sample.
        """
        (moments,) = moments_of([self.map], self.places, model, sample, original)
        if self.compensate == "least_squares":
            self._fit(moments)
        elif self.compensate == "bias" and self.map.bias is not None:
            self.kernel[-1] += moments.cross[-1] @ self._before - moments.now[-1] @ self.kernel
            self.map.write(self.kernel)

    def _fit(self, moments: Moments) -> None:
        wanted = moments.cross @ self._before
        self.kernel = masked_least_squares(
            moments.now, wanted, self._alive, self.kernel, self.ridge
        )
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
    norms = norms_behind(model)
    whole = original.model if isinstance(original, Remembered) else original
    variable_before = {
        id(now): then for now, then in zip(model.weights, whole.weights, strict=True)
    }
    for part in group.consumers:
        maps = linear_maps(part.layer, part.variable, norms)
        found = moments_of(maps, part.places, model, sample, original) if maps else ()
        for one, moments in zip(maps, found, strict=True):
            positions = one.inputs_of(part.axis, part.positions)
            power = float(np.trace(moments.now[: one.inputs, : one.inputs]))
            root = answers.root(one, power) if answers else None
            bias = None if one.bias is None else variable_before[id(one.bias)]
            before = replace(one, kernel=variable_before[id(one.kernel)], bias=bias).matrix()
            consumers.append(
                Consumer(
                    one, positions, moments, compensate, root, places=part.places, before=before
                )
            )
    return consumers


class Followers:
    """Consumers that are repaired before all that lies before them has been cut.

    Groups are cut in the order of what makes them. One that a skip carries past others is read
    behind these too, and what is read there changes once more when they are cut.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        model: keras.Model,
        original: Remembered,
        sample: np.ndarray,
    ) -> None:
        """See in which order layers read.

        Args:
            groups: of `model`, in the order in which they are cut.
            model: the model that is being cut.
            original: what is remembered of the same model before any cut, and of the sample.
            sample: (rows, ...) calibration sample.
        """
        self._scene = model, original, sample
        self._place = {id(one.kernel): place for place, one in enumerate(mixing_layers(model))}
        # Where each group's cut begins to change what is read.
        self._firsts = [
            min(
                (self._place.get(id(one.variable), math.inf) for one in group.consumers),
                default=math.inf,
            )
            for group in groups
        ]
        self._waiting: dict[tuple[int, int], Consumer] = {}

    def add(self, consumers: Iterable[Consumer], done: int) -> None:
        """Take those in that will have to follow, when so many groups have been cut."""
        for one in consumers:
            place = self._place[id(one.map.kernel)]
            key = place, int(one.map.elements[0, 0])
            self._waiting.pop(key, None)  # what another group left of it
            if place > self._to_come(done) and one.compensate != "none":
                self._waiting[key] = one

    def catch_up(self, done: int) -> None:
        """Repair those again before which nothing is left to cut, when so many groups have been."""
        for key in sorted(key for key in self._waiting if key[0] < self._to_come(done)):
            self._waiting.pop(key).follow(*self._scene)

    def _to_come(self, done: int) -> float:
        return min(self._firsts[done:], default=math.inf)


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
