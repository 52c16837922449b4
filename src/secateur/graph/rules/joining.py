"""Element-wise operations on several inputs: equal positions leave together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from secateur.graph.labels import Ids, varying_axes
from secateur.graph.rules.carrying import unknown
from secateur.graph.trace import Call, Labels, Rule


def merge(call: Call) -> Ids:
    """Layers on several inputs."""
    rank = max(ids.ndim for ids in call.inputs)
    # Keras' merging layers give an input of fewer axes new ones after the batch.
    return _met(call, [_expanded(ids, rank) for ids in call.inputs])


def _expanded(ids: Ids, rank: int) -> Ids:
    return np.expand_dims(ids, tuple(range(1, 1 + rank - ids.ndim)))


def _element_wise(call: Call) -> Ids | list[Ids]:
    """A `keras.ops` operation, whose inputs may be constants too."""
    rank = len(call.output_shape)
    if any(ids.ndim != rank for ids in call.inputs):
        return unknown(call)
    given = [_constant(call, value) for value in keras.tree.flatten((call.args, call.kwargs))]
    constants = [_expanded(ids[None], rank) for ids in given if ids is not None and ids.ndim < rank]
    aligned = [ids for ids in given if ids is not None and ids.ndim == rank]
    return _met(call, [*call.inputs, *constants, *aligned])


def _constant(call: Call, value: Any) -> Ids | None:
    """Ids of a constant array, which cannot be cut; None for anything else."""
    shape = getattr(value, "shape", ())
    if isinstance(value, Labels) or len(shape) == 0:
        return None
    return np.broadcast_to(call.fixed(f"{call.path} joins it with a constant"), tuple(shape))


def _met(call: Call, inputs: Sequence[Ids]) -> Ids:
    met = inputs[0]
    for ids in inputs[1:]:
        met = _meet(call, met, ids)
    return met


def _meet(call: Call, first: Ids, second: Ids) -> Ids:
    pairs = ((first, second), (second, first))
    repeated = [ids for ids, others in pairs if _is_repeated(ids, others)]
    for ids in repeated:
        call.freeze(ids, f"{call.path} repeats it for other units")
    if not repeated:
        call.unite(first, second)
    # A unit tells more than what cannot leave anyway, and what is repeated is no unit's own.
    told = second if (repeated and repeated[0] is first) or first.max() <= 0 else first
    return np.broadcast_to(told, np.broadcast_shapes(first.shape, second.shape))


def _is_repeated(ids: Ids, others: Ids) -> bool:
    """Whether an element of `ids` meets several units of `others`."""
    return any(ids.shape[axis] == 1 for axis in varying_axes(others))


ELEMENT_WISE_OPERATIONS = (
    "Abs", "Absolute", "Add", "Arccos", "Arccosh", "Arcsin", "Arcsinh", "Arctan", "Arctan2",
    "Arctanh", "Cast", "Cbrt", "Ceil", "Celu", "Clip", "Copy", "Cos", "Cosh", "Divide",
    "DivideNoNan", "Elu", "Equal", "Erf", "Exp", "Exp2", "Expm1", "Floor", "FloorDivide", "Gelu",
    "Greater", "GreaterEqual", "HardShrink", "HardSigmoid", "HardSilu", "HardTanh", "Isfinite",
    "Isinf", "Isnan", "LeakyRelu", "Less", "LessEqual", "Log", "Log10", "Log1p", "Log2",
    "LogSigmoid", "Logaddexp", "LogicalAnd", "LogicalNot", "LogicalOr", "Maximum", "Minimum",
    "Mod", "Multiply", "Negative", "NotEqual", "OnesLike", "Power", "Reciprocal", "Relu", "Relu6",
    "Round", "Rsqrt", "Selu", "Sigmoid", "Sign", "Silu", "Sin", "Sinh", "SoftShrink", "Softplus",
    "Softsign", "SparsePlus", "SparseSigmoid", "Sqrt", "Square", "Squareplus", "StopGradient",
    "Subtract", "Tan", "Tanh", "TanhShrink", "Threshold", "TrueDivide", "Where", "ZerosLike",
)  # fmt: skip

RULES: dict[type | str, Rule] = {
    **dict.fromkeys(ELEMENT_WISE_OPERATIONS, _element_wise),
    **dict.fromkeys(
        [
            layers.Add,
            layers.Average,
            layers.Maximum,
            layers.Minimum,
            layers.Multiply,
            layers.Subtract,
        ],
        merge,
    ),
}
