"""Autoencoders to start from. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

import keras

from secateur.autoencoders.dense import dense

AUTOENCODERS: dict[str, Callable[..., keras.Model]] = {
    "dense": dense,
}
