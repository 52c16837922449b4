"""Folding BatchNormalization into the layers beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.methods.base import Method, RoundReport

if TYPE_CHECKING:
    import keras
    import numpy as np


STAYS = (
    "it does not alone read a layer without activation, nor is it read by layers alone that could "
    "take it over exactly"
)


@dataclass(frozen=True)
class Fold(Method):
    """Take BatchNormalization out and let the kernels and biases beside it do its work.

    Exact: the outputs are those of the model before, up to the rounding of float32. A normalization
    goes into the layer that it reads where it alone reads it and the layer has no activation
    (Dense, convolutions, transposed, depthwise and separable ones), and else into the layers that
    read it where none of them pads what it reads with zeros. There are no knobs.
    """

    def shrink(self, model: keras.Model, sample: np.ndarray) -> tuple[keras.Model, RoundReport]:
        """See `Method.shrink`."""
        from secateur.norms import fold_all_norms

        folded, into = fold_all_norms(model)
        return folded, RoundReport(*_accounts(model, into), uncompensated=folded)


def _accounts(
    model: keras.Model, into: dict[str, tuple[str, ...]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    groups: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    for path, norm in _norms(model, ""):
        units = int(norm.moving_mean.shape[0])
        if path in into:
            entry = {"layer": path, "units_before": units, "units_after": units, "removed": []}
            groups.append({**entry, "folded_into": list(into[path])})
        else:
            skipped.append({"layer": path, "units": units, "reason": STAYS})
    return groups, skipped


def _norms(model: keras.Model, prefix: str) -> Iterator[tuple[str, Any]]:
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _norms(layer, f"{prefix}{layer.name}/")
        elif isinstance(layer, keras.layers.BatchNormalization):
            yield prefix + layer.name, layer
