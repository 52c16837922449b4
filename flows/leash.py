"""What ends when the process that started it does, however that process ended.

`python -m flows.leash uvicorn ...` is `python -m uvicorn ...` with a standard input that its
starter keeps open. A Prefect server started in the ordinary way outlives a flow that is killed.

A flow that a worker or `make ui` started calls `end_with_starter`: it would go on where nobody
can cancel it, and stand in the way of the run that comes next.
"""

from __future__ import annotations

import asyncio
import logging
import os
import runpy
import signal
import sys
import threading
import time

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_END = 20.0
RECORDER = "prefect.server.services.task_run_recorder"  # complains of being ended amid a write


def main() -> None:
    """Run the module that the command line names, on the leash of standard input."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def end_with_starter() -> None:
    """From now on, end this process when the one that started it is gone."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def end_within(seconds: float) -> None:
    """End this process by then, whatever it still waits for."""
    threading.Thread(target=_end_later, args=(seconds,), daemon=True).start()


def _end_with_input() -> None:
    if os.read(0, 1):  # a word of goodbye: end in order
        logging.getLogger(RECORDER).addFilter(tells_of_more_than_ending)
        os.kill(os.getpid(), signal.SIGTERM)
    else:  # the starter is gone without one
        os._exit(1)


def tells_of_more_than_ending(record: logging.LogRecord) -> bool:
    """Whether it is no mere cancellation: what that interrupts is written as the server ends."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, asyncio.CancelledError)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)  # the run still tells the server how it ends
    _end_later(SECONDS_TO_END)  # but does not wait for one that is gone too


def _end_later(seconds: float) -> None:
    time.sleep(seconds)
    os._exit(1)


if __name__ == "__main__":
    main()
