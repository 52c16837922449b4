"""Activations are found however they are written, and swapped for what costs LiteRT less."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from secateur import compress, shrink
from secateur.activations import scale_and_shift, sites
from secateur.errors import InputError
from secateur.litert import row_errors_of_file
from secateur.masks import shared_values
from secateur.methods import make_method
from secateur.methods.activations import SIMPLE, measured_costs
from secateur.metrics import mean_squared_error, row_errors
from secateur.recovery import recover

ROWS = np.random.default_rng(0).normal(size=(256, 8, 6)).astype(np.float32)
# Choosing the new ones at equal cost by nothing but what they lose.
AT_LEAST_RELU = {"to": ("relu", "leaky_relu", "hard_swish")}


@pytest.fixture(scope="module")
def curved(train, validation):
    from secateur.autoencoders import dense

    keras.utils.set_random_seed(0)
    model = dense(64, widths=(32, 16), code=8, activation="elu")
    return recover(model, train, validation, epochs=15, batch=32, learning_rate=3e-3)[0]


def everywhere() -> keras.Model:
    """An activation in every way that it may be written, and some that must stay."""
    keras.utils.set_random_seed(0)
    rows = keras.Input((8, 6))
    h = layers.Dense(6, activation="gelu", name="argument")(rows)
    h = layers.Activation("silu", name="layer")(layers.Dense(6, name="before_layer")(h))
    h = layers.ELU(name="elu_layer")(layers.Dense(6, name="before_elu")(h))
    h = keras.ops.softplus(layers.Dense(6, name="before_node")(h))
    inner_in = keras.Input((8, 6))
    inner = layers.Dense(5, activation=layers.ELU(), name="inside")(inner_in)
    h = keras.Model(inner_in, layers.Dense(6, name="last")(inner), name="nested")(h)
    h = layers.BatchNormalization(name="norm")(h)
    h = layers.Activation("mish", name="after_norm")(h)
    h = layers.Conv1D(6, 3, padding="same", activation="selu", name="conv")(h)
    h = layers.DepthwiseConv1D(3, padding="same", name="depthwise")(h)
    h = layers.PReLU(name="prelu")(layers.Dense(6, name="before_prelu")(h))
    h = layers.TimeDistributed(layers.Dense(6, activation="gelu"), name="wrapped")(h)
    h = layers.LSTM(6, return_sequences=True, name="recurrent")(h)
    return keras.Model(rows, layers.Dense(6, activation="gelu", name="output")(h))


def test_activations_are_found_however_they_are_written():
    found = {site.path: site for site in sites(everywhere())}
    swappable = {path: site.activation for path, site in found.items() if site.why_not is None}
    node = next(path for path in found if path.startswith("softplus"))
    assert swappable == {
        "argument": "gelu", "layer": "silu", "elu_layer": "elu", node: "softplus",
        "nested/inside": "elu", "after_norm": "mish", "conv": "selu",
    }  # fmt: skip
    assert found["elu_layer"].readers == ("before_node",)
    assert found["conv"].readers == ("before_prelu",)  # a depthwise kernel cannot take it up
    assert found["layer"].producer == "before_layer"
    assert found["after_norm"].producer == "norm"
    assert found["argument"].values == 8 * 6
    reasons = {path: site.why_not for path, site in found.items() if site.why_not is not None}
    assert reasons["output"].startswith("it makes the model's output")
    assert reasons["recurrent"] == "it is what a recurrence goes through"
    assert reasons["wrapped"] == "it is inside a TimeDistributed"
    assert reasons["prelu"] == "what its activation costs is not known"
    assert reasons["before_layer"] == "it has no activation"


def test_all_of_them_are_swapped_and_the_rest_is_named():
    model = everywhere()
    swapped, report = shrink(model, ROWS, "activations", to="relu")
    assert len(report.groups) == 7
    assert {group["activation_after"] for group in report.groups} == {"relu"}
    assert all(group["ns_after"] < group["ns_before"] for group in report.groups)
    left = {site.path: site.activation for site in sites(swapped)}
    assert left["nested/inside"] == left["conv"] == left["after_norm"] == "relu"
    assert left["output"] == "gelu"
    named = {entry["layer"] for entry in report.groups + report.skipped}
    assert named == {site.path for site in sites(model)}
    names = [one.name for one in swapped.layers]  # a node has become a layer
    assert [one for one in names if not one.startswith("softplus")] == [
        one.name for one in model.layers
    ]


def test_refitting_around_the_swap_takes_most_of_its_loss_back(curved, train, validation):
    before = mean_squared_error(curved, validation)
    refitted, report = shrink(curved, train, "activations", to="relu")
    bare = mean_squared_error(report.uncompensated, validation) - before
    assert mean_squared_error(refitted, validation) - before < 0.2 * bare
    assert [group["layer"] for group in report.groups] == [
        "encoder_1", "encoder_2", "decoder_1", "decoder_2",
    ]  # fmt: skip
    assert all(0 <= group["lost"] < 0.1 for group in report.groups)


def test_the_replacement_that_loses_least_is_taken(curved, train):
    _, report = shrink(curved, train, "activations", **AT_LEAST_RELU)
    first = report.groups[0]
    alone = {
        name: shrink(curved, train, "activations", to=name)[1].groups[0]["lost"]
        for name in AT_LEAST_RELU["to"]
    }
    assert first["activation_after"] == min(alone, key=alone.get)
    assert first["lost"] == pytest.approx(min(alone.values()))


def test_a_bend_is_moved_to_where_it_serves(train):
    """elu is nearly relu(z + 1) - 1, and the -1 is the next bias' business."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(8, activation="elu")])
    model.add(layers.Dense(64))
    model.layers[0].kernel.assign(4 * np.asarray(model.layers[0].kernel))
    site = sites(model)[0]
    scale, shift = scale_and_shift(model, site, "relu", train)
    assert ((shift / scale >= 0.25) & (shift / scale <= 1.5)).all()
    _, shifted = shrink(model, train, "activations", to="relu")
    assert shifted.groups[0]["lost"] < 0.02


def test_a_swap_that_changes_nothing_is_exact(train, validation):
    """Where all is positive, leaky_relu and relu are one."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(8, activation="leaky_relu")])
    model.add(layers.Dense(64))
    model.layers[0].kernel.assign(np.abs(np.asarray(model.layers[0].kernel)))
    swapped, report = shrink(model, train, "activations", to="relu")
    assert report.groups[0]["lost"] < 1e-9
    np.testing.assert_allclose(swapped(validation), model(validation), atol=1e-4)


def test_what_costs_more_is_not_called_simpler(trained, train):
    for name in ("tanh", "sigmoid"):
        with pytest.raises(
            InputError, match=f"{name} is not simpler: it costs 0.*relu 0; .*literal"
        ):
            shrink(trained, train, "activations", to=name)
    swapped, report = shrink(trained, train, "activations", to="tanh", literal=True)
    assert [site.activation for site in sites(swapped)] == [
        "tanh", "tanh", "linear", "tanh", "tanh", "linear",
    ]  # fmt: skip
    assert all(group["ns_after"] > group["ns_before"] == 0 for group in report.groups)


def test_costs_are_those_of_the_file_that_is_deployed(curved, train):
    """hard_swish is cheap in float32 and slow in int8; users may know better of their machine."""
    table = measured_costs()
    assert table["float32"]["hard_swish"] < table["float32"]["elu"]
    assert table["int8"]["hard_swish"] > table["int8"]["elu"]
    with pytest.raises(InputError, match="hard_swish is not simpler: it costs 3"):
        shrink(curved, train[:64], "activations", to="hard_swish", precision="int8")
    own = {"hard_swish": 0.0}
    _, report = shrink(
        curved, train[:64], "activations", to="hard_swish", precision="int8", costs=own
    )
    assert len(report.groups) == 4


def test_the_table_tells_where_it_comes_from():
    table = measured_costs()
    assert table["measured"]["threads"] == 1
    assert {"processor", "runtime", "converter", "behind"} <= set(table["measured"])
    assert set(SIMPLE) <= set(table["float32"]) == set(table["int8"])


def test_swaps_that_lose_too_much_are_left_out(curved, train):
    same, report = shrink(curved, train, "activations", to="relu", most_lost=1e-9)
    assert report.groups == []
    assert all(map(np.array_equal, same.get_weights(), curved.get_weights()))
    assert "the best replacement, relu, would lose" in report.skipped[0]["reason"]


def test_zeros_stay_zero_and_shared_values_stay_shared(curved, train):
    pruned, _ = shrink(curved, train, "weights", keep=0.5)
    swapped, _ = shrink(pruned, train, "activations", to="relu")
    for before, after in zip(pruned.layers[1:], swapped.layers[1:], strict=True):
        assert not np.asarray(after.kernel)[np.asarray(before.kernel) == 0].any()
    clustered, _ = shrink(curved, train, "cluster", clusters=4)
    swapped, report = shrink(clustered, train, "activations", to="relu")
    assert report.groups == []
    assert "share values, which a refit would part" in report.skipped[0]["reason"]
    assert all(shared_values(np.asarray(layer.kernel)) is not None for layer in swapped.layers[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "swoosh"}, "to must be among .*relu.*, got 'swoosh'"),
        ({"to": ()}, "to must be among"),
        ({"literal": True}, "literal swaps for what `to` names"),
        ({"literal": 1, "to": "tanh"}, "literal must be true or false"),
        ({"precision": "int4"}, "precision must be one of float32, int8"),
        ({"costs": {"gelu": -1}}, "costs must map some of .*, got 'gelu': -1"),
        ({"costs": {"swoosh": 1}}, "got 'swoosh': 1"),
        ({"costs": [1]}, "costs must map names"),
        ({"most_lost": 0}, r"most_lost must be in \(0, 1\], got 0"),
        ({"compensate": "bias"}, "compensate must be one of least_squares, none"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make_method("activations", options)


def test_units_activations_and_quantize_end_in_the_file_that_was_judged(curved, train, validation):
    still = {"recovery": {"epochs": 0}}
    ladder = compress(
        curved,
        train,
        validation,
        [
            {"method": "units", "options": {"keep": 0.9}, **still},
            {"method": "activations", "options": {"to": "relu"}, **still},
            {"method": "quantize", "options": {"scheme": "int8"}, **still},
        ],
        guard={"tolerance": 9.0},
    )
    units, activations, quantize = ladder.rungs
    assert activations.costs.parameters == units.costs.parameters == quantize.costs.parameters
    assert {site.activation for site in sites(quantize.model)} == {"relu", "linear"}
    judged = quantize.verdict.metrics["mse"].candidate
    assert judged == row_errors_of_file(quantize.deployed, validation).mean()
    assert judged < 1.1 * row_errors(activations.model, validation).mean()
    assert ladder.champion is quantize.model
