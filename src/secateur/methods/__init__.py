"""The ways of shrinking, one file each. A new method is one file and one line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from secateur.errors import InputError
from secateur.methods.base import Method
from secateur.methods.cluster import Cluster
from secateur.methods.code import Code
from secateur.methods.fold import Fold
from secateur.methods.units import Units
from secateur.methods.weights import Weights

METHODS: dict[str, type[Method]] = {
    "cluster": Cluster,
    "code": Code,
    "fold": Fold,
    "units": Units,
    "weights": Weights,
}


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """The named method with its knobs set.

    Raises:
        InputError: the name, an option's name or an option's value is not allowed.
    """
    if name not in METHODS:
        raise InputError(f"Unknown method {name!r}. Known: {', '.join(METHODS)}")
    method = METHODS[name]
    knobs = {field.name: field for field in dataclasses.fields(method)}
    unknown = sorted(set(options) - set(knobs))
    if unknown:
        raise InputError(
            f"Method {name!r} has no option {', '.join(map(repr, unknown))}. Known: "
            f"{', '.join(knobs) or 'none'}"
        )
    missing = [
        field.name
        for field in knobs.values()
        if field.name not in options
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"Method {name!r} needs the option {', '.join(map(repr, missing))}")
    return method(**options)
