"""The order of a refresh: which steps are taken, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed

from flows import refresh as module
from secateur.errors import InputError
from tasks import refreshing
from tasks.monitoring import Monitor
from tasks.versioning import VersioningError

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module", autouse=True)
def _server(prefect_server: dict[str, str]) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: prefect_server["PREFECT_API_URL"]}):
        yield


class Steps:
    """Stands for all that a refresh does; remembers what was asked for, and in which order."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.taken: list[str] = []
        self.moved, self.accepted, self.unfinished = True, True, False
        self.fail: dict[str, Exception] = {}
        self.ladder_state: State[Any] = Completed()
        for name, answer in {
            "remember_what_serves": lambda: None,
            "check_tag": lambda: None,
            "update_data": lambda source: True,
            "look_for_drift": lambda wanted: {"moved": self.moved, "message": "what moved"},
            "compare": lambda tolerance: {
                "accepted": self.accepted, "candidate": "round_1", "message": "what the guard said",
            },
            "left_unfinished": lambda: self.unfinished,
            "tag": lambda message, step: "champion@v0.0.1",
            "push": lambda: True,
            "announce": lambda tell, message: True,
        }.items():  # fmt: skip
            patch.setattr(refreshing, name, self._noting(name, answer))
        patch.setattr(module, "compress_flow", self._ladder)
        patch.setattr(module, "refresh_text", lambda: "text")
        patch.setattr(Monitor, "page", lambda *words: None)

    def _noting(self, name: str, answer: Any) -> Any:
        def taken(*words: Any) -> Any:
            self.taken.append(name)
            if name in self.fail:
                raise self.fail[name]
            return answer(*words)

        return taken

    def _ladder(self, target: str | None, **_: Any) -> State[Any]:
        self.taken.append(f"ladder to {target}")
        return self.ladder_state


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Steps:
    monkeypatch.chdir(tmp_path)
    return Steps(monkeypatch)


def run(**parameters: Any) -> State[Any]:
    return module.refresh(**parameters, return_state=True)


LOOK = ["remember_what_serves", "update_data", "look_for_drift"]
SHARE = ["announce", "push"]


def test_where_nothing_moved_nothing_is_run_and_the_reason_is_told(steps):
    steps.moved = False
    state = run()
    assert (state.type.value, state.name) == ("COMPLETED", "Nothing moved")
    assert state.message == "Nothing moved: what moved"
    # An earlier run may have been killed before it shared what it promoted.
    assert steps.taken == [*LOOK, "left_unfinished", *SHARE]


def test_a_report_that_a_killed_run_left_undone_is_made_up_for(steps):
    steps.moved, steps.unfinished = False, True
    assert run().name == "Nothing moved"
    assert steps.taken == [*LOOK, "left_unfinished", "ladder to None", *SHARE]


def test_what_moved_brings_a_ladder_and_the_guard_promotes(steps):
    state = run(tag="minor")
    assert (state.name, state.message) == ("Promoted", "Promoted round_1: what the guard said")
    assert steps.taken == [
        "remember_what_serves", "check_tag", "update_data", "look_for_drift",
        "ladder to elect", "compare", "ladder to None", "announce", "tag", "push",
    ]  # fmt: skip


def test_what_the_guard_refuses_is_not_published(steps):
    steps.accepted = False
    state = run()
    assert (state.name, state.message) == ("Kept", "Kept what serves: what the guard said")
    assert steps.taken == [*LOOK, "ladder to elect", "compare", *SHARE]


def test_always_runs_the_ladder(steps):
    steps.moved = False
    assert run(always=True).name == "Promoted"


def test_a_rehearsal_only_looks(steps):
    assert run(dry_run=True).name == "Rehearsed"
    assert steps.taken == LOOK


@pytest.mark.parametrize(
    ("error", "name"),
    [(InputError("bad rows"), "Refused"), (VersioningError("source is down"), "Failed")],
)
def test_data_that_cannot_be_had_ends_it_before_any_work(steps, error, name):
    steps.fail["update_data"] = error
    state = run()
    assert (state.type.value, state.name, state.message) == ("FAILED", name, str(error))
    assert steps.taken == LOOK[:2]


def test_a_ladder_that_fails_leaves_what_serves(steps):
    steps.ladder_state = Failed(name="Refused", message="prepare: 3 rows hold NaN")
    state = run()
    assert (state.type.value, state.name) == ("FAILED", "Refused")
    assert "3 rows hold NaN" in str(state.message)
    assert "compare" not in steps.taken


def test_a_remote_that_is_down_fails_the_run_after_the_promotion(steps):
    steps.fail["push"] = VersioningError("the remote 'shared' cannot be used")
    state = run()
    assert (state.type.value, state.name) == ("FAILED", "Failed")
    assert "ladder to None" in steps.taken


def test_parameters_make_a_form():
    properties = module.refresh.parameters.model_dump()["properties"]
    assert list(properties) == [
        "source", "drift", "tolerance", "always", "dry_run", "push", "tag", "workers", "retries",
    ]  # fmt: skip
    assert all(one.get("description") for one in properties.values())
    definitions = module.refresh.parameters.model_dump()["definitions"]
    assert set(definitions["DriftSettings"]["properties"]) == {"significance", "effect", "growth"}
