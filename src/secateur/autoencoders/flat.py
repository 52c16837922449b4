"""Autoencoders of images, signals and sequences, on rows of plain numbers."""

from __future__ import annotations

import math

import keras

from secateur.errors import InputError
from secateur.saving import copy_model


def on_rows(model: keras.Model, features: int) -> keras.Model:
    """A model that takes and gives rows of `features` numbers, whatever shape `model` gives them.

    Args:
        model: an autoencoder with one input and one output.
        features: numbers in a row; read as the model's input in row-major order.

    Returns:
        `model` itself if it takes and gives such rows; else a model with the same weights around
        it, which shapes rows to its input and its output back to rows.

    Raises:
        InputError: the model has several inputs or outputs, takes or gives another number of
            numbers than `features`, or leaves a length of its input open.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            f"the model {model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} "
            "outputs; allowed: one of each, an autoencoder"
        )
    for what, tensor in (("takes", model.inputs[0]), ("gives", model.outputs[0])):
        shape = tensor.shape[1:]
        if None in shape or math.prod(shape) != features:
            raise InputError(
                f"the model {model.name!r} {what} samples of shape {tuple(shape)}, but the data "
                f"has rows of {features} numbers; allowed: a shape of {features} numbers, with no "
                "length left open"
            )
    if len(model.inputs[0].shape) == len(model.outputs[0].shape) == 2:
        return model
    row = keras.Input((features,), name="rows")
    shaped = keras.layers.Reshape(model.inputs[0].shape[1:], name="shaped")(row)
    made = model.call(shaped)  # its layers one by one: nested, it would hide its code
    flat = keras.layers.Reshape((features,), name="flat")(made)
    return copy_model(keras.Model(row, flat, name=model.name))
