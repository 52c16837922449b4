"""What is compiled: many steps of training in one call, and the error of many rows.

XLA compiles it, but for networks that convolve: on CPUs it has no fast gradients for them,
TensorFlow's own kernels have. That depends on the network and on nothing measured, so that equal
runs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from secateur.graph.kinds import CONVOLVING
from secateur.grids import LEVELS, Axes, grids_of
from secateur.masks import kernels, masks_of, shared_values
from secateur.training.replicas import Differentiated, Replicas
from secateur.training.teaching import Lesson


class Tally(NamedTuple):
    """What a row of steps has come to; handed back to the next call, so that calls may be short.

    Attributes:
        taken: steps taken.
        loss: sum of the steps' losses.
        error: sum of the steps' mean squared errors, which is the loss where nobody teaches.
        norm: sum of the gradients' global norms.
        largest_norm: the largest of them.
        is_finite: whether all losses and norms were finite; no step is taken after one that is not.
    """

    taken: Any
    loss: Any
    error: Any
    norm: Any
    largest_norm: Any
    is_finite: Any

    @classmethod
    def of_nothing(cls) -> Tally:
        """Before the first step."""
        zero = np.zeros((), np.float32)
        return cls(np.zeros((), np.int32), zero, zero, zero, zero, np.ones((), bool))

    def fetched(self) -> Tally:
        """The same off the device."""
        return Tally(*(np.asarray(one) for one in self))


Train = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, Tally], Tally]
"""Takes a block of rows, (steps, batch) row numbers, the step to stop before, and the tally so far:
goes on with the step that the tally has come to."""


class Patterns:
    """What training must not undo: zeros of kernels, few values, and grids.

    A kernel on a grid has the weights behind its rounded ones in a variable of its own. What moves
    are those, by the gradients of the rounded ones (straight-through estimator, Bengio et al. 2013,
    "Estimating or Propagating Gradients Through Stochastic Neurons").

    Attributes:
        variables: the weights behind rounded ones.
    """

    def __init__(self, model: keras.Model) -> None:
        """Read them from a model."""
        found = kernels(model)
        self._on_grid = [(kernel, axes, tf.Variable(kernel)) for kernel, axes in grids_of(model)]
        self.variables = [behind for _, _, behind in self._on_grid]
        axes_of = {id(kernel): axes for kernel, axes, _ in self._on_grid}
        self._masked = [
            (found[path], tf.constant(mask, tf.as_dtype(found[path].dtype)))
            for path, mask in masks_of(model).items()
        ]
        self._shared = [
            (kernel, tf.constant(numbers.ravel(), tf.int32), int(numbers.max()) + 1)
            for kernel in found.values()
            if (numbers := shared_values(np.asarray(kernel), axes_of.get(id(kernel)))) is not None
        ]

    def adopt(self) -> None:
        """Let the weights of the model, which somebody has set, be those behind them too."""
        for kernel, _, behind in self._on_grid:
            behind.assign(kernel)

    def release(self) -> None:
        """Before a step of the optimizer: the weights behind rounded ones take their place."""
        for kernel, _, behind in self._on_grid:
            kernel.assign(behind)

    def restore(self) -> None:
        """After it: entries that shared a value share their mean, zeros are zero, grids are met."""
        for kernel, number_of, values in self._shared:
            means = tf.math.unsorted_segment_mean(tf.reshape(kernel, [-1]), number_of, values)
            kernel.assign(tf.reshape(tf.gather(means, number_of), kernel.shape))
        for kernel, mask in self._masked:
            kernel.assign(kernel * mask)
        for kernel, axes, behind in self._on_grid:
            behind.assign(kernel)
            kernel.assign(_rounded(kernel, axes))


def compiled_training(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    patterns: Patterns,
    lesson: Lesson | None = None,
    xla: bool | None = None,
    replicas: Replicas | None = None,
) -> Train:
    """The steps of a training.

    Args:
        model: what is trained.
        optimizer: built for the model's trainable variables.
        patterns: what stays as it is.
        lesson: what a teacher adds to the loss.
        xla: whether XLA compiles; None chooses by the network.
        replicas: that share every batch; None takes it whole.
    """
    if xla is None:
        xla = not (convolves(model) or (lesson is not None and convolves(lesson.teacher)))
    variables = model.trainable_variables

    def losses(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if lesson is None:
            error = tf.reduce_mean(tf.square(model(batch, training=True) - batch))
            return error, error
        output, distance = lesson.taught(batch)
        error = tf.reduce_mean(tf.square(output - batch))
        return (1 - lesson.share) * error + lesson.share * distance, error

    def differentiate(batch: tf.Tensor) -> Differentiated:
        with tf.GradientTape() as tape:
            loss, error = losses(batch)
        return loss, error, tape.gradient(loss, variables)

    differentiated: Callable[[tf.Tensor], Differentiated] = differentiate
    if replicas is not None:
        read = lesson.teacher.variables if lesson is not None else []
        differentiated = replicas.differentiating(
            losses, variables, model.non_trainable_variables, read, xla
        )
        xla = False  # of the whole, which no compiler sees

    def take_step(batch: tf.Tensor, tally: Tally) -> Tally:
        loss, error, gradients = differentiated(batch)
        patterns.release()
        optimizer.apply(gradients, variables)
        patterns.restore()
        norm = tf.linalg.global_norm(gradients)
        return Tally(
            tally.taken + 1,
            tally.loss + loss,
            tally.error + error,
            tally.norm + norm,
            tf.maximum(tally.largest_norm, norm),
            tf.math.is_finite(loss) & tf.math.is_finite(norm),
        )

    @tf.function(jit_compile=xla)
    def train(rows: tf.Tensor, steps: tf.Tensor, stop: tf.Tensor, tally: Tally) -> Tally:
        return tf.while_loop(
            lambda tally: (tally.taken < stop) & tally.is_finite,
            lambda tally: (take_step(tf.gather(rows, steps[tally.taken]), tally),),
            (Tally(*map(tf.convert_to_tensor, tally)),),
        )[0]

    return train


def compiled_errors(model: keras.Model) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function of rows and (steps, batch) row numbers: (steps, batch) mean squared errors."""

    @tf.function(jit_compile=not convolves(model))
    def errors(rows: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
        def of_step(step: tf.Tensor) -> tf.Tensor:
            batch = tf.gather(rows, step)
            squares = tf.square(model(batch, training=False) - batch)
            return tf.reduce_mean(squares, list(range(1, len(squares.shape))))

        return tf.map_fn(of_step, steps, fn_output_signature=tf.float32)

    return errors


def convolves(model: keras.Model) -> bool:
    """Whether there is a convolution in a model, at any depth."""
    return any(isinstance(layer, CONVOLVING) for layer in model._flatten_layers())


def _rounded(kernel: Any, axes: Axes) -> tf.Tensor:
    """A kernel on its channels' grids, each entry at the nearest point."""
    values = tf.convert_to_tensor(kernel)
    steps = tf.reduce_max(tf.abs(values), axes, keepdims=True) / LEVELS
    return tf.round(tf.math.divide_no_nan(values, steps)) * steps
