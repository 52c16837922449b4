"""What folding normalizations promises."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from secateur import shrink
from secateur.graph import layer_at


def with_random_weights(model: keras.Model) -> keras.Model:
    random = np.random.default_rng(0)
    for variable in model.weights:
        values = random.normal(size=variable.shape)
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    return model


def behind(norm_shape: tuple[int, ...], *after: layers.Layer, **options) -> keras.Model:
    """A model that normalizes something with an activation, so that only what follows can fold."""
    inputs = keras.Input(norm_shape)
    hidden = layers.ReLU(name="relu")(inputs)
    hidden = layers.BatchNormalization(name="norm", **options)(hidden)
    for layer in after:
        hidden = layer(hidden)
    return with_random_weights(keras.Model(inputs, hidden))


def sample_for(model: keras.Model) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3, *model.input_shape[1:])).astype("float32")


def assert_same_outputs(one: keras.Model, other: keras.Model) -> None:
    rows = sample_for(one)
    expected = keras.ops.convert_to_numpy(one(rows))
    np.testing.assert_allclose(other(rows), expected, atol=1e-5 * np.abs(expected).max())


FOLDED_FORWARD = {
    "dense": lambda: behind((6,), layers.Dense(4, "tanh", name="next")),
    "no bias": lambda: behind((6,), layers.Dense(4, use_bias=False, name="next")),
    "no scale": lambda: behind((6,), layers.Dense(4, name="next"), scale=False),
    "steps": lambda: behind((5, 6), layers.Dense(4, name="next")),
    "flatten": lambda: behind((3, 4, 2), layers.Flatten(), layers.Dense(4, name="next")),
    "moved": lambda: behind(
        (3, 4, 2), layers.Permute((3, 1, 2)), layers.Reshape((24,)), layers.Dropout(0.5),
        layers.Dense(4, name="next"),
    ),
    "conv": lambda: behind((6, 6, 2), layers.Conv2D(3, 3, name="next")),
    "pointwise": lambda: behind((6, 6, 2), layers.Conv2D(3, 1, padding="same", name="next")),
    "dilated": lambda: behind((9, 2), layers.Conv1D(3, 3, dilation_rate=2, name="next")),
    "volume": lambda: behind((4, 4, 4, 2), layers.Conv3D(3, 2, name="next")),
    "depthwise": lambda: behind(
        (6, 6, 2), layers.DepthwiseConv2D(3, depth_multiplier=2, name="next")
    ),
    "separable": lambda: behind(
        (6, 6, 2), layers.SeparableConv2D(5, 3, depth_multiplier=2, name="next")
    ),
    "transposed": lambda: behind((6, 6, 2), layers.Conv2DTranspose(3, 1, name="next")),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED_FORWARD)
def test_a_norm_goes_into_the_layer_that_reads_it(name):
    model = FOLDED_FORWARD[name]()
    folded, report = shrink(model, sample_for(model), "fold")
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)
    assert_same_outputs(model, folded)
    assert [entry["folded_into"] for entry in report.groups] == [["next"]]
    assert report.skipped == []


def test_a_norm_that_only_scales_goes_into_a_layer_that_pads():
    model = behind(
        (6, 6, 2), layers.Conv2DTranspose(3, 3, strides=2, padding="same", name="next"),
        center=False,
    )  # fmt: skip
    layer_at(model, "norm").moving_mean.assign([0.0, 0.0])
    folded, report = shrink(model, sample_for(model), "fold")
    assert len(report.groups) == 1
    assert_same_outputs(model, folded)


STAYING = {
    "padded": lambda: behind((6, 6, 2), layers.Conv2D(3, 3, padding="same")),
    "overlapping": lambda: behind((6, 6, 2), layers.Conv2DTranspose(3, 3)),
    "grouped": lambda: behind((6, 6, 2), layers.Conv2D(4, 3, groups=2)),
    "curved": lambda: behind((6,), layers.ReLU(), layers.Dense(3)),
    "output": lambda: behind((6,)),
    "other axis": lambda: behind((4, 6), layers.Dense(3), axis=1),
}


@pytest.mark.parametrize("name", STAYING)
def test_a_norm_that_nobody_takes_over_exactly_stays_and_is_named(name):
    model = STAYING[name]()
    same, report = shrink(model, sample_for(model), "fold")
    assert report.groups == []
    assert [(entry["layer"], entry["units"]) for entry in report.skipped] == [
        ("norm", layer_at(model, "norm").moving_mean.shape[0])
    ]
    assert np.array_equal(same(sample_for(model)), model(sample_for(model)))


def test_several_readers_take_over_together_or_not_at_all():
    inputs = keras.Input((6,))
    hidden = layers.BatchNormalization(name="norm")(layers.ReLU()(inputs))
    one, other = layers.Dense(4, name="one")(hidden), layers.Dense(4, name="other")(hidden)
    both = with_random_weights(keras.Model(inputs, layers.Add()([one, other])))
    folded, report = shrink(both, sample_for(both), "fold")
    assert sorted(report.groups[0]["folded_into"]) == ["one", "other"]
    assert_same_outputs(both, folded)
    skip = with_random_weights(keras.Model(inputs, layers.Concatenate()([one, hidden])))
    assert shrink(skip, sample_for(skip), "fold")[1].groups == []


def test_a_chain_of_norms_folds_whole():
    """Backward into a layer with a bias, then one behind another, then forward."""
    inputs = keras.Input((6,))
    hidden = layers.Dense(5, name="first")(inputs)
    hidden = layers.BatchNormalization(name="one")(hidden)
    hidden = layers.BatchNormalization(name="two")(hidden)
    hidden = layers.BatchNormalization(name="three")(layers.ReLU()(hidden))
    hidden = layers.BatchNormalization(name="four")(hidden)
    model = with_random_weights(keras.Model(inputs, layers.Dense(3, name="last")(hidden)))
    folded, report = shrink(model, sample_for(model), "fold")
    assert {entry["layer"]: entry["folded_into"] for entry in report.groups} == {
        "one": ["first"], "two": ["first"], "three": ["last"], "four": ["last"],
    }  # fmt: skip
    assert folded.count_params() == 6 * 5 + 5 + 5 * 3 + 3
    assert_same_outputs(model, folded)


def test_norms_in_a_nested_model_are_named_by_their_path():
    inner = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, "relu", name="dense"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(4, name="next"),
        ],
        name="encoder",
    )
    inputs = keras.Input((6,))
    model = with_random_weights(keras.Model(inputs, layers.Dense(6)(inner(inputs))))
    folded, report = shrink(model, sample_for(model), "fold")
    assert report.groups == [
        {
            "layer": "encoder/norm", "units_before": 4, "units_after": 4, "removed": [],
            "folded_into": ["encoder/next"],
        }
    ]  # fmt: skip
    assert_same_outputs(model, folded)


def test_zeros_stay_zero():
    model = behind((6,), layers.Dense(4, name="next"))
    kernel = layer_at(model, "next").kernel
    kernel.assign(np.where(np.arange(24).reshape(6, 4) % 3, kernel, 0))
    folded, _ = shrink(model, sample_for(model), "fold")
    assert np.array_equal(np.equal(layer_at(folded, "next").kernel, 0), np.equal(kernel, 0))
