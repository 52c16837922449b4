"""Mixing layers as linear maps: rows times matrix is what the layer gives."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from secateur.mixing import kernels_of, linear_maps, mixing_layers, moments_of

IMAGE, SEQUENCE = (9, 8, 4), (9, 4)
STEPS = [(1, 1), (2, 1), (3, 1), (1, 2)]  # strides and dilations
CASES = [
    (layers.Dense, {"units": 4}, (5,)),
    (layers.Dense, {"units": 4, "use_bias": False}, (3, 5)),
    (layers.Conv1D, {"kernel_size": 3, "dilation_rate": 2, "padding": "causal"}, SEQUENCE),
    (layers.Conv2DTranspose, {"kernel_size": 1, "strides": 2, "padding": "same"}, IMAGE),
    (layers.Conv2DTranspose, {"kernel_size": 3, "strides": 2, "output_padding": 1}, IMAGE),
    (layers.EinsumDense, {"equation": "abc,cd->abd", "shape": (None, 6), "bias": "d"}, (4, 5)),
    (layers.EinsumDense, {"equation": "...x,xy->...y", "shape": (6,), "bias": "y"}, (4, 5)),
    (
        layers.EinsumDense,
        {"equation": "abc,cde->abde", "shape": (None, 2, 6), "bias": "de"},
        (4, 5),
    ),
    (layers.EinsumDense, {"equation": "abcd,cde->abe", "shape": (None, 6), "bias": "e"}, (4, 2, 5)),
    (layers.EinsumDense, {"equation": "abc,bcd->abd", "shape": (4, 6), "bias": "bd"}, (4, 5)),
    *[
        (kind, {"strides": strides, "dilation_rate": dilation, "padding": padding, **own}, shape)
        for padding in ("same", "valid")
        for strides, dilation in STEPS
        for kind, own, shape in (
            (layers.Conv1D, {"kernel_size": 4}, SEQUENCE),
            (layers.Conv2D, {"kernel_size": 3}, IMAGE),
            (layers.Conv2D, {"kernel_size": 3, "groups": 2}, IMAGE),
            (layers.Conv3D, {"kernel_size": 2}, (4, 5, 3, 2)),
            (layers.DepthwiseConv1D, {"kernel_size": 3, "depth_multiplier": 2}, SEQUENCE),
            (layers.DepthwiseConv2D, {"kernel_size": 3, "depth_multiplier": 2}, IMAGE),
            (layers.SeparableConv1D, {"kernel_size": 3, "depth_multiplier": 2}, SEQUENCE),
            (layers.SeparableConv2D, {"kernel_size": 3, "depth_multiplier": 2}, IMAGE),
        )
    ],
    *[
        (kind, {"kernel_size": window, "strides": strides, "padding": padding}, shape)
        for padding in ("same", "valid")
        for strides in (1, 2, 3)
        for kind, window, shape in (
            (layers.Conv1DTranspose, 4, SEQUENCE),
            (layers.Conv2DTranspose, 3, IMAGE),
            (layers.Conv2DTranspose, 2, IMAGE),
            (layers.Conv3DTranspose, 2, (3, 2, 2, 3)),
        )
    ],
]


def built(kind, options, shape):
    """A layer with weights that are not zero, and what it reads and gives."""
    options = dict(options)
    if kind is layers.EinsumDense:
        arguments = [options["equation"], options["shape"]]
        layer = kind(*arguments, bias_axes=options["bias"])
    else:
        name = "units" if kind is layers.Dense else "filters"
        if "Depthwise" not in kind.__name__:
            options.setdefault(name, 6)
        layer = kind(**options)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, *shape)).astype(np.float32)
    layer.build(rows.shape)
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape))
    return layer, rows, keras.ops.convert_to_numpy(layer(rows))


@pytest.mark.parametrize(("kind", "options", "shape"), CASES)
def test_rows_times_matrix_is_what_the_layer_gives(kind, options, shape):
    layer, rows, given = built(kind, options, shape)
    maps = linear_maps(layer, kernels_of(layer)[-1])
    found = [one.rows(rows) @ one.matrix() for one in maps]
    # Phases and groups have an order of their own; numbers this random are told apart by value.
    np.testing.assert_allclose(
        np.sort(np.concatenate([one.ravel() for one in found])), np.sort(given.ravel()), atol=1e-4
    )


def test_rows_come_in_the_order_of_the_output():
    layer, rows, given = built(layers.Conv2D, {"kernel_size": 3, "strides": 2}, IMAGE)
    (one,) = linear_maps(layer, layer.kernel)
    np.testing.assert_allclose(
        (one.rows(rows) @ one.matrix()).reshape(given.shape), given, atol=1e-4
    )


@pytest.mark.parametrize(("kind", "options", "shape"), CASES[:18])
def test_a_matrix_that_is_written_is_read_again(kind, options, shape):
    layer, _, _ = built(kind, options, shape)
    for kernel in kernels_of(layer):
        for number, one in enumerate(linear_maps(layer, kernel)):
            wanted = np.full((one.height, one.outputs), float(number))
            one.write(wanted)
            np.testing.assert_array_equal(one.matrix(), wanted)


def test_a_limit_takes_the_same_rows_of_both_inputs():
    layer, rows, _ = built(layers.Conv2DTranspose, {"kernel_size": 3, "strides": 2}, IMAGE)
    (one,) = linear_maps(layer, layer.kernel)
    pieces = list(one.pieces(rows, 2 * rows, limit=100, seed=1))
    taken = sum(len(now) for _, (now, _) in pieces)
    assert 100 <= taken <= 104  # four phases, each rounded up
    assert all(np.allclose(2 * now[:, :-1], after[:, :-1]) for _, (now, after) in pieces)


def test_inputs_of_a_channel_are_its_whole_window():
    layer, rows, _ = built(layers.Conv2DTranspose, {"kernel_size": 3, "strides": 2}, IMAGE)
    (one,) = linear_maps(layer, layer.kernel)
    inputs = one.inputs_of(3, np.array([[2], [0]]))
    assert inputs.shape == (2, 9)
    seen = one.rows(np.where(np.arange(4) == 2, rows, 0))
    assert set(np.flatnonzero(np.abs(seen).sum(axis=0))) == {*inputs[0].tolist(), 36}


def test_every_kernel_of_a_model_is_found_with_its_calls():
    x = keras.Input((6, 8))
    h = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    shared = layers.Dense(8, name="shared")
    h = shared(shared(h))
    h = layers.GRU(4, name="memory")(layers.LSTM(4, return_sequences=True, name="gates")(h))
    model = keras.Model(x, layers.Dense(2, name="last")(h))
    found = {one.path: one for one in mixing_layers(model)}
    assert {path: (one.maps[0].height, len(one.places)) for path, one in found.items()} == {
        "attention/query": (9, 1),
        "attention/key": (9, 1),
        "attention/value": (9, 1),
        "attention/attention_output": (7, 1),
        "shared": (9, 2),
        "gates": (9, 1),
        "memory": (5, 1),
        "last": (5, 1),
    }


def test_moments_are_the_means_over_all_rows():
    x = keras.Input((8, 8, 2))
    model = keras.Model(x, layers.Conv2DTranspose(3, 3, strides=2)(x))
    rows = np.random.default_rng(0).normal(size=(20, 8, 8, 2)).astype(np.float32)
    (layer,) = mixing_layers(model)
    (moments,) = moments_of(layer.maps, layer.places, model, rows)
    whole = layer.maps[0].rows(rows)
    np.testing.assert_allclose(moments.now, whole.T @ whole / len(whole), atol=1e-6)
    np.testing.assert_allclose(moments.means, whole.mean(axis=0), atol=1e-6)
    assert not moments.drift.any()
