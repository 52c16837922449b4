"""Scores on test data: right numbers, honest controls, equal bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml
from sklearn.datasets import load_digits

from secateur import paths
from secateur.costs import costs
from secateur.evaluation import PCAControl, measure_errors, score
from secateur.saving import save
from tasks import champion, elect, evaluate, export, latency

DIGITS = (load_digits().data / 16).astype(np.float32)
TRAIN, TEST = DIGITS[:1000], DIGITS[1000:1300]
ANOMALIES = np.random.default_rng(0).random((50, 64), dtype=np.float32)


def half(rows: np.ndarray) -> np.ndarray:
    return rows / 2


def test_errors_are_each_rows_own():
    errors, files = measure_errors(half, TEST)
    np.testing.assert_allclose(errors, (TEST.astype(np.float64) ** 2).mean(axis=1) / 4)
    assert errors.dtype == np.float64
    assert files == {}


def test_file_is_scored_by_itself_and_held_against_its_model():
    _, files = measure_errors(half, TEST, {"file": lambda rows: rows / 2 + 0.25})
    expected = ((TEST / 2 - 0.25).astype(np.float64) ** 2).mean()
    assert files["file"].test_mse == pytest.approx(expected)
    assert files["file"].largest_deviation == 0.25


def test_rows_are_gone_through_in_batches():
    seen: list[int] = []

    def watched(rows: np.ndarray) -> np.ndarray:
        seen.append(len(rows))
        return rows

    errors, _ = measure_errors(watched, np.zeros((2500, 3), np.float32))
    assert seen == [1024, 1024, 452]
    assert errors.shape == (2500,)


def test_score_of_known_errors():
    errors = np.arange(101) / 100
    result = score(errors, None, data_range=2.0)
    assert result.test_mse == pytest.approx(0.5)
    assert result.psnr_db == pytest.approx(10 * np.log10(4 / 0.5))
    assert result.p99_error == pytest.approx(0.99)
    assert result.auc is None
    assert result.partial_auc is None


def test_auc_is_one_when_anomalies_lie_above_and_half_when_they_do_not_differ():
    errors = np.linspace(0, 1, 100)
    apart = score(errors, errors + 2, data_range=1.0)
    alike = score(errors, errors, data_range=1.0)
    assert (apart.auc, apart.partial_auc) == (1.0, 1.0)
    assert alike.auc == pytest.approx(0.5)
    assert alike.partial_auc == pytest.approx(0.5, abs=0.01)


def test_perfect_reconstruction_and_constant_data_have_no_psnr():
    assert score(np.zeros(3), None, data_range=1.0).psnr_db is None
    assert score(np.ones(3), None, data_range=0.0).psnr_db is None


def test_pca_costs_what_it_stores_and_multiplies():
    pca = PCAControl(TRAIN, 16)
    assert pca.parameters == 64 * 16 + 64
    assert pca.macs == 2 * 64 * 16
    assert pca.size_bytes == 4 * pca.parameters
    assert 0 < pca.gzip_bytes <= pca.size_bytes + 64


def test_pca_reconstructs_all_that_its_code_has_room_for():
    np.testing.assert_allclose(PCAControl(TRAIN, 64)(TEST), TEST, atol=1e-5)


def test_pca_is_the_best_linear_code_of_the_rows_it_saw():
    fitted = measure_errors(PCAControl(TRAIN, 16), TRAIN)[0].mean()
    centred = TRAIN - TRAIN.mean(axis=0, dtype=np.float64)
    spectrum = np.linalg.svd(centred, compute_uv=False) ** 2
    assert fitted == pytest.approx(spectrum[16:].sum() / TRAIN.size, rel=1e-4)


def test_pca_code_is_no_wider_than_the_rows_allow():
    assert PCAControl(TRAIN[:5], 16).code == 5


def autoencoder(width: int, seed: int) -> keras.Model:
    keras.utils.clear_session()  # names are numbered through a process, and are part of the files
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((64,))
    x = keras.layers.Dense(width, activation="relu")(inputs)
    x = keras.layers.Dense(8)(x)
    x = keras.layers.Dense(width, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(64)(x))


def build_workspace() -> None:
    """A ladder of untrained models in the current directory, ready to be exported."""
    rungs = {"baseline": (24, "baseline"), "round_1": (12, "accepted"), "round_2": (6, "rejected")}
    for folder, rows in (
        (paths.TRAIN, TRAIN),
        (paths.VALIDATION, TRAIN[:50]),
        (paths.TEST, TEST),
    ):
        folder.mkdir(parents=True)
        np.save(folder / paths.ROWS, rows)
    np.save(paths.TEST / paths.ANOMALIES, ANOMALIES)
    paths.DESCRIPTION.mkdir()
    counts = {"train": len(TRAIN), "validation": 50, "test": len(TEST)}
    schema = {"source": "digits", "path": None, "source_md5": "", "features": 64, "rows": counts}
    paths.write_json(paths.SCHEMA, {**schema, "scaled_range": [0.0, 1.0]})
    paths.write_json(paths.SCALING, {"kind": "none", "scale": [1.0] * 64, "offset": [0.0] * 64})
    for seed, (rung, (width, state)) in enumerate(rungs.items()):
        model, folder, decided = (
            autoencoder(width, seed),
            paths.MODELS / rung,
            paths.DECISIONS / rung,
        )
        decided.mkdir(parents=True)
        save(model, folder / paths.MODEL)
        paths.write_json(
            folder / paths.METRICS,
            {
                "costs": vars(costs(model)),
                "validation_mse": {"after_recovery": 0.1},
                "closeness": None,
                "deployed": "float32",
            },
        )
        paths.write_json(folder / paths.CUT, {"groups": [], "skipped": []})
        paths.write_json(decided / paths.DECISION, {"accepted": state != "rejected"})
        paths.write_json(decided / paths.VERDICT, {"state": state})
    save(autoencoder(12, seed=9), paths.CONTROLS / "round_1" / paths.MODEL)
    trained = {"state": "trained", "reason": None, "validation_mse": 0.2, "epochs": 3}
    skipped = {"state": "skipped", "reason": "off", "validation_mse": None, "epochs": None}
    (paths.CONTROLS / "round_2").mkdir()
    paths.write_json(paths.CONTROLS / "round_1" / paths.METRICS, trained)
    paths.write_json(paths.CONTROLS / "round_2" / paths.METRICS, skipped)
    settings = {
        "baseline": {"code": 8},
        "rounds": {
            "round_1": {"parent": "baseline", "options": {"keep": 0.5}},
            "round_2": {"parent": "round_1", "options": {"keep": 0.5}},
        },
        "export": {"calibration_rows": 100},
        "latency": {"runs": 20, "warm_up": 2},
    }
    paths.SETTINGS.write_text(yaml.safe_dump(settings, sort_keys=False))


def run_stages() -> None:
    for rung in ("baseline", "round_1", "round_2"):
        export.run(rung)
    elect.run()
    champion.run()
    evaluate.run()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        build_workspace()
        run_stages()
        latency.run()
    return folder


@pytest.fixture(scope="module")
def rows(workspace: Path) -> dict[str, dict[str, Any]]:
    written = json.loads((workspace / paths.EVALUATION / paths.RUNGS).read_text())
    return {row["name"]: row for row in written}


def test_bundle_holds_all_that_a_device_needs(workspace):
    bundle = workspace / paths.EXPORTS / "round_1"
    assert sorted(file.name for file in bundle.iterdir()) == [
        "costs.json",
        "cut.json",
        "float32.errors.npy",
        "float32.tflite",
        "int8.errors.npy",
        "int8.tflite",
        "metrics.json",
        "model.keras",
        "scaling.json",
    ]
    counted = json.loads((bundle / paths.COSTS).read_text())
    assert counted["keras_bytes"] == (bundle / paths.MODEL).stat().st_size
    assert counted["float32_bytes"] == (bundle / paths.FLOAT32).stat().st_size
    assert counted["int8_bytes"] == (bundle / paths.INT8).stat().st_size


def test_every_rung_and_control_has_a_row_and_a_skipped_one_has_none(rows):
    assert [(name, row["kind"], row["of"], row["state"]) for name, row in rows.items()] == [
        ("baseline", "baseline", None, "baseline"),
        ("round_1", "round", None, "accepted"),
        ("round_2", "round", None, "rejected"),
        ("round_1 from scratch", "scratch", "round_1", None),
        ("PCA 8", "pca", "baseline", None),
    ]
    assert [name for name, row in rows.items() if row["champion"]] == ["round_1"]


def test_rows_hold_the_same_fields(rows):
    fields = [set(row) for row in rows.values()]
    assert all(own == fields[0] for own in fields)


def test_ratios_are_to_the_baseline(rows):
    baseline, small = rows["baseline"], rows["round_1"]
    assert small["compression_ratio"] == baseline["parameters"] / small["parameters"]
    assert small["theoretical_speedup"] == baseline["macs"] / small["macs"]
    assert small["test_mse_ratio"] == small["test_mse"] / baseline["test_mse"]
    assert (baseline["compression_ratio"], baseline["test_mse_ratio"]) == (1, 1)


def test_control_has_the_costs_of_its_round(rows):
    counts = ("parameters", "macs", "nonzeros")
    scratch, of = rows["round_1 from scratch"], rows["round_1"]
    assert [scratch[count] for count in counts] == [64 * 12 * 2 + 12 * 8 * 2 + 96, 1728, 1728]
    assert [scratch[count] for count in counts[:2]] == [of[count] for count in counts[:2]]


def test_files_are_scored_on_the_test_rows(rows):
    for name in ("baseline", "round_1", "round_2"):
        float32, int8 = rows[name]["float32"], rows[name]["int8"]
        assert float32["test_mse"] == pytest.approx(rows[name]["test_mse"], rel=1e-5)
        assert float32["largest_deviation"] < 1e-5 < int8["largest_deviation"]
        assert int8["test_mse"] == pytest.approx(rows[name]["test_mse"], rel=0.05)
    assert rows["PCA 8"]["float32"] is None


def test_detection_is_scored_where_there_are_anomalies(rows):
    assert all(0 <= row["auc"] <= 1 and 0 <= row["partial_auc"] <= 1 for row in rows.values())


def test_metrics_table_is_flat_numbers(workspace):
    table = json.loads((workspace / paths.METRICS_TABLE).read_text())
    assert list(table) == ["baseline", "round_1", "round_2", "champion"]
    assert table["champion"] == table["round_1"]
    assert all(isinstance(value, int | float) for row in table.values() for value in row.values())


def test_reconstructions_show_original_baseline_and_champion(workspace):
    pictures = np.load(workspace / paths.EVALUATION / paths.RECONSTRUCTIONS)
    assert pictures.shape == (3, 16, 64)
    assert pictures.dtype == np.float32
    np.testing.assert_array_equal(pictures[0], TEST[:16])


def test_context_tells_seeds_versions_and_settings(workspace):
    context = json.loads((workspace / paths.EVALUATION / paths.CONTEXT).read_text())
    assert context["seeds"] == [0]
    assert {"tensorflow", "keras", "numpy", "scikit-learn", "secateur", "python"} <= set(
        context["versions"]
    )
    assert context["settings"]["baseline"]["code"] == 8


def test_latency_is_told_for_every_file(workspace):
    measured = json.loads((workspace / paths.LATENCY).read_text())
    assert (measured["threads"], measured["runs"], measured["warm_up"]) == (1, 20, 2)
    assert list(measured["rungs"]) == ["baseline", "round_1", "round_2"]
    for kinds in measured["rungs"].values():
        for latencies in kinds.values():
            assert 0 < latencies["q1_us"] <= latencies["median_us"] <= latencies["q3_us"]


def test_without_anomalies_there_is_no_auc(workspace, tmp_path, monkeypatch):
    shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (paths.TEST / paths.ANOMALIES).unlink()
    evaluate.run()
    written = paths.read_json(paths.EVALUATION / paths.RUNGS)
    assert [row["auc"] for row in written] == [None] * 5
