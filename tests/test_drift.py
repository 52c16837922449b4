"""What moved in data, what may take the champion's place, and what becomes of it in git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from secateur import paths
from secateur.drift import shifts
from secateur.errors import InputError
from secateur.settings import DriftSettings, load_settings
from secateur.sources.reading import read_source
from tasks import contest, refreshing, tagging
from tasks.versioning import Stage, Workspace
from tests.published import FEATURES, VALIDATION, elect, make_bundle, make_prepared, raw
from tests.published import champion as champion_stage
from tests.toy import make_toy

NAMES = [f"sensor_{n}" for n in range(FEATURES)]
USUAL = DriftSettings()


def rows(count: int, seed: int) -> np.ndarray:
    """Raw rows of the distribution that the champion was trained on."""
    return raw(np.random.default_rng(seed).random((count, FEATURES)))


def put(name: str, values: np.ndarray, names: list[str] = NAMES) -> None:
    Path("rows").mkdir(exist_ok=True)
    pd.DataFrame(values, columns=names).to_csv(f"rows/{name}.csv", index=False)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A champion that was trained on rows/1.csv, and its settings."""
    monkeypatch.chdir(tmp_path)
    put("1", rows(501, seed=2))
    make_bundle("round_1")
    make_prepared(NAMES)
    elect("round_1")
    settings = yaml.safe_load(paths.SETTINGS.read_text())
    paths.SETTINGS.write_text(
        yaml.safe_dump({**settings, "data": {"source": "file", "path": "rows"}})
    )
    source = read_source(load_settings().data)
    schema = paths.read_json(paths.SCHEMA)
    schema |= {"source_md5": source.md5, "files": [vars(file) for file in source.files]}
    paths.write_json(paths.SCHEMA, schema)
    champion_stage.run()
    return tmp_path


def look(**wanted: float) -> dict:
    return refreshing.look_for_drift(DriftSettings(**wanted))


# Two samples


def test_equal_distributions_are_rarely_called_moved():
    """At 5% at most 5% of samples raise any alarm; 100 draws, 9 features, small samples."""
    random = np.random.default_rng(0)
    names = list("abcdefghi")
    alarms = sum(
        any(
            shift.moved
            for shift in shifts(
                random.random((80, 9)), random.random((90, 9)), names, significance=0.05, effect=0
            )
        )
        for _ in range(100)
    )
    assert 1 <= alarms <= 11  # 5 expected; a binomial exceeds 11 once in 200


def test_the_feature_that_moved_is_named_first():
    random = np.random.default_rng(0)
    one, other = random.random((500, 3)), random.random((400, 3))
    other[:, 1] += 0.3
    found = shifts(one, other, ["a", "b", "c"])
    assert (found[0].name, found[0].moved) == ("b", True)
    assert not found[1].moved
    assert found[0].effect == pytest.approx(0.3, abs=0.06)


def test_a_small_shift_of_many_rows_is_significant_and_does_not_count():
    random = np.random.default_rng(0)
    one, other = random.random((20_000, 1)), random.random((20_000, 1)) + 0.05
    (shift,) = shifts(one, other, ["a"])
    assert shift.p_value < 1e-6
    assert not shift.moved
    assert shifts(one, other, ["a"], effect=0.04)[0].moved


@pytest.mark.parametrize("shapes", [((0, 2), (3, 2)), ((3, 2), (3, 1))])
def test_samples_must_fit(shapes):
    with pytest.raises(InputError, match="two samples of the same features"):
        shifts(np.zeros(shapes[0]), np.zeros(shapes[1]), ["a", "b"])


# The data and the champion


def test_unchanged_data_is_known_by_its_md5(workspace):
    found = look()
    assert (found["changed"], found["moved"]) == (False, False)
    assert found["message"] == "the data is still what the champion was trained on"


def test_a_little_more_of_the_same_is_not_worth_a_ladder(workspace):
    put("2", rows(40, seed=3))
    found = look()
    assert (found["changed"], found["moved"], found["new_rows"]) == (True, False, 40)
    assert found["growth"] == pytest.approx(541 / 502 - 1)
    assert "no feature moved by 0.1 or more" in found["message"]


def test_much_more_of_the_same_is(workspace):
    put("2", rows(100, seed=3))
    found = look()
    assert found["moved"]
    assert found["message"] == "there are +20% rows"
    assert not look(growth=0.3)["moved"]


def test_new_files_are_looked_at_alone_and_the_feature_is_named(workspace):
    """40 shifted rows among 541 would move the whole by less than a tenth."""
    shifted = rows(40, seed=3)
    shifted[:, 2] += 0.8 / np.linspace(0.5, 2, FEATURES)[2]
    put("2", shifted)
    found = look()
    assert found["moved"]
    assert found["message"].startswith("1 of 6 features moved, farthest column 'sensor_2' by 0.8")
    assert [shift["name"] for shift in found["features"] if shift["moved"]] == ["column 'sensor_2'"]
    assert found["error"]["moved"]
    assert found["alarms"] > 0.5


def test_anomalies_are_not_held_against_the_normal_rows(workspace):
    settings = yaml.safe_load(paths.SETTINGS.read_text())
    settings["data"]["label"] = "anomaly"
    paths.SETTINGS.write_text(yaml.safe_dump(settings))
    names = [*NAMES, "anomaly"]
    put("1", np.column_stack([rows(501, seed=2), np.zeros(501, int)]), names)
    wild = np.column_stack([rows(30, seed=4) + 5, np.ones(30, int)])
    put("2", np.vstack([np.column_stack([rows(20, seed=3), np.zeros(20, int)]), wild]), names)
    assert not look(growth=1.0)["moved"]


def test_other_columns_are_refused_and_named(workspace):
    put("1", rows(501, seed=2), [*NAMES[:-1], "new"])
    with pytest.raises(InputError, match=r"gone: sensor_5; new: new\). A refresh keeps"):
        look()


def test_without_a_champion_everything_has_moved(workspace):
    for file in paths.CHAMPION.iterdir():
        file.unlink()
    paths.CHAMPION.rmdir()
    assert look()["moved"]
    assert contest.contest("round_1", 0.0)["accepted"]


# The champion and the candidate


def test_the_model_that_serves_is_not_promoted_again(workspace):
    found = refreshing.compare(0.0)
    assert (found["accepted"], found["message"]) == (False, "round_1 is the model that serves")


def new_validation(scale: np.ndarray) -> None:
    """Validation rows under a new scaling, with a candidate in its place."""
    make_bundle("round_2", seed=1)
    elect("round_2")
    paths.VALIDATION.mkdir(exist_ok=True)
    np.save(paths.VALIDATION / paths.ROWS, (raw(VALIDATION) * scale).astype(np.float32))
    scaling = {"kind": "minmax", "scale": scale.tolist(), "offset": [0.0] * FEATURES}
    paths.write_json(paths.SCALING, scaling)


def test_the_champion_is_measured_in_the_units_of_the_new_scaling(workspace):
    """Two scalings of one and the same data: errors are those of raw units times the new scale."""
    scale = np.linspace(3, 1, FEATURES)
    new_validation(scale)
    files = {path.name: path.read_bytes() for path in paths.CHAMPION.iterdir()}
    validation = np.load(paths.VALIDATION / paths.ROWS)
    errors = contest._errors_of_serving(files, validation)
    from secateur.litert import run_litert

    outputs = run_litert(paths.CHAMPION / paths.FLOAT32, VALIDATION)
    expected = ((raw(outputs) - raw(VALIDATION)) * scale) ** 2
    np.testing.assert_allclose(errors, expected.mean(axis=1), rtol=1e-3)


@pytest.mark.parametrize(("better", "accepted"), [(0.5, True), (1.5, False)])
def test_the_guard_decides(workspace, better, accepted):
    new_validation(np.linspace(0.5, 2, FEATURES))
    files = {path.name: path.read_bytes() for path in paths.CHAMPION.iterdir()}
    errors = contest._errors_of_serving(files, np.load(paths.VALIDATION / paths.ROWS))
    np.save(paths.errors_file(paths.EXPORTS / "round_2" / paths.FLOAT32), better * errors)
    found = refreshing.compare(0.1)
    assert found["accepted"] is accepted
    assert found["candidate"] == "round_2"
    assert "101 new validation rows" in found["message"]
    served = (paths.CHAMPION / paths.FLOAT32).read_bytes()
    candidate = (paths.EXPORTS / "round_2" / paths.FLOAT32).read_bytes()
    if accepted:
        champion_stage.run()
        assert (paths.CHAMPION / paths.FLOAT32).read_bytes() == candidate != served
    else:  # by whichever way the stage is run
        with pytest.raises(
            InputError, match=r"round_2 is not promoted, .* kept what serves: round_2"
        ):
            champion_stage.run()
        assert (paths.CHAMPION / paths.FLOAT32).read_bytes() == served


def test_who_lost_may_be_compared_again_and_others_are_not_kept_out(workspace):
    new_validation(np.linspace(0.5, 2, FEATURES))
    files = {path.name: path.read_bytes() for path in paths.CHAMPION.iterdir()}
    errors = contest._errors_of_serving(files, np.load(paths.VALIDATION / paths.ROWS))
    np.save(paths.errors_file(paths.EXPORTS / "round_2" / paths.FLOAT32), 1.5 * errors)
    assert not refreshing.compare(0.1)["accepted"]
    elect("round_1")
    champion_stage.run()  # what serves, with another threshold, say
    elect("round_2")
    assert refreshing.compare(0.6)["accepted"]
    champion_stage.run()
    assert not paths.KEPT.exists()


# News


def test_a_champion_is_announced_once_by_whichever_run_comes_next(workspace):
    told = []
    refreshing.remember_what_serves()
    assert not refreshing.announce(lambda *words: told.append(words), "a")
    make_bundle("round_2", seed=1)
    elect("round_2")
    champion_stage.run()  # and killed before it was announced
    refreshing.remember_what_serves()
    assert refreshing.announce(lambda *words: told.append(words), "b")
    assert not refreshing.announce(lambda *words: told.append(words), "c")
    assert told == [(workspace.name, "b")]


@pytest.mark.pipeline
@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC's own
def test_what_a_killed_run_left_is_told_from_what_was_kept(tmp_path, monkeypatch):
    """In the toy, `join` stands for the champion and `alone` for the report."""
    monkeypatch.chdir(make_toy(tmp_path / "toy"))
    monkeypatch.setattr(refreshing, "STAGE", "join")

    def bring(*names: str) -> None:
        with Workspace() as workspace:
            for stage in workspace.plan():
                if stage.name in names:
                    workspace.bring_up_to_date(stage.name, lambda stage=stage: make(stage))

    def make(stage: Stage) -> None:
        for out in map(Path, stage.outs):
            out.mkdir(parents=True)
            (out / "text.txt").write_text(stage.name)

    assert not refreshing.left_unfinished()
    bring("start", "side@a", "side@b")
    assert not refreshing.left_unfinished()  # kept: the champion is withheld
    bring("join")
    assert refreshing.left_unfinished()
    bring("alone")
    assert not refreshing.left_unfinished()


# Versions in git


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for key in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{key}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{key}_EMAIL", "somebody@example.org")
    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    serve("0" * 32)
    git("add", "code.py")
    git("commit", "-qm", "start")
    return tmp_path


def serve(md5: str) -> None:
    outs = [{"path": "models/champion", "md5": f"{md5}.dir"}]
    tagging.LOCK.write_text(yaml.safe_dump({"stages": {"champion": {"outs": outs}}}))


def test_versions_are_annotated_tags_by_dvcs_naming(repository):
    (repository / "rows.dvc").write_text("outs: []")
    assert tagging.tag("the first", "minor", [Path("rows.dvc"), Path("none")]) == "champion@v0.0.1"
    assert git("cat-file", "-t", "champion@v0.0.1") == "tag"
    assert git("tag", "-l", "--format=%(contents:subject)") == "the first"
    assert set(git("show", "--name-only", "--format=", "HEAD").split()) == {"dvc.lock", "rows.dvc"}
    assert tagging.tag("again", "minor", []) is None
    serve("1" * 32)
    assert tagging.tag("the second", "minor", []) == "champion@v0.1.0"
    serve("2" * 32)
    git("commit", "-qam", "committed, and killed before the tag")
    assert tagging.tag("the third", "patch", []) == "champion@v0.1.1"
    assert git("status", "--porcelain", "--untracked-files=no") == ""


def test_a_tag_stands_for_what_made_the_model(repository):
    (repository / "code.py").write_text("2")
    with pytest.raises(InputError, match=r"but code\.py differ from the last commit"):
        tagging.tag("x", "patch", [])
    assert git("tag") == ""


def test_other_staged_files_are_not_committed_along(repository):
    (repository / "more.py").write_text("3")
    git("add", "more.py")
    with pytest.raises(InputError, match=r"more\.py differ"):
        tagging.check([])
