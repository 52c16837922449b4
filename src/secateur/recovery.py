"""Training: of a baseline from nothing, and of a cut model back to quality.

An epoch is one compiled loop over rows that lie on the device, so that Python is left every few
seconds instead of once a batch. Data too large for that is fed in blocks through `tf.data`, and the
same compiled loop runs over each block. The parts are in `secateur.training`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from pydantic import ValidationError

from secateur.errors import InputError
from secateur.saving import architecture, copy_model
from secateur.settings import TeachingSettings, TrainingSettings
from secateur.training.checkpoint import Checkpoint, digest
from secateur.training.history import History
from secateur.training.replicas import replicas_of
from secateur.training.teaching import Lesson
from secateur.training.trainer import Trainer

__all__ = ["History", "check_schedule", "recover"]


def recover(
    model: keras.Model,
    train: np.ndarray,
    validation: np.ndarray,
    teacher: keras.Model | None = None,
    *,
    anomalies: np.ndarray | None = None,
    seed: int = 0,
    name: str = "recovery",
    checkpoint: str | os.PathLike[str] | None = None,
    **options: Any,
) -> tuple[keras.Model, History]:
    """A trained copy of an autoencoder, never worse on validation data than the model was.

    Adam on the mean squared error, early stopping, and the weights of the best epoch by what
    `monitor` names, epoch 0 (the model as it came) included. Kernel entries that are zero in the
    model stay zero, and those of a kernel of few values move together.

    An epoch that goes badly (losses or gradients that are not finite, an error several times that
    of the model as it came, a hidden layer most of whose units died) is undone: the best weights so
    far return, and the rest is tried again at a tenth of the learning rate, a few times at most.

    Args:
        model: the autoencoder to start from; it stays as it is.
        train: (rows, ...) float32 in the model's input shape; may be memory-mapped.
        validation: (rows, ...) float32.
        teacher: a model that the copy should match too (Hinton et al. 2015).
        anomalies: (anomalies, ...) float32, never trained on; with them, the history has the AUC of
            the validation rows' errors against theirs, which `monitor="auc"` chooses the best epoch
            by.
        seed: orders the rows, and draws what Dropout and its like drop.
        name: what progress is reported under.
        checkpoint: a file that where training stands is written to every few seconds. If it holds
            where the very same training was interrupted, that one is continued, and ends with the
            same bytes as if it had not been; anything else in it is overwritten. It stays after
            training. Training on several hosts keeps none.
        options: the fields of `secateur.settings.TrainingSettings` (`epochs`, `batch`,
            `learning_rate`, `schedule`, `monitor` …) and, for a teacher, of `TeachingSettings`.

    Returns:
        The trained copy and its history. If all attempts went badly from the first epoch on, the
        copy is the model as it came, and `History.gave_up` is true.

    Raises:
        InputError: an option or a shape is not allowed, there are fewer rows than a batch or too
            few anomalies to monitor, the devices or hosts that are to share the batches are not
            there, or the model's error is not finite to begin with.
    """
    teaching = {key: options.pop(key) for key in TeachingSettings.model_fields if key in options}
    try:
        settings, taught = TrainingSettings(**options), TeachingSettings(**teaching)
    except ValidationError as error:
        raise InputError(f"recover cannot be used so: {error}") from None
    check_schedule(settings)
    settings.check_anomalies(0 if anomalies is None else len(anomalies))
    replicas = replicas_of(settings.devices, settings.hosts)
    _check_rows(model, train, "train", settings.batch)
    _check_rows(model, validation, "validation", 1)
    if anomalies is not None:
        _check_rows(model, anomalies, "anomaly", 0)
    student = copy_model(model)
    _seed_layers(student, seed)
    lesson = None
    if teacher is not None:
        lesson = Lesson(student, teacher, taught.distillation, taught.match, train)

    def key() -> str:
        models = [model] if teacher is None else [model, teacher]
        facts = [seed, settings.model_dump(), taught.model_dump(), *map(architecture, models)]
        weights = [np.asarray(one) for known in models for one in known.weights]
        rows = [train, validation] if anomalies is None else [train, validation, anomalies]
        return digest(facts, [*weights, *rows])

    # Hosts would go on from where each of them last wrote, which need not be the same step.
    kept = Checkpoint(Path(checkpoint), key) if checkpoint and settings.hosts == 1 else None
    trainer = Trainer(
        student, settings, train, validation, seed, name, lesson, kept, replicas, anomalies
    )
    return student, trainer.run()


def check_schedule(settings: TrainingSettings) -> None:
    """Refuse to rewind to nothing.

    Raises:
        InputError: the schedule is `rewind`, and nobody said of what.
    """
    if settings.schedule == "rewind" and settings.original_epochs is None:
        raise InputError(
            "the schedule rewind needs original_epochs: how many epochs the training had whose end "
            "it repeats"
        )


def _check_rows(model: keras.Model, rows: np.ndarray, role: str, least: int) -> None:
    if rows.shape[1:] != tuple(model.input_shape[1:]):
        raise InputError(
            f"{role} rows have the shape {rows.shape[1:]}, the model takes {model.input_shape[1:]}"
        )
    if len(rows) < least:
        raise InputError(
            f"{len(rows)} {role} rows are fewer than a batch of {least}; lower the batch"
        )


def _seed_layers(model: keras.Model, seed: int) -> None:
    """Let what a copy's layers draw depend on the seed alone: a copy draws a seed of its own."""
    weights = {id(variable) for variable in model.weights}
    states = [one for one in model.variables if id(one) not in weights]
    for place, state in enumerate(one for one in states if one.name == "seed_generator_state"):
        state.assign(np.array([seed, place], state.dtype))
