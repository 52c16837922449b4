from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from secateur.autoencoders import dense
from secateur.errors import InputError
from secateur.metrics import mean_squared_error, roc_auc, row_errors
from secateur.recovery import recover
from secateur.saving import copy_model
from secateur.training import rows as feeding
from secateur.training.loop import convolves
from secateur.training.rows import Blocks


@pytest.fixture
def untrained() -> keras.Model:
    keras.utils.set_random_seed(0)
    return dense(64, widths=(16,), code=8)


def weights_digest(model: keras.Model) -> str:
    return hashlib.md5(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest()


@pytest.mark.usefixtures("_uncompiled")
def test_the_original_is_untouched(untrained, train, validation):
    before = weights_digest(untrained)
    recover(untrained, train, validation, epochs=1)
    assert weights_digest(untrained) == before


def test_training_lowers_the_error_and_reports_it(untrained, train, validation):
    model, history = recover(untrained, train, validation, epochs=5, batch=32, learning_rate=3e-3)
    assert list(history.table.columns) == [
        "epoch", "attempt", "learning_rate", "loss", "validation_loss", "validation_auc",
        "gradient_norm", "largest_gradient_norm",
    ]  # fmt: skip
    assert list(history.table["epoch"]) == [0, 1, 2, 3, 4, 5]
    assert history.table["validation_loss"][0] == pytest.approx(
        mean_squared_error(untrained, validation), rel=1e-5
    )
    assert history.validation_loss == pytest.approx(mean_squared_error(model, validation), rel=1e-5)
    assert history.validation_loss < 0.5 * history.table["validation_loss"][0]
    assert history.table["validation_auc"].isna().all()


def learned_away(train) -> np.ndarray:
    """Bright rows that an untrained network errs on most, and that training then makes easy."""
    noise = np.random.default_rng(0).normal(0, 0.02, (30, train.shape[1]))
    return (2 * train.mean(axis=0) + noise).astype(np.float32)


@pytest.mark.usefixtures("_uncompiled")
def test_the_best_epoch_is_the_one_that_tells_anomalies_apart_best(untrained, train, validation):
    anomalies = learned_away(train)
    options = {"epochs": 8, "batch": 32, "learning_rate": 3e-3, "patience": 3}
    by_loss, seen = recover(untrained, train, validation, anomalies=anomalies, **options)
    model, history = recover(
        untrained, train, validation, anomalies=anomalies, monitor="auc", **options
    )
    auc = history.table["validation_auc"]
    assert auc.equals(seen.table["validation_auc"][: len(auc)])  # training is the same
    assert list(auc) == [1, 1, 0, 0, 0]
    assert (history.best_epoch, history.epochs) == (1, 4)
    assert seen.best_epoch == 8
    scores = [
        roc_auc(row_errors(one, validation), row_errors(one, anomalies)) for one in (model, by_loss)
    ]
    assert scores == [1, 0]


@pytest.mark.usefixtures("_uncompiled")
def test_epochs_that_tell_anomalies_apart_alike_are_told_by_their_loss(
    untrained, train, validation
):
    """All of them do so without a mistake; one value is even more than an error can hold."""
    anomalies = np.full((20, 64), 9.0)  # float64: nothing but a guard may have asked for them
    anomalies[0, 0] = 1e30
    _, history = recover(untrained, train, validation, anomalies=anomalies, monitor="auc", epochs=2)
    assert list(history.table["validation_auc"]) == [1, 1, 1]
    assert history.best_epoch == 2


@pytest.mark.parametrize(
    ("anomalies", "message"),
    [
        (None, "cannot monitor auc on 0 validation anomalies; allowed: at least 20, or monitor"),
        (np.zeros((19, 64), np.float32), "cannot monitor auc on 19 validation anomalies"),
        (np.zeros((20, 63), np.float32), r"anomaly rows have the shape \(63,\), .* \(64,\)"),
    ],
)
def test_anomalies_that_tell_no_best_epoch_are_refused(
    untrained, train, validation, anomalies, message
):
    with pytest.raises(InputError, match=message):
        recover(untrained, train, validation, anomalies=anomalies, monitor="auc")


@pytest.mark.usefixtures("_uncompiled")
def test_the_learning_rate_follows_a_cosine_to_zero(untrained, train, validation):
    _, history = recover(untrained, train, validation, epochs=4, learning_rate=1e-2)
    expected = [1e-2 * (1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert list(history.table["learning_rate"][1:]) == pytest.approx(expected)


@pytest.mark.usefixtures("_uncompiled")
def test_a_model_never_comes_back_worse(trained, train, validation):
    """A rate too high spoils every epoch; the model as it came is then the best."""
    model, history = recover(trained, train, validation, epochs=2, learning_rate=0.02, attempts=1)
    assert history.best_epoch == 0
    assert np.array_equal(model(validation), trained(validation))


@pytest.mark.usefixtures("_uncompiled")
def test_training_stops_when_patience_ends(trained, train, validation):
    _, history = recover(trained, train, validation, epochs=50, learning_rate=0.02, patience=3)
    assert history.epochs == history.best_epoch + 3


def digests_of_training(rows: str) -> list[str]:
    """Of the weights of a network that XLA compiles, and of one that convolves."""
    given = np.load(rows)
    keras.utils.set_random_seed(0)
    convolving = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Reshape((8, 8, 1)),
            keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2DTranspose(1, 3, strides=2, padding="same"),
            keras.layers.Flatten(),
        ]
    )
    digests = []
    for untrained in (dense(64, (16,), 8), convolving):
        model, _ = recover(untrained, given["train"], given["validation"], epochs=2, seed=4)
        digests.append(weights_digest(model))
    return digests


def test_a_seed_gives_the_same_weights_in_another_process(train, validation, tmp_path):
    rows = str(tmp_path / "rows.npz")
    np.savez(rows, train=train, validation=validation)
    code = "import sys, tests.test_recovery as t; print(t.digests_of_training(sys.argv[1]))"
    elsewhere = subprocess.run(
        [sys.executable, "-c", code, rows],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert elsewhere.stdout.strip() == str(digests_of_training(rows))


def test_the_network_alone_chooses_the_compiler(untrained):
    image = keras.Input((8, 8, 1))
    inner = keras.Sequential([image, keras.layers.DepthwiseConv2D(3, padding="same")])
    nested = keras.Model(image, keras.layers.ReLU()(inner(image)))
    assert convolves(nested)
    assert not convolves(untrained)


def test_every_row_is_seen_when_blocks_are_streamed(train, monkeypatch):
    monkeypatch.setattr(feeding, "DEVICE_BYTES", 1)
    monkeypatch.setattr(feeding, "BLOCK_BYTES", 100 * train.nbytes // len(train))
    blocks = Blocks(train, batch=25)
    order = np.random.default_rng(0)
    seen = np.concatenate(
        [
            np.asarray(rows)[blocks.steps(len(rows), order).ravel()]
            for rows in blocks.feed(blocks.starts(order))
        ]
    )
    assert blocks.steps_an_epoch == len(train) / 25
    assert seen.shape == train.shape
    assert np.array_equal(np.sort(seen, axis=0), np.sort(train, axis=0))


def test_streamed_rows_train_as_well_as_resident_ones(untrained, train, validation, monkeypatch):
    options = {"epochs": 5, "batch": 25, "learning_rate": 3e-3}
    _, resident = recover(untrained, train, validation, **options)
    monkeypatch.setattr(feeding, "DEVICE_BYTES", 1)
    monkeypatch.setattr(feeding, "BLOCK_BYTES", 100 * train.nbytes // len(train))
    _, streamed = recover(untrained, train, validation, **options)
    assert streamed.validation_loss == pytest.approx(resident.validation_loss, rel=0.1)


@pytest.mark.usefixtures("_uncompiled")
def test_a_teacher_pulls_the_student_to_its_outputs(untrained, trained, train, validation):
    options = {"epochs": 5, "batch": 32, "learning_rate": 3e-3}
    alone, _ = recover(untrained, train, validation, **options)
    taught, _ = recover(untrained, train, validation, trained, distillation=1.0, **options)
    wanted = np.asarray(trained(validation))
    distances = [np.square(model(validation) - wanted).mean() for model in (taught, alone)]
    assert distances[0] < distances[1]


@pytest.mark.usefixtures("_uncompiled")
def test_batch_norm_statistics_are_trained(train, validation):
    row = keras.Input((64,))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(16, "relu")(row))
    model = keras.Model(row, keras.layers.Dense(64)(hidden))
    recovered, _ = recover(model, train, validation, epochs=2, learning_rate=3e-3)
    moved = recovered.layers[2].moving_mean - model.layers[2].moving_mean
    assert np.abs(moved).max() > 0.01


@pytest.mark.usefixtures("_uncompiled")
def test_progress_is_logged_for_whoever_listens(untrained, train, validation, caplog):
    with caplog.at_level(logging.INFO, "secateur.recovery"):
        recover(untrained, train, validation, epochs=2, name="round_7")
    last = caplog.records[-1].progress
    assert (last["name"], last["epoch"], last["epochs"], last["eta_seconds"]) == (
        "round_7",
        2,
        2,
        0,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs"),
        ({"epoch": 3}, "epoch"),
        ({"batch": 5000}, "1200 train rows are fewer than a batch of 5000"),
        ({"distillation": 2}, "distillation"),
        ({"match": "everything"}, "match"),
        ({"schedule": "rewind"}, "rewind needs original_epochs"),
        ({"schedule": "sine"}, "schedule"),
        ({"clip": 0}, "clip"),
        ({"monitor": "ause"}, "monitor"),
    ],
)
def test_options_that_cannot_be_used_are_refused(untrained, train, validation, options, message):
    with pytest.raises(InputError, match=message):
        recover(untrained, train, validation, **options)


def test_rows_of_another_shape_are_refused(untrained, train, validation):
    with pytest.raises(InputError, match=r"validation rows have the shape \(63,\), .* \(64,\)"):
        recover(untrained, train, validation[:, 1:])


def test_a_model_that_is_broken_as_it_came_is_refused(untrained, train, validation):
    broken = copy_model(untrained)
    broken.set_weights([np.full_like(weight, np.nan) for weight in broken.get_weights()])
    with pytest.raises(InputError, match="before any training"):
        recover(broken, train, validation, epochs=1)
