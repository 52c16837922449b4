"""What removing and merging layers promises."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from keras import layers

import secateur
from secateur import shrink
from secateur.costs import count_macs
from secateur.errors import InputError
from secateur.export import export_float32
from secateur.graph import dependency_groups, layer_at
from secateur.graph.neighbours import linear_pairs
from secateur.litert import LiteRTModel
from secateur.merging import why_not_merged
from secateur.metrics import mean_squared_error
from tests.graph_models import MODELS


def taken(report):
    return [entry["layer"] for entry in report.groups]


def reasons(report):
    return {entry["layer"]: entry["reason"] for entry in report.skipped}


def deviation(model, other, rows):
    expected = np.asarray(model(rows))
    return float(np.abs(np.asarray(other(rows)) - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def rows(train):
    return train[:400]


@pytest.fixture(scope="module")
def shorter(trained, train):
    return shrink(trained, train, "layers", count=2)


def test_the_next_layer_reads_what_the_removed_one_read(trained, shorter):
    cut, report = shorter
    gone = taken(report)
    left = [layer.name for layer in trained.layers[1:] if layer.name not in gone]
    assert len(gone) == 2
    assert [layer.name for layer in cut.layers[1:]] == left
    widths = {"encoder_1": 32, "encoder_2": 16, "code": 8, "decoder_1": 16, "decoder_2": 32}
    kept = [64, *(width for name, width in widths.items() if name not in gone), 64]
    assert [layer.kernel.shape for layer in cut.layers[1:]] == list(itertools.pairwise(kept))


def test_the_cheapest_leave_first_and_all_others_are_told(shorter):
    _, report = shorter
    assert set(reasons(report)) | set(taken(report)) == {
        "encoder_1", "encoder_2", "code", "decoder_1", "decoder_2", "output",
    }  # fmt: skip
    assert reasons(report)["code"] == "it makes the code"
    assert reasons(report)["output"] == "it makes the model's output"
    others = [entry for entry in report.skipped if entry["reason"] == "others are missed less"]
    assert len(others) == 2
    assert others
    assert all(entry["change"] > report.groups[0]["change"] for entry in others)


def test_the_loss_is_that_of_refitting_the_next_layer(trained, train):
    """The first removal's, against plain least squares."""
    _, report = shrink(trained, train, "layers", count=1)
    (entry,) = report.groups
    names = [layer.name for layer in trained.layers]
    place = names.index(entry["layer"])
    before, after = (
        np.asarray(keras.Model(trained.input, trained.layers[at].output)(train))
        for at in (place - 1, place)
    )
    kernel, bias = trained.layers[place + 1].get_weights()
    wanted = after.astype(np.float64) @ kernel + bias
    read = np.column_stack([before, np.ones(len(before))]).astype(np.float64)
    change = np.square(read @ np.linalg.lstsq(read, wanted, rcond=None)[0] - wanted)
    assert entry["loss"] == pytest.approx(change.sum(axis=1).mean(), rel=1e-3)
    assert entry["share"] == pytest.approx(entry["loss"] / wanted.var(axis=0).sum(), rel=1e-3)
    assert entry["read_by"] == [names[place + 1]]


def test_refitting_helps(shorter, validation):
    cut, report = shorter
    bare = mean_squared_error(report.uncompensated, validation)
    assert mean_squared_error(cut, validation) < 0.7 * bare


def test_a_layer_that_gives_what_it_reads_leaves_without_a_change(rows):
    keras.utils.set_random_seed(0)
    same = layers.Dense(8, "relu", name="same", kernel_initializer="identity")
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(8, "relu", name="first"),
            same,
            layers.Dense(3, name="code"),
            layers.Dense(6, "relu", name="second"),
            layers.Dense(64, name="output"),
        ]
    )
    cut, report = shrink(model, rows, "layers", count=1)
    assert taken(report) == ["same"]
    assert report.groups[0]["share"] < 1e-9
    assert deviation(model, cut, rows) < 1e-4


def test_keep_is_the_fraction_of_what_could_leave(trained, rows):
    _, report = shrink(trained, rows, "layers", keep=0.75)
    assert len(report.groups) == 1


def test_nothing_leaves_that_loses_more_than_allowed(trained, rows):
    cut, report = shrink(trained, rows, "layers", count=4, most_lost=1e-6)
    assert report.groups == []
    assert reasons(report)["encoder_1"] == "too much would be lost"
    assert deviation(trained, cut, rows) == 0


def test_the_code_leaves_when_asked(rows):
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(32, "relu"),
            layers.Dense(30, name="code"),
            layers.Dense(32, "relu"),
            layers.Dense(64),
        ]
    )
    _, report = shrink(model, rows, "layers", count=9, merge=False)
    assert reasons(report)["code"] == "it makes the code"
    _, report = shrink(model, rows, "layers", count=9, merge=False, cut_code=True)
    assert "code" in taken(report)


def chain(*inside, shape=(6, 6, 4)):
    """A model with these layers between a kernel and a narrow code."""
    keras.utils.set_random_seed(1)
    flat = [layers.Flatten()] if len(shape) > 1 else []
    model = keras.Sequential(
        [keras.Input(shape), *inside, layers.ReLU(), *flat, layers.Dense(2), layers.Dense(3)]
    )
    random = np.random.default_rng(1)
    for variable in model.weights:
        values = random.normal(size=variable.shape)
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    return model


LINEAR = {
    "dense, dense": ((12,), layers.Dense(20, name="first"), layers.Dense(5, name="second")),
    "over a norm and a dropout": (
        (12,),
        layers.Dense(20, name="first"),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Dense(5, name="second", use_bias=False),
    ),
    "convolution, pointwise": (
        (6, 6, 4),
        layers.Conv2D(9, 3, strides=2, padding="same", name="first"),
        layers.Conv2D(5, 1, name="second"),
    ),
    "pointwise, convolution": (
        (6, 6, 4),
        layers.Conv2D(9, 1, name="first"),
        layers.Conv2D(5, 3, name="second"),
    ),
    "pointwise without bias, padded convolution": (
        (6, 6, 4),
        layers.Conv2D(9, 1, use_bias=False, name="first"),
        layers.Conv2D(5, 3, padding="same", name="second"),
    ),
    "dense, transposed": (
        (6, 6, 4),
        layers.Dense(9, use_bias=False, name="first"),
        layers.Conv2DTranspose(5, 3, strides=2, padding="same", name="second"),
    ),
    "transposed, dense": (
        (6, 6, 4),
        layers.Conv2DTranspose(9, 3, strides=2, name="first"),
        layers.Dense(5, name="second"),
    ),
}


@pytest.mark.parametrize("case", LINEAR)
def test_linear_layers_in_a_row_are_one_exactly(case):
    shape, *inside = LINEAR[case]
    model = chain(*inside, shape=shape)
    rows = np.random.default_rng(0).normal(size=(20, *shape)).astype(np.float32)
    cut, report = shrink(model, rows, "layers", count=1)
    assert taken(report) == ["first"]
    assert report.groups[0]["how"] == "merged into second"
    assert deviation(model, cut, rows) < 1e-5
    assert count_macs(cut)[0] == report.groups[0]["macs_after"] < count_macs(model)[0]


def test_a_bottleneck_is_not_merged_into_a_larger_layer():
    model = chain(layers.Dense(3, name="first"), layers.Dense(20, name="second"), shape=(12,))
    rows = np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32)
    _, report = shrink(model, rows, "layers", count=0)
    assert reasons(report)["first"] == "what takes over would need more MACs"


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (
            layers.Dense(9, name="first", trainable=False),
            layers.Dense(5, name="second"),
            "first is frozen: not trainable",
        ),
        (
            layers.Conv2D(9, 1, name="first"),
            layers.Conv2D(5, 3, padding="same", name="second"),
            "second pads with zeros what the bias of first has been added to",
        ),
        (
            layers.Conv2D(9, 3, name="first"),
            layers.Conv2D(5, 3, name="second"),
            "the windows of both would make a larger one",
        ),
        (
            layers.Conv2D(9, 1, groups=1, name="first"),
            layers.Conv2D(6, 3, groups=3, name="second"),
            "second has groups",
        ),
    ],
)
def test_what_cannot_be_merged_is_told(first, second, reason):
    model = chain(first, second)
    (pair,) = (one for one in linear_pairs(model) if one.first == "first")
    assert why_not_merged(model, pair) == reason


def residual():
    """Two residual blocks, the second of which adds nothing, and a shared activation."""
    keras.utils.set_random_seed(0)
    relu = layers.ReLU(name="relu")
    x = keras.Input((8, 8, 1))
    h = relu(layers.Conv2D(4, 3, padding="same", name="stem")(x))
    for block in ("first", "second"):
        inside = layers.Conv2D(6, 3, padding="same", name=f"{block}_in")(h)
        inside = layers.BatchNormalization(name=f"{block}_norm")(relu(inside))
        inside = layers.Conv2D(4, 3, padding="same", name=f"{block}_out")(inside)
        h = layers.Add(name=f"{block}_add")([inside, h])
    code = layers.Dense(3, name="code")(layers.Flatten()(relu(h)))
    h = layers.Reshape((8, 8, 2))(layers.Dense(128, "relu", name="widen")(code))
    model = keras.Model(x, layers.Conv2D(1, 3, padding="same", name="output")(h))
    for name in ("second_out", "second_in"):
        layer = model.get_layer(name)
        layer.set_weights([0.01 * weight for weight in layer.get_weights()])
    return model


def test_the_branch_of_a_block_leaves_with_all_that_only_it_uses(rows):
    model = residual()
    images = rows.reshape(-1, 8, 8, 1)
    cut, report = shrink(model, images, "layers", count=1)
    (entry,) = report.groups
    assert (entry["layer"], entry["how"]) == ("second_add", "its branch is removed")
    assert set(entry["with"]) == {"second_in", "second_norm", "second_out"}
    assert entry["read_by"] == ["code"]
    gone = {*entry["with"], "second_add"}
    assert {layer.name for layer in cut.layers} == {one.name for one in model.layers} - gone
    assert deviation(model, cut, images) < 0.02
    assert reasons(report)["first_add"] == "others are missed less"


def test_the_code_is_in_no_branch_that_leaves(rows):
    x = keras.Input((64,))
    h = layers.Dense(4, "relu", name="code")(x)
    joined = layers.Add(name="add")([layers.Dense(64, name="back")(h), x])
    model = keras.Model(x, layers.Dense(64, name="output")(joined))
    _, report = shrink(model, rows, "layers", count=9)
    assert taken(report) == []
    assert reasons(report)["add"] == "it makes the code"


def test_nested_models_lose_layers_too(rows):
    keras.utils.set_random_seed(0)
    a = keras.Input((64,))
    h = layers.Dense(16, "relu", name="hidden")(a)
    encoder = keras.Model(a, layers.Dense(4, name="last")(h), name="encoder")
    decoder = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(16, name="hidden"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Dense(64, name="last"),
        ],
        name="decoder",
    )
    x = keras.Input((64,))
    model = keras.Model(x, decoder(encoder(x)))
    cut, report = shrink(model, rows, "layers", count=2)
    assert set(taken(report)) == {"encoder/hidden", "decoder/hidden"}
    assert layer_at(cut, "encoder/last").kernel.shape == (64, 4)
    assert layer_at(cut, "decoder/last").kernel.shape == (4, 64)
    assert [layer.name for layer in cut.get_layer("decoder").layers] == ["last"]


def test_zeros_stay_zero(trained, rows):
    sparse, _ = shrink(trained, rows, "weights", keep=0.5)
    _, report = shrink(sparse, rows, "layers", count=9)
    assert report.groups == []
    assert "has pruned weights, whose zeros a new kernel would not keep" in str(reasons(report))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "layers needs either count or keep"),
        ({"count": 1, "keep": 0.5}, "layers needs either count or keep"),
        ({"count": -1}, "count must be a whole number from 0, got -1"),
        ({"keep": 0}, r"keep must be in \(0, 1\], got 0"),
        ({"count": 1, "most_lost": 2}, r"most_lost must be in \(0, 1\], got 2"),
        ({"count": 1, "merge": 1}, "merge must be true or false, got 1"),
    ],
)
def test_options_that_cannot_be_used_are_refused(trained, rows, options, message):
    with pytest.raises(InputError, match=message):
        shrink(trained, rows, "layers", **options)


def test_units_then_layers_then_low_rank_loads_and_exports(trained, train, validation, tmp_path):
    """Each round keeps what those before it saved, and the last one's file agrees with it."""
    model, macs = trained, count_macs(trained)[0]
    for method, options in (
        ("units", {"keep": 0.75}),
        ("layers", {"count": 1}),
        ("low_rank", {"keep": 0.9}),
        ("units", {"keep": 0.9}),
    ):
        model, _ = shrink(model, train, method, **options)
        assert count_macs(model)[0] < macs
        macs = count_macs(model)[0]
    (code,) = (group for group in dependency_groups(model) if group.is_code)
    assert (code.name, code.units) == ("code", 8)
    secateur.save(model, tmp_path / "chain.keras")
    loaded = secateur.load(tmp_path / "chain.keras")  # in safe mode
    assert np.array_equal(loaded(validation), model(validation))
    export_float32(loaded, tmp_path / "chain.tflite", validation[:32])
    exported = LiteRTModel(tmp_path / "chain.tflite")(validation)
    assert np.abs(exported - np.asarray(model(validation))).max() < 1e-5


@pytest.mark.parametrize(
    "name", ["skips", "nested_cut_through", "convolutional", "normalized", "mixed_precision"]
)
@pytest.mark.parametrize(
    ("method", "options"), [("layers", {"count": 2}), ("low_rank", {"keep": 0.85})]
)
def test_models_that_nobody_drew_for_it_stay_whole(name, method, options):
    """Skips, shared nested models, convolutions, norms over units, layers of several types."""
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    rows = np.random.default_rng(0).normal(size=(40, *model.input_shape[1:])).astype(np.float32)
    config, before = model.get_config(), model.get_weights()
    cut, report = shrink(model, rows, method, **options)
    assert cut.output_shape == model.output_shape
    assert np.isfinite(np.asarray(cut(rows), np.float64)).all()
    assert model.get_config() == config
    assert all(map(np.array_equal, model.get_weights(), before))
    widths = [
        sorted(group.units for group in dependency_groups(one) if group.is_code)
        for one in (cut, model)
    ]
    assert widths[0] == widths[1]
    saved = count_macs(model)[0] - count_macs(cut)[0]
    told = {entry["layer"]: entry for entry in report.groups if "macs_before" in entry}
    assert saved == sum(one["macs_before"] - one["macs_after"] for one in told.values())
    assert saved > 0 or not report.groups
