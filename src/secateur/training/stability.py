"""Whether an epoch went well, or lost its numbers, ran away, or left units dead."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

RUNAWAY = 5.0  # times the error that the attempt began with
MOST_DEAD = 0.75  # of a layer's units that lived when training began
_ROWS_TO_LIVE_ON = 1024  # validation rows, at most, that tell whether a unit lives
LOWER = 0.1  # the next attempt's learning rate, as a share


class Trouble(NamedTuple):
    """What is wrong with an epoch, and whether its weights are of no use."""

    reason: str
    is_fatal: bool


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to: means over its steps.

    Attributes:
        loss: of what is minimised.
        error: mean squared error, in training mode.
        norm: global norm of the gradients.
        largest_norm: the largest of a step.
        is_finite: whether all losses and gradients were finite; the epoch ended where one was not.
        validation_loss: mean squared error on validation rows.
        validation_auc: of validation rows' errors against anomalies'; not a number without any.
    """

    loss: float
    error: float
    norm: float
    largest_norm: float
    is_finite: bool
    validation_loss: float
    validation_auc: float = math.nan


class Watch:
    """Tells a bad epoch from a good one."""

    def __init__(
        self, model: keras.Model, rows: np.ndarray, start_error: Callable[[], float]
    ) -> None:
        """Look at a model that is about to be trained.

        Args:
            model: whose units are watched.
            rows: (rows, ...) that tell whether a unit lives; some of them are looked at.
            start_error: the error on training rows that training began with. It is asked for only
                when an epoch's error is far above the validation rows' at the start.
        """
        self._offsets = _offsets_of(model)
        self._gradients = _compiled_gradients(model, self._offsets)
        self._rows = tf.constant(rows[:: -(-len(rows) // _ROWS_TO_LIVE_ON)])
        self._lived = self._alive()
        self._start_error = start_error

    def trouble(self, epoch: Epoch, start_loss: float) -> Trouble | None:
        """What is wrong with the model after an epoch; None if nothing is.

        Args:
            epoch: what it came to.
            start_loss: the validation loss that training began with.
        """
        if not epoch.is_finite or not math.isfinite(epoch.validation_loss):
            return Trouble("loss or gradients were not finite", is_fatal=True)
        if epoch.error > RUNAWAY * start_loss and epoch.error > RUNAWAY * self._start_error():
            reason = f"the error rose to {epoch.error:.3g}, from {start_loss:.3g} at the start"
            return Trouble(reason, is_fatal=True)
        for offset, lived, lives in zip(self._offsets, self._lived, self._alive(), strict=True):
            dead = int((lived & ~lives).sum())
            if dead > MOST_DEAD * lived.sum():
                reason = f"{dead} of {lived.sum()} units of {offset.path} died"
                return Trouble(reason, is_fatal=False)
        return None

    def _alive(self) -> list[np.ndarray]:
        """Bools for each offset's units: whether the error on the rows depends on it."""
        return [np.asarray(gradient) != 0 for gradient in self._gradients(self._rows)]


def _compiled_gradients(model: keras.Model, offsets: list[Any]) -> Callable[[Any], list[Any]]:
    @tf.function
    def gradients(rows: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(tf.square(model(rows, training=False) - rows))
        return tape.gradient(error, offsets, unconnected_gradients="zero")

    return gradients


def _offsets_of(model: keras.Model) -> list[Any]:
    """The biases and normalizations' offsets of hidden units: one entry a unit.

    A unit is dead if its offset changes nothing, whatever the row: a rectifier that never opens, or
    a sigmoid that always is at its end.
    """
    outputs = {id(variable) for layer in _makers(model) for variable in layer.variables}
    return [
        variable
        for variable in model.trainable_variables
        if variable.name in ("bias", "beta")
        and len(variable.shape) == 1
        and id(variable) not in outputs
    ]


def _makers(model: keras.Model) -> list[Any]:
    """The layers with weights that make a model's outputs; there units may be constant."""
    found, todo = [], [tensor._keras_history for tensor in model.outputs]
    while todo:
        history = todo.pop()
        operation = history.operation
        if isinstance(operation, keras.Model):
            todo += [tensor._keras_history for tensor in operation.outputs]
        elif getattr(operation, "weights", None):
            found.append(operation)
        else:
            node = operation._inbound_nodes[history.node_index]
            todo += [tensor._keras_history for tensor in node.input_tensors]
    return found
