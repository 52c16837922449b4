"""Scores that say which units matter least, beside the closed form's own cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from secateur.graph import Group


def leaving_order(group: Group, importance: str, seed: int = 0) -> np.ndarray:
    """(units,): the group's units, the least important first.

    Args:
        group: the dependency group.
        importance: a name in `SCORES`, or `random`.
        seed: of `random`.
    """
    if importance == "random":
        return np.random.default_rng(seed).permutation(group.units)
    return np.argsort(SCORES[importance](group), kind="stable")


def magnitude(group: Group) -> np.ndarray:
    """(units,): the L2 norm of each unit's incoming weights (Li et al. 2017)."""
    squares = np.zeros(group.units)
    for part in group.producers:
        weights = np.moveaxis(np.asarray(part.variable, np.float64), part.axis, 0)
        squares += (weights[part.positions].reshape(group.units, -1) ** 2).sum(axis=1)
    return np.sqrt(squares)


SCORES: dict[str, Callable[[Group], np.ndarray]] = {
    "magnitude": magnitude,
}
