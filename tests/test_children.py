"""Bodies run in processes of their own, and nothing of them outlives the run."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from secateur.errors import InputError
from tasks.children import BodyError, Children, StoppedError, parse_command

BODY = """\
import logging, os, sys, time, warnings
from pathlib import Path
from secateur.errors import InputError
logger = logging.getLogger("tasks.x")

def run(what):
    logger.debug("too quiet")
    if what == "speak":
        logger.warning("%d rows", 3, extra={"progress": {"epoch": 1}})
        warnings.warn("constant column")
        Path("main.txt").write_text(str("pytest" in sys.modules))
    if what == "mistake":
        raise InputError("got 1, allowed: 2")
    if what == "fail":
        raise KeyError("lost")
    if what == "exit":
        sys.exit(3)
    if what == "die":
        os._exit(9)
    if what == "sleep":
        Path("asleep").write_text(str(os.getpid()))
        time.sleep(60)
"""


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/in_child_only.py").write_text(BODY)
    monkeypatch.setattr("tasks.__path__", [*sys.modules["tasks"].__path__])
    monkeypatch.syspath_prepend(str(tmp_path))
    # In the child, the package's first part is found here; extending it lends it the real one.
    (tmp_path / "tasks/__init__.py").write_text(
        '__path__ = __import__("pkgutil").extend_path(__path__, __name__)\n'
    )
    forkserver._forkserver._stop()  # one that other tests began has imported the real package
    with Children(preload=()) as children:
        yield children


def run(children: Children, what: str, folder: Path) -> list[tuple[int, str, Any]]:
    lines: list[tuple[int, str, Any]] = []
    body = parse_command(f"python -m tasks.in_child_only {what}")
    seconds = children.run(body, folder, logging.INFO, lambda *line: lines.append(line))
    assert 0 <= seconds < 30
    return lines


def test_command_is_a_module_and_its_words() -> None:
    assert parse_command("python -m tasks.shrink round_1") == ("tasks.shrink", ("round_1",))
    assert parse_command("python3 -m tasks.report") == ("tasks.report", ())


@pytest.mark.parametrize(
    "command",
    [
        "echo hello",
        "python tasks/shrink.py",
        "python -m secateur.shrink",
        "python -m tasks.shrink && rm x",
        "python -m tasks.a\npython -m tasks.b",
        "python",
        "",
    ],
)
def test_other_commands_are_refused(command: str) -> None:
    with pytest.raises(InputError, match="it runs `python -m tasks"):
        parse_command(command)


def test_lines_arrive_at_their_levels(children: Children, tmp_path: Path) -> None:
    first, second = run(children, "speak", tmp_path)
    assert first == (logging.WARNING, "3 rows", {"epoch": 1})
    assert second[0] == logging.WARNING
    assert "constant column" in second[1]


def test_child_imports_nothing_of_its_parents_main_module(
    children: Children, tmp_path: Path
) -> None:
    run(children, "speak", tmp_path)
    assert (tmp_path / "main.txt").read_text() == "False"


def test_mistake_comes_back_as_one(children: Children, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^got 1, allowed: 2$"):
        run(children, "mistake", tmp_path)


def test_failure_comes_back_with_its_traceback(children: Children, tmp_path: Path) -> None:
    with pytest.raises(BodyError, match="KeyError: 'lost'") as caught:
        run(children, "fail", tmp_path)
    assert "in_child_only.py" in caught.value.details
    with pytest.raises(BodyError, match="SystemExit: 3"):
        run(children, "exit", tmp_path)


def test_death_is_told(children: Children, tmp_path: Path) -> None:
    with pytest.raises(BodyError, match="exit code 9"):
        run(children, "die", tmp_path)


def wait_for_end_of(process: int) -> None:
    for _ in range(500):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError(f"{process} is still there")


def test_stop_ends_a_body_at_once(children: Children, tmp_path: Path) -> None:
    asleep = tmp_path / "asleep"

    def stop_when_asleep() -> None:
        while not asleep.exists() or not asleep.read_text():
            time.sleep(0.01)
        children.stop()

    threading.Thread(target=stop_when_asleep, daemon=True).start()
    with pytest.raises(StoppedError):
        run(children, "sleep", tmp_path)
    wait_for_end_of(int(asleep.read_text()))
    with pytest.raises(StoppedError):
        run(children, "speak", tmp_path)
