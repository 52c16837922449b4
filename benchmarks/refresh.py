"""Refresh end to end on digits that arrive day by day, and killed at random moments.

`python -m benchmarks.refresh [KILLS]` makes a workspace in a temporary folder, with quick settings,
and prints for each situation how the refresh ended and how long it took.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from sklearn.datasets import load_digits

from secateur import paths
from secateur.errors import InputError
from secateur.manifest import read_whole

ROOT = Path(__file__).parent.parent
QUICK = {"epochs": 15, "batch": 32, "learning_rate": 0.003, "patience": 15}
PARAMS = {
    "seed": 0,
    "data": {"source": "file", "path": "data/raw/rows"},
    "baseline": {"widths": [32], "code": 6, "training": QUICK},
    "rounds": {
        "round_1": {"parent": "baseline", "options": {"keep": 0.75}, "recovery": QUICK},
        "round_2": {"parent": "round_1", "options": {"keep": 0.75}, "recovery": QUICK},
    },
    "goal": None,
    "guard": {"tolerance": 0.3},
    "export": {"calibration_rows": 64},
    "controls": {"from_scratch": False},
    "champion": {"minimise": "parameters"},
    "detection": {"quantile": 0.99},
    "latency": {"runs": 20, "warm_up": 2},
}


class Workspace:
    """A checkout of what git tracks here, with quick settings and data that arrives."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.incoming = folder / "workspace", folder / "incoming"
        tracked = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.splitlines()
        for name in filter(lambda name: (ROOT / name).is_file(), tracked):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, self.folder / name)
        (self.folder / paths.SETTINGS).write_text(yaml.safe_dump(PARAMS, sort_keys=False))
        with (self.folder / ".dvc/config").open("a") as config:
            config.write(f"    remote = shared\n['remote \"shared\"']\n    url = {folder}/shared\n")
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
            self.run("git", *words)
        self.incoming.mkdir()
        digits = load_digits().data
        self._digits = digits[np.random.default_rng(0).permutation(len(digits))]

    def arrive(self, day: int, start: int, stop: int, turned: bool = False) -> None:
        """Rows of a day; shifted data is digits turned upside down at half the brightness."""
        rows = self._digits[start:stop]
        rows = rows[:, ::-1] / 2 if turned else rows
        header = ",".join(f"pixel_{n}" for n in range(64))
        np.savetxt(self.incoming / f"day_{day}.csv", rows, "%.17g", ",", header=header, comments="")

    def environment(self) -> dict[str, str]:
        """In which the workspace's own code is run."""
        who = {f"GIT_{one}_{key}": "benchmark@example.org"
               for one in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}  # fmt: skip
        return {
            **os.environ, **who,
            "PYTHONPATH": str(self.folder / "src"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PREFECT_HOME": str(self.folder / ".prefect"),
            "PREFECT_API_URL": "",
        }  # fmt: skip

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command in the workspace, run to its end."""
        return subprocess.run(
            words, cwd=self.folder, env=self.environment(), capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def refresh(self, *words: str) -> str:
        """How a refresh ended."""
        start = time.monotonic()
        done = self.run(sys.executable, "-m", "flows.refresh", *words)
        last = [line for line in done.stderr.splitlines() if "Finished in state" in line]
        told = last[-1].split("Finished in state ")[-1] if last else done.stderr[-500:]
        return f"exit {done.returncode} after {time.monotonic() - start:.0f} s: {told}"

    def kill(self, seconds: float) -> None:
        """Start a refresh, and kill it without warning after a while."""
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.refresh"], cwd=self.folder, env=self.environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def champion(self) -> str:
        """Whether the champion passes its manifest."""
        try:
            return f"whole, {len(read_whole(self.folder / paths.CHAMPION))} files"
        except InputError as error:
            return f"NOT WHOLE: {error}"


def main(kills: int) -> None:
    """Print a line a situation."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))

        def show(situation: str, *words: str) -> None:
            print(f"{situation:<28} {workspace.refresh(*words)}; champion {workspace.champion()}")

        workspace.arrive(1, 0, 700)
        show("first", "--source", str(workspace.incoming))
        workspace.run("git", "add", "-A")
        workspace.run("git", "commit", "-qm", "first champion")
        show("nothing new")
        workspace.arrive(2, 700, 740)
        show("6% more of the same")
        workspace.arrive(3, 740, 1000)
        show("43% more of the same")
        workspace.arrive(4, 1000, 1400, turned=True)
        show("shifted", "--tag", "minor")
        show("and again", "--tag", "minor")
        print("tags:", workspace.run("git", "tag", "-n1").stdout.strip() or "none")
        workspace.arrive(5, 1400, 1797, turned=True)
        whole = 0
        for moment in np.random.default_rng(0).uniform(5, 60, kills):
            workspace.kill(moment)
            whole += workspace.champion().startswith("whole")
        print(f"{f'killed {kills} times':<28} champion whole {whole} times")
        show("and then")
        print(workspace.run("dvc", "status").stdout.strip())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
