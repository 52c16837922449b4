"""Sharing weights: every kernel made of a few values, which compress well."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from secateur.errors import InputError
from secateur.methods.base import Amount, Method, RoundReport

if TYPE_CHECKING:
    import keras

    from secateur.mixing import LinearMap, Moments

Fit = Literal["least_squares", "means"]

_RIDGE = 1e-6
_BINS = 2**16


@dataclass(frozen=True)
class Cluster(Method):
    """Let the weights of each kernel share a few values.

    The shape of the model stays, and so do its MACs; its file gets small when it is compressed, as
    it is on its way to a device. K-means finds the values (Deep Compression, Han et al. 2016), each
    weight counting as much as its input is strong (Choi et al. 2017, "Towards the Limit of Network
    Quantization"). With the assignment fixed, the values and the biases are then fitted in closed
    form to what the layer gave before. Zeros stay zero and are no cluster. Training afterwards
    moves the values and keeps them shared.

    Attributes:
        clusters: values that each kernel keeps beside zero, from 2 to 65536. Training keeps up to
            256 shared, in kernels that use each at least eight times on average.
        fit: what the values are: `least_squares`, fitted to the layer's outputs; `means`, K-means'
            own means of the weights.
    """

    amount: ClassVar[Amount | None] = Amount(
        "clusters", least=2, most=2**16, step=1, is_logarithmic=True
    )

    clusters: int = 16
    fit: Fit = "least_squares"

    def __post_init__(self) -> None:
        if type(self.clusters) is not int or not 2 <= self.clusters <= 2**16:
            raise InputError(f"clusters must be a whole number in [2, 65536], got {self.clusters}")
        if self.fit not in get_args(Fit):
            raise InputError(f"fit must be one of {', '.join(get_args(Fit))}, got {self.fit!r}")

    def shrink(self, model: keras.Model, sample: np.ndarray) -> tuple[keras.Model, RoundReport]:
        """See `Method.shrink`."""
        from secateur.masks import kernels
        from secateur.mixing import Remembered, mixing_layers, moments_of
        from secateur.saving import copy_model

        shared, plain = copy_model(model), copy_model(model)
        original = Remembered(model, sample)
        report = RoundReport(uncompensated=plain)
        mixing = {id(one.kernel): one for one in mixing_layers(shared, means=True)}
        plain_kernels = kernels(plain)
        for path, kernel in kernels(shared).items():
            weights = np.asarray(kernel, np.float64)
            values = np.unique(weights[weights != 0])
            if len(values) <= self.clusters:
                report.skipped.append(_left_alone(path, kernel, len(values)))
                continue
            layer = mixing.get(id(kernel))
            maps = layer.maps if layer else ()
            moments = moments_of(maps, layer.places, shared, sample, original) if layer else ()
            labels, means = self._clusters(weights, _strengths(weights, maps, moments))
            plain_kernels[path].assign(means[labels])
            if layer and self.fit == "least_squares":
                _fit(maps, moments, labels, means)
            else:
                kernel.assign(means[labels])
            report.groups.append(_what_went(path, weights, kernel))
        return shared, report

    def _clusters(
        self, weights: np.ndarray, strengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which value each weight takes, in the weights' shape, and the values; number 0 is 0."""
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        alive = weights != 0
        values, strong = weights[alive], strengths[alive]
        # K-means on narrow bins: no value lies further from its bin than 1/65536 of the range.
        bins, weight_of_bin = _binned(values, strong)
        # Evenly over the range: few large weights matter more than many small ones.
        start = np.linspace(values.min(), values.max(), self.clusters)[:, None]
        found = KMeans(self.clusters, init=start, n_init=1)
        with threadpool_limits(limits=1):  # sums in one order, the same bytes every time
            found.fit(bins[:, None], sample_weight=weight_of_bin)
        means = np.sort(found.cluster_centers_[:, 0])
        labels = np.zeros(weights.shape, int)
        labels[alive] = np.searchsorted((means[1:] + means[:-1]) / 2, values) + 1
        return labels, np.concatenate([[0.0], means])


def _binned(values: np.ndarray, strengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean value of each bin that holds any, and how strong they are together."""
    if len(values) <= _BINS:
        return values, strengths
    low = values.min()
    of_value = ((values - low) * ((_BINS - 1) / (values.max() - low))).astype(int)
    strong = np.bincount(of_value, strengths)
    held = strong > 0
    return np.bincount(of_value, strengths * values)[held] / strong[held], strong[held]


def _strengths(
    weights: np.ndarray, maps: Sequence[LinearMap], moments: Sequence[Moments]
) -> np.ndarray:
    """The mean square of each weight's input, in the weights' shape; ones where nobody knows it."""
    strengths = np.ones(weights.size)
    for one, known in zip(maps, moments, strict=True):
        squares = np.diag(known.now)[: one.inputs]
        # An input that was never seen still needs its weights somewhere near.
        floor = _RIDGE * squares.mean() or 1.0
        strengths[one.elements] = np.maximum(squares, floor)[:, None]
    return strengths.reshape(weights.shape)


def _fit(
    maps: Sequence[LinearMap], moments: Sequence[Moments], labels: np.ndarray, means: np.ndarray
) -> None:
    """Give maps the shared values and biases whose outputs come closest to those before.

    The value of weight (i, o) is c[label(i, o)]. Column o gives h Z_o c, where Z_o says which
    inputs take which value; biases are free, so inputs and outputs count from their means.
    """
    size = len(means)
    normal, wanted = np.zeros((size, size)), np.zeros(size)
    columns = []
    for one, known in zip(maps, moments, strict=True):
        matrix, chosen = one.matrix(), labels.ravel()[one.elements]
        now = _centred(one, known.now)[:, : one.inputs]
        target = _centred(one, known.cross) @ matrix
        for output, chosen_by in enumerate(chosen.T):
            members = np.eye(size)[chosen_by]
            normal += members.T @ now @ members
            wanted += members.T @ target[:, output]
        columns.append(chosen)
    # Zero is given, and what the sample does not decide stays at K-means' means.
    damping = _RIDGE * np.trace(normal) / size or 1.0
    free = slice(1, None)
    fitted = means.copy()
    fitted[free] = np.linalg.solve(
        normal[free, free] + damping * np.eye(size - 1), wanted[free] + damping * means[free]
    )
    for one, known, chosen in zip(maps, moments, columns, strict=True):
        matrix = one.matrix()
        if one.bias is not None:
            outputs = known.cross[-1] @ matrix
            matrix[-1] = outputs - known.now[-1, : one.inputs] @ fitted[chosen]
        matrix[: one.inputs] = fitted[chosen]
        one.write(matrix)


def _centred(one: LinearMap, moments: np.ndarray) -> np.ndarray:
    """Moments of the inputs around their means where a bias takes care of the means."""
    if one.bias is None:
        return moments
    return moments[:-1] - np.outer(moments[:-1, -1], moments[-1])


def _left_alone(path: str, kernel: Any, values: int) -> dict[str, Any]:
    return {
        "layer": _layer(path),
        "units": int(kernel.shape[-1]),
        "reason": f"it has {values} different values already",
    }


def _what_went(path: str, before: np.ndarray, kernel: Any) -> dict[str, Any]:
    units = int(before.shape[-1])
    after = np.asarray(kernel)
    return {
        "layer": _layer(path),
        "units_before": units,
        "units_after": units,
        "removed": [],
        "values_before": int(np.unique(before[before != 0]).size),
        "values_after": int(np.unique(after[after != 0]).size),
        "gzip_bytes_before": _gzip_bytes(before.astype(after.dtype)),
        "gzip_bytes_after": _gzip_bytes(after),
    }


def _layer(path: str) -> str:
    """The layer that a kernel is of; a layer with two is named with the kernel's own name."""
    layer, _, kernel = path.rpartition("/")
    return layer if kernel == "kernel" else path


def _gzip_bytes(kernel: np.ndarray) -> int:
    return len(gzip.compress(kernel.tobytes(), mtime=0))
