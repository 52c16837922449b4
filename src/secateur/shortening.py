"""Taking layers out of a model: every way to do so is a step, weighed before one is taken."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from secateur.costs import count_macs
from secateur.graph import layer_at, replace_layers
from secateur.graph.bypass import Bypass, bypasses
from secateur.graph.code import code_makers
from secateur.graph.neighbours import LinearPair, linear_pairs
from secateur.merging import merge, why_not_merged
from secateur.metrics import reconstruct
from secateur.refitting import refit
from secateur.saving import copy_model

_ROWS = 2048  # of the sample, that steps are compared on


@dataclass(frozen=True)
class Step(ABC):
    """Something that may leave.

    Attributes:
        name: path of the layer, or of the Add of a residual block.
        units: of the layer.
        how: it leaves, in words.
        leaves: paths of all that leaves.
        readers: paths of the layers that take over.
        reason: why it may not leave; None if it may.
        macs: of the model before and after.
        loss: mean squared change of what the readers give, summed over their outputs, refitted.
        share: the same as a share of the variance of what they give.
        change: mean squared change of the model's output then, by which steps are compared.
    """

    name: str
    units: int
    how: str
    leaves: tuple[str, ...]
    readers: tuple[str, ...]
    reason: str | None
    macs: tuple[int, int] = (0, 0)
    loss: float = math.nan
    share: float = math.nan
    change: float = math.nan

    @property
    def key(self) -> tuple[object, ...]:
        """What finds it again in a changed model."""
        return (self.how, self.name)

    @abstractmethod
    def applied(self, model: keras.Model) -> keras.Model:
        """A copy of a model without what leaves; nothing but what merges is refitted."""

    @abstractmethod
    def lost(self, cut: keras.Model, model: keras.Model, sample: np.ndarray) -> tuple[float, float]:
        """Loss and share of a model of `applied`, whose readers are refitted in place."""


@dataclass(frozen=True)
class Removal(Step):
    """A hidden layer or a branch leaves, and the next mixing layers are refitted."""

    bypass: Bypass = field(kw_only=True)

    @classmethod
    def of(cls, bypass: Bypass) -> Removal:
        """The step of a bypass."""
        how = "its branch is removed" if bypass.dropped else "removed"
        return cls(
            bypass.name, bypass.units, how, bypass.leaves, bypass.readers, bypass.reason,
            bypass=bypass,
        )  # fmt: skip

    @property
    def key(self) -> tuple[object, ...]:
        """See `Step`; of an Add several branches may leave."""
        return (self.how, self.name, *self.bypass.dropped.values())

    def applied(self, model: keras.Model) -> keras.Model:
        """See `Step`; kernels for another number of inputs are next to nothing."""
        gone = [*self.bypass.dropped] or self.leaves
        cut = replace_layers(model, dict.fromkeys(gone, ()), self.bypass.dropped)
        for path in self.readers:
            kernels = zip(
                _kernels(layer_at(cut, path)), _kernels(layer_at(model, path)), strict=True
            )
            for now, before in kernels:
                if now.shape != before.shape:
                    now.assign(_next_to_nothing(now, before))
        return cut

    def lost(self, cut: keras.Model, model: keras.Model, sample: np.ndarray) -> tuple[float, float]:
        """See `Step`."""
        fits = refit(cut, model, sample, self.readers).values()
        loss, variance = sum(fit.loss for fit in fits), sum(fit.variance for fit in fits)
        return loss, loss / variance if variance else 0.0


@dataclass(frozen=True)
class Merging(Step):
    """Two linear layers in a row become one."""

    pair: LinearPair = field(kw_only=True)

    @classmethod
    def of(cls, model: keras.Model, pair: LinearPair, code: set[str]) -> Merging:
        """The step of a pair in a model, whose code is made at these paths."""
        is_code = not code.isdisjoint({pair.first, *pair.between})
        reason = "it makes the code" if is_code else why_not_merged(model, pair)
        layer: Any = layer_at(model, pair.first)
        units = layer.units if hasattr(layer, "units") else layer.filters
        return cls(
            pair.first, units, f"merged into {pair.second}", (pair.first, *pair.between),
            (pair.second,), reason, pair=pair,
        )  # fmt: skip

    def applied(self, model: keras.Model) -> keras.Model:
        """See `Step`."""
        return merge(model, self.pair)

    def lost(self, cut: keras.Model, model: keras.Model, sample: np.ndarray) -> tuple[float, float]:
        """See `Step`; nothing."""
        return 0.0, 0.0


def _next_to_nothing(now: Any, before: Any) -> np.ndarray:
    """A kernel to start from; zeros would count as pruned where no input ever differs from zero."""
    strength = 1e-3 * float(np.sqrt(np.mean(np.square(before))))
    return np.random.default_rng(0).normal(0, strength, tuple(now.shape))


def _kernels(layer: keras.Layer) -> list[Any]:
    return [one for one in layer.weights if one.name.endswith("kernel")]


class Shortening:
    """A model while layers leave it.

    Attributes:
        now: the model without what has left, the next layers refitted.
        bare: the same, nothing refitted.
    """

    def __init__(
        self,
        model: keras.Model,
        sample: np.ndarray,
        may_merge: bool = True,
        cut_code: bool = False,
        most_lost: float = 1.0,
    ) -> None:
        """Start from all layers.

        Args:
            model: it stays as it is.
            sample: (rows, ...) in the model's input shape.
            may_merge: whether linear layers in a row may become one.
            cut_code: whether what makes the code may leave.
            most_lost: the largest share that a step may lose.
        """
        self.bare = copy_model(model)
        self.now = self._target = model
        self._sample = sample
        self._may_merge = may_merge
        # Later the same layer makes it, even if others have become as narrow.
        self._code = set() if cut_code else code_makers(model)
        self._most_lost = most_lost
        self._weighed: dict[tuple[object, ...], tuple[int, Step]] = {}
        self._taken = 0
        # The model without the best of what was weighed last: all of them would be too many.
        self._next: tuple[Step, keras.Model] | None = None

    def steps(self) -> list[Step]:
        """All that might leave the model as it is now, weighed, or with the reason why it may not.

        Weights may be those before the last steps.
        """
        return [self._weigh(step) for step in self._candidates()]

    def possible(self) -> set[str]:
        """Names of all that may leave, whatever it costs."""
        return {step.name for step in self.steps() if step.reason is None}

    def cheapest(self) -> Step | None:
        """The step that loses least, if any loses little enough."""
        steps = {step.key: step for step in self.steps() if step.reason is None}
        while steps:
            best = min(steps.values(), key=lambda step: step.change)
            # What steps lose changes little by others, so few are weighed again (Minoux 1978).
            when, _ = self._weighed[best.key]
            if when == self._taken:
                return best if best.share <= self._most_lost else None
            steps[best.key] = self._weighed_now(best)
            if steps[best.key].reason is not None:
                del steps[best.key]
        return None

    def take(self, step: Step) -> None:
        """Let it leave."""
        if self._next is None or self._next[0] != step:
            cut = step.applied(self.now)
            step.lost(cut, self.now, self._sample)  # which refits the readers
            self._next = step, cut
        self.now, self._next = self._next[1], None
        self.bare = step.applied(self.bare)
        if isinstance(step, Merging) and step.pair in linear_pairs(self._target, over_norms=True):
            self._target = step.applied(self._target)
        self._taken += 1

    def refitted(self) -> keras.Model:
        """The shorter model, all layers refitted to what they gave in the original."""
        copy = copy_model(self.now)
        if self._taken:
            refit(copy, self._target, self._sample)
        return copy

    def _candidates(self) -> Iterator[Step]:
        for bypass in bypasses(self.now, self._code):
            yield Removal.of(bypass)
        if self._may_merge:
            for pair in linear_pairs(self.now, over_norms=True):
                yield Merging.of(self.now, pair, self._code)

    def _weigh(self, step: Step) -> Step:
        """The step with what is known of its weight, which may be from before the last steps."""
        if step.reason is not None:
            return step
        when, known = self._weighed.get(step.key, (-1, step))
        if when != self._taken and (when < 0 or known.reason is not None):
            return self._weighed_now(step)
        weights = ("reason", "macs", "loss", "share", "change")
        return replace(step, **{name: getattr(known, name) for name in weights})

    def _change(self, cut: keras.Model) -> float:
        rows = self._sample[:: max(1, len(self._sample) // _ROWS)]
        difference = reconstruct(cut, rows) - reconstruct(self.now, rows)
        return float(np.mean(np.square(difference, dtype=np.float64)))

    def _weighed_now(self, step: Step) -> Step:
        cut = step.applied(self.now)
        macs = count_macs(self.now)[0], count_macs(cut)[0]
        if macs[1] >= macs[0]:
            step = replace(step, macs=macs, reason="what takes over would need more MACs")
        else:
            loss, share = step.lost(cut, self.now, self._sample)
            change = 0.0 if isinstance(step, Merging) else self._change(cut)
            step = replace(step, macs=macs, loss=loss, share=share, change=change)
            if self._next is None or change < self._next[0].change:
                self._next = step, cut
        self._weighed[step.key] = self._taken, step
        return step
