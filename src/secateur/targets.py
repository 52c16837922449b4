"""A ladder's aim in numbers: what a round that starts from a given model is asked for."""

from __future__ import annotations

import math

import keras
import numpy as np

from secateur.budgets import COSTS
from secateur.planner import Aim, Course


def limit_of(aim: Aim, baseline: keras.Model, sample: np.ndarray) -> float | None:
    """The absolute amount that the cost may come to."""
    if aim.limit is None or aim.limit >= 1:
        return aim.limit
    limit = aim.limit * COSTS[aim.cost].measure(baseline, sample)
    return math.floor(limit) if COSTS[aim.cost].is_whole else limit


def target_of(
    aim: Aim, course: Course, limit: float | None, model: keras.Model, sample: np.ndarray
) -> dict[str, int | float] | None:
    """What a round that starts from a model is asked for; None if the model is within the limit."""
    if limit is None:
        return {aim.cost: course.step}
    cost = COSTS[aim.cost]
    now = cost.measure(model, sample)
    if now <= limit:
        return None
    wanted = max(limit, course.step * now)
    return {aim.cost: math.floor(wanted) if cost.is_whole else float(wanted)}
