"""What `quantize` rounds is what LiteRT stores, what the guard judges and what is deployed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from ai_edge_litert.tools import flatbuffer_utils
from keras import layers

from secateur import compress, paths, recover, shrink
from secateur.errors import InputError
from secateur.export import export_litert, float_operations
from secateur.grids import (
    LEVELS,
    axes_of,
    grids_of,
    lies_on_grid,
    rounded,
    rounded_with_compensation,
    stored_layers,
)
from secateur.litert import LiteRTModel, row_errors_of_file
from secateur.masks import shared_values
from secateur.methods import make_method
from secateur.methods.base import RoundReport
from secateur.metrics import mean_squared_error, row_errors
from secateur.saving import load
from secateur.schemes import SCHEMES
from secateur.settings import parse_settings
from tasks import export, judge
from tasks import shrink as shrink_stage
from tasks.rung import write_rung

pytestmark = pytest.mark.usefixtures("_without_xla")
ROWS = np.random.default_rng(0).normal(size=(64, 16, 16, 8)).astype(np.float32)


def int8_kernels(file: bytes | Path) -> list[np.ndarray]:
    """The weights that a LiteRT file stores as int8, dequantized, each flat and sorted."""
    content = file if isinstance(file, bytes) else file.read_bytes()
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    found = []
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if flatbuffer_utils.type_to_name(tensor.type) == "INT8" and data is not None:
            steps = np.asarray(tensor.quantization.scale, np.float64)
            shape = np.ones(len(tensor.shape), int)
            if len(steps) > 1:
                shape[tensor.quantization.quantizedDimension] = -1
            numbers = np.asarray(data, np.uint8).view(np.int8).reshape(tensor.shape)
            found.append(np.sort((numbers * steps.reshape(shape)).ravel()))
    return found


def is_stored(kernel, kernels: list[np.ndarray]) -> bool:
    wanted = np.sort(np.asarray(kernel, np.float64).ravel())
    return any(len(one) == len(wanted) and np.allclose(one, wanted, atol=1e-6) for one in kernels)


@pytest.fixture(scope="module")
def convolutions():
    """Every kind of kernel that LiteRT stores with a step a channel, and norms on both sides."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 8))
    h = layers.Conv2D(8, 3, padding="same", use_bias=False)(image)
    h = layers.ReLU()(layers.BatchNormalization(name="norm_behind")(h))
    h = layers.BatchNormalization(name="norm_before")(h)
    h = layers.Conv2D(16, 3, padding="valid", strides=2, activation="relu")(h)
    h = layers.Conv2D(16, 3, padding="same", groups=2, activation="relu")(h)
    h = layers.SeparableConv2D(8, 3, padding="same", activation="relu")(h)
    h = layers.DepthwiseConv2D(3, padding="same")(h)
    h = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(h)
    h = layers.EinsumDense("abcd,de->abce", (None, None, 8), bias_axes="e")(h)
    model = keras.Model(image, layers.Dense(8)(h))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            noise = np.random.default_rng(1).uniform(0.5, 1.5, (4, 8))
            layer.set_weights([noise[0], noise[1] - 1, noise[2] - 1, noise[3]])
    return model


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_the_file_stores_the_very_weights_of_the_model(convolutions, scheme, tmp_path):
    model, report = shrink(convolutions, ROWS, "quantize", scheme=scheme)
    export_litert(model, tmp_path / "model.tflite", ROWS, scheme)
    stored = int8_kernels(tmp_path / "model.tflite")
    kernels = [layer.kernel for layer in stored_layers(model)]
    assert len(kernels) == 9
    assert all(is_stored(kernel, stored) for kernel in kernels)
    assert [entry["layer"] for entry in report.groups if "folded_into" in entry] == [
        "norm_behind", "norm_before",
    ]  # fmt: skip
    assert report.skipped == []


def test_dynamic_files_store_large_kernels_and_leave_small_ones(trained, train, tmp_path):
    model, report = shrink(trained, train, "quantize", scheme="dynamic_int8")
    export_litert(model, tmp_path / "model.tflite", train[:8], "dynamic_int8")
    stored = int8_kernels(tmp_path / "model.tflite")
    assert [entry["layer"] for entry in report.groups] == ["encoder_1", "output"]
    assert [is_stored(layer.kernel, stored) for layer in model.layers[1:]] == [
        True, False, False, False, False, True,
    ]  # fmt: skip
    assert np.array_equal(model.get_layer("code").kernel, trained.get_layer("code").kernel)
    assert all("fewer than 1,024" in entry["reason"] for entry in report.skipped)


def test_float16_weights_are_stored_as_they_are(trained, train, tmp_path):
    model, report = shrink(trained, train, "quantize", scheme="float16")
    assert len(report.groups) == 6
    assert all(np.array_equal(one, one.astype(np.float16)) for one in model.get_weights())
    deviation = export_litert(model, tmp_path / "model.tflite", train, "float16")
    assert deviation <= 1e-5
    large = recover(trained, train, train, epochs=0)[0]
    large.get_layer("code").bias.assign(np.full(8, 1e5))
    with pytest.raises(InputError, match="code/bias holds 1e\\+05; float16 reaches to 65504"):
        shrink(large, train, "quantize", scheme="float16")


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "float32"])
def test_files_of_every_scheme_do_as_well_as_the_model(
    trained, train, validation, scheme, tmp_path
):
    model, _ = shrink(trained, train, "quantize", scheme=scheme)
    export_litert(model, tmp_path / "model.tflite", train[:256], scheme)
    error = row_errors_of_file(tmp_path / "model.tflite", validation).mean()
    assert error <= 1.02 * mean_squared_error(trained, validation)
    in_float = float_operations(tmp_path / "model.tflite")
    assert bool(in_float) == (SCHEMES[scheme].activations == "float32")


def test_compensation_takes_most_of_the_rounding_back(trained, train, validation):
    """How far outputs lie from the unrounded model's."""
    wanted = np.asarray(trained(validation))

    def change(compensate: str) -> float:
        model, _ = shrink(trained, train, "quantize", compensate=compensate)
        return float(np.square(model(validation) - wanted).mean())

    assert change("least_squares") < 0.6 * change("bias")
    assert change("bias") < change("none")


def test_rounding_with_compensation_does_better_and_keeps_what_must_stay():
    numbers = np.random.default_rng(0)
    for _ in range(5):
        inputs = numbers.normal(size=(500, 20)) + numbers.normal(size=(500, 1))
        gram = inputs.T @ inputs / 500
        matrix = numbers.normal(size=(20, 7)) * (numbers.random((20, 7)) < 0.7)
        matrix[:, 6] = 0
        plain, made = rounded(matrix), rounded_with_compensation(matrix, gram)
        loss = [np.einsum("io,ij,jo->o", d, gram, d) for d in (plain - matrix, made - matrix)]
        assert (loss[1] <= loss[0] + 1e-15).all()
        assert loss[1].sum() < 0.9 * loss[0].sum()
        assert lies_on_grid(made, (0,))
        assert np.array_equal(np.abs(made).max(axis=0), np.abs(matrix).max(axis=0))
        assert (made[matrix == 0] == 0).all()


def test_zeros_stay_zero_and_the_parts_of_a_shared_value_stay_together(trained, train, validation):
    pruned, _ = shrink(trained, train, "weights", keep=0.5)
    clustered, _ = shrink(pruned, train, "cluster", clusters=4)
    model, _ = shrink(clustered, train, "quantize")
    tuned, _ = recover(model, train, validation, epochs=2, batch=32, learning_rate=3e-3)
    for before, one, after in zip(
        clustered.layers[1:], model.layers[1:], tuned.layers[1:], strict=True
    ):
        assert np.array_equal(np.asarray(before.kernel) == 0, np.asarray(one.kernel) == 0)
        assert not np.asarray(after.kernel)[np.asarray(one.kernel) == 0].any()
        for column in np.asarray(after.kernel).T:
            assert len(np.unique(column[column != 0])) <= 4


def test_training_keeps_weights_on_their_grids_and_still_learns(trained, train, validation):
    """From plain rounding to 8 levels' worth of damage, which training mends on the grid."""
    model, _ = shrink(trained, train, "quantize", compensate="none")
    for layer in stored_layers(model):
        kernel = np.asarray(layer.kernel)
        steps = np.abs(kernel).max(axis=axes_of(layer), keepdims=True) / LEVELS
        layer.kernel.assign(np.rint(kernel / steps / 32).clip(-3, 3) * 32 * steps)
        largest = np.abs(kernel) == np.abs(kernel).max(axis=axes_of(layer), keepdims=True)
        layer.kernel.assign(np.where(largest, kernel, np.asarray(layer.kernel)))
    assert len(grids_of(model)) == 6
    before = mean_squared_error(model, validation)
    tuned, history = recover(model, train, validation, epochs=3, batch=32, learning_rate=1e-3)
    assert history.best_epoch > 0
    assert mean_squared_error(tuned, validation) < 0.8 * before
    assert len(grids_of(tuned)) == 6
    assert all(lies_on_grid(layer.kernel, axes_of(layer)) for layer in stored_layers(tuned))


def test_an_interrupted_training_on_grids_ends_with_the_same_bytes(
    train, validation, tmp_path, monkeypatch
):
    from secateur.training.trainer import Trainer

    keras.utils.set_random_seed(0)
    small = keras.Sequential([keras.Input((64,)), layers.Dense(8), layers.Dense(64)])
    model, _ = shrink(small, train, "quantize")
    options = {"epochs": 3, "batch": 100, "learning_rate": 1e-3, "patience": 4}
    monkeypatch.setattr("secateur.training.checkpoint.SECONDS_BETWEEN", 0.0)
    whole, _ = recover(model, train, validation, **options)
    run_epoch, done = Trainer.run_epoch, []

    def interrupted(self):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(1)
        return run_epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recover(model, train, validation, checkpoint=tmp_path / "c.npz", **options)
    resumed, _ = recover(model, train, validation, checkpoint=tmp_path / "c.npz", **options)
    assert all(map(np.array_equal, resumed.get_weights(), whole.get_weights()))


def test_no_grid_is_seen_where_there_is_none(trained, convolutions):
    assert grids_of(trained) == []
    assert grids_of(convolutions) == []
    keras.utils.set_random_seed(0)
    counted = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_initializer="ones")])
    counted.layers[0].kernel.assign(np.arange(12).reshape(4, 3))
    assert grids_of(counted) == []


def test_no_epochs_leave_a_model_as_it_is(trained, train, validation):
    same, history = recover(trained, train, validation, epochs=0)
    assert history.epochs == 0
    assert all(map(np.array_equal, same.get_weights(), trained.get_weights()))


def test_what_is_rounded_is_cut_by_nothing_that_leaves_its_grid(trained, train):
    model, _ = shrink(trained, train, "quantize")
    with pytest.raises(InputError, match="units cannot cut this model, whose weights lie on a"):
        shrink(model, train, "units", keep=0.5)
    same, report = shrink(model, train, "quantize", scheme="int16x8")
    assert all(map(np.array_equal, same.get_weights(), model.get_weights()))
    assert {entry["reason"] for entry in report.skipped} == {"it lies on the grid already"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "int4"}, "scheme must be one of float16, dynamic_int8, int16x8, int8, got"),
        ({"scheme": "float32"}, "scheme must be one of float16"),
        ({"compensate": "some"}, "compensate must be one of least_squares, bias, none"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make_method("quantize", options)


QUANTIZE = {"parent": "round_1", "method": "quantize", "options": {"scheme": "int8"}}


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"method": "units", "options": {"keep": 0.5}}, r"round_2 \(units\) cannot stand behind"),
        (
            {"method": "quantize", "options": {"scheme": "float16"}},
            "another scheme of int8 weights",
        ),
        ({"method": "quantize", "options": {"scheme": "int16x8"}}, None),
    ],
)
def test_ladders_end_with_quantize(after, message, trained, train):
    rounds = {
        "round_1": {**QUANTIZE, "parent": "baseline"},
        "round_2": {"parent": "round_1", **after},
    }
    if message is None:
        assert parse_settings({"rounds": rounds}).round("round_2").deploys_as == "int16x8"
        return
    with pytest.raises(InputError, match=message):
        parse_settings({"rounds": rounds})
    with pytest.raises(InputError, match=message):
        compress(trained, train, train, [{**QUANTIZE}, after])


def test_a_ladder_in_memory_judges_the_file(trained, train, validation):
    ladder = compress(
        trained,
        train,
        validation,
        [
            {"method": "units", "options": {"keep": 0.9}, "recovery": {"epochs": 0}},
            {"method": "quantize", "recovery": {"epochs": 0}},
        ],
        guard={"tolerance": 9.0},
    )
    units, quantize = ladder.rungs
    errors = row_errors_of_file(quantize.deployed, validation)
    rise = errors.mean() / row_errors(trained, validation).mean() - 1
    assert quantize.verdict.metrics["mse"].loss == pytest.approx(rise, rel=1e-9)
    assert units.deployed is None
    assert ladder.champion is quantize.model  # as many parameters, in fewer bytes


@pytest.fixture
def workspace(trained, train, validation, tmp_path, monkeypatch):
    """A prepared workspace with a baseline, for the stages behind it."""
    monkeypatch.chdir(tmp_path)
    for folder, rows in ((paths.TRAIN, train), (paths.VALIDATION, validation)):
        folder.mkdir(parents=True)
        np.save(folder / paths.ROWS, rows)
    paths.DESCRIPTION.mkdir()
    paths.write_json(paths.SCALING, {"kind": "none", "scale": [1.0] * 64, "offset": [0.0] * 64})
    model, history = recover(trained, train, validation, epochs=0)
    metrics = {"rung": "baseline", "state": "trained", "deployed": "float32", "validation_mse": {}}
    with paths.publishing(paths.rung_folder("baseline")) as folder:
        write_rung(folder, model, history, RoundReport(), metrics, validation)
    (paths.DECISIONS / "baseline").mkdir(parents=True)
    first = {"rung": "baseline", "accepted": True, "stopped": False, "cut_from": "baseline"}
    paths.write_json(paths.DECISIONS / "baseline" / paths.DECISION, first)
    paths.PLAN.parent.mkdir()
    paths.write_json(paths.PLAN, None)
    rounds = {
        "round_1": {"parent": "baseline", "options": {"keep": 0.9}, "recovery": {"epochs": 0}},
        "round_2": {**QUANTIZE, "recovery": {"epochs": 0}},
        "round_3": {**QUANTIZE, "parent": "round_2", "options": {"scheme": "int16x8"}},
    }
    settings = {"rounds": rounds, "guard": {"tolerance": 9.0}, "baseline": {"code": 8}}
    paths.SETTINGS.write_text(yaml.safe_dump(settings, sort_keys=False))
    return tmp_path


def test_the_stages_judge_and_bundle_one_and_the_same_file(workspace, validation):
    for rung in ("round_1", "round_2"):
        shrink_stage.run(rung)
        judge.run(rung)
    export.run("round_2")
    judged = paths.rung_folder("round_2") / paths.DEPLOYED / "int8.tflite"
    bundle = paths.EXPORTS / "round_2"
    assert (bundle / "int8.tflite").read_bytes() == judged.read_bytes()
    outputs = LiteRTModel(judged)(validation)
    errors = np.square(outputs.astype(np.float64) - validation).mean(axis=1)
    assert np.array_equal(np.load(paths.rung_folder("round_2") / paths.VALIDATION_ERRORS), errors)
    verdict = json.loads((paths.DECISIONS / "round_2" / paths.VERDICT).read_text())
    assert verdict["metrics"]["mse"]["candidate"] == pytest.approx(errors.mean(), rel=1e-12)
    costs = paths.read_json(bundle / paths.COSTS)
    assert costs["deployed_bytes"] == costs["int8_bytes"] == judged.stat().st_size
    assert paths.read_json(bundle / paths.METRICS)["deployed"] == "int8"
    assert sorted(file.stem for file in bundle.glob("*.tflite")) == ["float32", "int8"]
    # The weights of the rung's model are those of its file.
    model = load(paths.rung_folder("round_2") / paths.MODEL)
    stored = int8_kernels(judged)
    assert all(is_stored(layer.kernel, stored) for layer in model.layers[1:])
    # Behind a stop, the file is passed through.
    decision = paths.DECISIONS / "round_2" / paths.DECISION
    paths.write_json(decision, {**paths.read_json(decision), "accepted": True, "stopped": True})
    shrink_stage.run("round_3")
    passed = paths.rung_folder("round_3") / paths.DEPLOYED
    assert (passed / "int8.tflite").read_bytes() == judged.read_bytes()
    assert paths.read_json(paths.rung_folder("round_3") / paths.METRICS)["deployed"] == "int8"
    assert (passed / paths.SCHEME).read_text() == (judged.parent / paths.SCHEME).read_text()
    # Made again, the same bytes.
    before = judged.read_bytes()
    shutil.rmtree(paths.rung_folder("round_2"))
    shrink_stage.run("round_2")
    assert judged.read_bytes() == before


def test_shared_values_are_seen_on_grids_too():
    numbers = np.random.default_rng(0)
    values = numbers.choice([-1.0, 0.5, 2.0], (400, 40))
    on_grid = rounded(values * numbers.uniform(1, 2, 40))
    assert len(np.unique(on_grid)) == 120
    assert shared_values(on_grid, (0,)).max() == 119
    assert shared_values(rounded(numbers.normal(size=(400, 40))), (0,)) is None
