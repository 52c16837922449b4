from __future__ import annotations

import zipfile

import keras
import numpy as np
import pytest

from secateur.errors import InputError
from secateur.saving import architecture, copy_model, from_architecture, load, save


def test_what_was_loaded_is_saved_to_the_same_bytes(trained, tmp_path):
    first, second = tmp_path / "first.keras", tmp_path / "second.keras"
    save(trained, first)
    save(load(first), second)
    assert first.read_bytes() == second.read_bytes()


def test_loading_gives_back_the_same_outputs(trained, validation, tmp_path):
    save(trained, tmp_path / "model.keras")
    loaded = load(tmp_path / "model.keras")
    assert np.array_equal(loaded(validation), trained(validation))


def test_keras_itself_reads_the_file(trained, validation, tmp_path):
    save(trained, tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded(validation), trained(validation))


def test_no_date_is_stored(trained, tmp_path):
    save(trained, tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert b"date_saved" not in archive.read("metadata.json")
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}


def test_nothing_is_left_beside_the_file(trained, tmp_path):
    save(trained, tmp_path / "model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_another_ending_is_refused(trained, tmp_path):
    with pytest.raises(InputError, match=r"must end in \.keras, got .*model\.h5"):
        save(trained, tmp_path / "model.h5")


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no model at .*none\.keras"):
        load(tmp_path / "none.keras")


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"not a model")
    with pytest.raises(InputError, match="cannot be loaded safely"):
        load(tmp_path / "broken.keras")


def test_code_in_a_model_is_not_run(tmp_path):
    row = keras.Input((2,))
    model = keras.Model(row, keras.layers.Lambda(lambda x: x * 2)(row))
    save(model, tmp_path / "lambda.keras")
    with pytest.raises(InputError, match="cannot be loaded safely"):
        load(tmp_path / "lambda.keras")


def test_a_copy_is_its_own_model(trained):
    before = [weight.copy() for weight in trained.get_weights()]
    copy = copy_model(trained)
    copy.set_weights([weight * 0 for weight in before])
    assert all(map(np.array_equal, trained.get_weights(), before))


def test_an_architecture_has_fresh_weights_and_the_same_shape(trained):
    keras.utils.set_random_seed(1)
    fresh = from_architecture(architecture(trained))
    assert [w.shape for w in fresh.weights] == [w.shape for w in trained.weights]
    assert not np.array_equal(fresh.get_weights()[0], trained.get_weights()[0])


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_an_only_input_is_no_list(name, tmp_path):
    """Keras would warn at every call, and warnings are errors here."""
    row = keras.Input((4,))
    model = keras.Model([row], [keras.layers.Dense(3)(row)])
    model.save(tmp_path / name)
    loaded = load(tmp_path / name)
    assert loaded(np.ones((2, 4), np.float32)).shape == (2, 3)
    assert all(map(np.array_equal, loaded.get_weights(), model.get_weights()))
