"""Promises of the graph core on models that hypothesis draws."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers

from secateur.graph import Footprint, dependency_groups, keep_units

ACTIVATIONS = ["linear", "relu", "tanh", "gelu", "selu"]
STEPS = ["mix", "norm", "prelu", "skip", "join", "nest", "share", "block"]


@dataclass(frozen=True)
class Drawing:
    """A model to be: its kind, its steps with their widths and choices, and which units stay."""

    is_image: bool
    steps: tuple[tuple[str, int, int], ...]
    seed: int


drawings = st.builds(
    Drawing,
    is_image=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from(STEPS), st.integers(1, 6), st.integers(0, 10)),
        min_size=1, max_size=7,
    ).map(tuple),
    seed=st.integers(0, 2**16),
)  # fmt: skip


def mixing(drawing: Drawing, width: int, choice: int) -> layers.Layer:
    activation = ACTIVATIONS[choice % len(ACTIVATIONS)]
    if not drawing.is_image:
        return layers.Dense(width, activation)
    kinds = (layers.Conv2D, layers.Conv2DTranspose, layers.SeparableConv2D)
    return kinds[choice % 3](width, 3, padding="same", activation=activation)


def block(drawing: Drawing, width: int, choice: int, inputs: keras.KerasTensor) -> keras.Model:
    """A nested model: residual, or two branches joined."""
    own = keras.Input(inputs.shape[1:])
    if choice % 2:
        joined = layers.Concatenate()([mixing(drawing, width, choice)(own), own])
    else:
        joined = layers.Add()([mixing(drawing, own.shape[-1], choice)(own), own])
    return keras.Model(own, joined)


def drawn(drawing: Drawing) -> keras.Model:
    """The model of a drawing, every variable with a value of its own."""
    inputs = keras.Input((4, 4, 2) if drawing.is_image else (5,))
    past = [mixing(drawing, 4, 0)(inputs)]
    shared = None
    for step, width, choice in drawing.steps:
        now, other = past[-1], past[choice % len(past)]
        if step == "norm":
            now = layers.BatchNormalization()(now)
        elif step == "prelu":
            now = layers.PReLU()(now)
        elif step == "skip" and other.shape == now.shape:
            now = (layers.Add, layers.Multiply, layers.Maximum)[choice % 3]()([now, other])
        elif step == "join":
            now = layers.Concatenate()([now, other])
        elif step == "nest":
            now = block(drawing, width, choice, now)(now)
        elif step == "block" and drawing.is_image:
            now = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=1 + choice % 2)(now)
        elif step == "share" and shared is not None and shared[0] == now.shape:
            now = shared[1](now)
        else:
            layer = mixing(drawing, width, choice)
            shared = now.shape, layer
            now = layer(now)
        past.append(now)
    hidden = layers.Flatten()(past[-1]) if drawing.is_image else past[-1]
    model = keras.Model(inputs, layers.Dense(3)(hidden))
    random = np.random.default_rng(drawing.seed)
    for variable in model.weights:
        values = random.uniform(-0.6, 0.6, size=variable.shape)
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    return model


def some_of(units: int, random: np.random.Generator) -> np.ndarray:
    """At least one of the units, in order."""
    number = random.integers(units) + 1
    return np.sort(random.choice(units, number, replace=False))


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(drawings)
def test_cutting_equals_masking_on_any_graph(drawing: Drawing) -> None:
    keras.backend.clear_session()
    model = drawn(drawing)
    random = np.random.default_rng(drawing.seed)
    rows = random.normal(size=(4, *model.input_shape[1:])).astype("float32")
    groups = dependency_groups(model, cut_code=True)
    kept = {group.name: some_of(group.units, random) for group in groups if not group.frozen}

    whole = keep_units(model, {})
    assert whole.get_config() == model.get_config()
    assert np.array_equal(whole(rows), model(rows))

    small = keep_units(model, kept)
    for group in dependency_groups(whole):
        for one in group.slices if group.name in kept else ():
            values = np.moveaxis(keras.ops.convert_to_numpy(one.variable).copy(), one.axis, 0)
            values[np.delete(one.positions, kept[group.name], axis=0).ravel()] = 0
            one.variable.assign(np.moveaxis(values, 0, one.axis))
    masked = keras.ops.convert_to_numpy(whole(rows))
    np.testing.assert_allclose(small(rows), masked, atol=1e-5 * np.abs(masked).max())

    numbers = {name: len(units) for name, units in kept.items()}
    assert Footprint(model).parameters(numbers) == small.count_params()
    assert Footprint(model).macs(numbers) == Footprint(small).macs({})
