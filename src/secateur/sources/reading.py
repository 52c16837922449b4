"""From a name in `params.yaml` to checked rows."""

from __future__ import annotations

from collections.abc import Callable

from secateur.errors import InputError
from secateur.settings import DataSettings
from secateur.sources.checks import check_source
from secateur.sources.digits import read_digits
from secateur.sources.fashion_mnist import read_fashion_mnist
from secateur.sources.files import read_file
from secateur.sources.source import Source

SOURCES: dict[str, Callable[[DataSettings], Source]] = {
    "digits": read_digits,
    "fashion-mnist": read_fashion_mnist,
    "file": read_file,
}


def read_source(settings: DataSettings) -> Source:
    """The rows that the settings name, raw and checked.

    Raises:
        InputError: they cannot be read or used; the message says what is wrong and where.
    """
    if settings.label is not None and settings.source != "file":
        raise InputError(
            f"data.label is {settings.label!r}, but the source {settings.source} has no labels; "
            "allowed: null"
        )
    source = SOURCES[settings.source](settings)
    check_source(source)
    return source
