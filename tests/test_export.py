"""LiteRT files compute what Keras computes, and their bytes depend on nothing else."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from secateur.errors import InputError
from secateur.export import (
    calibration_sample,
    export_float32,
    export_int8,
    float_operations,
    largest_deviation,
)
from secateur.latency import measure_latency
from secateur.litert import LiteRTModel, run_litert
from secateur.metrics import reconstruct

ROWS = (load_digits().data / 16).astype(np.float32)


def dense_autoencoder() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    x = keras.layers.Dense(24, activation="relu")(inputs)
    x = keras.layers.Dense(8)(x)
    x = keras.layers.Dense(24, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(64, activation="sigmoid")(x))


def with_operation(operation: type[keras.layers.Layer]) -> keras.Model:
    inputs = keras.Input((64,))
    return keras.Model(inputs, operation()(keras.layers.Dense(64)(inputs)))


class InverseErrorFunction(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.erfinv(inputs)


class Negation(keras.layers.Layer):
    def call(self, inputs):
        return -inputs


class SpelledOutBatch(keras.layers.Layer):
    """A graph that only runs with the batch size it was traced with."""

    def call(self, inputs):
        rows = inputs.shape[0] or 1
        return keras.ops.reshape(keras.ops.reshape(inputs, (rows, 8, 8)), (rows, 64))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return dense_autoencoder()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    export_float32(model, folder / "float32.tflite", ROWS[:64])
    export_int8(model, folder / "int8.tflite", ROWS[:256])
    return {kind: folder / f"{kind}.tflite" for kind in ("float32", "int8")}


def test_float32_agrees_with_keras_on_every_row(model, files):
    deviation = largest_deviation(run_litert(files["float32"], ROWS), reconstruct(model, ROWS))
    assert deviation <= 1e-5


def test_int8_agrees_with_keras_to_a_few_steps(model, files):
    deviation = largest_deviation(run_litert(files["int8"], ROWS), reconstruct(model, ROWS))
    assert deviation <= 8 / 255


def test_export_returns_the_deviation_on_its_sample(model, tmp_path):
    path = tmp_path / "int8.tflite"
    returned = export_int8(model, path, ROWS[:256])
    expected = reconstruct(model, ROWS[:256])
    assert returned == largest_deviation(run_litert(path, ROWS[:256]), expected)


@pytest.mark.parametrize(("kind", "number"), [("float32", np.float32), ("int8", np.int8)])
def test_input_and_output_are_one_row_of_the_files_own_numbers(files, kind, number):
    interpreter = LiteRTModel(files[kind])._interpreter
    for details in (interpreter.get_input_details()[0], interpreter.get_output_details()[0]):
        assert details["dtype"] is number
        assert details["shape"].tolist() == [1, 64]


def test_int8_file_is_smaller(files):
    assert files["int8"].stat().st_size < files["float32"].stat().st_size


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_rows_together_give_what_they_give_alone(files, kind):
    together = run_litert(files[kind], ROWS[:100])
    one_by_one = LiteRTModel(files[kind])
    alone = np.concatenate([one_by_one(row[np.newaxis]) for row in ROWS[:100]])
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_graph_that_spells_the_batch_size_out_runs_row_by_row(tmp_path):
    model = with_operation(SpelledOutBatch)
    export_float32(model, tmp_path / "model.tflite", ROWS[:8])
    outputs = run_litert(tmp_path / "model.tflite", ROWS[:40])
    np.testing.assert_allclose(outputs, reconstruct(model, ROWS[:40]), atol=1e-5)


@pytest.mark.parametrize("export", [export_float32, export_int8])
def test_operation_that_litert_lacks_is_refused_by_name(export, tmp_path):
    with pytest.raises(InputError, match="LiteRT has no operation Erfinv"):
        export(with_operation(InverseErrorFunction), tmp_path / "model.tflite", ROWS[:8])
    assert list(tmp_path.iterdir()) == []


def test_int8_file_says_what_it_computes_in_float(files, tmp_path, caplog):
    export_int8(with_operation(Negation), tmp_path / "model.tflite", ROWS[:8])
    assert "no integer form of NEG" in caplog.text
    assert float_operations(files["int8"]) == []
    assert float_operations(files["float32"]) == ["FULLY_CONNECTED", "LOGISTIC"]


def test_file_that_computes_something_else_never_appears(model, tmp_path, monkeypatch):
    monkeypatch.setattr("secateur.export.run_litert", lambda path, rows: rows + 1)
    with pytest.raises(RuntimeError, match="does not compute what Keras computes"):
        export_float32(model, tmp_path / "model.tflite", ROWS[:8])
    assert list(tmp_path.iterdir()) == []


def test_other_suffix_is_refused(model, tmp_path):
    with pytest.raises(InputError, match=r"must end in \.tflite"):
        export_float32(model, tmp_path / "model.bin", ROWS[:8])


def test_open_input_shape_is_refused(tmp_path):
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, keras.layers.Dense(4)(inputs))
    with pytest.raises(InputError, match="fixed shape"):
        export_float32(model, tmp_path / "model.tflite", np.zeros((1, 3, 4), np.float32))


def test_calibration_sample_is_spread_over_all_rows():
    rows = np.arange(101)[:, np.newaxis]
    assert calibration_sample(rows, 5).ravel().tolist() == [0, 25, 50, 75, 100]
    assert calibration_sample(rows, 1000).ravel().tolist() == list(range(101))


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_latency_quartiles_are_in_order(files, kind):
    latency = measure_latency(files[kind], runs=50, warm_up=2)
    assert 0 < latency.q1_us <= latency.median_us <= latency.q3_us
