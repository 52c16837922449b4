"""What DVC knows and does: the stages, what changed, restoring, recording.

The only module that imports DVC. A stage that this module brings up to date ends up as after
`dvc repro`: the same `dvc.lock`, the same cache, the same run-cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from secateur.errors import InputError

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
_CLAIMS = "rwlock"
_LOCK_HEADER = "schema: '2.0'\nstages:\n"
_ANCHOR = re.compile(r"^\s*(?:- )?(?:[^\s'\"#]+: )?[&*]\S+$", re.MULTILINE)


class WorkspaceBusyError(Exception):
    """Somebody else is at work in the workspace, and went on longer than we wait."""


class VersioningError(Exception):
    """DVC could not do what was asked of it; the message is DVC's own."""


class Outcome(Enum):
    """How a stage came to be up to date."""

    UNCHANGED = "unchanged"
    RESTORED = "restored"
    RAN = "ran"


@dataclass(frozen=True)
class Stage:
    """One box of `dvc.yaml`, as it stood when the plan was made."""

    name: str
    description: str
    command: str | None
    """None where there is nothing to run: a data file under DVC, or a frozen stage."""
    folder: Path
    """Where the command runs."""
    upstream: frozenset[str]
    outs: frozenset[str]
    """Relative to the workspace."""
    exclusive: bool
    """Asks in its `meta` to run while nothing else does."""
    changes: tuple[str, ...]
    """What differs from `dvc.lock`; empty when the stage is up to date."""


class Workspace:
    """The DVC workspace in the current directory, held by one run at a time.

    DVC's `Repo` is not made for threads: whoever calls waits for the call before it. The stages are
    read once, so a run does what `dvc.yaml` and `params.yaml` said when it started.
    """

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._turn = threading.RLock()
        self._opened = contextlib.ExitStack()
        self._stages: dict[str, PipelineStage] = {}
        self._order: list[str] = []

    def __enter__(self) -> Workspace:
        """Open the workspace.

        Raises:
            InputError: the current directory is no DVC workspace.
            WorkspaceBusyError: another run holds it.
        """
        with contextlib.ExitStack() as opening:
            self._repo = opening.enter_context(_open_repo())
            opening.enter_context(self._sole_run())
            self._patiently(self._tidy)
            self._opened = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def plan(self, target: str | None = None) -> tuple[Stage, ...]:
        """The stages to look at, prerequisites first, with what changed in each.

        Args:
            target: a stage, or the name that a `foreach` gives to several: they and all that they
                depend on. None is everything.

        Raises:
            InputError: there is no such stage, a file that a stage needs and no stage makes is
                not there, or `dvc.yaml` cannot be used.
        """
        from dvc.exceptions import DvcException

        try:
            return self._patiently(lambda: self._plan(target))
        except DvcException as error:
            raise InputError(_whole_message(error)) from None

    def _plan(self, target: str | None) -> tuple[Stage, ...]:
        from dvc.repo.reproduce import get_active_graph, plan_repro

        with self._locked():
            graph = get_active_graph(self._repo.index.graph)
            everything = plan_repro(graph, _targets(list(graph), None))
            self._order = [stage.addressing for stage in everything]
            steps = plan_repro(graph, _targets(list(graph), target))
            _check_sources(steps, [out for stage in graph for out in stage.outs])
            self._stages = {stage.addressing: stage for stage in steps}
            return tuple(
                _describe(stage, {up.addressing for up in graph.successors(stage)})
                for stage in steps
            )

    def bring_up_to_date(
        self, name: str, body: Callable[[], object], force: bool = False, pull: bool = False
    ) -> Outcome:
        """Restore or run a stage of the plan if it changed, and record it.

        Args:
            name: of the stage.
            body: makes the stage's outs; called without any lock held but DVC's own claim on this
                stage's files, which keeps a `dvc repro` beside us from touching them.
            force: call the body even if nothing changed.
            pull: get what the default remote has of it before calling the body.

        Raises:
            InputError: something that the stage needs is not there.
            VersioningError: an out that the body should have made is missing, or DVC failed.
            WorkspaceBusyError: another DVC command works on the stage's files.
        """
        from dvc.dependency.base import DependencyDoesNotExistError
        from dvc.exceptions import DvcException
        from dvc.stage.decorators import rwlocked

        stage = self._stages[name]

        @rwlocked(read=["deps"], write=["outs"])
        def claim_and_reproduce(stage: PipelineStage) -> Outcome:
            return self._reproduce(stage, body, force, pull)

        def take_turn() -> Outcome:
            with self._locked():
                return claim_and_reproduce(stage)

        try:
            return self._patiently(take_turn)
        except DependencyDoesNotExistError as error:
            raise InputError(str(error)) from None
        except DvcException as error:
            raise VersioningError(_whole_message(error)) from None

    def _reproduce(
        self, stage: PipelineStage, body: Callable[[], object], force: bool, pull: bool
    ) -> Outcome:
        """What `Stage.reproduce` does, with `body` in place of a shell."""
        if not force and not stage.changed():
            return Outcome.UNCHANGED
        if pull and not force and not stage.changed(allow_missing=True) and self._fetch(stage):
            stage.checkout(force=True)
            return Outcome.RESTORED
        if not _can_run(stage):
            stage.run(force=force)
            self._dump(stage)
            return Outcome.RAN
        # Outs may be links into the cache: a body that wrote into one would spoil the cache.
        stage.remove_outs()
        outcome = Outcome.RESTORED
        try:
            if force or not self._restore(stage, pull):
                stage.save_deps()  # stops here, before any work, if one is missing
                with self._unlocked():
                    body()
                outcome = Outcome.RAN
            cached = all(out.use_cache for out in stage.outs if not (out.is_metric or out.is_plot))
            stage.save(run_cache=cached)
            # An out that its stage replaces as a whole is not taken apart to link it to the cache.
            stage.commit(relink=not any(out.persist for out in stage.outs))
        except BaseException:
            # It now holds the new deps beside the old outs, which a second try would take for made
            # from them.
            for out in stage.outs:
                out.clear()
            raise
        self._dump(stage)
        return outcome

    def _restore(self, stage: PipelineStage, pull: bool) -> bool:
        """Whether DVC had made these outs from these deps before, and put them back."""
        from dvc.stage.cache import RunCacheNotFoundError

        try:
            self._repo.stage_cache.restore(stage, pull=pull)
        except RunCacheNotFoundError:
            return False
        except Exception as error:
            if not pull:
                raise
            logger.info("%s was made before, but not pushed whole: %s", stage, _summary(error))
            return False
        return True

    def _fetch(self, stage: PipelineStage) -> bool:
        """Whether all outs of a stage are in the cache, after a look at the remote."""
        try:
            for objects in stage.get_used_objs().values():
                self._repo.cloud.pull(objects)
        except Exception as error:  # of whatever library speaks the remote's protocol
            logger.info("The remote lacks what %s left: %s", stage, _summary(error))
        return bool(stage.outs_cached())

    @property
    def remote(self) -> str | None:
        """The name of the default remote, if there is one."""
        name = self._repo.config["core"].get("remote")
        return str(name) if name else None

    def fetch_runs(self) -> None:
        """Get the default remote's list of what other machines have run.

        Raises:
            InputError: there is no default remote.
            VersioningError: it cannot be reached, or refuses.
        """
        self.check_remote()
        with (
            self._speaking_to_remote("Nothing local has changed. To go on without it, do not pull"),
            self._turn,
        ):
            self._patiently(lambda: self._repo.stage_cache.pull(None))

    def push(self) -> None:
        """Copy to the default remote what it lacks of all outs, and the list of runs.

        Raises:
            InputError: there is no default remote.
            VersioningError: it cannot be reached, or refuses.
        """
        self.check_remote()
        with (
            self._speaking_to_remote(
                "Nothing local has changed. Run again, or `dvc push --run-cache`, when it is back"
            ),
            self._turn,
        ):
            self._patiently(lambda: self._repo.push(run_cache=True))

    def check_remote(self) -> None:
        """See that there is a default remote.

        Raises:
            InputError: there is none.
        """
        if self.remote is None:
            raise InputError(
                "this workspace has no default remote; `dvc remote add --default NAME URL` adds "
                "one, see docs/remotes.md"
            )

    @contextlib.contextmanager
    def _speaking_to_remote(self, remedy: str) -> Iterator[None]:
        """What goes wrong with the remote, with what to do about it."""
        try:
            yield
        except WorkspaceBusyError:
            raise
        except Exception as error:  # of whatever library speaks the remote's protocol
            raise VersioningError(
                f"the remote {self.remote!r} cannot be used: {_summary(error)}. {remedy}"
            ) from None

    def update_data(self, path: Path, source: str | None = None) -> bool:
        """Bring in what the place that data is imported from holds now.

        A failure leaves the data as it was.

        Args:
            path: of the data, relative to the workspace.
            source: a folder, file or address to import it from if DVC does not do so yet.

        Returns:
            Whether the data changed. False, too, where it is not imported.

        Raises:
            InputError: the source is not the one that it is imported from, or something else is
                in its place.
            VersioningError: the source cannot be reached, or refuses.
        """
        with self._turn:
            stage = _importing(self._repo, path)
            if stage is None:
                if source is None:
                    return False
                return self._import_data(path, source)
            origin = str(stage.deps[0].def_path)
            if source is not None and not _is_source(stage.deps[0], source):
                raise InputError(
                    f"{path} is imported from {origin}, not from {source}; to change that, remove "
                    f"{os.path.relpath(stage.path)} and {path}"
                )
            before = stage.outs[0].hash_info
            try:
                self._patiently(lambda: self._update(stage))
            except WorkspaceBusyError:
                raise
            except Exception as error:  # of whatever library speaks the source's protocol
                self._put_back(stage)
                raise _unreachable(origin, path, error) from None
            return bool(stage.outs[0].hash_info != before)

    def _import_data(self, path: Path, source: str) -> bool:
        from dvc.exceptions import FileExistsLocallyError

        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise InputError(
                f"{path} is in the place that {source} is to be imported to; move it away, or "
                "name a data.path that is free"
            )
        with contextlib.suppress(OSError):
            path.rmdir()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            url = source if "://" in source else str(Path(source).resolve())
            self._patiently(lambda: self._repo.imp_url(url, out=str(path)))
        except (WorkspaceBusyError, FileExistsLocallyError):
            raise
        except Exception as error:  # of whatever library speaks the source's protocol
            raise _unreachable(source, path, error) from None
        with _open_repo() as afresh:
            found = _importing(afresh, path)
        if found is None:
            raise InputError(
                f"{path} was imported, but DVC will not find its record: a pattern of .gitignore "
                f"takes all of {path.parent}; ignore files by their endings there"
            )
        return True

    def _update(self, stage: PipelineStage) -> None:
        with self._repo.lock:
            stage.update()
            self._dump(stage)

    def _put_back(self, stage: PipelineStage) -> None:
        """Restore data that an update removed before it failed."""
        from dvc.exceptions import DvcException

        with contextlib.suppress(DvcException), self._repo.lock:
            stage.reload().checkout(force=True)

    def _tidy(self) -> None:
        with self._locked():
            _remove_torn_file(Path(self._repo.tmp_dir) / _CLAIMS)

    def _dump(self, stage: PipelineStage) -> None:
        """Write a stage's entry into its lock file, which is seen whole or not at all.

        DVC itself writes in place, so that a kill in that moment would lose every stage's record;
        and it parses and writes all entries anew, which takes longer than many a stage.
        """
        from dvc.dvcfile import Lockfile
        from dvc.stage import PipelineStage

        if not isinstance(stage, PipelineStage):
            self._dump_data_file(stage)
            return
        lock_file = Path(stage.path).with_suffix(".lock")
        draft = Path(self._repo.tmp_dir) / lock_file.name
        draft.unlink(missing_ok=True)
        Lockfile(self._repo, str(draft)).dump(stage)
        new = _entries(draft.read_text())
        old = _entries(lock_file.read_text() if lock_file.exists() else "")
        if new is None or old is None:
            self._dump_with_all_others(stage, lock_file, draft)
        else:
            entries = old | new
            draft.write_text(_LOCK_HEADER + "".join(entries[n] for n in self._in_order(entries)))
        draft.replace(lock_file)

    def _dump_data_file(self, stage: Any) -> None:
        from dvc.stage.serialize import to_single_stage_file
        from dvc.utils.serialize import dump_yaml

        draft = Path(self._repo.tmp_dir) / Path(stage.path).name
        dump_yaml(str(draft), to_single_stage_file(stage))
        draft.replace(stage.path)

    def _dump_with_all_others(self, stage: PipelineStage, lock_file: Path, draft: Path) -> None:
        """Write the whole lock file as DVC would: comments stay, and anchors find new names."""
        from dvc.dvcfile import Lockfile
        from dvc.utils.serialize import modify_yaml

        draft.write_text(lock_file.read_text() if lock_file.exists() else "")
        Lockfile(self._repo, str(draft)).dump(stage)
        with modify_yaml(str(draft)) as content:
            entries = content["stages"]
            for name in self._in_order(entries):
                entries.move_to_end(name)

    def _in_order(self, names: Iterable[str]) -> list[str]:
        """Ours in the order of `dvc repro`, however stages that ran side by side came to an end."""
        known = {name: place for place, name in enumerate(self._order)}
        return sorted(names, key=lambda name: known.get(name, -1))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold DVC's lock, or raise its LockError: see `_patiently`."""
        with self._turn, self._repo.lock:
            yield

    @contextlib.contextmanager
    def _unlocked(self) -> Iterator[None]:
        """Within `_locked`: let others in for a while."""
        self._repo.lock.unlock()
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()
            self._patiently(self._repo.lock.lock)

    def _patiently(self, take: Callable[[], T]) -> T:
        """What `take` returns, tried until no other DVC command is in the way.

        `take` must hold nothing when it fails: the other command may need it to come to its end.
        """
        from dvc.lock import LockError

        deadline = time.monotonic() + self._patience_seconds
        announced = False
        while True:
            try:
                return take()
            except LockError as error:
                if time.monotonic() > deadline:
                    raise WorkspaceBusyError(
                        f"another DVC command has been at work in this workspace for "
                        f"{self._patience_seconds:.0f} s; run again when it has ended. "
                        f"DVC says: {error}"
                    ) from None
            if not announced:
                logger.warning("Another DVC command is at work in this workspace; waiting for it")
                announced = True
            time.sleep(0.2)

    @contextlib.contextmanager
    def _sole_run(self) -> Iterator[None]:
        """Hold the workspace; the system lets go of it however this process ends."""
        with (Path(self._repo.tmp_dir) / "secateur.lock").open("a+") as file:
            deadline = time.monotonic() + self._patience_seconds
            announced = False
            while not _take(file):
                file.seek(0)
                holder = file.read().strip() or "unknown"
                if time.monotonic() > deadline:
                    raise WorkspaceBusyError(
                        f"another run (process {holder}) has held this workspace for "
                        f"{self._patience_seconds:.0f} s; run again when it has ended"
                    )
                if not announced:
                    logger.warning("Another run (process %s) is at work here; waiting", holder)
                    announced = True
                time.sleep(0.2)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def _take(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_repo() -> Repo:
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    # A run has its own words for what DVC would report, and no use for a bar per hashed file.
    # DVC's handler prints what is left; that of Prefect would print it again.
    logging.getLogger("dvc").setLevel(logging.WARNING)
    logging.getLogger("dvc").propagate = False
    logging.getLogger("dvc.progress").setLevel(logging.CRITICAL)
    try:
        repo = Repo()
        repo.fs.open = _opening_whole(repo.fs.open)
        return repo
    except NotDvcRepoError:
        raise InputError(
            f"{Path.cwd()} is not a DVC workspace; run from a workspace's top folder, the one "
            "that holds dvc.yaml and .dvc (`git init` and `dvc init` make a new one)"
        ) from None
    except DvcException as error:
        raise InputError(f"DVC cannot open {Path.cwd()}: {_whole_message(error)}") from None


def _opening_whole(open_file: Callable[..., Any]) -> Callable[..., Any]:
    """DVC's way of opening files, but that its list of claims is seen whole whenever we end.

    DVC writes it in place, twice a stage: a kill in that moment would tear it.
    """

    def open_whole(path: str, mode: str = "r", **options: Any) -> Any:
        if Path(path).name == _CLAIMS and mode == "w":
            return _replacing(Path(path))
        return open_file(path, mode, **options)

    return open_whole


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    draft = path.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as file:
        yield file
    draft.replace(path)


def _remove_torn_file(path: Path) -> None:
    """Remove DVC's list of claims if a kill tore it: every DVC command would refuse to start."""
    try:
        json.loads(path.read_text())
    except FileNotFoundError:
        return
    except ValueError:
        path.unlink()


def _targets(stages: list[PipelineStage], target: str | None) -> list[PipelineStage]:
    if target is None:
        # Data files under DVC come in as what a stage depends on, as `dvc repro` does it.
        return [stage for stage in stages if stage.path_in_repo == "dvc.yaml"]
    chosen = [stage for stage in stages if target in (stage.addressing, _group(stage))]
    if not chosen:
        known = ", ".join(stage.addressing for stage in stages)
        raise InputError(f"Unknown stage {target!r}. Known: {known}")
    return chosen


def _check_sources(stages: list[PipelineStage], outs: list[Any]) -> None:
    for stage in stages:
        for dep in stage.deps:
            made = any(dep.fs.isin_or_eq(dep.fs_path, out.fs_path) for out in outs)
            gathered = any(dep.fs.isin(out.fs_path, dep.fs_path) for out in outs)
            if not (made or gathered or dep.exists):
                raise InputError(f"{stage.addressing} needs {dep}, which is not there")


def _group(stage: PipelineStage) -> str:
    return str(stage.addressing).partition("@")[0]


def _can_run(stage: PipelineStage) -> bool:
    return bool(stage.cmd) and not stage.frozen


def _describe(stage: PipelineStage, upstream: set[str]) -> Stage:
    command = stage.cmd if isinstance(stage.cmd, str) else "\n".join(stage.cmd or ())
    return Stage(
        name=stage.addressing,
        description=stage.desc or "",
        command=command if _can_run(stage) else None,
        folder=Path(stage.wdir),
        upstream=frozenset(upstream),
        outs=frozenset(os.path.relpath(str(out.fs_path)) for out in stage.outs),
        exclusive=bool((stage.meta or {}).get("exclusive", False)),
        changes=tuple(_changes(stage)),
    )


def _changes(stage: PipelineStage) -> Iterator[str]:
    """What `dvc status` says of a stage, a phrase each."""
    if not any(out.hash_info for out in stage.outs) and _can_run(stage):
        yield "it never ran"
        return
    for entry in stage.status().get(stage.addressing, []):
        if isinstance(entry, str):
            yield {"changed checksum": "its definition in dvc.yaml"}.get(entry, entry)
            continue
        for things in entry.values():
            yield from _phrases(things)


def _phrases(things: dict[str, Any]) -> Iterator[str]:
    for path, change in things.items():
        if isinstance(change, dict):
            yield from (f"{key} in {path} ({how})" for key, how in change.items())
        else:
            yield f"{path} ({change})"


def _entries(text: str) -> dict[str, str] | None:
    """The entries of a lock file as they stand there, or None if they cannot be moved as text.

    They cannot where somebody laid the file out otherwise, or where an entry holds YAML anchors,
    whose names are unique in the whole file alone.
    """
    if not text:
        return {}
    body = text.removeprefix(_LOCK_HEADER)
    if body == text or not all(line.startswith("  ") for line in body.splitlines()):
        return None
    if _ANCHOR.search(body):
        return None
    blocks = re.split(r"^(?=  [^ ])", body, flags=re.MULTILINE)[1:]
    return {block.partition(":")[0].strip(): block for block in blocks}


def _importing(repo: Repo, path: Path) -> PipelineStage | None:
    """The stage that imports some data, if DVC knows one."""
    wanted = str(path.resolve())
    for stage in repo.index.stages:
        if stage.is_import and any(out.fs.isin_or_eq(wanted, out.fs_path) for out in stage.outs):
            return stage
    return None


def _is_source(dependency: Any, source: str) -> bool:
    if "://" in source:
        return source.rstrip("/") == str(dependency.def_path).rstrip("/")
    return Path(source).resolve() == Path(dependency.fs_path).resolve()


def _unreachable(source: str, path: Path, error: Exception) -> VersioningError:
    return VersioningError(
        f"{_without_secrets(source)} cannot be read: {_summary(error)}. {path} is as it was; run "
        "again when it is back"
    )


def _summary(error: BaseException) -> str:
    """What a library says of a failure, in one line and without what must not be shown."""
    message = " ".join(_whole_message(error).split()) or type(error).__name__
    return _without_secrets(message)[:500]


def _without_secrets(text: str) -> str:
    """A text in which no address carries a password, nor the parameters that may hold a key."""
    return re.sub(r"(\w+://)[^/@\s]+@", r"\1", re.sub(r"(\w+://[^\s?]+)\?\S*", r"\1", text))


def _whole_message(error: BaseException) -> str:
    """DVC's message with its causes: the first alone often only says that something failed."""
    messages = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        if str(error) not in messages:
            messages.append(str(error))
    return ": ".join(message for message in messages if message)
