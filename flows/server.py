"""The Prefect server that a run talks to, and one that ends with the run if there is none."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time

import httpx
import prefect
from prefect.context import refresh_global_settings_context
from prefect.settings import get_current_settings

logger = logging.getLogger("prefect.server")

UI_PORT = int(os.environ.get("PREFECT_SERVER_API_PORT", "4200"))
START_SECONDS = 90.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05


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
        server = _start(port)
        if _answers(f"http://127.0.0.1:{port}/api/health", server):
            break
    else:
        raise RuntimeError("Prefect's temporary server did not start; see its messages above")
    # Registered before Prefect's own clean-up, so run after it: its last events still arrive.
    atexit.register(_stop, server)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    # It has no pages to look at, but keeps its runs where the server of `make ui` finds them.
    os.environ.setdefault("PREFECT_UI_URL", f"http://127.0.0.1:{UI_PORT}")
    # A server of our own that has gone will not come back: no use in asking it for a minute.
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "2")
    refresh_global_settings_context()


def _start(port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows.leash", "uvicorn", "--factory"]
    command += ["prefect.server.api.server:create_app", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--log-level", "error", "--lifespan", "on"]
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return subprocess.Popen(
        [*command, "--app-dir", os.path.dirname(prefect.__path__[0])],  # noqa: PTH120
        stdin=subprocess.PIPE,
        env={
            **os.environ,
            **settings,
            "PREFECT_UI_ENABLED": "0",
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
        },
        process_group=0,  # Ctrl-C is for the run, which still has a last word for the server
    )


def _answers(url: str, server: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client() as client:
        while server.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if client.get(url).is_success:
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
