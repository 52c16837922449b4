"""Settings given for one run, `guard.tolerance=0.3`, written into `params.yaml`.

They must be in the file to be seen: DVC compares it, and stages read it. As with
`dvc exp run -S`, they stay there; git shows and undoes them.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from secateur import paths
from secateur.errors import InputError
from secateur.settings import parse_settings

Overrides = Sequence[str] | Mapping[str, Any]


def overridden(overrides: Overrides, path: Path = paths.SETTINGS) -> str:
    """The text of the settings file with the overrides in it, comments and all.

    Args:
        overrides: `section.key=value` words, the value in YAML, or a mapping from `section.key`
            to value.
        path: of the settings file.

    Raises:
        InputError: an override has no `=`, is not YAML, or makes settings that are not allowed.
    """
    changes = _parse(overrides)
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise InputError(
            f"{path} is not here; run from a workspace's top folder, the one that holds dvc.yaml"
        ) from None
    yaml = _yaml()
    try:
        content = yaml.load(text)
    except YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    for place, value in changes.items():
        _set(content, place, value)
    parse_settings(_plain(content), f"{path} with {', '.join(changes)}" if changes else path)
    if not changes:
        return text
    stream = io.StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def write(text: str, path: Path = paths.SETTINGS) -> None:
    """Replace the settings file, which is seen old or new but never in between."""
    if path.read_text() == text:
        return
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.replace(path)


def _parse(overrides: Overrides) -> dict[str, Any]:
    if isinstance(overrides, Mapping):
        return dict(overrides)
    changes = {}
    for word in overrides:
        place, equals, value = word.partition("=")
        if not (place and equals):
            raise InputError(f"A setting is given as section.key=value, got {word!r}")
        try:
            changes[place.strip()] = YAML(typ="safe").load(value)
        except YAMLError:
            raise InputError(f"The value of {place} is not valid YAML: {value!r}") from None
    return changes


def _set(content: Any, place: str, value: Any) -> None:
    *sections, key = place.split(".")
    for depth, section in enumerate(sections):
        if content.get(section) is None:
            content[section] = {}
        content = content[section]
        if not isinstance(content, dict):
            raise InputError(f"{place}: {'.'.join(sections[: depth + 1])} holds no settings")
    content[key] = value


def _plain(content: Any) -> Any:
    stream = io.StringIO()
    YAML().dump(copy.deepcopy(content), stream)
    return YAML(typ="safe").load(stream.getvalue())


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 10_000  # long lines stay whole
    yaml.preserve_quotes = True
    return yaml
