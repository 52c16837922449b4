"""What cannot be cut is frozen and named."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops
from rich.console import Console

from secateur import shrink
from secateur.costs import costs
from secateur.errors import InputError
from secateur.graph import crossed_biases, dependency_groups, describe, keep_units


class Doubled(layers.Layer):
    """A layer that nobody wrote a rule for."""

    def call(self, inputs: object) -> object:
        return ops.multiply(inputs, 2.0)


def between(*steps: object) -> keras.Model:
    """Dense(8), then the steps, then Dense(6) twice; the code is none of the first."""
    inputs = keras.Input((12,))
    hidden = layers.Dense(8, name="first")(inputs)
    for step in steps:
        hidden = step(hidden)
    hidden = layers.Dense(2, name="code")(hidden)
    hidden = layers.Dense(6, name="last")(hidden)
    return keras.Model(inputs, layers.Dense(12, name="output")(hidden))


def frozen(model: keras.Model) -> dict[str, str | None]:
    return {group.name: group.frozen for group in dependency_groups(model)}


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Doubled(name="doubled"), "doubled (Doubled) is not understood"),
        (layers.Softmax(name="softmax"), "softmax needs all units"),
        (
            layers.Activation("softmax", name="chosen"),
            "the activation of chosen is not known to be element-wise",
        ),
        (lambda x: x * np.arange(1.0, 9.0, dtype="float32"), "multiply joins it with a constant"),
        (lambda x: x[:, ::2], "get_item picks single units"),
        (lambda x: x[:, 3:4] + x[:, 1:2] * x, None),
        (lambda x: ops.sort(x), "sort (Sort) is not understood"),
        (lambda x: ops.pad(x, [[0, 0], [1, 0]]), "pad pads units with constants"),
    ],
)
def test_what_is_not_understood_freezes_what_it_touches(step: object, reason: str | None) -> None:
    keras.backend.clear_session()
    reasons = frozen(between(step))
    if reason is not None:
        assert reasons["first"] == reason
    assert reasons["last"] is None


class Sampled(layers.Layer):
    """What a variational autoencoder does between its halves."""

    is_elementwise = True

    def call(self, inputs: list[object]) -> object:
        return inputs[0] + ops.exp(0.5 * inputs[1])


def test_a_foreign_layer_may_say_that_it_is_element_wise() -> None:
    own = keras.Input((12,))
    hidden = layers.Dense(8, name="hidden")(own)
    mean, spread = layers.Dense(3, name="mean")(hidden), layers.Dense(3, name="spread")(hidden)
    encoder = keras.Model(own, [mean, spread, Sampled()([mean, spread])], name="encoder")
    inputs = keras.Input((12,))
    model = keras.Model(inputs, layers.Dense(12)(layers.Dense(6)(encoder(inputs)[2])))
    code = dependency_groups(model, cut_code=True)[1]
    assert (code.name, code.units, code.is_code, code.frozen) == ("encoder/mean", 3, True, None)
    assert [one.path for one in code.producers] == ["encoder/mean", "encoder/spread"]
    small = keep_units(model, {"encoder/mean": [2]})
    assert [one.shape for one in small.get_layer("encoder").outputs] == [(None, 1)] * 3
    assert keep_units(model, {}).get_config() == model.get_config()


def test_what_is_not_trained_stays_so() -> None:
    model = between()
    model.get_layer("first").trainable = False
    small = keep_units(model, {"first": [0, 1], "last": [3]})
    assert [layer.trainable for layer in small.layers] == [True, False, True, True, True]


def test_a_sequential_model_may_be_built_by_its_first_call() -> None:
    model = keras.Sequential([layers.Dense(6, name="in"), layers.Dense(2), layers.Dense(9)])
    rows = np.ones((2, 9), "float32")
    model(rows)
    small = keep_units(model, {"in": [5]})
    assert isinstance(small, keras.Sequential)
    assert small(rows).shape == (2, 9)
    assert keep_units(model, {}).get_config() == model.get_config()


def test_a_model_keeps_its_class() -> None:
    class Autoencoder(keras.Model):
        pass

    inputs = keras.Input((6,))
    model = Autoencoder(inputs, layers.Dense(6)(layers.Dense(2)(layers.Dense(4)(inputs))))
    assert type(keep_units(model, {})) is Autoencoder


def test_frozen_models_are_still_rebuilt() -> None:
    model = between(Doubled(), layers.Softmax())
    rows = np.ones((2, 12), "float32")
    small = keep_units(model, {"last": [1, 4]})
    assert small.get_layer("last").units == 2
    assert np.array_equal(keep_units(model, {})(rows), model(rows))


def test_what_joins_the_input_is_frozen() -> None:
    inputs = keras.Input((8,))
    hidden = layers.Add(name="add")([layers.Dense(8, name="first")(inputs), inputs])
    model = keras.Model(inputs, layers.Dense(8)(layers.Dense(3)(hidden)))
    assert frozen(model)["first"] == "it is tied to the model's input"


def test_what_stands_beside_the_input_is_frozen() -> None:
    inputs = keras.Input((5, 8))
    hidden = layers.Concatenate(axis=1)([inputs, layers.Dense(8, name="tokens")(inputs)])
    model = keras.Model(inputs, layers.Dense(8)(layers.Dense(3)(hidden)))
    assert frozen(model)["tokens"] == "it is tied to the model's input"


def test_normalizations_over_units_are_named() -> None:
    model = between(layers.LayerNormalization(name="norm"), layers.UnitNormalization(name="unit"))
    group = dependency_groups(model)[0]
    assert group.normalizations == ("norm",)
    assert group.frozen == "unit needs all units"


def test_channels_first_convolutions_are_understood() -> None:
    """They are only looked at: a CPU does not run them."""
    shape = {"data_format": "channels_first", "padding": "same"}
    inputs = keras.Input((2, 8, 8))
    hidden = layers.Conv2D(6, 3, name="first", **shape)(inputs)
    hidden = layers.MaxPooling2D(2, data_format="channels_first")(hidden)
    hidden = layers.DepthwiseConv2D(3, **shape)(hidden)
    hidden = layers.Conv2D(4, 3, strides=4, name="code", **shape)(hidden)
    hidden = layers.Conv2DTranspose(5, 3, strides=8, name="up", **shape)(hidden)
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="output", **shape)(hidden))
    assert frozen(model) == {
        "first": None,
        "code": "it is the code",
        "up": None,
        "output": "it makes the model's output",
    }
    small = keep_units(model, {"first": [1, 2], "up": [4]})
    assert small.output_shape == model.output_shape
    assert [small.get_layer(name).filters for name in ("first", "code", "up")] == [2, 4, 1]


def test_a_lambda_is_frozen_and_copied() -> None:
    model = between(layers.Lambda(lambda x: x + 1, name="plus_one"))
    assert frozen(model)["first"] == "plus_one (Lambda) is not understood"
    assert keep_units(model, {"last": [0]}).count_params() < model.count_params()


def test_the_code_of_a_u_net_is_its_bottom() -> None:
    inputs = keras.Input((8, 8, 1))
    first = layers.Conv2D(4, 3, padding="same", name="first")(inputs)
    down = layers.Conv2D(4, 3, strides=4, padding="same", name="bottom")(first)
    up = layers.UpSampling2D(4)(layers.Conv2D(8, 1, name="up")(down))
    joined = layers.Concatenate()([up, first])
    model = keras.Model(inputs, layers.Conv2D(1, 1, name="output")(joined))
    assert [group.name for group in dependency_groups(model) if group.is_code] == ["bottom"]


def test_an_autoencoder_wrapped_in_a_model_has_a_code() -> None:
    inner = keras.Sequential(
        [keras.Input((9,)), layers.Dense(6, name="in"), layers.Dense(2, name="code"),
         layers.Dense(9, name="out")], name="inner",
    )  # fmt: skip
    inputs = keras.Input((9,))
    model = keras.Model(inputs, inner(inputs))
    assert frozen(model) == {
        "inner/in": None,
        "inner/code": "it is the code",
        "inner/out": "it makes the model's output",
    }


def test_sizes_that_are_not_known_stay_so() -> None:
    inputs = keras.Input((None, None, 3))
    hidden = layers.Conv2D(6, 3, padding="same", name="first")(inputs)
    hidden = layers.Conv2D(2, 3, strides=2, padding="same", name="code")(hidden)
    hidden = layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="up")(hidden)
    model = keras.Model(inputs, layers.Conv2D(3, 1)(hidden))
    small = keep_units(model, {"first": [0, 5], "up": [3]})
    assert small.input_shape == (None, None, None, 3)
    assert small(np.ones((1, 4, 6, 3), "float32")).shape == (1, 4, 6, 3)


def test_the_table_tells_what_can_be_cut() -> None:
    model = between()
    console = Console(width=120)
    table = describe(model)
    with console.capture() as captured:
        console.print(table)
    text = captured.get()
    assert table.row_count == 4
    assert "no: it is the code" in text
    assert "224 parameters, 196 MACs" in text


def first(*filters, columns=8, use_bias=True):
    """A channels-first network of convolutions, its last one as wide as its input."""
    shape = {"data_format": "channels_first", "padding": "same"}
    image = hidden = keras.Input((1, 6, columns))
    for count in filters:
        hidden = keras.layers.Conv2D(count, 3, use_bias=use_bias, **shape)(hidden)
        hidden = keras.layers.ReLU()(keras.layers.BatchNormalization(axis=1)(hidden))
    return keras.Model(image, keras.layers.Conv2D(1, 3, **shape)(hidden))


def test_a_width_at_which_keras_misplaces_biases_is_passed_over():
    """As many filters as columns: a bias channels-first would be added along the columns."""
    rows = np.random.default_rng(0).normal(size=(9, 1, 6, 8)).astype("float32")
    cut, _ = shrink(first(16, 12, 4), rows, "units", keep=0.5)
    assert [layer.filters for layer in cut.layers if hasattr(layer, "filters")] == [7, 6, 4, 1]
    cut, _ = shrink(first(16, 12, 4, use_bias=False), rows, "units", keep=0.5)
    assert [layer.filters for layer in cut.layers if hasattr(layer, "filters")] == [8, 6, 4, 1]


def test_biases_that_are_not_the_layers_own_are_passed_over():
    """A recurrent convolution, whose cell has the bias."""
    image = keras.Input((2, 1, 4, 4))
    kept = {"data_format": "channels_first", "padding": "same", "return_sequences": True}
    hidden = layers.TimeDistributed(layers.Dense(4))(layers.ConvLSTM2D(4, 3, **kept)(image))
    assert crossed_biases(keras.Model(image, hidden)) == []


def test_a_fold_that_would_misplace_a_bias_is_left():
    rows = np.random.default_rng(0).normal(size=(9, 1, 6, 8)).astype("float32")
    model = first(8, 4, use_bias=False)
    model.layers[2].moving_mean.assign(np.arange(8.0))
    folded, report = shrink(model, rows, "fold")
    assert [group["layer"] for group in report.groups] == [model.layers[5].name]
    assert np.allclose(folded(rows), model(rows), atol=1e-5)


def test_a_model_whose_biases_keras_misplaces_is_refused():
    with pytest.raises(InputError, match="as many filters as columns"):
        shrink(first(8, 4), np.zeros((2, 1, 6, 8), "float32"), "units", keep=0.5)


def test_a_length_that_keras_loses_is_found_again() -> None:
    """EinsumDense gives steps of unknown number, where its configuration does not name it."""
    steps = keras.Input((12, 3))
    hidden = layers.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d", name="spread")(steps)
    hidden = layers.Dense(6, name="read")(hidden)
    model = keras.Model(steps, layers.Dense(3)(layers.Dense(2, name="code")(hidden)))
    assert costs(model).macs == 12 * (3 * 8 + 8 * 6 + 6 * 2 + 2 * 3)
    assert costs(model).peak_activation_bytes == 4 * 12 * (8 + 6)
    small = keep_units(model, {"spread": [0, 3, 5], "read": [1]})
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert costs(small).macs == 12 * (3 * 3 + 3 * 1 + 1 * 2 + 2 * 3)


def test_axes_that_keras_turns_round_are_not_cut() -> None:
    """Where an ellipsis is several axes; as long as they are equally long nobody sees it."""
    image = keras.Input((4, 4, 3))
    hidden = layers.Permute((3, 1, 2))(layers.Conv2D(4, 1, name="first")(image))
    hidden = layers.EinsumDense("...x,xy->...y", 5, name="turned")(hidden)
    model = keras.Model(image, layers.Dense(3)(layers.Dense(2)(layers.Flatten()(hidden))))
    assert frozen(model)["first"] == "Keras turns round the axes that turned leaves alone"
