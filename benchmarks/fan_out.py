"""Eight equal trials on every engine of a study, beside one after the other: wall time.

Runs `flows.study` on digits with a small network and few epochs, each time in a new workspace in a
temporary folder: one ladder on eight seeds. Equal trials cost equal work, so what an engine takes
beyond its share is the engine. The data and the baselines are made anew by every engine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ROOT = Path(__file__).parents[1]
TRAINING = {"batch": 32, "learning_rate": 0.003, "patience": 1000}
PARAMS: dict[str, Any] = {
    "data": {"source": "digits", "path": "data/raw"},
    "baseline": {"widths": [64, 32], "code": 8, "training": {**TRAINING, "epochs": 20}},
    "rounds": {
        "round_1": {
            "parent": "baseline",
            "options": {"keep": 0.75},
            "recovery": {**TRAINING, "epochs": 20},
        }
    },
    "guard": {"tolerance": 5.0},
}
WAYS = {
    "serial": ("threads", 1),
    "threads": ("threads", 2),
    "processes": ("processes", 2),
    "dask": ("dask", 2),
    "ray": ("ray", 2),
}


def main() -> None:
    """Run the study on every engine, and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    asked = parser.parse_args()
    print(f"{asked.trials} trials on {os.cpu_count()} cores")
    print(f"{'':10} {'workers':>7} {'wall (s)':>8} {'to serial':>9} {'to the first trial (s)':>22}")
    serial, shares = None, set()
    for way in asked.ways:
        engine, workers = WAYS[way]
        if engine == "ray" and importlib.util.find_spec("ray") is None:
            print(f"{way:10} not installed; `make ray` brings it")
            continue
        wall, first, share = timed_study(engine, workers, asked.trials)
        serial = serial or wall
        shares.add(share)
        print(f"{way:10} {workers:7} {wall:8.1f} {wall / serial:9.2f} {first:22.1f}", flush=True)
    print(f"every engine found the same champions: {len(shares) == 1}")


def timed_study(engine: str, workers: int, trials: int) -> tuple[float, float, float]:
    """Seconds of a study, seconds until its first trial began, and the mean share it found."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data/raw").mkdir(parents=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
        start, began = time.monotonic(), time.time()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "flows.study", "-V", "guard.tolerance=[5.0]"),
                *("--seeds", ",".join(map(str, range(trials)))),
                *("--engine", engine, "--workers", str(workers)),
            ],
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            text=True,
            check=False,
        )
        wall = time.monotonic() - start
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        locks = (folder / ".scratch/study/trials").glob("*/trial.lock")
        first = min(lock.stat().st_mtime for lock in locks) - began
        table = pd.read_csv(folder / "reports/study/trials.csv")
        assert (table["state"] == "completed").sum() == trials
        return wall, first, float(table["mse_to_baseline"].mean())


def environment(folder: Path) -> dict[str, str]:
    """One thread a trial, a Prefect of its own, and this project's code."""
    threads = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "OPENBLAS_NUM_THREADS")
    others = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **others,
        **dict.fromkeys(threads, "1"),
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "PREFECT_HOME": str(folder / ".prefect"),
    }


if __name__ == "__main__":
    main()
