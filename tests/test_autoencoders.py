"""The autoencoders to start from, and other people's."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import yaml
from keras import layers

from secateur import paths
from secateur.autoencoders import AUTOENCODERS, conv, dense, on_rows
from secateur.costs import costs
from secateur.errors import InputError
from secateur.graph.code import code_width
from secateur.saving import load, save
from secateur.settings import parse_settings
from tasks import baseline

ROWS = np.random.default_rng(0).random((40, 48)).astype(np.float32)
SHAPES = {"conv": (4, 4, 3), "dense": (48,)}


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_every_architecture_makes_rows_of_rows_through_its_code(name):
    model = on_rows(AUTOENCODERS[name](SHAPES[name], (8, 6), 5), 48)
    assert model(ROWS).shape == ROWS.shape
    assert code_width(model) == 5
    assert AUTOENCODERS[name](SHAPES[name], (8, 6), 5).get_layer("code").units == 5


@pytest.mark.parametrize("shape", [(7, 9, 2), (8, 8, 1), (13, 3), (1, 1)])
def test_odd_lengths_come_back_as_they_were(shape):
    model = conv(shape, (4, 6, 8), 3)
    assert model.output_shape == (None, *shape)
    names = [layer.name for layer in model.layers]
    assert [name for name in names if name in ("encoder_3", "code", "decoder_3", "output")] == [
        "encoder_3", "code", "decoder_3", "output",
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(48,), (2, 2, 2, 6), (4, 0)])
def test_shapes_that_are_no_signal_and_no_image_are_refused(shape):
    with pytest.raises(InputError, match=r"allowed: \(steps, channels\) or \(height, width"):
        conv(shape)
    with pytest.raises(InputError, match="allowed: one length"):
        dense((4, 12))


def test_a_model_of_images_takes_rows_and_costs_what_it_did():
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 3))
    encoder = keras.Sequential([image, layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(5)])
    decoder = keras.Sequential([keras.Input((5,)), layers.Dense(48), layers.Reshape((4, 4, 3))])
    model = keras.Model(image, decoder(encoder(image)))
    flat = on_rows(model, 48)
    outputs = np.asarray(model(ROWS.reshape(-1, 4, 4, 3))).reshape(-1, 48)
    assert np.array_equal(flat(ROWS), outputs)
    assert code_width(flat) == 5
    assert costs(flat).macs == costs(model).macs
    assert costs(flat).parameters == costs(model).parameters
    plain = dense(48, (8,), 4)
    assert on_rows(plain, 48) is plain


def test_models_that_do_not_fit_the_rows_are_refused():
    with pytest.raises(InputError, match=r"takes samples of shape \(48,\), but the data has rows"):
        on_rows(dense(48), 50)
    ends = keras.Input((48,)), keras.Input((48,))
    with pytest.raises(InputError, match="2 inputs and 1 outputs; allowed: one of each"):
        on_rows(keras.Model(ends, layers.Add()(ends)), 48)
    series = keras.Input((None, 3))
    with pytest.raises(InputError, match="no length left open"):
        on_rows(keras.Model(series, layers.Dense(3)(series)), 48)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (paths.TRAIN, paths.VALIDATION):
        folder.mkdir(parents=True)
        np.save(folder / paths.ROWS, ROWS)
    paths.PRETRAINED.mkdir()
    training = {"batch": 20}
    settings = {"baseline": {"architecture": "pretrained", "training": training}, "rounds": {}}
    paths.SETTINGS.write_text(yaml.safe_dump(settings))
    return tmp_path


@pytest.mark.usefixtures("workspace")
def test_a_pretrained_model_is_the_baseline_as_it_is():
    keras.utils.set_random_seed(0)
    model = conv((4, 4, 3), (4,), 5)
    save(model, paths.PRETRAINED / "mine.keras")
    baseline.run()
    rung = load(paths.rung_folder("baseline") / paths.MODEL)
    outputs = np.asarray(model(ROWS.reshape(-1, 4, 4, 3))).reshape(-1, 48)
    assert np.array_equal(rung(ROWS), outputs)
    metrics = paths.read_json(paths.rung_folder("baseline") / paths.METRICS)
    assert metrics["costs"]["parameters"] == model.count_params()


@pytest.mark.usefixtures("workspace")
def test_there_must_be_one_pretrained_model():
    with pytest.raises(InputError, match="holds these models: none; allowed: one"):
        baseline.run()
    for name in ("b.keras", "a.h5"):
        (paths.PRETRAINED / name).touch()
    with pytest.raises(InputError, match=r"holds these models: a\.h5, b\.keras; allowed: one"):
        baseline.run()
    (paths.PRETRAINED / "a.h5").unlink()
    with pytest.raises(InputError, match="cannot be loaded safely"):
        baseline.run()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"architecture": "conv"}, r"conv needs the shape of a row: .*got None"),
        ({"architecture": "conv", "shape": [64]}, r"got \[64\]"),
        ({"architecture": "dense", "shape": [8, 8, 1]}, "shape is for conv, not for dense"),
    ],
)
def test_shapes_are_given_where_they_are_needed(given, message):
    with pytest.raises(InputError, match=message):
        parse_settings({"baseline": given, "rounds": {}})
