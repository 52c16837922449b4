"""Copies with other layers, and normalizations folded away."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from secateur.errors import InputError
from secateur.graph import fold_norms, foldable_norms, layer_at, replace_layers


@pytest.fixture
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"),
            layers.BatchNormalization(scale=False, name="depthwise_norm"),
            layers.Conv2DTranspose(3, 3, name="transposed"),
            layers.BatchNormalization(center=False, name="transposed_norm"),
            layers.Flatten(),
        ],
        name="encoder",
    )
    inputs = keras.Input((8, 8, 2))
    hidden = inner(inputs)
    first = layers.Dense(6, name="dense", bias_initializer="ones")(hidden)
    second = layers.BatchNormalization(name="dense_norm")(first)
    curved = layers.Dense(5, "relu", name="curved")(second)
    curved = layers.BatchNormalization(name="curved_norm")(curved)
    twice = layers.Dense(5, name="twice")(curved)
    joined = layers.Add()([layers.BatchNormalization(name="twice_norm")(twice), twice])
    model = keras.Model(inputs, layers.Dense(2, name="output")(joined))
    random = np.random.default_rng(0)
    for variable in model.weights:
        values = random.normal(size=variable.shape)
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    return model


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3, 8, 8, 2)).astype("float32")


def test_norms_that_alone_read_a_linear_layer_are_foldable(model: keras.Model) -> None:
    assert foldable_norms(model) == (
        ("encoder/conv", "encoder/norm"),
        ("encoder/depthwise", "encoder/depthwise_norm"),
        ("encoder/transposed", "encoder/transposed_norm"),
        ("dense", "dense_norm"),
    )


def test_folding_changes_no_output(model: keras.Model, rows: np.ndarray) -> None:
    folded = fold_norms(model)
    expected = keras.ops.convert_to_numpy(model(rows))
    np.testing.assert_allclose(folded(rows), expected, atol=1e-5 * np.abs(expected).max())
    # Four, three, three and four numbers a unit leave; the bias that the first layer lacked comes.
    assert model.count_params() - folded.count_params() == 4 * 4 - 4 + 3 * 8 + 3 * 3 + 4 * 6
    assert foldable_norms(folded) == ()


def test_layers_are_taken_out_swapped_and_put_in(model: keras.Model, rows: np.ndarray) -> None:
    config, before = model.get_config(), keras.ops.convert_to_numpy(model(rows))
    swapped = {**layer_at(model, "curved").get_config(), "activation": "tanh"}
    other = replace_layers(
        model,
        {
            "curved": [layers.Dense.from_config(swapped)],
            "curved_norm": [],
            "twice": [layers.Dense(2, name="low"), layers.Dense(5, name="rank")],
        },
    )
    assert {"low", "rank"} < {layer.name for layer in other.layers}
    assert "curved_norm" not in {layer.name for layer in other.layers}
    assert layer_at(other, "curved").activation is keras.activations.tanh
    np.testing.assert_array_equal(
        layer_at(other, "curved").kernel, layer_at(model, "curved").kernel
    )
    np.testing.assert_array_equal(
        layer_at(other, "encoder/conv").kernel, layer_at(model, "encoder/conv").kernel
    )
    assert model.get_config() == config
    assert np.array_equal(model(rows), before)


def test_nothing_replaced_is_the_same_model(model: keras.Model, rows: np.ndarray) -> None:
    copy = replace_layers(model, {})
    assert copy.get_config() == model.get_config()
    assert np.array_equal(copy(rows), model(rows))


def test_a_layer_that_is_not_there_is_named(model: keras.Model) -> None:
    with pytest.raises(InputError, match="has no layer 'encoder/missing'"):
        replace_layers(model, {"encoder/missing": []})
