"""Stage `sensitivity`: what every layer of the baseline has to lose, before anything is cut."""

from __future__ import annotations

import logging

import numpy as np

from secateur import paths
from secateur.allocation import sensitivity
from secateur.errors import InputError
from secateur.saving import load
from secateur.settings import BASELINE, load_settings
from secateur.sources.prepared import load_rows
from tasks.command import main

logger = logging.getLogger(__name__)

_ROWS = 4096


def run() -> None:
    """Scan the baseline's layers; rounds do not read it, so that it stops none."""
    settings = load_settings()
    train = load_rows(paths.TRAIN)
    sample = np.asarray(train[:: -(-len(train) // _ROWS)])
    model = load(paths.rung_folder(BASELINE) / paths.MODEL)
    try:
        rows = sensitivity(model, sample, seed=settings.seed)
    except InputError as error:  # no graph that could be read: rounds will tell, if any cuts
        logger.warning("no layer can be scanned: %s", error)
        rows = []
    with paths.publishing(paths.REPORTS) as folder:
        paths.write_json(folder / paths.SENSITIVITY.name, rows)
    layers = len({row["layer"] for row in rows})
    logger.info("scanned %d layers with %d rows", layers, len(sample))


if __name__ == "__main__":
    main(run)
