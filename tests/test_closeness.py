from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from secateur import shrink
from secateur.autoencoders import dense
from secateur.closeness import closeness
from secateur.saving import copy_model


def test_a_copy_is_at_no_distance(trained, validation):
    found = closeness(trained, copy_model(trained), validation)
    assert found.output_distance == 0
    assert found.code_distance == pytest.approx(0, abs=1e-5)
    assert (found.weight_distance, found.weight_share) == (0, 0)
    assert found.weights_compared == 2 * (64 * 32 + 32 * 16 + 16 * 8)


def test_distances_are_those_of_outputs_codes_and_weights(trained, validation):
    """A bias moved by 2 moves outputs by 2, and codes not at all."""
    moved = copy_model(trained)
    output = moved.get_layer("output")
    output.bias.assign(output.bias + 2)
    code = moved.get_layer("code")
    code.kernel.assign(code.kernel * 3)
    code.bias.assign(code.bias * 3 + 1)
    decoder = moved.get_layer("decoder_1")
    before = np.asarray(decoder.kernel, np.float64)
    decoder.kernel.assign(before / 3)
    decoder.bias.assign(decoder.bias - before.sum(axis=0) / 3)
    found = closeness(trained, moved, validation)
    assert found.output_distance == pytest.approx(4, rel=1e-4)
    assert found.code_share == pytest.approx(0, abs=1e-5)
    kernel = np.asarray(trained.get_layer("code").kernel, np.float64)
    wanted = 4 * (kernel**2).sum() + 4 / 9 * (before**2).sum()
    assert found.weight_distance == pytest.approx(wanted, rel=1e-5)


def test_what_the_map_cannot_reach_is_counted(validation):
    """Of two codes of independent units, one that lacks a unit explains all but that unit."""
    models = []
    for code in (2, 1):
        keras.utils.set_random_seed(0)
        models.append(dense(2, widths=(), code=code))
        models[-1].get_layer("code").set_weights([np.eye(2)[:, :code], np.zeros(code)])
    rows = np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float32)
    found = closeness(models[0], models[1], rows)
    assert found.code_distance == pytest.approx(0.5, rel=0.02)
    assert found.code_share == pytest.approx(0.5, rel=0.02)


def test_only_kernels_of_one_shape_are_compared(trained, train, validation):
    cut, _ = shrink(trained, train, "units", keep=0.5)
    found = closeness(trained, cut, validation)
    assert found.weights_compared == 0
    assert (found.weight_distance, found.weight_share) == (None, None)
    assert 0 < found.code_share < 1
    assert set(dataclasses.asdict(found)) == {
        "output_distance", "code_distance", "code_share", "weight_distance", "weight_share",
        "weights_compared",
    }  # fmt: skip


def test_a_model_without_a_code_is_compared_by_its_output(validation):
    row = keras.Input((64,))
    model = keras.Model(row, keras.layers.Dense(64)(row))
    found = closeness(model, model, validation)
    assert (found.output_distance, found.code_distance, found.code_share) == (0, None, None)
