from __future__ import annotations

import hashlib

import keras
import numpy as np
import pytest

from secateur.autoencoders import dense
from secateur.errors import InputError
from secateur.masks import (
    apply_masks,
    kernels,
    load_masks,
    masked_least_squares,
    masks_of,
    ridge_of,
    save_masks,
)
from secateur.recovery import recover
from secateur.saving import copy_model

pytestmark = pytest.mark.usefixtures("_without_xla")


@pytest.fixture
def sparse(trained) -> keras.Model:
    """The trained model with every second entry of two kernels at zero."""
    model = copy_model(trained)
    for name in ("encoder_1", "decoder_2"):
        kernel, bias = model.get_layer(name).get_weights()
        kernel.ravel()[::2] = 0
        model.get_layer(name).set_weights([kernel, bias])
    return model


def test_masks_name_the_kernels_that_hold_zeros(sparse):
    masks = masks_of(sparse)
    assert {path: int(mask.sum()) for path, mask in masks.items()} == {
        "encoder_1/kernel": 1024,
        "decoder_2/kernel": 256,
    }


def test_a_dense_model_has_no_masks(trained):
    assert masks_of(trained) == {}


def test_kernels_are_found_in_nested_models_and_wrappers_and_shared_ones_once():
    inner = keras.Sequential(
        [keras.Input((4, 6)), keras.layers.Dense(6, name="same")], name="inner"
    )
    row = keras.Input((4, 6))
    once = inner(inner(row))
    mixed = keras.layers.MultiHeadAttention(2, 3, name="attention")(once, once)
    wrapped = keras.layers.TimeDistributed(keras.layers.Dense(6, name="same"), name="each")(mixed)
    gates = keras.layers.LSTM(6, return_sequences=True, name="gates")(wrapped)
    slopes = keras.layers.PReLU(name="slopes")(keras.layers.LayerNormalization()(gates))
    assert list(kernels(keras.Model(row, slopes))) == [
        "inner/same/kernel",
        "attention/query/kernel",
        "attention/key/kernel",
        "attention/value/kernel",
        "attention/attention_output/kernel",
        "each/same/kernel",
        "gates/lstm_cell/kernel",
        "gates/lstm_cell/recurrent_kernel",
    ]


def test_applied_masks_silence_what_is_not_alive(trained, sparse):
    masked = copy_model(trained)
    apply_masks(masked, masks_of(sparse))
    assert all(map(np.array_equal, masked.get_weights(), sparse.get_weights()))


def test_a_mask_that_does_not_fit_is_refused(trained):
    with pytest.raises(InputError, match=r"no kernel 'encoder/kernel'; the model has encoder_1/k"):
        apply_masks(trained, {"encoder/kernel": np.ones((64, 32), bool)})
    with pytest.raises(InputError, match=r"shape \(32, 64\), its kernel \(64, 32\)"):
        apply_masks(trained, {"encoder_1/kernel": np.ones((32, 64), bool)})


def test_masks_come_back_from_their_file_and_two_files_are_alike(sparse, tmp_path):
    save_masks(masks_of(sparse), tmp_path / "one.npz")
    save_masks(dict(reversed(masks_of(sparse).items())), tmp_path / "two.npz")
    loaded = load_masks(tmp_path / "one.npz")
    assert loaded.keys() == masks_of(sparse).keys()
    assert all(np.array_equal(loaded[path], mask) for path, mask in masks_of(sparse).items())
    digests = {
        hashlib.md5((tmp_path / name).read_bytes()).hexdigest() for name in ("one.npz", "two.npz")
    }
    assert len(digests) == 1


def test_a_dense_models_file_holds_nothing(trained, tmp_path):
    save_masks(masks_of(trained), tmp_path / "masks.npz")
    assert load_masks(tmp_path / "masks.npz") == {}


def test_a_file_without_masks_is_named(tmp_path):
    (tmp_path / "masks.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"masks\.npz holds no masks"):
        load_masks(tmp_path / "masks.npz")


def test_zeros_stay_zero_through_recovery_and_the_rest_learns(sparse, train, validation):
    recovered, history = recover(sparse, train, validation, epochs=2, batch=32)
    for before, after in zip(kernels(sparse).values(), kernels(recovered).values(), strict=True):
        assert np.array_equal(np.asarray(before) == 0, np.asarray(after) == 0)
    assert history.best_epoch > 0


def test_a_kernel_that_begins_at_zero_and_zero_biases_learn(train, validation):
    keras.utils.set_random_seed(0)
    model = dense(64, widths=(16,), code=8)
    kernel, bias = model.get_layer("output").get_weights()
    model.get_layer("output").set_weights([kernel * 0, bias])
    assert masks_of(model) == {}
    recovered, _ = recover(model, train, validation, epochs=1, batch=32)
    assert all(np.any(weight != 0) for weight in recovered.get_layer("output").get_weights())


def test_a_masked_fit_is_the_least_squares_of_each_column():
    draw = np.random.default_rng(0)
    rows, wanted = draw.normal(size=(200, 6)), draw.normal(size=(200, 3))
    mask = draw.random((6, 3)) < 0.5
    mask[:, 2] = mask[:, 1]
    fitted = masked_least_squares(rows.T @ rows / 200, rows.T @ wanted / 200, mask, ridge=1e-12)
    assert np.all(fitted[~mask] == 0)
    for column in range(3):
        inputs = mask[:, column]
        alone = np.linalg.lstsq(rows[:, inputs], wanted[:, column])[0]
        assert fitted[inputs, column] == pytest.approx(alone, rel=1e-9)


def test_an_input_that_says_nothing_keeps_its_weight():
    gram, start = np.diag([1.0, 0.0]), np.array([[2.0], [3.0]])
    fitted = masked_least_squares(gram, gram @ start, np.ones((2, 1), bool), start)
    assert fitted == pytest.approx(start)


@pytest.mark.parametrize(
    ("rows", "ridge"), [(10, 1e-2), (100, 1e-2), (200, 1e-2 / 8), (1000, 1e-5), (2155, 1e-6)]
)
def test_fewer_rows_are_damped_more(rows, ridge):
    assert ridge_of(100, rows) == pytest.approx(ridge)
