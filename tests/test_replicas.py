"""Replicas that share every batch: what comes of training is what one device makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from secateur import recover
from secateur.errors import InputError
from secateur.training.replicas import replicas_of
from tests.toy import ROOT

# In a process of its own: TensorFlow splits a CPU before it has done anything, or not at all.
TRAIN_ON_ONE_AND_TWO = """
import json
import keras
import numpy as np
import tensorflow as tf

cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from keras import layers
from secateur import recover
from secateur.errors import InputError

rows = np.random.default_rng(0).normal(size=(256, 12)).astype(np.float32)


def trained(model, batch, **options):
    found, history = recover(
        model, rows[:192], rows[192:], epochs=3, batch=batch, learning_rate=0.01, **options
    )
    return found, history.validation_loss


def network(*between):
    keras.utils.set_random_seed(0)
    tensor = row = keras.Input((12,))
    for layer in (layers.Dense(8), *between, layers.Dense(12)):
        tensor = layer(tensor)
    return keras.Model(row, tensor)


plain = network()
mask = np.random.default_rng(1).random((12, 8)) < 0.5
plain.layers[1].kernel.assign(np.asarray(plain.layers[1].kernel) * mask)
one, loss = trained(plain, 32, clip=1.0)
two, loss_of_two = trained(plain, 32, clip=1.0, devices=2)
apart = max(np.abs(a - b).max() for a, b in zip(one.get_weights(), two.get_weights()))
moved = np.abs(one.get_weights()[-2] - plain.get_weights()[-2]).max()
zeros = int((np.asarray(two.layers[1].kernel) == 0).sum() - (~mask).sum())

changing = network(layers.BatchNormalization(momentum=0.5), layers.Dropout(0.2))
after, _ = trained(changing, 64, devices=2)
mean = np.asarray(after.layers[2].moving_mean)
draws = [int(np.asarray(one)[1]) for one in after.variables if one.name == "seed_generator_state"]
drawn_by_one, _ = trained(changing, 64)
draws_of_one = [
    int(np.asarray(one)[1]) for one in drawn_by_one.variables if one.name == "seed_generator_state"
]
try:
    trained(plain, 33, devices=3)
except InputError as error:
    refused = str(error)
print(json.dumps({
    "apart": float(apart), "moved": float(moved), "zeros": zeros,
    "losses": [loss, loss_of_two], "mean": float(np.abs(mean).max()), "finite": bool(
        all(np.isfinite(weights).all() for weights in after.get_weights())
    ), "draws": [draws, draws_of_one], "refused": refused,
}))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_ON_ONE_AND_TWO],
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_two_devices_train_what_one_trains(found):
    """Alike but for the order of sums; the weights themselves move 10,000 times as far."""
    assert found["moved"] > 0.01
    assert 0 < found["apart"] < 1e-6
    assert found["losses"][1] == pytest.approx(found["losses"][0], rel=1e-6)


def test_what_training_must_not_undo_stays_on_two_devices(found):
    assert found["zeros"] == 0


def test_what_a_model_changes_by_itself_is_changed_once_a_step(found):
    assert found["finite"]
    assert found["mean"] > 0
    of_two, of_one = found["draws"]
    assert of_two == of_one != [0]


def test_devices_that_are_not_there_are_refused(found):
    assert "among 3 devices, this machine has 2 (" in found["refused"]


def test_a_batch_must_be_shared_in_equal_parts(trained, train, validation):
    with pytest.raises(InputError, match=r"a batch of 32 rows .* by 3 devices .* a multiple of 3"):
        recover(trained, train, validation, batch=32, devices=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "training on 2 hosts needs TF_CONFIG in the environment, such as .*; got 'nothing'"),
        ("{worker", "needs TF_CONFIG"),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 2}}',
            "needs",
        ),
        ('{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"index": 0}}', "needs"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"index": 0}}', "2 hosts, TF_CONFIG names 1"),
    ],
)
def test_hosts_that_are_not_named_are_refused(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match=message):
        replicas_of(1, 2)


def test_hosts_must_meet_before_tensorflow_does_anything(monkeypatch, trained):
    hosts = {"cluster": {"worker": ["127.0.0.1:9", "127.0.0.1:10"]}, "task": {"index": 0}}
    hosts["task"]["type"] = "worker"
    monkeypatch.setenv("TF_CONFIG", json.dumps(hosts))
    np.asarray(trained(np.zeros((1, *trained.input_shape[1:]), np.float32)))
    with pytest.raises(InputError, match="before TensorFlow does anything else"):
        replicas_of(1, 2)


def test_alone_nobody_shares():
    assert replicas_of(1, 1) is None
