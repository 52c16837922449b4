"""Prefect's UI on this machine, with the flows ready to be run from it.

`python -m flows.serve` starts a server on 127.0.0.1 (port 4200, or PREFECT_SERVER_API_PORT) and
serves the deployments of prefect.yaml for the workspace in the current directory. Ctrl-C ends both.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow, flow, serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Schedule

from flows.automations import set_up
from flows.server import use_lasting_server
from secateur.errors import InputError
from tasks.command import MISTAKE

DEPLOYMENTS = Path("prefect.yaml")


def main() -> int:
    """Start the server and serve the flows until interrupted; return the exit code."""
    try:
        wanted = read_deployments()
        use_lasting_server()
        set_up()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return MISTAKE
    # Schedules stay as they are when this ends: who woke one wants it awake the next time, too.
    serve(*map(make_deployment, wanted), pause_on_shutdown=False)
    return 0


def read_deployments() -> list[dict[str, Any]]:
    """The deployments as `prefect deploy` would read them.

    Raises:
        InputError: there are none in the current directory.
    """
    if not DEPLOYMENTS.exists():
        raise InputError(
            f"{DEPLOYMENTS} is not here; run from a workspace's top folder, the one that holds "
            "dvc.yaml"
        )
    return list(yaml.safe_load(DEPLOYMENTS.read_text())["deployments"])


def make_deployment(wanted: dict[str, Any]) -> RunnerDeployment:
    """One deployment, its schedules awake or asleep as the server knows them."""
    # Loaded from its source for each run: a flow that is served as an object takes along a copy of
    # every module that is not installed, and a class of a copy is not the class of the original.
    served = flow.from_source(source=str(Path.cwd()), entrypoint=wanted["entrypoint"])
    assert isinstance(served, Flow)
    awake = _awake(f"{served.name}/{wanted['name']}")
    schedules = [
        Schedule(**{**schedule, "active": awake.get(schedule["slug"], schedule["active"])})
        for schedule in wanted["schedules"]
    ]
    deployment = served.to_deployment(
        name=wanted["name"],
        description=served.description,
        tags=wanted["tags"],
        parameters=wanted.get("parameters"),
        schedules=schedules,
        concurrency_limit=ConcurrencyLimitConfig(**wanted["concurrency_limit"]),
    )
    assert isinstance(deployment, RunnerDeployment)
    return deployment


def _awake(name: str) -> dict[str | None, bool]:
    with get_client(sync_client=True) as client:
        try:
            known = client.read_deployment_by_name(name)
        except ObjectNotFound:
            return {}
    return {schedule.slug: schedule.active for schedule in known.schedules}


if __name__ == "__main__":
    sys.exit(main())
