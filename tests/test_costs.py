from __future__ import annotations

import keras
import numpy as np
import pytest

from secateur.autoencoders import dense
from secateur.costs import costs


def test_a_dense_model_costs_what_is_counted_by_hand():
    counted = costs(dense(64, widths=(32, 16), code=8))
    macs = 64 * 32 + 32 * 16 + 16 * 8 + 8 * 16 + 16 * 32 + 32 * 64
    biases = 32 + 16 + 8 + 16 + 32 + 64
    assert counted.macs == macs
    assert counted.parameters == macs + biases
    # At the first layer its input and output are alive, at the last too: 64 + 32 float32.
    assert counted.peak_activation_bytes == 4 * (64 + 32)


def test_zeros_are_not_counted_as_nonzero():
    model = dense(8, widths=(), code=4)
    kernel, bias = model.get_layer("code").get_weights()
    kernel[:3] = 0
    model.get_layer("code").set_weights([kernel, bias])
    counted = costs(model)
    assert counted.macs == 64
    assert counted.nonzero_macs == 64 - 3 * 4
    assert counted.nonzeros == 64 - 3 * 4  # the biases start as zeros


def test_convolutions_are_counted_a_position_at_a_time():
    image = keras.Input((8, 8, 1))
    hidden = keras.layers.Conv2D(4, 3, strides=2, padding="same")(image)  # (4, 4, 4)
    hidden = keras.layers.DepthwiseConv2D(3, padding="same")(hidden)
    output = keras.layers.Conv2DTranspose(1, 3, strides=2, padding="same")(hidden)
    counted = costs(keras.Model(image, output))
    assert counted.macs == 16 * (9 * 4) + 16 * (9 * 4) + 16 * (9 * 4)


def test_nested_models_are_opened():
    flat = dense(16, widths=(8,), code=4)
    row, code = keras.Input((16,)), keras.Input((4,))
    encoder = keras.Sequential([row, keras.layers.Dense(8), keras.layers.Dense(4)])
    decoder = keras.Sequential([code, keras.layers.Dense(8), keras.layers.Dense(16)])
    outer = keras.Input((16,))
    nested = costs(keras.Model(outer, decoder(encoder(outer))))
    assert nested.macs == costs(flat).macs
    assert nested.peak_activation_bytes == costs(flat).peak_activation_bytes


def test_zeros_shrink_the_gzipped_bytes_only():
    full = dense(64, widths=(32,), code=8)
    emptied = dense(64, widths=(32,), code=8)
    emptied.set_weights([np.zeros_like(weight) for weight in emptied.get_weights()])
    assert costs(emptied).gzip_bytes < costs(full).gzip_bytes / 10
    assert costs(emptied).size_bytes == costs(full).size_bytes


def test_a_layer_nobody_can_count_is_named():
    row = keras.Input((5, 3))
    model = keras.Model(row, keras.layers.LSTM(4, name="memory")(row))
    with pytest.raises(NotImplementedError, match=r"'memory' \(LSTM\)"):
        costs(model)
