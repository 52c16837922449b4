"""Stage `control`: a round's architecture, trained from scratch as long as the baseline."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from secateur import paths
from secateur.settings import Settings, load_settings
from secateur.sources.prepared import load_rows
from tasks.command import main
from tasks.rung import check_anomalies, resumable, write_history

if TYPE_CHECKING:
    import keras

    from secateur.recovery import History

logger = logging.getLogger(__name__)


def run(rung: str) -> None:
    """Train the control of one round, or say why there is none."""
    settings = load_settings()
    settings.round(rung)
    architecture = paths.read_json(paths.rung_folder(rung) / paths.ARCHITECTURE)
    reason = _why_not(settings, architecture)
    if reason:
        _publish(rung, None, reason)
        return
    # Imported where it trains: TensorFlow takes seconds, and a round behind a stop has no control.
    import keras

    from secateur.recovery import recover
    from secateur.saving import from_architecture
    from secateur.training.replicas import replicas_of

    anomalies = check_anomalies(settings)
    # Hosts of a training must meet before TensorFlow does anything.
    training = settings.baseline.training
    replicas_of(training.devices, training.hosts)
    keras.utils.set_random_seed(settings.seed)
    with resumable(f"{paths.CONTROLS.name}/{rung}") as checkpoint:
        model, history = recover(
            from_architecture(architecture["model"]),
            load_rows(paths.TRAIN),
            load_rows(paths.VALIDATION),
            anomalies=anomalies,
            seed=settings.seed,
            name=f"{rung} from scratch",
            checkpoint=checkpoint,
            **training.model_dump(),
        )
        if history.learned_nothing:
            _publish(rung, None, f"training went badly: {history.setbacks[-1].reason}")
        else:
            _publish(rung, (model, history))


def _publish(
    rung: str, trained: tuple[keras.Model, History] | None, reason: str | None = None
) -> None:
    metrics: dict[str, Any]
    with paths.publishing(paths.CONTROLS / rung) as folder:
        if trained is None:
            logger.info("%s: no control: %s", rung, reason)
            metrics = {"state": "skipped", "reason": reason, "validation_mse": None, "epochs": None}
        else:
            from secateur.saving import save

            model, history = trained
            save(model, folder / paths.MODEL)
            write_history(folder, history.table)
            metrics = {
                "state": "trained",
                "reason": None,
                "validation_mse": history.validation_loss,
                **history.summary(),
            }
        paths.write_json(folder / paths.METRICS, metrics)


def _why_not(settings: Settings, architecture: dict[str, Any]) -> str | None:
    if not settings.controls.from_scratch:
        return "controls.from_scratch is off"
    if architecture["state"] == "passed_through":
        return "the round passed its parent through"
    return None


if __name__ == "__main__":
    main(run)
