"""Which trials a study has, where each lives, and what its tables tell."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import pandas as pd
from ruamel.yaml import YAML, YAMLError

import secateur
from secateur import paths
from secateur.errors import InputError
from secateur.settings import Settings, load_settings, parse_settings
from tasks.overrides import overridden, write

if TYPE_CHECKING:
    import optuna

STUDIES = paths.SCRATCH / "study"
TABLES = paths.REPORTS / "study"
TRIALS_TABLE, LADDERS_TABLE = "trials.csv", "ladders.csv"
OUTCOME = "trial.json"
BASE = "base"  # in a trial's folder, a link to the one with its data and its baseline

Choice = dict[str, Any]
"""From a setting's place, such as `rounds.round_1.options.keep`, to its value in one ladder."""


class Space:
    """The ladders that a study may look at: settings, and the values that each may take."""

    def __init__(self, vary: Mapping[str, Any]) -> None:
        """Read what is to vary.

        Args:
            vary: from a setting's place to a list of values, or to a range such as
                `{low: 0.4, high: 0.9}` with `log: true` if wanted. `rounds.*` is every round.

        Raises:
            InputError: a place has neither a list of values nor a range.
        """
        self.vary = {place: _checked(place, values) for place, values in vary.items()}

    def grid(self) -> list[Choice]:
        """Every combination of values.

        Raises:
            InputError: a range is among them, which has no last value.
        """
        ranges = [place for place, values in self.vary.items() if not isinstance(values, list)]
        if ranges:
            raise InputError(
                f"{', '.join(ranges)}: a range needs a number of trials to sample; allowed "
                "without one: a list of values"
            )
        return [
            dict(zip(self.vary, some, strict=True))
            for some in itertools.product(*self.vary.values())
        ]

    def first(self) -> Choice:
        """Any one ladder."""
        return {
            place: values[0] if isinstance(values, list) else values["low"]
            for place, values in self.vary.items()
        }

    def suggest(self, trial: optuna.Trial) -> Choice:
        """One ladder, as a sampler of Optuna's proposes it."""
        return {place: _suggest(trial, place, values) for place, values in self.vary.items()}


def parse_vary(words: Iterable[str]) -> dict[str, Any]:
    """`place=values` words, the values in YAML, as `Space` takes them.

    Raises:
        InputError: a word has no `=`, or its value is not YAML.
    """
    vary = {}
    for word in words:
        place, equals, values = word.partition("=")
        try:
            vary[place.strip()] = YAML(typ="safe").load(values)
        except YAMLError:
            raise InputError(f"The values of {place} are not valid YAML: {values!r}") from None
        if not (place and equals):
            raise InputError(f"What varies is given as section.key=[values], got {word!r}")
    return vary


def lay_out(choice: Choice, seed: int) -> Path:
    """The folder of a trial, ready for `tasks.trial`.

    Its name depends on all that shapes the trial: settings, seed, data and this code. So a study
    that is run again finds what it has already done.

    Args:
        choice: what the trial's settings have in place of the workspace's own.
        seed: of everything in the trial.

    Raises:
        InputError: the settings would not be allowed.
    """
    text = overridden({**_spread(choice), "seed": seed})
    content = YAML(typ="safe").load(text)
    data = parse_settings(content, paths.SETTINGS).data.path
    shaping = [seed, content.get("data"), content.get("baseline")]
    origin = [_md5_of_code(), _md5_of_files(data)]
    base = STUDIES / "bases" / _key(origin, shaping)
    folder = STUDIES / "trials" / _key(origin, content)
    for one in (base, folder):
        one.mkdir(parents=True, exist_ok=True)
        write(text, one / paths.SETTINGS)
    point(folder / BASE, base)
    if not data.is_absolute():
        point(base / data, data)
    return folder


def point(link: Path, target: Path) -> None:
    """Make a link to a file or folder, if there is none yet."""
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target.resolve())


def outcome(folder: Path) -> dict[str, Any] | None:
    """What a trial that has come to its end found; None for one that has not."""
    path = folder / OUTCOME
    return paths.read_json(path) if path.exists() else None


def write_tables(trials: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Write all trials into one table, and beside it the mean and deviation of each ladder.

    Args:
        trials: a row a trial: `ladder`, its number; `seed`; `state`; the settings that vary; and
            of trials that came to their end `share`, the champion's cost as a share of the
            baseline's, and `mse_to_baseline`.

    Returns:
        The table of ladders, the best first: the smallest mean share, of equals the smallest mean
        error. Ladders of which a trial failed come last.
    """
    table = pd.DataFrame(trials).drop(columns="choice", errors="ignore")
    ladders = _ladders(table)
    with paths.publishing(TABLES) as folder:
        table.to_csv(folder / TRIALS_TABLE, index=False, lineterminator="\n")
        ladders.to_csv(folder / LADDERS_TABLE, index=False, lineterminator="\n")
    return ladders


def _ladders(table: pd.DataFrame) -> pd.DataFrame:
    measured = [name for name in ("share", "mse_to_baseline") if name in table]
    grouped = table.groupby("ladder", sort=False)
    ladders = pd.DataFrame(
        {"seeds": grouped["seed"].count(), "failed": grouped["state"].agg(_failures)}
    )
    for name in measured:
        ladders[name] = grouped[name].mean()
        ladders[f"{name}_deviation"] = grouped[name].std()
    order = ladders.sort_values(["failed", *measured], kind="stable").reset_index()
    varied = [name for name in table if "." in str(name)]
    return order.merge(table.drop_duplicates("ladder")[["ladder", *varied]], on="ladder")


def _failures(states: pd.Series[str]) -> int:
    return int((states == "failed").sum())


def _checked(place: str, values: Any) -> Any:
    if isinstance(values, list) and values:
        return values
    if isinstance(values, dict) and set(values) <= {"low", "high", "log"}:
        low, high = values.get("low"), values.get("high")
        if _is_number(low) and _is_number(high) and low < high:
            return values
    raise InputError(
        f"{place} varies over {values!r}; allowed: a list of values, or a range {{low: 0.4, "
        "high: 0.9}, with log: true if wanted"
    )


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _suggest(trial: optuna.Trial, place: str, values: Any) -> Any:
    if isinstance(values, list):
        return json.loads(trial.suggest_categorical(place, [json.dumps(one) for one in values]))
    low, high, log = values["low"], values["high"], bool(values.get("log", False))
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(place, low, high, log=log)
    return trial.suggest_float(place, low, high, log=log)


def _spread(choice: Choice) -> Choice:
    """A choice with `rounds.*` written out for every round."""
    rounds = load_settings().rounds
    spread: Choice = {}
    for place, value in choice.items():
        names = rounds if place.startswith("rounds.*.") else [""]
        spread |= {place.replace("rounds.*.", f"rounds.{name}.", 1): value for name in names}
    return spread


def write_best(choice: Choice) -> str:
    """The settings file's text with a ladder's values in it."""
    return overridden(_spread(choice))


def minimised(settings: Settings) -> str:
    """The cost that a study's ladders are ranked by, in words."""
    return settings.champion.minimised_for(settings.goal).replace("_", " ")


def _key(*content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@cache
def _md5_of_code() -> str:
    package = Path(secateur.__file__).parent
    return _md5_of_files(package, "*.py") + _md5_of_files(Path(__file__).parent, "*.py")


def _md5_of_files(top: Path, pattern: str = "*") -> str:
    files = [top] if top.is_file() else sorted(f for f in top.rglob(pattern) if f.is_file())
    sums = []
    for path in files:
        with path.open("rb") as file:
            sums.append([str(path), hashlib.file_digest(file, "md5").hexdigest()])
    return _key(sums)
