"""The convolutional autoencoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import layers

from secateur.errors import InputError

_KINDS = {
    2: (layers.Conv1D, layers.Conv1DTranspose, layers.Cropping1D),
    3: (layers.Conv2D, layers.Conv2DTranspose, layers.Cropping2D),
}


def conv(
    shape: Sequence[int],
    widths: Sequence[int] = (16, 32),
    code: int = 16,
    activation: str = "relu",
    code_activation: str = "linear",
    output_activation: str = "linear",
) -> keras.Model:
    """A convolutional autoencoder of signals or images whose decoder sees the code alone.

    Each hidden layer of the encoder halves the length, or height and width, and is followed by
    BatchNormalization; a dense layer makes the code; the decoder mirrors it.

    Args:
        shape: of one row: (steps, channels) of a signal, or (height, width, channels) of an image.
        widths: filters of the encoder's hidden layers, from the input to the code.
        code: units of the code.
        activation: of the hidden layers.
        code_activation: of the code.
        output_activation: of the output.

    Returns:
        An untrained functional model, (rows, *shape) to (rows, *shape), with the layers
        `encoder_1` …, `code`, `decoder_1` …, `output`.

    Raises:
        InputError: the shape is neither of a signal nor of an image, or there is no hidden layer.
    """
    shape = tuple(shape)
    if len(shape) not in _KINDS or min(shape) < 1 or not widths:
        raise InputError(
            f"a convolutional autoencoder was asked for rows of shape {shape} and the widths "
            f"{tuple(widths)}; allowed: (steps, channels) or (height, width, channels), and at "
            "least one width"
        )
    convolution, transposed, cropping = _KINDS[len(shape)]

    def normed(x: object, made: keras.Layer) -> object:
        x = layers.BatchNormalization(name=f"{made.name}_norm")(made(x))
        return layers.Activation(activation, name=f"{made.name}_{activation}")(x)

    sample = keras.Input(shape, name="input")
    hidden, options = sample, {"padding": "same", "strides": 2, "use_bias": False}
    for place, filters in enumerate(widths, start=1):
        made = convolution(filters, 3, name=f"encoder_{place}", **options)
        hidden = normed(hidden, made)
    grid = hidden.shape[1:]
    hidden = layers.Dense(code, code_activation, name="code")(layers.Flatten()(hidden))
    hidden = layers.Dense(math.prod(grid), activation, name="expanded")(hidden)
    hidden = layers.Reshape(grid)(hidden)
    for place, filters in enumerate([*reversed(widths[:-1]), widths[0]], start=1):
        hidden = normed(hidden, transposed(filters, 3, name=f"decoder_{place}", **options))
    surplus = [(0, made - wanted) for made, wanted in zip(hidden.shape[1:-1], shape, strict=False)]
    if any(cut for _, cut in surplus):
        hidden = cropping(surplus if len(surplus) > 1 else surplus[0], name="cropped")(hidden)
    output = convolution(shape[-1], 3, padding="same", activation=output_activation, name="output")(
        hidden
    )
    return keras.Model(sample, output, name="autoencoder")
