"""Runs a module's command line, and ends when the process that started it does.

`python -m flows.leash uvicorn ...` is `python -m uvicorn ...` with a standard input that its
starter keeps open. A Prefect server started in the ordinary way outlives a flow that is killed.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Run the module that the command line names, on the leash of standard input."""
    threading.Thread(target=_end_with_starter, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with_starter() -> None:
    if os.read(0, 1):  # a word of goodbye: end in order
        os.kill(os.getpid(), signal.SIGTERM)
    else:  # the starter is gone without one
        os._exit(1)


if __name__ == "__main__":
    main()
