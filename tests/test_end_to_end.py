"""The whole chain on digits: by the flow, killed and resumed, and by DVC, to the same bytes."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.browser import Browser

pytestmark = pytest.mark.pipeline

ROOT = Path(__file__).parent.parent
QUICK = {"epochs": 20, "batch": 32, "learning_rate": 0.003, "patience": 20}
PARAMS = {
    "seed": 0,
    "data": {"source": "digits", "path": "data/raw"},
    "baseline": {"widths": [32, 16], "code": 6, "training": QUICK},
    "rounds": {
        "round_1": {"parent": "baseline", "options": {"keep": 0.75}, "recovery": QUICK},
        "round_2": {"parent": "round_1", "options": {"keep": 0.1}, "recovery": QUICK},
        "round_3": {"parent": "round_2", "options": {"keep": 0.75}, "recovery": QUICK},
    },
    "goal": None,
    "guard": {"tolerance": 0.3},
    "export": {"calibration_rows": 64},
    "controls": {"from_scratch": True},
    "champion": {"minimise": "parameters"},
    "detection": {"quantile": 0.95},
    "latency": {"runs": 20, "warm_up": 2},
}
# What holds measured times differs from run to run; nothing else may.
MEASURED = {
    "reports/latency.json",
    "reports/index.html",
    "reports/frontier.csv",
    "reports/pictures",
}


def make_workspace(folder: Path) -> Path:
    """A fresh checkout of what git tracks here or would, with quick settings."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and name != "dvc.lock":  # what was run here was not run there
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc" / "site"),
    }


def run(folder: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**environment(folder), **more},
        capture_output=True,
        text=True,
        check=False,
    )


def flow(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-m", "flows.compress", **more)


def recorded(folder: Path) -> dict[str, str]:
    """The md5 of every out in dvc.lock but the measured ones."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    return {path: md5 for path, md5 in outs.items() if path not in MEASURED}


def processes_in(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found


def kill_in_the_middle_of(stage: str, folder: Path, **more: str) -> None:
    """Start the flow, and kill it without warning once a stage's training has begun."""
    started = subprocess.Popen(
        [sys.executable, "-m", "flows.compress"],
        cwd=folder,
        env={**environment(folder), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert started.stdout is not None
    for line in started.stdout:
        if f"'{stage}' - Cut, compensate" in line:
            break
    time.sleep(1.0)
    started.send_signal(signal.SIGKILL)
    started.wait()
    started.stdout.close()


@pytest.fixture(scope="module")
def by_flow(
    tmp_path_factory: pytest.TempPathFactory,
    prefect_home: dict[str, str],
    prefect_server: dict[str, str],
) -> Path:
    """A workspace whose flow was killed in round 2, server and all, and run again to the end."""
    folder = make_workspace(tmp_path_factory.mktemp("by_flow"))
    kill_in_the_middle_of("shrink@round_2", folder, **prefect_home)
    deadline = time.monotonic() + 10
    while processes_in(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_in(folder) == []
    assert (folder / "models/round_1/model.keras").exists()
    assert not (folder / "models/round_2").exists() or not list(
        (folder / "models/round_2").iterdir()
    )
    done = flow(folder, **prefect_server)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "resumed.log").write_text(done.stdout + done.stderr)
    return folder


@pytest.fixture(scope="module")
def by_dvc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_workspace(tmp_path_factory.mktemp("by_dvc"))
    done = run(folder, "dvc", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_rerun_goes_on_where_the_kill_was(by_flow):
    log = (by_flow / "resumed.log").read_text()
    for stage in ("prepare", "baseline", "shrink@round_1"):
        assert f"'{stage}' - Finished in state Cached" in log
    assert "'shrink@round_2' - Finished in state Completed" in log


def test_flow_and_dvc_leave_the_same_bytes(by_flow, by_dvc):
    one, other = recorded(by_flow), recorded(by_dvc)
    assert len(one) > 40
    assert one == other


def test_after_the_flow_dvc_has_nothing_to_do(by_flow):
    status = run(by_flow, "dvc", "status", "--json")
    assert json.loads(status.stdout) == {}
    assert "Running stage" not in run(by_flow, "dvc", "repro").stdout


def test_prefects_ui_shows_the_run_its_table_and_its_pictures(by_flow, prefect_server, tmp_path):
    prefect_ui = prefect_server["PREFECT_API_URL"].removesuffix("/api")
    runs = httpx.post(f"{prefect_ui}/api/flow_runs/filter", json={}).json()
    (run,) = (
        one
        for one in runs
        if one["state_type"] == "COMPLETED" and one["name"].startswith(by_flow.name)
    )
    wanted = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    artifacts = httpx.post(f"{prefect_ui}/api/artifacts/filter", json=wanted).json()
    pages = {one["key"]: f"{prefect_ui}/artifacts/artifact/{one['id']}" for one in artifacts}
    with Browser() as browser:
        browser.open(f"{prefect_ui}/runs/flow-run/{run['id']}")
        browser.wait_for_text(f"{by_flow.name}: everything", "Completed", "Task Runs")
        browser.click("Task Runs")
        browser.wait_for_text("judge@round_2", "Rejected", "Passed through", "Cached")
        browser.click("Artifacts")
        browser.wait_for_text("frontier-picture", "reconstructions-picture", "summary", "frontier")
        browser.photograph(tmp_path / "run.png")

        browser.open(pages["frontier"])
        browser.wait_for_text("test MSE", "★ round_1", "round_1 from scratch")
        cells = "[...document.querySelectorAll('tbody tr')].length"
        assert (
            browser.wait_for(cells)
            == len((by_flow / "reports/frontier.csv").read_text().splitlines()) - 1
        )

        for picture in ("frontier-picture", "reconstructions-picture"):
            browser.open(pages[picture])
            widest = "Math.max(0, ...[...document.images].map(one => one.naturalWidth))"
            assert browser.wait_for(widest) > 400
            browser.photograph(tmp_path / f"{picture}.png")

        browser.open(pages["summary"])
        browser.wait_for_text("The champion is round_1", "What was cut", "What the guard said")
        assert browser.foreign == set()


def test_after_dvc_the_flow_has_nothing_to_do(by_dvc, prefect_server):
    done = flow(by_dvc, **prefect_server)
    assert done.returncode == 0, done.stderr
    stages = yaml.safe_load((by_dvc / "dvc.lock").read_text())["stages"]
    assert (done.stdout + done.stderr).count("Finished in state Cached('Unchanged'") == len(stages)


def test_another_tolerance_judges_again_and_reruns_only_what_is_behind_the_stop(by_dvc):
    """Round 2 was the stop. It changes the workspace, so it is the last to look at it."""
    judged = {"judge@round_1", "judge@round_2", "judge@round_3"}
    assert stages_run_with_tolerance(0.29, by_dvc) == judged
    assert stages_run_with_tolerance(1000, by_dvc) == {*judged, "shrink@round_3"}
    assert decided(by_dvc) == ["accepted", "accepted", "accepted"]


def stages_run_with_tolerance(tolerance: float, folder: Path) -> set[str]:
    settings = {**PARAMS, "guard": {"tolerance": tolerance}}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    done = run(folder, "dvc", "repro", "judge@round_3")
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall("Running stage '(.+)'", done.stdout))


def decided(folder: Path) -> list[str]:
    verdicts = (folder / f"models/decisions/round_{k}/verdict.json" for k in (1, 2, 3))
    return [json.loads(verdict.read_text())["state"] for verdict in verdicts]


def test_every_round_leaves_what_was_promised(by_flow):
    for rung in ("round_1", "round_2", "round_3"):
        names = {path.name for path in (by_flow / "models" / rung).iterdir()}
        assert {"model.keras", "metrics.json", "history.csv", "cut.json"} <= names
        bundle = {path.name for path in (by_flow / "models/exports" / rung).iterdir()}
        assert {"model.keras", "float32.tflite", "int8.tflite", "scaling.json"} <= bundle


def test_a_rejected_round_stops_the_ladder_and_replaces_nothing(by_flow):
    states = {
        rung: json.loads((by_flow / f"models/decisions/{rung}/verdict.json").read_text())["state"]
        for rung in ("baseline", "round_1", "round_2", "round_3")
    }
    assert states == {
        "baseline": "baseline",
        "round_1": "accepted",
        "round_2": "rejected",
        "round_3": "passed_through",
    }
    champion = json.loads((by_flow / "models/champion/champion.json").read_text())
    assert champion["rung"] == "round_1"
    model = (by_flow / "models/champion/model.keras").read_bytes()
    assert model == (by_flow / "models/round_1/model.keras").read_bytes()


def test_a_round_costs_what_its_widths_say(by_flow):
    metrics = json.loads((by_flow / "models/round_1/metrics.json").read_text())
    widths = [64, 24, 12, 6, 12, 24, 64]
    macs = sum(a * b for a, b in itertools.pairwise(widths))
    assert metrics["costs"]["macs"] == macs
    assert metrics["costs"]["parameters"] == macs + sum(widths[1:])


def test_no_metrics_or_history_carries_a_clock(by_flow):
    for path in [*by_flow.glob("models/*/metrics.json"), *by_flow.glob("models/*/history.csv")]:
        text = path.read_text()
        assert "second" not in text
        assert "time" not in text


def test_metrics_and_plots_are_shown(by_flow):
    shown = run(by_flow, "dvc", "metrics", "show", "--json")
    assert "reports/metrics.json" in shown.stdout
    assert run(by_flow, "dvc", "plots", "show").returncode == 0
    assert run(by_flow, "dvc", "dag").returncode == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guard": {"tolerence": 0.1}}, "guard.tolerence: unknown key; known here: tolerance"),
        ({"rounds": {"round_1": {"parent": "baseline", "method": "magnitud"}}}, "Unknown method"),
        ({"data": {"source": "file", "path": "missing.csv"}}, "missing.csv"),
        ({"data": {"source": "file", "path": "bad.csv"}}, "holds text"),
    ],
)
def test_a_mistake_ends_with_one_message_and_code_2(tmp_path, prefect_server, change, message):
    folder = make_workspace(tmp_path)
    (folder / "params.yaml").write_text(yaml.safe_dump({**PARAMS, **change}))
    (folder / "bad.csv").write_text("a,b\n1,2\n3,four\n")
    by_flow = flow(folder, **prefect_server)
    by_stage = run(folder, sys.executable, "-m", "tasks.prepare")
    for done in (by_flow, by_stage):
        assert done.returncode == 2, done.stdout + done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    assert by_stage.stderr.startswith("error: ")
    assert not (folder / "data/prepared").exists()


def test_dvc_repro_stops_at_a_mistake(tmp_path):
    folder = make_workspace(tmp_path)
    (folder / "params.yaml").write_text(
        yaml.safe_dump({**PARAMS, "data": {"source": "file", "path": "bad.csv"}})
    )
    (folder / "bad.csv").write_text("a,b\n1,2\n3,four\n")
    done = run(folder, "dvc", "repro")
    assert done.returncode != 0
    assert "holds text" in done.stderr
    assert "failed to run: python -m tasks.prepare, exited with 2" in done.stderr
