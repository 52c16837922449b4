"""Where a training stands, in a file, so that one that was killed can go on from there."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

SECONDS_BETWEEN = 10.0  # at least
WRITING_TO_TRAINING = 0.02  # the time that writing may take, as a share

Arrays = dict[str, list[np.ndarray]]
"""Lists of arrays by what they are: the model's variables, the optimizer's …"""


class Checkpoint:
    """A file that holds the state of one training, and of no other: it is known by a key.

    Written whole or not at all, now and then: never so often that training takes noticeably longer.
    """

    def __init__(self, path: Path | None, key: Callable[[], str]) -> None:
        """Name the file.

        Args:
            path: of the file; None keeps nothing.
            key: a digest of all that the training depends on; asked for when it is needed.
        """
        self._path = path
        self._make_key = key
        self._key: str | None = None
        self._next = time.monotonic() + SECONDS_BETWEEN

    def read(self) -> tuple[dict[str, Any], Arrays] | None:
        """The state in the file; None if there is none, or it belongs to another training."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                facts = json.loads(str(archive["facts"]))
                arrays = {
                    name: [archive[f"{name}/{place}"] for place in range(count)]
                    for name, count in facts.pop("counts").items()
                }
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logger.warning("%s is no checkpoint and is not used: %s", self._path, error)
            return None
        return (facts, arrays) if facts.pop("key") == self._known_key() else None

    def is_due(self) -> bool:
        """Whether it is time to write."""
        return self._path is not None and time.monotonic() >= self._next

    def write(self, facts: dict[str, Any], arrays: Arrays) -> None:
        """Replace what is in the file.

        Args:
            facts: plain JSON.
            arrays: all else.
        """
        if self._path is None:
            return
        start = time.monotonic()
        counts = {name: len(found) for name, found in arrays.items()}
        content = {
            f"{name}/{place}": array
            for name, found in arrays.items()
            for place, array in enumerate(found)
        }
        text = json.dumps({**facts, "counts": counts, "key": self._known_key()})
        self._path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._path.with_name(f".{self._path.name}.writing")
        with scratch.open("wb") as file:
            np.savez(file, facts=np.array(text), **content)  # type: ignore[arg-type]
        scratch.replace(self._path)
        now = time.monotonic()
        self._next = now + max(SECONDS_BETWEEN, (now - start) / WRITING_TO_TRAINING)

    def _known_key(self) -> str:
        if self._key is None:
            self._key = self._make_key()
        return self._key


def digest(facts: Any, arrays: Sequence[np.ndarray]) -> str:
    """A key that differs where the facts, an array, this code or what it stands on differs.

    Args:
        facts: plain JSON.
        arrays: of any size, memory-mapped ones too; read once, in order.
    """
    known = hashlib.blake2b(digest_size=20)
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    known.update(json.dumps([facts, versions], sort_keys=True).encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        known.update(file.read_bytes())
    for array in arrays:
        known.update(f"{array.dtype}{array.shape}".encode())
        flat = array.reshape(-1)
        for start in range(0, flat.size, 2**22):
            known.update(np.ascontiguousarray(flat[start : start + 2**22]).data)
    return known.hexdigest()
