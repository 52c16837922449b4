"""A study: ladders by seeds, side by side on the engine that is asked for, and the best of them.

`python -m flows.study --help` tells how to run it.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows.compress import MISTAKE, REFUSED, WORKERS, begin, exit_code
from secateur.errors import InputError
from secateur.settings import load_settings
from tasks import overrides as overriding
from tasks import study as studies

Engine = Literal["threads", "processes", "dask", "ray"]
SECONDS_TO_ANSWER = 5.0


def run_name() -> str:
    """What a flow run is called: what it varies."""
    asked = runtime.flow_run.parameters
    return f"{', '.join(asked['vary'] or {})} on {asked['engine']}"


@flow(flow_run_name=run_name)
def study(
    vary: dict[str, Any],
    seeds: list[int] | None = None,
    trials: int | None = None,
    engine: Engine = "threads",
    workers: int = WORKERS,
    address: str | None = None,
    write_best: bool = False,
) -> State[Any]:
    """Run ladders under settings that vary, each on every seed, and rank them.

    A ladder is the better, the smaller its champion is. Test data is not touched.

    Args:
        vary: From a setting to a list of values, such as {"rounds.*.options.keep": [0.6, 0.8]}, or
            to a range {"low": 0.4, "high": 0.9} where trials are sampled
        seeds: Every ladder runs once on each
        trials: Ladders that Optuna samples; every combination of the values, if empty
        engine: What runs trials side by side: threads or processes here, Dask, or Ray
        workers: Trials side by side, where the engine is started here
        address: Of a Dask or Ray cluster that is there already; its workers must see this folder
        write_best: Write the best ladder's values into params.yaml
    """
    logger = begin()
    try:
        choices = checked_choices(vary, trials)
        runner = task_runner(engine, workers, address)
    except InputError as error:
        return Failed(name=REFUSED, message=str(error))
    rows = fan_out.with_options(task_runner=runner)(
        vary, choices, seeds or [0], trials or 0, workers
    )
    ladders = studies.write_tables(rows)
    shown = ladders.round(5).astype(object).where(ladders.notna(), None)
    create_table_artifact(
        table=[{str(name): cell for name, cell in row.items()} for row in shown.to_dict("records")],
        key="study",
        description=f"Ladders, the best first, by {studies.minimised(load_settings())}",
    )
    logger.info("\n%s", ladders.round(4).to_string(index=False))
    best = ladders.iloc[0]
    if best["failed"]:
        problems = {str(row["problem"]) for row in rows if row["state"] == "failed"}
        return Failed(message="Every ladder failed: " + "; ".join(sorted(problems)))
    choice = next(row["choice"] for row in rows if row["ladder"] == best["ladder"])
    if write_best:
        overriding.write(studies.write_best(choice))
    message = (
        f"The best of {len(ladders)} ladders leaves {best['share']:.1%} of the baseline's "
        f"{studies.minimised(load_settings())}: {_words(choice)}. See {studies.TABLES}"
    )
    return Completed(message=message)


@flow(name="trials", flow_run_name="trials")
def fan_out(
    vary: dict[str, Any],
    choices: list[dict[str, Any]] | None,
    seeds: list[int],
    trials: int,
    workers: int,
) -> list[dict[str, Any]]:
    """Every ladder on every seed: the rows of the study's table."""
    if choices is not None:
        return _run_side_by_side(dict(enumerate(choices)), seeds)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = studies.Space(vary)
    sampler = optuna.samplers.TPESampler(seed=load_settings().seed, constant_liar=True)
    search = optuna.create_study(sampler=sampler)
    rows: list[dict[str, Any]] = []
    while len(search.trials) < trials:
        count = min(workers, trials - len(search.trials))
        asked = [search.ask() for _ in range(count)]
        found = _run_side_by_side({one.number: space.suggest(one) for one in asked}, seeds)
        rows += found
        for one in asked:  # in the order of asking, so that the next proposals are the same again
            its = [row for row in found if row["ladder"] == one.number]
            if any(row["state"] == "failed" for row in its):
                search.tell(one, state=optuna.trial.TrialState.FAIL)
            else:
                search.tell(one, statistics.fmean(row["share"] for row in its))
    return rows


def _run_side_by_side(
    choices: dict[int, dict[str, Any]], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    submitted: list[tuple[dict[str, Any], dict[str, Any], Any, str]] = []
    for ladder, choice in choices.items():
        for seed in seeds:
            row = {"ladder": ladder, "seed": seed, **choice}
            try:
                folder = studies.lay_out(choice, seed)
            except InputError as error:
                submitted.append((row, choice, None, str(error)))
                continue
            name = f"ladder {ladder}, seed {seed}"
            future = run_trial.submit(name, str(Path.cwd()), str(folder))
            submitted.append((row, choice, future, ""))
    return [
        {**row, **_result(future, problem), "choice": choice}
        for row, choice, future, problem in submitted
    ]


def _result(future: Any, problem: str) -> dict[str, Any]:
    if future is None:
        return {"state": "failed", "problem": problem}
    future.wait()
    if not future.state.is_completed():
        return {"state": "failed", "problem": future.state.message or "failed"}
    found = future.result()
    found.pop("rungs")
    return {"state": "completed", "problem": "", **found}


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_trial(name: str, workspace: str, folder: str) -> Any:
    """One trial, in a process of its own that ends when this one does.

    Args:
        name: of the trial, for the UI.
        workspace: the folder that holds `tasks/`.
        folder: of the trial, as `tasks.study.lay_out` made it.
    """
    logger = get_run_logger()
    done = studies.outcome(Path(workspace, folder))
    if done is not None:
        logger.info("Done before")
        return done
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.leash", "tasks.trial", folder],
        cwd=workspace,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        last = ""
        for line in _lines(process):
            last = line
            logger.info("%s", line)
        if process.wait() != 0:
            return Failed(message=last.removeprefix("error: ") or "the trial's process died")
    finally:
        process.kill()
        process.wait()
    return studies.outcome(Path(workspace, folder))


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip():
            yield line.rstrip()


def task_runner(engine: Engine, workers: int, address: str | None = None) -> TaskRunner[Any]:
    """Prefect's own runner of tasks for an engine.

    Raises:
        InputError: the engine is unknown, its package is not installed, or nothing answers at the
            address.
    """
    if engine not in get_args(Engine):
        raise InputError(f"Unknown engine {engine!r}. Known: {', '.join(get_args(Engine))}")
    if address and engine not in ("dask", "ray"):
        raise InputError(f"engine {engine!r} takes no address; dask and ray do")
    if address:
        _check_answers(address)
    try:
        return _RUNNERS[engine](workers, address)
    except ImportError as error:
        raise InputError(
            f"engine {engine!r} needs a package that is not installed ({error.name}); "
            f'`pip install "secateur[{engine}]"` brings it'
        ) from None


def _check_answers(address: str) -> None:
    """See that there is somebody: the engines themselves would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal() and int(port) < 2**16):
        raise InputError(
            f"the address {address!r} cannot be used; allowed: host:port, tcp://host:port of a "
            "Dask scheduler, ray://host:port of Ray's client server"
        )
    try:
        socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise InputError(
            f"nothing answers at {address} ({error}); start the cluster first, see docs/scale.md, "
            "or leave out the address to have one here"
        ) from None


def _dask(workers: int, address: str | None) -> TaskRunner[Any]:
    from prefect_dask import DaskTaskRunner

    if address:
        return DaskTaskRunner(address=address)
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": workers,
            "threads_per_worker": 1,
            "host": "127.0.0.1",
            "dashboard_address": None,
        }
    )


def _ray(workers: int, address: str | None) -> TaskRunner[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        # Ray listens on every address of a machine that can be part of a cluster.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from prefect_ray import RayTaskRunner

    here = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    init_kwargs: dict[str, Any] = {"runtime_env": {"env_vars": here}}
    if address:
        return RayTaskRunner(address=address, init_kwargs=init_kwargs)
    # Not a cluster that happens to run on this machine, or has left its address there.
    init_kwargs |= {"num_cpus": workers, "include_dashboard": False}
    return RayTaskRunner(address="local", init_kwargs=init_kwargs)


_RUNNERS: dict[str, Any] = {
    "threads": lambda workers, _: ThreadPoolTaskRunner(max_workers=workers),
    "processes": lambda workers, _: ProcessPoolTaskRunner(max_workers=workers),
    "dask": _dask,
    "ray": _ray,
}


def checked_choices(vary: dict[str, Any], trials: int | None) -> list[dict[str, Any]] | None:
    """The ladders of a study, or None where they are sampled.

    Raises:
        InputError: the ladders cannot be told, or are none: their settings do not exist, for one.
    """
    space = studies.Space(vary)
    choices = None if trials else space.grid()
    studies.lay_out(choices[0] if choices else space.first(), seed=0)
    return choices


def _words(choice: dict[str, Any]) -> str:
    return ", ".join(f"{place}={value}" for place, value in choice.items())


def main(words: Sequence[str] | None = None) -> int:
    """Run the flow as the command line asks, and return the exit code."""
    asked = _parser().parse_args(words)
    logging.getLogger("distributed").setLevel(logging.ERROR)
    try:
        vary = studies.parse_vary(asked.vary)
        seeds = [int(seed) for seed in asked.seeds.split(",")]
        checked_choices(vary, asked.trials)
    except (InputError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return MISTAKE

    def run() -> State[Any]:
        state: State[Any] = study(
            vary, seeds, asked.trials, asked.engine, asked.workers, asked.address,
            asked.write_best, return_state=True,
        )  # fmt: skip
        if state.is_completed():
            sys.stdout.write(f"{state.message}\n")
        return state

    return exit_code(run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.study",
        description="Run the workspace's ladder under settings that vary, on several seeds, and "
        "rank the outcomes by the champion's cost on validation data. What is done is kept: "
        "running again is how to resume.",
    )
    parser.add_argument(
        "-V", "--vary", action="append", default=[], metavar="KEY=VALUES", required=True,
        help="values of a setting, such as 'rounds.*.options.keep=[0.6, 0.8]', or with --trials a "
        "range '{low: 0.4, high: 0.9}'; repeatable",
    )  # fmt: skip
    parser.add_argument("--seeds", default="0", metavar="0,1,2", help="default: %(default)s")
    parser.add_argument("--trials", type=int, metavar="N", help="ladders that Optuna samples")
    parser.add_argument("--engine", choices=get_args(Engine), default="threads")
    parser.add_argument("--workers", type=int, default=WORKERS, metavar="N")
    parser.add_argument("--address", help="of a Dask or Ray cluster that is there already")
    parser.add_argument(
        "--write-best", action="store_true", help="write the best values into params.yaml"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
