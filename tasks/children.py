"""Stage bodies in processes of their own that need not import TensorFlow first.

A fork server imports it once; each body then runs in a fork of that server: it starts in
milliseconds, its memory goes back when it ends, seeds cannot race, and it can be killed.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import shlex
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

from secateur.errors import InputError

# What the stages import that is slow, but nothing of this project: a body runs the code as it is
# when the body starts. A name that is not installed is skipped.
PRELOADED = (
    "tensorflow",
    "keras",
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "scipy.stats",
    "sklearn.datasets",
    "sklearn.decomposition",
    "sklearn.metrics",
    "sklearn.model_selection",
    "matplotlib.pyplot",
    "ai_edge_litert.interpreter",
    "ai_edge_litert.tools.flatbuffer_utils",
    "jinja2",
    "pydantic.types",
    "yaml",
    "tasks.warm",
)
_NEEDS_A_SHELL = set("&|;<>$`*?#\n")


class Body(NamedTuple):
    """The function that a stage's command runs: `<module>.run(*words)`."""

    module: str
    words: tuple[str, ...]


class BodyError(Exception):
    """A body failed.

    Attributes:
        details: the traceback in the child, if it got that far.
    """

    def __init__(self, summary: str, details: str = "") -> None:
        super().__init__(summary)
        self.details = details


class StoppedError(Exception):
    """The body was ended because the whole run ends."""


def parse_command(command: str) -> Body:
    """The body behind a stage's command line.

    Raises:
        InputError: the command is not `python -m tasks.<stage> [word ...]`.
    """
    words = shlex.split(command)
    python, dash_m, module = (*words[:3], "", "", "")[:3]
    if (
        Path(python).name not in ("python", "python3")
        or dash_m != "-m"
        or not module.startswith("tasks.")
        or _NEEDS_A_SHELL & set(command)
    ):
        raise InputError(
            f"The flow cannot run the command {command!r}; it runs `python -m tasks.<stage> "
            "[word ...]`. Write the stage as a module in tasks/, or run it by `dvc repro`."
        )
    return Body(module, tuple(words[3:]))


class Children:
    """The processes in which bodies run. Leaving the context ends all of them."""

    def __init__(self, preload: tuple[str, ...] = PRELOADED) -> None:
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._alive: set[ForkServerProcess] = set()
        self._changing = threading.Lock()
        self._starting = threading.Lock()
        self._stopped = threading.Event()

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(
        self,
        body: Body,
        folder: Path,
        level: int,
        on_line: Callable[[int, str, dict[str, Any] | None], object],
    ) -> float:
        """Run a body to its end.

        Args:
            body: what to run.
            folder: the body's current directory.
            level: the least log level to pass on.
            on_line: called in this thread with level, message and training progress of every line
                that the body logs.

        Returns:
            Seconds spent in the body.

        Raises:
            InputError: the body met a user's mistake.
            BodyError: it raised something else, or its process died.
            StoppedError: `stop` was called.
        """
        # Imported here and not above: a deployment may carry this module along by value, and a
        # child can only be given functions that it finds under their names.
        child = importlib.import_module("tasks.child")
        reader, writer = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=child.run_body,
            args=(writer, body.module, body.words, str(folder), level),
            name=" ".join((body.module, *body.words)),
            daemon=True,
        )
        self._start(process)
        writer.close()  # the child holds the only other end: when it dies, reading ends
        try:
            last = self._listen(reader, child.Said, on_line)
            process.join()
        finally:
            process.kill()
            reader.close()
            with self._changing:
                self._alive.discard(process)
        return self._judge(child, last, process)

    def rest(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            StoppedError: `stop` was called.
        """
        if self._stopped.wait(seconds):
            raise StoppedError

    def stop(self) -> None:
        """End every body at once, and start no more."""
        with self._changing:
            self._stopped.set()
            for process in self._alive:
                process.kill()

    def _start(self, process: ForkServerProcess) -> None:
        """Start a process. The first waits for the fork server's imports, unless we are stopped."""
        starting = threading.Thread(target=self._start_quietly, args=(process,), daemon=True)
        starting.start()
        while starting.is_alive() and not self._stopped.is_set():
            starting.join(0.1)
        with self._changing:
            if self._stopped.is_set():
                if not starting.is_alive():
                    process.kill()
                raise StoppedError
            if process.pid is None:
                raise BodyError("its process could not be started; see the messages above")
            self._alive.add(process)

    def _start_quietly(self, process: ForkServerProcess) -> None:
        # The fork server inherits this thread's mask: a Ctrl-C that is meant for the flow would
        # else break its imports off with a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        with self._starting, _nothing_to_import():
            process.start()

    def _listen(
        self, reader: Connection, said: type[tuple[Any, ...]], on_line: Callable[..., object]
    ) -> Any:
        """Pass lines on until the child's last word, which is None if it died without one."""
        while True:
            try:
                word = reader.recv()
            except (EOFError, OSError):
                return None
            if not isinstance(word, said):
                return word
            on_line(*word)

    def _judge(self, child: Any, last: Any, process: ForkServerProcess) -> float:
        if isinstance(last, child.Done):
            return last.seconds
        if isinstance(last, child.Refused):
            raise InputError(last.message)
        if isinstance(last, child.Failed):
            raise BodyError(last.summary, last.traceback)
        if self._stopped.is_set():
            raise StoppedError
        raise BodyError(
            f"its process ended with exit code {process.exitcode} and without a word; "
            "was it killed, or is memory short?"
        )


@contextlib.contextmanager
def _nothing_to_import() -> Iterator[None]:
    """Hide the main module from a child that is being started.

    A new child imports its parent's main module before all else. Here that is a flow and all of
    Prefect: two seconds for every stage, of which a body needs nothing.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
