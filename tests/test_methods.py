"""What every shrinking method promises, tested over the registry."""

from __future__ import annotations

import dataclasses
import inspect

import keras
import numpy as np
import pytest

from secateur import shrink
from secateur.activations import sites
from secateur.autoencoders import dense
from secateur.costs import costs
from secateur.errors import InputError
from secateur.methods import METHODS, make_method
from secateur.methods.activations import measured_costs
from secateur.metrics import mean_squared_error
from secateur.recovery import recover

# Options with which each method cuts the fixture, and those with which it cuts nothing.
CUTS = {
    "activations": {},
    "cluster": {"clusters": 4},
    "code": {"keep": 0.5},
    "fold": {},
    "layers": {"keep": 0.5},
    "low_rank": {"keep": 0.7},
    "quantize": {},
    "units": {"keep": 0.5},
    "weights": {"keep": 0.5},
}
NOTHING = {
    "activations": {},
    "cluster": {"clusters": 65536},
    "code": {"keep": 1.0},
    "fold": {},
    "layers": {"keep": 1.0},
    "low_rank": {"keep": 1.0},
    "quantize": {"scheme": "int16x8"},
    "units": {"keep": 1.0},
    "weights": {"keep": 1.0},
}
# What a method makes smaller, if not the MACs.
SAVES = {
    "activations": lambda model: sum(
        site.values * measured_costs()["float32"][site.activation] for site in sites(model)
    ),
    "cluster": "gzip_bytes",
    "fold": "parameters",
    "quantize": "gzip_bytes",
}
# The fixture that a method cuts, where it finds nothing to do in the plain dense network.
SUBJECTS = {
    "activations": "curved",
    "fold": "normalized",
}
# The fixture that a method finds nothing to do in.
UNCUT = {
    "quantize": "on_grid",
}
# The kind of layer a method works on, if not on any.
WORKS_ON = {
    "fold": keras.layers.BatchNormalization,
}

every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="session")
def normalized(train):
    """The dense network with its activations before a normalization, or behind one."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,))])
    for units in (32, 8, 32):
        model.add(keras.layers.Dense(units))
        model.add(keras.layers.BatchNormalization())
        model.add(keras.layers.ReLU())
        model.add(keras.layers.BatchNormalization())
    model.add(keras.layers.Dense(64))
    return recover(model, train, train, epochs=1, batch=32)[0]


@pytest.fixture(scope="session")
def curved(train):
    """The dense network with gelu in place of relu."""
    keras.utils.set_random_seed(0)
    model = dense(64, widths=(32, 16), code=8, activation="gelu")
    return recover(model, train, train, epochs=5, batch=32, learning_rate=3e-3)[0]


@pytest.fixture(scope="session")
def on_grid(trained, train):
    return shrink(trained, train, "quantize")[0]


@pytest.fixture
def subject(method, request):
    return request.getfixturevalue(SUBJECTS.get(method, "trained"))


@pytest.fixture(scope="session")
def made():
    return {}


@pytest.fixture
def shrunk(method, subject, train, made):
    """What a method makes and reports, made once for all tests that only look at it."""
    if method not in made:
        made[method] = shrink(subject, train, method, **CUTS[method])
    return made[method]


@every_method
def test_the_original_is_untouched(method, subject, train):
    before = subject.get_weights()
    config = subject.get_config()
    shrink(subject, train, method, **CUTS[method])
    assert all(map(np.array_equal, subject.get_weights(), before))
    assert subject.get_config() == config


@every_method
def test_the_result_costs_less_and_takes_and_gives_the_same_shapes(method, subject, shrunk):
    cut, _ = shrunk
    saved = SAVES.get(method, "nonzero_macs")
    after, before = (
        saved(model) if callable(saved) else getattr(costs(model), saved)
        for model in (cut, subject)
    )
    assert after < before
    assert (cut.input_shape, cut.output_shape) == (subject.input_shape, subject.output_shape)


@every_method
def test_cutting_nothing_changes_nothing(method, request, train, validation):
    whole = request.getfixturevalue(UNCUT.get(method, "trained"))
    same, report = shrink(whole, train, method, **NOTHING[method])
    assert np.array_equal(same(validation), whole(validation))
    assert report.groups == []


@every_method
def test_a_seed_gives_the_same_weights(method, subject, train, shrunk):
    one, other = shrunk[0], shrink(subject, train, method, **CUTS[method])[0]
    assert all(map(np.array_equal, one.get_weights(), other.get_weights()))


@every_method
def test_everything_is_accounted_for(method, subject, shrunk):
    """Every hidden layer that a method works on is named: cut, or skipped with a reason."""
    _, report = shrunk
    kinds = WORKS_ON.get(method, keras.layers.Layer)
    hidden = {layer.name for layer in subject.layers[1:-1] if isinstance(layer, kinds)}
    named = {entry["layer"] for entry in report.groups + report.skipped}
    assert hidden <= named
    assert all(entry["reason"] for entry in report.skipped)


@every_method
def test_a_target_takes_the_place_of_the_amount(method, subject, train, shrunk):
    """Half of the way from the whole model to the cut one: met, never overshot, and told."""
    amount = METHODS[method].amount
    if amount is None:
        with pytest.raises(InputError, match=f"method '{method}' has no knob that says how much"):
            shrink(subject, train, method, {"macs": 0.5}, **CUTS[method])
        return
    saved = SAVES.get(method, "nonzero_macs")
    before = getattr(costs(subject), saved)
    asked = (before + getattr(costs(shrunk[0]), saved)) // 2
    options = {knob: value for knob, value in CUTS[method].items() if knob != amount.knob}
    cut, report = shrink(subject, train, method, {saved: asked}, **options)
    reached = getattr(costs(cut), saved)
    assert reached <= asked < before
    assert report.budget == {
        "cost": saved, "asked": asked, "reached": reached, "before": before, "why": None,
    }  # fmt: skip
    with pytest.raises(InputError, match=f"a target takes the place of '{amount.knob}'"):
        shrink(subject, train, method, {saved: asked}, **{amount.knob: amount.most})


@every_method
def test_a_model_that_was_built_for_batches_of_one_size(method, subject, train):
    """It is cut as the same model without a size, and keeps it."""
    fixed = copy_with_batch(subject, 3)
    cut, _ = shrink(fixed, train[:70], method, **CUTS[method])
    assert cut.input_shape == (3, 64)
    free, _ = shrink(subject, train[:70], method, **CUTS[method])
    assert all(map(np.array_equal, cut.get_weights(), free.get_weights()))


def copy_with_batch(model, rows):
    image = keras.Input(batch_shape=(rows, *model.input_shape[1:]), name=model.layers[0].name)
    clone = keras.models.clone_model(model, input_tensors=image)
    clone.set_weights(model.get_weights())
    return clone


def reshaping(image):
    return keras.ops.reshape(keras.layers.Dense(4)(image), (3, 4))


def stateful(image):
    steps = keras.layers.Reshape((2, 2))(image)
    return keras.layers.Flatten()(keras.layers.LSTM(2, return_sequences=True, stateful=True)(steps))


@pytest.mark.parametrize("layer", [reshaping, stateful])
def test_a_model_that_takes_batches_of_one_size_alone_is_refused(layer):
    image = keras.Input(batch_shape=(3, 4))
    model = keras.Model(image, layer(image))
    with pytest.raises(InputError, match="takes batches of 3 rows alone"):
        shrink(model, np.ones((7, 4), "float32"), "units", keep=0.5)


@every_method
def test_the_class_says_what_its_knobs_do(method):
    documented = inspect.getdoc(METHODS[method])
    names = [knob.name for knob in dataclasses.fields(METHODS[method])]
    assert all(f"{knob}:" in documented for knob in names)


def test_an_unknown_method_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match=r"Unknown method 'magnitud'\. Known: .*units"):
        make_method("magnitud", {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the option 'keep'"),
        ({"keep": 0.5, "kepe": 1}, "no option 'kepe'. Known: keep, importance"),
        ({"keep": 0}, r"keep must be in \(0, 1\], got 0"),
        ({"keep": 1.5}, r"keep must be in \(0, 1\], got 1.5"),
        ({"keep": "half"}, r"keep must be in \(0, 1\], got 'half'"),
        ({"keep": True}, r"keep must be in \(0, 1\], got True"),
        (
            {"keep": 0.5, "importance": "size"},
            "importance must be one of obs, obs_layer, magnitude, magnitude_l1",
        ),
        ({"keep": 0.5, "compensate": "no"}, "compensate must be one of least_squares, bias, none"),
        ({"keep": 0.5, "scope": "all"}, "scope must be one of local, global, erk, adaptive"),
        (
            {"keep": 0.5, "scope": "global", "normalize": "sum"},
            "normalize must be one of none, mean, max, lamp, got 'sum'",
        ),
        ({"keep": 0.5, "normalize": "mean"}, "normalize is of scope global"),
    ],
)
def test_options_of_units_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make_method("units", options)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (np.zeros((0, 64)), "at least one row"),
        (np.zeros((5, 63)), r"shape \(5, 63\); the model needs \('rows', 64\)"),
        (np.full((5, 64), np.nan), "not finite"),
    ],
)
def test_a_sample_that_cannot_be_used_is_refused(trained, sample, message):
    with pytest.raises(InputError, match=message):
        shrink(trained, sample, "units", keep=0.5)


def test_units_leaves_the_counted_widths(trained, train):
    cut, report = shrink(trained, train, "units", keep=0.5)
    widths = {layer.name: layer.units for layer in cut.layers[1:]}
    assert list(widths) == [layer.name for layer in trained.layers[1:]]
    assert widths == {
        "encoder_1": 16, "encoder_2": 8, "code": 8, "decoder_1": 8, "decoder_2": 16, "output": 64,
    }  # fmt: skip
    assert [len(group["removed"]) for group in report.groups] == [16, 8, 8, 16]
    assert [entry["layer"] for entry in report.skipped] == ["code", "output"]


def test_at_least_one_unit_stays(trained, train):
    cut, _ = shrink(trained, train, "units", keep=1e-6)
    assert [layer.units for layer in cut.layers[1:]] == [1, 1, 8, 1, 1, 64]


@pytest.mark.parametrize("method", ["units", "weights"])
def test_an_output_in_half_precision_is_weighed_like_any_other(method, train):
    rows = keras.Input((64,))
    hidden = rows
    for units in (16, 4, 16):
        hidden = keras.layers.Dense(units, "relu", dtype="bfloat16")(hidden)
    model = keras.Model(rows, keras.layers.Dense(64, dtype="bfloat16")(hidden))
    cut, report = shrink(model, train[:64], method, keep=0.5)
    assert costs(cut).nonzeros < costs(model).nonzeros
    given, repaired, left = (
        np.asarray(one(train), np.float32) for one in (model, cut, report.uncompensated)
    )
    assert np.square(repaired - given).mean() < 0.5 * np.square(left - given).mean()


def test_the_code_is_cut_when_asked(trained, train):
    cut, _ = shrink(trained, train, "units", keep=0.5, cut_code=True)
    assert cut.get_layer("code").units == 4


@pytest.mark.parametrize("constant", [0.0, 0.7])
def test_a_constant_unit_leaves_without_changing_the_output(constant, train, validation):
    """Its weights are zero, so it gives the same on every row: the next bias takes over exactly."""
    keras.utils.set_random_seed(2)
    model = dense(64, widths=(4,), code=3)
    kernel, bias = model.get_layer("encoder_1").get_weights()
    kernel[:, 2], bias[2] = 0, constant
    model.get_layer("encoder_1").set_weights([kernel, bias])
    cut, report = shrink(model, train, "units", keep=0.75)
    assert report.groups[0]["layer"] == "encoder_1"
    assert [entry["unit"] for entry in report.groups[0]["removed"]] == [2]
    # Only the other hidden layer, which has no constant unit, may change the output.
    code = keras.Model(model.input, model.get_layer("code").output)(validation)
    cut_code = keras.Model(cut.input, cut.get_layer("code").output)(validation)
    assert np.abs(cut_code - code).max() <= 1e-5 * np.abs(code).max()


def test_a_copy_of_a_unit_is_absorbed_by_the_other(train, validation):
    """Two units that give the same are one unit with both their weights."""
    keras.utils.set_random_seed(2)
    model = dense(64, widths=(4,), code=3)
    kernel, bias = model.get_layer("encoder_1").get_weights()
    kernel[:, 1] = kernel[:, 3]
    model.get_layer("encoder_1").set_weights([kernel, bias])
    cut, report = shrink(model, train, "units", keep=0.75)
    assert report.groups[0]["removed"][0]["unit"] in (1, 3)
    code = keras.Model(model.input, model.get_layer("code").output)(validation)
    cut_code = keras.Model(cut.input, cut.get_layer("code").output)(validation)
    assert np.square(cut_code - code).mean() <= 1e-6 * np.square(code).mean()


def test_each_step_of_compensation_helps(trained, train, validation):
    error = {
        compensate: mean_squared_error(
            shrink(trained, train, "units", keep=0.5, compensate=compensate)[0], validation
        )
        for compensate in ("least_squares", "bias", "none")
    }
    assert error["least_squares"] < 0.75 * error["bias"]
    assert error["bias"] < error["none"]


def test_rows_fewer_than_inputs_do_not_make_a_repair_explode(trained, train, validation):
    """Twenty rows for 33 inputs: other rows than these gain from it too."""
    error = {
        compensate: mean_squared_error(
            shrink(
                trained, train[:20], "units", keep=0.5, importance="magnitude",
                compensate=compensate,
            )[0],
            validation,
        )
        for compensate in ("least_squares", "bias")
    }  # fmt: skip
    assert error["least_squares"] < error["bias"]


def test_the_closed_form_beats_magnitude_and_chance(trained, train, validation):
    error = {
        importance: mean_squared_error(
            shrink(trained, train, "units", keep=0.5, importance=importance)[0], validation
        )
        for importance in ("obs", "magnitude", "random")
    }
    assert error["obs"] < error["magnitude"]
    assert error["obs"] < error["random"]


def test_the_reported_cost_is_the_next_layers_mean_squared_change(trained, train):
    """The cheapest unit's cost, against refitting the next layer by plain least squares."""
    _, report = shrink(trained, train, "units", keep=31 / 32, importance="obs_layer")
    removed = report.groups[0]["removed"]
    hidden = np.asarray(keras.Model(trained.input, trained.get_layer("encoder_1").output)(train))
    kernel, bias = trained.get_layer("encoder_2").get_weights()
    wanted = hidden @ kernel + bias
    left = np.column_stack([np.delete(hidden, removed[0]["unit"], axis=1), np.ones(len(hidden))])
    fitted = left @ np.linalg.lstsq(left.astype(np.float64), wanted, rcond=None)[0]
    change = np.square(fitted - wanted).sum(axis=1).mean()
    assert removed[0]["cost"] == pytest.approx(change, rel=1e-3, abs=1e-6)


def test_the_uncompensated_model_is_the_cut_alone(trained, train):
    cut, report = shrink(trained, train, "units", keep=0.5)
    kept = sorted(set(range(32)) - {entry["unit"] for entry in report.groups[0]["removed"]})
    expected = trained.get_layer("encoder_1").get_weights()[0][:, kept]
    assert np.array_equal(report.uncompensated.get_layer("encoder_1").get_weights()[0], expected)
    assert [w.shape for w in report.uncompensated.weights] == [w.shape for w in cut.weights]
