"""Where Keras would add a channels-first bias along columns.

On TensorFlow, `keras.ops.add` takes what looks like a bias for one along the last axis wherever
that is as long: a convolution with `data_format="channels_first"` and as many filters as its output
has columns adds its bias column by column. A cut to that width, or away from it, would give another
function than the one that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras

from secateur.graph.walk import graph_of, graph_of_model

if TYPE_CHECKING:
    from secateur.graph.groups import Group


def columns_of(layer: Any) -> set[int]:
    """Lengths of the last axis of what a channels-first layer gives; none for other layers."""
    if getattr(layer, "data_format", None) != "channels_first" or not hasattr(layer, "use_bias"):
        return set()
    outputs = [tensor for node in layer._inbound_nodes for tensor in node.outputs]
    return {int(one.shape[-1]) for one in outputs if one.shape[-1] is not None}


def is_crossed(layer: Any, channels: int) -> bool:
    """Whether a layer with a bias and so many channels would add it along the columns."""
    return channels > 1 and channels in columns_of(layer)


def crossed_biases(model: keras.Model) -> list[str]:
    """Names of the layers of a model that add their bias along the columns."""
    layers = _with_bias(graph_of_model(model))
    return [one.name for one in layers if is_crossed(one, int(one.bias.shape[0]))]


def crossed_widths(group: Group) -> set[float]:
    """Numbers of a group's units at which one of its layers would, all other groups whole."""
    found: set[float] = set()
    for part in group.carriers:
        columns = columns_of(part.layer)
        bias: Any = getattr(part.layer, "bias", None)
        if columns and part.variable is bias:
            units, each = part.positions.shape
            others = bias.shape[0] - units * each
            found |= {(one - others) / each for one in columns}
    return found


def _with_bias(graph: Any) -> Iterator[Any]:
    for operation in graph.operations:
        if graph_of(operation) is not None:
            yield from _with_bias(graph_of(operation))
        elif getattr(operation, "bias", None) is not None and columns_of(operation):
            yield operation
