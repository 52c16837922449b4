"""Stage `report`: the page that people look at, its pictures, and the frontier as a table."""

from __future__ import annotations

import logging

import numpy as np

from secateur import paths
from secateur.report import build_page, frontier_picture, frontier_table, reconstructions_picture
from secateur.settings import load_settings
from tasks.command import main

logger = logging.getLogger(__name__)


def run() -> None:
    """Draw what `evaluate`, `latency` and `sensitivity` found; nothing is computed anew."""
    load_settings()  # refuses a folder that is no workspace
    rungs, cuts, schema, context = (
        paths.read_json(paths.EVALUATION / name)
        for name in (paths.RUNGS, paths.CUTS, paths.SCHEMA.name, paths.CONTEXT)
    )
    reconstructions = np.load(paths.EVALUATION / paths.RECONSTRUCTIONS)
    latency = paths.read_json(paths.LATENCY)
    sensitivity = paths.read_json(paths.SENSITIVITY)
    with paths.publishing(paths.REPORTS) as folder:
        pictures = folder / paths.PICTURES.name
        pictures.mkdir()
        page = build_page(rungs, cuts, schema, context, latency, reconstructions, sensitivity)
        (folder / paths.PAGE.name).write_text(page, encoding="utf-8")
        frontier_table(rungs, latency).to_csv(
            folder / paths.FRONTIER.name, index=False, lineterminator="\n"
        )
        (pictures / "frontier.png").write_bytes(
            frontier_picture(rungs, latency, context["settings"])
        )
        (pictures / "reconstructions.png").write_bytes(
            reconstructions_picture(reconstructions, schema)
        )
    logger.info("the report is %s", paths.PAGE)


if __name__ == "__main__":
    main(run)
