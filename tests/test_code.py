"""What shrinking the code promises."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from secateur import shrink
from secateur.errors import InputError
from secateur.metrics import mean_squared_error


def test_the_code_alone_is_cut(trained, train):
    cut, report = shrink(trained, train, "code", keep=0.5)
    assert [layer.units for layer in cut.layers[1:]] == [32, 16, 4, 16, 32, 64]
    (entry,) = report.groups
    assert (entry["layer"], entry["units_before"], entry["units_after"]) == ("code", 8, 4)
    assert entry["turned"] is True


def test_turning_loses_less(trained, train, validation):
    turned, straight = (
        mean_squared_error(shrink(trained, train, "code", keep=0.5, turn=turn)[0], validation)
        for turn in (True, False)
    )
    assert turned < straight


def test_a_code_wider_than_what_it_carries_is_cut_without_loss(train, validation):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((64,))
    hidden = layers.Dense(16, "relu")(inputs)
    code = layers.Dense(6, name="code")(hidden)
    model = keras.Model(inputs, layers.Dense(64)(layers.Dense(12, "relu")(code)))
    kernel, bias = model.get_layer("code").get_weights()
    kernel[:, 3:] = kernel[:, :3] @ np.array([[1, 2, 0], [0, 1, -1], [1, 0, 1]], np.float32)
    model.get_layer("code").set_weights([kernel, bias + 0.5])
    cut, _ = shrink(model, train, "code", keep=0.5)
    assert cut.get_layer("code").units == 3
    expected = np.asarray(model(validation))
    assert np.abs(cut(validation) - expected).max() <= 1e-3 * np.abs(expected).max()


def test_inactive_dimensions_leave(trained, train, validation):
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    kernel, bias = model.get_layer("code").get_weights()
    kernel[:, [2, 5]] *= 1e-4
    model.get_layer("code").set_weights([kernel, bias])
    cut, report = shrink(model, train, "code", inactive=1e-4)
    assert sorted(unit["unit"] for unit in report.groups[0]["removed"]) == [2, 5]
    difference = np.abs(cut(validation) - model(validation)).max()
    assert difference <= 0.02 * np.abs(model(validation)).max()


def test_a_pruned_code_keeps_its_zeros(trained, train):
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    kernel = model.get_layer("decoder_1").kernel
    mask = np.ones(kernel.shape, bool)
    mask[:, 3] = mask[1:3, 4] = False
    kernel.assign(np.asarray(kernel) * mask)
    cut, report = shrink(model, train, "code", keep=0.5)
    gone = [unit["unit"] for unit in report.groups[0]["removed"]]
    assert report.groups[0]["turned"] is False
    left = np.asarray(cut.get_layer("decoder_1").kernel)
    assert np.array_equal(left != 0, np.delete(mask, gone, axis=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, r"keep must be in \(0, 1\], got 0"),
        ({"keep": 0.5, "turn": 1}, "turn must be true or false, got 1"),
        ({"inactive": -1}, "inactive must be at least 0 or null, got -1"),
    ],
)
def test_options_that_cannot_be_used_are_refused(trained, train, options, message):
    with pytest.raises(InputError, match=message):
        shrink(trained, train, "code", **options)
