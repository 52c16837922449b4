"""Prefect for real: a server, a worker, deployments, schedules, messages, cancelling, crashes.

Runs the pipeline of this project, with few epochs, in a temporary workspace as a deployment of a
real server with a process work pool, does to it what operators and accidents do, and prints what
came of it: the states that Prefect tells, the processes that are left, what the next run does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.flow_overhead import make_workspace

ENDLESS = ["baseline.training.epochs=1000000", "baseline.training.patience=1000000"]
LONG = ["baseline.training.epochs=4000", "baseline.training.patience=4000"]
SHORT = ["baseline.training.epochs=5", "baseline.training.patience=5"]
ENDED = {"Completed", "Cached", "Failed", "Refused", "Cancelled", "Crashed"}


def main() -> None:
    """Run all of it, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4260)
    parser.add_argument(
        "--database", help="address of a PostgreSQL, such as postgresql+asyncpg://…"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        site = Site(Path(folder), asked.port, asked.database)
        try:
            work(site, asked.only)
        finally:
            site.kill_all()


def work(site: Site, parts: list[str]) -> None:
    """What a day brings."""
    tell("server answers", site.start_server())
    site.prefect("work-pool", "create", "secateur", "--type", "process")
    tell("deployed", timed(lambda: site.prefect("--no-prompt", "deploy", "--all")))
    tell("worker polls", site.start_worker())
    set_up_messages(site)
    for part in parts:
        PARTS[part](site)
    tell("messages", "\n    ".join(["", *site.messages]))


def scheduled_run(site: Site) -> None:
    """A schedule that is due in seconds, and what its run shows."""
    due = datetime.now(UTC) + timedelta(seconds=15)
    rule = f"DTSTART:{due:%Y%m%dT%H%M%SZ}\nRRULE:FREQ=MINUTELY"
    deployment = site.get("deployments/name/compress/compress")
    asleep = [one["active"] for one in deployment["schedules"]]
    tell(
        "schedules of compress",
        f"{deployment['schedules'][0]['schedule']['cron']}, active {asleep}",
    )
    schedules = f"deployments/{deployment['id']}/schedules"
    soon = {"schedule": {"rrule": rule, "timezone": "UTC"}, "active": True, "slug": "soon"}
    (made,) = site.post(schedules, [soon])
    run = site.wait_for(lambda: site.newest(auto_scheduled=True, state_name="Running"))
    site.delete(f"{schedules}/{made['id']}")
    tell("scheduled", f"for {run['expected_start_time']}, created by {run['created_by']['type']}")
    second = site.start(target="prepare")
    tell("a second run beside it", site.ended(second))
    tell("the scheduled run", site.ended(run["id"]))
    states = {task["name"]: task["state_name"] for task in site.of_run(run["id"], "task_runs")}
    tell("its stages", json.dumps(states))
    artifacts = {one["key"]: one for one in site.of_run(run["id"], "artifacts")}
    tell("its artifacts", ", ".join(f"{key} ({one['type']})" for key, one in artifacts.items()))
    first, *_ = json.loads(artifacts["frontier"]["data"])
    tell("the frontier's first row", json.dumps(first, ensure_ascii=False))


def cancelled_runs(site: Site) -> None:
    """Cancelling, as the UI does it, in the middle of a training."""
    run = site.start_training(ENDLESS)
    start = time.monotonic()
    site.post(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    tell("cancelled in a training", f"{site.ended(run)} after {time.monotonic() - start:.1f} s")
    aftermath(site)


def killed(site: Site, what: str, how: signal.Signals) -> None:
    """A process or all of them ended in the middle of a training."""
    run = site.start_training(LONG if what == "server" else ENDLESS)
    start = time.monotonic()
    site.end(what, how)
    if how is signal.SIGTERM:
        time.sleep(5)
        tell(f"{what} asked to end", f"its run is {site.run(run)['state_name']}; asked again")
        site.end(what, how)
    if what in ("server", "everything"):
        site.wait_for(lambda: not site.flow_processes())
        tell("no process of the run after", f"{time.monotonic() - start:.1f} s")
        if what == "server":
            tell("its stage", site.dvc("status", "baseline"))
        site.start_server()
    if what in ("worker", "everything"):
        site.worker.wait()
        site.start_worker()
    state = site.ended(run)
    tell(f"{what} ended by {how.name}", f"{state} after {time.monotonic() - start:.1f} s")
    aftermath(site)


def server_back_soon(site: Site) -> None:
    """A server that is killed, and started again while its run goes on."""
    run = site.start_training(LONG)
    site.end("server", signal.SIGKILL)
    tell("server killed, answers again", site.start_server())
    tell("  its run", site.ended(run))
    aftermath(site)


PARTS: dict[str, Callable[[Site], None]] = {
    "schedule": scheduled_run,
    "cancel": cancelled_runs,
    "kill-flow": lambda site: killed(site, "flow", signal.SIGKILL),
    "kill-worker": lambda site: killed(site, "worker", signal.SIGKILL),
    "stop-worker": lambda site: killed(site, "worker", signal.SIGTERM),
    "kill-server": lambda site: killed(site, "server", signal.SIGKILL),
    "restart-server": server_back_soon,
    "power-cut": lambda site: killed(site, "everything", signal.SIGKILL),
}


def aftermath(site: Site) -> None:
    """What is left, and what the next run does."""
    site.wait_for(lambda: not site.flow_processes())
    outs = site.workspace / "models/baseline"
    half = [path for path in outs.rglob("*") if path.is_file()] if not site.recorded() else []
    state = site.ended(site.start(overrides=SHORT, target="baseline"))
    tell("  processes left, half-written files, next run", f"0, {len(half)}, {state}")


def set_up_messages(site: Site) -> None:
    """Messages of failed runs and promotions, to a receiver here."""
    code = f"""
from prefect.blocks.webhook import Webhook
Webhook(url="http://127.0.0.1:{site.receive_messages()}/").save("here")
"""
    site.python("-c", code)
    told = site.python("-m", "flows.automations", "--notify", "webhook/here")
    tell("automations", "; ".join(told.splitlines()))
    code = "from tasks.monitoring import announce_promotion as a; a('here', 'a smaller one')"
    site.wait_for(lambda: (site.python("-c", code), time.sleep(1), site.messages)[2])
    refused = site.start(target="no such stage")
    tell("a run that cannot be", site.ended(refused))


class Site:
    """A workspace, a server, a worker, all on this machine and under one temporary folder."""

    def __init__(self, folder: Path, port: int, database: str | None) -> None:
        self.workspace = make_workspace(folder / "workspace")
        self.messages: list[str] = []
        self._port = port
        self._log = (folder / "log").open("w")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._api = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/", timeout=60)
        self._environment = {
            **{name: value for name, value in os.environ.items() if "PREFECT" not in name},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.workspace / "src"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "DO_NOT_TRACK": "1",
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            **({"PREFECT_SERVER_DATABASE_CONNECTION_URL": database} if database else {}),
        }

    @property
    def worker(self) -> subprocess.Popen[bytes]:
        """The worker that was started last."""
        return self._processes["worker"]

    def start_server(self) -> str:
        """Start the server, and tell how long that took."""
        command = ("server", "start", "--host", "127.0.0.1", "--port", str(self._port))
        return self._start("server", command, self._answers)

    def start_worker(self) -> str:
        """Start a worker, and tell how long that took."""
        command = ("worker", "start", "--pool", "secateur", "--name", f"worker {time.time():.0f}")
        return self._start("worker", command, self._polls)

    def _start(self, name: str, command: tuple[str, ...], ready: Callable[[], object]) -> str:
        start = time.monotonic()
        self._processes[name] = subprocess.Popen(
            ["prefect", *command],
            cwd=self.workspace,
            env=self._environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self.wait_for(ready)
        return f"after {time.monotonic() - start:.1f} s"

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self._api.get("health").is_success
        return False

    def _polls(self) -> bool:
        workers = self.post("work_pools/secateur/workers/filter", {})
        return any(
            one["status"] == "ONLINE" and one["name"] in " ".join(self.worker.args)  # type: ignore[arg-type]
            for one in workers
        )

    def end(self, what: str, how: signal.Signals) -> None:
        """Send a signal to the flow, the worker, the server or everything."""
        engine = [process for process in self.flow_processes() if "prefect.engine" in cmd(process)]
        worker = [psutil.Process(self.worker.pid)]
        server = self._children_of_server()
        targets = {
            "flow": engine,
            "worker": worker,
            "server": server,
            "everything": [*self.flow_processes(), *worker, *server],
        }[what]
        assert targets
        for process in targets:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(how)
        if what in ("server", "everything"):
            self._processes["server"].wait()

    def _family(self, name: str) -> list[psutil.Process]:
        parent = psutil.Process(self._processes[name].pid)
        return [parent, *parent.children(recursive=True)]

    def flow_processes(self) -> list[psutil.Process]:
        """Everything in the workspace's folder but the server and the worker."""
        ours = {process.pid for process in self._processes.values()}
        ours |= {child.pid for child in self._children_of_server()}
        return [
            process
            for process in psutil.process_iter()
            if process.pid not in ours and self._is_here(process)
        ]

    def _children_of_server(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return self._family("server")
        return []

    def _is_here(self, process: psutil.Process) -> bool:
        try:
            here = Path(process.cwd()).is_relative_to(self.workspace)
            return here and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            return False

    def kill_all(self) -> None:
        """End whatever is left of it."""
        for process in self.flow_processes():
            process.kill()
        for name in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in self._family(name):
                    process.kill()

    def prefect(self, *words: str) -> str:
        """What a Prefect command says."""
        return self._command("prefect", *words)

    def python(self, *words: str) -> str:
        """What a Python program prints."""
        return self._command(sys.executable, *words)

    def dvc(self, *words: str) -> str:
        """What DVC says."""
        return self._command("dvc", *words).strip()

    def _command(self, *words: str) -> str:
        done = subprocess.run(
            words,
            cwd=self.workspace,
            env=self._environment,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{words} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def get(self, path: str) -> Any:
        """What the server answers."""
        return self._api.get(path).raise_for_status().json()

    def post(self, path: str, content: Any) -> Any:
        """What the server answers."""
        return self._api.post(path, json=content).raise_for_status().json()

    def delete(self, path: str) -> None:
        """Have the server forget something."""
        self._api.delete(path).raise_for_status()

    def start(self, **parameters: Any) -> str:
        """Start a run of the deployment, and return its id."""
        deployment = self.get("deployments/name/compress/compress")["id"]
        asked = {"parameters": {"retries": 0, **parameters}, "state": {"type": "SCHEDULED"}}
        return str(self.post(f"deployments/{deployment}/create_flow_run", asked)["id"])

    def start_training(self, overrides: list[str]) -> str:
        """Start a run that trains for long, and wait until it does."""
        run = self.start(overrides=overrides, target="baseline")
        self.wait_for(lambda: self.of_run(run, "artifacts"))
        return run

    def newest(self, **wanted: Any) -> dict[str, Any] | None:
        """The newest run with certain properties."""
        runs = self.post("flow_runs/filter", {"sort": "START_TIME_DESC"})
        return next((r for r in runs if all(r[k] == v for k, v in wanted.items())), None)

    def run(self, run: str) -> dict[str, Any]:
        """A run as the server knows it."""
        return dict(self.get(f"flow_runs/{run}"))

    def of_run(self, run: str, what: str) -> list[dict[str, Any]]:
        """The task runs or artifacts of a run."""
        return list(self.post(f"{what}/filter", {"flow_runs": {"id": {"any_": [run]}}}))

    def ended(self, run: str) -> str:
        """The state in which a run ends, with its message."""
        self.wait_for(lambda: self.run(run)["state_name"] in ENDED)
        state = self.run(run)["state"]
        return f"{state['name']} ({state['message']})"

    def recorded(self) -> bool:
        """Whether DVC knows the baseline as it is."""
        return "up to date" in self.dvc("status", "baseline")

    def wait_for(self, so: Callable[[], Any], seconds: float = 240) -> Any:
        """What `so` returns once it is something."""
        deadline = time.monotonic() + seconds
        while not (found := so()):
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.2)
        return found

    def receive_messages(self) -> int:
        """Collect what is posted to a port of this machine, and return the port."""
        messages = self.messages

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                messages.append(self.rfile.read(length).decode())
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Receiver)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_port


def cmd(process: psutil.Process) -> str:
    """The command line of a process; empty if it is gone."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def timed(do: Callable[[], object]) -> str:
    """How long it takes."""
    start = time.monotonic()
    do()
    return f"after {time.monotonic() - start:.1f} s"


def tell(what: str, seen: str) -> None:
    """Print a line."""
    print(f"{what}: {seen}", flush=True)


if __name__ == "__main__":
    main()
