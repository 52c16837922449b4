"""Which layers of a model may have their kernels factored, what it costs them, and doing it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from secateur.factors import (
    POINTWISE,
    Factors,
    Split,
    between,
    factor_layers,
    factor_macs,
    splits_of,
    write_factor,
)
from secateur.graph import layer_at, replace_layers
from secateur.graph.code import code_width, rivals_of_code
from secateur.graph.neighbours import linear_pairs
from secateur.graph.rules import rule_of
from secateur.graph.trace import Trace, trace
from secateur.importance_of_weights import squared_gradients
from secateur.masks import alive
from secateur.mixing import MixingLayer, linear_maps, mixing_layers, moments_of
from secateur.ranks import Option

_ROWS = 2048  # of the sample, that tell how strongly the model answers to each output
_FAINT = 1e-3  # of the strongest answer: no output counts less


class Part:
    """A layer whose kernel may become two, or that may read fewer units of a linear one before it.

    Attributes:
        layer: the mixing layer.
        before: the linear layer that it alone reads, if that may make fewer units.
        macs: multiply-accumulates of a row in both.
        as_it_is: the option to leave it alone.
    """

    def __init__(self, layer: MixingLayer, before: MixingLayer | None, found: Trace) -> None:
        """Take a layer and, where it is narrowed together with it, the one before.

        Args:
            layer: with one map.
            before: with one map, or None.
            found: of their model.
        """
        self.layer = layer
        self.before = before
        self._calls = [
            (visit.inputs[0].shape, visit.outputs[0].shape)
            for visit in found.visits
            if visit.operation is layer.layer
        ]
        self.macs = sum(found.uses(one.kernel) * math.prod(one.kernel.shape) for one in self.layers)
        self.as_it_is = Option(self.macs, 0.0)

    @property
    def layers(self) -> list[MixingLayer]:
        """Both, in their order."""
        return [self.layer] if self.before is None else [self.before, self.layer]

    def macs_of(self, split: Split, rank: int) -> int:
        """Multiply-accumulates of a row that are left with a rank."""
        if self.before is None:
            return factor_macs(self.layer.layer, split, rank, self._calls)
        return self.macs // self.before.maps[0].outputs * rank

    def width(self, split: Split, rank: int) -> int:
        """How many numbers of a row lie between the factors."""
        positions = (math.prod(between(self.layer.layer, split, *one)) for one in self._calls)
        return rank * min(positions)

    def options(
        self, model: keras.Model, sample: np.ndarray, gradient: np.ndarray
    ) -> list[tuple[Split, int, Option]]:
        """What it may become with fewer multiplications than it has.

        Args:
            model: the model that the layer is in.
            sample: (rows, ...) in the model's input shape.
            gradient: of the kernel's shape, the mean squared gradients of the model's outputs.

        Returns:
            Split, rank and option, whose `what` is the pair of `Factors` and rank.
        """
        (linear,) = self.layer.maps
        (moments,) = moments_of(self.layer.maps, self.layer.places, model, sample)
        inputs = linear.inputs
        seen, means = moments.now[:inputs, :inputs], moments.means[:inputs]
        answers = gradient.ravel()[linear.elements].sum(axis=0) / (np.trace(seen) or 1.0)
        answers = np.maximum(answers, _FAINT * answers.max()) if answers.any() else answers + 1
        if linear.bias is not None:
            seen = seen - np.outer(means, means)
        found = []
        for split in self._splits():
            most = (self.macs - 1) // self.macs_of(split, 1)
            if most:
                factors = Factors(split, linear.matrix()[:inputs], seen, most, answers)
                total = factors.losses[0] or 1.0
                for rank in range(1, factors.ranks + 1):
                    loss = float(factors.losses[rank])
                    option = Option(
                        self.macs_of(split, rank), loss, 1 - loss / total, (factors, rank)
                    )
                    found.append((split, rank, option))
        return found

    def _splits(self) -> tuple[Split, ...]:
        if self.before is None:
            return splits_of(self.layer.layer)
        return (Split(tuple(getattr(self.layer.layer, "kernel_size", ())), ()),)


def find_parts(model: keras.Model) -> tuple[list[Part], list[dict[str, Any]]]:
    """The layers whose kernels may be factored, and the others as entries of a report's `skipped`.

    Raises:
        InputError: the model has no graph that could be read.
    """
    found = trace(model, rule_of)
    skipped, fit = {}, {}
    for layer in mixing_layers(model):
        reason = _why_not(model, layer)
        if reason:
            units = sum(one.outputs for one in layer.maps)
            skipped[layer.path] = {"layer": layer.path, "units": units, "reason": reason}
        else:
            fit[layer.path] = layer
    before: dict[str, str] = {}
    for pair in linear_pairs(model):
        if {pair.first, pair.second} <= set(fit) and pair.first not in before:
            before[pair.second] = pair.first
    parts = [
        Part(layer, fit.get(before.get(path, "")), found)
        for path, layer in fit.items()
        if path not in before.values()
    ]
    return parts, list(skipped.values())


def offers(
    parts: Sequence[Part],
    model: keras.Model,
    sample: np.ndarray,
    cut_code: bool,
    multiple: int,
    seed: int,
) -> list[list[Option]]:
    """Per part what may become of it; first, as it is now.

    Losses are in the measure of the model's outputs: the mean squared change of a layer's outputs,
    each times the squared gradient of the model's outputs with respect to it.

    Args:
        parts: of `find_parts`.
        model: the model that they are in.
        sample: (rows, ...) in the model's input shape.
        cut_code: whether what lies between two factors may be as narrow as the code.
        multiple: ranks are multiples of it.
        seed: of the signs by which gradients are sampled.
    """
    code, rivals = code_width(model), rivals_of_code(model)
    some = sample[:: max(1, len(sample) // _ROWS)]
    kernels = [part.layer.kernel for part in parts]
    gradients = squared_gradients(model, some, kernels, of_loss=False, seed=seed)
    found = []
    for part, gradient in zip(parts, gradients, strict=True):
        narrowest = 0 if cut_code or part.layer.path not in rivals else code
        options = [
            option
            for split, rank, option in part.options(model, sample, gradient)
            if rank % multiple == 0 and part.width(split, rank) > narrowest
        ]
        found.append([part.as_it_is, *options])
    return found


def factored(
    model: keras.Model, taken: Sequence[tuple[Part, Option]], is_bare: bool = False
) -> keras.Model:
    """A copy with the chosen factors, nothing refitted.

    Args:
        model: the model that the parts are in; it stays as it is.
        taken: parts, and the options that they get.
        is_bare: whether to factor the kernels alone, whatever they read.
    """
    replacements: dict[str, list[Any]] = {}
    for part, option in taken:
        factors, rank = option.what
        layer, path = part.layer.layer, part.layer.path
        if part.before is None:
            name = _free_name(model, path)
            replacements[path] = factor_layers(layer, factors.split, rank, name)
        else:
            replacements[part.before.path] = [_narrower(part.before.layer, rank)]
    copy = replace_layers(model, replacements)
    for part, option in taken:
        factors, rank = option.what
        if is_bare:
            plain = np.eye(len(factors.kernel))
            factors = Factors(factors.split, factors.kernel, plain, rank)
        first, second = factors.of_rank(rank)
        path, split = part.layer.path, factors.split
        if part.before is None:
            write_factor(replacements[path][0], split, split.first, first)
            write_factor(replacements[path][1], split, split.rest, second)
        else:
            _mix_outputs(part.before, layer_at(copy, part.before.path), first)
            write_factor(layer_at(copy, path), split, split.rest, second)
    return copy


def _why_not(model: keras.Model, mixing: MixingLayer) -> str | None:
    """Why a layer cannot be two."""
    layer: Any = mixing.layer
    if type(layer) not in POINTWISE:
        return f"{type(layer).__name__} is not split"
    if _layer_or_none(model, mixing.path) is not layer:
        return "it is inside a layer that is copied as a whole"
    if getattr(layer, "groups", 1) != 1:
        return "its groups are apart already"
    if not layer.trainable:
        return "it is frozen: not trainable"
    if layer.kernel_constraint is not None:
        return "its kernel is under a constraint, which factors would not keep"
    if not alive(layer.kernel).all():
        return "its kernel has pruned weights, whose zeros factors would not keep"
    return None


def _layer_or_none(model: keras.Model, path: str) -> Any:
    try:
        return layer_at(model, path)
    except (AttributeError, ValueError):
        return None


def _free_name(model: keras.Model, path: str) -> str:
    """The layer's name with `_rank` behind, and a number if that is taken beside it."""
    inside, _, name = path.rpartition("/")
    names = [f"{name}_rank", *(f"{name}_rank_{number}" for number in range(2, 1000))]
    beside = f"{inside}/" if inside else ""
    return next(one for one in names if _layer_or_none(model, beside + one) is None)


def _narrower(layer: Any, units: int) -> Any:
    config = layer.get_config()
    return type(layer).from_config({**config, "units" if "units" in config else "filters": units})


def _mix_outputs(layer: MixingLayer, into: Any, mixing: np.ndarray) -> None:
    """Give a narrower layer the kernel and bias of one, with its outputs mixed."""
    (linear,) = layer.maps
    (narrower,) = linear_maps(into, into.kernel)
    narrower.write(linear.matrix() @ mixing)
