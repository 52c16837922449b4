"""What a round may cost, and finding the cut that keeps to it.

A target names one cost and how much of it may be left: `{"macs": 0.5}`, half of what the model has,
or `{"int8_bytes": 65536}`, an absolute amount. The cut that is found never costs more without
saying so, and as little less as the method's steps allow.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from secateur.costs import count_macs, count_nonzeros, count_parameters, gzip_bytes
from secateur.errors import InputError
from secateur.methods.base import Amount, Method, RoundReport
from secateur.schedule import peak_activation_bytes

logger = logging.getLogger(__name__)

Target = Mapping[str, int | float]
"""One cost's name -> a fraction in (0, 1] of what the model has, or an absolute amount."""

Made = tuple[keras.Model, RoundReport]

# Ranges of an int8 file; how many rows set them does not change its size.
_EXPORT_ROWS = 64
_LATENCY = {"runs": 500, "warm_up": 50}
# In an int8 file, beside a byte a weight: a channel's bias, its scale and its zero point.
INT8_BYTES_A_CHANNEL = 16
# Attempts at one limit, and corrections of it where a cost can only be estimated.
_ATTEMPTS, _CORRECTIONS = 24, 4


@contextlib.contextmanager
def _int8_file(model: keras.Model, sample: np.ndarray) -> Iterator[Path]:
    """The model's int8 LiteRT file, for as long as the context lasts."""
    from secateur.export import calibration_sample, export_int8

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "int8.tflite")
        export_int8(model, path, np.asarray(calibration_sample(sample, _EXPORT_ROWS), np.float32))
        yield path


def int8_bytes(model: keras.Model, sample: np.ndarray) -> int:
    """The size of the model's int8 LiteRT file; takes a conversion, seconds."""
    with _int8_file(model, sample) as path:
        return path.stat().st_size


def latency_us(model: keras.Model, sample: np.ndarray) -> float:
    """The median time of one row in the model's int8 LiteRT file, on one thread of this machine.

    It is measured, so that a cut that is chosen by it is not reproducible to the byte.
    """
    from secateur.latency import measure_latency

    with _int8_file(model, sample) as path:
        return measure_latency(path, **_LATENCY).median_us


def _kernel_bytes(model: keras.Model) -> int:
    """What grows and shrinks with a model in its int8 file: a byte a weight, more a channel."""
    shapes = [one.shape for one in model.weights if len(one.shape) > 1]
    return sum(math.prod(shape) + INT8_BYTES_A_CHANNEL * shape[-1] for shape in shapes)


@dataclass(frozen=True)
class Cost:
    """One of the things that a model costs.

    Attributes:
        measure: model and sample -> what it is.
        estimate: model -> what grows and shrinks with it, where measuring takes long; else None.
        is_whole: whether it comes in whole numbers.
    """

    measure: Callable[[keras.Model, np.ndarray], float]
    estimate: Callable[[keras.Model], float] | None = None
    is_whole: bool = True


COSTS: dict[str, Cost] = {
    "parameters": Cost(lambda model, _: count_parameters(model)),
    "nonzeros": Cost(lambda model, _: count_nonzeros(model)),
    "macs": Cost(lambda model, _: count_macs(model)[0]),
    "nonzero_macs": Cost(lambda model, _: count_macs(model)[1]),
    "peak_activation_bytes": Cost(lambda model, _: peak_activation_bytes(model)),
    "gzip_bytes": Cost(lambda model, _: gzip_bytes(model)),
    "int8_bytes": Cost(int8_bytes, _kernel_bytes),
    "latency_us": Cost(latency_us, lambda model: count_macs(model)[0], is_whole=False),
}


def check_target(target: object) -> tuple[str, int | float]:
    """The cost that a target names, and how much of it.

    Raises:
        InputError: it does not name exactly one known cost, or no amount that can be.
    """
    known = ", ".join(COSTS)
    if not isinstance(target, Mapping) or len(target) != 1:
        raise InputError(f"target must name exactly one of {known}, got {target!r}")
    ((cost, amount),) = target.items()
    if cost not in COSTS:
        raise InputError(f"target must name one of {known}, got {cost!r}")
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        is_amount = False
    elif isinstance(amount, int):
        is_amount = amount >= 1
    else:
        is_amount = 0 < amount <= 1 or (not COSTS[cost].is_whole and 1 < amount < math.inf)
    if not is_amount:
        raise InputError(
            f"the target for {cost} must be a fraction in (0, 1] of what the model has, such as "
            f"0.5, or an absolute amount in whole numbers from 1, got {amount!r}"
        )
    return cost, amount


@dataclass
class Budget:
    """How much of one cost a model may have, and what models have of it.

    Attributes:
        cost: a name in `COSTS`.
        limit: the most that is allowed.
        before: what the model has that is to be cut.
    """

    cost: str
    limit: float
    before: float
    _sample: np.ndarray
    _measured: dict[int, tuple[keras.Model, float]] = field(default_factory=dict)
    # The last measured amount, and the estimate then.
    _last: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def of(cls, target: Target, model: keras.Model, sample: np.ndarray) -> Budget:
        """The budget that a target means for a model.

        Raises:
            InputError: see `check_target`.
        """
        cost, amount = check_target(target)
        before = COSTS[cost].measure(model, sample)
        is_fraction = isinstance(amount, float) and amount <= 1
        limit = amount * before if is_fraction else amount
        # A hair above, so that a third of 300 is 100.
        limit = math.floor(limit * (1 + 1e-12)) if COSTS[cost].is_whole else limit
        budget = cls(cost, limit, before, sample)
        budget._learn(model, before)
        return budget

    @property
    def is_estimated(self) -> bool:
        """Whether `estimate` may differ from `measure`."""
        return COSTS[self.cost].estimate is not None

    def measure(self, model: keras.Model) -> float:
        """What a model has of the cost."""
        if id(model) not in self._measured:
            self._learn(model, COSTS[self.cost].measure(model, self._sample))
        return self._measured[id(model)][1]

    def estimate(self, model: keras.Model) -> float:
        """The same, in no time: from what was measured last and what grows with it."""
        estimate = COSTS[self.cost].estimate
        if estimate is None:
            return self.measure(model)
        known, then = self._last
        now = estimate(model)
        return known * now / then if self._is_in_proportion else known + now - then

    def limit_for(self, estimate: float, actual: float) -> float:
        """The limit in terms of something that is `estimate` where the cost is `actual`."""
        if self._is_in_proportion:
            return self.limit * estimate / actual
        return self.limit + estimate - actual

    def best(self, made: Sequence[Made]) -> Made:
        """What costs most of all that fits; what costs least if none does."""

        def rank(one: Made) -> tuple[bool, float]:
            known = self.measure(one[0])
            return (True, known) if known <= self.limit else (False, -known)

        return max(made, key=rank)

    @property
    def _is_in_proportion(self) -> bool:
        """Whether the cost grows in proportion to its estimate; others grow one by one."""
        return self.cost in ("gzip_bytes", "latency_us")

    def _learn(self, model: keras.Model, value: float) -> None:
        self._measured[id(model)] = model, value
        estimate = COSTS[self.cost].estimate
        if estimate is not None:
            self._last = value, estimate(model)

    def record(self, reached: float, why: str | None = None) -> dict[str, Any]:
        """What goes into a round's report."""
        return {
            "cost": self.cost,
            "asked": self.limit,
            "reached": reached,
            "before": self.before,
            "why": why,
        }


def shrink_within(
    method: Method, model: keras.Model, sample: np.ndarray, target: Target
) -> tuple[keras.Model, RoundReport]:
    """A smaller, compensated copy that keeps to a target.

    Args:
        method: one that has an `amount`, with that knob at its `most`.
        model: the autoencoder; it stays as it is.
        sample: (rows, ...) calibration sample in the model's input shape.
        target: the cost and how much of it may be left.

    Returns:
        The copy that costs at most what was asked and, of those that the method can make, most;
        where none is cheap enough, the cheapest. The report's `budget` says so.
    """
    budget = Budget.of(target, model, sample)
    if budget.before <= budget.limit:
        same, report = method.shrink(model, sample)
        why = f"nothing is cut: the model has {_number(budget.before)} as it is"
        return same, _told(report, budget.record(budget.before, why))
    own = method.shrink_within(model, sample, budget)
    cut, report = own or turn_knob(method, model, sample, budget)
    reached = budget.measure(cut)
    return cut, _told(report, budget.record(reached, _why_not(budget, reached, report)))


def _why_not(budget: Budget, reached: float, report: RoundReport) -> str | None:
    if reached <= budget.limit:
        return None
    if reached >= budget.before:
        return f"the method cannot lower {budget.cost} here"
    held = [f"{entry['layer']} ({entry['reason']})" for entry in report.skipped]
    return f"all has left that may; these stay whole: {', '.join(held) or 'none'}"


def _told(report: RoundReport, record: dict[str, Any]) -> RoundReport:
    said = (
        f"{record['cost']}: asked for {_number(record['asked'])}, reached "
        f"{_number(record['reached'])} of {_number(record['before'])}"
    )
    if record["why"]:
        logger.warning("%s; %s", said, record["why"])
    else:
        logger.info("%s", said)
    return replace(report, budget=record)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def turn_knob(method: Method, model: keras.Model, sample: np.ndarray, budget: Budget) -> Made:
    """The cut with as little gone as the budget allows, found by turning the method's knob.

    Costs are taken to rise from the knob's `least` to its `most`. Interpolation and halving take
    turns, so that costs in proportion to the knob are met at once, and steps of any height in a
    bounded number of attempts.
    """
    amount = method.amount
    assert amount is not None
    made: dict[float, Made] = {}

    def attempt(value: float) -> Made:
        if value not in made:
            made[value] = replace(method, **{amount.knob: value}).shrink(model, sample)
        return made[value]

    tried: list[Made] = []
    while len(tried) < _CORRECTIONS:
        found = _search(attempt, amount, budget)
        if any(found is one for one in tried):
            break
        tried.append(found)
        budget.measure(found[0])  # corrects the estimates
        if not budget.is_estimated:
            break
    return budget.best(tried)


def _search(attempt: Callable[[float], Made], amount: Amount, budget: Budget) -> Made:
    """The attempt with the largest estimated cost within the limit, or that at the knob's least."""

    def cost(value: float) -> float:
        return budget.estimate(attempt(value)[0])

    low, low_cost = amount.least, 0.0  # not tried before it is needed
    high, high_cost = amount.most, budget.before
    best: float | None = None
    for turn in range(_ATTEMPTS):
        if best is not None and cost(best) == budget.limit:
            break
        share = (budget.limit - low_cost) / max(high_cost - low_cost, 1e-12)
        value = amount.between(low, high, share if turn % 3 < 2 else 0.5)
        if value is None:
            break
        found = cost(value)
        if found <= budget.limit:
            low, low_cost, best = value, found, value
            continue
        high, high_cost = value, found
        if best is None and turn > 0:
            # Twice too much: see whether there is a way at all before looking for it.
            if value == low or cost(low) > budget.limit:
                break
            low_cost, best = cost(low), low
    return attempt(amount.least if best is None else best)
