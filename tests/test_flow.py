"""The flow from outside: what it runs, shows, leaves behind, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flows.compress import main
from tests.toy import PARAMS, make_toy, run, workspace_environment

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),  # DVC's own
]

FLOW = [sys.executable, "-m", "flows.compress"]


@pytest.fixture
def server(prefect_server: dict[str, str]) -> dict[str, str]:
    """Settings that name a Prefect server."""
    return prefect_server


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return make_toy(tmp_path / "toy")


def flow(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "runs.log").write_text("")
    return run([*FLOW, *words], folder, **environment)


def ran(folder: Path) -> set[str]:
    lines = (folder / "runs.log").read_text().splitlines()
    return {line.removeprefix("start ") for line in lines if line.startswith("start ")}


def wait_until(so: Any) -> None:
    deadline = time.monotonic() + 90
    while not so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def ask(server: dict[str, str], what: str, **query: Any) -> list[dict[str, Any]]:
    answer = httpx.post(f"{server['PREFECT_API_URL']}/{what}/filter", json=query)
    return list(answer.raise_for_status().json())


def last_run(server: dict[str, str]) -> dict[str, Any]:
    (newest,) = ask(server, "flow_runs", sort="START_TIME_DESC", limit=1)
    return newest


def of_run(server: dict[str, str], what: str) -> list[dict[str, Any]]:
    return ask(server, what, flow_runs={"id": {"any_": [last_run(server)["id"]]}})


def lock(folder: Path) -> str:
    return (folder / "dvc.lock").read_text()


def test_second_run_and_dvc_repro_have_nothing_to_do(
    toy: Path, server: dict[str, str], tmp_path: Path
) -> None:
    first = flow(toy, **server)
    assert first.returncode == 0, first.stderr
    assert ran(toy) == {"start", "side_a", "side_b", "join", "alone"}
    assert "hello from side_a" in first.stderr
    assert (toy / "data/join/text.txt").read_text() == "rta+rtbn"
    assert run(["dvc", "repro"], toy).stdout.count("didn't change, skipping") == 5

    (toy / "stubs/tensorflow.imported").unlink()
    second = flow(toy, **server)
    assert second.returncode == 0, second.stderr
    assert ran(toy) == set()
    assert second.stderr.count("Finished in state Cached") == 5 + 1  # the stages and the flow
    assert not (toy / "stubs/tensorflow.imported").exists()  # no fork server was started

    other = make_toy(tmp_path / "other")
    run(["dvc", "repro"], other)
    assert lock(toy) == lock(other)


def test_ui_has_stages_states_logs_and_artifacts(toy: Path, server: dict[str, str]) -> None:
    assert flow(toy, "--target", "side", **server).returncode == 0
    assert last_run(server)["name"] == "toy: to side"
    assert {task["name"] for task in of_run(server, "task_runs")} == {"start", "side@a", "side@b"}
    assert {task["state_name"] for task in of_run(server, "task_runs")} == {"Completed"}

    assert flow(toy, **server).returncode == 0
    states = {task["name"]: task["state_name"] for task in of_run(server, "task_runs")}
    assert states == {
        "start": "Cached",
        "side@a": "Cached",
        "side@b": "Cached",
        "join": "Completed",
        "alone": "Completed",
    }
    messages = [line["message"] for line in ask(server, "logs", sort="TIMESTAMP_DESC", limit=200)]
    assert "hello from join" in messages
    artifacts = {artifact["key"]: artifact for artifact in of_run(server, "artifacts")}
    assert artifacts.keys() == {"training-join", "training-alone", "summary"}
    assert artifacts["training-join"]["data"] == 100
    assert "epoch 3 of 3" in artifacts["training-join"]["description"]
    assert "| join | Completed |" in artifacts["summary"]["data"]

    (toy / "raw.txt").write_text("s")
    run(["dvc", "repro"], toy)
    (toy / "raw.txt").write_text("r")
    flow(toy, **server)
    assert {task["state_name"] for task in of_run(server, "task_runs")} == {"Restored"}


def test_settings_target_force_and_rehearsal(toy: Path, server: dict[str, str]) -> None:
    run(["dvc", "repro"], toy)
    before = lock(toy)

    rehearsed = flow(toy, "-S", "seed=3", "--dry-run", **server)
    assert rehearsed.returncode == 0
    assert rehearsed.stdout.splitlines()[0] == "start: would run: seed in params.yaml (modified)"
    assert "join: would run if what it depends on comes out different" in rehearsed.stdout
    assert ran(toy) == set()
    assert (toy / "params.yaml").read_text() == PARAMS

    # The seed changes nothing that the toy's first stage makes, so what follows stays as it is.
    assert flow(toy, "-S", "seed=3", **server).returncode == 0
    assert ran(toy) == {"start"}
    assert (toy / "params.yaml").read_text() == PARAMS.replace("seed: 0", "seed: 3")
    assert lock(toy) != before

    assert flow(toy, "--target", "side@a", "--force", **server).returncode == 0
    assert ran(toy) == {"start", "side_a"}


def test_stages_run_side_by_side_but_for_the_exclusive(toy: Path, server: dict[str, str]) -> None:
    assert flow(toy, **server, TOY_SECONDS="0.7").returncode == 0
    log = (toy / "runs.log").read_text().splitlines()
    assert {log.index("start side_a"), log.index("start side_b")} == {2, 3}
    assert log.index("end alone") == log.index("start alone") + 1


def test_failure_stops_what_depends_on_it_and_no_more(toy: Path, server: dict[str, str]) -> None:
    failed = flow(toy, **server, TOY_side_a="fail")
    assert failed.returncode == 1
    assert failed.stderr.count("Traceback") == 1
    assert 'raise RuntimeError("broken on purpose")' in failed.stderr
    assert failed.stderr.endswith(
        "error: side@a: RuntimeError: broken on purpose\nNot run because of that: join\n"
    )
    assert ran(toy) == {"start", "side_a", "side_b", "alone"}
    assert flow(toy, **server).returncode == 0
    assert ran(toy) == {"side_a", "join"}


def test_mistake_is_one_clear_message(toy: Path, server: dict[str, str]) -> None:
    refused = flow(toy, "--target", "side@a", **server, TOY_side_a="mistake")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert refused.stderr.endswith("error: side@a: 3 rows hold NaN, allowed: finite numbers\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-S", "guard.toleranc=1"], "guard.toleranc: unknown key; known here: tolerance"),
        (["--target", "joint"], "Unknown stage 'joint'. Known: start, side@a, side@b, join, alone"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_starts(
    toy: Path,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(toy)
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert message in said.err
    assert "Flow run" not in said.out + said.err
    assert (toy / "params.yaml").read_text() == PARAMS


def test_command_that_is_no_body_is_refused(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (toy / "dvc.yaml").read_text()
    (toy / "dvc.yaml").write_text(text.replace("python -m tasks.join", "cat data/sides/*/text.txt"))
    monkeypatch.chdir(toy)
    assert main([]) == 2
    assert "The flow cannot run the command 'cat data/sides" in capsys.readouterr().err


def end(folder: Path, how: signal.Signals, **environment: str) -> int:
    """The exit code of a flow that is ended by a signal, after which nothing of it is left."""
    with subprocess.Popen(
        FLOW,
        cwd=folder,
        env=workspace_environment(folder, **environment, TOY_side_b="sleep"),
        stderr=subprocess.PIPE,
        # Started in a shell's background, tests and what they start would be deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as started:
        wait_until((folder / "asleep").exists)
        family = psutil.Process(started.pid).children(recursive=True)
        assert len(family) >= 3  # the fork server, its tracker, the body
        started.send_signal(how)
        started.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    assert not (folder / "data/sides/b").exists()
    assert "side@b" in run(["dvc", "status"], folder).stdout
    return int(started.returncode)


def test_kill_leaves_nothing_behind_and_is_resumed(
    toy: Path, server: dict[str, str], tmp_path: Path
) -> None:
    assert end(toy, signal.SIGKILL, **server) == -signal.SIGKILL
    killed = last_run(server)
    assert killed["state_name"] == "Running"
    assert flow(toy, **server).returncode == 0
    (buried,) = ask(server, "flow_runs", flow_runs={"id": {"any_": [killed["id"]]}})
    assert buried["state_name"] == "Crashed"
    assert "ended without a word" in buried["state"]["message"]
    assert last_run(server)["state_name"] == "Completed"
    assert {"side_b", "join"} <= ran(toy) <= {"side_a", "side_b", "join", "alone"}
    other = make_toy(tmp_path / "other")
    run(["dvc", "repro"], other)
    assert lock(toy) == lock(other)


@pytest.mark.parametrize(
    ("how", "code"),
    [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 128 + signal.SIGINT)],
)
def test_asked_to_end_it_ends(
    toy: Path, server: dict[str, str], how: signal.Signals, code: int
) -> None:
    assert end(toy, how, **server) == code


def test_server_that_goes_away_costs_no_finished_stage(
    toy: Path, prefect_home: dict[str, str]
) -> None:
    with subprocess.Popen(
        FLOW,
        cwd=toy,
        env=workspace_environment(
            toy, **prefect_home, TOY_SECONDS="2", PREFECT_CLIENT_MAX_RETRIES="0"
        ),
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        wait_until((toy / "data/start/text.txt").exists)
        (server,) = (
            process
            for process in psutil.Process(started.pid).children()
            if "flows.leash" in process.cmdline()
        )
        server.kill()
        _, said = started.communicate(timeout=120)
    assert started.returncode == 1
    assert "Prefect's server does not answer any more" in said
    assert "Every stage that finished is recorded by DVC" in said
    assert "Traceback" not in said
    assert run(["dvc", "status"], toy).stdout.startswith("Data and pipelines are up to date")
