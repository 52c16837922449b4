"""How strongly a model answers to each of its weights, by gradients over a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from secateur.metrics import batches

_ROWS_A_GRADIENT = 32


def squared_gradients(
    model: keras.Model, sample: np.ndarray, kernels: Sequence[Any], of_loss: bool, seed: int = 0
) -> list[np.ndarray]:
    """Mean squared gradients with respect to kernels.

    Args:
        model: the autoencoder.
        sample: (rows, ...) in its input shape.
        kernels: variables of the model.
        of_loss: of the reconstruction error, summed over a few rows at a time, as at a minimum the
            gradient over all rows says nothing; otherwise of the outputs: the diagonal of the
            Gauss-Newton matrix, sampled with random signs (Hutchinson 1990).
        seed: of the signs.

    Returns:
        Per kernel, float64 of its shape, a row's share.
    """
    watched = [getattr(kernel, "value", kernel) for kernel in kernels]

    @tf.function(reduce_retracing=True)
    def gradients(rows: tf.Tensor, signs_seed: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            output = tf.cast(model(rows, training=False), tf.float32)
            if of_loss:
                loss = tf.reduce_sum(tf.square(output - tf.cast(rows, tf.float32)))
            else:
                uniform = tf.random.stateless_uniform(tf.shape(output), signs_seed)
                loss = tf.reduce_sum(tf.sign(uniform - 0.5) * output)
        found = tape.gradient(loss, watched, unconnected_gradients="zero")
        return [tf.square(one) for one in found]

    totals = [np.zeros(tuple(kernel.shape)) for kernel in kernels]
    for number, rows in enumerate(batches(sample, _ROWS_A_GRADIENT)):
        found = gradients(tf.constant(rows), tf.constant([seed, number]))
        for total, one in zip(totals, found, strict=True):
            total += np.asarray(one, np.float64)
    return [total / len(sample) for total in totals]
