"""What the flow leaves behind is what `dvc repro` leaves behind."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secateur.errors import InputError
from tasks.versioning import Outcome, Stage, VersioningError, Workspace, WorkspaceBusyError
from tests.toy import EVERY_STAGE, make_toy, run

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),  # DVC's own
]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_toy(tmp_path / "toy")
    monkeypatch.chdir(folder)
    return folder


def by_hand(stage: Stage, folder: Path) -> None:
    assert stage.command is not None
    run(shlex.split(stage.command), folder)


def bring_all(folder: Path, force: bool = False) -> dict[str, Outcome]:
    with Workspace() as workspace:
        return {
            stage.name: workspace.bring_up_to_date(
                stage.name, lambda stage=stage: by_hand(stage, folder), force
            )
            for stage in workspace.plan()
        }


def changed() -> set[str]:
    with Workspace() as workspace:
        return {stage.name for stage in workspace.plan() if stage.changes}


def must_not_run() -> None:
    raise AssertionError("this stage had nothing to do")


def test_plan_is_in_order_and_tells_what_dvc_knows(toy: Path) -> None:
    with Workspace() as workspace:
        plan = {stage.name: stage for stage in workspace.plan()}
    order = list(plan)
    assert sorted(order) == sorted(EVERY_STAGE)
    assert all(order.index(up) < order.index(s.name) for s in plan.values() for up in s.upstream)
    assert plan["join"].upstream == {"side@a", "side@b"}
    assert plan["side@a"].command == "python -m tasks.side a"
    assert plan["side@a"].outs == {"data/sides/a"}
    assert [name for name in order if plan[name].exclusive] == ["alone"]
    assert plan["start"].description == "Copy the raw text"
    assert all(stage.changes == ("it never ran",) for stage in plan.values())


def test_target_brings_what_it_needs_and_no_more(toy: Path) -> None:
    with Workspace() as workspace:
        assert [stage.name for stage in workspace.plan("side@b")] == ["start", "side@b"]
        assert {stage.name for stage in workspace.plan("side")} == {"start", "side@a", "side@b"}
        with pytest.raises(InputError, match=r"Unknown stage 'sid'\. Known: .*side@a"):
            workspace.plan("sid")


def test_lock_file_is_that_of_dvc_repro(toy: Path, tmp_path: Path) -> None:
    assert set(bring_all(toy).values()) == {Outcome.RAN}
    assert changed() == set()
    other = make_toy(tmp_path / "other")
    assert run(["dvc", "repro"], other).returncode == 0
    assert (toy / "dvc.lock").read_text() == (other / "dvc.lock").read_text()
    assert "Data and pipelines are up to date" in run(["dvc", "status"], toy).stdout
    for folder in (toy, other):
        assert run(["dvc", "repro"], folder).stdout.count("didn't change, skipping") == 5
    keys = [
        sorted(path.name for path in (folder / ".dvc/cache/runs").rglob("*") if path.is_file())
        for folder in (toy, other)
    ]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 5


def test_lock_file_that_somebody_laid_out_otherwise_is_kept_so(toy: Path) -> None:
    bring_all(toy)
    (toy / "dvc.lock").write_text("# by hand\n" + (toy / "dvc.lock").read_text())
    (toy / "raw.txt").write_text("s")
    assert set(bring_all(toy).values()) == {Outcome.RAN}
    assert changed() == set()
    assert (toy / "dvc.lock").read_text().startswith("# by hand\n")
    assert run(["dvc", "repro"], toy).stdout.count("didn't change, skipping") == 5


def test_settings_with_anchors_give_the_lock_file_of_dvc_repro(toy: Path, tmp_path: Path) -> None:
    """Every entry that holds such settings has anchors, whose names must not meet."""
    other = make_toy(tmp_path / "other")
    for folder in (toy, other):
        params = (folder / "params.yaml").read_text()
        anchored = "rounds: {a: &quick {epochs: 3}, b: *quick}"
        (folder / "params.yaml").write_text(params.replace("rounds: {}", anchored))
        stages = (folder / "dvc.yaml").read_text()
        stages = stages.replace("[seed]", "[seed, rounds]")
        stages = stages.replace("outs: [data/alone]", "outs: [data/alone]\n    params: [rounds]")
        (folder / "dvc.yaml").write_text(stages)
    assert set(bring_all(toy).values()) == {Outcome.RAN}
    assert changed() == set()
    assert run(["dvc", "repro"], other).returncode == 0
    assert (toy / "dvc.lock").read_text().count("&id") == 2
    assert (toy / "dvc.lock").read_text() == (other / "dvc.lock").read_text()


def test_only_what_changed_runs(toy: Path) -> None:
    bring_all(toy)
    (toy / "tasks/alone.py").write_text((toy / "tasks/alone.py").read_text() + "# a word\n")
    outcomes = bring_all(toy)
    assert {name for name, how in outcomes.items() if how is not Outcome.UNCHANGED} == {"alone"}


def test_what_was_made_before_is_restored(toy: Path) -> None:
    bring_all(toy)
    was = (toy / "dvc.lock").read_text()
    (toy / "raw.txt").write_text("s")
    assert set(bring_all(toy).values()) == {Outcome.RAN}
    (toy / "raw.txt").write_text("r")
    with Workspace() as workspace:
        for stage in workspace.plan():
            assert workspace.bring_up_to_date(stage.name, must_not_run) is Outcome.RESTORED
    assert (toy / "dvc.lock").read_text() == was


def test_force_runs_what_did_not_change(toy: Path) -> None:
    bring_all(toy)
    assert set(bring_all(toy, force=True).values()) == {Outcome.RAN}
    assert changed() == set()


def test_body_that_fails_leaves_its_stage_to_be_done(toy: Path) -> None:
    with Workspace() as workspace:
        start = workspace.plan()[0]
        with pytest.raises(ZeroDivisionError):
            workspace.bring_up_to_date("start", lambda: 1 / 0)
        by_hand(start, toy)  # what a body leaves before it fails is not taken for its result
        assert "start" in {stage.name for stage in workspace.plan() if stage.changes}
    assert set(bring_all(toy).values()) == {Outcome.RAN}


def test_second_try_after_a_failure_does_not_take_the_old_outs_for_new(toy: Path) -> None:
    bring_all(toy)
    (toy / "raw.txt").write_text("s")

    def fail() -> None:
        raise RuntimeError("broken on purpose")

    with Workspace() as workspace:
        (start, *_) = workspace.plan()
        with pytest.raises(RuntimeError):
            workspace.bring_up_to_date("start", fail)
        second = workspace.bring_up_to_date("start", lambda: by_hand(start, toy))
    assert second is Outcome.RAN
    assert (toy / "data/start/text.txt").read_text() == "st"


def test_out_that_was_not_made_is_named(toy: Path) -> None:
    with Workspace() as workspace:
        workspace.plan()
        with pytest.raises(VersioningError, match="data/start"):
            workspace.bring_up_to_date("start", lambda: None)


def test_source_that_is_not_there_is_named(toy: Path) -> None:
    (toy / "raw.txt").unlink()
    with Workspace() as workspace, pytest.raises(InputError, match=r"start needs .*raw\.txt"):
        workspace.plan()


def test_links_into_the_cache_are_not_written_through(toy: Path) -> None:
    run(["dvc", "config", "cache.type", "hardlink"], toy)
    bring_all(toy)
    with Workspace() as workspace:
        workspace.plan()

        def write_elsewise() -> None:
            (toy / "data/start").mkdir()
            (toy / "data/start/text.txt").write_text("something else")

        workspace.bring_up_to_date("start", write_elsewise, force=True)
    objects = [path for path in (toy / ".dvc/cache/files/md5").rglob("*") if path.is_file()]
    assert len(objects) > 5
    for path in objects:
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        assert path.parent.name + path.name.removesuffix(".dir") == md5


def test_data_file_under_dvc_is_recorded_again(toy: Path) -> None:
    run(["dvc", "add", "raw.txt"], toy)
    bring_all(toy)
    (toy / "raw.txt").write_text("s")
    assert changed() == {"raw.txt.dvc", "start"}
    with Workspace() as workspace:
        assert workspace.plan()[0].command is None
        assert workspace.bring_up_to_date("raw.txt.dvc", must_not_run) is Outcome.RAN
    assert hashlib.md5(b"s").hexdigest() in (toy / "raw.txt.dvc").read_text()


def test_one_run_at_a_time(toy: Path) -> None:
    with (
        Workspace(),
        pytest.raises(WorkspaceBusyError, match=r"another run \(process"),
        Workspace(patience_seconds=0.3),
    ):
        pass
    assert changed() == set(EVERY_STAGE)


def test_busy_dvc_is_waited_for(toy: Path) -> None:
    hold = (
        "import sys, time; from dvc.repo import Repo; repo = Repo(); repo.lock.lock(); "
        "print('held', flush=True); time.sleep(float(sys.argv[1]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, "60"], cwd=toy, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with (
                pytest.raises(WorkspaceBusyError, match="another DVC command"),
                Workspace(patience_seconds=0.3),
            ):
                pass
        finally:
            holder.kill()
    assert changed() == set(EVERY_STAGE)


def test_dvc_repro_keeps_off_a_stage_that_runs(toy: Path) -> None:
    with Workspace() as workspace:
        workspace.plan()

        def body() -> None:
            refused = run(["dvc", "repro", "start"], toy)
            assert refused.returncode != 0
            assert "is busy" in refused.stderr
            run(["python", "-m", "tasks.start"], toy)

        assert workspace.bring_up_to_date("start", body) is Outcome.RAN


def test_torn_list_of_claims_is_forgotten(toy: Path) -> None:
    (toy / ".dvc/tmp").mkdir()
    (toy / ".dvc/tmp/rwlock").write_text('{"write": {"/a')
    assert changed() == set(EVERY_STAGE)


def test_stage_lasts_no_longer_than_its_body(toy: Path) -> None:
    """Two stages side by side: DVC is locked for neither while the bodies run."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    both = Barrier(2, timeout=30)
    with Workspace() as workspace, ThreadPoolExecutor(2) as pool:
        plan = {stage.name: stage for stage in workspace.plan()}
        workspace.bring_up_to_date("start", lambda: by_hand(plan["start"], toy))

        def side(name: str) -> Outcome:
            def body() -> None:
                both.wait()
                by_hand(plan[name], toy)
                time.sleep(0.1)

            return workspace.bring_up_to_date(name, body)

        assert list(pool.map(side, ["side@a", "side@b"])) == [Outcome.RAN, Outcome.RAN]
    assert changed() == {"join", "alone"}


def test_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is not a DVC workspace"), Workspace():
        pass


def test_broken_pipeline_file_is_refused(toy: Path) -> None:
    (toy / "dvc.yaml").write_text("stages: [")
    with Workspace() as workspace, pytest.raises(InputError, match=r"dvc\.yaml"):
        workspace.plan()
