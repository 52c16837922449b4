"""What driving the stages costs: seconds a stage takes beyond its body, and a run with no work.

Runs the whole pipeline of this project, with few epochs, in a temporary workspace: first by a flow
that runs every stage, then by one that has nothing to do. A flow without a single task, on a server
of the same kind, tells what Prefect's own start costs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]

EMPTY = """
from flows.server import use_server
from prefect import flow
use_server()
flow(name="empty")(lambda: None)()
"""

FULL = """
import json, sys
from flows.compress import compress
from flows.server import use_server
use_server()
state = compress(workers=int(sys.argv[1]), return_state=True)
if not state.is_completed():
    sys.exit(state.message)
print(json.dumps([result._asdict() for result in state.result()]))
"""


def main() -> None:
    """Run, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="idle and empty runs to take")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = make_workspace(Path(folder))
        python(workspace, EMPTY)  # makes Prefect's database
        stages = json.loads(python(workspace, FULL, str(asked.workers))[1])
        print_stages(stages)
        empty, idle = [], []
        for _ in range(asked.runs):
            empty.append(python(workspace, EMPTY)[0])
            seconds, said = python(workspace, FULL, str(asked.workers))
            assert {stage["state"] for stage in json.loads(said)} == {"Cached"}
            idle.append(seconds)
    print(f"\nrun with nothing to do: {statistics.median(idle):.1f} s (median of {asked.runs})")
    print(f"Prefect's own start:    {statistics.median(empty):.1f} s")
    print(f"beyond it:              {statistics.median(idle) - statistics.median(empty):.1f} s")


def print_stages(stages: list[dict[str, Any]]) -> None:
    """A line a stage, and the median of what came on top of the bodies."""
    print(f"{'stage':20} {'in the flow (s)':>15} {'in the body (s)':>15} {'overhead (s)':>12}")
    overheads = []
    for stage in stages:
        overheads.append(stage["seconds"] - stage["body_seconds"])
        print(
            f"{stage['stage']:20} {stage['seconds']:15.2f} {stage['body_seconds']:15.2f} "
            f"{overheads[-1]:12.2f}"
        )
    print(f"\nfirst stage, with the fork server's imports: {overheads[0]:.2f} s")
    print(f"warm overhead of a stage: {statistics.median(overheads[1:]):.2f} s (median)")


def make_workspace(folder: Path) -> Path:
    """A copy of this project with few epochs."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(lambda name: (ROOT / name).is_file(), listed.splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    settings["baseline"]["training"]["epochs"] = 5
    for wanted in settings["rounds"].values():
        wanted["recovery"]["epochs"] = 2
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def workspace_environment(folder: Path) -> dict[str, str]:
    """The environment in which a workspace's own code runs, with a Prefect of its own."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{folder}:{folder / 'src'}",
        "PREFECT_HOME": str(folder / ".prefect"),
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc/site"),
    }


def python(folder: Path, code: str, *words: str) -> tuple[float, str]:
    """Seconds that a program takes in a workspace, and the last line that it prints."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=workspace_environment(folder),
        text=True,
        capture_output=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    return seconds, (done.stdout.splitlines() or [""])[-1]


if __name__ == "__main__":
    main()
