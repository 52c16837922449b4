"""Stage `plan`: say what the ladder is for, without what may be lost on the way."""

from __future__ import annotations

from dataclasses import asdict

from secateur import paths
from secateur.planner import Aim
from secateur.settings import load_settings
from tasks.command import main


def run() -> None:
    """Write the goal's aim, or null where the rounds say themselves how much goes.

    Rounds depend on it and not on the settings, so that another tolerance retrains none of them.
    """
    goal = load_settings().goal
    with paths.publishing(paths.PLAN.parent) as folder:
        paths.write_json(folder / paths.PLAN.name, None if goal is None else asdict(Aim.of(goal)))


if __name__ == "__main__":
    main(run)
