"""The Prefect server that a run talks to, and one that ends with the run if there is none."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import prefect
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.context import refresh_global_settings_context
from prefect.exceptions import PrefectException
from prefect.logging.handlers import APILogHandler
from prefect.settings import get_current_settings
from prefect.states import Crashed

from flows.leash import end_within
from secateur import paths
from secateur.errors import InputError

START_SECONDS = 90.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_UNTIL_GONE = 3.0
SECONDS_TO_COME_BACK = 60.0


def use_server() -> None:
    """Make sure that Prefect has a server to talk to.

    If none is configured, starts Prefect's own temporary server. Prefect would do that too, but
    its server survives when this process is killed; this one does not.

    Raises:
        RuntimeError: the temporary server does not start.
    """
    if get_current_settings().api.url:
        return
    for _ in range(3):  # another program may take the port before the server does
        port = _free_port()
        server = _start(
            *("uvicorn", "--factory", "prefect.server.api.server:create_app"),
            *("--host", "127.0.0.1", "--port", str(port), "--log-level", "error"),
            *("--app-dir", str(Path(prefect.__path__[0]).parent), "--lifespan", "on"),
            PREFECT_UI_ENABLED="0",
            PREFECT__SERVER_EPHEMERAL="1",
            PREFECT__SERVER_FINAL="1",
        )
        if _answers(port, server):
            break
    else:
        raise RuntimeError("Prefect's temporary server did not start; see its messages above")
    # It has no pages to look at, but keeps its runs where the server of `make ui` finds them.
    os.environ.setdefault("PREFECT_UI_URL", f"http://127.0.0.1:{ui_port()}")
    # A server of our own that has gone will not come back: no use in asking it for a minute.
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "2")
    _talk_to(port, server)


def use_lasting_server() -> str:
    """Start a Prefect server with its UI on this machine, for as long as this process lasts.

    Returns:
        The address of the UI.

    Raises:
        InputError: the port is taken.
        RuntimeError: the server does not start.
    """
    port = ui_port()
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise InputError(
                f"Port {port} of 127.0.0.1 is taken, by another Prefect server? End that one, or "
                "set PREFECT_SERVER_API_PORT to a free port"
            )
    address = f"http://127.0.0.1:{port}"
    # The UI would else look for its server at the default port.
    os.environ["PREFECT_SERVER_API_PORT"] = str(port)
    server = _start(
        *("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)),
        PREFECT_API_URL=f"{address}/api",
    )
    if not _answers(port, server):
        raise RuntimeError("Prefect's server did not start; see its messages above")
    _talk_to(port, server)
    return address


def ui_port() -> int:
    """Where the UI of a server on this machine is."""
    return int(os.environ.get("PREFECT_SERVER_API_PORT", "4200"))


@contextlib.contextmanager
def noted_run() -> Iterator[None]:
    """Note the run that holds the workspace, and tell Prefect of one that died while it did.

    A run that is killed says nothing: without this, Prefect would show it as running forever.
    """
    if paths.FLOW_RUN.exists():
        _bury(paths.FLOW_RUN.read_text())
    paths.FLOW_RUN.parent.mkdir(exist_ok=True)
    paths.FLOW_RUN.write_text(str(runtime.flow_run.id or ""))
    try:
        yield
    finally:
        paths.FLOW_RUN.unlink(missing_ok=True)


def _bury(run: str) -> None:
    # It may be of another server, or no id at all; whatever is wrong, today's run goes on.
    with (
        contextlib.suppress(ValueError, PrefectException, httpx.HTTPError),
        get_client(sync_client=True) as client,
    ):
        state = client.read_flow_run(UUID(run)).state
        if state is not None and not state.is_final():
            message = "Its process ended without a word; the next run in its workspace found that"
            client.set_flow_run_state(UUID(run), Crashed(message=message), force=True)


def _talk_to(port: int, server: subprocess.Popen[bytes]) -> None:
    # Registered before Prefect's own clean-up, so run after it: its last events still arrive.
    atexit.register(_stop, server)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    refresh_global_settings_context()


def _start(*command: str, **environment: str) -> subprocess.Popen[bytes]:
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return subprocess.Popen(
        [sys.executable, "-m", "flows.leash", *command],
        stdin=subprocess.PIPE,
        env={**os.environ, **settings, **environment},
        process_group=0,  # Ctrl-C is for the run, which still has a last word for the server
    )


def _answers(port: int, server: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client() as client:
        while server.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if client.get(f"http://127.0.0.1:{port}/api/health").is_success:
                    return True
            time.sleep(POLL_SECONDS)
    _stop(server)
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        server.communicate(b"goodbye", timeout=STOP_SECONDS)
    if server.poll() is None:
        server.kill()
        server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerWatch:
    """Knows whether Prefect's server still answers, and lets a run go on without it.

    Attributes:
        gone: whether the server stopped answering.
    """

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
        self.gone = False
        self._logger = logger
        self._url = get_current_settings().api.url
        self._over = threading.Event()
        self._silenced: list[tuple[logging.Logger, APILogHandler]] = []

    def __enter__(self) -> ServerWatch:
        if self._url:
            threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.gone:
            # Prefect cannot note the end of the run, which is all that it has left to say.
            logging.getLogger("prefect.flow_runs").setLevel(logging.CRITICAL + 1)
            if runtime.deployment.id:
                end_within(SECONDS_TO_COME_BACK)

    def _look(self) -> None:
        answered = time.monotonic()
        with httpx.Client(timeout=SECONDS_UNTIL_GONE) as client:
            while not self._over.wait(SECONDS_BETWEEN_LOOKS):
                # Any answer will do: one that wants a password comes from a server that is there.
                with contextlib.suppress(httpx.HTTPError):
                    client.get(f"{self._url}/health")
                    answered = time.monotonic()
                away = time.monotonic() - answered > SECONDS_UNTIL_GONE
                if away and not self.gone:
                    self._go_on_alone()
                elif self.gone and not away:
                    self._go_on_together()

    def _go_on_alone(self) -> None:
        self.gone = True
        for name in ("prefect.flow_runs", "prefect.task_runs"):
            prefect_logger = logging.getLogger(name)
            for handler in list(prefect_logger.handlers):
                if isinstance(handler, APILogHandler):
                    prefect_logger.removeHandler(handler)
                    self._silenced.append((prefect_logger, handler))
        for name in _COMPLAINERS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self._logger.warning(
            "Prefect's server does not answer any more. The stages go on and DVC records them, "
            "but Prefect will not show it."
        )

    def _go_on_together(self) -> None:
        self.gone = False
        for prefect_logger, handler in self._silenced:
            prefect_logger.addHandler(handler)
        self._silenced.clear()
        for name in _COMPLAINERS:
            logging.getLogger(name).setLevel(logging.NOTSET)
        self._logger.warning("Prefect's server answers again")


# Who goes on and on about a server that does not answer.
_COMPLAINERS = ("prefect.events", "prefect._internal.concurrency", "EventsWorker")
