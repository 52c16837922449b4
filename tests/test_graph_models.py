"""Promises of the graph core on every model of `graph_models`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import pytest
from graph_models import MODELS

from secateur.graph import Footprint, dependency_groups, inputs_at, keep_units

Kept = dict[str, np.ndarray]


@pytest.fixture(params=MODELS, scope="module")
def model(request: pytest.FixtureRequest) -> keras.Model:
    """A model whose every variable has a value of its own."""
    keras.utils.set_random_seed(0)
    model = MODELS[request.param]()
    random = np.random.default_rng(0)
    for variable in model.weights:
        if "seed" not in variable.path:
            values = random.normal(scale=0.5, size=variable.shape)
            variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    return model


@pytest.fixture(scope="module")
def rows(model: keras.Model) -> Any:
    random = np.random.default_rng(1)
    rows = [
        random.integers(9, size=(3, *one.shape[1:])).astype("int32")
        if "int" in one.dtype
        else random.normal(size=(3, *one.shape[1:])).astype("float32")
        for one in model.inputs
    ]
    return rows if len(rows) > 1 else rows[0]


def some_of(model: keras.Model) -> Kept:
    """About half of the units of every group that can be cut."""
    random = np.random.default_rng(2)
    return {
        group.name: np.sort(random.choice(group.units, -(-group.units // 2), replace=False))
        for group in dependency_groups(model, cut_code=True)
        if group.frozen is None
    }


def silence(model: keras.Model, kept: Mapping[str, np.ndarray]) -> None:
    """Let the other units be zero, and weigh nothing where they are read."""
    for group in dependency_groups(model, cut_code=True):
        for one in group.slices if group.name in kept else ():
            leaving = np.delete(one.positions, kept[group.name], axis=0).ravel()
            values = np.moveaxis(keras.ops.convert_to_numpy(one.variable).copy(), one.axis, 0)
            values[leaving] = 0
            one.variable.assign(np.moveaxis(values, 0, one.axis))


def state(model: keras.Model) -> tuple[Any, list[np.ndarray]]:
    return model.get_config(), [keras.ops.convert_to_numpy(one).copy() for one in model.variables]


def test_keeping_all_changes_nothing(model: keras.Model, rows: Any) -> None:
    copy = keep_units(model, {})
    assert copy.get_config() == model.get_config()
    assert np.array_equal(copy(rows), model(rows))


def test_cutting_equals_masking(model: keras.Model, rows: Any) -> None:
    exact = {group.name for group in dependency_groups(model) if not group.normalizations}
    kept = {name: units for name, units in some_of(model).items() if name in exact}
    masked = keep_units(model, {})
    silence(masked, kept)
    expected = keras.ops.convert_to_numpy(masked(rows))
    small = keep_units(model, kept)
    np.testing.assert_allclose(small(rows), expected, atol=1e-5 * np.abs(expected).max())


def test_the_original_is_untouched(model: keras.Model) -> None:
    config, values = state(model)
    keep_units(model, some_of(model))
    assert state(model)[0] == config
    for before, after in zip(values, state(model)[1], strict=True):
        assert np.array_equal(before, after)


def test_footprints_are_predicted(model: keras.Model) -> None:
    kept = some_of(model)
    small = keep_units(model, kept)
    numbers = {name: len(units) for name, units in kept.items()}
    predicted = Footprint(model)
    assert predicted.parameters({}) == model.count_params()
    assert predicted.parameters(numbers) == small.count_params()
    assert predicted.macs(numbers) == Footprint(small).macs({})


def test_one_unit_of_a_group_frees_what_it_says(model: keras.Model) -> None:
    whole = Footprint(model)
    for group in dependency_groups(model):
        one_less = {group.name: group.units - 1}
        assert whole.parameters({}) - whole.parameters(one_less) == group.unit_parameters
        assert whole.macs({}) - whole.macs(one_less) == group.unit_macs


def test_what_is_saved_loads_the_same(model: keras.Model, rows: Any, tmp_path: Any) -> None:
    small = keep_units(model, some_of(model))
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert np.array_equal(loaded(rows), small(rows))


def test_groups_survive_a_cut(model: keras.Model) -> None:
    """Under the same names, read at the same places."""
    kept = some_of(model)
    small = {group.name: group for group in dependency_groups(keep_units(model, kept))}
    for group in dependency_groups(model):
        after = small.pop(group.name)
        assert after.units == len(kept.get(group.name, range(group.units)))
        places = [[one.places for one in one_of.consumers] for one_of in (group, after)]
        assert places[0] == places[1]
    assert small == {}


def test_what_consumers_read_fits_them(model: keras.Model, rows: Any) -> None:
    groups = dependency_groups(model)
    reads = [(one, place) for group in groups for one in group.consumers for place in one.places]
    found = inputs_at(model, [place for _, place in reads])(rows)
    for (one, _), read in zip(reads, found, strict=True):
        assert np.prod(read.shape[1:]) % one.variable.shape[one.axis] == 0
