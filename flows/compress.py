"""The main flow: from raw data to a champion, stage by stage, as `dvc.yaml` orders them.

`python -m flows.compress --help` tells how to run it.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import CancelledRun, FailedRun, TerminationSignal
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.leash import end_with_starter
from flows.server import ServerWatch, noted_run, use_server
from secateur import paths
from secateur.errors import InputError
from tasks import overrides as overriding
from tasks.children import BodyError, Children, StoppedError, parse_command
from tasks.monitoring import AnyLogger, Monitor, StageResult, told_state, verdict
from tasks.versioning import Outcome, Stage, VersioningError, Workspace, WorkspaceBusyError

WORKERS = 2
SECONDS_BEFORE_RETRY = 60.0
FAILURE, MISTAKE, INTERRUPTED, TERMINATED = 1, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM
REFUSED = "Refused"  # the name of a failed state that is the user's to mend


def run_name() -> str:
    """What a flow run is called: its workspace, and what it was asked for."""
    asked = runtime.flow_run.parameters
    parts = [f"to {asked['target']}" if asked["target"] else "everything"]
    given = asked["overrides"] or ()
    words = given.items() if isinstance(given, Mapping) else [(word,) for word in given]
    parts += ["=".join(map(str, word)) for word in words]
    parts += [word for word, on in (("force", "force"), ("rehearsal", "dry_run")) if asked[on]]
    return f"{Path.cwd().name}: {', '.join(parts)}"


# Prefect's own retries would be left hanging by a flow that returns its failure; see `retries`.
@flow(flow_run_name=run_name, task_runner=ThreadPoolTaskRunner(), retries=0)  # type: ignore[arg-type]
def compress(
    overrides: list[str] | dict[str, Any] | None = None,
    target: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    workers: Annotated[int, Field(ge=1)] = WORKERS,
    retries: Annotated[int, Field(ge=0)] = 0,
    pull: bool = False,
    push: bool = False,
) -> State[Any]:
    """Shrink the autoencoder of the workspace in the current directory.

    Stages that did not change are left as they are, so running again is how to resume.

    Args:
        overrides: Settings to write into params.yaml first, such as guard.tolerance=0.2
        target: A stage to stop at: it and what it needs. Everything, if empty
        force: Run every stage, changed or not
        dry_run: Say what would run, and run nothing
        workers: Stages that may run side by side
        retries: How often to try a stage again that failed, a minute later; a mistake in data or
            settings is not tried again
        pull: Get what other machines pushed to DVC's remote instead of running it here
        push: Push what this run leaves to DVC's remote, for other machines to pull
    """
    logger = begin()
    try:
        if dry_run:
            text = "\n".join(rehearse(overrides, target, force))
            logger.info("%s", text)
            return Completed(name="Rehearsed", message=text)
        with ServerWatch(logger) as server, Workspace() as workspace, noted_run():
            overriding.write(overriding.overridden(overrides or ()))
            plan = checked_plan(workspace, target)
            monitor = Monitor(logger, lambda: server.gone)
            if push:
                workspace.check_remote()
            if pull:
                workspace.fetch_runs()
            schedule = work_through(plan, workspace, monitor, force, workers, retries, pull)
            state = conclude(plan, schedule, monitor)
            return pushed(workspace, state) if push else state
    except InputError as error:
        return Failed(name=REFUSED, message=str(error))
    except WorkspaceBusyError as error:
        return Cancelled(message=str(error))
    except VersioningError as error:
        return Failed(message=str(error))


def work_through(
    plan: Sequence[Stage],
    workspace: Workspace,
    monitor: Monitor,
    force: bool,
    workers: int,
    retries: int,
    pull: bool,
) -> Schedule:
    """Bring every stage of the plan up to date that does not depend on one that fails."""
    schedule = Schedule(plan, workers)
    stage_task = bring_up_to_date.with_options(retries=retries)
    arrived: queue.SimpleQueue[str] = queue.SimpleQueue()
    futures: dict[str, PrefectFuture[Any]] = {}
    with Children() as children:
        while not schedule.is_over():
            for stage in schedule.startable():
                future = stage_task.submit(
                    stage.name,
                    stage,
                    workspace,
                    children,
                    monitor,
                    force=force,
                    look=schedule.must_look(stage, force),
                    pull=pull,
                    wait_for=[futures[name] for name in stage.upstream if name in futures],
                    return_state=False,
                )
                futures[stage.name] = future
                future.add_done_callback(functools.partial(_put, arrived, stage.name))
            name = arrived.get()
            futures[name].wait()
            schedule.arrive(name, futures[name].state)
    return schedule


def conclude(plan: Sequence[Stage], schedule: Schedule, monitor: Monitor) -> State[Any]:
    """Show the results, and the state of the whole run."""
    logger = get_run_logger()
    outs = {out for stage in plan for out in stage.outs}
    if str(paths.FRONTIER) in outs and paths.FRONTIER.exists():
        monitor.frontier()
    if str(paths.PICTURES) in outs:
        monitor.pictures()
    monitor.summary(schedule.results)
    if schedule.failed:
        name = REFUSED if all(s.name == REFUSED for s in schedule.failed.values()) else "Failed"
        return Failed(name=name, message=schedule.problem())
    message = verdict() or "Every stage is up to date"
    if str(paths.PAGE) in outs and paths.PAGE.exists():
        message += f" See {paths.PAGE}"
    logger.info("%s", message)
    unchanged = all(result.state == "Cached" for result in schedule.results)
    return Completed(
        name="Cached" if unchanged else "Completed", message=message, data=schedule.results
    )


def pushed(workspace: Workspace, state: State[Any]) -> State[Any]:
    """How a run ends whose stages are shared, those too that were finished before one failed."""
    try:
        workspace.push()
    except VersioningError as error:
        problems = [str(error)] if state.is_completed() else [str(state.message), str(error)]
        return Failed(message="\n".join(problems))
    get_run_logger().info("Pushed to DVC's remote %r", workspace.remote)
    return state


def worth_another_try(_: Any, __: Any, state: State[Any]) -> bool:
    """Whether a task failed for a reason that may pass: a mistake in what was given does not."""
    return state.is_failed() and state.name != REFUSED


@task(
    task_run_name="{name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=worth_another_try,
)
def bring_up_to_date(
    name: str,
    stage: Stage,
    workspace: Workspace,
    children: Children,
    monitor: Monitor,
    force: bool,
    look: bool,
    pull: bool,
) -> State[Any]:
    """Leave a stage up to date in files and in DVC's records: unchanged, restored, or run.

    Args:
        name: of the stage, for the UI.
        stage: what to bring up to date.
        workspace: that the stage lives in.
        children: run its body, if it must run.
        monitor: shows its trainings.
        force: run it in any case.
        look: whether anything can have changed at all.
        pull: get what the remote has of it before running it.
    """
    if not look:
        return Completed(name="Cached", message="Unchanged", data=0.0)
    logger = get_run_logger()
    training = monitor.training()
    body = parse_command(stage.command) if stage.command else None
    body_seconds = 0.0

    def on_line(level: int, message: str, progress: dict[str, Any] | None) -> None:
        logger.log(level, "%s", message)
        if progress is not None:
            training.show(progress)

    def run() -> None:
        nonlocal body_seconds
        assert body is not None  # only a stage with a command has a body that DVC asks for
        if stage.description:
            logger.info("%s", stage.description)
        body_seconds = children.run(body, stage.folder, logging.INFO, on_line)
        training.end()

    try:
        if runtime.task_run.run_count > 1:
            children.rest(SECONDS_BEFORE_RETRY)  # not by Prefect, whose sleep nothing can end
        outcome = workspace.bring_up_to_date(name, run, force, pull)
    except InputError as error:
        return Failed(name=REFUSED, message=str(error))
    except BodyError as error:
        if error.details:
            logger.error("%s", error.details)
        return Failed(message=str(error))
    except StoppedError:
        return Cancelled(message="The run ended before this stage did")
    except (VersioningError, WorkspaceBusyError) as error:
        return Failed(message=str(error))
    if outcome is Outcome.UNCHANGED:
        return Completed(name="Cached", message="Unchanged", data=0.0)
    told = told_state(*body) if body is not None else None
    if outcome is Outcome.RESTORED:
        return Completed(name=told or "Restored", message="Made before: restored", data=0.0)
    return Completed(
        name=told or "Completed", message=f"Ran for {body_seconds:.1f} s", data=body_seconds
    )


class Schedule:
    """Which stages may start: prerequisites first, the longest way to the end before others."""

    def __init__(self, plan: Sequence[Stage], workers: int) -> None:
        self._workers = max(1, workers)
        names = {stage.name for stage in plan}
        self._upstream = {stage.name: stage.upstream & names for stage in plan}
        distance = dict.fromkeys(names, 0)
        for stage in reversed(plan):  # prerequisites come before what needs them
            for name in self._upstream[stage.name]:
                distance[name] = max(distance[name], distance[stage.name] + 1)
        self._waiting = sorted(plan, key=lambda stage: -distance[stage.name])
        self._running: dict[str, tuple[Stage, float]] = {}
        self._states: dict[str, State[Any]] = {}
        self.results: list[StageResult] = []
        self.failed: dict[str, State[Any]] = {}

    def startable(self) -> list[Stage]:
        """The stages to start now; they count as running from here on."""
        started = []
        for stage in list(self._waiting):
            if not self._may_start(stage):
                continue
            self._waiting.remove(stage)
            self._running[stage.name] = (stage, time.monotonic())
            started.append(stage)
        return started

    def _may_start(self, stage: Stage) -> bool:
        if len(self._running) >= self._workers or not self._upstream[stage.name] <= set(
            self._states
        ):
            return False
        if any(other.exclusive for other, _ in self._running.values()):
            return False
        return not (stage.exclusive and self._running)

    def must_look(self, stage: Stage, force: bool) -> bool:
        """Whether a stage can have changed: by itself, or because something before it ran."""
        return bool(
            force
            or stage.changes
            or any(self._states[name].name != "Cached" for name in self._upstream[stage.name])
        )

    def arrive(self, name: str, state: State[Any]) -> None:
        """Take note of a stage's end; what depends on one that failed will not start."""
        _, start = self._running.pop(name)
        if not state.is_completed():
            self.failed[name] = state
            self.results.append(StageResult(name, state.name or "Failed", _since(start), 0.0))
            return
        self._states[name] = state
        body_seconds: Any = state.result(raise_on_failure=False)
        self.results.append(StageResult(name, state.name or "", _since(start), body_seconds))

    def is_over(self) -> bool:
        """Whether nothing runs and nothing that waits can ever start."""
        return not self._running and not any(map(self._may_start, self._waiting))

    def problem(self) -> str:
        """What failed, and what did not run for it."""
        lines = [f"{name}: {state.message}" for name, state in self.failed.items()]
        if self._waiting:
            lines.append(f"Not run because of that: {', '.join(s.name for s in self._waiting)}")
        return "\n".join(lines)


def checked_plan(workspace: Workspace, target: str | None) -> tuple[Stage, ...]:
    """The plan, of which every command is one that the flow can run."""
    plan = workspace.plan(target or None)
    for stage in plan:
        if stage.command:
            parse_command(stage.command)
    return plan


def rehearse(overrides: overriding.Overrides | None, target: str | None, force: bool) -> list[str]:
    """What a run would do, a line for each stage; leaves everything as it is."""
    as_it_was = paths.SETTINGS.read_text() if paths.SETTINGS.exists() else ""
    with Workspace() as workspace:
        overriding.write(overriding.overridden(overrides or ()))
        try:
            plan = checked_plan(workspace, target)
        finally:
            overriding.write(as_it_was)
    lines: list[str] = []
    touched: set[str] = set()
    for stage in plan:
        if force or stage.changes:
            why = "forced" if force else ", ".join(stage.changes)
            lines.append(f"{stage.name}: would run: {why}")
        elif stage.upstream & touched:
            lines.append(f"{stage.name}: would run if what it depends on comes out different")
        else:
            lines.append(f"{stage.name}: unchanged")
            continue
        touched.add(stage.name)
    return lines


def _put(arrived: queue.SimpleQueue[str], name: str, _: PrefectFuture[Any]) -> None:
    arrived.put(name)


def begin() -> AnyLogger:
    """What every flow here does first; returns the run's logger."""
    if runtime.deployment.id:
        end_with_starter()
    for name in ("task_runs", "flow_runs", "engine"):
        logging.getLogger(f"prefect.{name}").addFilter(_tells_something)
    return get_run_logger()


def _tells_something(record: logging.LogRecord) -> bool:
    """False for what Prefect says beside a failed state: the same, and a traceback of nothing."""
    kind, *_ = record.exc_info or (Exception,)
    return kind is not None and not issubclass(kind, FailedRun | CancelledRun)


def _since(start: float) -> float:
    return time.monotonic() - start


def main(words: Sequence[str] | None = None) -> int:
    """Run the flow as the command line asks, and return the exit code."""
    asked = _parser().parse_args(words)
    try:
        if asked.dry_run:
            sys.stdout.write("\n".join(rehearse(asked.set, asked.target, asked.force)) + "\n")
            return 0
        overriding.overridden(asked.set)
        with Workspace() as workspace:
            checked_plan(workspace, asked.target)
    except InputError as error:
        return _say(str(error), MISTAKE)
    except WorkspaceBusyError as error:
        return _say(str(error), FAILURE)
    return exit_code(
        lambda: compress(
            asked.set,
            asked.target,
            asked.force,
            workers=asked.workers,
            pull=asked.pull,
            push=asked.push,
            return_state=True,
        )
    )


def exit_code(run: Callable[[], State[Any]]) -> int:
    """Run a flow with a server to talk to, and say on standard error how it ended if not well."""
    try:
        use_server()
        state = run()
    except KeyboardInterrupt:
        return _say("interrupted; run again to go on from here", INTERRUPTED)
    except TerminationSignal:
        return _say("terminated; run again to go on from here", TERMINATED)
    except httpx.TransportError:
        _say(
            "Prefect's server does not answer. Every stage that finished is recorded by DVC; run "
            "again to go on from here.",
            FAILURE,
        )
        sys.stderr.flush()
        os._exit(FAILURE)  # an ordinary exit waits a minute or two to tell the server everything
    if state.is_completed():
        return 0
    return _say(state.message or "the run failed", MISTAKE if state.name == REFUSED else FAILURE)


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.compress",
        description="Shrink the autoencoder of the workspace in the current directory. Stages "
        "that did not change are left as they are, so running again is how to resume.",
        epilog="Exit codes: 0 all is well, 1 a stage failed, 2 something given cannot be used.",
    )
    parser.add_argument(
        "-S", "--set", action="append", default=[], metavar="KEY=VALUE",
        help="write a setting into params.yaml first, such as guard.tolerance=0.2; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--target", metavar="STAGE", help="stop at this stage: run it and what it needs"
    )
    parser.add_argument("--force", action="store_true", help="run every stage, changed or not")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would run, and run nothing"
    )
    parser.add_argument(
        "--pull", action="store_true",
        help="get what other machines pushed to DVC's remote instead of running it here",
    )  # fmt: skip
    parser.add_argument(
        "--push", action="store_true",
        help="push what this run leaves to DVC's remote, for other machines to pull",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=_positive, default=WORKERS, metavar="N",
        help="stages that may run side by side (default: %(default)s)",
    )  # fmt: skip
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}, allowed: a whole number from 1 up")
    return number


if __name__ == "__main__":
    sys.exit(main())
