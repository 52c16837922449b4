"""Stages over two workers in two clones, for real: who ran what, and what a third clone has to run.

A server, a process work pool and two workers, each in a clone of its own with its own DVC cache; a
folder is the DVC remote that they share. Runs of `prefect-clones.yaml`'s deployment bring parts of
the pipeline up to date, on whichever worker is free, and push them. Prints for every run which
clone took it, which stages it ran and which it restored, read back from Prefect; at the end a clone
with an empty cache runs everything with `--pull`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks.operate import Site, tell

CONTROLS = [f"control@round_{number}" for number in range(1, 5)]
TRAINING = ("baseline", "shrink@", "control@")


def main() -> None:
    """Run all of it, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4270)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        site = Clones(Path(folder), asked.port)
        try:
            work(site)
        finally:
            site.kill_all()


def work(site: Clones) -> None:
    """A ladder, part by part."""
    tell("server answers", site.start_server())
    site.prefect("work-pool", "create", "secateur-clones", "--type", "process")
    site.prefect("--no-prompt", "deploy", "--all", "--prefect-file", "prefect-clones.yaml")
    for name in ("a", "b"):
        tell(f"worker {name} polls", site.start_worker_in(site.clone(name)))
    start = time.monotonic()
    site.bring("baseline")
    site.bring("export", "sensitivity")
    site.bring(*CONTROLS)
    site.bring(None)
    tell("all of it", f"{time.monotonic() - start:.0f} s")
    third = site.clone("c")
    start = time.monotonic()
    states = site.run_here(third, "--pull")
    tell("a third clone", f"{told(states)}, {time.monotonic() - start:.0f} s")
    tell("  of these trained", str([name for name in ran(states) if name.startswith(TRAINING)]))
    same = {site.champion(name) for name in ("c", site.last)}
    tell("  its champion is that of the workers", str(len(same) == 1))


class Clones(Site):
    """A server, and clones of a workspace that share a remote."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, port, None)
        self._folder = folder
        self.last = ""
        with (self.workspace / ".dvc/config").open("a") as config:
            config.write(f"    remote = shared\n['remote \"shared\"']\n    url = {folder}/shared\n")
        self._git("add", "-A")
        self._git("-c", "user.name=b", "-c", "user.email=b@example.org", "commit", "-qm", "start")

    def _git(self, *words: str) -> None:
        subprocess.run(["git", *words], cwd=self.workspace, check=True)

    def clone(self, name: str) -> Path:
        """A new clone with an empty cache."""
        self._git("clone", "-q", ".", str(self._folder / name))
        return self._folder / name

    def _environment_in(self, clone: Path) -> dict[str, str]:
        return {
            **self._environment,
            "PYTHONPATH": str(clone / "src"),
            "SECATEUR_CLONE": str(clone),
            "DVC_SITE_CACHE_DIR": str(clone / ".dvc/site"),
        }

    def start_worker_in(self, clone: Path) -> str:
        """Start a worker, and tell how long that took."""
        start = time.monotonic()
        words = ("worker", "start", "--pool", "secateur-clones", "--limit", "1")
        self._processes[clone.name] = subprocess.Popen(
            ["prefect", *words, "--name", clone.name],
            cwd=clone,
            env=self._environment_in(clone),
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self.wait_for(lambda: clone.name in self._online())
        return f"after {time.monotonic() - start:.1f} s"

    def _online(self) -> set[str]:
        workers = self.post("work_pools/secateur-clones/workers/filter", {})
        return {one["name"] for one in workers if one["status"] == "ONLINE"}

    def bring(self, *targets: str | None) -> None:
        """Have targets brought up to date at once, by whoever is free, and tell of each."""
        deployment = self.get("deployments/name/compress/anywhere")["id"]
        runs = []
        for target in targets:
            asked = {"parameters": {"target": target}, "state": {"type": "SCHEDULED"}}
            asked["parameters"] |= {"pull": True, "push": True, "retries": 0}
            runs.append(self.post(f"deployments/{deployment}/create_flow_run", asked)["id"])
        for run in runs:
            state = self.ended(run)
            found = self.run(run)
            self.last = found["name"].partition(":")[0]
            seconds = found["total_run_time"]
            if found["state_name"] not in ("Completed", "Cached"):
                tell(found["name"], state)
            else:
                tell(found["name"], f"{told(self._states(run))}, {seconds:.0f} s")

    def _states(self, run: str) -> dict[str, str]:
        """Names of states; `Restored` also where a verdict was restored that has a name itself."""
        return {
            one["name"]: "Restored"
            if "restored" in (one["state"]["message"] or "")
            else one["state_name"]
            for one in self.of_run(run, "task_runs")
        }

    def run_here(self, clone: Path, *words: str) -> dict[str, str]:
        """The states of a run without a worker."""
        environment = self._environment_in(clone)
        known = {one["id"] for one in self.post("flow_runs/filter", {})}
        subprocess.run(
            ["python", "-m", "flows.compress", *words],
            cwd=clone,
            env=environment,
            stdout=self._log,
            stderr=self._log,
            check=True,
        )
        (new,) = (one for one in self.post("flow_runs/filter", {}) if one["id"] not in known)
        return self._states(new["id"])

    def champion(self, name: str) -> str:
        """The manifest of a clone's champion."""
        return (self._folder / name / "models/champion/manifest.md5").read_text()

    def _is_here(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            return Path(process.cwd()).is_relative_to(self._folder)
        return False


def ran(states: dict[str, str]) -> list[str]:
    """The stages that were run, in order of their names."""
    idle = ("Cached", "Restored")
    return sorted(name for name, state in states.items() if state not in idle)


def told(states: dict[str, str]) -> str:
    """What a run did, in words."""
    made, number = ran(states), Counter(states.values())
    return (
        f"ran {len(made)} ({', '.join(made)}), restored {number['Restored']}, "
        f"found {number['Cached']} up to date"
    )


if __name__ == "__main__":
    os.environ.pop("PREFECT_API_URL", None)
    main()
