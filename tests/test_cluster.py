"""What sharing weights promises beyond what every method does."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from secateur import costs, recover, shrink
from secateur.errors import InputError
from secateur.masks import kernels
from secateur.methods import make_method
from secateur.metrics import mean_squared_error
from secateur.saving import copy_model


def values(kernel) -> int:
    kernel = np.asarray(kernel)
    return np.unique(kernel[kernel != 0]).size


def test_every_kernel_has_as_many_values_as_asked(trained, train):
    shared, report = shrink(trained, train, "cluster", clusters=8)
    assert [values(kernel) for kernel in kernels(shared).values()] == [8] * 6
    assert [entry["values_after"] for entry in report.groups] == [8] * 6
    assert all(entry["gzip_bytes_after"] < entry["gzip_bytes_before"] for entry in report.groups)


def test_fitted_values_are_better_than_means(trained, train, validation):
    shared, report = shrink(trained, train, "cluster", clusters=8)
    means, _ = shrink(trained, train, "cluster", clusters=8, fit="means")
    assert mean_squared_error(shared, validation) < 0.8 * mean_squared_error(means, validation)
    uncompensated = mean_squared_error(report.uncompensated, validation)
    assert mean_squared_error(shared, validation) < 0.8 * uncompensated


def test_zeros_stay_zero_and_training_keeps_values_shared(trained, train, validation):
    pruned = copy_model(trained)
    for kernel in kernels(pruned).values():
        weights = np.array(kernel)
        weights[:, ::2] = 0
        kernel.assign(weights)
    shared, _ = shrink(pruned, train, "cluster", clusters=4)
    recovered, history = recover(shared, train, validation, epochs=3, batch=32)
    assert history.best_epoch > 0
    for before, after in zip(kernels(shared).values(), kernels(recovered).values(), strict=True):
        assert np.array_equal(np.asarray(before) == 0, np.asarray(after) == 0)
        assert values(after) == 4
        assert not np.array_equal(before, after)


def test_convolutions_and_kernels_without_a_linear_map_share_values_too():
    keras.utils.set_random_seed(0)
    row = keras.Input((8, 3))
    hidden = layers.Conv1D(6, 3, padding="same", activation="relu")(row)
    hidden = layers.Conv1DTranspose(6, 3, padding="same")(layers.Conv1D(6, 3, groups=2)(hidden))
    hidden = layers.LSTM(5, return_sequences=True)(hidden)
    model = keras.Model(row, layers.Dense(3)(hidden))
    sample = np.random.default_rng(0).normal(size=(50, 8, 3)).astype(np.float32)
    shared, report = shrink(model, sample, "cluster", clusters=4)
    assert len(report.groups) == 6
    assert {values(kernel) for kernel in kernels(shared).values()} == {4}
    assert costs(shared).gzip_bytes < costs(model).gzip_bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 1}, r"clusters must be a whole number in \[2, 65536\], got 1"),
        ({"clusters": 4.0}, "clusters must be a whole number"),
        ({"fit": "best"}, "fit must be one of least_squares, means, got 'best'"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make_method("cluster", options)
