"""What factoring kernels promises."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from secateur import shrink
from secateur.costs import count_macs
from secateur.errors import InputError
from secateur.factors import Factors, factor_layers, factor_macs, splits_of, write_factor
from secateur.graph import dependency_groups, layer_at
from secateur.metrics import mean_squared_error
from secateur.ranks import Option, spread


def reasons(report):
    return {entry["layer"]: entry["reason"] for entry in report.skipped}


@pytest.fixture(scope="module")
def factored(trained, train):
    return shrink(trained, train, "low_rank", keep=0.7)


def test_ranks_keep_to_the_budget_and_say_so(trained, factored):
    cut, report = factored
    macs, left = count_macs(trained)[0], count_macs(cut)[0]
    # One rank more of the cheapest layer, 32 + 16 MACs, would be too much.
    assert 0.7 * macs - 48 < left <= 0.7 * macs
    assert macs - left == sum(one["macs_before"] - one["macs_after"] for one in report.groups)
    assert report.budget is None


def test_the_second_layer_keeps_its_name_and_activation(trained, factored):
    cut, report = factored
    names = [layer.name for layer in cut.layers]
    for entry in report.groups:
        name = entry["layer"]
        first, second = cut.get_layer(f"{name}_rank"), cut.get_layer(name)
        assert names.index(name) == names.index(first.name) + 1
        assert first.units == entry["rank"] == second.kernel.shape[0]
        assert not first.use_bias
        assert first.activation is keras.activations.linear
        assert second.activation is trained.get_layer(name).activation
    assert [name for name in names if not name.endswith("_rank")] == [
        layer.name for layer in trained.layers
    ]


def test_no_rank_is_as_narrow_as_the_code(factored):
    cut, report = factored
    assert min(entry["rank"] for entry in report.groups) > 8
    (code,) = (group for group in dependency_groups(cut) if group.is_code)
    assert (code.name, code.units) == ("code", 8)
    assert reasons(report)["code"] == "no rank would save MACs"


def test_knowing_the_data_loses_less(factored, validation):
    cut, report = factored
    plain = mean_squared_error(report.uncompensated, validation)
    assert mean_squared_error(cut, validation) < 0.5 * plain


def test_what_has_a_low_rank_changes_no_output(trained, train, validation):
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    layer = model.get_layer("decoder_2")
    random = np.random.default_rng(0)
    kernel = random.normal(size=(16, 9)) @ random.normal(size=(9, 32))
    layer.set_weights([kernel, layer.get_weights()[1]])
    cut, report = shrink(model, train, "low_rank", energy=1 - 1e-9)
    assert [(entry["layer"], entry["rank"]) for entry in report.groups] == [("decoder_2", 9)]
    expected = np.asarray(model(validation))
    assert np.abs(cut(validation) - expected).max() <= 1e-3 * np.abs(expected).max()


def test_a_second_round_narrows_what_the_first_put_in(factored, train):
    cut, report = factored
    again, second = shrink(cut, train, "low_rank", keep=0.9)
    assert [layer.name for layer in again.layers] == [layer.name for layer in cut.layers]
    narrowed = [entry for entry in second.groups if "narrowed" in entry]
    assert narrowed
    before = {entry["layer"]: entry["rank"] for entry in report.groups}
    for entry in narrowed:
        assert entry["narrowed"] == f"{entry['layer']}_rank"
        assert 8 < entry["rank"] < before[entry["layer"]]
        assert again.get_layer(entry["narrowed"]).units == entry["rank"]


def test_units_cut_the_rank(factored, train):
    cut, report = factored
    name = f"{report.groups[0]['layer']}_rank"
    smaller, _ = shrink(cut, train, "units", keep=0.8)
    assert smaller.get_layer(name).units == int(0.8 * cut.get_layer(name).units + 0.5)
    assert count_macs(smaller)[0] < count_macs(cut)[0]


def test_a_budget_that_cannot_be_met_is_told(trained, train):
    cut, report = shrink(trained, train, "low_rank", keep=0.05)
    assert report.budget["why"] == "the layers may have no rank that saves more"
    assert report.budget["reached"] == count_macs(cut)[0] > report.budget["asked"]
    deeper, report = shrink(trained, train, "low_rank", keep=0.05, cut_code=True)
    assert report.budget is None or count_macs(deeper)[0] < count_macs(cut)[0]


def test_nested_and_shared_layers_are_factored_where_they_are(train):
    keras.utils.set_random_seed(0)
    a = keras.Input((64,))
    shared = layers.Dense(64, "tanh", name="shared")
    encoder = keras.Model(a, layers.Dense(4, name="last")(shared(shared(a))), name="encoder")
    x = keras.Input((64,))
    model = keras.Model(x, layers.Dense(64, name="output")(encoder(x)))
    cut, report = shrink(model, train[:300], "low_rank", keep=0.6)
    (entry,) = report.groups
    assert entry["layer"] == "encoder/shared"
    assert layer_at(cut, "encoder/shared_rank").units == entry["rank"]
    assert count_macs(model)[0] - count_macs(cut)[0] == entry["macs_before"] - entry["macs_after"]


def test_what_is_left_alone_says_why(train):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", name="plain"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2D(8, 3, groups=2, name="grouped"),
            layers.Conv2D(8, 3, trainable=False, name="frozen"),
            layers.Flatten(),
            layers.Dense(30, kernel_constraint="non_neg", name="held"),
            layers.Dense(30, name="sparse"),
            layers.Dense(64, name="last"),
        ]
    )
    kernel, bias = model.get_layer("sparse").get_weights()
    kernel[:, ::2] = 0
    model.get_layer("sparse").set_weights([kernel, bias])
    _, report = shrink(model, train[:100].reshape(-1, 8, 8, 1), "low_rank", keep=1.0)
    told = reasons(report)
    assert told["depthwise"] == "DepthwiseConv2D is not split"
    assert told["grouped"] == "its groups are apart already"
    assert told["frozen"] == "it is frozen: not trainable"
    assert told["held"] == "its kernel is under a constraint, which factors would not keep"
    assert told["sparse"] == "its kernel has pruned weights, whose zeros factors would not keep"


KINDS = {
    "dense": ((3, 7), layers.Dense(9)),
    "strided": ((6, 7, 4), layers.Conv2D(5, 3, strides=2, padding="same")),
    "dilated": ((8, 7, 3), layers.Conv2D(5, (3, 2), dilation_rate=2)),
    "causal": ((9, 4), layers.Conv1D(6, 3, padding="causal")),
    "volume": ((4, 4, 3, 2), layers.Conv3D(4, (3, 2, 1), padding="same")),
    "transposed": ((4, 5, 3), layers.Conv2DTranspose(4, 3, strides=2, padding="same")),
    "transposed, padded": (
        (4, 3, 3),
        layers.Conv2DTranspose(4, 3, strides=2, padding="same", output_padding=1),
    ),
}
WAYS = {"dense": 1, "strided": 4, "dilated": 4, "causal": 2, "volume": 4, "transposed": 4,
        "transposed, padded": 2}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_two_layers_of_full_rank_give_what_the_one_gave(kind):
    shape, layer = KINDS[kind]
    rows = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    keras.utils.set_random_seed(0)
    expected = np.asarray(layer(rows))
    kernel = np.asarray(layer.kernel, np.float64)
    if "transposed" in kind:
        kernel = kernel.swapaxes(-1, -2)
    kernel = kernel.reshape(-1, kernel.shape[-1])
    ways = splits_of(layer)
    assert len(ways) == WAYS[kind]
    for split in ways:
        factors = Factors(split, kernel, np.eye(len(kernel)), 10**6)
        assert factors.losses[-1] <= 1e-6 * factors.losses[0]
        pair = factor_layers(layer, split, factors.ranks, "first")
        model = keras.Sequential([keras.Input(shape), *pair])
        for one, axes, factor in zip(
            pair, (split.first, split.rest), factors.of_rank(factors.ranks), strict=True
        ):
            write_factor(one, split, axes, factor)
        assert np.abs(np.asarray(model(rows)) - expected).max() < 1e-4
        calls = [((1, *shape), (1, *expected.shape[1:]))]
        assert factor_macs(layer, split, factors.ranks, calls) == count_macs(model)[0]


def test_losses_are_the_mean_squared_change(train):
    """Of every rank, against the factors themselves."""
    random = np.random.default_rng(0)
    kernel = random.normal(size=(64, 20))
    covariance = np.cov(train.T, bias=True)
    (split,) = splits_of(layers.Dense(20))
    factors = Factors(split, kernel, covariance, 20)
    for rank in (1, 7, 19):
        first, second = factors.of_rank(rank)
        lost = kernel - first @ second[0]
        assert factors.losses[rank] == pytest.approx(np.trace(lost.T @ covariance @ lost), rel=1e-4)
    assert (np.diff(factors.losses) <= 0).all()


def test_a_budget_is_spread_by_what_is_lost_for_it():
    def offer(macs, *losses):
        return [Option(macs * (len(losses) - at), loss) for at, loss in enumerate(losses)]

    offers = [offer(10, 0, 1, 9), offer(20, 0, 8, 9), offer(5, 0, 0.1, 0.2, 5)]
    assert [one.loss for one in spread(offers, 110)] == [0, 0, 0]
    assert [one.loss for one in spread(offers, 90)] == [1, 0, 0.2]
    # The second's step saves so much that the others need not lose anything.
    assert [one.loss for one in spread(offers, 76)] == [0, 9, 0]
    assert [one.loss for one in spread(offers, 0)] == [9, 9, 5]
    for budget in range(35, 111):
        assert sum(one.macs for one in spread(offers, budget)) <= budget


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "low_rank needs either keep or energy"),
        ({"keep": 0.5, "energy": 0.9}, "low_rank needs either keep or energy"),
        ({"keep": 2}, r"keep must be in \(0, 1\], got 2"),
        ({"energy": 1}, r"energy must be in \(0, 1\), got 1"),
        ({"keep": 0.5, "multiple": 0}, "multiple must be a whole number from 1, got 0"),
        ({"keep": 0.5, "cut_code": 1}, "cut_code must be true or false, got 1"),
    ],
)
def test_options_that_cannot_be_used_are_refused(trained, train, options, message):
    with pytest.raises(InputError, match=message):
        shrink(trained, train, "low_rank", **options)
