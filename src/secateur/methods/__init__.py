"""The ways of shrinking, one file each. A new method is one file and one line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from secateur.errors import InputError
from secateur.methods.activations import Activations
from secateur.methods.base import Method
from secateur.methods.cluster import Cluster
from secateur.methods.code import Code
from secateur.methods.fold import Fold
from secateur.methods.layers import Layers
from secateur.methods.low_rank import LowRank
from secateur.methods.quantize import Quantize
from secateur.methods.units import Units
from secateur.methods.weights import Weights
from secateur.schemes import SCHEMES

METHODS: dict[str, type[Method]] = {
    "activations": Activations,
    "cluster": Cluster,
    "code": Code,
    "fold": Fold,
    "layers": Layers,
    "low_rank": LowRank,
    "quantize": Quantize,
    "units": Units,
    "weights": Weights,
}


def make_method(
    name: str, options: Mapping[str, Any], target: Mapping[str, Any] | None = None
) -> Method:
    """The named method with its knobs set.

    Args:
        name: in `METHODS`.
        options: the method's knobs.
        target: see `secateur.budgets`; it takes the place of the knob that says how much goes,
            which is set so that nothing does.

    Raises:
        InputError: the name, an option's name or value, or the target is not allowed.
    """
    if name not in METHODS:
        raise InputError(f"Unknown method {name!r}. Known: {', '.join(METHODS)}")
    method = METHODS[name]
    if target is not None:
        options = {**options, **_in_place_of(target, name, options)}
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


def _in_place_of(
    target: Mapping[str, Any], name: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    from secateur.budgets import check_target

    check_target(target)
    amount = METHODS[name].amount
    if amount is None:
        able = ", ".join(one for one, method in METHODS.items() if method.amount)
        raise InputError(
            f"method {name!r} has no knob that says how much goes, so that no target can be given; "
            f"those that have: {able}"
        )
    if amount.knob in options:
        raise InputError(f"a target takes the place of {amount.knob!r}: leave {amount.knob} out")
    return {amount.knob: amount.most}


def check_order(before: str | None, after: str | None, words: str) -> None:
    """Refuse a round that would undo what a round before it rounded.

    Args:
        before: the scheme that the round before is deployed as, see `Method.deploys_as`.
        after: that of the round in question.
        words: who comes behind whom, to begin the message with.

    Raises:
        InputError: `after` does not keep the weights where `before` put them.
    """
    if before is None:
        return
    weights = SCHEMES[before].weights
    if after is None or SCHEMES[after].weights != weights:
        raise InputError(
            f"{words}: weights that were rounded for {before} stay so; allowed behind it is "
            f"quantize with another scheme of {weights} weights, and everything else before it"
        )
