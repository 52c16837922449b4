"""Units of convolutional networks: what is read by windows, through normalizations, and twice."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from secateur import shrink
from secateur.compensation import renew_batch_norm, renew_batch_norm_if_better
from secateur.errors import InputError
from secateur.importance import SCORES
from secateur.metrics import mean_squared_error
from secateur.recovery import recover


def network() -> keras.Model:
    """BatchNorm, a skip, a depthwise layer, Flatten-Dense-Reshape, a transposed convolution."""
    x = keras.Input((8, 8, 1))
    h = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="first")(x)
    skip = layers.ReLU()(layers.BatchNormalization(name="norm")(h))
    h = layers.DepthwiseConv2D(3, padding="same")(skip)
    h = layers.Conv2D(8, 1, name="second")(h)
    h = layers.ReLU()(layers.Add()([h, skip]))
    h = layers.Dense(8, name="code")(layers.Flatten()(h))
    h = layers.Dense(4 * 4 * 8, "relu", name="widen")(h)
    h = layers.Reshape((4, 4, 8))(h)
    h = layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu", name="up")(h)
    return keras.Model(x, layers.Conv2D(1, 3, padding="same", name="output")(h))


@pytest.fixture(scope="module")
def images(train):
    return train.reshape(-1, 8, 8, 1)


@pytest.fixture(scope="module")
def convolutional(images):
    keras.utils.set_random_seed(0)
    return recover(network(), images, images[:200], epochs=12, batch=32, learning_rate=3e-3)[0]


def test_filters_leave_and_the_next_layers_take_over(convolutional, images):
    error = {}
    for compensate in ("least_squares", "bias", "none"):
        cut, report = shrink(convolutional, images[:400], "units", keep=0.5, compensate=compensate)
        error[compensate] = mean_squared_error(cut, images[400:])
    assert {group["layer"]: group["units_after"] for group in report.groups} == {
        "first": 4, "widen": 4, "up": 3,
    }  # fmt: skip
    assert error["least_squares"] < 0.75 * min(error["bias"], error["none"])


@pytest.mark.parametrize("importance", [*SCORES, "random"])
def test_every_importance_cuts_to_the_same_widths(importance, convolutional, images):
    cut, report = shrink(convolutional, images[:64], "units", keep=0.5, importance=importance)
    assert cut.get_layer("first").filters == 4
    assert [len(group["removed"]) for group in report.groups] == [4, 4, 3]


def normed(use_bias: bool) -> keras.Model:
    """Two convolutions, the second of which a BatchNormalization reads."""
    x = keras.Input((8, 8, 1))
    h = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(x)
    h = layers.Conv2D(4, 3, strides=2, padding="same", use_bias=use_bias, name="second")(h)
    h = layers.ReLU()(layers.BatchNormalization(name="norm")(h))
    h = layers.Conv2DTranspose(4, 3, strides=2, padding="same", use_bias=use_bias, name="up")(h)
    h = layers.ReLU()(layers.BatchNormalization()(h))
    return keras.Model(x, layers.Conv2D(1, 3, padding="same", name="output")(h))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("units", {"keep": 0.5}),
        ("units", {"keep": 0.5, "compensate": "bias"}),
        ("weights", {"keep": 0.5}),
        ("cluster", {"clusters": 6}),
    ],
)
def test_a_normalization_takes_over_what_a_missing_bias_would(method, options, images):
    keras.utils.set_random_seed(0)
    without, with_bias = normed(False), normed(True)
    renew_batch_norm(without, images[:300])
    for layer, other in zip(without.layers, with_bias.layers, strict=True):
        biases = [np.zeros(layer.filters)] if layer.name in ("second", "up") else []
        other.set_weights([*layer.get_weights(), *biases])
    outputs = [
        shrink(model, images[:300], method, **options)[0](images[300:400])
        for model in (without, with_bias)
    ]
    np.testing.assert_allclose(*outputs, atol=1e-4)


def test_what_reads_behind_a_skip_follows_cuts_within_it(images):
    """The code reads what two groups make, of which the inner one is cut last."""
    x = keras.Input((8, 8, 1))
    skip = layers.Conv2D(12, 3, strides=2, padding="same", activation="relu", name="first")(x)
    h = layers.Conv2D(12, 3, padding="same", activation="relu", name="inner")(skip)
    h = layers.Conv2D(12, 3, padding="same", activation="relu", name="second")(h)
    h = layers.Flatten()(layers.Add()([h, skip]))
    h = layers.Dense(6, name="code")(h)
    keras.utils.set_random_seed(0)
    model = keras.Model(x, layers.Reshape((8, 8, 1))(layers.Dense(64, name="output")(h)))
    cut, report = shrink(model, images[:600], "units", keep=0.5)
    assert [group["layer"] for group in report.groups] == ["first", "inner"]

    def seen(one: keras.Model) -> tuple[np.ndarray, np.ndarray]:
        code = one.get_layer("code")
        read, made = keras.Model(one.input, [code.input, code.output])(images[:600])
        return np.hstack([read, np.ones((600, 1))]), np.asarray(made, np.float64)

    (_, wanted), (read, given) = seen(model), seen(cut)
    nearest = read @ np.linalg.lstsq(read, wanted)[0]
    assert np.square(given - wanted).mean() < 1.05 * np.square(nearest - wanted).mean()


def test_a_filter_that_gives_nothing_leaves_without_changing_the_output(images):
    keras.utils.set_random_seed(1)
    model = network()
    kernel = model.get_layer("first").get_weights()[0]
    kernel[..., 5] = 0
    model.get_layer("first").set_weights([kernel])
    mixed, bias = model.get_layer("second").get_weights()
    mixed[..., 5] = 0
    model.get_layer("second").set_weights([mixed, bias])
    up, bias = model.get_layer("up").get_weights()
    up[..., 2, :] = 0
    model.get_layer("up").set_weights([up, bias])
    widen, bias = model.get_layer("widen").get_weights()
    widen[:, 3::8] = 0
    model.get_layer("widen").set_weights([widen, bias])
    cut, report = shrink(model, images[:200], "units", keep=7 / 8)
    assert [[one["unit"] for one in group["removed"]] for group in report.groups] == [[5], [3], [2]]
    before, after = model.predict(images, verbose=0), cut.predict(images, verbose=0)
    assert np.abs(after - before).max() <= 1e-4 * np.abs(before).max()


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({"keep": 0.4, "multiple": 4}, [4, 4, 4]),
        ({"keep": 0.1, "minimum": 3}, [3, 3, 3]),
        ({"keep": 0.6, "multiple": 8}, []),
    ],
)
def test_widths_are_rounded_and_never_too_small(options, widths, convolutional, images):
    _, report = shrink(convolutional, images[:64], "units", **options)
    assert [group["units_after"] for group in report.groups] == widths


@pytest.mark.parametrize("knob", ["multiple", "minimum"])
def test_widths_that_cannot_be_are_refused(knob, convolutional, images):
    with pytest.raises(InputError, match=f"{knob} must be a whole number from 1, got 0"):
        shrink(convolutional, images, "units", keep=0.5, **{knob: 0})


def test_zeros_stay_zero(convolutional, images):
    sparse = keras.models.clone_model(convolutional)
    sparse.set_weights(convolutional.get_weights())
    kernel, bias = sparse.get_layer("output").get_weights()
    kernel[0] = 0
    sparse.get_layer("output").set_weights([kernel, bias])
    cut, _ = shrink(sparse, images[:200], "units", keep=0.5)
    after = cut.get_layer("output").get_weights()[0]
    assert not after[0].any()
    assert after[1:].all()


def test_renewed_statistics_are_those_of_the_sample(convolutional, images):
    model = keras.models.clone_model(convolutional)
    model.set_weights(convolutional.get_weights())
    model.get_layer("norm").moving_mean.assign(np.full(8, 9.0))
    renew_batch_norm(model, images)
    given = keras.Model(model.input, model.get_layer("first").output)(images).numpy()
    found = model.get_layer("norm")
    np.testing.assert_allclose(found.moving_mean, given.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(found.moving_variance, given.var(axis=(0, 1, 2)), atol=1e-4)


def test_statistics_are_renewed_where_that_helps(images):
    """A norm that is the identity is best left alone; one that the next layer undoes is not."""
    rows = images[:, 0, :, 0] + 3.0
    mean, deviation = rows.mean(axis=0), np.sqrt(rows.var(axis=0) + 1e-3)
    for undone in (False, True):
        norm = layers.BatchNormalization(center=False, scale=False, epsilon=1e-3)
        undo = layers.Dense(8)
        model = keras.Sequential([keras.Input((8,)), norm, undo])
        norm.moving_variance.assign(np.full(8, 1 - 1e-3))
        undo.set_weights([np.diag(deviation), mean] if undone else [np.eye(8), np.zeros(8)])
        assert renew_batch_norm_if_better(model, rows) == undone
        assert mean_squared_error(model, rows) < 1e-6


def test_only_a_compensated_cut_renews_statistics(convolutional, images):
    moved = {}
    for compensate in ("none", "bias"):
        cut, report = shrink(convolutional, images, "units", keep=0.5, compensate=compensate)
        norms = [one.get_layer("norm").moving_mean for one in (cut, report.uncompensated)]
        moved[compensate] = not np.array_equal(*norms)
    assert not moved["none"]
