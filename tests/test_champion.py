"""The champion: one complete model that is replaced as a whole or not at all."""

from __future__ import annotations

import multiprocessing
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from secateur import paths
from secateur.detection import threshold
from secateur.errors import InputError
from secateur.manifest import read_whole, write_manifest
from tasks import champion
from tests.published import (
    TRAIN,
    VALIDATION,
    elect,
    make_bundle,
    make_prepared,
    publish,
    publish_for_ever,
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("published"))


def test_the_folder_is_complete_and_its_manifest_is_that_of_md5sum(published):
    assert sorted(file.name for file in published.iterdir()) == [
        "champion.json",
        "costs.json",
        "cut.json",
        "float32.errors.npy",
        "float32.tflite",
        "int8.errors.npy",
        "int8.tflite",
        "manifest.md5",
        "metrics.json",
        "reference.npy",
        "report.md",
        "scaling.json",
        "schema.json",
        "threshold.json",
    ]
    checked = subprocess.run(
        ["md5sum", "--check", "--strict", "manifest.md5"],
        cwd=published,
        capture_output=True,
        text=True,
        check=True,
    )
    assert checked.stdout.count(": OK") == 13
    assert set(read_whole(published)) == {
        file.name for file in published.iterdir() if file.name != "manifest.md5"
    }


def test_each_artifact_has_the_threshold_of_its_own_errors(published):
    stored = paths.read_json(published / paths.THRESHOLD)
    assert stored["quantile"] == 0.95
    found = set()
    for artifact, numbers in stored["artifacts"].items():
        errors = np.load(published / f"{artifact}.errors.npy")
        assert numbers["validation_rows"] == len(errors) == len(VALIDATION)
        assert int((errors > numbers["threshold"]).sum()) == 5  # of 101 rows
        found.add(numbers["threshold"])
    assert list(stored["artifacts"]) == ["float32", "int8"]
    assert len(found) == 2


@pytest.mark.parametrize(("rows", "above"), [(1, 0), (10, 0), (100, 1), (101, 1), (1000, 10)])
def test_no_more_rows_than_the_quantile_allows_lie_above_the_threshold(rows, above):
    errors = np.random.default_rng(rows).random(rows)
    assert int((errors > threshold(errors, 0.99)).sum()) == above


@pytest.mark.parametrize("errors", [np.empty(0), np.array([1.0, np.nan])])
def test_a_threshold_needs_finite_errors(errors):
    with pytest.raises(InputError, match="finite errors"):
        threshold(errors, 0.99)


def test_publishing_again_gives_the_same_bytes(published, tmp_path):
    again = publish(tmp_path)
    assert (again / paths.MANIFEST).read_bytes() == (published / paths.MANIFEST).read_bytes()


def test_reference_rows_are_spread_over_the_training_rows(published):
    assert np.array_equal(np.load(published / paths.REFERENCE), TRAIN)
    wide = np.arange(3000 * 700, dtype=np.float32).reshape(3000, 700)
    reference = champion._reference(wide)
    assert reference.shape == (1497, 700)
    assert np.array_equal(reference[[0, -1]], wide[[0, -1]])


def test_report_tells_what_it_is(published):
    text = (published / paths.CARD).read_text()
    for part in (
        "# round_1",
        "45 parameters",
        "`int8.tflite`",
        "400 rows to train",
        "units 6 → 3",
        "0.95 of the",
    ):
        assert part in text


def test_a_changed_or_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("secateur.manifest._SECONDS_BETWEEN_TRIES", 0)
    (tmp_path / "a").write_text("a")
    write_manifest(tmp_path)
    (tmp_path / "a").write_text("b")
    with pytest.raises(InputError, match=r"a is not what manifest\.md5 says"):
        read_whole(tmp_path)
    (tmp_path / "a").unlink()
    with pytest.raises(InputError, match="a is not there"):
        read_whole(tmp_path)


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])
def test_a_reader_never_sees_a_mix(tmp_path, monkeypatch, exchanges):
    """One thread promotes back and forth while this one reads."""
    monkeypatch.chdir(tmp_path)
    if not exchanges:
        monkeypatch.setattr(paths, "_exchange", lambda one, other: False)
    folder = Path("models/champion")

    def promote(version: int) -> None:
        with paths.replacing(folder) as draft:
            for name in ("a", "b", f"only_{version % 2}"):
                (draft / name).write_text(str(version))
            write_manifest(draft)

    promote(0)
    over = threading.Event()

    def promote_all_along() -> None:
        version = 0
        while not over.is_set():
            promote(version := version + 1)

    promoting = threading.Thread(target=promote_all_along)
    promoting.start()
    try:
        seen = []
        deadline = time.monotonic() + 30
        while len({files["a"] for files in seen}) < 20 and time.monotonic() < deadline:
            seen.append(read_whole(folder))
    finally:
        over.set()
        promoting.join()
    assert all(len(set(files.values())) == 1 and len(files) == 3 for files in seen)
    assert len({files["a"] for files in seen}) == 20
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_is_left_as_it_was_when_its_replacement_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with paths.replacing(Path("models/champion")) as draft:
        (draft / "a").write_text("old")

    def fail() -> None:
        with paths.replacing(Path("models/champion")) as draft:
            (draft / "a").write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert Path("models/champion/a").read_text() == "old"
    assert not list(paths.SCRATCH.rglob("a"))


def test_killed_at_any_moment_the_champion_is_whole(tmp_path):
    """A process that publishes in a loop, killed 20 times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        make_bundle("round_1")
        make_bundle("round_2")
        make_prepared()
        elect("round_1")
        champion.run()
        start = time.monotonic()
        champion.run()
        once = time.monotonic() - start
    moments = np.random.default_rng(0).uniform(0.2, 9, 20)
    rungs = set()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.published"])
    begun = context.Event()
    for moment in moments:
        process = context.Process(target=publish_for_ever, args=(tmp_path, begun))
        process.start()
        assert begun.wait(60)  # by this machine's pace from here on, however busy it is
        begun.clear()
        time.sleep(moment * once)
        process.kill()
        process.join()
        files = read_whole(tmp_path / paths.CHAMPION)
        assert len(files) == 13
        rungs.add(files[paths.CHAMPION_RECORD])
    assert len(rungs) == 2
