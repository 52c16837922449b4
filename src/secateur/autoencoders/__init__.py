"""Autoencoders to start from. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

import keras

from secateur.autoencoders.conv import conv
from secateur.autoencoders.dense import dense
from secateur.autoencoders.flat import on_rows

AUTOENCODERS: dict[str, Callable[..., keras.Model]] = {
    "conv": conv,
    "dense": dense,
}

__all__ = ["AUTOENCODERS", "conv", "dense", "on_rows"]
