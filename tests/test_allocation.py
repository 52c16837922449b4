"""Spreading a budget over layers: what is predicted, what is reached, and that it is worth it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from benchmarks.allocation import WAYS, cut_by, scored_by
from secateur import shrink
from secateur.allocation import Price, paths_of, price_of, sensitivity, spread, widths_of
from secateur.answers import Answers
from secateur.costs import costs
from secateur.graph import Footprint, dependency_groups, keep_units
from secateur.methods.units import Units
from secateur.metrics import mean_squared_error
from secateur.mixing import mixing_layers

SCOPES = ("local", "global", "erk", "adaptive")


@pytest.fixture(scope="module")
def paths(trained, train):
    return paths_of(trained, train, Answers(trained, train))


@pytest.mark.parametrize(
    ("units", "multiple", "minimum", "expected"),
    [
        (4, 1, 1, (4, 3, 2, 1)),
        (10, 4, 1, (10, 8, 4)),
        (8, 4, 5, (8,)),
        (20, 8, 9, (20, 16)),
        (3, 8, 1, (3,)),
    ],
)
def test_widths_are_multiples_and_not_below_the_minimum(units, multiple, minimum, expected):
    assert widths_of(units, multiple, minimum) == expected


def test_answers_are_what_the_outputs_gain_by_a_small_change(trained, train):
    """Against the exact Jacobian of a layer's pre-activations, row by row."""
    import tensorflow as tf

    rows = train[:200]
    middle = keras.Model(trained.input, trained.get_layer("code").output)(rows)
    decoder_1 = trained.get_layer("decoder_1")
    before = middle @ decoder_1.kernel + decoder_1.bias
    rest = [trained.get_layer(name) for name in ("decoder_2", "output")]
    with tf.GradientTape() as tape:
        tape.watch(before)
        given = rest[1](rest[0](tf.nn.relu(before)))
    jacobian = np.asarray(tape.batch_jacobian(given, before), np.float64)
    total = np.einsum("rou,rov->uv", jacobian, jacobian) / (len(rows) * 64)
    (linear,) = next(one for one in mixing_layers(trained) if one.path == "decoder_1").maps
    root = Answers(trained, rows).root(linear, 1.0)
    assert np.linalg.norm(root @ root.T - total) < 0.15 * np.linalg.norm(total)


def test_listening_leaves_the_layers_as_they_were(trained, train):
    before = [layer.activation for layer in trained.layers[1:]]
    Answers(trained, train[:50])
    assert [layer.activation for layer in trained.layers[1:]] == before


def test_the_scan_predicts_what_full_cuts_lose(trained, train):
    """Each group cut alone, compensated, and scored: the closed form is near without a cut."""
    whole = mean_squared_error(trained, train)
    for row in sensitivity(trained, train, ratios=(0.5,)):
        widths = {row["layer"]: row["units"] - row["removed"]}
        cut, _ = Units(keep=1.0).shrink_to(trained, train, widths)
        lost = mean_squared_error(cut, train) - whole
        assert row["mse"] == whole
        assert row["rise"] == pytest.approx(lost, rel=0.4, abs=0.01 * whole)


def test_the_scan_covers_every_group_and_ratio(trained, train):
    rows = sensitivity(trained, train[:300], ratios=(0.0, 0.5, 0.99))
    layers_ = [row["layer"] for row in rows]
    assert layers_ == [
        name for name in ("encoder_1", "encoder_2", "decoder_1", "decoder_2") for _ in range(3)
    ]
    assert [row["removed"] for row in rows[:3]] == [0, 16, 31]
    assert rows[0]["rise"] == 0 < rows[1]["rise"] < rows[2]["rise"]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("cost", ["macs", "parameters"])
def test_nothing_more_could_stay(cost, scope, trained, paths):
    price = price_of(cost, trained, 0)
    limit = price({}) // 2
    widths = spread(paths, price, limit, scope)
    assert price(widths) <= limit
    for path in paths:
        name = path.group.name
        if widths[name] < path.group.units:
            assert price({**widths, name: widths[name] + 1}) > limit


def test_local_leaves_the_same_share_everywhere(paths):
    units = sum(path.group.units for path in paths)
    widths = spread(paths, Price(lambda kept: sum(kept.values())), units / 2, "local")
    assert list(widths.values()) == [16, 8, 8, 16]


def test_out_of_reach_leaves_the_least(trained, paths):
    assert set(spread(paths, price_of("macs", trained, 1), 1).values()) == {1}


@pytest.mark.parametrize(
    "options",
    [
        *({"scope": "global", "normalize": how} for how in ("mean", "max")),
        {"scope": "adaptive", "importance": "taylor"},
        {"scope": "global", "importance": "random"},
    ],
)
def test_scopes_and_importances_go_together(options, trained, train):
    cut, report = shrink(trained, train[:300], "units", {"macs": 0.5}, **options)
    assert 0.95 * report.budget["asked"] < costs(cut).macs <= report.budget["asked"]
    assert report.budget["why"] is None


def test_adaptive_beats_uniform_at_equal_macs(trained, train, validation):
    """Untrained; `benchmarks.allocation` shows by how much on larger networks."""
    for left in (0.5, 0.3):
        error = {
            scope: mean_squared_error(
                shrink(trained, train, "units", {"macs": left}, scope=scope)[0], validation
            )
            for scope in ("local", "adaptive")
        }
        assert error["adaptive"] < error["local"]


def test_a_fraction_of_units_may_be_spread(trained, train):
    cut, _ = shrink(trained, train[:300], "units", keep=0.5, scope="adaptive")
    widths = [layer.units for layer in cut.layers[1:] if layer.name not in ("code", "output")]
    assert sum(widths) == 48
    assert widths != [16, 8, 8, 16]


def test_multiples_and_minimums_hold_under_a_target(trained, train):
    cut, report = shrink(trained, train[:300], "units", {"macs": 0.1}, multiple=4, minimum=8)
    assert [layer.units for layer in cut.layers[1:]] == [8, 8, 8, 8, 8, 64]
    assert report.budget["reached"] > report.budget["asked"]
    assert "all has left that may" in report.budget["why"]


@pytest.mark.parametrize("cost", ["parameters", "macs", "nonzeros", "peak_activation_bytes"])
def test_prices_are_what_cut_models_cost(cost):
    """Convolutions, a normalization and a bottleneck: counted by widths, and then cut."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 1))
    h = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    h = layers.BatchNormalization(beta_initializer="ones", moving_mean_initializer="ones")(h)
    h = layers.Conv2D(4, 3, strides=2, padding="same", bias_initializer="ones")(h)
    h = layers.Dense(5, bias_initializer="ones")(layers.Flatten()(h))
    h = layers.Reshape((4, 4, 3))(layers.Dense(48, bias_initializer="ones")(h))
    model = keras.Model(x, layers.Conv2DTranspose(1, 3, strides=2, padding="same")(h))
    names = [one.name for one in dependency_groups(model) if not one.frozen]
    price = price_of(cost, model, 0)
    widths = dict.fromkeys(names, 2)
    cut = keep_units(model, {name: [0, 1] for name in names})
    # A bias that is zero in the whole model is zero in the cut one.
    assert price(widths) == pytest.approx(getattr(costs(cut), cost), abs=8)
    assert price({}) == pytest.approx(getattr(costs(model), cost), abs=8)
    assert Footprint(model).macs(widths) == costs(cut).macs


@pytest.mark.parametrize("way", WAYS)
def test_the_ways_that_the_benchmark_compares_keep_to_the_budget(way, trained, train):
    sample, limit = train[:300], costs(trained).macs / 2
    paths = paths_of(trained, sample, Answers(trained, sample), *scored_by(WAYS[way]))
    cut = cut_by(trained, sample, paths, limit, WAYS[way])
    assert 0.95 * limit < costs(cut).macs <= limit


@pytest.mark.parametrize("cost", ["nonzeros", "peak_activation_bytes", "gzip_bytes"])
def test_units_keep_to_every_counted_cost(cost, trained, train):
    cut, report = shrink(trained, train[:300], "units", {cost: 0.8})
    assert getattr(costs(cut), cost) == report.budget["reached"] <= report.budget["asked"]
    assert report.budget["why"] is None
