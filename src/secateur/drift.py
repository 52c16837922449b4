"""Did data move? Two samples of rows, compared feature by feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from secateur.errors import InputError


@dataclass(frozen=True)
class Shift:
    """How far one distribution lies from another.

    Attributes:
        name: of what was compared.
        effect: the Kolmogorov-Smirnov distance, the largest gap between the two distribution
            functions, in [0, 1].
        p_value: how often two samples of one distribution lie so far apart, adjusted for the
            number of comparisons.
        moved: whether the distance is both significant and large enough to matter.
    """

    name: str
    effect: float
    p_value: float
    moved: bool


def shifts(
    reference: np.ndarray,
    current: np.ndarray,
    names: Sequence[str],
    significance: float = 0.01,
    effect: float = 0.1,
) -> list[Shift]:
    """What moved between two samples, feature by feature, the farthest first.

    Each feature is compared by the two-sample Kolmogorov-Smirnov test; the p-values are adjusted
    so that among the features called moved at most a share `significance` is expected not to be
    (Benjamini & Hochberg 1995). With many rows a difference that matters to nobody is significant,
    so that it must be large as well.

    Args:
        reference: (rows, features), what new rows are held against.
        current: (other rows, features), in the same units.
        names: of the features.
        significance: in (0, 1).
        effect: the least distance that counts, in [0, 1].

    Raises:
        InputError: the samples have no rows or differ in features.
    """
    if min(len(reference), len(current)) == 0 or reference.shape[1:] != current.shape[1:]:
        raise InputError(
            f"two samples of the same features are compared, of at least one row each; got the "
            f"shapes {reference.shape} and {current.shape}"
        )
    tests = [
        stats.ks_2samp(reference[:, feature], current[:, feature], method="asymp")
        for feature in range(reference.shape[1])
    ]
    adjusted = stats.false_discovery_control([test.pvalue for test in tests])
    found = [
        Shift(
            name,
            float(test.statistic),
            float(p_value),
            bool(p_value <= significance and test.statistic >= effect),
        )
        for name, test, p_value in zip(names, tests, adjusted, strict=True)
    ]
    return sorted(found, key=lambda shift: -shift.effect)
