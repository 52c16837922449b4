"""What prefect.yaml promises of every deployment, and how `make ui` takes it on."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prefect")

from prefect import Flow
from prefect.flows import load_flow_from_entrypoint

from flows import automations, leash, serve
from secateur.errors import InputError

pytestmark = pytest.mark.pipeline

ROOT = Path(__file__).parents[1]


@pytest.fixture
def in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def deployments() -> list[dict[str, Any]]:
    return list(yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"])


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    return load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)


def test_every_flow_is_deployed_under_its_name():
    assert {flow_of(one).name for one in deployments()} == {one["name"] for one in deployments()}
    assert {one["name"] for one in deployments()} <= set(automations.FLOWS)


@pytest.mark.parametrize("deployment", deployments(), ids=lambda one: one["name"])
def test_deployment_sleeps_runs_alone_and_can_run_as_it_is(deployment):
    assert [one["active"] for one in deployment["schedules"]] == [False]
    assert all(one["slug"] and one["cron"] for one in deployment["schedules"])
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert deployment["tags"] == ["secateur"]
    flow_of(deployment).validate_parameters(deployment["parameters"])


@pytest.mark.parametrize("deployment", deployments(), ids=lambda one: one["name"])
def test_every_parameter_is_explained_in_the_form(deployment):
    schema = flow_of(deployment).parameters.properties
    assert [name for name, entry in schema.items() if not entry.get("description")] == []


@pytest.mark.parametrize("awake", [False, True])
def test_ui_serves_schedules_as_awake_as_somebody_left_them(in_root, monkeypatch, awake):
    monkeypatch.setattr(serve, "_awake", lambda name: {"nightly": True} if awake else {})
    (wanted,) = (one for one in serve.read_deployments() if one["name"] == "compress")
    deployment = serve.make_deployment(wanted)
    assert [one.active for one in deployment.schedules] == [awake]
    assert deployment.concurrency_limit == 1
    assert deployment.concurrency_options.collision_strategy == "CANCEL_NEW"
    assert deployment.parameters == {"retries": 1}
    assert deployment.entrypoint == "flows.compress.compress"


def test_elsewhere_there_is_nothing_to_serve(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"prefect\.yaml is not here"):
        serve.read_deployments()


def test_automations_need_a_server(monkeypatch, capsys):
    monkeypatch.setattr(automations, "get_current_settings", lambda: settings_without_server())
    assert automations.main(["--notify", "webhook/here"]) == 2
    assert "PREFECT_API_URL names no server" in capsys.readouterr().err


def settings_without_server() -> Any:
    class API:
        url = None

    return type("Settings", (), {"api": API})


def test_telemetry_is_off_for_every_command_started_here(in_root):
    code = (
        "from prefect.settings import get_current_settings as s; server = s().server;"
        "print(server.analytics_enabled, server.ui.v2_enabled, server.ui.show_promotional_content)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["False", "False", "False"]


ORPHAN = """
import subprocess, sys, time
code = '''
import time
from flows.leash import end_with_starter
end_with_starter()
print("on the leash", flush=True)
time.sleep(60)
'''
child = subprocess.Popen([sys.executable, "-c", code], stdout=sys.stdout)
time.sleep(60)
"""


def test_process_on_the_leash_ends_with_its_starter():
    starter = subprocess.Popen(
        [sys.executable, "-c", ORPHAN], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == "on the leash\n"
    starter.kill()
    # Its end of the pipe closes with the child, who is the last to hold it.
    assert starter.communicate(timeout=10)[0] == ""


def test_workers_in_clones_take_runs_that_pull_and_push_in_their_own_folder():
    (wanted,) = yaml.safe_load((ROOT / "prefect-clones.yaml").read_text())["deployments"]
    assert wanted["parameters"] == {"retries": 1, "pull": True, "push": True}
    flow_of(wanted).validate_parameters(wanted["parameters"])
    (step,) = wanted["pull"]
    assert step == {
        "prefect.deployments.steps.set_working_directory": {"directory": "{{ $SECATEUR_CLONE }}"}
    }


@pytest.mark.parametrize(
    ("error", "is_told"), [(asyncio.CancelledError(), False), (OSError("the disk is full"), True)]
)
def test_a_server_that_is_ended_amid_a_write_shows_no_traceback(error, is_told):
    complaint = {"msg": "Error flushing 1 events", "exc_info": (type(error), error, None)}
    assert leash.tells_of_more_than_ending(logging.makeLogRecord(complaint)) is is_told
