"""Stage `baseline`: train the autoencoder that is to be shrunk."""

from __future__ import annotations

import logging
from typing import Any

import keras

from secateur import paths
from secateur.autoencoders import AUTOENCODERS, on_rows
from secateur.errors import InputError
from secateur.methods.base import RoundReport
from secateur.recovery import recover
from secateur.saving import load
from secateur.schemes import FLOAT32
from secateur.settings import BASELINE, PRETRAINED, BaselineSettings, load_settings
from secateur.sources.prepared import load_rows
from secateur.training.replicas import replicas_of
from tasks.command import main
from tasks.rung import check_anomalies, resumable, write_rung

logger = logging.getLogger(__name__)


def run() -> None:
    """Train the baseline, or take what was trained, and leave it as the first rung.

    It is accepted by definition.
    """
    settings = load_settings()
    anomalies = check_anomalies(settings)
    wanted = settings.baseline
    # Hosts of a training must meet before TensorFlow does anything.
    replicas_of(wanted.training.devices, wanted.training.hosts)
    train, validation = load_rows(paths.TRAIN), load_rows(paths.VALIDATION)
    keras.utils.set_random_seed(settings.seed)
    features = train.shape[1]
    if wanted.architecture == PRETRAINED:
        start, training = _pretrained(features), wanted.training.model_copy(update={"epochs": 0})
    else:
        start, training = _untrained(wanted, features), wanted.training
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
            start,
            train,
            validation,
            anomalies=anomalies,
            seed=settings.seed,
            name=BASELINE,
            checkpoint=checkpoint,
            **training.model_dump(),
        )
        if history.learned_nothing:
            raise InputError(
                f"the baseline could not be trained: {history.setbacks[-1].reason}, in all "
                f"{len(history.setbacks)} attempts, the last with a learning rate of "
                f"{history.setbacks[-1].learning_rate:.3g}; lower baseline.training.learning_rate, "
                "or see whether the data holds extreme values"
            )
        if training.epochs > 0 and history.best_epoch == 0:
            logger.warning(
                "baseline: of %d epochs none was better by %s than the network untrained, which is "
                "what it stays",
                history.epochs, training.monitor,
            )  # fmt: skip
        with paths.publishing(paths.rung_folder(BASELINE)) as folder:
            write_rung(folder, model, history, RoundReport(), metrics, validation)
        with paths.publishing(paths.DECISIONS / BASELINE) as folder:
            decision = {"rung": BASELINE, "accepted": True, "stopped": False, "cut_from": BASELINE}
            paths.write_json(folder / paths.DECISION, decision)
            paths.write_json(folder / paths.VERDICT, {"rung": BASELINE, "state": "baseline"})
    logger.info("baseline: validation MSE %.5g", history.validation_loss)


def _untrained(wanted: BaselineSettings, features: int) -> keras.Model:
    make = AUTOENCODERS[wanted.architecture]
    shape = wanted.shape or (features,)
    activations = wanted.activation, wanted.code_activation, wanted.output_activation
    return on_rows(make(shape, wanted.widths, wanted.code, *activations), features)


def _pretrained(features: int) -> keras.Model:
    found = [one for one in paths.PRETRAINED.glob("*") if one.suffix in (".keras", ".h5")]
    if len(found) != 1:
        names = ", ".join(sorted(one.name for one in found)) or "none"
        raise InputError(
            f"baseline.architecture is {PRETRAINED}, and {paths.PRETRAINED} holds these models: "
            f"{names}; allowed: one .keras or .h5 file"
        )
    return on_rows(load(found[0]), features)


if __name__ == "__main__":
    main(run)
