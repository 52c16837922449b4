"""How strongly a model's output answers to changes of what its layers compute."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from secateur.graph import numbers_made
from secateur.graph.kinds import CONVOLUTIONS, SEPARABLE, TRANSPOSED
from secateur.importance_of_weights import squared_gradients
from secateur.metrics import batches
from secateur.mixing import LinearMap

_ROWS = 2048
_NUMBERS = 2**24  # that layers make at most of the rows that are asked together
_SIGNS = 4  # that each row is asked with: fewer leave much noise, more rows change little
_OUTPUTS = 2048  # of a layer with more, only the diagonal is taken
_RANK, _NOTHING = 1e-9, 1e-30


class Answers:
    """The Gauss-Newton matrices of a model's error, one a mixing layer.

    A small change d of a layer's pre-activations raises the mean squared error by d S dᵀ, where
    S = E[JᵀJ] / (numbers in an output) and J is the Jacobian of the model's output. S is summed
    over the positions at which the layer works and sampled with random signs (Hutchinson 1990).
    """

    def __init__(self, model: keras.Model, sample: np.ndarray, seed: int = 0) -> None:
        """Look at a model.

        Args:
            model: a built model; only maps of its own layers have an answer.
            sample: (rows, ...) in its input shape; some 2,000 of them are used.
            seed: of the signs.
        """
        self._model, self._seed = model, seed
        self._rows = np.asarray(sample[:: math.ceil(len(sample) / _ROWS)])
        self._numbers = math.prod(model.output_shape[1:])
        self._found = self._of_layers()

    def root(self, linear_map: LinearMap, power: float) -> np.ndarray:
        """R of S = R Rᵀ for a map's outputs, with as many rows as it has outputs.

        Args:
            linear_map: of the model.
            power: the mean square of its input, summed over inputs.
        """
        found = self._found.get(id(linear_map.kernel))
        if found is None:
            return np.diag(np.sqrt(self._by_kernel(linear_map) / (power or 1.0)))
        channels = _channels(linear_map, len(found))
        if found.ndim == 1:
            return np.diag(np.sqrt(found[channels]))
        matrix = found[np.ix_(channels, channels)]
        damping = _RANK * matrix.diagonal().max() or _NOTHING
        with contextlib.suppress(np.linalg.LinAlgError):  # a tenth of the time of what follows
            return np.linalg.cholesky(matrix + damping * np.eye(len(matrix)))
        # Half precision may round it to what is no square.
        values, vectors = np.linalg.eigh(matrix)
        strong = values > _RANK * values[-1]
        return vectors[:, strong] * np.sqrt(values[strong])

    def _of_layers(self) -> dict[int, np.ndarray]:
        known = [layer for layer in self._model._flatten_layers() if _can_tell(layer)]
        answer = _compiled(self._model, known)
        totals: list[Any] = [0.0] * len(known)
        for number, batch in enumerate(batches(self._rows, self._rows_at_once())):
            asked = tf.cast(np.repeat(batch, _SIGNS, axis=0), self._model.inputs[0].dtype)
            given = answer(asked, tf.constant([self._seed, number]))
            totals = [
                total + np.asarray(one, np.float64)
                for total, one in zip(totals, given, strict=True)
            ]
        return {
            id(_kernel(layer)): total / (_SIGNS * len(self._rows) * self._numbers)
            for layer, total in zip(known, totals, strict=True)
        }

    def _rows_at_once(self) -> int:
        made = numbers_made(self._model)
        return min(max(_NUMBERS // (_SIGNS * made), 32), 256)

    def _by_kernel(self, linear_map: LinearMap) -> np.ndarray:
        """(outputs,): S's diagonal times the input's power, from the kernel's gradients."""
        (found,) = squared_gradients(
            self._model, self._rows, [linear_map.kernel], of_loss=False, seed=self._seed
        )
        by_output = found.ravel()[linear_map.elements].sum(axis=0)
        return np.asarray(by_output) / self._numbers


def _can_tell(layer: Any) -> bool:
    """Whether a layer's pre-activations are what its activation is given, outputs last."""
    if type(layer) is layers.EinsumDense:
        inputs, made = layer.equation.split("->")
        kernel = inputs.split(",")[1]
        return made.endswith("".join(letter for letter in kernel if letter in made))
    return type(layer) in (layers.Dense, *CONVOLUTIONS, *TRANSPOSED, *SEPARABLE)


def _kernel(layer: Any) -> Any:
    return layer.pointwise_kernel if type(layer) in SEPARABLE else layer.kernel


def _channels(linear_map: LinearMap, outputs: int) -> np.ndarray:
    """Which of a layer's outputs are a map's: all, or those of its group."""
    count = linear_map.elements.shape[1]
    if count == outputs:
        return np.arange(outputs)
    return np.unravel_index(linear_map.elements[0], linear_map.kernel.shape)[-1]


def _compiled(model: keras.Model, known: Sequence[Any]) -> Callable[..., list[tf.Tensor]]:
    (given,) = model.inputs
    rows_of_any_number = tf.TensorSpec((None, *given.shape[1:]), given.dtype)

    @tf.function(input_signature=[rows_of_any_number, tf.TensorSpec((2,), tf.int32)])
    def answer(rows: tf.Tensor, signs_seed: tf.Tensor) -> list[tf.Tensor]:
        notes: list[list[tf.Tensor]] = [[] for _ in known]
        with tf.GradientTape() as tape, _listening(known, notes, tape):
            output = tf.cast(model(rows, training=False), tf.float32)
            uniform = tf.random.stateless_uniform(tf.shape(output), signs_seed)
            total = tf.reduce_sum(tf.sign(uniform - 0.5) * output)
        gradients = tape.gradient(total, notes, unconnected_gradients="zero")
        return [_second_moment(*pair) for pair in zip(known, gradients, strict=True)]

    return answer


def _second_moment(layer: Any, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """(outputs, outputs), or (outputs,) where there are very many, summed over rows and calls."""
    outputs = _outputs(layer)
    rows = [_outputs_last(layer, one) for one in gradients]
    together = tf.concat([tf.reshape(one, (-1, outputs)) for one in rows], 0)
    if outputs > _OUTPUTS:
        return tf.reduce_sum(tf.square(together), axis=0)
    return tf.matmul(together, together, transpose_a=True)


def _outputs(layer: Any) -> int:
    if type(layer) is layers.EinsumDense:
        inputs, made = layer.equation.split("->")
        sizes = zip(inputs.split(",")[1], layer.kernel.shape, strict=True)
        return math.prod(size for letter, size in sizes if letter in made)
    return layer.units if type(layer) is layers.Dense else layer.filters


def _outputs_last(layer: Any, values: tf.Tensor) -> tf.Tensor:
    if getattr(layer, "data_format", None) != "channels_first":
        return values
    return tf.transpose(values, [0, *range(2, values.shape.rank), 1])


@contextlib.contextmanager
def _listening(
    known: Sequence[Any], notes: Sequence[list[tf.Tensor]], tape: tf.GradientTape
) -> Iterator[None]:
    """Note what the layers give to their activations."""
    activations = [layer.activation for layer in known]
    try:
        for layer, activation, found in zip(known, activations, notes, strict=True):
            # Past Keras' own __setattr__: the layer stays as it was, and built.
            object.__setattr__(layer, "activation", _noting(activation, found, tape))
        yield
    finally:
        for layer, activation in zip(known, activations, strict=True):
            object.__setattr__(layer, "activation", activation)


def _noting(activation: Any, found: list[tf.Tensor], tape: tf.GradientTape) -> Callable[[Any], Any]:
    def noting(values: Any) -> Any:
        tape.watch(values)
        found.append(values)
        return values if activation is None else activation(values)

    return noting
