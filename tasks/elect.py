"""Stage `elect`: choose the cheapest rung that the guard let through."""

from __future__ import annotations

import logging
from typing import Any

from secateur import paths
from secateur.settings import load_settings
from tasks.command import main

logger = logging.getLogger(__name__)


def run() -> None:
    """Record the winner, and who else stood for election.

    The baseline always stands. Of equally cheap rungs the one wins that is deployed in fewest
    bytes, and of those the first in the order of the ladder.
    """
    settings = load_settings()
    minimise = settings.champion.minimised_for(settings.goal)
    candidates = [_candidate(rung, minimise) for rung in settings.rungs]
    winner = min(
        (candidate for candidate in candidates if candidate["accepted"]),
        key=lambda candidate: (candidate["value"], candidate["deployed_bytes"]),
    )
    with paths.publishing(paths.ELECTION) as folder:
        record = {
            "rung": winner["rung"],
            "minimise": minimise,
            "value": winner["value"],
            "candidates": candidates,
        }
        paths.write_json(folder / paths.CHAMPION_RECORD, record)
    logger.info("elected: %s with %d %s", winner["rung"], winner["value"], minimise)


def _candidate(rung: str, minimise: str) -> dict[str, Any]:
    bundle, decided = paths.EXPORTS / rung, paths.DECISIONS / rung
    costs = {
        **paths.read_json(bundle / paths.METRICS)["costs"],
        **paths.read_json(bundle / paths.COSTS),
    }
    return {
        "rung": rung,
        "state": paths.read_json(decided / paths.VERDICT)["state"],
        "accepted": paths.read_json(decided / paths.DECISION)["accepted"],
        "value": costs[minimise],
        "deployed_bytes": costs["deployed_bytes"],
    }


if __name__ == "__main__":
    main(run)
