"""The dense autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from secateur.errors import InputError


def dense(
    shape: int | Sequence[int],
    widths: Sequence[int] = (64, 32),
    code: int = 16,
    activation: str = "relu",
    code_activation: str = "linear",
    output_activation: str = "linear",
) -> keras.Model:
    """A dense autoencoder whose decoder mirrors its encoder and sees the code alone.

    Args:
        shape: of one row: how many numbers it has, alone or as the only length.
        widths: units of the encoder's hidden layers, from the input to the code.
        code: units of the code.
        activation: of the hidden layers.
        code_activation: of the code.
        output_activation: of the output.

    Returns:
        An untrained functional model, (rows, features) to (rows, features), with the layers
        `encoder_1` …, `code`, `decoder_1` …, `output`.

    Raises:
        InputError: the shape has several lengths.
    """
    features, *more = (shape,) if isinstance(shape, int) else shape
    if more:
        raise InputError(
            f"a dense autoencoder was asked for rows of shape {shape}; allowed: one length"
        )
    row = keras.Input((features,), name="input")
    hidden = row
    for place, units in enumerate(widths, start=1):
        hidden = keras.layers.Dense(units, activation, name=f"encoder_{place}")(hidden)
    hidden = keras.layers.Dense(code, code_activation, name="code")(hidden)
    for place, units in enumerate(reversed(widths), start=1):
        hidden = keras.layers.Dense(units, activation, name=f"decoder_{place}")(hidden)
    output = keras.layers.Dense(features, output_activation, name="output")(hidden)
    return keras.Model(row, output, name="autoencoder")
