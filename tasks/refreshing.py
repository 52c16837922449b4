"""The steps of a refresh around its ladder, each of which may be taken again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secateur import paths
from secateur.errors import InputError
from secateur.settings import DriftSettings, load_settings
from tasks import contest, drift, tagging
from tasks.versioning import Workspace

logger = logging.getLogger(__name__)

STAGE = "champion"


def check_workspace() -> None:
    """See that the current directory is a workspace with usable settings.

    Raises:
        InputError: it is not.
    """
    load_settings()
    with Workspace():
        pass


def remember_what_serves() -> None:
    """Take note of the champion there is, the first time, so that only its successors are news."""
    if not paths.ANNOUNCED.exists():
        _remember(_champion())


def update_data(source: str | None) -> bool:
    """Bring in the data as it is now; whether it changed.

    Raises:
        InputError: a source is named, but the settings read something else than files.
    """
    data = load_settings().data
    if data.source != "file":
        if source is not None:
            raise InputError(
                f"{source} cannot be imported while data.source is {data.source!r}; allowed: "
                "'file', with data.path for the place that it goes to"
            )
        return False
    with Workspace() as workspace:
        return workspace.update_data(data.path, source)


def look_for_drift(wanted: DriftSettings) -> dict[str, Any]:
    """What became of the data: the content of `drift.json`."""
    (paths.REFRESH / paths.CONTEST).unlink(missing_ok=True)  # of an earlier refresh
    drift.run(str(wanted.significance), str(wanted.effect), str(wanted.growth))
    return dict(paths.read_json(paths.REFRESH / paths.DRIFT))


def left_unfinished() -> bool:
    """Whether a run was ended after it promoted, but before it evaluated and reported.

    The stages up to the champion are up to date then, so that finishing the rest trains nothing.
    """
    with Workspace() as workspace:
        pending = {stage.name for stage in workspace.plan() if stage.changes}
        return bool(pending) and pending.isdisjoint(stage.name for stage in workspace.plan(STAGE))


def compare(tolerance: float) -> dict[str, Any]:
    """What the guard says of the elected rung: the content of `contest.json`."""
    contest.run(str(tolerance))
    return dict(paths.read_json(paths.REFRESH / paths.CONTEST))


def check_tag() -> None:
    """See that a version could be tagged at the end."""
    tagging.check(_own_records())


def tag(message: str, step: tagging.Step) -> str | None:
    """Commit and tag what serves, unless it is tagged."""
    if not (paths.CHAMPION.exists() and tagging.LOCK.exists()):
        return None
    name = tagging.tag(message, step, _own_records())
    if name is not None:
        logger.info("tagged %s", name)
    return name


def push() -> bool:
    """Push data and models to the default remote; False if there is none."""
    with Workspace() as workspace:
        if workspace.remote is None:
            return False
        workspace.push()
        return True


def announce(tell: Callable[[str, str], None], message: str) -> bool:
    """Make a new champion known, once, whichever run it was that promoted it.

    Args:
        tell: takes the workspace's name and the message.
        message: what there is to know.
    """
    champion = _champion()
    if champion in ("", paths.ANNOUNCED.read_text()):
        return False
    tell(Path.cwd().name, message)
    _remember(champion)
    return True


def _own_records() -> list[Path]:
    """What DVC writes beside data that it imports."""
    path = load_settings().data.path
    return [path.with_name(f"{path.name}.dvc"), path.with_name(".gitignore")]


def _champion() -> str:
    """The md5 of the champion's manifest; empty if there is none."""
    try:
        manifest = (paths.CHAMPION / paths.MANIFEST).read_bytes()
    except FileNotFoundError:
        return ""
    return hashlib.md5(manifest, usedforsecurity=False).hexdigest()


def _remember(champion: str) -> None:
    with paths.publishing(paths.ANNOUNCED.parent) as folder:
        (folder / paths.ANNOUNCED.name).write_text(champion)
