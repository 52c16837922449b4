"""The embedded default: scikit-learn's 1,797 handwritten digits of 8x8 pixels."""

from __future__ import annotations

import hashlib

import numpy as np

from secateur.settings import DataSettings
from secateur.sources.source import Source


def read_digits(settings: DataSettings) -> Source:
    """The digits: rows (1797, 64), pixels in [0, 16], as scikit-learn ships them."""
    from sklearn.datasets import load_digits

    pixels = np.ascontiguousarray(load_digits().data)
    return Source(
        name="digits",
        origin="digits",
        rows=pixels,
        md5=hashlib.md5(pixels.data, usedforsecurity=False).hexdigest(),
        image_shape=(8, 8),
    )
