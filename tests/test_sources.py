from __future__ import annotations

import gzip
import hashlib
import struct
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from secateur.errors import InputError
from secateur.settings import DataSettings
from secateur.sources import fashion_mnist, source
from secateur.sources.reading import read_source
from secateur.sources.scaling import fit_scaling
from secateur.sources.source import Selection, Source
from secateur.sources.splitting import split
from secateur.sources.writing import write_rows

ROWS = np.array([[0.5, 1.0], [1.5, 2.0], [2.5, 4.0], [3.5, 8.0]])
LABELS = np.array([0, 0, 1, 0])


def read(path: Path, label: str | None = None) -> Source:
    return read_source(DataSettings(source="file", path=path, label=label))


def as_source(rows: np.ndarray, **known) -> Source:
    return Source(name="file", origin="here", rows=rows, md5="", **known)


def whole(rows: np.ndarray) -> Selection:
    return Selection(rows, np.arange(len(rows)))


# Sources


def test_digits_are_the_embedded_default():
    digits = read_source(DataSettings())
    assert digits.rows.shape == (1797, 64)
    assert digits.image_shape == (8, 8)
    assert (digits.rows.min(), digits.rows.max()) == (0, 16)
    assert digits.md5 == hashlib.md5(digits.rows.tobytes()).hexdigest()


def test_every_kind_of_file_gives_the_same_rows_and_labels(tmp_path):
    table = pd.DataFrame({"a": ROWS[:, 0], "b": ROWS[:, 1], "y": LABELS})
    table.to_csv(tmp_path / "table.csv", index=False)
    table.to_parquet(tmp_path / "table.parquet")
    np.savez(tmp_path / "table.npz", X=ROWS, y=LABELS)
    for name in ("table.csv", "table.parquet", "table.npz"):
        found = read(tmp_path / name, label="y")
        np.testing.assert_array_equal(found.rows, ROWS)
        assert found.labels.tolist() == [False, False, True, False]
        assert found.path == (tmp_path / name).as_posix()
        assert found.md5 == hashlib.md5((tmp_path / name).read_bytes()).hexdigest()
    assert read(tmp_path / "table.csv", label="y").feature_names == ("a", "b")
    assert read(tmp_path / "table.csv").feature_names == ("a", "b", "y")


def test_an_npy_file_is_memory_mapped(tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    assert isinstance(read(tmp_path / "rows.npy").rows, np.memmap)


def test_three_dimensions_are_pictures(tmp_path):
    np.save(tmp_path / "pictures.npy", np.zeros((5, 2, 3), np.uint8))
    pictures = read(tmp_path / "pictures.npy")
    assert pictures.image_shape == (2, 3)
    assert pictures.features == 6


def test_four_dimensions_are_pictures_with_channels(tmp_path):
    np.save(tmp_path / "pictures.npy", np.zeros((5, 2, 4, 3), np.uint8))
    pictures = read(tmp_path / "pictures.npy")
    assert pictures.image_shape == (2, 4, 3)
    assert pictures.features == 24
    assert pictures.column(17) == "pixel (1, 1, 2)"


def test_an_archives_only_array_needs_no_name(tmp_path):
    np.savez(tmp_path / "rows.npz", anything=ROWS, y=LABELS)
    assert read(tmp_path / "rows.npz", label="y").rows.shape == (4, 2)


def test_an_unused_array_is_named(tmp_path, caplog):
    np.savez(tmp_path / "rows.npz", X=ROWS, y=LABELS)
    assert read(tmp_path / "rows.npz").labels is None
    assert "'y' not used" in caplog.text


def test_true_and_false_are_numbers_and_labels(tmp_path):
    table = pa.table({"on": [True, False], "bad": [False, True]})
    pa.parquet.write_table(table, tmp_path / "flags.parquet")
    flags = read(tmp_path / "flags.parquet", label="bad")
    assert flags.rows.tolist() == [[1.0], [0.0]]
    assert flags.labels.tolist() == [False, True]


def test_an_index_that_pandas_stored_is_no_feature(tmp_path):
    pd.DataFrame({"a": [1.0, 2.0]}, index=["u", "v"]).to_parquet(tmp_path / "indexed.parquet")
    assert read(tmp_path / "indexed.parquet").feature_names == ("a",)


def test_a_csv_may_name_its_columns_by_number(tmp_path):
    pd.DataFrame(ROWS).to_csv(tmp_path / "pixels.csv", index=False)
    assert read(tmp_path / "pixels.csv").rows.shape == (4, 2)


# Bad files


def saved(array):
    return lambda path: np.save(path, array)


def archive(**arrays):
    return lambda path: np.savez(path, **arrays)


def table(*columns, names):
    return lambda path: pa.parquet.write_table(pa.table(list(columns), names=list(names)), path)


def zipped(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("X", "text")


def cut_short(path):
    np.save(path, ROWS)
    path.write_bytes(path.read_bytes()[:-8])


BAD = {
    "npy NaN": ("a.npy", saved([[1, np.nan], [np.inf, 4]]), None,
                "1 NaN or empty and 1 infinite values: row 0 column 1, row 1 column 0"),
    "npy many NaN": ("a.npy", saved(np.full((9, 1), np.nan)), None,
                     "row 4 column 0 and 4 more"),
    "npy no rows": ("a.npy", saved(np.zeros((0, 3))), None, "no rows"),
    "npy no columns": ("a.npy", saved(np.zeros((3, 0))), None, "no columns"),
    "npy 1-D": ("a.npy", saved(ROWS[0]), None, r"shape (2,); allowed: (rows, features)"),
    "npy scalar": ("a.npy", saved(np.float32(1)), None, "shape ()"),
    "npy 5-D": ("a.npy", saved(np.zeros((2, 2, 2, 1, 1))), None, "shape (2, 2, 2, 1, 1)"),
    "npy objects": ("a.npy", saved(np.array([[1, None]], object)), None, "Python objects"),
    "npy text": ("a.npy", saved(np.array([["1", "b"]])), None, "text, first 'b' at (0, 1)"),
    "npy dates": ("a.npy", saved(np.zeros((2, 2), "M8[s]")), None, "datetime64[s]"),
    "npy complex": ("a.npy", saved(ROWS * 1j), None, "complex128; allowed: real numbers"),
    "npy records": ("a.npy", saved(np.zeros(3, "i4,f4")), None, "real numbers"),
    "npy cut short": ("a.npy", cut_short, None, "cannot be read as .npy"),
    "npy not one": ("a.npy", b"hello, world", None, "cannot be read as .npy"),
    "npy label": ("a.npy", saved(ROWS), "y", "cannot hold labels"),
    "npz objects": ("a.npz", archive(X=np.array([[1, None]], object)), None,
                    "Object arrays cannot be loaded"),
    "npz not one": ("a.npz", b"hello, world", None, "not a zip archive"),
    "npz other files": ("a.npz", zipped, None, "not an array"),
    "npz which": ("a.npz", archive(a=ROWS, b=ROWS), None, "its arrays are 'a', 'b'"),
    "npz nothing": ("a.npz", archive(), None, "its arrays are none"),
    "npz no label": ("a.npz", archive(X=ROWS), "y", "no array 'y' (data.label)"),
    "npz labels only": ("a.npz", archive(y=LABELS), "y", "beside the labels"),
    "npz label lengths": ("a.npz", archive(X=ROWS, y=[0, 1]), "y", "4 rows and 2 labels"),
    "npz label shape": ("a.npz", archive(X=ROWS, y=ROWS), "y", "one label a row"),
    "npz label values": ("a.npz", archive(X=ROWS, y=[0, 1, -1, -1]), "y", "-1 (2 times)"),
    "npz label text": ("a.npz", archive(X=ROWS, y=["n", "n", "n", "a"]), "y", "'n' (3 times)"),
    "npz all anomalies": ("a.npz", archive(X=ROWS, y=[1, 1, 1, 1]), "y", "all 4 rows"),
    "csv empty": ("a.csv", b"", None, "is empty"),
    "csv blank": ("a.csv", b"\n\n", None, "no rows"),
    "csv no rows": ("a.csv", b"a,b\n", None, "no rows"),
    "csv header only": ("a.csv", b"a,b", None, "no rows"),
    "csv empty cell": ("a.csv", b"a,b\n1,2\n,4\n", None, "row 1 column 'a'"),
    "csv infinity": ("a.csv", b"a,b\n1,2\n3,-inf\n", None, "1 infinite values: row 1 column 'b'"),
    "csv text": ("a.csv", b"a,b\n1,2\n3,4\n5,six\n", None, "column 'b' holds text: 'six' in row 2"),
    "csv dates": ("a.csv", b"a,b\n1,2026-01-01\n", None, "column 'b' holds values of type date32"),
    "csv short row": ("a.csv", b"a,b\n1,2\n\n3\n", None, "line 4 has 1 cells"),
    "csv long row": ("a.csv", b"a,b\n1,2,3\n", None, "line 2 has 3 cells"),
    "csv twice": ("a.csv", b"a,b,a\n1,2,3\n", None, "more than one column 'a'"),
    "csv no name": ("a.csv", b",b\n0,2\n", None, "column 0 of"),
    "csv no header": ("a.csv", b"1.5,2\n3,4\n", None, "must name the columns"),
    "csv semicolons": ("a.csv", b"a;b\n1;2\n", None, "allowed: commas"),
    "csv latin-1": ("a.csv", b"a,\xe9\n1,2\n", None, "not UTF-8"),
    "csv utf-16": ("a.csv", "a,b\n1,2\n".encode("utf-16"), None, "not UTF-8"),
    "csv no label": ("a.csv", b"a,b\n1,2\n", "y", "its columns are 'a', 'b'"),
    "csv label values": ("a.csv", b"a,y\n1,0\n2,2\n", "y", "2.0 (1 times)"),
    "csv label empty": ("a.csv", b"a,y\n1,0\n2,\n", "y", "nan (1 times)"),
    "csv label only": ("a.csv", b"y\n0\n1\n", "y", "no columns"),
    "parquet not one": ("a.parquet", b"PAR1, almost", None, "cannot be read as .parquet"),
    "parquet text": ("a.parquet", table([1, 2], ["x", "y"], names="ab"), None,
                     "column 'b' holds text: 'x' in row 0"),
    "parquet lists": ("a.parquet", table([[1], [2]], names="a"), None, "type list"),
    "parquet missing": ("a.parquet", table([1.0, None], names="a"), None, "1 NaN or empty"),
    "parquet twice": ("a.parquet", table([1], [2], names="aa"), None, "more than one column 'a'"),
    "parquet label": ("a.parquet", table([1, 2], ["0", "1"], names="ay"), "y", "'0' (1 times)"),
    "unknown ending": ("a.xlsx", b"x", None, "allowed: .npy, .npz, .csv, .parquet"),
    "no ending": ("a", b"x", None, "unknown ending ''"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "label", "message"), BAD.values(), ids=BAD)
def test_bad_data_is_one_clear_message(tmp_path, name, content, label, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    with pytest.raises(InputError) as caught:
        read(path, label)
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.csv does not exist"):
        read(tmp_path / "nothing.csv")


def test_a_folder_is_its_files_one_below_the_other(tmp_path):
    (tmp_path / "day_2.csv").write_text("a,y\n3,1\n4,0\n")
    (tmp_path / "day_1.csv").write_text("a,y\n1,0\n")
    (tmp_path / "README.md").write_text("about")
    source = read(tmp_path, "y")
    assert source.rows.tolist() == [[1], [3], [4]]
    assert source.labels is not None
    assert source.labels.tolist() == [False, True, False]
    assert [(file.name, file.rows) for file in source.files] == [("day_1.csv", 1), ("day_2.csv", 2)]
    assert source.path == tmp_path.as_posix()
    before = source.md5
    (tmp_path / "day_3.csv").write_text("a,y\n5,0\n")
    after = read(tmp_path, "y")
    assert len(after.rows) == 4
    assert after.md5 != before
    assert after.files[:2] == source.files


def test_files_of_a_folder_hold_the_same_columns(tmp_path):
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_text("b,a\n1,2\n")
    with pytest.raises(InputError, match=r"2\.csv has 'b', 'a', .*1\.csv 'a', 'b'"):
        read(tmp_path)


def test_a_folder_without_usable_files_is_answered_with_what_it_holds(tmp_path):
    with pytest.raises(InputError, match="holds nothing; allowed: files of the kind"):
        read(tmp_path)
    (tmp_path / "mine.xls").write_text("a")
    with pytest.raises(InputError, match=r"holds mine\.xls; allowed"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
def test_a_source_without_labels_refuses_one(name):
    with pytest.raises(InputError, match="has no labels"):
        read_source(DataSettings(source=name, label="y"))


# Fashion-MNIST


def put_pictures(folder: Path, train: int = 6, test: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in ((fashion_mnist.TRAIN_FILE, train), (fashion_mnist.TEST_FILE, test)):
        pixels = np.arange(count * 4, dtype=np.uint8).tobytes()
        header = struct.pack(">4I", fashion_mnist.IDX_IMAGES, count, 2, 2)
        (folder / name).write_bytes(gzip.compress(header + pixels))


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The three folders that Fashion-MNIST is looked for in, and a Keras that cannot fetch."""

    def fail():
        raise Exception("URL fetch failure\non a long address")

    absent = types.SimpleNamespace(fashion_mnist=types.SimpleNamespace(load_data=fail))
    monkeypatch.setitem(sys.modules, "keras", types.SimpleNamespace(datasets=absent))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "given", tmp_path / "debian", tmp_path / "keras/datasets/fashion-mnist"


def read_fashion(folder: Path) -> Source:
    return read_source(DataSettings(source="fashion-mnist", path=folder))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_fashion_mnist_is_found_in_each_place(places, place):
    put_pictures(places[place])
    found = read_fashion(places[0])
    assert found.rows.shape == (6, 2, 2)
    assert found.test_rows.shape == (3, 2, 2)
    assert found.rows[1].tolist() == [[4, 5], [6, 7]]
    assert found.image_shape == (2, 2)
    assert found.origin == str(places[place])


def test_the_given_folder_comes_first(places):
    for place, count in zip(places, (4, 5, 6), strict=True):
        put_pictures(place, train=count)
    assert len(read_fashion(places[0]).rows) == 4


def test_where_fashion_mnist_was_found_does_not_change_its_md5(places):
    put_pictures(places[1])
    md5 = read_fashion(places[0]).md5
    put_pictures(places[0])
    assert read_fashion(places[0]).md5 == md5


def test_fashion_mnist_nowhere_says_how_to_get_it(places):
    with pytest.raises(InputError) as caught:
        read_fashion(places[0])
    message = str(caught.value)
    assert all(str(place) in message for place in places)
    assert "URL fetch failure on a long address" in message
    assert "dataset-fashion-mnist" in message
    assert "data.path" in message


@pytest.mark.parametrize(
    "content",
    [
        b"not gzip",
        b"",
        gzip.compress(b"short"),
        gzip.compress(struct.pack(">4I", 0x0801, 6, 2, 2) + bytes(24)),
        gzip.compress(struct.pack(">4I", 0x0803, 6, 2, 2) + bytes(23)),
        gzip.compress(struct.pack(">4I", 0x0803, 6, 2, 2) + bytes(24))[:-9],
        gzip.compress(struct.pack(">4I", 0x0803, 0, 2, 2)),
        gzip.compress(struct.pack(">4I", 0x0803, 6, 1, 4) + bytes(24)),
    ],
    ids=["not gzip", "empty", "short", "labels", "truncated", "cut gzip", "no rows", "other size"],
)
@pytest.mark.parametrize("name", [fashion_mnist.TRAIN_FILE, fashion_mnist.TEST_FILE])
def test_a_broken_picture_file_is_named(places, name, content):
    put_pictures(places[0])
    (places[0] / name).write_bytes(content)
    with pytest.raises(InputError, match="given"):
        read_fashion(places[0])


# Splitting


def test_rows_are_dealt_once_each():
    splits = split(as_source(np.arange(200.0).reshape(100, 2)), 0.2, 0.1, seed=0)
    parts = [splits.train.indices, splits.validation.indices, splits.test.indices]
    assert [len(part) for part in parts] == [70, 20, 10]
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    assert splits.validation_anomalies is None
    assert splits.test_anomalies is None


def test_anomalies_never_enter_training():
    labels = np.arange(100) % 4 == 0
    splits = split(as_source(np.zeros((100, 2)), labels=labels), 0.4, 0.2, seed=0)
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [30, 30, 15]
    for part in (splits.train, splits.validation, splits.test):
        assert not labels[part.indices].any()
    assert len(splits.validation_anomalies) == 17  # of 25, as 2 to 1
    assert len(splits.test_anomalies) == 8
    dealt = [*splits.validation_anomalies.indices, *splits.test_anomalies.indices]
    assert sorted(dealt) == np.flatnonzero(labels).tolist()


def test_the_seed_deals():
    rows = as_source(np.zeros((100, 2)))
    first, again, other = (split(rows, 0.2, 0.1, seed).train.indices for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_a_sources_own_test_rows_stay():
    own = np.ones((7, 2))
    splits = split(as_source(np.zeros((100, 2)), test_rows=own), 0.15, 0.15, seed=0)
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [85, 15, 7]
    assert splits.test.rows is own
    assert splits.test.indices.tolist() == list(range(7))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_rows_to_split_are_refused(count):
    with pytest.raises(InputError, match=f"^{count} normal rows in here are too few"):
        split(as_source(np.zeros((count, 2))), 0.15, 0.15, seed=0)


def test_a_single_anomaly_is_kept():
    labels = np.arange(50) == 3
    splits = split(as_source(np.zeros((50, 2)), labels=labels), 0.2, 0.2, seed=0)
    assert len(splits.validation_anomalies) + len(splits.test_anomalies) == 1


# Scaling

RANDOM = np.random.default_rng(0).normal(5, 3, (500, 4))


@pytest.mark.parametrize(
    ("kind", "scaler"), [("minmax", MinMaxScaler()), ("standard", StandardScaler())]
)
def test_the_stored_numbers_are_scikit_learns(kind, scaler):
    scaling, constant = fit_scaling(as_source(RANDOM), whole(RANDOM), kind)
    stored = scaling.as_json()
    scaled = RANDOM * stored["scale"] + stored["offset"]
    np.testing.assert_allclose(scaled, scaler.fit_transform(RANDOM), atol=1e-12)
    assert stored["kind"] == kind
    assert constant == []


def test_none_changes_nothing():
    scaling, _ = fit_scaling(as_source(RANDOM), whole(RANDOM), "none")
    np.testing.assert_array_equal(scaling.apply(RANDOM), RANDOM.astype(np.float32))


def test_scaling_is_learnt_from_training_rows_alone():
    rows = np.array([[0.0], [2.0], [100.0]])
    scaling, _ = fit_scaling(as_source(rows), Selection(rows, np.array([0, 1])), "minmax")
    assert scaling.apply(rows).tolist() == [[0.0], [1.0], [50.0]]


def test_pictures_share_one_range():
    pictures = np.zeros((3, 2, 2), np.uint8)
    pictures[1, 0, 0], pictures[2, 0, 1] = 255, 1  # the rest is dark
    found = as_source(pictures, image_shape=(2, 2))
    scaling, constant = fit_scaling(found, whole(pictures), "minmax")
    assert set(scaling.scale) == {1 / 255}
    assert set(scaling.offset) == {0.0}
    assert constant == [2, 3]


@pytest.mark.parametrize("kind", ["minmax", "standard"])
def test_a_constant_column_becomes_zero(kind):
    rows = np.array([[7.0, 1.0], [7.0, 2.0]])
    scaling, constant = fit_scaling(as_source(rows), whole(rows), kind)
    assert constant == [0]
    assert scaling.apply(rows)[:, 0].tolist() == [0.0, 0.0]
    assert scaling.scale[0] == 1.0


def test_a_column_that_float32_cannot_tell_apart_is_constant():
    rows = np.array([[1e9, 1.0], [1e9 + 1, 2.0]])
    assert fit_scaling(as_source(rows), whole(rows), "none")[1] == [0]
    assert fit_scaling(as_source(rows), whole(rows), "minmax")[1] == []


def test_nothing_that_varies_is_refused():
    rows = np.ones((5, 3))
    with pytest.raises(InputError, match="every column of here is constant"):
        fit_scaling(as_source(rows), whole(rows), "minmax")


@pytest.mark.parametrize("kind", ["minmax", "standard"])
def test_a_range_beyond_float64_is_refused(kind):
    rows = np.array([[1.0, -1.7e308], [2.0, 1.7e308]])
    with pytest.raises(InputError, match=r"column 1 spans -1\.7e"):
        fit_scaling(as_source(rows), whole(rows), kind)


# Writing


def test_a_value_beyond_float32_is_refused(tmp_path):
    rows = np.array([[1.0, 2.0], [2.0, 1e39], [3.0, 4.0]])
    found = as_source(rows)
    scaling, _ = fit_scaling(found, Selection(rows, np.array([0, 2])), "minmax")
    with pytest.raises(InputError, match="column 1 holds 1e"):
        write_rows(tmp_path / "rows.npy", found, whole(rows), scaling)


@pytest.mark.parametrize("order", ["C", "F"])
def test_blocks_do_not_show(tmp_path, monkeypatch, order):
    rows = np.asarray(RANDOM.reshape(500, 2, 2), order=order)
    found = as_source(rows, image_shape=(2, 2))
    splits = split(found, 0.2, 0.2, seed=0)

    def write(name: str) -> bytes:
        scaling, _ = fit_scaling(found, splits.train, "minmax")
        assert write_rows(tmp_path / name, found, splits.train, scaling) == (0.0, 1.0)
        return (tmp_path / name).read_bytes()

    at_once = write("at_once.npy")
    monkeypatch.setattr(source, "BLOCK_VALUES", 28)
    assert write("in_blocks.npy") == at_once
    written = np.load(tmp_path / "at_once.npy")
    assert written.shape == (300, 4)
    assert written.dtype == np.float32


def test_reading_data_does_not_start_tensorflow():
    modules = "reading", "splitting", "scaling", "writing", "prepared"
    imports = "; ".join(f"import secateur.sources.{module}" for module in modules)
    check = "import sys; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{imports}; {check}"], check=True)
