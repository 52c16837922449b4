from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from secateur.errors import InputError
from secateur.graph import dependency_groups, inputs_at, keep_units


@pytest.fixture
def autoencoder() -> keras.Model:
    """A skip, a concatenation with the input, a BatchNorm and a code of 4."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((20,))
    first = layers.Dense(16, "relu", name="first")(inputs)
    hidden = layers.BatchNormalization(name="norm")(first)
    hidden = layers.Dense(16, name="second")(hidden)
    hidden = layers.Add(name="add")([layers.PReLU(name="prelu")(hidden), first])
    hidden = layers.Concatenate(name="join")([hidden, first, inputs])
    code = layers.Dense(4, name="code")(hidden)
    hidden = layers.Dropout(0.2)(layers.Dense(12, "gelu", name="decoder")(code))
    return keras.Model(inputs, layers.Dense(20, name="output")(hidden))


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 20)).astype("float32")


def test_groups_of_a_model_with_a_skip(autoencoder: keras.Model) -> None:
    groups = {group.name: group for group in dependency_groups(autoencoder)}
    assert {name: (group.units, group.frozen) for name, group in groups.items()} == {
        "first": (16, None),
        "code": (4, "it is the code"),
        "decoder": (12, None),
        "output": (20, "it makes the model's output"),
    }
    assert [one.path for one in groups["first"].producers] == ["first", "second"]
    assert [one.path for one in groups["first"].consumers] == ["second", "code"]
    assert groups["first"].consumers[1].positions[3].tolist() == [3, 19]


def test_the_code_is_cut_when_asked(autoencoder: keras.Model) -> None:
    code = dependency_groups(autoencoder, cut_code=True)[1]
    assert (code.name, code.is_code, code.frozen) == ("code", True, None)
    assert keep_units(autoencoder, {"code": [0, 2]}).get_layer("code").units == 2


def test_keeping_all_changes_nothing(autoencoder: keras.Model, rows: np.ndarray) -> None:
    copy = keep_units(autoencoder, {})
    assert copy.get_config() == autoencoder.get_config()
    assert np.array_equal(copy(rows), autoencoder(rows))


def test_cutting_equals_masking(autoencoder: keras.Model, rows: np.ndarray) -> None:
    kept = {"first": [0, 3, 4, 9], "decoder": [11]}
    small = keep_units(autoencoder, kept)
    masked = keep_units(autoencoder, {})
    for group in dependency_groups(masked):
        for consumer in group.consumers:
            kernel = np.array(consumer.variable)
            leaving = np.delete(consumer.positions, kept.get(group.name, range(group.units)), 0)
            kernel[leaving.ravel()] = 0
            consumer.variable.assign(kernel)
    np.testing.assert_allclose(small(rows), masked(rows), rtol=1e-5, atol=1e-6)
    assert small.count_params() == 84 + 16 + 20 + 4 + (28 + 1) * 4 + (4 + 1) + (1 + 1) * 20


def test_reading_what_a_consumer_reads(autoencoder: keras.Model, rows: np.ndarray) -> None:
    consumer = dependency_groups(autoencoder)[2].consumers[0]
    (read,) = inputs_at(autoencoder, consumer.places)(rows)
    expected = keras.Model(autoencoder.input, autoencoder.get_layer("decoder").output)
    np.testing.assert_allclose(read, expected(rows), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kept", "complaint"),
    [
        ({"missing": [0]}, "there is no group 'missing'"),
        ({"first": []}, "one or more different"),
        ({"first": [3, 1]}, "ascending order, from 0 to 15"),
        ({"first": [16]}, "from 0 to 15"),
        ({"output": [0]}, "it makes the model's output"),
    ],
)
def test_impossible_cuts_are_refused(
    autoencoder: keras.Model, kept: dict[str, list[int]], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        keep_units(autoencoder, kept)


def test_a_model_without_a_graph_is_refused() -> None:
    with pytest.raises(InputError, match="functional or Sequential"):
        dependency_groups(keras.Sequential([layers.Dense(3)]))
