"""Layers around other layers."""

from __future__ import annotations

import numpy as np
from keras import layers

from secateur.graph.labels import Ids, varying_axes
from secateur.graph.rules.carrying import unknown, whole
from secateur.graph.rules.recurrent import GATES
from secateur.graph.trace import Call, Rule


def _time_distributed(call: Call) -> list[Ids]:
    if 1 in varying_axes(call.input):
        return whole(call)
    steps = call.output_shape[1]
    shapes = [(1, *shape[2:]) for shape in call.output_shapes]
    outputs = call.within(call.operation.layer, call.input[:, 0], shapes, steps)
    return [ids[:, None] for ids in outputs]


def _bidirectional(call: Call) -> list[Ids]:
    layer = call.operation
    both = (layer.forward_layer, layer.backward_layer)
    if layer.return_state or len(call.inputs) > 1 or not all(type(one) in GATES for one in both):
        return unknown(call)
    if both[0].units != both[1].units:
        return unknown(call)
    outer = call.output_shape[:-1]
    forward, backward = (call.within(one, call.input, [(*outer, one.units)])[0] for one in both)
    call.unite(forward, backward)  # Keras takes both to be as wide as the first, however they merge
    if layer.merge_mode is None:
        return [forward, backward]
    if layer.merge_mode == "concat":
        return [np.concatenate([forward, backward], axis=-1)]
    return [forward]


RULES: dict[type | str, Rule] = {
    layers.Bidirectional: _bidirectional,
    layers.TimeDistributed: _time_distributed,
}
