"""Killed at random moments, again and again in one ladder: does the pipeline end the same?

Two temporary workspaces of this project with quick settings: in one the flow runs undisturbed, in
the other it is killed without warning (SIGKILL) after a random time, as often as was asked for, and
then runs to its end. The random times reach from the flow's start to a little way into the work
that is left, so that the ladder does not end before the kills do. It prints what each kill hit,
and exits with 1 if a process was left over or any artifact but the measured ones differs.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import yaml

from benchmarks.flow_overhead import make_workspace, workspace_environment

FLOW = [sys.executable, "-m", "flows.compress"]
TRAINING = {"epochs": 400, "batch": 32, "learning_rate": 0.003, "patience": 400}
# What holds measured times differs from run to run; nothing else may.
MEASURED = (
    "reports/latency.json", "reports/index.html", "reports/frontier.csv", "reports/pictures",
)  # fmt: skip
_SECONDS_TO_END = 15.0  # that a killed flow's processes are given


def main() -> None:
    """Run, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        undisturbed, killed = (workspace(Path(folder, name)) for name in ("whole", "killed"))
        whole = run_to_its_end(undisturbed)
        idle = run_to_its_end(undisturbed)
        print(f"undisturbed: {whole:.0f} s; with nothing to do: {idle:.0f} s", flush=True)
        reach = idle + 3 * (whole - idle) / asked.kills
        moments = np.random.default_rng(asked.seed).uniform(0, reach, asked.kills)
        left_over = 0
        for number, seconds in enumerate(moments, 1):
            said, left = kill_after(killed, seconds)
            left_over += left
            print(f"kill {number} after {seconds:.1f} s: {said}; processes left {left}", flush=True)
        print(f"and then: {run_to_its_end(killed):.0f} s")
        one, other = recorded(undisturbed), recorded(killed)
        differing = sorted(path for path in {*one, *other} if one.get(path) != other.get(path))
        print(f"{len(one)} artifacts, differing: {', '.join(differing) or 'none'}")
    sys.exit(bool(differing or left_over))


def workspace(folder: Path) -> Path:
    """A copy of this project whose trainings take seconds, and whose guard lets rounds through."""
    make_workspace(folder)
    path = folder / "params.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["baseline"]["training"] = TRAINING
    for wanted in settings["rounds"].values():
        wanted["recovery"] = TRAINING
    settings["guard"]["tolerance"] = 10.0
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return folder


def run_to_its_end(folder: Path) -> float:
    """Seconds that the flow takes."""
    start = time.monotonic()
    done = subprocess.run(
        FLOW, cwd=folder, env=workspace_environment(folder), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.monotonic() - start


def kill_after(folder: Path, seconds: float) -> tuple[str, int]:
    """Start the flow and kill it: the stages that were at work, and how many processes it left."""
    log = folder.parent / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            FLOW, cwd=folder, env=workspace_environment(folder), stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(seconds)
            return f"the flow had ended with {process.returncode}", 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    deadline = time.monotonic() + _SECONDS_TO_END
    while (left := processes_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return at_work(log.read_text()), left


def at_work(log: str) -> str:
    """The stages that a flow's log tells of and that had not ended."""
    told = set(re.findall(r"Task run '([^']+)' - ", log))
    ended = set(re.findall(r"Task run '([^']+)' - Finished", log))
    return ", ".join(sorted(told - ended)) or f"between stages, {len(ended)} ended"


def processes_in(folder: Path) -> int:
    """How many processes work in a folder."""
    found = 0
    for process in psutil.process_iter():
        try:
            found += Path(process.cwd()).is_relative_to(folder)
        except (psutil.Error, OSError):
            continue
    return found


def recorded(folder: Path) -> dict[str, str]:
    """The md5 of every artifact in dvc.lock but the measured ones."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    return {path: md5 for path, md5 in outs.items() if path not in MEASURED}


if __name__ == "__main__":
    main()
