"""What the baseline and every round leave behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur import paths
from secateur.methods.base import RoundReport
from secateur.settings import Settings
from secateur.sources.prepared import load_anomalies

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from secateur.training.history import History


@contextlib.contextmanager
def resumable(training: str) -> Iterator[Path]:
    """Where a training keeps how far it is, so that a killed stage goes on from there.

    The file goes when the block ends well, so a stage publishes inside of it.
    """
    path = paths.checkpoint(training)
    yield path
    path.unlink(missing_ok=True)


def write_rung(
    folder: Path,
    model: keras.Model,
    history: History,
    report: RoundReport,
    metrics: dict[str, Any],
    validation: np.ndarray,
    errors_of: Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """Write a rung's files into a folder.

    Args:
        folder: a scratch folder of `paths.publishing`.
        model: the rung's model.
        history: of its training.
        report: what went, and what was left alone and why.
        metrics: what else is known of the rung; its score after recovery, its training and its
            costs are added here.
        validation: (rows, features) to score on.
        errors_of: rows -> (rows,) errors of what is deployed; if None, of the model.
    """
    from secateur.costs import costs
    from secateur.masks import masks_of, save_masks
    from secateur.metrics import row_errors
    from secateur.saving import architecture, save

    errors_of = errors_of or partial(row_errors, model)
    errors = errors_of(validation)
    anomalies = load_anomalies(paths.VALIDATION)
    anomaly_errors = np.empty(0) if anomalies is None else errors_of(anomalies)
    metrics["validation_mse"]["after_recovery"] = float(errors.mean())
    save(model, folder / paths.MODEL)
    paths.write_json(
        folder / paths.ARCHITECTURE,
        {"state": metrics["state"], "model": architecture(model)},
    )
    save_masks(masks_of(model), folder / paths.MASKS)
    np.save(folder / paths.VALIDATION_ERRORS, errors)
    np.save(folder / paths.ANOMALY_ERRORS, anomaly_errors)
    write_history(folder, history.table)
    write_cut(folder, report)
    paths.write_json(
        folder / paths.METRICS, {**metrics, **history.summary(), "costs": vars(costs(model))}
    )


def check_anomalies(settings: Settings) -> np.ndarray | None:
    """The validation anomalies; refused before any work where a guard or a training lacks them.

    Refusing changes nothing that a stage makes, so it does not make its stage depend on the guard.

    Raises:
        InputError: there are too few for a metric that is guarded, or for what a training monitors.
    """
    anomalies = load_anomalies(paths.VALIDATION)
    settings.check_anomalies(0 if anomalies is None else len(anomalies))
    return anomalies


def write_cut(folder: Path, report: RoundReport) -> None:
    """Write what went, what was left alone and why, and what became of a target."""
    cut = {"groups": report.groups, "skipped": report.skipped, "budget": report.budget}
    paths.write_json(folder / paths.CUT, cut)


def write_history(folder: Path, history: pd.DataFrame) -> None:
    """Write what training did, one row an epoch."""
    history.to_csv(folder / paths.HISTORY, index=False, lineterminator="\n")
