"""Prefect's UI on this machine, with the compress flow ready to be run from it.

`python -m flows.serve` starts a server on 127.0.0.1 (port 4200, or PREFECT_SERVER_API_PORT) and
serves the flow for the workspace in the current directory. Ctrl-C ends both.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import Flow, flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

from flows.server import use_lasting_server
from secateur.errors import InputError
from tasks.command import MISTAKE

NAME = "compress"


def main() -> int:
    """Start the server and serve the flow until interrupted; return the exit code."""
    try:
        use_lasting_server()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return MISTAKE
    # Loaded from its source for each run: a flow that is served as an object takes along a copy of
    # every module that is not installed, and a class of a copy is not the class of the original.
    served = flow.from_source(source=str(Path.cwd()), entrypoint=f"flows.compress.{NAME}")
    assert isinstance(served, Flow)
    served.serve(
        name=NAME,
        description=served.description,
        global_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        ),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
