"""Stage `baseline`: train the autoencoder that is to be shrunk."""

from __future__ import annotations

import logging
from typing import Any

import keras

from secateur import paths
from secateur.autoencoders import AUTOENCODERS
from secateur.errors import InputError
from secateur.methods.base import RoundReport
from secateur.recovery import recover
from secateur.schemes import FLOAT32
from secateur.settings import BASELINE, load_settings
from secateur.sources.prepared import load_rows
from tasks.command import main
from tasks.rung import check_guard, resumable, write_rung

logger = logging.getLogger(__name__)


def run() -> None:
    """Train the baseline and leave it as the first rung, accepted by definition."""
    settings = load_settings()
    check_guard(settings)
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
    metrics: dict[str, Any] = {
        "rung": BASELINE,
        "parent": None,
        "method": None,
        "state": "trained",
        "deployed": FLOAT32,
        "validation_mse": {},
        "closeness": None,
    }
    with resumable(BASELINE) as checkpoint:
        model, history = recover(
            untrained,
            train,
            validation,
            seed=settings.seed,
            name=BASELINE,
            checkpoint=checkpoint,
            **wanted.training.model_dump(),
        )
        if history.learned_nothing:
            raise InputError(
                f"the baseline could not be trained: {history.setbacks[-1].reason}, in all "
                f"{len(history.setbacks)} attempts, the last with a learning rate of "
                f"{history.setbacks[-1].learning_rate:.3g}; lower baseline.training.learning_rate, "
                "or see whether the data holds extreme values"
            )
        with paths.publishing(paths.rung_folder(BASELINE)) as folder:
            write_rung(folder, model, history, RoundReport(), metrics, validation)
        with paths.publishing(paths.DECISIONS / BASELINE) as folder:
            decision = {"rung": BASELINE, "accepted": True, "stopped": False, "cut_from": BASELINE}
            paths.write_json(folder / paths.DECISION, decision)
            paths.write_json(folder / paths.VERDICT, {"rung": BASELINE, "state": "baseline"})
    logger.info("baseline: validation MSE %.5g", history.validation_loss)


if __name__ == "__main__":
    main(run)
