"""The number formats that LiteRT files come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from secateur.errors import InputError


@dataclass(frozen=True)
class Scheme:
    """What a LiteRT file computes with.

    Attributes:
        weights: of kernels; biases of integer files have as many bits as they need.
        activations: between layers, and of the input and the output.
    """

    weights: Literal["float32", "float16", "int8"]
    activations: Literal["float32", "int8", "int16"]


FLOAT32 = "float32"
INT8 = "int8"

SCHEMES: dict[str, Scheme] = {
    FLOAT32: Scheme("float32", "float32"),
    "float16": Scheme("float16", "float32"),
    "dynamic_int8": Scheme("int8", "float32"),
    "int16x8": Scheme("int8", "int16"),
    INT8: Scheme("int8", "int8"),
}
"""Name -> scheme. `float16` stores weights in half the bytes and computes in float32;
`dynamic_int8` stores 8-bit weights and rounds each row's activations as it comes; `int16x8` and
`int8` compute in integers throughout, with ranges that calibration rows have set."""


def check_scheme(name: object) -> Scheme:
    """The scheme of a name.

    Raises:
        InputError: there is none.
    """
    if name not in SCHEMES:
        raise InputError(f"scheme must be one of {', '.join(SCHEMES)}, got {name!r}")
    return SCHEMES[str(name)]
