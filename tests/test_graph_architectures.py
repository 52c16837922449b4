"""Promises of the graph core on architectures that people use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from graph_drawing import randomize
from keras import layers, ops

from secateur import load, save, shrink
from secateur.costs import count_macs, count_parameters
from secateur.errors import InputError
from secateur.graph import Footprint, dependency_groups, keep_units


def u_net(dtype: str = "float32") -> keras.Model:
    def conv(filters: int, tensor: Any) -> Any:
        made = layers.Conv2D(filters, 3, padding="same", use_bias=False, dtype=dtype)(tensor)
        return layers.ReLU(dtype=dtype)(layers.BatchNormalization(dtype=dtype)(made))

    image = keras.Input((8, 8, 1))
    first = conv(4, image)
    second = conv(6, layers.MaxPooling2D(dtype=dtype)(first))
    hidden = conv(8, layers.MaxPooling2D(dtype=dtype)(second))
    for filters, skip in ((6, second), (4, first)):
        hidden = layers.Conv2DTranspose(filters, 2, strides=2, dtype=dtype)(hidden)
        hidden = conv(filters, layers.Concatenate(dtype=dtype)([hidden, skip]))
    return keras.Model(image, layers.Conv2D(1, 1, dtype="float32")(hidden))


@keras.saving.register_keras_serializable("tests")
class Sampling(layers.Layer):
    def call(self, inputs: list[Any], training: bool = False) -> Any:
        mean, spread = inputs
        noise = keras.random.normal(ops.shape(mean)) if training else 0.0
        return mean + noise * ops.exp(0.5 * spread)


def variational() -> keras.Model:
    own, code, row = keras.Input((12,)), keras.Input((3,)), keras.Input((12,))
    hidden = layers.Dense(8, "relu")(own)
    both = [layers.Dense(3, name="mean")(hidden), layers.Dense(3, name="spread")(hidden)]
    encoder = keras.Model(own, [*both, Sampling(name="sampling")(both)], name="encoder")
    decoder = keras.Model(code, layers.Dense(12)(layers.Dense(8, "relu")(code)), name="decoder")
    return keras.Model(row, decoder(encoder(row)[2]))


def recurrent() -> keras.Model:
    steps = keras.Input((5, 3))
    hidden = layers.LSTM(4)(layers.LSTM(8, return_sequences=True)(steps))
    hidden = layers.LSTM(8, return_sequences=True)(layers.RepeatVector(5)(hidden))
    return keras.Model(steps, layers.TimeDistributed(layers.Dense(3))(hidden))


def transformer() -> keras.Model:
    tokens = keras.Input((4, 3))
    hidden = layers.Dense(8)(tokens)
    told = layers.LayerNormalization()(hidden)
    hidden = layers.Add()([hidden, layers.MultiHeadAttention(4, 2)(told, told)])
    told = layers.LayerNormalization()(hidden)
    hidden = layers.Add()([hidden, layers.Dense(8)(layers.Dense(16, "gelu")(told))])
    code = layers.Dense(3)(layers.Flatten()(hidden))
    hidden = layers.Reshape((4, 8))(layers.Dense(32, "relu")(code))
    return keras.Model(tokens, layers.Dense(3)(layers.LayerNormalization()(hidden)))


def several() -> keras.Model:
    """Inputs and outputs by name."""
    one, two = keras.Input((6,), name="one"), keras.Input((4,), name="two")
    hidden = layers.Concatenate()([layers.Dense(5, "relu")(one), layers.Dense(3, "tanh")(two)])
    code = layers.Dense(2, name="code")(hidden)
    outputs = {"first": layers.Dense(6)(layers.Dense(5)(code)), "second": layers.Dense(4)(code)}
    return keras.Model({"one": one, "two": two}, outputs)


def in_bfloat16() -> keras.Model:
    return u_net("mixed_bfloat16")


def in_float16() -> keras.Model:
    return u_net("mixed_float16")


MODELS = (u_net, variational, recurrent, transformer, several, in_bfloat16, in_float16)


def rows_of(model: keras.Model) -> Any:
    random = np.random.default_rng(0)
    return keras.tree.map_structure(
        lambda one: random.normal(size=(3, *one.shape[1:])).astype("float32"), model._inputs_struct
    )


def given(model: keras.Model, rows: Any) -> np.ndarray:
    outputs = keras.tree.flatten(model(rows))
    return np.concatenate([np.asarray(one, np.float64).ravel() for one in outputs])


def signature(model: keras.Model) -> Any:
    return keras.tree.map_structure(
        lambda one: (tuple(one.shape), one.dtype), (model._inputs_struct, model._outputs_struct)
    )


def halves(model: keras.Model) -> dict[str, np.ndarray]:
    groups = dependency_groups(model)
    return {one.name: np.arange(0, one.units, 2) for one in groups if not one.frozen}


@pytest.mark.parametrize("make", MODELS)
def test_half_of_an_architecture(make: Callable[[], keras.Model], tmp_path: Path) -> None:
    keras.backend.clear_session()
    model = make()
    randomize(model, 0)
    rows, kept = rows_of(model), halves(model)
    assert kept
    assert np.array_equal(given(keep_units(model, {}), rows), given(model, rows))
    small = keep_units(model, kept)
    assert signature(small) == signature(model)
    assert [one.name for one in small.layers] == [one.name for one in model.layers]
    policies = [[one.dtype_policy.name for one in each.layers] for each in (small, model)]
    assert policies[0] == policies[1]
    numbers = {name: len(units) for name, units in kept.items()}
    assert Footprint(model).parameters(numbers) == count_parameters(small)
    assert Footprint(model).macs(numbers) == count_macs(small)[0]
    save(small, tmp_path / "small.keras")
    assert np.array_equal(given(load(tmp_path / "small.keras"), rows), given(small, rows))


def test_seven_tenths_of_a_published_network() -> None:
    """Inverted residuals: depthwise between pointwise, and skips over both."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((32, 32, 3), 0.35, include_top=False, weights=None)
    groups = [one for one in dependency_groups(model) if not one.frozen]
    assert len(groups) == 23
    kept = {one.name: np.arange(round(0.7 * one.units)) for one in groups}
    small = keep_units(model, kept)
    numbers = {name: len(units) for name, units in kept.items()}
    assert Footprint(model).parameters(numbers) == count_parameters(small)
    assert Footprint(model).macs(numbers) == count_macs(small)[0]
    assert given(small, rows_of(model)).shape == given(model, rows_of(model)).shape


@pytest.mark.parametrize("make", [variational, transformer, in_bfloat16])
def test_an_architecture_is_shrunk_with_repair(make: Callable[[], keras.Model]) -> None:
    keras.backend.clear_session()
    model = make()
    randomize(model, 0)
    small, _ = shrink(model, np.repeat(rows_of(model), 8, axis=0), "units", keep=0.5)
    assert count_parameters(small) < count_parameters(model)
    assert np.isfinite(given(small, rows_of(model))).all()


def test_both_directions_lose_the_same_units() -> None:
    """Keras takes what they make together to be twice as wide as what the first makes."""
    keras.backend.clear_session()
    steps = keras.Input((5, 3))
    both = layers.Bidirectional(layers.GRU(6, return_sequences=True))
    model = keras.Model(steps, layers.Dense(3)(both(steps)))
    randomize(model, 0)
    (group,) = (one for one in dependency_groups(model, cut_code=True) if not one.frozen)
    small = keep_units(model, {group.name: np.arange(4)})
    (cut,) = (one for one in small.layers if isinstance(one, layers.Bidirectional))
    assert (cut.forward_layer.units, cut.backward_layer.units) == (4, 4)
    assert given(small, rows_of(model)).shape == given(model, rows_of(model)).shape


def test_a_model_of_several_inputs_is_refused_where_rows_are_needed() -> None:
    with pytest.raises(InputError, match="one input and one output"):
        shrink(several(), np.zeros((5, 6), "float32"), "units", keep=0.5)
