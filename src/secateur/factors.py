"""Kernels as products of two smaller ones, in closed form, and the layers that hold them.

A kernel W of windows and channels is read as a matrix from what its first factor sees to what is
left for the second:

    W[f, c; t, o] ~ sum over r of P[f, c; r] Q[r, t; o]        f, t: taps; c, o: channels

With all taps in f the first factor is the layer itself with r filters, and the second mixes these
(Zhang et al. 2016, "Accelerating very deep convolutional networks"); with none of them the first
mixes channels; with the taps of one axis the two are a column and a row (Jaderberg et al. 2014). A
Dense layer is a window of one tap.

P spans what the layer's own outputs depend on most: the singular vectors of the kernel after
whitening by the covariance of what it reads, so that E|h(W - PQ)|² is least (Zhang et al. 2016; for
language models Yuan et al. 2023, ASVD, and Wang et al. 2024, SVD-LLM). Q is then the least squares
fit to the layer's outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import scipy.linalg
from keras import layers

from secateur.graph.kinds import CONVOLUTIONS, TRANSPOSED

RIDGE = 1e-9
_NOTHING = 1e-10  # a direction with less of the strongest one's variance carries none

POINTWISE: dict[type, Any] = {
    layers.Dense: layers.Dense,
    **dict(zip(CONVOLUTIONS, CONVOLUTIONS, strict=True)),
    **dict(zip(TRANSPOSED, CONVOLUTIONS, strict=True)),
}
"""What mixes the channels alone, before or behind a layer of each kind."""


@dataclass(frozen=True)
class Split:
    """Which axes of a layer's window the first factor sees.

    Attributes:
        window: of the layer; empty for a Dense.
        first: axes of the window.
    """

    window: tuple[int, ...]
    first: tuple[int, ...]

    @property
    def name(self) -> str:
        """In words, for reports."""
        if len(self.first) == len(self.window):
            return "the layer, then its channels" if self.window else "two layers"
        if not self.first:
            return "channels, then the layer"
        return f"axis {' and '.join(map(str, self.first))}, then the others"

    @property
    def rest(self) -> tuple[int, ...]:
        """Axes of the window that the second factor sees."""
        return tuple(axis for axis in range(len(self.window)) if axis not in self.first)

    def size(self, axes: Sequence[int]) -> int:
        """Taps along some axes."""
        return math.prod(self.window[axis] for axis in axes)

    def order(self, channels: int) -> np.ndarray:
        """(first taps · channels, other taps) ints: where the inputs of a matrix stand."""
        rank = len(self.window)
        inputs = np.arange(math.prod(self.window) * channels).reshape(*self.window, channels)
        return inputs.transpose(*self.first, rank, *self.rest).reshape(
            self.size(self.first) * channels, self.size(self.rest)
        )


def splits_of(layer: Any) -> tuple[Split, ...]:
    """The ways in which a layer can be two."""
    if type(layer) is layers.Dense:
        return (Split((), ()),)
    window = tuple(layer.kernel_size)
    wide = [axis for axis, taps in enumerate(window) if taps > 1]
    every = tuple(range(len(window)))
    if not wide:
        return (Split(window, every),)
    parts = (part for count in range(1, len(wide)) for part in combinations(wide, count))
    # Axes of one tap belong to whichever factor has the strides of them: the first.
    narrow = tuple(axis for axis in every if axis not in wide)
    spatial = [tuple(sorted(part + narrow)) for part in parts]
    if getattr(layer, "output_padding", None) is not None:
        spatial = []  # which of the two would pad
    return tuple(Split(window, first) for first in (every, (), *spatial))


class Factors:
    """Both factors of one kernel, of any rank up to all that the outputs have.

    Attributes:
        split: see `Split`.
        ranks: the largest rank.
        losses: (ranks + 1,) what each rank loses: the mean squared change, summed over outputs,
            weighed; rank 0 loses all.
    """

    def __init__(
        self,
        split: Split,
        kernel: np.ndarray,
        covariance: np.ndarray,
        most: int,
        weights: np.ndarray | None = None,
    ) -> None:
        """Find them.

        Args:
            split: see `Split`.
            kernel: (inputs, outputs), inputs in the order (window, channels).
            covariance: (inputs, inputs) of what is read, around its mean where a bias takes over
                the mean.
            most: the largest rank of interest.
            weights: (outputs,) how much a squared change of each output counts; ones if None.
        """
        self.split = split
        self.kernel = kernel
        self._covariance = covariance
        channels = len(kernel) // math.prod(split.window)
        self._order = split.order(channels)
        scale = np.sqrt(np.ones(kernel.shape[1]) if weights is None else weights)
        self._first = self._directions(kernel * scale)[:, :most]
        self.ranks = self._first.shape[1]
        gram, target = self._moments(self.ranks)
        self._gram, self._target = gram, target
        # One Cholesky factor holds those of all smaller ranks in its corner.
        lower = scipy.linalg.cholesky(_damped(gram), lower=True)
        explained = scipy.linalg.solve_triangular(lower, target * scale, lower=True)
        total = float(np.einsum("io,ij,jo->", kernel * scale, covariance, kernel * scale))
        gains = (explained**2).sum(axis=1).reshape(self.ranks, -1).sum(axis=1)
        self.losses = np.maximum(total - np.concatenate([[0.0], np.cumsum(gains)]), 0.0)

    def _directions(self, kernel: np.ndarray) -> np.ndarray:
        """What the first factor gives, of variance one, strongest first.

        Returns:
            (first taps · channels, ranks).
        """
        matrix = kernel[self._order].reshape(len(self._order), -1)
        seen = sum(self._covariance[np.ix_(taps, taps)] for taps in self._order.T)
        seen = seen / self._order.shape[1]
        if matrix.shape[0] <= matrix.shape[1]:
            root = _root(seen)
            values, vectors = np.linalg.eigh(root @ matrix @ matrix.T @ root)
            found = matrix @ (matrix.T @ (root @ vectors))
            power = values
        else:
            values, vectors = np.linalg.eigh(matrix.T @ seen @ matrix)
            found, power = matrix @ vectors, np.sqrt(np.maximum(values, 0))
        strong = np.flatnonzero(values > _NOTHING * max(values[-1], 0))[::-1]
        return np.asarray(found[:, strong] / power[strong])

    def _moments(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Of what the first factor gives, (rank · other taps)², and with the outputs."""
        first, taps = self._first[:, :rank], self._order.T
        wanted = self._covariance @ self.kernel
        gram = np.empty((rank, len(taps), rank, len(taps)))
        for row, one in enumerate(taps):
            for column, other in enumerate(taps):
                block = self._covariance[np.ix_(one, other)]
                gram[:, row, :, column] = first.T @ block @ first
        target = np.stack([first.T @ wanted[one] for one in taps], axis=1)
        size = rank * len(taps)
        return gram.reshape(size, size), target.reshape(size, -1)

    def of_rank(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """The factors (first taps · channels, rank) and (other taps, rank, outputs)."""
        known = min(rank, self.ranks)  # what is beyond all that the outputs have is zero
        size = known * self._order.shape[1]
        found = scipy.linalg.solve(
            _damped(self._gram[:size, :size]), self._target[:size], assume_a="pos"
        )
        second = np.zeros((self._order.shape[1], rank, self.kernel.shape[1]))
        second[:, :known] = found.reshape(known, *second.shape[::2]).swapaxes(0, 1)
        first = np.zeros((len(self._order), rank))
        first[:, :known] = self._first[:, :known]
        # Both share what is between them: training gets further than where one has all of it.
        scale = np.sqrt(np.sqrt((second**2).sum(axis=(0, 2))))
        return first * scale, second / np.where(scale > 0, scale, 1.0)[:, None]


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def _damped(gram: np.ndarray) -> np.ndarray:
    return gram + (RIDGE * np.trace(gram) / len(gram) or 1.0) * np.eye(len(gram))


def factor_layers(layer: Any, split: Split, rank: int, name: str) -> list[Any]:
    """The two layers, not built, that take a layer's place; the second has its name.

    Args:
        layer: a Dense, convolution or transposed convolution.
        split: one of its `splits_of`.
        rank: what the first makes and the second reads.
        name: of the first.
    """
    inner = {"name": name, "use_bias": False, "activation": "linear", "activity_regularizer": None}
    config = layer.get_config()
    known = {key: value for key, value in inner.items() if key in config}
    if type(layer) is layers.Dense:
        return [
            layers.Dense.from_config({**config, **known, "units": rank}),
            layers.Dense.from_config(config),
        ]
    first = _part(layer, split.first, {**config, **known, "filters": rank})
    return [first, _part(layer, split.rest, config)]


def _part(layer: Any, axes: Sequence[int], config: dict[str, Any]) -> Any:
    """The layer with the taps and strides of some axes alone."""
    if not axes:
        return _pointwise(layer, config)
    every = range(len(layer.kernel_size))

    def along(values: Sequence[int]) -> tuple[int, ...]:
        return tuple(values[axis] if axis in axes else 1 for axis in every)

    sizes = {key: along(getattr(layer, key)) for key in ("kernel_size", "strides", "dilation_rate")}
    return type(layer).from_config({**config, **sizes})


def _pointwise(layer: Any, config: dict[str, Any]) -> Any:
    kind = POINTWISE[type(layer)]
    ones = (1,) * len(layer.kernel_size)
    plain = {"kernel_size": ones, "strides": ones, "dilation_rate": ones, "padding": "valid"}
    config = {key: value for key, value in config.items() if key != "output_padding"}
    return kind.from_config({**config, **plain, "groups": 1})


def write_factor(into: Any, split: Split, axes: Sequence[int], kernel: np.ndarray) -> None:
    """Give one of the two built layers its kernel.

    Args:
        into: one of `factor_layers`.
        split: see `Split`.
        axes: of the window, that this factor sees: `split.first` or `split.rest`.
        kernel: the first factor of `Factors.of_rank`, or the second.
    """
    # Where all other axes have one tap, taps stand in the order of the window.
    taps = [split.window[axis] if axis in axes else 1 for axis in range(len(split.window))]
    inputs = kernel.size // math.prod(taps) // kernel.shape[-1]
    shaped = kernel.reshape(*taps, inputs, kernel.shape[-1])
    into.kernel.assign(shaped.swapaxes(-1, -2) if type(into) in TRANSPOSED else shaped)


Shape = tuple[int, ...]
Shapes = Sequence[tuple[Shape, Shape]]
"""Per call of a layer the shapes of what it reads and makes, of one row, unknown lengths as 1."""


def factor_macs(layer: Any, split: Split, rank: int, calls: Shapes) -> int:
    """Multiply-accumulates of a row in the two factors of a layer."""
    return sum(_first_macs(layer, split, rank, *call) + _second_macs(layer, split, rank, *call)
               for call in calls)  # fmt: skip


def _first_macs(layer: Any, split: Split, rank: int, read: Shape, made: Shape) -> int:
    channel, before, _ = _positions(layer, read, made)
    at = before if _is_spread(layer, split.first) else between(layer, split, read, made)
    return math.prod(at) * split.size(split.first) * read[channel] * rank


def _second_macs(layer: Any, split: Split, rank: int, read: Shape, made: Shape) -> int:
    channel, _, after = _positions(layer, read, made)
    at = between(layer, split, read, made) if _is_spread(layer, split.rest) else after
    return math.prod(at) * split.size(split.rest) * rank * made[channel]


def _is_spread(layer: Any, axes: Sequence[int]) -> bool:
    """Whether a part is a transposed convolution, which multiplies where it reads."""
    return type(layer) in TRANSPOSED and bool(axes)


def between(layer: Any, split: Split, read: Shape, made: Shape) -> tuple[int, ...]:
    """The positions of what the first factor makes."""
    _, before, after = _positions(layer, read, made)
    if type(layer) is layers.Dense:
        return after
    return tuple((after if axis in split.first else before)[axis] for axis in range(len(before)))


def _positions(
    layer: Any, read: Shape, made: Shape
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """The axis of the channels, and the sizes of the others but the batch, before and after."""
    channel = (1 if getattr(layer, "data_format", None) == "channels_first" else -1) % len(read)
    before, after = (
        tuple(size for axis, size in enumerate(shape) if axis not in (0, channel))
        for shape in (read, made)
    )
    return channel, before, after
