"""Spreading a budget over layers, and what every layer has to lose.

Each group of units has a path: the widths it may have, from whole to least, and how much the
model's error rises on the way down. A walk goes down these paths, always where the next step is
worth least, until what the model would cost fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from secateur.answers import Answers
from secateur.budgets import INT8_BYTES_A_CHANNEL
from secateur.compensation import Compensate, consumers_of
from secateur.graph import Footprint, Group, crossed_widths, dependency_groups, keep_units
from secateur.importance import SQUARES, Scene, leave
from secateur.metrics import mean_squared_error
from secateur.schedule import activation_bytes

Scope = Literal["local", "global", "erk", "adaptive"]
Normalize = Literal["none", "mean", "max", "lamp"]
Widths = dict[str, int]
"""Group's name -> number of units that stay."""

# A step of the walk takes at most this share of what is left of a group; the last one fits exactly.
_SHARE = 1 / 32
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Price:
    """What a model would cost by the numbers of units that stay; calling it tells.

    Attributes:
        of: numbers of units -> the cost; groups not named keep all of theirs.
        pull: the same for what is worth while: what units save is counted by it. Else `of` is.
    """

    of: Callable[[Mapping[str, int]], float]
    pull: Callable[[Mapping[str, int]], float] | None = None

    def __call__(self, kept: Mapping[str, int]) -> float:
        """The cost."""
        return self.of(kept)

    def saved(self, kept: Mapping[str, int], fewer: Mapping[str, int]) -> float:
        """What fewer units save."""
        count = self.pull or self.of
        return count(kept) - count(fewer)


@dataclass(frozen=True, eq=False)
class Path:
    """A group on its way from whole to nothing.

    Attributes:
        group: the group.
        widths: the widths that it may have, from all its units to the fewest.
        order: (units,) the units in the order in which they leave.
        rises: (units + 1,) float64: how much the model's mean squared error has risen when so many
            have left, by the closed form; infinite where nothing is known to read them.
        scores: (units,) float64: what the importance says of each, in the order they leave.
    """

    group: Group
    widths: tuple[int, ...]
    order: np.ndarray
    rises: np.ndarray
    scores: np.ndarray

    def rise(self, width: int) -> float:
        """How much the error has risen at a width."""
        return float(self.rises[self.group.units - width])

    def next(self, width: int, share: float = 0.0) -> int | None:
        """The widest of its widths that is narrower by a share at least; None at the end."""
        below = [one for one in self.widths if one < width]
        return next((one for one in below if one <= width * (1 - share)), None) or (
            below[-1] if below else None
        )


def widths_of(
    units: int, multiple: int = 1, minimum: int = 1, without: Collection[float] = ()
) -> tuple[int, ...]:
    """The widths that a group of so many units may have, descending.

    All its units; or a multiple of `multiple` that is not below `minimum` and not among those it
    has to do `without`.
    """
    least = math.ceil(minimum / multiple) * multiple
    narrower = range((units - 1) // multiple * multiple, least - 1, -multiple)
    return (units, *(one for one in narrower if one not in without))


def paths_of(
    model: keras.Model,
    sample: np.ndarray,
    answers: Answers,
    importance: str = "obs",
    normalize: Normalize = "none",
    compensate: Compensate = "least_squares",
    cut_code: bool = False,
    multiple: int = 1,
    minimum: int = 1,
    seed: int = 0,
) -> list[Path]:
    """The paths of all groups that may be cut, each while all others are whole.

    Args:
        model: the autoencoder.
        sample: (rows, ...) calibration sample.
        answers: of the model.
        importance: see `secateur.methods.units`, as all that follow.
        normalize: of the scores.
        compensate: what takes over when a unit leaves.
        cut_code: whether the code may be cut too.
        multiple: of which widths are.
        minimum: units that stay.
        seed: of a random importance.
    """
    paths = []
    for group in dependency_groups(model, cut_code):
        if group.frozen:
            continue
        widths = widths_of(group.units, multiple, minimum, crossed_widths(group))
        consumers = consumers_of(group, model, model, sample, compensate, answers)
        removed, scores = leave(
            Scene(group, consumers, model, sample), group.units, importance, seed
        )
        costs = [cost if consumers else math.inf for _, cost in removed]
        order = np.array([unit for unit, _ in removed])
        rises = np.concatenate([[0.0], np.cumsum(costs)])
        normalized = _normalized(scores, normalize, importance)
        paths.append(Path(group, widths, order, rises, normalized))
    return paths


def _normalized(scores: np.ndarray, normalize: Normalize, importance: str) -> np.ndarray:
    """Scores, in the order in which their units leave, made comparable across groups."""
    if normalize == "lamp":
        squares = scores if importance in SQUARES else scores**2
        left = np.cumsum(squares[::-1])[::-1]
        return squares / np.maximum(left, np.finfo(float).tiny)
    scale = {"none": 1.0, "mean": scores.mean(), "max": scores.max()}[normalize]
    return scores / (scale or 1.0)


def spread(paths: Sequence[Path], price: Price, limit: float, scope: Scope = "adaptive") -> Widths:
    """How many units each group keeps so that the model costs at most `limit`.

    Args:
        paths: of the groups that may be cut.
        price: what the model would cost.
        limit: the most that it may cost. Where that is out of reach every group is at its least.
        scope: which group gives next: `local`, the one that kept most of its units, so that all
            keep the same share; `erk`, the same with shares in proportion to (inputs + outputs) /
            (inputs x outputs) of the kernel that makes the units (Evci et al. 2020); `global`, the
            one whose next unit has the lowest score; `adaptive`, the one whose next units raise the
            model's error least for what they save.

    Returns:
        The widths of all groups with a path. Nothing more could stay: one step back in any group
        would cost too much.
    """
    groups = {path.group.name: path for path in paths}
    widths = {name: path.group.units for name, path in groups.items()}
    order: list[str] = []  # groups by when they last gave
    now = price(widths)
    while now > limit:
        best: tuple[float, float] | None = None
        for name, path in groups.items():
            after = path.next(widths[name], _SHARE if scope == "adaptive" else 0.0)
            if after is None:
                continue
            if scope == "adaptive":
                saved = price.saved(widths, {**widths, name: after})
                rise = path.rise(after) - path.rise(widths[name])
                worth = (rise / saved if saved > 0 else math.inf, rise)
            else:
                worth = (_WORTH[scope](path, widths[name], after), 0.0)
            if best is None or worth < best:
                best, giving, left = worth, name, after
        if best is None:
            break
        widths[giving] = left
        order = [*(name for name in order if name != giving), giving]
        now = price(widths)
    _take_back(groups, widths, order, price, limit)
    return widths


def _take_back(
    groups: Mapping[str, Path], widths: Widths, order: Sequence[str], price: Price, limit: float
) -> None:
    """Let units stay, in place, as long as they fit, the last to leave first."""
    for name in reversed(order):
        for wider in reversed([one for one in groups[name].widths if one > widths[name]]):
            if price({**widths, name: wider}) > limit:
                break
            widths[name] = wider


def _by_share(path: Path, width: int, after: int) -> float:
    """As rounding does it: a width is left when a share falls below the middle to the next."""
    return -(width + after) / 2 / path.group.units


def _by_shape(path: Path, width: int, after: int) -> float:
    shape = path.group.producers[0].variable.shape
    return _by_share(path, width, after) * math.prod(shape) / sum(shape)


def _by_score(path: Path, width: int, after: int) -> float:
    units = path.group.units
    return float(path.scores[units - width : units - after].max())


_WORTH: dict[str, Callable[[Path, int, int], float]] = {
    "local": _by_share,
    "erk": _by_shape,
    "global": _by_score,
}


def price_of(cost: str, model: keras.Model, limit: float) -> Price:
    """What a model would cost by the numbers of units that stay, without making it.

    Exact for parameters, MACs of kernels and, for a model without zeros, what of them is not zero;
    of the rest, what grows and shrinks with it.

    Args:
        cost: a name in `secateur.budgets.COSTS`.
        model: the whole model.
        limit: what it may cost.
    """
    if cost == "peak_activation_bytes":
        return _peak(model, limit)
    footprint = Footprint(model)
    if cost in ("parameters", "gzip_bytes"):
        return Price(footprint.parameters)
    if cost in ("macs", "latency_us"):
        return Price(footprint.macs)
    if cost == "int8_bytes":
        return _int8_bytes(model, footprint)
    return _nonzeros(model, footprint, is_macs=cost == "nonzero_macs")


def _nonzeros(model: keras.Model, footprint: Footprint, is_macs: bool) -> Price:
    densities = [
        (one, np.count_nonzero(one) / max(1, math.prod(one.shape))) for one in model.weights
    ]
    weights = [(one, part * (footprint.uses(one) if is_macs else 1)) for one, part in densities]
    return Price(
        lambda kept: sum(weight * math.prod(footprint.shape(one, kept)) for one, weight in weights)
    )


def _int8_bytes(model: keras.Model, footprint: Footprint) -> Price:
    kernels = [one for one in model.weights if len(one.shape) > 1]

    def bytes_of(kept: Mapping[str, int]) -> float:
        shapes = [footprint.shape(one, kept) for one in kernels]
        return sum(math.prod(shape) + INT8_BYTES_A_CHANNEL * shape[-1] for shape in shapes)

    return Price(bytes_of)


def _peak(model: keras.Model, limit: float) -> Price:
    """The peak; whatever is alive in any call that needs more than the limit is worth while.

    The peak itself falls only when all calls that need as much fall, so that no group alone may
    lower it. The bytes of a call fall in proportion to a group's units.
    """
    whole = np.array(activation_bytes(model), float)
    taken = {}
    for group in dependency_groups(model, cut_code=True):
        if not group.frozen and group.units > 1:
            one_less = keep_units(model, {group.name: np.arange(group.units - 1)})
            taken[group.name] = group.units, whole - activation_bytes(one_less)

    def calls(kept: Mapping[str, int]) -> np.ndarray:
        gone = [
            (taken[name][0] - width) * taken[name][1]
            for name, width in kept.items()
            if name in taken
        ]
        return whole - np.sum(gone, axis=0)

    return Price(
        lambda kept: float(calls(kept).max()),
        lambda kept: float(np.maximum(calls(kept) - limit, 0).sum()),
    )


def sensitivity(
    model: keras.Model,
    sample: np.ndarray,
    ratios: Sequence[float] = RATIOS,
    cut_code: bool = False,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """What every group has to lose: the error of a model that lost a share of one group's units.

    No cut is made for it: one path a group gives all its ratios, and how strongly the model answers
    to its layers makes their costs the model's.

    Args:
        model: the autoencoder; it stays as it is.
        sample: (rows, ...) calibration sample in its input shape.
        ratios: shares of a group's units that leave, in [0, 1).
        cut_code: whether the code is looked at too.
        seed: of the signs that the answers are sampled with.

    Returns:
        One row a group and ratio: `layer`, `units`, `ratio`, `removed` units, the `mse` of the
        whole model on the sample, and the `rise` of it after the best repair, None where nothing is
        known to read the units.
    """
    answers = Answers(model, sample, seed)
    mse = mean_squared_error(model, sample)
    rows = []
    for path in paths_of(model, sample, answers, cut_code=cut_code):
        units = path.group.units
        for ratio in ratios:
            removed = min(int(ratio * units + 0.5), units - 1)
            rise = path.rise(units - removed)
            rows.append(
                {
                    "layer": path.group.name,
                    "units": units,
                    "ratio": ratio,
                    "removed": removed,
                    "mse": mse,
                    "rise": rise if math.isfinite(rise) else None,
                }
            )
    return rows
