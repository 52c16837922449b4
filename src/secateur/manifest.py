"""A folder's manifest: the md5 of each of its files, in the form that `md5sum --check` reads.

A reader that finds what the manifest says has files of one and the same publication, whole.
"""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

from secateur import paths
from secateur.errors import InputError

_LINE = re.compile(r"([0-9a-f]{32})  (.+)")
_TRIES = 20
_SECONDS_BETWEEN_TRIES = 0.05


def write_manifest(folder: Path) -> None:
    """Write the manifest of all files in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = (
        f"{_md5(file.read_bytes())}  {file.relative_to(folder).as_posix()}\n" for file in files
    )
    (folder / paths.MANIFEST).write_text("".join(lines))


def read_whole(folder: Path) -> dict[str, bytes]:
    """The content of every file that a folder's manifest lists, checked against it.

    A folder may be replaced while it is read. What was read is then of two publications, does not
    fit the manifest, and is read again.

    Raises:
        InputError: there is no manifest, or the files are not those that it was written for.
    """
    problem = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_SECONDS_BETWEEN_TRIES)
        try:
            contents, problem = _read(folder)
        except FileNotFoundError as error:
            problem = f"{error.filename} is not there"
            continue
        if not problem:
            return contents
    raise InputError(f"{folder} cannot be used: {problem}")


def _read(folder: Path) -> tuple[dict[str, bytes], str]:
    """The files' contents, and what is wrong with them, if anything is."""
    listed = (folder / paths.MANIFEST).read_text()
    lines = [_LINE.fullmatch(line) for line in listed.splitlines()]
    if not lines or None in lines:
        return {}, f"{paths.MANIFEST} is not a list of md5s and names"
    wanted = {line[2]: line[1] for line in lines if line}
    contents = {name: (folder / name).read_bytes() for name in wanted}
    wrong = [name for name, md5 in wanted.items() if _md5(contents[name]) != md5]
    if wrong:
        return {}, f"{', '.join(wrong)} is not what {paths.MANIFEST} says; was it changed by hand?"
    return contents, ""


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
