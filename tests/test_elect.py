"""Elected is the cheapest rung that the guard let through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from secateur import paths
from tasks import elect

# parameters, MACs, bytes of the int8 file, verdict
LADDER = {
    "baseline": (1000, 900, 800, "baseline"),
    "round_1": (500, 450, 700, "accepted"),
    "round_2": (400, 460, 600, "accepted"),
    "round_3": (300, 200, 100, "rejected"),
    "round_4": (300, 200, 100, "passed_through"),
}


def build(ladder: dict[str, tuple[int, int, int, str]], minimise: str = "parameters") -> None:
    """A workspace in the current directory, as far as the election looks at it."""
    for rung, (parameters, macs, int8_bytes, state) in ladder.items():
        bundle, decided = paths.EXPORTS / rung, paths.DECISIONS / rung
        bundle.mkdir(parents=True)
        decided.mkdir(parents=True)
        costs = {"parameters": parameters, "macs": macs}
        accepted = state in ("baseline", "accepted")
        paths.write_json(bundle / paths.METRICS, {"costs": costs})
        paths.write_json(
            bundle / paths.COSTS, {"int8_bytes": int8_bytes, "deployed_bytes": 4 * parameters}
        )
        paths.write_json(decided / paths.DECISION, {"rung": rung, "accepted": accepted})
        paths.write_json(decided / paths.VERDICT, {"rung": rung, "state": state})
    rounds = {rung: {"parent": "baseline", "options": {"keep": 0.5}} for rung in list(ladder)[1:]}
    settings = {"rounds": rounds, "champion": {"minimise": minimise}}
    paths.SETTINGS.write_text(yaml.safe_dump(settings, sort_keys=False))


def chosen() -> dict[str, Any]:
    elect.run()
    return paths.read_json(paths.ELECTION / paths.CHAMPION_RECORD)


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("minimise", "rung", "value"),
    [("parameters", "round_2", 400), ("macs", "round_1", 450), ("int8_bytes", "round_2", 600)],
)
def test_cheapest_accepted_rung_wins(minimise, rung, value):
    build(LADDER, minimise)
    record = chosen()
    assert (record["rung"], record["minimise"], record["value"]) == (rung, minimise, value)


def test_of_equally_cheap_rungs_the_one_in_fewest_bytes_wins():
    build({**LADDER, "round_2": (500, 450, 700, "accepted")})
    bundle = paths.EXPORTS / "round_2"
    paths.write_json(bundle / paths.COSTS, {"int8_bytes": 700, "deployed_bytes": 1999})
    assert chosen()["rung"] == "round_2"


def test_record_names_everybody_who_stood():
    build(LADDER)
    assert chosen()["candidates"] == [
        {
            "rung": "baseline",
            "state": "baseline",
            "accepted": True,
            "value": 1000,
            "deployed_bytes": 4000,
        },
        {
            "rung": "round_1",
            "state": "accepted",
            "accepted": True,
            "value": 500,
            "deployed_bytes": 2000,
        },
        {
            "rung": "round_2",
            "state": "accepted",
            "accepted": True,
            "value": 400,
            "deployed_bytes": 1600,
        },
        {
            "rung": "round_3",
            "state": "rejected",
            "accepted": False,
            "value": 300,
            "deployed_bytes": 1200,
        },
        {
            "rung": "round_4",
            "state": "passed_through",
            "accepted": False,
            "value": 300,
            "deployed_bytes": 1200,
        },
    ]


def test_of_equally_cheap_rungs_the_first_wins():
    build({**LADDER, "round_2": (500, 450, 700, "accepted")})
    assert chosen()["rung"] == "round_1"


def test_baseline_wins_when_every_round_was_rejected():
    build({"baseline": LADDER["baseline"], "round_1": (1, 1, 1, "rejected")})
    assert chosen()["rung"] == "baseline"
