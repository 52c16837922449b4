"""One cut of a model, by any method."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from secateur.budgets import Target, shrink_within
from secateur.errors import InputError
from secateur.graph import crossed_biases
from secateur.graph.walk import graph_of_model
from secateur.grids import grids_of
from secateur.methods import check_order, make_method
from secateur.methods.base import RoundReport
from secateur.metrics import batches


def shrink(
    model: keras.Model,
    sample: np.ndarray,
    method: str,
    target: Target | None = None,
    **options: Any,
) -> tuple[keras.Model, RoundReport]:
    """A smaller copy of an autoencoder: cut and compensated, not trained.

    Args:
        model: a built Keras model; it stays as it is.
        sample: (rows, ...) calibration sample in the model's input shape, finite.
        method: a name in `secateur.METHODS`.
        target: what the result may cost, such as `{"macs": 0.5}` or `{"int8_bytes": 65536}`: one of
            `secateur.budgets.COSTS` and a fraction in (0, 1] of what the model has or an absolute
            amount. It takes the place of the method's knob that says how much goes.
        options: the method's knobs.

    Returns:
        The smaller model, and a report of what went and what was left alone.

    Raises:
        InputError: the model, the method, the target, an option or the sample cannot be used.
    """
    chosen = make_method(method, options, target)
    graph = graph_of_model(model)
    if len(graph._inputs) != 1 or len(graph._outputs) != 1:
        raise InputError(
            f"a model to shrink has one input and one output; {model.name!r} has "
            f"{len(graph._inputs)} and {len(graph._outputs)}"
        )
    sample, shape = np.asarray(sample), tuple(graph._inputs[0].shape[1:])
    if sample.shape[1:] != shape or not len(sample):
        raise InputError(
            f"the calibration sample has the shape {sample.shape}; the model needs "
            f"{('rows', *shape)}, at least one row"
        )
    if not all(np.isfinite(batch).all() for batch in batches(sample)):
        raise InputError("the calibration sample holds values that are not finite")
    _check_biases(model, "it cannot be shrunk", "give them another number of filters")
    _check_rows(model, graph._inputs[0].shape[0], sample)
    if chosen.deploys_as is None and grids_of(model):
        check_order("int8", None, f"{method} cannot cut this model, whose weights lie on a grid")
    if target is None:
        cut, report = chosen.shrink(model, sample)
    else:
        cut, report = shrink_within(chosen, model, sample, target)
    _check_biases(cut, "it would not give what was asked for", "let another amount stay")
    return cut, report


def _check_biases(model: keras.Model, consequence: str, remedy: str) -> None:
    if crossed := crossed_biases(model):
        raise InputError(
            f"Keras on TensorFlow adds the biases of {', '.join(crossed)} in {model.name!r} along "
            f"columns, as these channels-first layers have as many filters as columns: "
            f"{consequence}; {remedy}"
        )


def _check_rows(model: keras.Model, size: int | None, sample: np.ndarray) -> None:
    """Refuse a model that was built for batches of one size and can take no other.

    Most that were built so take any: Keras checks the size nowhere, and only a state that is kept
    from batch to batch, or a reshape that names the size, holds on to it.
    """
    if size is None:
        return
    rows = sample[np.arange(size + 1) % len(sample)]
    try:
        output = model(rows, training=False)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        told = str(error)
    else:
        if len(output) == len(rows):
            return
        told = f"of {len(rows)} rows it gives {len(output)}"
    raise InputError(
        f"{model.name!r} takes batches of {size} rows alone, and shrinking needs any: build "
        f"it without stateful layers and without reshapes that name the batch's size ({told})"
    )
