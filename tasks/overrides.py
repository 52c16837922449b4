"""Settings given for one run, `guard.tolerance=0.3`, written into `params.yaml`.

They must be in the file to be seen: DVC compares it, and stages read it. As with
`dvc exp run -S`, they stay there; git shows and undoes them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.nodes import MappingNode, Node

from secateur import paths
from secateur.errors import InputError
from secateur.settings import parse_settings

Overrides = Sequence[str] | Mapping[str, Any]


def overridden(overrides: Overrides, path: Path = paths.SETTINGS) -> str:
    """The text of the settings file with the overrides in it, and nothing else changed.

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
    try:
        content = _load(text)
    except YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    for place, value in changes.items():
        _set(content, place, _load(value))
    parse_settings(content, f"{path} with {', '.join(changes)}" if changes else path)
    for place, value in changes.items():
        text = _edited(text, place, value)
    return text


def write(text: str, path: Path = paths.SETTINGS) -> None:
    """Replace the settings file, which is seen old or new but never in between."""
    if path.exists() and path.read_text() == text:
        return
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.replace(path)


def _parse(overrides: Overrides) -> dict[str, str]:
    """From `section.key` to the value in YAML, on one line."""
    if isinstance(overrides, Mapping):
        return {place: json.dumps(value) for place, value in overrides.items()}
    changes = {}
    for word in overrides:
        place, equals, value = word.partition("=")
        if not (place and equals):
            raise InputError(f"A setting is given as section.key=value, got {word!r}")
        try:
            _load(value)
        except YAMLError:
            raise InputError(f"The value of {place} is not valid YAML: {value!r}") from None
        changes[place.strip()] = value.strip()
    return changes


def _edited(text: str, place: str, value: str) -> str:
    """The text with one value replaced where it stands; laid out anew only if that cannot be."""
    wanted = _load(text)
    _set(wanted, place, _load(value))
    node = _find(YAML().compose(text), place.split("."))
    if node is not None:
        edited = text[: node.start_mark.index] + value + text[node.end_mark.index :]
        try:
            if _load(edited) == wanted:
                return edited
        except YAMLError:
            pass  # a value may read otherwise inside the braces that stand around it
    yaml = YAML()
    yaml.width = 10_000  # long lines stay whole
    content = yaml.load(text)
    _set(content, place, _load(value))
    stream = io.StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def _find(node: Node | None, keys: Sequence[str]) -> Node | None:
    for key in keys:
        if not isinstance(node, MappingNode):
            return None
        node = next((value for name, value in node.value if name.value == key), None)
    return node


def _set(content: Any, place: str, value: Any) -> None:
    *sections, key = place.split(".")
    for depth, section in enumerate(sections):
        if content.get(section) is None:
            content[section] = {}
        content = content[section]
        if not isinstance(content, dict):
            raise InputError(f"{place}: {'.'.join(sections[: depth + 1])} holds no settings")
    content[key] = value


def _load(text: str) -> Any:
    return YAML(typ="safe").load(text)
