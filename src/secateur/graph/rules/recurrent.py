"""Recurrent layers: a unit is one of the state, with its part of every gate."""

from __future__ import annotations

import numpy as np
from keras import layers

from secateur.graph.labels import Ids, spread
from secateur.graph.rules.carrying import unknown
from secateur.graph.trace import Call, Rule

GATES = {layers.SimpleRNN: 1, layers.GRU: 3, layers.LSTM: 4}


def _recurrent(call: Call) -> list[Ids]:
    layer = call.operation
    if len(call.inputs) > 1:  # a state that is handed in
        return unknown(call)
    known = call.units_of("recurrent_kernel", 0)
    units = call.atoms(layer.units) if known is None else known
    gates = np.tile(units, GATES[type(layer)])
    call.reads("kernel", 0, call.channels(call.input, -1))
    call.makes("kernel", 1, gates)
    call.carries("recurrent_kernel", 0, units)
    call.carries("recurrent_kernel", 1, gates)
    call.carries("bias", -1, gates)
    for name in ("kernel", "recurrent_kernel"):
        call.multiplies(name, call.input.shape[1])
    return [spread(units, len(shape) - 1, shape) for shape in call.output_shapes]


RULES: dict[type | str, Rule] = dict.fromkeys(GATES, _recurrent)
