"""How far a reconstruction lies from the original."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

_ROWS_AT_ONCE = 4096
# The false alarms that detection can live with (as DCASE's challenge scores machine sounds).
FALSE_POSITIVE_RATE = 0.1


def batches(rows: np.ndarray, size: int = _ROWS_AT_ONCE) -> Iterator[np.ndarray]:
    """The rows in order, `size` at a time; the last batch may be smaller."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def reconstruct(model: keras.Model, rows: np.ndarray) -> np.ndarray:
    """What the model makes of the rows, in its own output shape, batch by batch."""
    import keras

    return np.concatenate(
        [keras.ops.convert_to_numpy(model(batch, training=False)) for batch in batches(rows)]
    )


def row_errors(model: keras.Model, rows: np.ndarray) -> np.ndarray:
    """The mean squared error of each row.

    Args:
        model: an autoencoder: its output has the shape of its input.
        rows: (rows, ...) in the model's input shape.

    Returns:
        (rows,) float64.
    """
    import keras

    return np.concatenate(
        [
            squared_errors(batch, keras.ops.convert_to_numpy(model(batch, training=False)))
            for batch in batches(rows)
        ]
    )


def squared_errors(originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """The mean squared error of each row, (rows,) float64, of two arrays of one shape."""
    difference = np.asarray(reconstructions, np.float64) - np.asarray(originals, np.float64)
    return (difference.reshape(len(difference), -1) ** 2).mean(axis=1)


def mean_squared_error(model: keras.Model, rows: np.ndarray) -> float:
    """The mean of the rows' mean squared errors."""
    return float(row_errors(model, rows).mean())


def psnr_db(mse: float, data_range: float) -> float | None:
    """Peak signal-to-noise ratio in decibels; None for a perfect reconstruction."""
    return 10 * math.log10(data_range**2 / mse) if mse > 0 else None


def roc_auc(errors: np.ndarray, anomaly_errors: np.ndarray, max_fpr: float | None = None) -> float:
    """The area under the ROC curve of the rows' errors against those of anomalies.

    Args:
        errors: (rows,) of normal rows, at least one.
        anomaly_errors: (anomalies,) at least one.
        max_fpr: false positive rate that the area ends at, in (0, 1); the area is then standardised
            so that 0.5 is guessing and 1 is perfect (McClish 1989, "Analyzing a portion of the ROC
            curve"). None is the whole.
    """
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([0, 1], [len(errors), len(anomaly_errors)])
    return float(roc_auc_score(labels, np.concatenate([errors, anomaly_errors]), max_fpr=max_fpr))


def roc_parts(
    errors: np.ndarray, anomaly_errors: np.ndarray, max_fpr: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What each row adds to `roc_auc`, to first order, around a mean of zero.

    The area varies from sample to sample as the mean of the rows' parts plus that of the anomalies'
    does (DeLong, DeLong & Clarke-Pearson 1988; of a part of the area, Dodd & Pepe 2003).

    Args:
        errors: (rows,) of normal rows.
        anomaly_errors: (anomalies,).
        max_fpr: as in `roc_auc`.

    Returns:
        (rows,) and (anomalies,) float64.
    """
    from scipy.stats import rankdata

    rows, anomalies = len(errors), len(anomaly_errors)
    ranks = rankdata(np.concatenate([errors, anomaly_errors]))
    # Shares of the other kind that lie above, ties by half.
    normals_above = 1 - (ranks[rows:] - rankdata(anomaly_errors)) / rows
    anomalies_above = 1 - (ranks[:rows] - rankdata(errors)) / anomalies
    if max_fpr is None:
        of_rows, of_anomalies, scale = anomalies_above, 1 - normals_above, 1.0
    else:
        limit = np.quantile(errors, 1 - max_fpr)
        at_limit = np.mean(anomaly_errors > limit)
        of_rows = np.where(errors >= limit, anomalies_above - at_limit, 0.0)
        of_anomalies = np.maximum(max_fpr - normals_above, 0)
        scale = 0.5 / (max_fpr - max_fpr**2 / 2)
    return scale * (of_rows - of_rows.mean()), scale * (of_anomalies - of_anomalies.mean())


def spearman_parts(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What each row adds to Spearman's rank correlation, to first order, around a mean of zero.

    A row counts by its own ranks, and by moving the ranks of all rows beyond it (Croux & Dehon
    2010, "Influence functions of the Spearman and Kendall correlation measures").

    Args:
        one: (rows,).
        other: (rows,).

    Returns:
        (rows,) float64.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(values) / len(values) - 0.5 for values in (one, other)]
    parts = 12 * ranks[0] * ranks[1]
    for values, partner in (one, ranks[1]), (other, ranks[0]):
        order = np.argsort(values)[::-1]
        parts[order] += 12 * np.cumsum(partner[order]) / len(values)
    return parts - parts.mean()
