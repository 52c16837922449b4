"""A workspace whose stages take milliseconds, to test what drives stages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

DVC_YAML = """\
stages:
  start:
    desc: Copy the raw text
    cmd: python -m tasks.start
    deps: [raw.txt, tasks/start.py]
    params: [seed]
    outs: [data/start]
  side:
    foreach: [a, b]
    do:
      cmd: python -m tasks.side ${item}
      deps: [data/start, tasks/side.py]
      outs: ['data/sides/${item}']
  join:
    cmd: python -m tasks.join
    deps: [data/sides, tasks/join.py]
    outs: [data/join]
  alone:
    cmd: python -m tasks.alone
    deps: [data/start, tasks/alone.py]
    outs: [data/alone]
    meta: {exclusive: true}
"""

PARAMS = """\
# What a comment says stays.
seed: 0
rounds: {}
guard:
  tolerance: 0.10 # beside a value
"""

# The toy's own stages beside the real package's versioning, children and so on.
INIT = '__path__ = __import__("pkgutil").extend_path(__path__, __name__)\n'

BODY = """\
import logging, os, sys, time
from pathlib import Path
from secateur.errors import InputError
from secateur.paths import publishing

logger = logging.getLogger("tasks.toy")

def run(*words):
    name = "_".join((NAME, *words))
    with open("runs.log", "a") as log:
        log.write(f"start {name}\\n")
    logger.info("hello from %s", name)
    mode = os.environ.get(f"TOY_{name}")
    if mode == "fail":
        raise RuntimeError("broken on purpose")
    if mode == "mistake":
        raise InputError("3 rows hold NaN, allowed: finite numbers")
    if mode == "die":
        os._exit(9)
    if mode == "nothing":
        return
    with publishing(Path(OUT, *words)) as folder:
        files = [path for path in [Path(IN), *sorted(Path(IN).rglob("*"))] if path.is_file()]
        texts = [path.read_text() for path in files]
        (folder / "text.txt").write_text("+".join(texts) + name[-1])
        if mode == "sleep":
            Path("asleep").write_text(str(os.getpid()))
            time.sleep(120)
    for epoch in range(1, 4):
        logger.info("epoch %d", epoch, extra={"progress": {
            "name": name, "epoch": epoch, "epochs": 3, "loss": 1 / epoch,
            "validation_loss": 2 / epoch, "eta_seconds": 3.0 - epoch}})
    time.sleep(float(os.environ.get("TOY_SECONDS", 0)))
    with open("runs.log", "a") as log:
        log.write(f"end {name}\\n")

if __name__ == "__main__":
    try:
        run(*sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
"""

STAGES = {
    "start": ("raw.txt", "data/start"),
    "side": ("data/start", "data/sides"),
    "join": ("data/sides", "data/join"),
    "alone": ("data/start", "data/alone"),
}
EVERY_STAGE = ["start", "side@a", "side@b", "join", "alone"]


def make_toy(folder: Path) -> Path:
    """A git and DVC workspace of five stages: start, side@a and side@b, join, alone."""
    (folder / "tasks").mkdir(parents=True)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "raw.txt").write_text("r")
    (folder / ".dvcignore").write_text("__pycache__\n")
    (folder / ".gitignore").write_text("/data\n/.scratch\n")
    (folder / "tasks/__init__.py").write_text(INIT)
    for name, (source, out) in STAGES.items():
        header = f"NAME, IN, OUT = {name!r}, {source!r}, {out!r}\n"
        (folder / f"tasks/{name}.py").write_text(header + BODY)
    (folder / "stubs").mkdir()
    for name in ("tensorflow", "keras", "sklearn", "matplotlib", "scipy", "ai_edge_litert"):
        # What the fork server imports: in no time, and leaving a trace.
        (folder / f"stubs/{name}.py").write_text(
            "from pathlib import Path; Path(__file__).with_suffix('.imported').touch()\n"
        )
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    run(["git", "init", "-q"], folder)
    return folder


def run(words: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command run in a workspace, with this project's code and Python in reach."""
    return subprocess.run(
        words,
        cwd=folder,
        env=workspace_environment(folder, **environment),
        text=True,
        capture_output=True,
        timeout=180,
        check=False,
    )


def workspace_environment(folder: Path, **environment: str) -> dict[str, str]:
    """The environment in which a workspace's commands find this project."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{folder}/stubs:{ROOT}:{ROOT}/src",
        **environment,
    }
