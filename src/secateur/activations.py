"""Where a model's activations are, however they are written, and swapping them.

An activation is the argument of a layer, a layer of its own (Activation, ReLU …), or a call of
`keras.ops` or `keras.activations`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from secateur.graph import inputs_at, layer_at, replace_layers
from secateur.graph.folding import MADE, layer_before
from secateur.graph.kinds import RECURRENT
from secateur.graph.rules.carrying import channel_axis
from secateur.graph.walk import Place, graph_of, graph_of_model, nodes, run
from secateur.masks import shared_values
from secateur.mixing import MixingLayer, mixing_layers

NAMES = (
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_swish", "hard_tanh",
    "leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu",
    "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh",
    "tanh_shrink",
)  # fmt: skip
_NAME_OF = {getattr(keras.activations, name): name for name in NAMES}
# Operations whose class is called otherwise.
_ALSO_CALLED = {"exp": "exponential", "hard_silu": "hard_swish"}
_AS_ARGUMENT = (*MADE, layers.EinsumDense)
# Of a sample: rows, and positions, that the shift and scale of a swap are chosen by.
_ROWS, _POSITIONS = 1024, 2048
_SCALES = 2.0 ** (np.array([0, -1, 1, -2, 2, -3, 3, -4, 4]) / 4)
_SHIFTS = np.array([0, *np.ravel([(-one, one) for one in np.arange(1, 9) / 4])])
_WORTH_IT = 0.99  # of what is left unexplained: what a shift or scale must come below


@dataclass(frozen=True, eq=False)
class Site:
    """An activation in a model.

    Attributes:
        path: of the layer or operation, with the nested models it is in.
        activation: its name in `keras.activations`; None if it is none of `NAMES`.
        units: channels of what it makes.
        values: numbers that it makes of one row, in all of its calls.
        why_not: the reason why it cannot be swapped; None if it can.
        readers: paths of the layers that mix what it makes, and can take up a change of it.
        producer: path of the layer that scales and shifts what it reads, and nothing else; None if
            there is none.
        axis: of the channels, in what it makes.
        operation: the layer or operation itself.
        places: its calls.
    """

    path: str
    activation: str | None
    units: int
    values: int
    why_not: str | None
    readers: tuple[str, ...]
    producer: str | None
    axis: int
    operation: Any = field(repr=False)
    places: tuple[Place, ...] = field(repr=False)

    @property
    def is_argument(self) -> bool:
        """Whether its layer does something else before it."""
        return type(self.operation) in _AS_ARGUMENT


class _Call(NamedTuple):
    graph: Any
    node: Any
    place: Place


def sites(model: keras.Model) -> tuple[Site, ...]:
    """The activations of a model in the order of their first calls.

    Layers that could have one and have none are among them, as `linear`.

    Args:
        model: a built functional or Sequential model, which may hold others.

    Raises:
        InputError: the model has no graph that could be read.
    """
    calls: dict[int, list[_Call]] = defaultdict(list)
    for call in _calls(graph_of_model(model), ()):
        if _activation(call.node.operation) is not None:
            calls[id(call.node.operation)].append(call)
    spread = _Spread(model, {_path(found[0].place) for found in calls.values()})
    return tuple(_site(found, spread) for found in calls.values())


def free_layers(model: keras.Model) -> tuple[str, ...]:
    """Paths of the mixing layers that a refit may change: those whose weights share no values."""
    return tuple(layer.path for layer in mixing_layers(model) if _is_free(layer))


def _is_free(layer: MixingLayer) -> bool:
    return len(layer.maps) == 1 and shared_values(np.asarray(layer.kernel)) is None


def _calls(graph: Any, inside: Place) -> Iterator[_Call]:
    for node, step in nodes(graph):
        inner = graph_of(node.operation)
        if inner is None:
            yield _Call(graph, node, (*inside, step))
        else:
            yield from _calls(inner, (*inside, step))


def _path(place: Place) -> str:
    return "/".join(name for name, _ in place)


class _Activation(NamedTuple):
    name: str | None
    why_not: str | None


_UNKNOWN = "what its activation costs is not known"


def _activation(operation: Any) -> _Activation | None:
    """What an operation has for an activation; None where it could have none."""
    if isinstance(operation, layers.Wrapper):
        inner = _activation(operation.layer)
        is_one = inner is not None and inner.name != "linear"
        reason = f"it is inside a {type(operation).__name__}"
        return _Activation(inner.name, reason) if inner and is_one else None
    if isinstance(operation, layers.ReLU | layers.LeakyReLU | layers.ELU):
        name = _name_of_layer(operation)
        return _Activation(name, None if name else _UNKNOWN)
    if isinstance(operation, layers.PReLU | layers.Softmax):
        return _Activation(None, _UNKNOWN)
    if not isinstance(operation, keras.Layer):
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(operation).__name__).lower()
        name = _ALSO_CALLED.get(name, name)
        return _Activation(name, None) if name in NAMES else None
    function = getattr(operation, "activation", None)
    if function is None:
        return None
    name = _name_of_layer(function) if isinstance(function, keras.Layer) else _NAME_OF.get(function)
    if isinstance(operation, RECURRENT):
        return _Activation(name, "it is what a recurrence goes through")
    if name is None:
        return _Activation(None, _UNKNOWN)
    if type(operation) not in (*_AS_ARGUMENT, layers.Activation):
        return _Activation(name, f"a {type(operation).__name__} is not understood")
    return _Activation(name, None)


def _name_of_layer(layer: Any) -> str | None:
    if isinstance(layer, layers.ReLU):
        shape = (layer.max_value, float(layer.negative_slope), float(layer.threshold))
        if shape[:2] == (None, shape[1]) and shape[2] == 0:
            return "leaky_relu" if shape[1] else "relu"
        return "relu6" if shape == (6.0, 0.0, 0.0) else None
    if isinstance(layer, layers.ELU):
        return "elu"
    if isinstance(layer, layers.LeakyReLU):
        return "leaky_relu"
    return _NAME_OF.get(layer.activation) if isinstance(layer, layers.Activation) else None


def _site(found: Sequence[_Call], spread: _Spread) -> Site:
    first = found[0]
    operation, path = first.node.operation, _path(first.place)
    known = _activation(operation)
    assert known is not None
    shape = first.node.outputs[0].shape[1:]
    readers = tuple(spread.readers[path])
    producer = _producer(found)
    # Where nothing says which axis it is, nothing is done to single channels.
    axis = getattr(producer, "axis", channel_axis(producer))
    why_not = known.why_not
    if why_not is None and known.name == "linear":
        why_not = "it has no activation"
    elif why_not is None and path in spread.at_output:
        why_not = "it makes the model's output: nothing behind it could take up the change"
    elif why_not is None and not readers:
        why_not = "nothing that reads it could take up the change"
    return Site(
        path=path,
        activation=known.name,
        units=int(first.node.outputs[0].shape[axis] or 1),
        values=len(found) * math.prod(size or 1 for size in shape),
        why_not=why_not,
        readers=readers,
        producer=None if producer is None else path.removesuffix(operation.name) + producer.name,
        axis=axis,
        operation=operation,
        places=tuple(call.place for call in found),
    )


def _producer(found: Sequence[_Call]) -> Any | None:
    first = found[0]
    if type(first.node.operation) in MADE:
        return first.node.operation
    if type(first.node.operation) in _AS_ARGUMENT or len(found) > 1:
        return None
    calls = [node for node, _ in nodes(first.graph)]
    layer = layer_before(first.graph, calls, first.node)
    is_norm = isinstance(layer, layers.BatchNormalization) and layer.scale and layer.center
    is_linear = layer is not None and type(layer) in MADE and _is_linear(layer)
    return layer if is_norm or is_linear else None


def _is_linear(layer: Any) -> bool:
    return layer.activation is keras.activations.linear


@dataclass(frozen=True)
class _Marks:
    """Stands for a tensor: the activations that it holds something of, not mixed yet."""

    paths: frozenset[str] = frozenset()


class _Spread:
    """How far activations reach before what they make is mixed.

    Attributes:
        readers: path of an activation -> paths of the layers that mix it.
        at_output: paths of those that reach the model's output unmixed.
    """

    def __init__(self, model: keras.Model, marked: set[str]) -> None:
        graph = graph_of_model(model)
        self._marked = marked
        # Grouped and depthwise kernels cannot take up a change: past them, the next one may.
        mixing = [layer for layer in mixing_layers(model) if len(layer.maps) == 1]
        self._mixing = [(place, layer.path) for layer in mixing for place in layer.places]
        self.readers: dict[str, dict[str, None]] = defaultdict(dict)
        outputs = self._through(graph, [_Marks() for _ in graph._inputs], ())
        self.at_output = frozenset().union(*(one.paths for one in outputs))

    def _through(self, graph: Any, inputs: Sequence[_Marks], inside: Place) -> list[_Marks]:
        def call(node: Any, step: tuple[str, int], args: Any, kwargs: Any) -> list[_Marks]:
            place = (*inside, step)
            given = [one for one in keras.tree.flatten((args, kwargs)) if isinstance(one, _Marks)]
            inner = graph_of(node.operation)
            if inner is not None:
                return self._through(inner, given, place)
            held = frozenset().union(*(one.paths for one in given))
            mixing = [path for at, path in self._mixing if at[: len(place)] == place]
            if mixing:
                for path in held:
                    self.readers[path].update(dict.fromkeys(mixing))
                held = frozenset()
            if _path(place) in self._marked:
                held |= {_path(place)}
            return [_Marks(held) for _ in node.outputs]

        return run(graph, inputs, call)


def swap(
    model: keras.Model,
    site: Site,
    activation: str,
    scale: np.ndarray | None = None,
    shift: np.ndarray | None = None,
) -> keras.Model:
    """A copy of a model with another activation at one site.

    Args:
        model: the model, or one that was swapped from it at other sites.
        site: one of `sites`.
        activation: a name of `keras.activations`.
        scale: (units,) what the site's producer is to give is multiplied by, > 0.
        shift: (units,) what is then added.
    """
    operation = site.operation
    if site.is_argument:
        new = type(operation).from_config({**operation.get_config(), "activation": activation})
    else:
        dtype = getattr(operation, "dtype_policy", None)
        new = layers.Activation(activation, name=operation.name, dtype=dtype)
    copy = replace_layers(model, {site.path: [new]})
    if site.producer is not None and scale is not None and shift is not None:
        _rescale(layer_at(copy, site.producer), scale, shift)
    return copy


def _rescale(layer: Any, scale: np.ndarray, shift: np.ndarray) -> None:
    if isinstance(layer, layers.BatchNormalization):
        layer.gamma.assign(np.asarray(layer.gamma) * scale)
        layer.beta.assign(np.asarray(layer.beta) * scale + shift)
        return
    name, axes = MADE[type(layer)]
    kernel = getattr(layer, name)
    shape = [size if axis - kernel.ndim in axes else 1 for axis, size in enumerate(kernel.shape)]
    kernel.assign(np.asarray(kernel) * scale.reshape(shape))
    if layer.use_bias:
        layer.bias.assign(np.asarray(layer.bias) * scale + shift)


def scale_and_shift(
    model: keras.Model, site: Site, activation: str, sample: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a site should read, so that another activation gives most of what its own does.

    Most in the sense that what reads both would make of it: a scale and a shift of what an
    activation gives are no loss, as the next layer takes them up. So for each unit the correlation
    between old and new is what counts. With softplus, elu or gelu swapped for relu, the kink wants
    to lie elsewhere; with gelu swapped for hard_swish, another slope fits better.

    Args:
        model: where the site is, as it is now.
        site: one of `sites` of that model.
        activation: a name of `keras.activations`.
        sample: (rows, ...) in the model's input shape.

    Returns:
        (units,) scale and shift, ones and zeros where nothing better is found or may be.
    """
    units = np.ones(site.units), np.zeros(site.units)
    if site.producer is None:
        return units
    producer = layer_at(model, site.producer)
    is_norm = isinstance(producer, layers.BatchNormalization)
    scales = _SCALES if is_norm or _is_scalable(producer) else _SCALES[:1]
    shifts = _SHIFTS if is_norm or producer.use_bias else _SHIFTS[:1]
    reads, gives = _around(site, model, sample)
    function = keras.activations.get(activation)
    gives = gives - gives.mean(axis=0)
    best = np.full(site.units, np.inf)
    for scale in scales:
        for shift in shifts:
            made = np.asarray(function((scale * reads + shift).astype(np.float32)), np.float64)
            unexplained = _unexplained(gives, made - made.mean(axis=0))
            better = unexplained < (best if scale == 1 == shift + 1 else _WORTH_IT * best)
            best = np.where(better, unexplained, best)
            units[0][better], units[1][better] = scale, shift
    return units


def _is_scalable(layer: Any) -> bool:
    return shared_values(np.asarray(getattr(layer, MADE[type(layer)][0]))) is None


def _unexplained(wanted: np.ndarray, made: np.ndarray) -> np.ndarray:
    """(units,): the share of the variance that no multiple of what is made explains."""
    power, own = (wanted**2).sum(axis=0), (made**2).sum(axis=0)
    both = (wanted * made).sum(axis=0)
    explained = np.divide(both**2, power * own, out=np.zeros_like(own), where=power * own > 0)
    return 1 - explained


def _around(site: Site, model: keras.Model, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(positions, units) each: what the activation reads and what it gives."""
    operation, function = site.operation, site.operation
    found = [np.asarray(one) for one in inputs_at(model, site.places)(sample[:_ROWS])]
    if site.is_argument:
        config = {**operation.get_config(), "activation": "linear"}
        bare = type(operation).from_config(config)
        bare.build(found[0].shape)
        bare.set_weights(operation.get_weights())
        found = [np.asarray(bare(one)) for one in found]
        function = operation.activation
    flat = []
    for reads in found:
        moved = np.moveaxis(reads, site.axis, -1)
        flat.append(moved.reshape(-1, moved.shape[-1]))
    reads = np.concatenate(flat)
    reads = reads[np.linspace(0, len(reads) - 1, min(len(reads), _POSITIONS)).round().astype(int)]
    return reads.astype(np.float64), np.asarray(function(reads), np.float64)
