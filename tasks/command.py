"""What every stage's command line does around its body."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable

from secateur.errors import InputError

MISTAKE = 2  # the exit code of a user's mistake


def main(body: Callable[..., None]) -> None:
    """Run a stage's body with the command line's words; a user's mistake exits with code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    words = sys.argv[1:]
    wanted = list(inspect.signature(body).parameters)
    if len(words) != len(wanted):
        _refuse(f"expected the words {wanted or 'none'}, got {words or 'none'}")
    try:
        body(*words)
    except InputError as error:
        _refuse(str(error))


def _refuse(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(MISTAKE)
