"""One training from start to end: epochs, attempts, and a state that can be written down."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from secateur.errors import InputError
from secateur.metrics import roc_auc
from secateur.settings import TrainingSettings
from secateur.training.checkpoint import Checkpoint
from secateur.training.history import History, Setback
from secateur.training.loop import Patterns, Tally, compiled_errors, compiled_training
from secateur.training.progress import Progress
from secateur.training.replicas import Replicas
from secateur.training.rows import Blocks
from secateur.training.schedules import from_step, schedule_of
from secateur.training.stability import LOWER, Epoch, Trouble, Watch
from secateur.training.teaching import Lesson

logger = logging.getLogger("secateur.recovery")

_COLUMNS = (
    "epoch", "attempt", "learning_rate", "loss", "validation_loss", "validation_auc",
    "gradient_norm", "largest_gradient_norm",
)  # fmt: skip
_LOSS, _AUC = (_COLUMNS.index(f"validation_{name}") for name in ("loss", "auc"))
_SECONDS_A_CALL = 2.0  # steps run in calls of about this length, between which Python looks


class Trainer:
    """Trains a model in place, and leaves it with the weights of its best epoch."""

    def __init__(
        self,
        model: keras.Model,
        settings: TrainingSettings,
        train: np.ndarray,
        validation: np.ndarray,
        seed: int = 0,
        name: str = "training",
        lesson: Lesson | None = None,
        checkpoint: Checkpoint | None = None,
        replicas: Replicas | None = None,
        anomalies: np.ndarray | None = None,
    ) -> None:
        """Prepare; see `secateur.recover`."""
        self.model = model
        self.settings = settings
        self.name = name
        self._lesson = lesson
        self._checkpoint = checkpoint
        self._replicas = replicas
        self._blocks = Blocks(train, settings.batch)
        self._validation = tf.constant(validation)
        has_anomalies = anomalies is not None and len(anomalies) > 0
        self._anomalies = tf.constant(anomalies, validation.dtype) if has_anomalies else None
        self._order = np.random.default_rng(seed)
        self._patterns = Patterns(model)
        self._compiled_errors = compiled_errors(model)
        self._watch = Watch(model, validation, self._error_at_start)
        self._steps_an_epoch = self._blocks.steps_an_epoch
        whole = self._steps_an_epoch * settings.epochs
        self._steps = min(whole, settings.steps or whole)
        self._schedule = schedule_of(settings, self._steps_an_epoch, max(1, self._steps))
        self._progress: Progress | None = None
        self._steps_a_call = 1

        self._start_weights = self._best_weights = model.get_weights()
        self._best_epoch = 0
        self._table: list[tuple[float, ...]] = []
        self._setbacks: list[Setback] = []
        self._epoch = 1
        self._pending: list[int] = []  # first rows of the blocks that this epoch has still to see
        self._order_before: Any = self._order.bit_generator.state  # before the block's steps
        self._nothing = Tally.of_nothing()
        self._blocks_done = self._tally = self._nothing  # of this epoch; of this block
        self._begin_attempt(1)

    def run(self) -> History:
        """Train until a budget or patience ends, or all attempts went badly."""
        if not self._resume():
            start_loss, start_auc = self._validation_scores()
            if not math.isfinite(start_loss):
                raise InputError(
                    f"{self.name}: the model's error on the validation rows is {start_loss} before "
                    "any training; its weights or the rows hold values that are not finite or too "
                    "large for float32"
                )
            unknown = math.nan
            self._table.append((0, 1, unknown, unknown, start_loss, start_auc, unknown, unknown))
        gave_up = False
        while not self._is_over():
            epoch = self.run_epoch()
            trouble = self._watch.trouble(epoch, start_loss=self._table[0][_LOSS])
            if trouble is None or not self._goes_badly(trouble):
                self._keep(epoch)
            elif self._attempt < self.settings.attempts:
                self._try_again()
            else:
                gave_up = True
                break
        self.model.set_weights(self._best_weights)
        if gave_up:
            logger.warning(
                "%s: gave up after %d attempts, with the model of epoch %d",
                self.name, self._attempt, self._best_epoch,
            )  # fmt: skip
        table = pd.DataFrame(self._table, columns=list(_COLUMNS))
        table = table.astype({"epoch": int, "attempt": int})
        return History(table, self._best_epoch, tuple(self._setbacks), gave_up)

    # Attempts

    def _begin_attempt(self, number: int, first_epoch: int = 1) -> None:
        """A fresh optimizer, whose learning rate is lower than in the attempt before."""
        self._attempt, self._first_epoch = number, first_epoch
        before = (first_epoch - 1) * self._steps_an_epoch
        self._rate = from_step(self._schedule, before, LOWER ** (number - 1))
        self._optimizer = keras.optimizers.Adam(self._rate, global_clipnorm=self.settings.clip)
        self._optimizer.build(self.model.trainable_variables)
        self._train = compiled_training(
            self.model, self._optimizer, self._patterns, self._lesson, replicas=self._replicas
        )
        self._progress = None

    def _goes_badly(self, trouble: Trouble) -> bool:
        """Note a trouble; say whether it ends the attempt: the last one bears with dead units."""
        ends = trouble.is_fatal or self._attempt < self.settings.attempts
        if ends or all(one.attempt < self._attempt for one in self._setbacks):
            rate = self._learning_rate()
            self._setbacks.append(Setback(self._attempt, self._epoch, rate, trouble.reason))
            logger.warning(
                "%s: attempt %d, epoch %d, learning rate %.3g: %s",
                self.name, self._attempt, self._epoch, rate, trouble.reason,
            )  # fmt: skip
        return ends

    def _try_again(self) -> None:
        self.model.set_weights(self._best_weights)
        self._patterns.adopt()
        self._begin_attempt(self._attempt + 1, self._epoch)
        self.end_epoch()

    # Epochs

    def _is_over(self) -> bool:
        is_patient = self._epoch - 1 - self._best_epoch < self.settings.patience
        return self._steps_before() >= self._steps or not is_patient

    def _steps_before(self) -> int:
        return (self._epoch - 1) * self._steps_an_epoch

    def _learning_rate(self) -> float:
        """With which the epoch at hand begins."""
        step = (self._epoch - self._first_epoch) * self._steps_an_epoch
        return float(self._rate(step))

    def run_epoch(self) -> Epoch:
        """Train for what is left of the epoch at hand, and score it."""
        if not self._pending:
            self._pending = self._blocks.starts(self._order)
        for rows in self._blocks.feed(list(self._pending)):
            self._run_block(rows)
            if not self._blocks_done.is_finite or self._steps_left() == 0:
                break
            self._pending.pop(0)
        done = self._blocks_done
        steps = int(done.taken)
        return Epoch(
            float(done.loss) / steps,
            float(done.error) / steps,
            float(done.norm) / steps,
            float(done.largest_norm),
            bool(done.is_finite),
            *self._validation_scores(),
        )

    def _steps_left(self) -> int:
        return self._steps - self._steps_before() - int(self._blocks_done.taken)

    def _run_block(self, rows: tf.Tensor) -> None:
        self._order_before = self._order.bit_generator.state
        steps = self._blocks.steps(len(rows), self._order)[: self._steps_left()]
        on_device = tf.constant(steps)
        if self._progress is None:
            # Taking no step compiles, so that no epoch's time holds compilation.
            self._train(rows, on_device, tf.constant(0), self._tally)
            taken = self._steps_before() + int(self._blocks_done.taken + self._tally.taken)
            epochs = -(-self._steps // self._steps_an_epoch)
            self._progress = Progress(self.name, epochs, self._steps, taken)
        while self._tally.is_finite and self._tally.taken < len(steps):
            self._run_steps(rows, on_device)
            if self._tally.taken < len(steps):
                self._report_within_epoch()
                self._write_if_due()
        self._blocks_done, self._tally = _joined(self._blocks_done, self._tally), self._nothing

    def _run_steps(self, rows: tf.Tensor, steps: tf.Tensor) -> None:
        """Take as many steps as a call should."""
        start = time.monotonic()
        before = int(self._tally.taken)
        stop = min(len(steps), before + self._steps_a_call)
        self._tally = self._train(rows, steps, tf.constant(stop), self._tally).fetched()
        # How many steps a call takes depends on the clock; what they come to does not.
        pace = self._agreed((stop - before) / max(time.monotonic() - start, 1e-6))
        self._steps_a_call = max(1, int(pace * _SECONDS_A_CALL))

    def _keep(self, epoch: Epoch) -> None:
        self._table.append(
            (
                self._epoch, self._attempt, self._learning_rate(), epoch.loss,
                epoch.validation_loss, epoch.validation_auc, epoch.norm, epoch.largest_norm,
            )
        )  # fmt: skip
        if self._is_better(epoch):
            self._best_epoch, self._best_weights = self._epoch, self.model.get_weights()
        if self._progress is not None:
            taken = min(self._steps, self._epoch * self._steps_an_epoch)
            self._progress.report(self._epoch, taken, epoch.loss, epoch.validation_loss)
        self._epoch += 1
        self.end_epoch()
        self._write_if_due()

    def _is_better(self, epoch: Epoch) -> bool:
        """Than the best one so far."""
        best = self._table[self._best_epoch]
        if self.settings.monitor == "loss":
            return epoch.validation_loss < best[_LOSS]
        # Few anomalies leave many epochs of one AUC: the highest one there is, on easy data.
        return (epoch.validation_auc, -epoch.validation_loss) > (best[_AUC], -best[_LOSS])

    def end_epoch(self) -> None:
        """Begin anew with all blocks."""
        self._pending, self._blocks_done = [], self._nothing
        self._order_before = self._order.bit_generator.state

    def _agreed(self, number: float) -> float:
        """What all hosts go by: their clocks differ, and the last bits of what they compute may."""
        return number if self._replicas is None else self._replicas.agreed(number)

    def _report_within_epoch(self) -> None:
        done = _joined(self._blocks_done, self._tally)
        if self._progress is not None:
            taken = self._steps_before() + int(done.taken)
            loss = float(done.loss) / int(done.taken)
            self._progress.report(self._epoch - 1, taken, loss, self._table[-1][_LOSS])

    # Scores

    def _validation_scores(self) -> tuple[float, float]:
        """The loss, and the AUC where there are anomalies."""
        errors, auc = self._errors(self._validation), math.nan
        if self._anomalies is not None:
            # An error that no float32 holds is larger than all others.
            largest = float(np.finfo(np.float32).max)
            auc = roc_auc(
                *(
                    np.nan_to_num(some, nan=largest, posinf=largest)
                    for some in (errors, self._errors(self._anomalies))
                )
            )
        return self._agreed(float(errors.mean())), self._agreed(auc)

    def _errors(self, rows: tf.Tensor) -> np.ndarray:
        """The mean squared error of each row, (rows,) float64."""
        batch = min(1024, len(rows))
        whole = len(rows) // batch * batch
        found = [self._compiled_errors(rows, tf.reshape(tf.range(whole), (-1, batch)))]
        if whole < len(rows):
            found.append(self._compiled_errors(rows, tf.range(whole, len(rows))[None]))
        return np.concatenate([np.ravel(some) for some in found]).astype(np.float64)

    def _error_at_start(self) -> float:
        """On the training rows, of the model as it came."""
        weights = self.model.get_weights()
        self.model.set_weights(self._start_weights)
        starts = self._blocks.starts(np.random.default_rng(0))
        errors = [self._errors(rows) for rows in self._blocks.feed(starts)]
        self.model.set_weights(weights)
        return float(np.concatenate(errors).mean())

    # What a checkpoint holds

    def _write_if_due(self) -> None:
        if self._checkpoint is not None and self._checkpoint.is_due():
            self._checkpoint.write(
                {
                    "epoch": self._epoch,
                    "attempt": self._attempt,
                    "first_epoch": self._first_epoch,
                    "best_epoch": self._best_epoch,
                    "pending": self._pending,
                    "order": self._order_before,
                    "table": self._table,
                    "setbacks": [asdict(setback) for setback in self._setbacks],
                },
                {
                    "model": [np.asarray(one) for one in self.model.variables],
                    "optimizer": [np.asarray(one) for one in self._optimizer.variables],
                    "patterns": [np.asarray(one) for one in self._patterns.variables],
                    "best": self._best_weights,
                    "blocks_done": list(self._blocks_done),
                    "tally": list(self._tally),
                },
            )

    def _resume(self) -> bool:
        """Go on where another process stopped, if there is a checkpoint of this training."""
        found = self._checkpoint.read() if self._checkpoint is not None else None
        if found is None:
            return False
        facts, arrays = found
        self._epoch, self._best_epoch = facts["epoch"], facts["best_epoch"]
        self._pending = facts["pending"]
        self._order.bit_generator.state = facts["order"]
        self._table = [tuple(row) for row in facts["table"]]
        self._setbacks = [Setback(**setback) for setback in facts["setbacks"]]
        self._begin_attempt(facts["attempt"], facts["first_epoch"])
        for variable, value in zip(self.model.variables, arrays["model"], strict=True):
            variable.assign(value)
        for variable, value in zip(self._optimizer.variables, arrays["optimizer"], strict=True):
            variable.assign(value)
        for variable, value in zip(self._patterns.variables, arrays["patterns"], strict=True):
            variable.assign(value)
        self._best_weights = arrays["best"]
        self._blocks_done, self._tally = Tally(*arrays["blocks_done"]), Tally(*arrays["tally"])
        logger.info("%s: goes on in epoch %d, where it was interrupted", self.name, self._epoch)
        return True


def _joined(done: Tally, more: Tally) -> Tally:
    """Both together; sums in float64, as an epoch may have many blocks."""
    return Tally(
        done.taken + more.taken,
        np.float64(done.loss) + np.float64(more.loss),
        np.float64(done.error) + np.float64(more.error),
        np.float64(done.norm) + np.float64(more.norm),
        np.maximum(done.largest_norm, more.largest_norm),
        np.logical_and(done.is_finite, more.is_finite),
    )
