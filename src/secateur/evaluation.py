"""Scores on rows that no model has seen: of models, of their exported files, of a control."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA

from secateur.metrics import FALSE_POSITIVE_RATE, batches, psnr_db, roc_auc, squared_errors

Reconstruct = Callable[[np.ndarray], np.ndarray]
"""From a batch of rows to what an autoencoder makes of them, both (rows, features) float32."""

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Score:
    """How well an autoencoder does.

    Attributes:
        test_mse: mean squared error, in scaled units.
        psnr_db: peak signal-to-noise ratio; None where the error or the data's range is zero.
        p99_error: the 99th percentile of the rows' mean squared errors.
        auc: area under the ROC curve of the rows' errors against those of anomalies, in [0, 1];
            None without anomalies.
        partial_auc: the same up to a false positive rate of 0.1, standardised so that 0.5 is
            guessing and 1 is perfect (McClish 1989, "Analyzing a portion of the ROC curve").
    """

    test_mse: float
    psnr_db: float | None
    p99_error: float
    auc: float | None
    partial_auc: float | None


@dataclass(frozen=True)
class FileScore:
    """How well an exported file does: its error, and how far it strays from its model."""

    test_mse: float
    largest_deviation: float


def measure_errors(
    reconstruct: Reconstruct, rows: np.ndarray, files: Mapping[str, Reconstruct] | None = None
) -> tuple[np.ndarray, dict[str, FileScore]]:
    """Each row's mean squared error, and beside it how the model's exported files do.

    The rows are gone through once, in batches, so they may be mapped from a file that is larger
    than memory.

    Args:
        reconstruct: the model.
        rows: (rows, features) float32, at least one.
        files: the exported files by name.

    Returns:
        (rows,) float64, and the files' scores by name.
    """
    files = files or {}
    errors = []
    file_errors: dict[str, list[np.ndarray]] = {name: [] for name in files}
    deviations = dict.fromkeys(files, 0.0)
    for batch in batches(rows, _ROWS_AT_ONCE):
        expected = reconstruct(batch)
        errors.append(squared_errors(batch, expected))
        for name, run in files.items():
            outputs = run(batch)
            file_errors[name].append(squared_errors(batch, outputs))
            deviations[name] = max(deviations[name], float(np.abs(outputs - expected).max()))
    return np.concatenate(errors), {
        name: FileScore(float(np.concatenate(parts).mean()), deviations[name])
        for name, parts in file_errors.items()
    }


def score(errors: np.ndarray, anomaly_errors: np.ndarray | None, data_range: float) -> Score:
    """Summarise the rows' errors.

    Args:
        errors: (rows,) mean squared error of each normal row.
        anomaly_errors: (anomalies,) the same of anomalies, if there are any.
        data_range: largest minus smallest value of the scaled training data.
    """
    mse = float(errors.mean())
    return Score(
        test_mse=mse,
        psnr_db=psnr_db(mse, data_range) if data_range > 0 else None,
        p99_error=float(np.quantile(errors, 0.99)),
        auc=_auc(errors, anomaly_errors),
        partial_auc=_auc(errors, anomaly_errors, FALSE_POSITIVE_RATE),
    )


def _auc(
    errors: np.ndarray, anomaly_errors: np.ndarray | None, max_fpr: float | None = None
) -> float | None:
    if anomaly_errors is None or len(anomaly_errors) == 0:
        return None
    return roc_auc(errors, anomaly_errors, max_fpr)


class PCAControl:
    """The best linear autoencoder of a code size: what a network must beat to earn its keep.

    Call it with a batch of rows. It stores the mean and the components once and multiplies with the
    components twice, there and back: that is what its costs count.

    Attributes:
        code: numbers in the code.
        parameters: numbers stored: features · (code + 1).
        nonzeros: those of them that are not zero.
        macs: multiply-accumulates of one row: 2 · features · code.
        size_bytes: the stored numbers in float32.
        gzip_bytes: the same, gzipped.
    """

    def __init__(self, rows: np.ndarray, code: int, seed: int = 0) -> None:
        """Fit on training rows.

        Args:
            rows: (rows, features) float32.
            code: numbers in the code; more than rows or features are not used.
            seed: of the randomised solver, which scikit-learn takes for wide data.
        """
        self.code = min(code, *rows.shape)
        fitted = PCA(n_components=self.code, random_state=seed).fit(rows)
        self._mean = fitted.mean_.astype(np.float32)
        self._components = fitted.components_.astype(np.float32)
        stored = (self._mean, self._components)
        self.parameters = sum(array.size for array in stored)
        self.nonzeros = sum(int(np.count_nonzero(array)) for array in stored)
        self.macs = 2 * self._components.size
        raw = b"".join(array.tobytes() for array in stored)
        self.size_bytes = len(raw)
        self.gzip_bytes = len(gzip.compress(raw, mtime=0))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The rows' projection on the components, (rows, features) float32."""
        return (rows - self._mean) @ self._components.T @ self._components + self._mean
