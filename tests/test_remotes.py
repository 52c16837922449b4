"""Remotes and imported data: what comes and goes, and what a remote that fails leaves behind."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secateur.errors import InputError
from tasks.versioning import Outcome, Stage, VersioningError, Workspace
from tests.toy import EVERY_STAGE, ROOT, make_toy, run

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),  # DVC's own
]
SECRET = "not-to-be-shown-4711"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server on loopback with the bucket `secateur`; its address."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        address = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="secateur")
        yield address
    server.stop()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_toy(tmp_path / "toy")
    monkeypatch.chdir(folder)
    return folder


def bring_all() -> dict[str, Outcome]:
    """Every stage up to date, by a body that takes no time."""
    with Workspace() as workspace:
        return {
            stage.name: workspace.bring_up_to_date(stage.name, lambda stage=stage: make(stage))
            for stage in workspace.plan()
        }


def make(stage: Stage) -> None:
    for out in map(Path, stage.outs):
        out.mkdir(parents=True)
        (out / "text.txt").write_text(stage.name + Path("params.yaml").read_text()[-9:])


def add_remote(folder: Path, url: str, endpoint: str | None = None) -> None:
    config = "[core]\n    analytics = false\n    remote = shared\n"
    config += f"['remote \"shared\"']\n    url = {url}\n"
    if endpoint:
        config += f"    endpointurl = {endpoint}\n"
    (folder / ".dvc/config").write_text(config)


@pytest.fixture(params=["folder", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Path], None]:
    """Gives a workspace its default remote."""
    if request.param == "folder":
        return lambda folder: add_remote(folder, str(tmp_path / "shared"))
    address = request.getfixturevalue("s3")
    return lambda folder: add_remote(folder, f"s3://secateur/{tmp_path.name}", address)


def clone(folder: Path, to: Path) -> Path:
    """A second workspace with what git tracks of the first, and an empty cache."""
    for words in (
        ["git", "add", "-A"],
        [
            "git",
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example",
            "commit",
            "-qm",
            "all",
            "--allow-empty",
        ],
        ["git", "clone", "-q", ".", str(to)],
    ):
        subprocess.run(words, cwd=folder, check=True)
    return to


def pull_all(body: Callable[[], object]) -> dict[str, Outcome]:
    with Workspace() as workspace:
        plan = workspace.plan()
        workspace.fetch_runs()
        return {
            stage.name: workspace.bring_up_to_date(stage.name, body, pull=True) for stage in plan
        }


def must_not_run() -> None:
    raise AssertionError("this stage was to be restored")


def push() -> None:
    with Workspace() as workspace:
        workspace.push()


def outs(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted((folder / "data").rglob("*.txt"))
    }


def test_another_clone_restores_everything_and_runs_nothing(toy, tmp_path, remote, monkeypatch):
    remote(toy)
    bring_all()
    push()
    made = outs(toy)
    assert len(made) == 5
    other = clone(toy, tmp_path / "other")
    monkeypatch.chdir(other)
    assert pull_all(must_not_run) == dict.fromkeys(EVERY_STAGE, Outcome.RESTORED)
    assert outs(other) == made
    assert set(pull_all(must_not_run).values()) == {Outcome.UNCHANGED}
    files = (path for folder in (toy, other) for path in folder.rglob("*") if path.is_file())
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_dvc_itself_restores_it_too(toy, tmp_path, s3):
    add_remote(toy, "s3://secateur/by_dvc", s3)
    bring_all()
    push()
    other = clone(toy, tmp_path / "other")
    done = run(["dvc", "repro", "--pull", "--allow-missing"], other)
    assert done.returncode == 0, done.stderr
    assert "Running stage" not in done.stdout
    assert not (other / "runs.log").exists()
    assert run(["dvc", "pull"], other).returncode == 0
    assert outs(other) == outs(toy)


def test_what_another_machine_ran_is_restored_by_the_list_of_runs(toy, tmp_path, s3, monkeypatch):
    """The lock file knows nothing of it: only settings and data are the same."""
    add_remote(toy, "s3://secateur/runs", s3)
    bring_all()
    other = clone(toy, tmp_path / "other")
    (toy / "params.yaml").write_text(
        (toy / "params.yaml").read_text().replace("seed: 0", "seed: 1")
    )
    assert Outcome.RAN in bring_all().values()
    push()
    (other / "params.yaml").write_text((toy / "params.yaml").read_text())
    monkeypatch.chdir(other)
    assert set(pull_all(must_not_run).values()) == {Outcome.RESTORED}
    assert (other / "dvc.lock").read_text() == (toy / "dvc.lock").read_text()
    assert outs(other) == outs(toy)


def test_what_was_never_pushed_is_run(toy, tmp_path, monkeypatch):
    add_remote(toy, str(tmp_path / "shared"))
    bring_all()
    other = clone(toy, tmp_path / "other")
    monkeypatch.chdir(other)
    with Workspace() as workspace:
        start = workspace.plan("start")[0]
        workspace.fetch_runs()
        outcome = workspace.bring_up_to_date("start", lambda: make(start), pull=True)
    assert outcome is Outcome.RAN


def test_a_part_is_pushed_by_one_and_another_part_by_another(toy, tmp_path, monkeypatch):
    """Each clone runs what it is told to and pulls the rest; a third one runs nothing at all."""
    add_remote(toy, str(tmp_path / "shared"))
    clones = [clone(toy, tmp_path / name) for name in ("one", "two", "three")]
    found = []
    for folder, target in zip(clones, ("side@a", "side@b", None), strict=True):
        monkeypatch.chdir(folder)
        with Workspace() as workspace:
            workspace.fetch_runs()
            ran = {}
            for stage in workspace.plan(target):
                ran[stage.name] = workspace.bring_up_to_date(
                    stage.name, lambda stage=stage: make(stage), pull=True
                )
            workspace.push()
        found.append({name for name, outcome in ran.items() if outcome is Outcome.RAN})
    assert found == [{"start", "side@a"}, {"side@b"}, {"join", "alone"}]
    monkeypatch.chdir(clones[0])
    assert pull_all(must_not_run)["join"] is Outcome.RESTORED


def test_a_remote_that_fails_leaves_everything_and_says_what_to_do(toy, s3, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    bring_all()
    before = (toy / "dvc.lock").read_text(), outs(toy)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for url, endpoint in (
            ("s3://secateur/x", nobody),  # down
            ("s3://nobucket/x", s3),  # refuses
            (str(toy / "raw.txt" / "x"), None),
        ):
            add_remote(toy, url, endpoint)
            with pytest.raises(VersioningError, match=r"the remote 'shared' cannot be used: ") as e:
                push()
            assert "Nothing local has changed. Run again, or `dvc push" in str(e.value)
            assert SECRET not in str(e.value)
            assert ((toy / "dvc.lock").read_text(), outs(toy)) == before
            assert set(bring_all().values()) == {Outcome.UNCHANGED}


def test_without_a_remote_there_is_nothing_to_push_to(toy):
    with Workspace() as workspace:
        assert workspace.remote is None
        with pytest.raises(InputError, match="no default remote; `dvc remote add --default"):
            workspace.push()
        with pytest.raises(InputError, match="no default remote"):
            workspace.fetch_runs()


# Imported data


class Origin:
    """Where data comes from: a folder, or a prefix of a bucket."""

    def __init__(self, kind: str, folder: Path, address: str) -> None:
        self.url = str(folder) if kind == "folder" else f"s3://secateur/{folder.name}"
        self._folder, self._address = folder, address

    def put(self, name: str, text: str) -> None:
        if "://" in self.url:
            self._bucket().put_object(
                Bucket="secateur", Key=f"{self._folder.name}/{name}", Body=text.encode()
            )
        else:
            self._folder.mkdir(exist_ok=True)
            (self._folder / name).write_text(text)

    def remove(self, name: str) -> None:
        if "://" in self.url:
            self._bucket().delete_object(Bucket="secateur", Key=f"{self._folder.name}/{name}")
        else:
            (self._folder / name).unlink()
            if not any(self._folder.iterdir()):
                self._folder.rmdir()

    def _bucket(self):
        import boto3

        return boto3.client("s3", endpoint_url=self._address)


@pytest.fixture(params=["folder", "s3"])
def origin(
    request: pytest.FixtureRequest, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> Origin:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    return Origin(request.param, tmp_path / f"incoming_{tmp_path.name}", s3)


DATA = Path("raw/rows")


def update(source: str | None = None) -> bool:
    with Workspace() as workspace:
        return workspace.update_data(DATA, source)


def held() -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(DATA.iterdir())}


def test_data_is_imported_once_and_then_updated(toy, origin):
    origin.put("1.csv", "a\n1\n")
    assert update(origin.url)
    assert held() == {"1.csv": "a\n1\n"}
    assert not update()
    assert not update(origin.url)
    origin.put("2.csv", "a\n2\n")
    assert update()
    assert held() == {"1.csv": "a\n1\n", "2.csv": "a\n2\n"}
    with pytest.raises(InputError, match=r"is imported from .*, not from /elsewhere"):
        update("/elsewhere")


def test_a_source_that_is_gone_leaves_the_data(toy, origin):
    origin.put("1.csv", "a\n1\n")
    update(origin.url)
    record = Path("raw/rows.dvc").read_text()
    origin.remove("1.csv")
    with pytest.raises(VersioningError, match=r"cannot be read: .* raw/rows is as it was"):
        update()
    assert held() == {"1.csv": "a\n1\n"}
    assert Path("raw/rows.dvc").read_text() == record


def test_data_is_found_again_where_this_project_keeps_it(toy, tmp_path, monkeypatch):
    """DVC looks for its files in no folder that a pattern of .gitignore takes as a whole."""
    source = Origin("folder", tmp_path / "incoming", "")
    source.put("1.csv", "a\n1\n")
    monkeypatch.setitem(globals(), "DATA", Path("data/raw/rows"))
    (toy / ".gitignore").write_text("/data/*\n!/data/raw/\n/data/raw/*\n!/data/raw/*.dvc\n")
    with pytest.raises(InputError, match=r"a pattern of \.gitignore takes all of data/raw"):
        update(source.url)
    shutil.rmtree("data")
    shutil.copyfile(ROOT / ".gitignore", toy / ".gitignore")
    assert update(source.url)
    source.put("2.csv", "a\n2\n")
    assert update()
    shown = run(["git", "status", "--porcelain", "-uall", "data"], toy).stdout
    assert shown.split() == ["??", "data/raw/.gitignore", "??", "data/raw/rows.dvc"]


def test_data_that_is_not_imported_is_left_alone(toy):
    DATA.mkdir(parents=True)
    (DATA / "mine.csv").write_text("a\n1\n")
    assert not update()
    with pytest.raises(InputError, match="is in the place that /elsewhere is to be imported to"):
        update("/elsewhere")
    assert held() == {"mine.csv": "a\n1\n"}


def test_a_download_that_breaks_off_is_undone(toy, tmp_path, monkeypatch):
    source = Origin("folder", tmp_path / "incoming", "")
    source.put("1.csv", "a\n1\n")
    update(source.url)
    source.put("2.csv", "a\n2\n")

    def break_off(self: object, to: object, jobs: int | None = None) -> None:
        DATA.mkdir(parents=True)
        (DATA / "2.csv").write_text("a")
        raise ConnectionError("the line went dead")

    with monkeypatch.context() as patch:
        patch.setattr("dvc.dependency.base.Dependency.download", break_off)
        with pytest.raises(VersioningError, match="the line went dead"):
            update()
    assert held() == {"1.csv": "a\n1\n"}
    assert update()
    assert held() == {"1.csv": "a\n1\n", "2.csv": "a\n2\n"}
