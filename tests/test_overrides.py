"""Settings for one run end up in params.yaml as a person would have written them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from secateur.errors import InputError
from tasks.overrides import overridden, write

TEXT = """\
# Above everything.
seed: 0
data: { source: digits, validation: 0.15 } # a source
baseline:
  widths: [64, 32]
  training: { epochs: 200, learning_rate: 0.003 }

rounds: {} # none
guard:
  tolerance: 0.10 # beside a value
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    return path


def test_nothing_given_changes_nothing(path: Path) -> None:
    assert overridden([], path) == TEXT
    assert overridden({}, path) == TEXT


def test_value_changes_where_it_stands_and_nothing_else_does(path: Path) -> None:
    words = ["guard.tolerance=0.25", "baseline.widths=[8, 4]", "baseline.training.epochs=3"]
    assert overridden(words, path) == (
        TEXT.replace("0.10 #", "0.25 #").replace("[64, 32]", "[8, 4]").replace("200", "3")
    )


def test_mapping_says_the_same_as_words(path: Path) -> None:
    words = ["baseline.widths=[8, 4]", "data.source=file", "guard.tolerance=0.25"]
    mapping = {"baseline.widths": [8, 4], "data.source": "file", "guard.tolerance": 0.25}
    load = YAML(typ="safe").load
    assert load(overridden(words, path)) == load(overridden(mapping, path))


def test_section_that_was_left_out_is_added(path: Path) -> None:
    path.write_text("seed: 0\nrounds: {}\n")
    assert overridden(["guard.tolerance=0.5"], path) == (
        "seed: 0\nrounds: {}\nguard:\n  tolerance: 0.5\n"
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("guard.tolerance", "section.key=value, got 'guard.tolerance'"),
        ("=3", "section.key=value"),
        ("guard.tolerance=-1", "guard.tolerance.*got -1"),
        ("guard.toleranc=1", "unknown key; known here: tolerance"),
        ("guard=[", "not valid YAML"),
        ("seed.deeper=1", "seed holds no settings"),
        ("rounds.r={parent: baseline, method: magnitud}", "Unknown method 'magnitud'"),
    ],
)
def test_bad_override_is_named(word: str, message: str, path: Path) -> None:
    with pytest.raises(InputError, match=message):
        overridden([word], path)


def test_file_is_replaced_whole(path: Path) -> None:
    write("new", path)
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]
