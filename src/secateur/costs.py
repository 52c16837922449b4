"""What a model costs, counted from its graph: nothing is run or timed here."""

from __future__ import annotations

import gzip
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from secateur.graph.counting import uncounted_products
from secateur.graph.rules import rule_of
from secateur.graph.trace import trace
from secateur.saving import save
from secateur.schedule import peak_activation_bytes


@dataclass(frozen=True)
class Costs:
    """What a model costs.

    Attributes:
        parameters: numbers in its weights, BatchNorm statistics included.
        nonzeros: those of them that are not zero.
        macs: multiply-accumulate operations of one row's forward pass: with kernels, and of
            activations with each other where attention or a matrix product multiplies them.
            Element-wise work is not counted.
        nonzero_macs: those whose weight is not zero.
        peak_activation_bytes: see `secateur.schedule.peak_activation_bytes`.
        size_bytes: its `.keras` file.
        gzip_bytes: its weights, gzipped: what zeros and shared values save in transit.
    """

    parameters: int
    nonzeros: int
    macs: int
    nonzero_macs: int
    peak_activation_bytes: int
    size_bytes: int
    gzip_bytes: int


def costs(model: keras.Model) -> Costs:
    """Count what a built model costs.

    Raises:
        InputError: the model has no graph that could be read.
        NotImplementedError: a layer's products cannot be counted, such as those of a loop.
    """
    macs, nonzero_macs = count_macs(model)
    return Costs(
        parameters=count_parameters(model),
        nonzeros=count_nonzeros(model),
        macs=macs,
        nonzero_macs=nonzero_macs,
        peak_activation_bytes=peak_activation_bytes(model),
        size_bytes=_size_bytes(model),
        gzip_bytes=gzip_bytes(model),
    )


def count_parameters(model: keras.Model) -> int:
    """Numbers in the weights, BatchNorm statistics included; shared ones once."""
    return sum(math.prod(weight.shape) for weight in model.weights)


def count_nonzeros(model: keras.Model) -> int:
    """Numbers in the weights that are not zero."""
    return sum(int(np.count_nonzero(weight)) for weight in model.weights)


def gzip_bytes(model: keras.Model) -> int:
    """The weights, gzipped."""
    return len(gzip.compress(b"".join(np.asarray(one).tobytes() for one in model.weights), mtime=0))


def _size_bytes(model: keras.Model) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "model.keras")
        save(model, path)
        return path.stat().st_size


def count_macs(model: keras.Model) -> tuple[int, int]:
    """Multiply-accumulates of one row: all, and those whose weight is not zero.

    An axis of unknown length counts as one. Layers that the graph's rules do not follow are counted
    in TensorFlow's own graph of them, where all weights pass for nonzero.

    Raises:
        InputError: the model has no graph that could be read.
        NotImplementedError: a layer's products cannot be counted, such as those of a loop.
    """
    found = trace(model, rule_of)
    macs = nonzero_macs = 0
    for one in [*found.products, *uncounted_products(found)]:
        times = one.times * math.prod(map(len, one.along))
        macs += times * (1 if one.variable is None else math.prod(one.variable.shape))
        nonzero_macs += times * (1 if one.variable is None else int(np.count_nonzero(one.variable)))
    return macs, nonzero_macs
