"""Zeros that stay zero, and values that stay shared, and fits that respect it.

A kernel entry that is exactly zero has been pruned, and nothing gives it life again: not the
training of `recover`, not the closed-form fits of later rounds. A kernel that is zero throughout
has not been pruned but not begun (an initializer of zeros), and counts as alive throughout; no
method empties a kernel.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import scipy.linalg

from secateur.errors import InputError

Masks = Mapping[str, np.ndarray]
"""Path of a kernel -> bools of its shape, true where an entry is alive; kernels without zeros are
not named."""

RIDGE = 1e-6
_RIDGE_OF_FEW = 1e-2  # with as many rows as inputs, or fewer
_MOST_SHARED = 256  # values of a clustered kernel that training keeps shared
_MOST_SHARED_OF_A_CHANNEL = 64  # on average, of one on a grid


def kernels(model: keras.Model) -> dict[str, Any]:
    """The variables that multiply a model's activations, by path: `encoder/dense_1/kernel`.

    Biases, normalizations, slopes and embeddings start at zero or mean something at zero, so they
    are not among them. A layer that is called several times is there once.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for path, variable in _walk(model, ""):
        if id(variable) not in seen:
            seen.add(id(variable))
            found[path] = variable
    return found


def _walk(layer: keras.Layer, inside: str) -> Iterator[tuple[str, Any]]:
    for variable in layer._trainable_variables:
        if variable.name.endswith("kernel"):
            yield f"{inside}{variable.name}", variable
    for part in layer._layers:
        yield from _walk(part, f"{inside}{part.name}/")


def alive(kernel: Any) -> np.ndarray:
    """Bools of a kernel's shape: all true where the kernel is zero throughout."""
    nonzero = np.asarray(kernel) != 0
    return nonzero if nonzero.any() else np.ones_like(nonzero)


def masks_of(model: keras.Model) -> dict[str, np.ndarray]:
    """The masks of a model, read from its zeros; empty for a dense model."""
    found = {path: alive(kernel) for path, kernel in kernels(model).items()}
    return {path: mask for path, mask in found.items() if not mask.all()}


def apply_masks(model: keras.Model, masks: Masks) -> None:
    """Set what is not alive to zero, in place.

    Raises:
        InputError: a mask has no kernel in the model, or another shape than its kernel.
    """
    known = kernels(model)
    for path, mask in masks.items():
        if path not in known:
            raise InputError(f"there is no kernel {path!r}; the model has {', '.join(known)}")
        if tuple(known[path].shape) != mask.shape:
            raise InputError(
                f"the mask of {path!r} has the shape {mask.shape}, its kernel "
                f"{tuple(known[path].shape)}"
            )
        known[path].assign(np.asarray(known[path]) * mask)


def shared_values(kernel: np.ndarray, axes: tuple[int, ...] | None = None) -> np.ndarray | None:
    """Which of its few values each entry of a kernel has; None if the kernel does not share any.

    A kernel shares values if it has from two to 256, each eight times on average. On a grid, whose
    steps differ from channel to channel, each may have 64 values of its own.

    Args:
        kernel: of any shape.
        axes: if it lies on a grid, those that a channel spans.
    """
    most = _MOST_SHARED
    values, numbers = np.unique(kernel, return_inverse=True)
    if axes is not None:
        channels = math.prod(kernel.shape) // math.prod(kernel.shape[axis] for axis in axes)
        most = _MOST_SHARED_OF_A_CHANNEL * channels
    nonzero = np.count_nonzero(values)
    if not 2 <= nonzero <= most or 8 * nonzero > np.count_nonzero(kernel):
        return None
    return numbers.reshape(kernel.shape)


def save_masks(masks: Masks, path: Path) -> None:
    """Write masks as a `.npz` whose bytes depend on them alone; a dense model's holds nothing."""
    # NumPy gives every member the zip's earliest date.
    np.savez_compressed(path, **{name: masks[name] for name in sorted(masks)})  # type: ignore[arg-type]


def load_masks(path: Path) -> dict[str, np.ndarray]:
    """The masks in a file of `save_masks`.

    Raises:
        InputError: there is no such file, or it is no archive of arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} holds no masks: {error}") from error


def ridge_of(inputs: int, rows: int) -> float:
    """How strongly least squares is damped, as a share of the mean diagonal of the Gram matrix.

    Where rows are plenty a ridge only keeps what inputs share from being divided by zero. Where
    they are few, other rows would see weights that explode: what is lost seems to be replaced best
    by what hardly varies. Between the two the ridge falls with the third power of rows an input,
    as was measured (`docs/decisions/damping-by-rows.md`).

    Args:
        inputs: of the layer.
        rows: that its moments were taken of.
    """
    return max(RIDGE, _RIDGE_OF_FEW * min(1.0, inputs / rows) ** 3)


def masked_least_squares(
    gram: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray,
    start: np.ndarray | None = None,
    ridge: float = RIDGE,
) -> np.ndarray:
    """The kernel that comes closest to wanted outputs with the entries it is allowed.

    Each output's column is a least squares of its own over the inputs that are alive in it.

    Args:
        gram: (inputs, inputs), E[hhᵀ] of the layer's inputs h, a one for the bias included.
        target: (inputs, outputs), E[h yᵀ] of these inputs and the wanted outputs y.
        mask: (inputs, outputs) bools: what is alive.
        start: (inputs, outputs), the kernel that decides where the inputs do not; zeros if None.
        ridge: added to the diagonal of the Gram matrix, as a share of its mean.

    Returns:
        (inputs, outputs) float64, exactly zero where the mask is false.
    """
    damping = ridge * np.trace(gram) / len(gram) or 1.0
    damped = gram + damping * np.eye(len(gram))
    if start is not None:
        target = target + damping * start
    kernel = np.zeros(mask.shape)
    # Columns with one pattern (all alive, blocks) share one factorization.
    patterns, pattern_of = np.unique(mask, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        inputs, outputs = np.flatnonzero(pattern), np.flatnonzero(pattern_of.ravel() == number)
        if len(inputs):
            wanted = target[np.ix_(inputs, outputs)]
            kernel[np.ix_(inputs, outputs)] = scipy.linalg.solve(
                damped[np.ix_(inputs, inputs)], wanted, assume_a="pos"
            )
    return kernel
