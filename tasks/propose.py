"""Write a goal, and a ladder towards it, into `params.yaml`.

`python -m tasks.propose --within 5% --minimise macs` or `--fit int8_bytes=65536`. Rounds that are
there already are replaced; the first one's recovery and calibration are kept for all.
"""

from __future__ import annotations

import argparse
import copy
import io
import sys
from collections.abc import Sequence
from typing import Any

import yaml
from ruamel.yaml import YAML

from secateur import paths
from secateur.errors import InputError
from secateur.planner import proposed_rounds
from secateur.settings import BASELINE, goal_settings, parse_settings
from tasks.command import MISTAKE
from tasks.overrides import write


def proposed(goal: dict[str, Any], rounds: int | None = None) -> str:
    """The text of `params.yaml` with a goal and rounds that follow it, comments kept.

    Args:
        goal: the keys of `params.yaml`'s goal.
        rounds: how many; None leaves it to the planner.

    Raises:
        InputError: the goal or the settings it is written into cannot be used.
    """
    try:
        text = paths.SETTINGS.read_text()
    except FileNotFoundError:
        raise InputError(
            f"{paths.SETTINGS} is not here; run from a workspace's top folder"
        ) from None
    wanted = goal_settings(goal)
    kinds = proposed_rounds(wanted, _share(wanted.cost, wanted.limit), _has_norms())
    if rounds is not None:
        kinds = [*kinds, *[kinds[-1]] * rounds][:rounds]
    layout = YAML()
    layout.width = 10_000
    content = layout.load(text)
    first: dict[str, Any] = next(iter((yaml.safe_load(text).get("rounds") or {}).values()), {})
    kept = {name: first[name] for name in ("calibration_rows", "recovery") if name in first}
    ladder: dict[str, Any] = {}
    parent = BASELINE
    for number, kind in enumerate(kinds, 1):
        name = f"round_{number}"
        ladder[name], parent = {"parent": parent, **kind, **copy.deepcopy(kept)}, name
    content["goal"], content["rounds"] = goal, ladder
    stream = io.StringIO()
    layout.dump(content, stream)
    parse_settings(yaml.safe_load(stream.getvalue()), paths.SETTINGS)
    return stream.getvalue()


def _share(cost: str, limit: float | None) -> float | None:
    """The limit as a fraction of what the baseline has, where that is known."""
    if limit is None or limit < 1:
        return limit
    metrics = paths.rung_folder(BASELINE) / paths.METRICS
    known = paths.read_json(metrics)["costs"] if metrics.exists() else {}
    return min(1.0, limit / known[cost]) if cost in known else None


def _has_norms() -> bool:
    architecture = paths.rung_folder(BASELINE) / paths.ARCHITECTURE
    return architecture.exists() and "BatchNormalization" in architecture.read_text()


def main(words: Sequence[str] | None = None) -> int:
    """Write what the command line asks for, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tasks.propose", description=__doc__)
    parser.add_argument("--within", metavar="SHARE", help="largest rise of the error, such as 5%%")
    parser.add_argument(
        "--minimise", metavar="COST", help="parameters, macs, int8_bytes, latency …"
    )
    parser.add_argument("--fit", metavar="COST=AMOUNT", help="an amount, or a fraction below 1")
    parser.add_argument("--rounds", type=int, help="how many rounds there may be")
    asked = parser.parse_args(words)
    goal = {name: getattr(asked, name) for name in ("within", "minimise") if getattr(asked, name)}
    try:
        if asked.fit:
            cost, _, amount = asked.fit.partition("=")
            goal["fit"] = {cost: yaml.safe_load(amount)}
        if asked.rounds is not None and asked.rounds < 1:
            raise InputError(f"--rounds is {asked.rounds}; allowed: a whole number from 1")
        text = proposed(goal, asked.rounds)
    except (InputError, yaml.YAMLError) as error:
        sys.stderr.write(f"error: {error}\n")
        return MISTAKE
    write(text)
    count = len(yaml.safe_load(text)["rounds"])
    sys.stdout.write(f"{paths.SETTINGS} has the goal {goal} and {count} rounds that follow it\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
