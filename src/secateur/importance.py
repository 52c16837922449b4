"""Scores that say which units matter least, beside the closed form's own cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from secateur.compensation import Consumer, remove_cheapest, remove_in_order
from secateur.graph import Group

_GRADIENT_BATCH, _GRADIENT_BATCHES = 32, 64


@dataclass(frozen=True, eq=False)
class Scene:
    """What a score may look at.

    Attributes:
        group: the dependency group, of `model`.
        consumers: the linear maps that read its units, with the moments of what they read.
        model: the model as it is cut so far.
        sample: (rows, ...) calibration sample.
    """

    group: Group
    consumers: Sequence[Consumer]
    model: keras.Model
    sample: np.ndarray


def leave(
    scene: Scene, count: int, importance: str, seed: int = 0
) -> tuple[list[tuple[int, float]], np.ndarray]:
    """Take the least important units out of a group's consumers.

    Args:
        scene: the group and what is known about it.
        count: how many.
        importance: `obs`, what it costs the consumers after the best repair, counted anew after
            every unit; `random`; or a name in `SCORES`.
        seed: of `random`.

    Returns:
        Pairs of a unit and what it cost its consumers, in the order they left, and (count,) what
        the importance said of each.
    """
    # What nothing is known to read cannot be weighed by its readers.
    if importance.startswith("obs") and not scene.consumers:
        importance = "magnitude"
    if importance.startswith("obs"):
        removed = remove_cheapest(scene.consumers, count)
        return removed, np.array([cost for _, cost in removed])
    if importance == "random":
        order = np.random.default_rng(seed).permutation(scene.group.units)
        return remove_in_order(scene.consumers, order[:count]), np.arange(count, dtype=float)
    scores = SCORES[importance](scene)
    order = np.argsort(scores, kind="stable")[:count]
    return remove_in_order(scene.consumers, order), scores[order]


def magnitude_l2(scene: Scene) -> np.ndarray:
    """(units,): the L2 norm of each unit's own weights (Li et al. 2017)."""
    return np.sqrt((_own_weights(scene.group) ** 2).sum(axis=1))


def magnitude_l1(scene: Scene) -> np.ndarray:
    """(units,): the L1 norm of each unit's own weights (Li et al. 2017)."""
    return np.abs(_own_weights(scene.group)).sum(axis=1)


def fpgm(scene: Scene) -> np.ndarray:
    """(units,): the distance of each unit's weights to all others' (He et al. 2019)."""
    weights = _own_weights(scene.group)
    return np.array([np.linalg.norm(weights - one, axis=1).sum() for one in weights])


def activation(scene: Scene) -> np.ndarray:
    """(units,): the root mean square of what each unit gives to its consumers."""
    powers = [np.diag(one.moments.now)[one.positions].sum(axis=1) for one in scene.consumers]
    return np.sqrt(np.sum(powers, axis=0)) if powers else np.zeros(scene.group.units)


def taylor(scene: Scene) -> np.ndarray:
    """(units,): the loss' first-order change without the unit's weights (Molchanov et al. 2019)."""
    weights = _own_weights(scene.group)
    return np.sum([((g * weights).sum(axis=1)) ** 2 for g in _own_gradients(scene)], axis=0)


def obd(scene: Scene) -> np.ndarray:
    """(units,): the loss' second-order change without the unit's weights.

    Optimal Brain Damage (LeCun et al. 1989), the Hessian's diagonal taken from the gradients'
    squares (empirical Fisher information).
    """
    weights = _own_weights(scene.group)
    return np.sum([((g * weights) ** 2).sum(axis=1) for g in _own_gradients(scene)], axis=0)


def _own_weights(group: Group) -> np.ndarray:
    """(units, weights): the parts of the producers' kernels that make each unit."""
    return _by_unit(group, [part.variable for part in group.producers])


def _own_gradients(scene: Scene) -> Iterator[np.ndarray]:
    """(units, weights) of each of some batches: the gradients of the reconstruction's error."""
    variables = [part.variable.value for part in scene.group.producers]

    @tf.function(reduce_retracing=True)
    def gradients(rows: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss = tf.reduce_mean(tf.square(scene.model(rows, training=False) - rows))
        return tape.gradient(loss, variables, unconnected_gradients="zero")

    rows = scene.sample[: _GRADIENT_BATCH * _GRADIENT_BATCHES]
    for start in range(0, len(rows), _GRADIENT_BATCH):
        batch = tf.constant(rows[start : start + _GRADIENT_BATCH], tf.float32)
        found = [tf.convert_to_tensor(one) for one in gradients(batch)]
        yield _by_unit(scene.group, found)


def _by_unit(group: Group, values: Sequence[Any]) -> np.ndarray:
    found = []
    for part, value in zip(group.producers, values, strict=True):
        numbers = np.asarray(keras.ops.convert_to_numpy(value), np.float64)
        rows = np.moveaxis(numbers, part.axis, 0)[part.positions]
        found.append(rows.reshape(group.units, -1))
    return np.concatenate(found, axis=1)


SCORES: dict[str, Callable[[Scene], np.ndarray]] = {
    "magnitude": magnitude_l2,
    "magnitude_l1": magnitude_l1,
    "magnitude_l2": magnitude_l2,
    "taylor": taylor,
    "obd": obd,
    "fpgm": fpgm,
    "activation": activation,
}

# Those that are squares of weights and what they do; the others are norms.
SQUARES = ("obs", "obs_layer", "taylor", "obd")
