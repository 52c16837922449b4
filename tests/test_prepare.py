from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from secateur import paths
from secateur.errors import InputError
from secateur.sources.prepared import load_anomalies, load_rows
from tasks import prepare

ROOT = Path(__file__).parents[1]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configure(batch: int = 4, **data) -> None:
    baseline = {"training": {"batch": batch}}
    settings = {"seed": 0, "data": data, "baseline": baseline, "rounds": {}}
    paths.SETTINGS.write_text(yaml.safe_dump(settings))


def write_table(rows: int = 100, anomalies: int = 10) -> None:
    """`table.csv`: a varies, same does not, y marks the first few."""
    lines = [f"{row},7,{int(row < anomalies)}" for row in range(rows)]
    Path("table.csv").write_text("\n".join(["a,same,y", *lines, ""]))


def prepared_files() -> dict[str, bytes]:
    return {
        path.relative_to(paths.PREPARED).as_posix(): path.read_bytes()
        for path in sorted(paths.PREPARED.rglob("*"))
        if path.is_file()
    }


def test_digits_become_these_files(workspace):
    configure(source="digits")
    prepare.run()
    assert list(prepared_files()) == [
        "description/scaling.json",
        "description/schema.json",
        "test/rows.npy",
        "train/rows.npy",
        "validation/rows.npy",
    ]
    schema = json.loads(paths.SCHEMA.read_text())
    assert len(schema.pop("source_md5")) == 32
    assert schema == {
        "source": "digits",
        "path": None,
        "files": [],
        "features": 64,
        "feature_names": None,
        "image_shape": [8, 8],
        "scaling": "minmax",
        "scaled_range": [0.0, 1.0],
        "rows": {"train": 1257, "validation": 270, "test": 270},
        "anomalies": {"validation": 0, "test": 0},
        "constant_columns": [0, 32, 39],
    }
    rows = load_rows(paths.TRAIN)
    assert isinstance(rows, np.memmap)
    assert rows.shape == (1257, 64)
    assert rows.dtype == np.float32
    assert load_anomalies(paths.TEST) is None


def test_a_table_with_labels(workspace, caplog):
    write_table()
    configure(source="file", path="table.csv", label="y", validation=0.2, test=0.2)
    with caplog.at_level(logging.INFO):
        prepare.run()
    schema = json.loads(paths.SCHEMA.read_text())
    assert schema["rows"] == {"train": 54, "validation": 18, "test": 18}
    assert schema["anomalies"] == {"validation": 5, "test": 5}
    assert schema["feature_names"] == ["a", "same"]
    assert schema["path"] == "table.csv"
    assert schema["constant_columns"] == [1]
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["1 constant in the training rows: column 'same'"]
    assert load_anomalies(paths.TRAIN) is None
    scaling = json.loads(paths.SCALING.read_text())
    anomalies = [load_anomalies(folder) for folder in (paths.VALIDATION, paths.TEST)]
    raw = (np.concatenate(anomalies) - scaling["offset"]) / scaling["scale"]
    assert sorted(np.rint(raw[:, 0]).tolist()) == list(range(10))


def test_equal_data_and_seed_give_equal_bytes(workspace):
    write_table()
    configure(source="file", path="table.csv", label="y", scaling="standard")
    prepare.run()
    first = prepared_files()
    prepare.run()
    assert prepared_files() == first
    assert len(first) == 7


def test_anomalies_of_an_earlier_run_do_not_stay(workspace):
    write_table()
    configure(source="file", path="table.csv", label="y")
    prepare.run()
    assert load_anomalies(paths.TEST) is not None
    configure(source="file", path="table.csv")
    prepare.run()
    assert load_anomalies(paths.TEST) is None
    assert load_anomalies(paths.VALIDATION) is None


def test_fewer_rows_than_a_batch_are_refused(workspace):
    write_table(rows=20, anomalies=0)
    configure(batch=15, source="file", path="table.csv")
    with pytest.raises(InputError, match=r"^14 rows to train on are fewer than a batch.*got 15$"):
        prepare.run()
    assert prepared_files() == {}
    configure(batch=14, source="file", path="table.csv")
    prepare.run()


def test_bad_data_leaves_what_was_prepared(workspace):
    write_table()
    configure(source="file", path="table.csv")
    prepare.run()
    before = prepared_files()
    Path("table.csv").write_text("a\n1\nnan\n")
    with pytest.raises(InputError):
        prepare.run()
    assert prepared_files() == before


@pytest.mark.parametrize(("anomalies", "word"), [(1, "no AUC"), (60, "is 1 = anomaly")])
def test_odd_numbers_of_anomalies_are_remarked_on(workspace, caplog, anomalies, word):
    write_table(anomalies=anomalies)
    configure(source="file", path="table.csv", label="y")
    prepare.run()
    assert word in caplog.text


def test_what_is_not_prepared_says_so(workspace):
    with pytest.raises(InputError, match="the stage prepare writes it"):
        load_rows(paths.TRAIN)


def test_the_command_ends_with_one_line_and_code_2(workspace):
    write_table()
    with Path("table.csv").open("a") as file:
        file.write("101,seven,0\n")
    configure(source="file", path="table.csv", label="y")
    python_path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    ended = subprocess.run(
        [sys.executable, "-m", "tasks.prepare"],
        env={**os.environ, "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "error: table.csv: column 'same' holds text: 'seven' in row 100 (the first row is 0); "
        "allowed: numbers"
    ]
    assert ended.stdout == ""
    assert not paths.PREPARED.exists()
