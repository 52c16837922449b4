"""Cutting: a smaller copy of a model, built anew."""

from __future__ import annotations

from typing import Any

import keras

from secateur.graph.groups import Analysis, KeptUnits, analyse, kept_atoms
from secateur.graph.resize import Left, resized, rewritten, take
from secateur.graph.walk import graph_of


def keep_units(model: keras.Model, kept: KeptUnits) -> keras.Model:
    """A copy of a model that has only the kept units of its dependency groups.

    Inputs, outputs, names, dtype policies and nesting are those of the original, which stays as it
    was. The copy is not compiled.

    Args:
        model: a built functional or Sequential model.
        kept: group's name -> sorted indices of the units that stay; groups that are not named stay
            whole. Naming the code's group cuts the code.

    Raises:
        InputError: a group is unknown or frozen, or its indices are not sorted, unique units.
    """
    analysis = analyse(model)
    return _Rebuild(analysis, Left(analysis.trace, kept_atoms(analysis, kept))).rebuild(model)


class _Rebuild:
    """One rebuilding: what is left of every tensor, and the copies of layers made so far."""

    def __init__(self, analysis: Analysis, left: Left) -> None:
        self._trace = analysis.trace
        self._left = left
        self._copies: dict[int, tuple[Any, Any]] = {}  # a layer called twice is copied once

    def rebuild(self, model: keras.Model) -> keras.Model:
        copy = self._model(model)
        for original, layer in self._copies.values():
            if graph_of(original) is None and isinstance(original, keras.Layer):
                self._copy_variables(original, layer)
        return copy

    def _model(self, model: Any) -> Any:
        is_sequential = isinstance(model, keras.Sequential)
        copy = self._sequential(model) if is_sequential else self._functional(model)
        if not model.trainable:
            copy.trainable = False
        return copy

    def _sequential(self, model: Any) -> Any:
        inputs = self._input(model._functional._inputs[0])
        return keras.Sequential([inputs, *map(self._copy, model.layers)], name=model.name)

    def _functional(self, model: Any) -> Any:
        inputs = keras.tree.map_structure(self._input, model._inputs_struct)
        outputs = model._run_through_graph(inputs, call_fn=self._call)
        return keras.Model(inputs, outputs, name=model.name)

    def _input(self, tensor: Any) -> Any:
        layer = tensor._keras_history.operation
        shape = self._left.shape(self._trace.tensors[id(tensor)], tensor.shape)
        return type(layer).from_config({**layer.get_config(), "batch_shape": shape}).output

    def _call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if graph_of(operation) is None:
            args = rewritten(operation, self._left, args)
        return self._copy(operation)(*args, **kwargs)

    def _copy(self, operation: Any) -> Any:
        if id(operation) not in self._copies:
            is_model = graph_of(operation) is not None
            copy = self._model(operation) if is_model else self._operation(operation)
            self._copies[id(operation)] = operation, copy
        return self._copies[id(operation)][1]

    def _operation(self, operation: Any) -> Any:
        config = resized(operation, self._left)
        if not isinstance(operation, keras.layers.Lambda):
            return type(operation).from_config(config)
        # Its function is in memory already, so there is nothing unsafe to load.
        copy = type(operation).from_config(config, safe_mode=False)
        copy.function = operation.function
        return copy

    def _copy_variables(self, original: keras.Layer, copy: keras.Layer) -> None:
        for before, after in zip(original.variables, copy.variables, strict=True):
            after.assign(take(before, self._left.positions(before)))
