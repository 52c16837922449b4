"""New data? Did it move? Then a new ladder, and its champion only if it is as good as the old one.

`python -m flows.refresh --help` tells how to run it, docs/refresh.md what it does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.compress import MISTAKE, REFUSED, WORKERS, begin, exit_code, worth_another_try
from flows.compress import compress as compress_flow
from flows.server import ServerWatch
from secateur.errors import InputError
from secateur.settings import DriftSettings
from tasks import refreshing, tagging
from tasks.monitoring import Monitor, announce_promotion, refresh_text, verdict
from tasks.versioning import VersioningError, WorkspaceBusyError

SECONDS_BEFORE_RETRY = 10


def run_name() -> str:
    """What a flow run is called: its workspace, and what was asked for."""
    asked = runtime.flow_run.parameters
    words = ["data"] if not asked["source"] else [f"data from {asked['source']}"]
    words += [word.replace("_", " ") for word in ("always", "dry_run") if asked[word]]
    return f"{Path.cwd().name}: {', '.join(words)}"


@flow(flow_run_name=run_name, task_runner=ThreadPoolTaskRunner(), retries=0)  # type: ignore[arg-type]
def refresh(
    source: str | None = None,
    drift: DriftSettings = DriftSettings(),  # noqa: B008, it is frozen
    tolerance: Annotated[float, Field(ge=0)] = 0.0,
    always: bool = False,
    dry_run: bool = False,
    push: bool = True,
    tag: Literal["patch", "minor", "major"] | None = None,
    workers: Annotated[int, Field(ge=1)] = WORKERS,
    retries: Annotated[int, Field(ge=0)] = 0,
) -> State[Any]:
    """Bring the champion of the workspace in the current directory up to date with its data.

    Nothing is run where the data did not move, and what serves is replaced only by a model that
    the guard finds as good. Running again goes on where a run ended.

    Args:
        source: A folder or an address such as s3://bucket/prefix to import the data from, the
            first time; later runs know it
        drift: When new data is worth a new ladder
        tolerance: Largest rise of the error over the serving champion's that a promotion may
            bring, as a fraction
        always: Run the ladder even if nothing moved
        dry_run: Bring in the data and say what moved; run and promote nothing
        push: Push data and models to DVC's default remote, if there is one
        tag: Commit the records of a new champion and tag the version in git, raising this part
        workers: Stages that may run side by side
        retries: How often to try again what failed for a reason that may pass
    """
    logger = begin()
    try:
        with ServerWatch(logger) as server:
            monitor = Monitor(logger, lambda: server.gone)
            state = refreshed(
                source, drift, tolerance, always, dry_run, tag, workers, retries, monitor
            )
            if not dry_run:
                made_known(state, push, tag, retries)
            logger.info("%s", state.message)
            return state
    except NotDone as end:
        return end.state


def refreshed(
    source: str | None,
    drift: DriftSettings,
    tolerance: float,
    always: bool,
    dry_run: bool,
    tag: str | None,
    workers: int,
    retries: int,
    monitor: Monitor,
) -> State[Any]:
    """Look at the data, and renew the champion if that is due."""
    take("see what serves", refreshing.remember_what_serves)
    if tag is not None:
        take("see what git says", refreshing.check_tag)
    take("update data", lambda: refreshing.update_data(source), retries)
    moved = take("look for drift", lambda: refreshing.look_for_drift(drift))
    get_run_logger().info("%s", moved["message"])
    monitor.page("refresh", refresh_text(), "What moved in the data, and what came of it")
    if dry_run or not (moved["moved"] or always):
        if not dry_run and take("see what is left to do", refreshing.left_unfinished):
            ladder(None, workers, retries)
        name = "Rehearsed" if dry_run else "Nothing moved"
        return Completed(name=name, message=f"{name}: {moved['message']}")
    ladder("elect", workers, retries)
    verdict = take("compare with what serves", lambda: refreshing.compare(tolerance))
    monitor.page("refresh", refresh_text(), "What moved in the data, and what came of it")
    if not verdict["accepted"]:
        return Completed(name="Kept", message=f"Kept what serves: {verdict['message']}")
    ladder(None, workers, retries)
    return Completed(
        name="Promoted", message=f"Promoted {verdict['candidate']}: {verdict['message']}"
    )


def made_known(
    state: State[Any], push: bool, tag: Literal["patch", "minor", "major"] | None, retries: int
) -> None:
    """Share what serves, whichever run it was that promoted it."""
    news = str(state.message) if state.name == "Promoted" else verdict() or "A champion serves"
    take("announce", lambda: refreshing.announce(announce_promotion, news))
    if tag is not None:
        take("tag", lambda: refreshing.tag(news, tag))
    if push:
        take("push", refreshing.push, retries)


def ladder(target: str | None, workers: int, retries: int) -> None:
    """Bring the stages up to a target up to date, as a subflow; what serves is the last of all."""
    state: State[Any] = compress_flow(
        target=target, workers=workers, retries=retries, return_state=True
    )
    if not state.is_completed():
        raise NotDone(state)


def take(name: str, work: Callable[[], Any], retries: int = 0) -> Any:
    """What a step returns.

    Raises:
        NotDone: the step failed.
    """
    again = step.with_options(retries=retries)
    state: State[Any] = again(name, work, return_state=True)
    if not state.is_completed():
        raise NotDone(state)
    return state.result()


@task(
    task_run_name="{name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=worth_another_try,
    retry_delay_seconds=SECONDS_BEFORE_RETRY,
)
def step(name: str, work: Callable[[], Any]) -> Any:
    """One step of a refresh."""
    try:
        return work()
    except InputError as error:
        return Failed(name=REFUSED, message=str(error))
    except WorkspaceBusyError as error:
        return Cancelled(message=str(error))
    except (VersioningError, tagging.TaggingError) as error:
        return Failed(message=str(error))


class NotDone(Exception):  # noqa: N818, it carries an end and is none itself
    """A step or a subflow ended otherwise than well.

    Attributes:
        state: how it ended, and so how the refresh ends.
    """

    def __init__(self, state: State[Any]) -> None:
        super().__init__(state.message)
        kind = Cancelled if state.is_cancelled() else Failed
        self.state: State[Any] = kind(name=state.name, message=state.message)


def main(words: Sequence[str] | None = None) -> int:
    """Run the flow as the command line asks, and return the exit code."""
    asked = _parser().parse_args(words)
    try:
        refreshing.check_workspace()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return MISTAKE
    return exit_code(
        lambda: refresh(
            asked.source,
            DriftSettings(
                significance=asked.significance, effect=asked.effect, growth=asked.growth
            ),
            asked.tolerance,
            asked.always,
            asked.dry_run,
            asked.push,
            asked.tag,
            asked.workers,
            return_state=True,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.refresh",
        description="Bring the champion of the workspace in the current directory up to date with "
        "its data: update the data, and where it moved run the ladder and promote the new champion "
        "if it is as good as the one that serves.",
        epilog="Exit codes: 0 all is well, 1 a step failed, 2 something given cannot be used.",
    )
    known = DriftSettings()
    parser.add_argument("--source", metavar="FOLDER|ADDRESS", help="where to import the data from")
    for name, field in DriftSettings.model_fields.items():
        parser.add_argument(
            f"--{name}", type=float, default=getattr(known, name), metavar="SHARE",
            help=f"{field.description} (default: %(default)s)",
        )  # fmt: skip
    parser.add_argument(
        "--tolerance", type=float, default=0.0, metavar="SHARE",
        help="largest rise of the error that a promotion may bring (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--always", action="store_true", help="run the ladder in any case")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what moved; run and promote nothing"
    )
    parser.add_argument(
        "--no-push", dest="push", action="store_false", help="push nothing to DVC's remote"
    )
    parser.add_argument(
        "--tag", choices=("patch", "minor", "major"),
        help="commit the records of a new champion and tag the version in git",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=WORKERS, metavar="N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
