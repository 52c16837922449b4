"""The published model at work, from Python and from the command line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import secateur
from secateur import command, paths
from secateur.errors import InputError
from tests.published import FEATURES, VALIDATION, publish, raw

ROOT = Path(__file__).parent.parent
NAMES = ["flow", "heat", "load", "rpm", "time", "volt"]
ROWS = raw(VALIDATION)


@pytest.fixture(scope="module")
def unnamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("unnamed"))


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("named"), NAMES)


def frame() -> pd.DataFrame:
    """The rows with their columns in another order, and one more."""
    return pd.DataFrame(ROWS, columns=NAMES)[NAMES[::-1]].assign(note="x")


def score(*words: object) -> int:
    return command.main(["score", *map(str, words)])


@pytest.mark.parametrize("artifact", ["float32", "int8"])
def test_scores_are_the_errors_that_set_the_threshold(unnamed, artifact):
    scorer = secateur.Scorer(unnamed, artifact)
    errors, anomalies = scorer.score(ROWS)
    stored = np.load(unnamed / f"{artifact}.errors.npy")
    np.testing.assert_allclose(errors, stored, rtol=1e-5)
    assert scorer.threshold == np.sort(stored)[-6]
    # The row that set the threshold lies within rounding of it.
    assert int(anomalies.sum()) in (5, 6)
    assert errors.dtype == np.float64
    assert anomalies.dtype == bool


def test_batches_give_what_the_whole_gives(unnamed):
    scorer = secateur.Scorer(unnamed)
    whole = scorer.score(ROWS)
    parts = list(scorer.stream(np.split(ROWS, [1, 1, 40])))
    assert [len(part.anomaly) for part in parts] == [1, 0, 39, 61]
    errors = np.concatenate([part.reconstruction_error for part in parts])
    np.testing.assert_allclose(errors, whole.reconstruction_error, rtol=1e-5)


def test_pictures_are_rows_too(unnamed):
    scorer = secateur.Scorer(unnamed)
    np.testing.assert_array_equal(scorer.score(ROWS.reshape(-1, 2, 3))[0], scorer.score(ROWS)[0])


def test_the_threshold_is_whose_caller_names_it(unnamed):
    assert secateur.Scorer(unnamed, threshold=0.0).score(ROWS).anomaly.all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((3, 5)), r"the shape \(3, 5\); allowed: \(rows, 6\)"),
        (np.zeros(6), r"the shape \(6,\)"),
        (np.array([["a"] * 6]), "values of type <U1; allowed: real numbers"),
        (np.insert(np.zeros((2, 5)), 1, [0, np.nan], axis=1), "row 11 column 1 holds nan"),
        (np.full((1, 6), 1e300), "row 10 column 0 holds 1e"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(unnamed, rows, message):
    with pytest.raises(InputError, match=message):
        secateur.Scorer(unnamed).score(rows, first_row=10)


def test_a_stream_names_the_row_by_its_place_in_it(unnamed):
    bad = np.full((1, FEATURES), np.inf)
    with pytest.raises(InputError, match="row 101 column 0 holds inf"):
        list(secateur.Scorer(unnamed).stream([ROWS, bad]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"artifact": "int4"}, "no artifact 'int4'; it has float32, int8"),
        ({"threshold": -1.0}, "the threshold is -1.0; allowed: 0 or more"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_options_are_checked(unnamed, options, message):
    with pytest.raises(InputError, match=message):
        secateur.Scorer(unnamed, **options)


def test_a_folder_that_is_no_published_model_is_refused(unnamed, tmp_path, monkeypatch):
    monkeypatch.setattr("secateur.manifest._SECONDS_BETWEEN_TRIES", 0)
    with pytest.raises(InputError, match="there is no model at"):
        secateur.Scorer(tmp_path / "none")
    with pytest.raises(InputError, match=r"manifest\.md5 is not there"):
        secateur.Scorer(unnamed.parent / "exports" / "round_1")


@pytest.mark.parametrize("kind", ["npy", "csv", "parquet"])
@pytest.mark.parametrize("output", ["csv", "parquet"])
def test_files_in_and_out(named, tmp_path, kind, output, capsys):
    rows, scores = tmp_path / f"rows.{kind}", tmp_path / f"scores.{output}"
    if kind == "npy":
        np.save(rows, ROWS)
    elif kind == "csv":
        frame().to_csv(rows, index=False)
    else:
        frame().to_parquet(rows)
    assert score(rows, "-m", named, "-o", scores, "--batch", 7) == 0
    table = pd.read_csv(scores) if output == "csv" else pd.read_parquet(scores)
    expected = secateur.Scorer(named).score(ROWS)
    assert list(table) == ["reconstruction_error", "anomaly"]
    np.testing.assert_allclose(table["reconstruction_error"], expected[0], rtol=1e-5)
    assert table["anomaly"].dtype == (bool if output == "parquet" else np.int64)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([rows.name, scores.name])
    assert "101 rows, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xff\xfe", "is not CSV in UTF-8"),
        (b"1.5,2,3,4,5,6\n1,2,3,4,5,6\n", "the first line holds only numbers"),
        (b"flow,heat,load,rpm,volt\n", "lacks 1 of the model's 6 columns: 'time'"),
        (b"flow,heat,load,rpm,time,volt\n1,2,3,4,5\n", "row 0 has 5 cells"),
        (b"flow,heat,load,rpm,time,volt\n" + b"1,2,3,4,5,6\n" * 9 + b"1,2,3,x,5,6\n",
         "row 9 column 'rpm' holds text: 'x'"),
        (b"flow,heat,load,rpm,time,volt\n1,2,,4,5,6\n", "row 0 column 'load' holds nan"),
        (b"flow,heat,load,rpm,time,volt,flow\n", "more than one column 'flow'"),
    ],
)  # fmt: skip
def test_a_bad_file_ends_with_one_message_and_code_2(named, tmp_path, content, message, capsys):
    (tmp_path / "rows.csv").write_bytes(content)
    assert score(tmp_path / "rows.csv", "-m", named, "-o", tmp_path / "s.csv", "-b", 4) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("error: ")
    assert said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_bad_npy_and_parquet_files(unnamed, tmp_path, capsys):
    np.save(tmp_path / "wide.npy", np.zeros((2, 7)))
    np.save(tmp_path / "pickled.npy", np.array([[None]]), allow_pickle=True)
    frame().to_parquet(tmp_path / "text.parquet")
    (tmp_path / "rows.xls").touch()
    messages = {
        "wide.npy": "the shape (2, 7)",
        "pickled.npy": "cannot be read as .npy",
        "text.parquet": "has 7 columns; the model reads 6",
        "rows.xls": "unknown ending '.xls'",
        "none.npy": "is no file",
    }
    for name, message in messages.items():
        assert score(tmp_path / name, "-m", unnamed, "-o", tmp_path / "s.parquet") == 2
        assert message in capsys.readouterr().err
    assert score(tmp_path / "wide.npy", "-m", unnamed, "-o", tmp_path / "s.txt") == 2
    assert "unknown ending '.txt'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*s.*draft"))


def test_a_stream_is_answered_row_by_row_without_heavy_imports(named):
    """A row goes in and its score comes out before the next is written; no TensorFlow starts."""
    code = (
        "import sys; from secateur.command import main; code = main(sys.argv[1:]);"
        "heavy = {'tensorflow', 'keras', 'prefect', 'dvc', 'matplotlib'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else code)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "score", "-", "-m", str(named), "--batch", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines = frame().drop(columns="note").to_csv(index=False).splitlines()
    process.stdin.write(f"{lines[0]}\n".encode())
    answers = []
    for line in lines[1:4]:
        process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()
        answers += [process.stdout.readline() for _ in range(1 if answers else 2)]
    out, err = process.communicate()
    assert (process.returncode, out) == (0, b""), err
    table = pd.read_csv(io.BytesIO(b"".join(answers)))
    expected = secateur.Scorer(named).score(ROWS[:3])[0]
    np.testing.assert_allclose(table["reconstruction_error"], expected, rtol=1e-5)


def test_memory_does_not_grow_with_the_rows(unnamed, tmp_path):
    """Ten times the rows, 48 MB, in the same memory, to the page cache of a mapped file."""
    code = (
        "import resource, sys, numpy as np; from secateur.command import main;"
        "code = main(sys.argv[1:]);"
        "status = open('/proc/self/status').read();"
        "print(status.split('RssAnon:')[1].split()[0])"
    )
    peaks = []
    for count in (100_000, 1_000_000):
        np.save(tmp_path / "rows.npy", np.resize(ROWS, (count, FEATURES)))
        done = subprocess.run(
            [sys.executable, "-c", code, "score", str(tmp_path / "rows.npy"), "-m", str(unnamed),
             "-o", str(tmp_path / "scores.parquet")],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 20_000  # kB


def test_the_help_tells_the_ways_in(capsys):
    with pytest.raises(SystemExit):
        score("--help")
    text = capsys.readouterr().out
    assert str(paths.CHAMPION) in text
    assert "Exit codes" in text
