"""What a model costs, counted from its graph: nothing is run or timed here."""

from __future__ import annotations

import gzip
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from secateur.graph.rules import kind, rule_of
from secateur.graph.trace import trace
from secateur.graph.walk import graph_of, graph_of_model, nodes
from secateur.saving import save
from secateur.schedule import attention_sizes, peak_activation_bytes


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
        NotImplementedError: a layer with weights whose MACs nobody taught this module to count.
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

    An axis of unknown length counts as one.

    Raises:
        InputError: the model has no graph that could be read.
        NotImplementedError: a layer's kernel is of a kind that nobody taught this to count.
    """
    uses = {**trace(model, rule_of).macs}
    between = 0
    for node in _calls(graph_of_model(model)):
        for variable, times in _untraced(node, uses):
            _, before = uses.get(id(variable), (variable, 0))
            uses[id(variable)] = variable, before + times
        between += _PRODUCTS.get(kind(node.operation), _none)(node)
    macs = sum(times * math.prod(one.shape) for one, times in uses.values())
    nonzero = sum(times * int(np.count_nonzero(one)) for one, times in uses.values())
    return macs + between, nonzero + between


def _calls(graph: Any) -> Iterator[Any]:
    """The calls of a graph, those of nested models in their place."""
    for node, _ in nodes(graph):
        inner = graph_of(node.operation)
        if inner is None:
            yield node
        else:
            yield from _calls(inner)


def _untraced(node: Any, traced: dict[int, Any]) -> list[tuple[Any, int]]:
    """Kernels that the graph's rules do not count, and how often a row uses each element."""
    layer = node.operation
    kernels = [one for one in getattr(layer, "weights", []) if len(one.shape) > 1]
    kernels = [one for one in kernels if one.name not in _ELEMENT_WISE]
    if not kernels or isinstance(layer, layers.Embedding) or id(kernels[0]) in traced:
        return []
    shape = node.input_tensors[0].shape
    if isinstance(layer, (layers.RNN, layers.Bidirectional)):
        steps = shape[1] or 1
        if all(len(one.shape) == 2 for one in kernels):
            return [(one, steps) for one in kernels if one.name in ("kernel", "recurrent_kernel")]
    if isinstance(layer, layers.MultiHeadAttention):
        asked, told = _rows(shape), _rows(node.input_tensors[-1].shape)
        by_part = {"query": asked, "attention_output": asked, "key": told, "value": told}
        parts = [(one, one.path.split("/")[-2]) for one in kernels if one.name == "kernel"]
        return [(one, by_part[part]) for one, part in parts]
    raise NotImplementedError(
        f"cannot count the MACs of layer {layer.name!r} ({type(layer).__name__}), which holds "
        f"{', '.join(one.name for one in kernels)}"
    )


# Not multiplied with sums behind them: biases of several axes, and what scales element by element.
_ELEMENT_WISE = ("alpha", "beta", "bias", "gamma", "scale")


def _rows(shape: tuple[int | None, ...]) -> int:
    """Rows of a tensor (batch, ..., features) that one row of the batch holds."""
    return math.prod(size or 1 for size in shape[1:-1])


def _none(node: Any) -> int:
    return 0


def _attention_products(node: Any) -> int:
    """Queries with keys, and scores with values."""
    asked, told = _rows(node.input_tensors[0].shape), _rows(node.input_tensors[1].shape)
    heads, key_size, value_size = attention_sizes(node.operation)
    return heads * asked * told * (key_size + value_size)


def _plain_attention_products(node: Any) -> int:
    query, value = (tensor.shape for tensor in node.input_tensors[:2])
    key = node.input_tensors[2].shape if len(node.input_tensors) > 2 else value
    return _rows(query) * _rows(value) * (key[-1] + value[-1])


def _matrix_product(node: Any) -> int:
    """Every number of the output is a sum over an axis of the first factor."""
    return _numbers(node) * (node.input_tensors[0].shape[-1] or 1)


def _dot_layer(node: Any) -> int:
    axes = node.operation.axes
    axis = axes if isinstance(axes, int) else axes[0]
    return _numbers(node) * (node.input_tensors[0].shape[axis] or 1)


def _numbers(node: Any) -> int:
    return math.prod(size or 1 for size in node.outputs[0].shape[1:])


_PRODUCTS: dict[type | str, Callable[[Any], int]] = {
    **dict.fromkeys([layers.MultiHeadAttention, layers.GroupQueryAttention], _attention_products),
    layers.Attention: _plain_attention_products,
    layers.Dot: _dot_layer,
    "Matmul": _matrix_product,
}
