"""Scaling learnt from training rows and kept as two lists of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from secateur.errors import InputError
from secateur.sources.source import Selection, Source

ScalingKind = Literal["minmax", "standard", "none"]

# scikit-learn's own limit: a column that varies by less has no scale to divide by.
CONSTANT = 10 * np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class Scaling:
    """scaled = raw · scale + offset, column by column.

    Attributes:
        kind: how the numbers came to be.
        scale: (features,) float64, positive.
        offset: (features,) float64.
    """

    kind: ScalingKind
    scale: np.ndarray
    offset: np.ndarray

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """(rows, features) raw values, scaled, as float32."""
        with np.errstate(over="ignore"):  # whoever writes the result looks for infinities
            return (raw * self.scale + self.offset).astype(np.float32)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Scaling:
        """What `as_json` gave."""
        return cls(
            content["kind"],
            np.asarray(content["scale"], np.float64),
            np.asarray(content["offset"], np.float64),
        )

    def as_json(self) -> dict[str, Any]:
        """The content of `scaling.json`."""
        return {
            "kind": self.kind,
            "scale": self.scale.tolist(),
            "offset": self.offset.tolist(),
        }


def fit_scaling(source: Source, train: Selection, kind: ScalingKind) -> tuple[Scaling, list[int]]:
    """The scaling of some training rows, and the columns that do not vary in them.

    `minmax` maps what training rows hold to [0, 1], `standard` to mean 0 and deviation 1, `none`
    changes nothing. Each column has numbers of its own, except that the pixels of pictures share
    theirs: a pixel's value means the same everywhere, and a corner that is nearly always dark
    would otherwise be blown up to full contrast. So Fashion-MNIST with `minmax` is pixels / 255.
    A column that does not vary is only moved (to 0), never divided by its range.

    Args:
        source: what the rows are, for messages and for whether they are pictures.
        train: the rows to learn from.
        kind: see above.

    Raises:
        InputError: no column varies, or a column's values are too large to compute with.
    """
    shared = source.image_shape is not None
    scaler = _scaler(kind)
    lowest = np.full(source.features, np.inf)
    highest = np.full(source.features, -np.inf)
    with np.errstate(over="ignore", invalid="ignore"):  # too large: looked for below
        for block in train.blocks():
            np.minimum(lowest, block.min(axis=0), out=lowest)
            np.maximum(highest, block.max(axis=0), out=highest)
            if scaler is not None:
                scaler.partial_fit(block.reshape(-1, 1) if shared else block)
        scale, offset = _line(kind, scaler, 1 if shared else source.features)
        scaling = Scaling(
            kind,
            np.broadcast_to(scale, source.features).copy(),
            np.broadcast_to(offset, source.features).copy(),
        )
        span = highest - lowest
        usable = np.isfinite([span, scaling.scale, scaling.offset]).all(axis=0)
    if not usable.all():
        feature = int(np.argmin(usable))
        raise InputError(
            f"{source.origin}: {source.column(feature)} spans {lowest[feature]:g} to "
            f"{highest[feature]:g}, too wide to scale"
        )
    varies = span * scaling.scale >= CONSTANT
    # What float32 cannot tell apart is constant to the network.
    varies &= scaling.apply(lowest) != scaling.apply(highest)
    if not varies.any():
        raise InputError(
            f"every column of {source.origin} is constant in the training rows; nothing to learn"
        )
    return scaling, np.flatnonzero(~varies).tolist()


def _scaler(kind: ScalingKind) -> Any:
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    return {"minmax": MinMaxScaler, "standard": StandardScaler, "none": lambda: None}[kind]()


def _line(kind: ScalingKind, scaler: Any, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """A fitted scaler as (scale, offset)."""
    if kind == "minmax":
        return scaler.scale_, scaler.min_
    if kind == "standard":
        return 1 / scaler.scale_, -scaler.mean_ / scaler.scale_
    return np.ones(columns), np.zeros(columns)
