"""Refitting the layers of a changed model, so that each gives what it gave before the change.

One layer after the other, from the input to the output, gets the kernel that brings it closest, by
least squares over a sample, to the pre-activations it had in the original: what it reads has
changed, what it should give has not. He et al. 2017 (channel pruning) do so for one layer; here all
that lie behind the change follow, each seeing what those before it have become.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import keras
import numpy as np

from secateur.graph import inputs_at
from secateur.masks import alive, masked_least_squares, ridge_of
from secateur.metrics import batches
from secateur.mixing import POSITIONS, LinearMap, MixingLayer, mixing_layers, norms_behind

_ROWS_AT_ONCE = 64  # rows of a sample whose patches are in memory together


@dataclass(frozen=True)
class Fit:
    """How close a layer came to what it gave.

    Attributes:
        loss: mean over positions of the squared change, summed over the layer's outputs.
        variance: of what it gave, summed over its outputs.
    """

    loss: float
    variance: float

    @property
    def share(self) -> float:
        """The loss as a share of the variance; 0 where nothing varied."""
        return self.loss / self.variance if self.variance > 0 else 0.0


def refit(
    model: keras.Model,
    original: keras.Model,
    sample: np.ndarray,
    only: Collection[str] | None = None,
) -> dict[str, Fit]:
    """Refit, in place, the mixing layers of a model that is still nobody else's.

    A layer is refitted if the original has one of its path with as many outputs, and if it reads
    something else than there. Entries of a kernel that are zero stay so; grouped and depthwise
    kernels stay as they are.

    Args:
        model: the changed copy of `original`.
        original: the model before the change.
        sample: (rows, ...) in the models' input shape.
        only: paths of the layers that may be refitted, or of what these are inside of; all if None.

    Returns:
        Path of a refitted layer -> how close it came, in the order of the calls.
    """
    before = {(one.path, one.kernel.name): one for one in mixing_layers(original)}
    norms, norms_before = norms_behind(model), norms_behind(original)
    fits: dict[str, Fit] = {}
    for layer in mixing_layers(model):
        known = before.get((layer.path, layer.kernel.name))
        if known is None or not _is_comparable(layer, known):
            continue
        if only is not None and not any(_is_in(layer.path, one) for one in only):
            continue
        if id(layer.kernel) in norms and id(known.kernel) in norms_before:
            layer, known = layer.with_mean_of(norms), known.with_mean_of(norms_before)
        fit = _refit_layer(layer, known, model, original, sample)
        if fit is not None:
            fits[layer.path] = fit
    return fits


def _is_in(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}/")


def _is_comparable(layer: MixingLayer, known: MixingLayer) -> bool:
    return (
        len(layer.maps) == len(known.maps) == 1
        and layer.maps[0].outputs == known.maps[0].outputs
        and len(layer.places) == len(known.places)
    )


def _refit_layer(
    layer: MixingLayer,
    known: MixingLayer,
    model: keras.Model,
    original: keras.Model,
    sample: np.ndarray,
) -> Fit | None:
    (linear,) = layer.maps
    matrix = known.maps[0].matrix()
    gram = np.zeros((linear.height, linear.height))
    target = np.zeros((linear.height, linear.outputs))
    power, means, rows, is_changed = 0.0, np.zeros(linear.outputs), 0, False
    for now, then in _rows_of_both(layer, known, model, original, sample):
        is_changed = is_changed or now.shape != then.shape or not np.array_equal(now, then)
        wanted = then @ matrix
        gram += now.T @ now
        target += now.T @ wanted
        power += float((wanted**2).sum())
        means += wanted.sum(axis=0)
        rows += len(now)
    if not is_changed:
        return None
    gram, target, power, means = gram / rows, target / rows, power / rows, means / rows
    kernel = masked_least_squares(
        gram, target, _alive(linear), linear.matrix(), ridge_of(len(gram), rows)
    )
    linear.write(kernel)
    # E|y - hV|², from moments alone.
    loss = power - 2 * float((kernel * target).sum()) + float((kernel * (gram @ kernel)).sum())
    return Fit(max(0.0, loss), max(0.0, power - float((means**2).sum())))


def _rows_of_both(
    layer: MixingLayer,
    known: MixingLayer,
    model: keras.Model,
    original: keras.Model,
    sample: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What both layers multiply with, side by side, until there is enough."""
    readers = inputs_at(model, layer.places), inputs_at(original, known.places)
    size = _ROWS_AT_ONCE if _has_positions(layer) else 4096
    for number, batch in enumerate(batches(sample, size)):
        # Positions of one row are alike: rather few of many rows than all of a few.
        limit = max(len(batch), POSITIONS * len(batch) // len(sample))
        for now, then in zip(*(reader(batch) for reader in readers), strict=True):
            yield (
                layer.maps[0].rows(now, limit, seed=number),
                known.maps[0].rows(then, limit, seed=number),
            )


def _has_positions(layer: MixingLayer) -> bool:
    return not isinstance(layer.layer, keras.layers.Dense)


def _alive(linear: LinearMap) -> np.ndarray:
    """(height, outputs): the entries of a matrix that may change."""
    mask = alive(linear.kernel).ravel()[linear.elements]
    if linear.bias is None:
        return mask
    return np.vstack([mask, np.ones((1, linear.outputs), bool)])
