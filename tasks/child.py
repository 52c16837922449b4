"""The inside of a child process that runs one stage's body."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from secateur.errors import InputError


class Said(NamedTuple):
    """A line of the body's log."""

    level: int
    message: str
    progress: dict[str, Any] | None


class Done(NamedTuple):
    """The body returned."""

    seconds: float


class Refused(NamedTuple):
    """The body met a user's mistake."""

    message: str


class Failed(NamedTuple):
    """The body raised something else."""

    summary: str
    traceback: str


def run_body(
    parent: Connection, module: str, words: tuple[str, ...], folder: str, level: int
) -> None:
    """Run `module.run(*words)` in `folder`, and tell the parent of it as it goes.

    Every word to the parent is one of this module's tuples; the last is Done, Refused or Failed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C too, and ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(folder)
    logging.root.handlers = [_ToParent(parent)]
    logging.root.setLevel(level)
    logging.captureWarnings(True)
    parent.send(_outcome(module, words))
    parent.close()


def _outcome(module: str, words: tuple[str, ...]) -> Done | Refused | Failed:
    try:
        body = importlib.import_module(module).run
        start = time.perf_counter()
        body(*words)
        return Done(time.perf_counter() - start)
    except InputError as error:
        return Refused(str(error))
    except BaseException as error:  # the parent decides what a SystemExit is worth
        summary = traceback.format_exception_only(error)[-1].strip()
        return Failed(summary, traceback.format_exc())


def _end_with_parent() -> None:
    """End at once when the parent is gone: a body that goes on would write beside the next run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _ToParent(logging.Handler):
    def __init__(self, parent: Connection) -> None:
        super().__init__()
        self._parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        try:
            progress = getattr(record, "progress", None)
            self._parent.send(Said(record.levelno, self.format(record), progress))
        except OSError:  # the parent is gone, and so will we be in a moment
            pass
