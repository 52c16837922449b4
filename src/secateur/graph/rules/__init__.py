"""What each operation does with the units of its inputs: one small function a kind of operation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from secateur.graph.labels import Ids
from secateur.graph.rules import attention, carrying, joining, mixing, moving, recurrent, wrapping
from secateur.graph.trace import Call, Rule

ELEMENTWISE_ACTIVATIONS = {
    getattr(keras.activations, name)
    for name in (
        "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu",
        "hard_swish", "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6",
        "selu", "sigmoid", "silu", "soft_shrink", "softplus", "softsign", "sparse_plus",
        "sparse_sigmoid", "squareplus", "swish", "tanh", "tanh_shrink", "threshold",
    )
}  # fmt: skip


def rule_of(operation: Any) -> Rule:
    """The rule for an operation; one that nobody wrote a rule for freezes all that it touches.

    A foreign layer whose class says `is_elementwise = True` treats equal positions of its inputs
    together and by themselves, as Add does.
    """
    is_foreign = kind(operation) not in RULES and getattr(operation, "is_elementwise", False)
    rule = joining.merge if is_foreign else RULES.get(kind(operation), carrying.unknown)
    if _is_altered(operation):
        return carrying.unknown
    if all(map(_is_elementwise, _activations(operation))):
        return rule
    return lambda call: _frozen_outputs(call, rule)


def kind(operation: Any) -> type | str:
    """What an operation is looked up by: its class, or the name of a `keras.ops` operation."""
    is_own = type(operation).__module__.startswith("keras.src.ops.")
    return type(operation).__name__ if is_own else type(operation)


def _is_altered(operation: Any) -> bool:
    """Whether a layer's variables are not the ones its class documents."""
    return bool(
        getattr(operation, "quantization_mode", None) or getattr(operation, "lora_enabled", False)
    )


def _activations(operation: Any) -> list[Any]:
    names = ("activation", "recurrent_activation")
    return [getattr(operation, name) for name in names if getattr(operation, name, None)]


def _is_elementwise(activation: Any) -> bool:
    """Whether an activation treats every unit by itself; for a foreign function nobody knows."""
    if isinstance(activation, layers.Layer):
        return RULES.get(type(activation)) is carrying.same
    return activation in ELEMENTWISE_ACTIVATIONS


def _frozen_outputs(call: Call, rule: Rule) -> list[Ids]:
    given = rule(call)
    outputs = [given] if isinstance(given, np.ndarray) else list(given)
    for ids in outputs:
        call.freeze(ids, f"the activation of {call.path} is not known to be element-wise")
    return outputs


RULES: dict[type | str, Rule] = {
    **mixing.RULES,
    **attention.RULES,
    **recurrent.RULES,
    **carrying.RULES,
    **joining.RULES,
    **moving.RULES,
    **wrapping.RULES,
}
