"""Versions of the champion in git, named as DVC and GTO name those of artifacts: `champion@v0.0.1`.

An annotated tag stands at a commit whose `dvc.lock` names the champion's files, so that
`dvc artifacts get URL champion --rev v0.0.1` finds them.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml

from secateur import paths
from secateur.errors import InputError

NAME = "champion"
LOCK = Path("dvc.lock")
Step = Literal["patch", "minor", "major"]


class TaggingError(Exception):
    """Git refused; the message is its own."""


def check(own: Iterable[Path]) -> None:
    """See that a version could be tagged now.

    Args:
        own: files that a refresh changes and commits by itself.

    Raises:
        InputError: other files that git tracks differ from the last commit, which would then not
            be what made the model; or there is no commit.
    """
    if _git("rev-parse", "--verify", "--quiet", "HEAD", check=False) == "":
        raise InputError("there is no commit to tag; `git commit` what makes the model first")
    ours = {path.as_posix() for path in (LOCK, *own)}
    changed = [
        line[3:]
        for line in _git("status", "--porcelain", "--untracked-files=no").splitlines()
        if line[3:] not in ours
    ]
    if changed:
        raise InputError(
            f"a tag is asked for, but {', '.join(changed)} differ from the last commit; commit or "
            "undo that first"
        )


def tag(message: str, step: Step, own: Iterable[Path]) -> str | None:
    """Commit the records of what serves, and tag the commit.

    Args:
        message: of the tag.
        step: which part of the version to raise; the first is v0.0.1.
        own: files to commit beside `dvc.lock`, where they changed.

    Returns:
        The tag's name; None if what serves has one already.

    Raises:
        InputError: see `check`.
        TaggingError: git refuses, for want of a name and address, say.
    """
    check(own)
    last = _last()
    if last and _served(LOCK.read_text()) == _served(_git("show", f"{last}:{LOCK}", check=False)):
        return None
    files = [path.as_posix() for path in (LOCK, *own) if path.exists()]
    _git("add", "--", *files)
    if _git("status", "--porcelain", "--untracked-files=no", "--", *files):
        _git("commit", "--quiet", "--message", message, "--only", "--", *files)
    return _register(message, step)


def _register(message: str, step: Step) -> str | None:
    from gto.api import register
    from gto.exceptions import GTOException, VersionExistsForCommit

    raised: dict[str, Any] = {f"bump_{step}": True} if _last() else {}
    try:
        return str(register(".", NAME, "HEAD", message=message, **raised).tag)
    except VersionExistsForCommit:
        return None
    except (GTOException, ValueError) as error:
        raise TaggingError(str(error)) from None


def _last() -> str:
    """The tag of the highest version; empty if there is none."""
    tags = _git("tag", "--list", f"{NAME}@v*", "--sort=-version:refname").splitlines()
    return next((name for name in tags if re.fullmatch(rf"{NAME}@v\d+\.\d+\.\d+", name)), "")


def _served(lock: str) -> Any:
    """What a `dvc.lock` says that serves: the champion's md5; None if it says nothing."""
    stages = (yaml.safe_load(lock) or {}).get("stages", {}) if lock else {}
    outs = stages.get(NAME, {}).get("outs", ())
    return next((out["md5"] for out in outs if out["path"] == paths.CHAMPION.as_posix()), None)


def _git(*words: str, check: bool = True) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode and check:
        raise TaggingError(f"git {words[0]}: {(done.stderr or done.stdout).strip()}")
    return "" if done.returncode else done.stdout.rstrip("\n")
