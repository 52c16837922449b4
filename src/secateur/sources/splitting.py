"""Dealing rows into train, validation and test; anomalies never enter training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.errors import InputError
from secateur.sources.source import Selection, Source


@dataclass(frozen=True, eq=False)
class Splits:
    """Normal rows in three parts, anomalies in two (None where the source has no labels)."""

    train: Selection
    validation: Selection
    test: Selection
    validation_anomalies: Selection | None = None
    test_anomalies: Selection | None = None


def split(source: Source, validation: float, test: float, seed: int) -> Splits:
    """A source's rows, dealt by seed.

    Args:
        source: where the rows are.
        validation: share of the normal rows, in (0, 1).
        test: share of the normal rows, in (0, 1). A source with test rows of its own keeps them
            as they are, and the share is not used.
        seed: equal seeds deal equally.

    Raises:
        InputError: a part would be empty.
    """
    anomalous = np.zeros(len(source.rows), bool) if source.labels is None else source.labels
    normal = np.flatnonzero(~anomalous)
    validation_count = round(validation * len(normal))
    if source.test_rows is None:
        test_count = round(test * len(normal))
        train, test_indices = _deal(normal, test_count, seed)
        test_part = Selection(source.rows, test_indices)
    else:
        train, test_part = normal, Selection(source.test_rows, np.arange(len(source.test_rows)))
    train, validation_indices = _deal(train, validation_count, seed)
    splits = Splits(
        Selection(source.rows, train),
        Selection(source.rows, validation_indices),
        test_part,
        *_deal_anomalies(source, validation / (validation + test), seed),
    )
    counts = (len(splits.train), len(splits.validation), len(splits.test))
    if min(counts) == 0:
        raise InputError(
            f"{len(normal)} normal rows in {source.origin} are too few: they split into "
            f"{counts[0]} to train on, {counts[1]} to validate and {counts[2]} to test; "
            "allowed: at least one each"
        )
    return splits


def _deal_anomalies(
    source: Source, validation_share: float, seed: int
) -> tuple[Selection | None, Selection | None]:
    if source.labels is None:
        return None, None
    anomalies = np.flatnonzero(source.labels)
    test, validation = _deal(anomalies, round(validation_share * len(anomalies)), seed)
    return Selection(source.rows, validation), Selection(source.rows, test)


def _deal(indices: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices without `count` of them, and those."""
    from sklearn.model_selection import train_test_split

    if count == 0:  # scikit-learn leaves no part empty
        return indices, indices[:0]
    if count >= len(indices):
        return indices[:0], indices
    rest, dealt = train_test_split(indices, test_size=count, random_state=seed)
    return rest, dealt
