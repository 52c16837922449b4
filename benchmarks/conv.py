"""Filters of a convolutional autoencoder on Fashion-MNIST, cut to half of its MACs."""

from __future__ import annotations

import keras
from keras import layers


def network() -> keras.Model:
    """BatchNorm, a skip connection, a Flatten-Dense-Reshape bottleneck, transposed convolutions."""
    image = keras.Input((28, 28, 1))

    def block(x: object, kind: type[keras.Layer], filters: int, strides: int, relu: bool = True):
        x = kind(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        return layers.ReLU()(x) if relu else x

    h = block(image, layers.Conv2D, 16, 2)
    skip = block(h, layers.Conv2D, 32, 2)
    h = block(skip, layers.Conv2D, 32, 1)
    h = block(h, layers.Conv2D, 32, 1, relu=False)
    h = layers.ReLU()(layers.Add()([h, skip]))
    code = layers.Dense(32, name="code")(layers.Flatten()(h))
    h = layers.Dense(7 * 7 * 32, activation="relu")(code)
    h = layers.Reshape((7, 7, 32))(h)
    h = block(h, layers.Conv2DTranspose, 32, 2)
    h = block(h, layers.Conv2DTranspose, 16, 2)
    return keras.Model(image, layers.Conv2D(1, 3, padding="same", activation="sigmoid")(h))
