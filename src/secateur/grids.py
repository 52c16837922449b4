"""Weights on a grid: kernels whose entries are whole multiples of a step, one step a channel.

LiteRT stores an 8-bit kernel as whole numbers from -127 to 127 and one step for each of its output
channels: the largest magnitude of the channel over 127. A kernel whose channels hold multiples of
just that step is therefore stored without any further error, and a channel that keeps an entry at
127 steps keeps its grid. Zero is on every grid.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from secateur.errors import InputError
from secateur.graph.kinds import RECURRENT
from secateur.mixing import MixingLayer, mixing_layers
from secateur.schemes import INT8, SCHEMES

LEVELS = 127
SMALL = "LiteRT leaves kernels of fewer than 1,024 numbers in float32 under this scheme"
_DYNAMIC_LEAST = 1024
_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
_SWEEPS = 10  # through all entries, at most
_OFF = 1e-3  # steps that a float32 may lie beside its grid
# Entries of a kernel, beside zeros and the largest, that are not on a grid by chance together.
_EVIDENCE = 8

# Kept in float32, or taken apart first.
_KEPT = (*RECURRENT, keras.layers.Conv3D, keras.layers.Conv3DTranspose)

Axes = tuple[int, ...]
"""The axes of a kernel that a channel spans: entries that differ along these share a step."""


def stored_layers(model: keras.Model, scheme: str = INT8) -> tuple[MixingLayer, ...]:
    """The mixing layers whose kernels a LiteRT file stores as int8, with a step for each output.

    Args:
        model: a built functional or Sequential model.
        scheme: one of int8 weights.

    Raises:
        InputError: the model has no graph that could be read.
    """
    return tuple(
        one
        for one in mixing_layers(model)
        if not isinstance(one.layer, _KEPT) and not is_small(one.kernel, scheme)
    )


def is_small(kernel: Any, scheme: str) -> bool:
    """Whether LiteRT leaves a kernel as it is, as it would save too little."""
    return SCHEMES[scheme].activations == "float32" and math.prod(kernel.shape) < _DYNAMIC_LEAST


def round_weights(model: keras.Model, scheme: str) -> None:
    """Round, in place, what a LiteRT file stores to the nearest number that it can.

    What lies there already is not changed.

    Raises:
        InputError: a weight is too large for float16.
    """
    weights = SCHEMES[scheme].weights
    if weights == "float16":
        for variable in model.weights:
            if keras.backend.is_float_dtype(variable.dtype):
                variable.assign(_in_float16(variable))
    elif weights == "int8":
        for layer in stored_layers(model, scheme):
            if not lies_on_grid(layer.kernel, axes_of(layer)):
                for one in layer.maps:
                    matrix = one.matrix()
                    matrix[: one.inputs] = rounded(matrix[: one.inputs])
                    one.write(matrix)


def _in_float16(variable: Any) -> np.ndarray:
    numbers = np.asarray(keras.ops.convert_to_numpy(variable))
    largest = float(np.abs(numbers).max(initial=0))
    if largest > _LARGEST_FLOAT16:
        raise InputError(
            f"{variable.path} holds {largest:.3g}; float16 reaches to {_LARGEST_FLOAT16:.0f}"
        )
    return numbers.astype(np.float16).astype(numbers.dtype)


def axes_of(layer: MixingLayer) -> Axes:
    """The axes of a layer's kernel that a channel spans; a channel is an output of a map."""
    channels = np.zeros(layer.kernel.shape, int)
    first = 0
    for one in layer.maps:
        channels.reshape(-1)[one.elements] = first + np.arange(one.outputs)
        first += one.outputs
    return tuple(
        axis for axis in range(channels.ndim) if (channels == channels.take([0], axis)).all()
    )


def grids_of(model: keras.Model) -> list[tuple[Any, Axes]]:
    """The kernels of a model that lie on a grid, with their channels' axes; none for other models.

    A kernel of few entries may look so by chance, and counts only beside one that cannot.
    """
    try:
        layers = stored_layers(model)
    except InputError:
        return []
    found = [(one.kernel, axes_of(one)) for one in layers]
    found = [(kernel, axes) for kernel, axes in found if lies_on_grid(kernel, axes)]
    return found if any(_evidence(*one) >= _EVIDENCE for one in found) else []


def lies_on_grid(kernel: Any, axes: Axes) -> bool:
    """Whether all entries of a kernel are multiples of their channel's step."""
    in_steps = _in_steps(kernel, axes)
    return bool((np.abs(in_steps - np.rint(in_steps)) <= _OFF).all())


def _evidence(kernel: Any, axes: Axes) -> int:
    magnitude = np.abs(np.rint(_in_steps(kernel, axes)))
    return int(((magnitude > 0) & (magnitude < LEVELS)).sum())


def _in_steps(kernel: Any, axes: Axes) -> np.ndarray:
    entries = np.asarray(keras.ops.convert_to_numpy(kernel), np.float64)
    steps = np.abs(entries).max(axis=axes, keepdims=True) / LEVELS
    return entries / np.where(steps > 0, steps, 1)


def steps_of(matrix: np.ndarray) -> np.ndarray:
    """(outputs,): the step of each column of (inputs, outputs); one for a column of zeros."""
    largest = np.abs(matrix).max(axis=0)
    return np.where(largest > 0, largest, LEVELS) / LEVELS


def rounded(matrix: np.ndarray) -> np.ndarray:
    """A matrix (inputs, outputs) on its columns' grids, each entry at the nearest point."""
    steps = steps_of(matrix)
    return np.rint(matrix / steps) * steps


def rounded_with_compensation(
    matrix: np.ndarray, gram: np.ndarray, damping: float = 1e-6
) -> np.ndarray:
    """A matrix on its columns' grids whose outputs change less than by rounding to the nearest.

    What rounding one entry changes, the others take up: entry after entry moves to the grid point
    that is best while all others stay, until none does (QuantEase, Behdin et al. 2023; the loss is
    that of GPTQ, Frantar et al. 2022, which goes through the entries once and cannot move around
    those that must stay). Zeros stay zero, and the largest entry of a column stays where it is, as
    its step hangs on it.

    Args:
        matrix: (inputs, outputs).
        gram: (inputs, inputs), E[hhᵀ] of the inputs, around their means where there is a bias.
        damping: added to the diagonal of the Gram matrix, as a share of its mean.
    """
    inputs, outputs = matrix.shape
    steps, stays = steps_of(matrix), matrix == 0
    stays[np.abs(matrix).argmax(axis=0), np.arange(outputs)] = True
    gram = gram + np.eye(inputs) * (damping * np.trace(gram) / inputs or 1.0)
    on_grid = rounded(matrix)
    pull = gram @ (matrix - on_grid)  # which way each entry would lower the loss
    for _ in range(_SWEEPS):
        moved = 0
        for row in range(inputs):
            best = on_grid[row] + pull[row] / gram[row, row]
            best = np.clip(np.rint(best / steps), -LEVELS, LEVELS) * steps
            moves = np.flatnonzero((best != on_grid[row]) & ~stays[row])
            pull[:, moves] -= np.outer(gram[row], best[moves] - on_grid[row, moves])
            on_grid[row, moves] = best[moves]
            moved += len(moves)
        if moved == 0:
            break
    return on_grid
