"""Stage `baseline`: train the autoencoder that is to be shrunk."""

from __future__ import annotations

import logging
from typing import Any

import keras

from secateur import paths
from secateur.autoencoders import AUTOENCODERS
from secateur.methods.base import RoundReport
from secateur.recovery import recover
from secateur.settings import BASELINE, load_settings
from secateur.sources.prepared import load_rows
from tasks.command import main
from tasks.rung import write_rung

logger = logging.getLogger(__name__)


def run() -> None:
    """Train the baseline and leave it as the first rung, accepted by definition."""
    settings = load_settings()
    wanted = settings.baseline
    train, validation = load_rows(paths.TRAIN), load_rows(paths.VALIDATION)
    keras.utils.set_random_seed(settings.seed)
    untrained = AUTOENCODERS[wanted.architecture](
        train.shape[1],
        wanted.widths,
        wanted.code,
        wanted.activation,
        wanted.code_activation,
        wanted.output_activation,
    )
    model, history = recover(
        untrained,
        train,
        validation,
        seed=settings.seed,
        name=BASELINE,
        **wanted.training.model_dump(),
    )
    metrics: dict[str, Any] = {
        "rung": BASELINE,
        "parent": None,
        "method": None,
        "state": "trained",
        "validation_mse": {},
        "epochs": len(history.table) - 1,
    }
    with paths.publishing(paths.rung_folder(BASELINE)) as folder:
        write_rung(folder, model, history.table, RoundReport(), metrics, validation)
    with paths.publishing(paths.DECISIONS / BASELINE) as folder:
        paths.write_json(
            folder / paths.DECISION, {"rung": BASELINE, "accepted": True, "stopped": False}
        )
        paths.write_json(folder / paths.VERDICT, {"rung": BASELINE, "state": "baseline"})
    logger.info("baseline: validation MSE %.5g", history.validation_loss)


if __name__ == "__main__":
    main(run)
