"""Which learning rate each step has."""

from __future__ import annotations

from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule as Schedule

from secateur.settings import TrainingSettings


def schedule_of(settings: TrainingSettings, steps_an_epoch: int, steps: int) -> Schedule:
    """The learning rate by step.

    Args:
        settings: see `TrainingSettings.schedule`.
        steps_an_epoch: of the training at hand, and of the one that `rewind` goes back to.
        steps: of the whole training.
    """
    rate = settings.learning_rate
    if settings.schedule == "fine_tune":
        return _Constant(rate)
    if settings.schedule == "restarts":
        # Each cycle is twice as long as the one before it, and no new one begins before the end.
        first = -(-steps // (2**settings.cycles - 1))
        return keras.optimizers.schedules.CosineDecayRestarts(rate, first, t_mul=2.0)
    if settings.schedule == "rewind":
        original = max(steps, (settings.original_epochs or 0) * steps_an_epoch)
        whole = keras.optimizers.schedules.CosineDecay(rate, decay_steps=original)
        return from_step(whole, original - steps)
    return keras.optimizers.schedules.CosineDecay(rate, decay_steps=steps)


def from_step(schedule: Schedule, step: int, factor: float = 1.0) -> Schedule:
    """What a schedule gives from a step on, times a factor."""
    return schedule if step == 0 and factor == 1.0 else _Later(schedule, step, factor)


class _Constant(Schedule):
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, step: Any) -> Any:
        return keras.ops.convert_to_tensor(self.rate, "float32")


class _Later(Schedule):
    def __init__(self, schedule: Schedule, start: int, factor: float) -> None:
        self.schedule, self.start, self.factor = schedule, start, factor

    def __call__(self, step: Any) -> Any:
        return self.factor * self.schedule(step + self.start)
