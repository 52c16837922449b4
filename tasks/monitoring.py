"""What people look at in Prefect's UI: progress of trainings, the frontier, pictures, a summary.

The only module that makes Prefect artifacts. They show the run and are no part of it: a server
that has gone away costs a warning, never a result.
"""

from __future__ import annotations

import base64
import csv
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from logging import Logger, LoggerAdapter
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event

from secateur import paths

SECONDS_BETWEEN_UPDATES = 1.0
PROMOTED = "secateur.champion.promoted"
# What the frontier's table shows of frontier.csv, and under which heading: what fits on a screen.
COLUMNS = {
    "parameters": "parameters",
    "nonzeros": "nonzeros",
    "macs": "MACs",
    "test_mse": "test MSE",
    "test_mse_ratio": "to baseline",
    "auc": "AUC",
    "int8_test_mse": "int8 MSE",
    "int8_bytes": "int8 bytes",
    "int8_median_us": "int8 µs",
    "float32_median_us": "float32 µs",
}

_SHIFTS_SHOWN = 30

AnyLogger = Logger | LoggerAdapter[Any]


class StageResult(NamedTuple):
    """How one stage ended."""

    stage: str
    state: str
    seconds: float
    """From when the stage could start until it was recorded."""
    body_seconds: float
    """Spent in the stage's own work; 0 if it did not run."""


class Monitor:
    """Makes artifacts for as long as the server takes them."""

    def __init__(self, logger: AnyLogger, is_gone: Callable[[], bool] = lambda: False) -> None:
        """Make a monitor.

        Args:
            logger: told once if the server takes no artifact.
            is_gone: whether somebody knows already that the server does not answer.
        """
        self._logger = logger
        self._is_gone = is_gone
        self._answers = True

    def training(self) -> Training:
        """The progress artifacts of one stage's trainings."""
        return Training(self)

    def frontier(self) -> None:
        """A table of every rung and control: what people compare, out of `frontier.csv`."""
        self.make(
            create_table_artifact,
            table=frontier_rows(paths.FRONTIER.read_text()),
            key="frontier",
            description=f"Quality against cost: every rung and control. All columns: "
            f"{paths.FRONTIER}",
        )

    def pictures(self) -> None:
        """The report's pictures, carried whole, so that they show without a file server.

        As Markdown: under an image artifact Prefect writes its address out, which is all of it.
        """
        for picture in sorted(paths.PICTURES.glob("*.png")):
            name = picture.stem.replace("_", " ").capitalize()
            data = base64.b64encode(picture.read_bytes()).decode()
            self.make(
                create_markdown_artifact,
                markdown=f"![{name}](data:image/png;base64,{data})\n",
                key=_key(picture.stem, "picture"),
                description=f"{name} ({picture})",
            )

    def summary(self, results: Sequence[StageResult]) -> None:
        """What came out of the run, in a page of Markdown."""
        self.make(
            create_markdown_artifact,
            markdown=summary_text(results),
            key="summary",
            description="What was cut, what the guard said, and how each stage ended",
        )

    def page(self, key: str, text: str, description: str) -> None:
        """A page of Markdown."""
        self.make(create_markdown_artifact, markdown=text, key=key, description=description)

    def make(self, create: Callable[..., Any], **content: Any) -> Any:
        """What `create` returns, or None if the server does not take it."""
        if not self._answers or self._is_gone():
            return None
        try:
            return create(**content)
        except Exception as error:  # whatever goes wrong here, the stages' work is worth more
            if not self._is_gone():  # it may come back
                self._answers = False
                self._logger.warning("Prefect took no artifact: %r; going on without", error)
            return None


@dataclass
class _Bar:
    artifact: UUID | None
    description: str
    next_update: float


class Training:
    """Shows how far the trainings inside one stage are."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._bars: dict[str, _Bar] = {}

    def show(self, progress: dict[str, Any]) -> None:
        """Show the progress record of one epoch."""
        name = progress["name"]
        share = 100 * progress["epoch"] / progress["epochs"]
        description = (
            f"{name}: epoch {progress['epoch']} of {progress['epochs']}, "
            f"loss {progress['loss']:.4g}, validation loss {progress['validation_loss']:.4g}"
        )
        left = f", {_duration(progress['eta_seconds'])} left"
        now = time.monotonic()
        if name not in self._bars:
            artifact = self._monitor.make(
                create_progress_artifact,
                progress=share,
                key=_key("training", name),
                description=description + left,
            )
            self._bars[name] = _Bar(artifact, description, now + SECONDS_BETWEEN_UPDATES)
            return
        bar = self._bars[name]
        bar.description = description
        if now >= bar.next_update:
            bar.next_update = now + SECONDS_BETWEEN_UPDATES
            self._update(bar, share, description + left)

    def end(self) -> None:
        """Show every training as done: one that stops early never reports its last epoch."""
        for bar in self._bars.values():
            self._update(bar, 100.0, bar.description + ", done")

    def _update(self, bar: _Bar, share: float, description: str) -> None:
        if bar.artifact is not None:
            self._monitor.make(
                update_progress_artifact,
                artifact_id=bar.artifact,
                progress=share,
                description=description,
            )


def announce_promotion(workspace: str, message: str) -> None:
    """Tell Prefect that a new champion serves, for automations to pass on.

    Args:
        workspace: whose champion it is.
        message: what there is to know, in a sentence.
    """
    emit_event(
        event=PROMOTED,
        resource={
            "prefect.resource.id": f"secateur.{workspace}",
            "prefect.resource.name": workspace,
        },
        payload={"message": message},
    )


def refresh_text() -> str:
    """A page of Markdown: what moved in the data, by feature, and what the guard said then."""
    drift = _read(paths.REFRESH / paths.DRIFT)
    contest = _read(paths.REFRESH / paths.CONTEST)
    parts = [f"**{drift['message']}**"]
    if contest is not None:
        parts += [f"{'Promoted' if contest['accepted'] else 'Kept'}: {contest['message']}"]
    if drift["features"]:
        parts += [
            f"{drift['new_rows']:,} of {drift['rows']:,} rows are held against those that the "
            f"champion was trained on. {drift['alarms']:.1%} of them raise an alarm."
        ]
        columns = ("", "distance", "adjusted p", "moved")
        shown = [drift["error"], *drift["features"][:_SHIFTS_SHOWN]]
        parts += [_table(columns, map(_shift_row, shown))]
        if len(drift["features"]) > _SHIFTS_SHOWN:
            parts += [f"All {len(drift['features'])}: {paths.REFRESH / paths.DRIFT}"]
    return "\n\n".join(parts) + "\n"


def _shift_row(shift: Mapping[str, Any]) -> tuple[str, ...]:
    moved = "yes" if shift["moved"] else ""
    return shift["name"], f"{shift['effect']:.3f}", f"{shift['p_value']:.2g}", moved


def told_state(module: str, words: Sequence[str]) -> str | None:
    """The state that a stage's own files tell of, where it is worth a name: of a judged round."""
    try:
        if module == "tasks.judge":
            state = paths.read_json(paths.DECISIONS / words[0] / paths.VERDICT)["state"]
        elif module == "tasks.shrink":
            state = paths.read_json(paths.rung_folder(words[0]) / paths.METRICS)["state"]
        else:
            return None
    except (OSError, KeyError, IndexError, ValueError):
        return None
    return {"rejected": "Rejected", "passed_through": "Passed through"}.get(state)


def verdict() -> str | None:
    """The run's result in one sentence; None if no champion was chosen yet."""
    record = _read(paths.CHAMPION / paths.CHAMPION_RECORD)
    if record is None:
        return None
    candidates = {candidate["rung"]: candidate for candidate in record["candidates"]}
    first = record["candidates"][0]
    unit = record["minimise"].replace("_", " ")
    if record["rung"] == first["rung"]:
        return f"The champion is {first['rung']} itself: the guard let no smaller rung through."
    value, whole = record["value"], first["value"]
    return (
        f"The champion is {record['rung']}: {value:,} {unit}, {value / whole:.0%} of "
        f"{first['rung']}'s {whole:,}; the guard let "
        f"{sum(candidate['accepted'] for candidate in candidates.values()) - 1} of "
        f"{len(candidates) - 1} rounds through."
    )


def frontier_rows(table: str) -> list[dict[str, Any]]:
    """The rows of `frontier.csv` as people compare them.

    Args:
        table: the text of `frontier.csv`.

    Returns:
        A row a rung or control: its name, starred if it is the champion, its state, and of COLUMNS
        those that hold a number anywhere.
    """
    rows = list(csv.DictReader(table.splitlines()))
    shown = [name for name in COLUMNS if any(row.get(name) for row in rows)]
    return [
        {
            "rung": ("★ " if row["champion"] == "True" else "") + row["name"],
            "state": row["state"].replace("_", " ") or "control",
            **{COLUMNS[name]: _number(row[name]) for name in shown},
        }
        for row in rows
    ]


def summary_text(results: Sequence[StageResult]) -> str:
    """A page of Markdown: the verdict, what was cut, what the guard said, how each stage ended."""
    parts = [f"**{verdict() or 'No champion yet.'}**"]
    if paths.PAGE.exists():
        # No link: browsers refuse to follow one from a page of a server to a file.
        parts.append(f"The report is `{paths.PAGE.resolve()}` on {socket.gethostname()}.")
    decisions = sorted(paths.DECISIONS.glob(f"*/{paths.VERDICT}"))
    verdicts = [v for v in map(_read, decisions) if v and v["state"] != "baseline"]
    if verdicts:
        cuts = {v["rung"]: _read(paths.rung_folder(v["rung"]) / paths.CUT) or {} for v in verdicts}
        parts += ["## What was cut", _table(("rung", "cut"), map(_cut_row, cuts.items()))]
        parts += ["\n".join(_left_alone(cuts))]
        columns = ("rung", "state", "metric", "baseline", "round", "lost", "at most", "tolerance")
        rows_told = [row for verdict in verdicts for row in _verdict_rows(verdict)]
        parts += ["## What the guard said", _table(columns, rows_told)]
    rows = (
        (result.stage, result.state, f"{result.seconds:.1f}", f"{result.body_seconds:.1f}")
        for result in results
    )
    parts += ["## Stages", _table(("stage", "state", "seconds", "of which its own work"), rows)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _cut_row(entry: tuple[str, Mapping[str, Any]]) -> tuple[str, str]:
    rung, cut = entry
    return rung, "; ".join(map(_what_went, cut.get("groups", ()))) or "nothing"


def _what_went(group: Mapping[str, Any]) -> str:
    """`encoder_1 64 → 45`, and whatever else a method counts before and after."""
    words = []
    for key, before in group.items():
        thing = key.removesuffix("_before")
        after = group.get(f"{thing}_after", before)
        if thing != key and after != before:
            unit = "" if thing == "units" else f" {thing.replace('_', ' ')}"
            words.append(f"{_count(before)} → {_count(after)}{unit}")
    if "folded_into" in group:
        words.append(f"folded into {', '.join(group['folded_into'])}")
    return " ".join((group["layer"], ", ".join(words) or "changed"))


def _left_alone(cuts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line for each layer that stayed as it was and why, and in which rounds if not in all."""
    rungs: dict[str, list[str]] = {}
    for rung, cut in cuts.items():
        for skip in cut.get("skipped", ()):
            rungs.setdefault(f"{skip['layer']}: {skip['reason']}", []).append(rung)
    if rungs:
        yield "Left alone:\n"
    for line, where in rungs.items():
        yield f"- {line}" + ("" if len(where) == len(cuts) else f" ({', '.join(where)})")


def _verdict_rows(verdict: dict[str, Any]) -> list[tuple[str, ...]]:
    told = verdict["rung"], verdict["state"].replace("_", " ")
    return [
        (
            *told,
            name,
            *(f"{found[key]:.4g}" for key in ("baseline", "candidate")),
            *(
                f"{found[key]:+.1%}" if found["relative"] else f"{found[key]:+.3g}"
                for key in ("loss", "upper_bound", "tolerance")
            ),
        )
        for name, found in verdict.get("metrics", {}).items()
    ] or [(*told, *("-" * 6))]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _read(path: Path) -> Any:
    return paths.read_json(path) if path.exists() else None


def _number(text: str) -> Any:
    """A cell of a table: rounded as people read it where it is a number."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(f"{float(text):.5g}")
    except ValueError:
        return text


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d} min" if minutes else f"{seconds} s"


def _key(*words: str) -> str:
    """A key that Prefect takes: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
