"""Promises of the graph core on models that hypothesis draws."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from graph_drawing import INPUTS, STEPS, Drawing, channels_first_on_cpu, drawn, rows_for
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from secateur import load, save
from secateur.compensation import Consumer, consumers_of, remove_in_order
from secateur.costs import count_macs, count_parameters
from secateur.export import export_float32
from secateur.graph import Footprint, dependency_groups, keep_units

pytestmark = pytest.mark.filterwarnings("ignore:.*destroy the mask information:UserWarning")

drawings = st.builds(
    Drawing,
    kind=st.sampled_from(list(INPUTS)),
    steps=st.lists(
        st.tuples(st.sampled_from(list(STEPS)), st.integers(1, 6), st.integers(0, 59)),
        min_size=1, max_size=6,
    ).map(tuple),
    is_flat=st.booleans(),
    channels_first=st.booleans(),
    seed=st.integers(0, 2**16),
)  # fmt: skip


def few(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def some_of(units: int, random: np.random.Generator) -> np.ndarray:
    """At least one of the units, in order."""
    number = random.integers(units) + 1
    return np.sort(random.choice(units, number, replace=False))


def a_model(drawing: Drawing) -> tuple[keras.Model, np.ndarray]:
    """What is drawn, if Keras itself can build and run it, and rows for it."""
    keras.backend.clear_session()
    try:
        model = drawn(drawing)
        rows = rows_for(model, 4, drawing.seed)
        given = keras.ops.convert_to_numpy(model(rows))
    # Such as shapes that Keras does not know.
    except (TypeError, ValueError, tf.errors.InvalidArgumentError):
        assume(False)
    assume(np.isfinite(given).all() and np.abs(given).max() < 1e6)
    return model, rows


def setting(drawing: Drawing) -> contextlib.AbstractContextManager[None]:
    is_turned = drawing.channels_first and len(INPUTS[drawing.kind]) > 2
    return channels_first_on_cpu() if is_turned else contextlib.nullcontext()


@few(12)
@given(drawings)
def test_cutting_any_graph(drawing: Drawing) -> None:
    """All is kept bit for bit; a cut is a mask, costs what was said, and leaves the original."""
    with setting(drawing):
        model, rows = a_model(drawing)
        config, values = model.get_config(), [np.array(one) for one in model.variables]
        random = np.random.default_rng(drawing.seed)
        groups = dependency_groups(model, cut_code=True)
        kept = {group.name: some_of(group.units, random) for group in groups if not group.frozen}

        whole = keep_units(model, {})
        assert whole.get_config() == config
        assert np.array_equal(whole(rows), model(rows))

        small = keep_units(model, kept)
        assert (small.input_shape, small.output_shape) == (model.input_shape, model.output_shape)
        numbers = {name: len(units) for name, units in kept.items()}
        assert Footprint(model).parameters(numbers) == count_parameters(small)
        assert Footprint(model).macs(numbers) == count_macs(small)[0]

        alone = {group.name for group in groups if not group.normalizations}
        exact = {name: units for name, units in kept.items() if name in alone}
        for group in dependency_groups(whole, cut_code=True):
            for one in group.slices if group.name in exact else ():
                silenced = np.moveaxis(np.array(one.variable), one.axis, 0)
                silenced[np.delete(one.positions, exact[group.name], axis=0).ravel()] = 0
                one.variable.assign(np.moveaxis(silenced, 0, one.axis))
        masked = keras.ops.convert_to_numpy(whole(rows))
        cut = keep_units(model, exact)(rows)
        np.testing.assert_allclose(cut, masked, atol=1e-5 * max(1e-3, np.abs(masked).max()))

        assert model.get_config() == config
        assert all(map(np.array_equal, model.variables, values))


@few(10)
@given(drawings)
def test_a_unit_that_is_constant_leaves_unnoticed(drawing: Drawing) -> None:
    """Wherever it is read it is the same on every row and position, and a bias can take it over."""
    assume(not drawing.channels_first)
    model, rows = a_model(drawing)
    for number, group in enumerate(dependency_groups(model, cut_code=True)):
        if group.frozen or group.normalizations or group.units == 1:
            continue
        changed = keep_units(model, {})
        own = dependency_groups(changed, cut_code=True)[number]
        for one in own.producers:
            values = np.moveaxis(np.array(one.variable), one.axis, 0)
            values[one.positions[0]] = 0
            one.variable.assign(np.moveaxis(values, 0, one.axis))
        consumers = consumers_of(own, changed, changed, rows, "least_squares")
        if not consumers or not all(_is_constant(one) for one in consumers):
            continue
        wanted = keras.ops.convert_to_numpy(changed(rows))
        remove_in_order(consumers, [0])
        for one in consumers:
            one.write()
        cut = keep_units(changed, {own.name: np.arange(1, own.units)})
        atol = 1e-5 * max(1e-3, np.abs(wanted).max())
        np.testing.assert_allclose(cut(rows), wanted, atol=atol, err_msg=own.name)


def _is_constant(consumer: Consumer) -> bool:
    """Whether the first unit's inputs never differ, and there is a bias for what they give."""
    columns, moments = consumer.positions[0], consumer.moments
    means, squares = moments.means[columns], np.diag(moments.now)[columns]
    is_still = np.abs(squares - means**2).max(initial=0) < 1e-12
    return is_still and (consumer.map.bias is not None or not means.any())


@few(4)
@given(drawings)
def test_what_is_cut_can_be_saved_and_exported(drawing: Drawing) -> None:
    assume(not drawing.channels_first and drawing.kind in ("row", "image"))
    assume(not any(step in ("recur", "each") for step, _, _ in drawing.steps))
    model, rows = a_model(drawing)
    random = np.random.default_rng(drawing.seed)
    groups = dependency_groups(model)
    small = keep_units(
        model, {one.name: some_of(one.units, random) for one in groups if not one.frozen}
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(small, folder / "small.keras")
        assert np.array_equal(load(folder / "small.keras")(rows), small(rows))
        export_float32(small, folder / "small.tflite", rows)  # compares, and raises
