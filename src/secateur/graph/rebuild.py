"""Copies of a model, built anew: smaller ones, and ones with other layers.

Editing a built layer in place would leave its variables, its caches and its neighbours as they
were, and a layer's configuration remembers what it was built for. So every layer is made again from
its configuration, called as the original was, and given the values of the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from secateur.errors import InputError
from secateur.graph.groups import Analysis, KeptUnits, analyse, kept_atoms
from secateur.graph.resize import Left, resized, rewritten, take
from secateur.graph.walk import graph_of, graph_of_model


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
    return unit_keeper(model, kept)()


def unit_keeper(model: keras.Model, kept: KeptUnits) -> Callable[[], keras.Model]:
    """What makes such copies as `keep_units`, each with the values that the model has by then."""
    analysis = analyse(model)
    return lambda: _Cut(analysis, kept).copy(model)


def replace_layers(
    model: keras.Model,
    replacements: Mapping[str, Sequence[keras.Layer]],
    dropped: Mapping[str, int] | None = None,
) -> keras.Model:
    """A copy of a model with other layers in the place of some.

    A new layer of the old one's name takes over the values of variables that have the same name and
    shape. All layers that are not named are copied with theirs. The copy is not compiled.

    Args:
        model: a built functional or Sequential model.
        replacements: layer's path (`encoder/dense_1`) -> the new layers, called one after the other
            on the old one's first input; none takes the layer out.
        dropped: path of a layer that joins several inputs -> which of them it no longer reads. What
            is then read by nothing is not copied.

    Raises:
        InputError: a path is not a layer of the model.
    """
    graph_of_model(model)
    copier = _Replacement(replacements, dropped or {})
    copy = copier.copy(model)
    missing = sorted({*replacements, *(dropped or {})} - copier.met)
    if missing:
        raise InputError(f"{model.name} has no layer {', '.join(map(repr, missing))}")
    return copy


class _Copier:
    """One copying: the copies of layers made so far."""

    def __init__(self) -> None:
        # A layer called twice is copied once.
        self._copies: dict[int, tuple[Any, list[Any]]] = {}

    def copy(self, model: keras.Model) -> keras.Model:
        copy = self._model(model, "")
        for original, layers in self._copies.values():
            if graph_of(original) is None and isinstance(original, keras.Layer):
                self._copy_values(original, layers)
        return copy

    def _new_layers(self, operation: Any, path: str) -> list[Any]:
        """Fresh layers in the place of one."""
        raise NotImplementedError

    def _shape(self, tensor: Any) -> tuple[int | None, ...]:
        """The shape of a copied input."""
        return tuple(tensor.shape)

    def _arguments(self, operation: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a copied call."""
        return args

    def _copy_values(self, original: keras.Layer, layers: list[Any]) -> None:
        """Give the new layers the values of the original."""
        raise NotImplementedError

    def _model(self, model: Any, prefix: str) -> Any:
        is_sequential = isinstance(model, keras.Sequential)
        copy = self._sequential(model, prefix) if is_sequential else self._functional(model, prefix)
        if not model.trainable:
            copy.trainable = False
        return copy

    def _sequential(self, model: Any, prefix: str) -> Any:
        layers = [self._input(model._functional._inputs[0])]
        for layer in model.layers:
            layers += self._copies_of(layer, prefix)
        return keras.Sequential(layers, name=model.name)

    def _functional(self, model: Any, prefix: str) -> Any:
        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            copies = self._copies_of(operation, prefix)
            args = self._arguments(operation, args)
            if len(copies) != 1:
                output = keras.tree.flatten((args, kwargs))[0]
                for copy in copies:
                    output = copy(output)
                return output
            return copies[0](*args, **kwargs)

        inputs = keras.tree.map_structure(self._input, model._inputs_struct)
        outputs = model._run_through_graph(inputs, call_fn=call)
        return _functional_class(model)(inputs, outputs, name=model.name)

    def _input(self, tensor: Any) -> Any:
        layer = tensor._keras_history.operation
        config = {**layer.get_config(), "batch_shape": self._shape(tensor)}
        return type(layer).from_config(config).output

    def _copies_of(self, operation: Any, prefix: str) -> list[Any]:
        if id(operation) not in self._copies:
            path = prefix + operation.name
            is_model = graph_of(operation) is not None
            copies = (
                [self._model(operation, path + "/")]
                if is_model
                else self._new_layers(operation, path)
            )
            self._copies[id(operation)] = operation, copies
        return self._copies[id(operation)][1]


class _Cut(_Copier):
    """A copy that loses units."""

    def __init__(self, analysis: Analysis, kept: KeptUnits) -> None:
        super().__init__()
        self._tensors = analysis.trace.tensors
        self._left = Left(analysis.trace, kept_atoms(analysis, kept))

    def _new_layers(self, operation: Any, path: str) -> list[Any]:
        return [_from_config(operation, resized(operation, self._left))]

    def _shape(self, tensor: Any) -> tuple[int | None, ...]:
        return self._left.shape(self._tensors[id(tensor)], tensor.shape)

    def _arguments(self, operation: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return args if graph_of(operation) else rewritten(operation, self._left, args)

    def _copy_values(self, original: keras.Layer, layers: list[Any]) -> None:
        for before, after in zip(original.variables, layers[0].variables, strict=True):
            after.assign(take(before, self._left.positions(before)))


class _Replacement(_Copier):
    """A copy with other layers in the place of some."""

    def __init__(
        self, replacements: Mapping[str, Sequence[keras.Layer]], dropped: Mapping[str, int]
    ) -> None:
        super().__init__()
        self._replacements = replacements
        self._dropped = dropped
        self._joins: dict[int, int] = {}  # by id of the operation: the input that it drops
        self.met: set[str] = set()

    def _new_layers(self, operation: Any, path: str) -> list[Any]:
        self.met.add(path)
        if path in self._dropped:
            self._joins[id(operation)] = self._dropped[path]
        if path in self._replacements:
            return list(self._replacements[path])
        return [_from_config(operation, operation.get_config())]

    def _arguments(self, operation: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if id(operation) not in self._joins:
            return args
        # Layers join a list; operations of `keras.ops` join their first arguments.
        joined = list(args[0]) if isinstance(args[0], list | tuple) else list(args)
        del joined[self._joins[id(operation)]]
        return (joined, *args[1:]) if isinstance(args[0], list | tuple) else tuple(joined)

    def _copy_values(self, original: keras.Layer, layers: list[Any]) -> None:
        for layer in layers:
            if layer.name == original.name:
                _copy_like_variables(original, layer)


def _functional_class(model: Any) -> Any:
    """The model's class if it is made of inputs and outputs as Keras' own is."""
    kind = type(model)
    maker = next(one for one in kind.__mro__ if "__init__" in vars(one))
    return kind if maker.__module__.startswith("keras.") else keras.Model


def _from_config(operation: Any, config: dict[str, Any]) -> Any:
    if isinstance(operation, keras.layers.Lambda):
        # Its function is in memory already, so there is nothing unsafe to load.
        copy = type(operation).from_config(config, safe_mode=False)
        copy.function = operation.function
    else:
        copy = type(operation).from_config(config)
    copy.name = operation.name  # which the configuration of a user's layer may leave out
    return copy


def _copy_like_variables(original: keras.Layer, layer: keras.Layer) -> None:
    if len(original.variables) == len(layer.variables):
        pairs = list(zip(original.variables, layer.variables, strict=True))
    else:
        named = {one.name: one for one in layer.variables}
        pairs = [(one, named[one.name]) for one in original.variables if one.name in named]
    for before, after in pairs:
        if before.shape == after.shape:
            after.assign(before)
