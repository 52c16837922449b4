"""Training: of a baseline from nothing, and of a cut model back to quality.

An epoch is one compiled loop over rows that lie on the device, so that Python is left once an epoch
instead of once a batch. Data too large for that is fed in blocks through `tf.data`, and the same
compiled loop runs over each block. XLA compiles it, but for networks that convolve: on CPUs it has
no fast gradients for them, TensorFlow's own kernels have.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from pydantic import ValidationError

from secateur.errors import InputError
from secateur.masks import kernels, masks_of
from secateur.saving import copy_model
from secateur.settings import TrainingSettings

logger = logging.getLogger(__name__)

DEVICE_BYTES = 2**30  # training rows up to this size stay on the device
BLOCK_BYTES = 2**26  # larger data comes in blocks of this size
_MOST_SHARED = 256  # values of a clustered kernel that training keeps shared
_SECONDS_BETWEEN_LINES = 2.0
_CONVOLUTIONS = (
    keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D,
    keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D, keras.layers.SeparableConv2D,
)  # fmt: skip


@dataclass(frozen=True)
class History:
    """What training did.

    Attributes:
        table: one row an epoch: epoch, learning_rate, loss, validation_loss. Epoch 0 is the model
            as it came; its loss on training rows is not measured (NaN).
        best_epoch: the epoch whose weights the model ended with.
    """

    table: pd.DataFrame
    best_epoch: int

    @property
    def validation_loss(self) -> float:
        """The validation loss of the best epoch."""
        return float(self.table["validation_loss"].iloc[self.best_epoch])


def recover(
    model: keras.Model,
    train: np.ndarray,
    validation: np.ndarray,
    teacher: keras.Model | None = None,
    *,
    seed: int = 0,
    distillation: float = 0.5,
    name: str = "recovery",
    **options: Any,
) -> tuple[keras.Model, History]:
    """A trained copy of an autoencoder, never worse on validation data than the model was.

    Adam on the mean squared error, a cosine schedule from the learning rate to zero (Loshchilov &
    Hutter 2017, without restarts), early stopping, and the weights of the best epoch, epoch 0 (the
    model as it came) included. Kernel entries that are zero in the model stay zero,
    and those of a kernel of few values move together.

    Args:
        model: the autoencoder to start from; it stays as it is.
        train: (rows, ...) float32 in the model's input shape; may be memory-mapped.
        validation: (rows, ...) float32.
        teacher: a model whose output the copy should match too (Hinton et al. 2015).
        seed: orders the rows.
        distillation: in [0, 1], the teacher's share of the loss where there is one.
        name: what progress is reported under.
        options: the fields of `secateur.settings.TrainingSettings`: `epochs`, `batch`,
            `learning_rate`, `patience`.

    Returns:
        The trained copy and its history.

    Raises:
        InputError: an option or a shape is not allowed, there are fewer rows than a batch, or
            training diverged.
    """
    try:
        settings = TrainingSettings(**options)
    except ValidationError as error:
        raise InputError(f"recover cannot be used so: {error}") from None
    if not 0 <= distillation <= 1:
        raise InputError(f"distillation must be in [0, 1], got {distillation}")
    _check_rows(model, train, "train", settings.batch)
    _check_rows(model, validation, "validation", 1)
    student = copy_model(model)
    share = distillation if teacher is not None else 0.0
    history = _Training(student, settings, len(train), teacher, share).run(
        train, validation, seed, name
    )
    return student, history


def _check_rows(model: keras.Model, rows: np.ndarray, role: str, least: int) -> None:
    if rows.shape[1:] != tuple(model.input_shape[1:]):
        raise InputError(
            f"{role} rows have the shape {rows.shape[1:]}, the model takes {model.input_shape[1:]}"
        )
    if len(rows) < least:
        raise InputError(
            f"{len(rows)} {role} rows are fewer than a batch of {least}; lower the batch"
        )


class _Training:
    """One model in training: its optimizer and its two compiled loops."""

    def __init__(
        self,
        model: keras.Model,
        settings: TrainingSettings,
        rows: int,
        teacher: keras.Model | None,
        teacher_share: float,
    ) -> None:
        self.model = model
        self.settings = settings
        self.steps = rows // settings.batch
        self.schedule = keras.optimizers.schedules.CosineDecay(
            settings.learning_rate, decay_steps=self.steps * settings.epochs
        )
        self.optimizer = keras.optimizers.Adam(self.schedule)
        self.optimizer.build(model.trainable_variables)
        self.train_block = _compiled_training(model, self.optimizer, teacher, teacher_share)
        self.sum_errors = _compiled_error_sum(model)

    def run(self, train: np.ndarray, validation: np.ndarray, seed: int, name: str) -> History:
        order = np.random.default_rng(seed)
        blocks = _Blocks(train, self.settings.batch)
        self._compile(blocks)
        on_device = tf.constant(validation)
        losses = [(0, math.nan, math.nan, self._validation_loss(on_device))]
        best_epoch, best_weights = 0, self.model.get_weights()
        progress = _Progress(name, self.settings.epochs)
        for epoch in range(1, self.settings.epochs + 1):
            learning_rate = float(self.schedule((epoch - 1) * self.steps))
            loss = self._epoch(blocks, order)
            validation_loss = self._validation_loss(on_device)
            if not math.isfinite(loss + validation_loss):
                raise InputError(
                    f"{name}: training diverged in epoch {epoch} (loss {loss}, validation "
                    f"{validation_loss}); the learning rate of {self.settings.learning_rate} is "
                    "too high for this model and data"
                )
            losses.append((epoch, learning_rate, loss, validation_loss))
            progress.report(epoch, loss, validation_loss)
            if validation_loss < losses[best_epoch][-1]:
                best_epoch, best_weights = epoch, self.model.get_weights()
            elif epoch - best_epoch >= self.settings.patience:
                break
        self.model.set_weights(best_weights)
        columns = ["epoch", "learning_rate", "loss", "validation_loss"]
        return History(pd.DataFrame(losses, columns=columns), best_epoch)

    def _compile(self, blocks: _Blocks) -> None:
        """Compile the loop by running no step of it, so that no epoch's time holds compilation."""
        rows, steps = next(iter(blocks.shuffled(np.random.default_rng(0))))
        self.train_block(rows, tf.constant(steps), tf.constant(0))

    def _epoch(self, blocks: _Blocks, order: np.random.Generator) -> float:
        losses = [
            (float(self.train_block(rows, tf.constant(steps), tf.constant(len(steps)))), len(steps))
            for rows, steps in blocks.shuffled(order)
        ]
        return sum(loss for loss, _ in losses) / sum(steps for _, steps in losses)

    def _validation_loss(self, rows: tf.Tensor) -> float:
        batch = min(1024, len(rows))
        whole = len(rows) // batch * batch
        total = float(self.sum_errors(rows, tf.reshape(tf.range(whole), (-1, batch))))
        if whole < len(rows):
            total += float(self.sum_errors(rows, tf.range(whole, len(rows))[None]))
        return total / len(rows)


class _Blocks:
    """Training rows on the device: all of them, or block by block where they are too many."""

    def __init__(self, rows: np.ndarray, batch: int) -> None:
        self.rows = rows
        self.batch = batch
        row_bytes = rows.nbytes // len(rows)
        self.fits = rows.nbytes <= DEVICE_BYTES
        self.block = max(batch, BLOCK_BYTES // row_bytes // batch * batch)
        self.resident = tf.constant(np.asarray(rows)) if self.fits else None

    def shuffled(self, order: np.random.Generator) -> Iterable[tuple[tf.Tensor, np.ndarray]]:
        """Rows, and which of them make each step, (steps, batch): every epoch in a new order.

        The rows left over from whole batches are others every epoch. Blocks are consecutive rows:
        prepared data is shuffled once already.
        """
        if self.resident is not None:
            yield self.resident, self._steps(len(self.rows), order)
            return
        starts = order.permutation(np.arange(0, len(self.rows) - self.batch + 1, self.block))
        blocks = tf.data.Dataset.from_generator(
            lambda: (self.rows[start : start + self.block] for start in starts),
            output_signature=tf.TensorSpec((None, *self.rows.shape[1:]), self.rows.dtype),
        ).prefetch(1)
        for block in blocks:
            yield block, self._steps(len(block), order)

    def _steps(self, rows: int, order: np.random.Generator) -> np.ndarray:
        steps = rows // self.batch
        return order.permutation(rows)[: steps * self.batch].reshape(steps, -1).astype(np.int32)


def _compiled_training(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    teacher: keras.Model | None,
    teacher_share: float,
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function that trains: of rows, the steps' row numbers and how many steps to take.

    It gives the sum of the steps' losses.
    """
    masked = [
        (kernels(model)[path], tf.constant(mask, tf.as_dtype(kernels(model)[path].dtype)))
        for path, mask in masks_of(model).items()
    ]
    shared = [
        (kernel, tf.constant(numbers.ravel(), tf.int32), int(numbers.max()) + 1)
        for kernel in kernels(model).values()
        if (numbers := _shared_values(np.asarray(kernel))) is not None
    ]

    convolves = _convolves(model) or (teacher is not None and _convolves(teacher))

    @tf.function(jit_compile=not convolves)
    def train_block(rows: tf.Tensor, steps: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        total = tf.zeros(())
        for step in tf.range(count):
            batch = tf.gather(rows, steps[step])
            with tf.GradientTape() as tape:
                output = model(batch, training=True)
                loss = tf.reduce_mean(tf.square(output - batch))
                if teacher is not None:
                    distance = tf.reduce_mean(tf.square(output - teacher(batch, training=False)))
                    loss = (1 - teacher_share) * loss + teacher_share * distance
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            for kernel, number_of, values in shared:
                means = tf.math.unsorted_segment_mean(tf.reshape(kernel, [-1]), number_of, values)
                kernel.assign(tf.reshape(tf.gather(means, number_of), kernel.shape))
            for kernel, mask in masked:
                kernel.assign(kernel * mask)
            total += loss
        return total

    return train_block


def _convolves(model: keras.Model) -> bool:
    """Whether there is a convolution in a model.

    The compiler is chosen by that and by nothing measured, so that equal runs give equal bytes.
    """
    return any(isinstance(layer, _CONVOLUTIONS) for layer in model._flatten_layers())


def _shared_values(kernel: np.ndarray) -> np.ndarray | None:
    """Which of its few values each entry of a kernel has; None if the kernel does not share any.

    A kernel shares values if it has at most 256, from two on, each eight times on average.
    """
    values, numbers = np.unique(kernel, return_inverse=True)
    nonzero = np.count_nonzero(values)
    if not 2 <= nonzero <= _MOST_SHARED or 8 * nonzero > np.count_nonzero(kernel):
        return None
    return numbers.reshape(kernel.shape)


def _compiled_error_sum(model: keras.Model) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    @tf.function(jit_compile=not _convolves(model))
    def sum_errors(rows: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
        total = tf.zeros((), tf.float32)
        for step in tf.range(tf.shape(steps)[0]):
            batch = tf.gather(rows, steps[step])
            squares = tf.square(model(batch, training=False) - batch)
            total += tf.reduce_mean(squares) * tf.cast(tf.shape(batch)[0], tf.float32)
        return total

    return sum_errors


class _Progress:
    """Says now and then how far training is; its clock reaches the log and nothing else."""

    def __init__(self, name: str, epochs: int) -> None:
        self.name, self.epochs = name, epochs
        self.start = time.monotonic()
        self.next_line = 0.0

    def report(self, epoch: int, loss: float, validation_loss: float) -> None:
        now = time.monotonic()
        if now < self.next_line and epoch < self.epochs:
            return
        self.next_line = now + _SECONDS_BETWEEN_LINES
        eta = (now - self.start) / epoch * (self.epochs - epoch)
        logger.info(
            "%s: epoch %d/%d, loss %.5g, validation %.5g, %d:%02d left",
            self.name, epoch, self.epochs, loss, validation_loss, *divmod(round(eta), 60),
            extra={
                "progress": {
                    "name": self.name,
                    "epoch": epoch,
                    "epochs": self.epochs,
                    "loss": loss,
                    "validation_loss": validation_loss,
                    "eta_seconds": eta,
                }
            },
        )  # fmt: skip
