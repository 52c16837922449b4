"""Saving and loading models: Keras' own format, made reproducible to the byte."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import keras

from secateur.errors import InputError

# The smallest date a zip can hold. Any fixed one would do; real ones say nothing of the model.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def save(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Write a `.keras` archive whose bytes depend on the model's config and weights alone.

    `model.save` stores the date, the addresses of shared objects and the archive's times; here
    they are left out or numbered, and Keras reads the result as any other `.keras` file. The file
    appears under its name only when it is whole.

    Args:
        model: any built Keras model.
        path: where to write; must end in `.keras`.

    Raises:
        InputError: the path does not end in `.keras`.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise InputError(f"a model's file must end in .keras, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as scratch:
        raw, canonical = Path(scratch, "raw.keras"), Path(scratch, "canonical.keras")
        model.save(raw)
        _write_canonical(raw, canonical)
        canonical.replace(path)


def load(path: str | os.PathLike[str]) -> keras.Model:
    """The model in a `.keras` or legacy `.h5` file, not compiled, loaded in Keras' safe mode.

    Raises:
        InputError: there is no such file, or it cannot be read without running code from it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no model at {path}")
    try:
        return _of_plain_ends(keras.saving.load_model(path, compile=False, safe_mode=True))
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be loaded safely: {error}") from error


def _of_plain_ends(model: keras.Model) -> keras.Model:
    """The model, with an only input and output that are no list of one.

    Legacy files make them lists, and Keras warns of that at every call.
    """
    ends = [getattr(model, name, None) for name in ("_inputs_struct", "_outputs_struct")]
    if type(model).__name__ != "Functional" or any(
        not isinstance(end, list) or len(end) != 1 for end in ends
    ):
        return model
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def _write_canonical(raw: Path, canonical: Path) -> None:
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(canonical, "w") as target:
        for name in sorted(source.namelist()):
            content = source.read(name)
            if name.endswith(".json"):
                content = _canonical_json(json.loads(content))
            entry = zipfile.ZipInfo(name, date_time=_NO_DATE)
            entry.external_attr = 0o644 << 16
            target.writestr(entry, content)


def _canonical_json(content: Any) -> bytes:
    if isinstance(content, dict):
        content.pop("date_saved", None)
    _number_shared_objects(content, {})
    return json.dumps(content, sort_keys=False).encode()


def _number_shared_objects(content: Any, numbers: dict[int, int]) -> None:
    """Replace memory addresses by the order in which they first appear."""
    if isinstance(content, dict):
        address = content.get("shared_object_id")
        if isinstance(address, int):
            content["shared_object_id"] = numbers.setdefault(address, len(numbers))
        for value in content.values():
            _number_shared_objects(value, numbers)
    elif isinstance(content, list):
        for value in content:
            _number_shared_objects(value, numbers)


def copy_model(model: keras.Model) -> keras.Model:
    """A model of its own with the same config and weights: training it leaves `model` as it is."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def architecture(model: keras.Model) -> dict[str, Any]:
    """What a model is without its weights, as plain JSON that depends on the model alone."""
    return json.loads(_canonical_json(json.loads(model.to_json())))


def from_architecture(config: dict[str, Any]) -> keras.Model:
    """A model of an `architecture`, with fresh weights; set Keras' seed for reproducible ones."""
    return keras.saving.deserialize_keras_object(config, safe_mode=True)
