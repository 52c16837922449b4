"""Models nobody drew by hand: built from a list of steps, each a name, a width and a choice.

A step that does not fit the tensor it meets becomes a mixing layer, so that any list is a model.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from keras.src.backend.tensorflow import nn as keras_nn
from keras.src.backend.tensorflow import numpy as keras_numpy

ACTIVATIONS = ("linear", "relu", "tanh", "gelu", "selu", "sigmoid", "hard_swish", "elu")

CONVOLUTIONS = ("conv", "conv_transpose", "depthwise_conv", "separable_conv")

INPUTS = {
    "row": (5,),
    "tokens": (6,),
    "sequence": (6, 3),
    "image": (4, 4, 2),
    "volume": (4, 4, 2, 2),
}


@dataclass(frozen=True)
class Drawing:
    """A model to be.

    Attributes:
        kind: a name in `INPUTS`.
        steps: name in `STEPS`, width, choice.
        is_flat: whether a Flatten stands before the last layer.
        channels_first: where the channels of images and volumes are.
        seed: of the values of all variables.
    """

    kind: str
    steps: tuple[tuple[str, int, int], ...]
    is_flat: bool = True
    channels_first: bool = False
    seed: int = 0


@dataclass
class _Canvas:
    """What a step sees: the tensors so far, and layers that may be called again."""

    channels_first: bool
    past: list[Any]
    stock: list[tuple[tuple[int, ...], Any]]

    @property
    def now(self) -> Any:
        return self.past[-1]

    @property
    def rank(self) -> int:
        """Axes of positions: 0 for rows, 1 for sequences, 2 for images, 3 for volumes."""
        return len(self.now.shape) - 2

    @property
    def is_first(self) -> bool:
        return self.channels_first and self.rank > 1

    @property
    def axis(self) -> int:
        return 1 if self.is_first else -1

    @property
    def channels(self) -> int:
        return int(self.now.shape[self.axis])

    @property
    def positions(self) -> tuple[int, ...]:
        shape = self.now.shape[1:]
        return tuple(shape[1:] if self.is_first else shape[:-1])

    @property
    def format(self) -> dict[str, str]:
        return {"data_format": "channels_first"} if self.is_first else {}

    def like(self, choice: int) -> Any:
        """An earlier tensor of the same shape, or the last one."""
        alike = [one for one in self.past if one.shape == self.now.shape]
        return alike[choice % len(alike)]


Step = Callable[[_Canvas, int, int], Any]


def _of_rank(name: str, rank: int) -> Any:
    return getattr(layers, f"{name}{rank}D")


def _activation(choice: int) -> str:
    return ACTIVATIONS[choice % len(ACTIVATIONS)]


def mixing_layer(canvas: _Canvas, width: int, choice: int) -> layers.Layer:
    rank, activation = canvas.rank, _activation(choice // 4)
    options: dict[str, Any] = {"activation": activation, "use_bias": choice % 7 != 3}
    if rank == 0:
        return layers.Dense(width, **options)
    options |= {
        "padding": ("same", "valid")[choice % 2 and min(canvas.positions) > 2],
        **canvas.format,
    }
    size = 1 + choice % 3 if min(canvas.positions) > 2 else 1
    kind = ("Conv", "Conv", "ConvTranspose", "SeparableConv", "Dense")[choice % 5]
    if kind == "Dense":
        return layers.Dense(width, activation)
    if kind == "ConvTranspose":
        return getattr(layers, f"Conv{rank}DTranspose")(width, size, strides=1, **options)
    if kind == "SeparableConv" and rank < 3:
        return _of_rank(kind, rank)(width, size, depth_multiplier=1 + choice % 2, **options)
    return _of_rank("Conv", rank)(width, size, **options)


def _mix(canvas: _Canvas, width: int, choice: int) -> Any:
    layer = mixing_layer(canvas, width, choice)
    canvas.stock.append((tuple(canvas.now.shape[1:]), layer))
    return layer(canvas.now)


def _strided(canvas: _Canvas, width: int, choice: int) -> Any:
    if canvas.rank == 0 or min(canvas.positions) < 2:
        return None
    kinds = ("Conv", "ConvTranspose", "SeparableConv", "DepthwiseConv")
    kind = kinds[choice % 4]
    if kind == "ConvTranspose":
        if math.prod(canvas.positions) > 64:
            return None
        layer = getattr(layers, f"Conv{canvas.rank}DTranspose")
        return layer(width, 1 + choice % 3, strides=2, padding=("same", "valid")[choice // 4 % 2],
                     **canvas.format)(canvas.now)  # fmt: skip
    if canvas.rank == 3 or kind == "Conv":
        return _of_rank("Conv", canvas.rank)(width, 2, strides=2, padding="same", **canvas.format)(
            canvas.now
        )
    if kind == "DepthwiseConv":
        return _of_rank(kind, canvas.rank)(
            2, strides=2, padding="same", depth_multiplier=1 + choice % 3,
            activation=_activation(choice), **canvas.format,
        )(canvas.now)  # fmt: skip
    return _of_rank(kind, canvas.rank)(width, 2, strides=2, padding="same", **canvas.format)(
        canvas.now
    )


def _dilated(canvas: _Canvas, width: int, choice: int) -> Any:
    if canvas.rank == 0:
        return None
    padding = "causal" if canvas.rank == 1 and choice % 2 else "same"
    return _of_rank("Conv", canvas.rank)(
        width, 2, padding=padding, dilation_rate=2, **canvas.format
    )(canvas.now)


def _grouped(canvas: _Canvas, width: int, choice: int) -> Any:
    divisors = [one for one in range(2, canvas.channels + 1) if canvas.channels % one == 0]
    if canvas.rank == 0 or not divisors or canvas.rank == 3:
        return None
    groups = divisors[choice % len(divisors)]
    return _of_rank("Conv", canvas.rank)(
        groups * (1 + width % 2),
        2,
        padding="same",
        groups=groups,
        activation=_activation(choice),
        **canvas.format,
    )(canvas.now)


def _depthwise(canvas: _Canvas, width: int, choice: int) -> Any:
    if canvas.rank not in (1, 2) or canvas.channels > 12:
        return None
    return _of_rank("DepthwiseConv", canvas.rank)(
        2, padding="same", depth_multiplier=1 + choice % 3, activation=_activation(choice),
        use_bias=choice % 4 != 1, **canvas.format,
    )(canvas.now)  # fmt: skip


def _normalize(canvas: _Canvas, width: int, choice: int) -> Any:
    kind = choice % 6
    if kind < 3:
        return layers.BatchNormalization(
            axis=canvas.axis, scale=choice % 4 != 1, center=choice % 5 != 1
        )(canvas.now)
    if kind == 3:
        return layers.LayerNormalization(axis=canvas.axis)(canvas.now)
    if kind == 4:
        return layers.RMSNormalization(axis=canvas.axis)(canvas.now)
    groups = [one for one in range(1, canvas.channels + 1) if canvas.channels % one == 0]
    if canvas.rank == 0:
        return layers.LayerNormalization(axis=-1, scale=False)(canvas.now)
    return layers.GroupNormalization(groups[width % len(groups)], axis=canvas.axis)(canvas.now)


def _activate(canvas: _Canvas, width: int, choice: int) -> Any:
    now = canvas.now
    steps: list[Callable[[], Any]] = [
        lambda: layers.ReLU(max_value=6.0)(now),
        lambda: layers.LeakyReLU(0.2)(now),
        lambda: layers.ELU()(now),
        lambda: layers.Activation(_activation(width))(now),
        lambda: layers.PReLU()(now),
        lambda: layers.PReLU(shared_axes=list(range(1, len(now.shape) - 1)) or None)(now),
        lambda: layers.Dropout(0.3)(now),
        lambda: layers.GaussianNoise(0.1)(now),
        lambda: layers.Rescaling(0.5, 0.25)(now),
        lambda: layers.Softmax(axis=canvas.axis)(now),
        lambda: layers.UnitNormalization()(now),
        lambda: layers.ActivityRegularization(1e-3)(now),
    ]
    return steps[choice % len(steps)]()


def _operate(canvas: _Canvas, width: int, choice: int) -> Any:
    now, other = canvas.now, canvas.like(width)
    steps: list[Callable[[], Any]] = [
        lambda: ops.relu(now),
        lambda: ops.tanh(now) * 2.0 + 1.0,
        lambda: ops.sigmoid(now) * other,
        lambda: now - other,
        lambda: ops.maximum(now, other),
        lambda: ops.abs(now) + 0.5,
        lambda: ops.where(ops.greater(now, 0.0), now, other),
        lambda: ops.clip(now, -1.0, 1.0),
        lambda: now + np.arange(1, now.shape[-1] + 1, dtype="float32"),
        lambda: ops.cast(ops.silu(now), "float32"),
        lambda: ops.flip(now, axis=-1),
        lambda: 1.0 / (1.0 + ops.square(now)),
        lambda: ops.softmax(now, axis=-1),
        lambda: ops.roll(now, 1, axis=-1),
        lambda: ops.minimum(ops.stop_gradient(now), 3.0),
        lambda: ops.exp(-ops.abs(now)),
    ]
    return steps[choice % len(steps)]()


def _skip(canvas: _Canvas, width: int, choice: int) -> Any:
    other = canvas.like(width)
    if other is canvas.now:
        return None
    kinds = (
        layers.Add,
        layers.Multiply,
        layers.Maximum,
        layers.Subtract,
        layers.Average,
        layers.Minimum,
    )
    return kinds[choice % len(kinds)]()([canvas.now, other])


def _join(canvas: _Canvas, width: int, choice: int) -> Any:
    now = canvas.now
    axis = canvas.axis if choice % 4 else 1
    rank = len(now.shape)
    alike = [
        one for one in canvas.past
        if len(one.shape) == rank
        and all(one.shape[a] == now.shape[a] for a in range(1, rank) if a != axis % rank)
    ]  # fmt: skip
    others = [alike[(width + place) % len(alike)] for place in range(1 + choice % 2)]
    if sum(one.shape[axis] for one in [now, *others]) > 24:
        return None
    if choice % 3:
        return layers.Concatenate(axis=axis)([now, *others])
    return ops.concatenate([*others, now], axis=axis)


def _split(canvas: _Canvas, width: int, choice: int) -> Any:
    now, axis = canvas.now, canvas.axis
    if canvas.channels < 2:
        return None
    at = 1 + width % (canvas.channels - 1)
    if choice % 5 == 0 and canvas.channels % 2 == 0:
        first, second = ops.split(now, 2, axis=axis)
        return first * ops.sigmoid(second)
    if choice % 5 == 1:
        first, second = ops.split(now, [at], axis=axis)
        return ops.concatenate([second, first], axis=axis)
    key = [slice(None)] * len(now.shape)
    place = axis % len(now.shape)
    if choice % 5 == 2:
        key[place] = slice(at, None)
        return now[tuple(key)]
    if choice % 5 == 3:
        key[place] = slice(None, -at)
        return now[tuple(key)] + 0.5
    key[place] = slice(0, 1)
    return now * ops.sigmoid(now[tuple(key)])


def _slice_positions(canvas: _Canvas, width: int, choice: int) -> Any:
    place = 2 if canvas.is_first else 1
    if canvas.rank == 0 or canvas.now.shape[place] < 2:
        return None
    key: list[Any] = [slice(None)] * place
    if choice % 3 == 0:
        return canvas.now[(*key, slice(1, None))]
    if choice % 3 == 1:
        return canvas.now[(*key, slice(None, None, 2))]
    return canvas.now[(*key, slice(None, -1), ...)]


def _move(canvas: _Canvas, width: int, choice: int) -> Any:
    now = canvas.now
    rank = len(now.shape)
    if rank < 3:
        if choice % 2 and now.shape[-1] % 2 == 0:
            return layers.Reshape((2, now.shape[-1] // 2))(now)
        return layers.RepeatVector(3)(now)
    order = [(place + 1 + choice) % (rank - 1) + 1 for place in range(rank - 1)]
    if choice % 3 == 0:
        return layers.Permute(order)(now)
    if choice % 3 == 1:
        return ops.transpose(now, (0, *order))
    return layers.Reshape((math.prod(now.shape[1:-1]), now.shape[-1]))(now)


def _pool(canvas: _Canvas, width: int, choice: int) -> Any:
    rank = canvas.rank
    if rank == 0 or min(canvas.positions) < 2:
        return None
    kinds = ("MaxPooling", "AveragePooling", "Cropping")
    kind = kinds[choice % 3]
    if kind == "Cropping":
        if min(canvas.positions) < 3:
            return None
        return _of_rank(kind, rank)(1, **(canvas.format if rank > 1 else {}))(canvas.now)
    return _of_rank(kind, rank)(2, **canvas.format)(canvas.now)


def _grow(canvas: _Canvas, width: int, choice: int) -> Any:
    rank = canvas.rank
    if rank == 0 or math.prod(canvas.positions) > 32:
        return None
    kind = ("UpSampling", "ZeroPadding")[choice % 2]
    return _of_rank(kind, rank)(
        *([2] if kind == "UpSampling" else [1]), **(canvas.format if rank > 1 else {})
    )(canvas.now)


def _reduce(canvas: _Canvas, width: int, choice: int) -> Any:
    rank = canvas.rank
    if rank == 0:
        return None
    kind = ("GlobalAveragePooling", "GlobalMaxPooling")[choice % 2]
    given = _of_rank(kind, rank)(keepdims=choice % 3 == 0, **canvas.format)(canvas.now)
    if choice % 3 == 0:  # squeeze and excite
        return layers.Multiply()([canvas.now, layers.Activation("sigmoid")(given)])
    if choice % 3 == 1:
        axes = tuple(range(2, 2 + rank) if canvas.is_first else range(1, 1 + rank))
        return ops.mean(canvas.now, axis=axes)
    return given


def _flat(canvas: _Canvas, width: int, choice: int) -> Any:
    if canvas.rank == 0 or math.prod(canvas.now.shape[1:]) > 96:
        return None
    if choice % 3 == 0:
        return ops.reshape(canvas.now, (-1, math.prod(canvas.now.shape[1:])))
    return layers.Flatten(**canvas.format)(canvas.now)


def _back(canvas: _Canvas, width: int, choice: int) -> Any:
    """From rows to images."""
    if canvas.rank:
        return None
    made = layers.Dense(4 * width, _activation(choice))(canvas.now)
    return layers.Reshape((width, 2, 2) if canvas.channels_first else (2, 2, width))(made)


def _recur(canvas: _Canvas, width: int, choice: int) -> Any:
    if canvas.rank != 1:
        return None
    kind = (layers.LSTM, layers.GRU, layers.SimpleRNN)[choice % 3]
    layer = kind(width, return_sequences=choice % 4 != 1, go_backwards=choice % 5 == 1)
    if choice % 7 == 2 and not layer.go_backwards:
        mode = ("concat", "sum", "ave", "mul")[width % 4]
        return layers.Bidirectional(layer, merge_mode=mode)(canvas.now)
    return layer(canvas.now)


def _attend(canvas: _Canvas, width: int, choice: int) -> Any:
    if canvas.rank != 1:
        return None
    now = canvas.now
    alike = [one for one in canvas.past if len(one.shape) == 3]
    other = alike[width % len(alike)] if choice % 2 else now
    if choice % 3 == 0:
        return layers.GroupQueryAttention(2, 4, 2)(now, other)
    return layers.MultiHeadAttention(
        1 + width % 3, 2, value_dim=3 if choice % 4 == 1 else None, use_bias=choice % 5 != 2
    )(now, other)


def _einsum(canvas: _Canvas, width: int, choice: int) -> Any:
    now = canvas.now
    if canvas.rank == 0:
        return layers.EinsumDense("ab,bc->ac", width, bias_axes="c")(now)
    if canvas.rank != 1:
        return layers.EinsumDense("...x,xy->...y", width)(now)
    steps = (
        ("abc,cd->abd", (None, width), "d"),
        ("abc,bd->adc", (width, now.shape[-1]), None),
        ("abc,c->abc", (None, now.shape[-1]), "c"),
        ("abc,bcd->abd", (None, width), "bd"),
        ("abc,cd->abd", (None, width), None),
    )
    equation, shape, bias = steps[choice % len(steps)]
    return layers.EinsumDense(equation, shape, bias_axes=bias, activation=_activation(choice))(now)


def _each(canvas: _Canvas, width: int, choice: int) -> Any:
    if canvas.rank == 0 or canvas.is_first:
        return None
    inner = layers.Dense(width, _activation(choice))
    if canvas.rank == 2 and choice % 2:
        inner = layers.Conv1D(width, 2, padding="same", activation=_activation(choice))
    return layers.TimeDistributed(inner)(canvas.now)


def _share(canvas: _Canvas, width: int, choice: int) -> Any:
    fitting = [one for shape, one in canvas.stock if shape == tuple(canvas.now.shape[1:])]
    return fitting[choice % len(fitting)](canvas.now) if fitting else None


def _nest(canvas: _Canvas, width: int, choice: int) -> Any:
    shape = tuple(canvas.now.shape[1:])
    own = keras.Input(shape)
    inner = _Canvas(canvas.channels_first, [own], [])
    kind = choice % 4
    if kind == 3:
        inner.past.append(layers.Activation(_activation(width))(own))
        inner.past.append(_mix(inner, width, choice))
        model: Any = keras.Sequential([keras.Input(shape), mixing_layer(inner, width, choice)])
    elif kind == 2:
        made = _mix(inner, width, choice)
        model = keras.Model(own, [made, layers.Activation("tanh")(own)])
    elif kind == 1:
        same = layers.Activation("relu")(own)
        model = keras.Model(own, layers.Concatenate(axis=canvas.axis)([same, own]))
    else:
        model = keras.Model(own, layers.Add()([_keeping(inner, choice), own]))
    given = model(canvas.now)
    if kind == 2:
        canvas.past.append(given[1])
        return given[0]
    canvas.stock.append((shape, model))
    return given


def _keeping(canvas: _Canvas, choice: int) -> Any:
    """A mixing layer that gives the shape it takes."""
    if canvas.rank == 0:
        return layers.Dense(canvas.channels, _activation(choice))(canvas.now)
    return _of_rank("Conv", canvas.rank)(canvas.channels, 2, padding="same", **canvas.format)(
        canvas.now
    )


STEPS: dict[str, Step] = {
    "mix": _mix,
    "skip": _skip,
    "join": _join,
    "normalize": _normalize,
    "activate": _activate,
    "operate": _operate,
    "nest": _nest,
    "share": _share,
    "split": _split,
    "strided": _strided,
    "dilated": _dilated,
    "grouped": _grouped,
    "depthwise": _depthwise,
    "slice_positions": _slice_positions,
    "move": _move,
    "pool": _pool,
    "grow": _grow,
    "reduce": _reduce,
    "flat": _flat,
    "back": _back,
    "recur": _recur,
    "attend": _attend,
    "einsum": _einsum,
    "each": _each,
}


def drawn(drawing: Drawing) -> keras.Model:
    """The model of a drawing, every variable with a value of its own."""
    shape = INPUTS[drawing.kind]
    if drawing.channels_first and len(shape) > 2:
        shape = (shape[-1], *shape[:-1])
    is_tokens = drawing.kind == "tokens"
    inputs = keras.Input(shape, dtype="int32" if is_tokens else None)
    first = layers.Embedding(9, 4, mask_zero=drawing.seed % 2 == 1)(inputs) if is_tokens else inputs
    canvas = _Canvas(drawing.channels_first, [first], [])
    canvas.past.append(_mix(canvas, 4, 4 * (drawing.seed % 5)))
    for step, width, choice in drawing.steps:
        made = STEPS[step](canvas, width, choice)
        canvas.past.append(_mix(canvas, width, choice) if made is None else made)
    if drawing.is_flat and canvas.rank:
        canvas.past.append(layers.Flatten()(canvas.now))
    outputs = layers.Dense(3)(canvas.now)
    model = keras.Model(inputs, outputs)
    randomize(model, drawing.seed)
    return model


def randomize(model: keras.Model, seed: int) -> None:
    """Give every variable a value of its own."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if "seed" in variable.path:
            continue
        reach = (
            1.2 / math.sqrt(max(1, math.prod(variable.shape[:-1])))
            if len(variable.shape) > 1
            else 0.6
        )
        values = random.uniform(-reach, reach, size=variable.shape)
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)


@contextlib.contextmanager
def channels_first_on_cpu() -> Iterator[None]:
    """Let convolutions run channels-first, which TensorFlow does on GPUs alone.

    Keras on TensorFlow moreover adds a channels-first bias along the last axis where that is as
    long by chance, so that a model would compute something else once it has fewer channels.
    """
    kept = {name: getattr(keras_nn, name) for name in CONVOLUTIONS}
    add = keras_numpy.add
    keras_numpy.add = lambda x1, x2: tf.add(*_alike(x1, x2))

    def turned(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            bound = inspect.signature(function).bind(inputs, *args, **kwargs)
            if bound.arguments.get("data_format") != "channels_first":
                return function(inputs, *args, **kwargs)
            bound.arguments["data_format"] = "channels_last"
            bound.arguments["inputs"] = ops.moveaxis(inputs, 1, -1)
            return ops.moveaxis(function(*bound.args, **bound.kwargs), -1, 1)

        return run

    for name, function in kept.items():
        setattr(keras_nn, name, turned(function))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(keras_nn, name, function)
        keras_numpy.add = add


def _alike(x1: Any, x2: Any) -> tuple[tf.Tensor, tf.Tensor]:
    dtype = keras.backend.result_type(*(getattr(one, "dtype", type(one)) for one in (x1, x2)))
    return tf.cast(x1, dtype), tf.cast(x2, dtype)


def rows_for(model: keras.Model, number: int, seed: int) -> np.ndarray:
    """Rows in a drawn model's input shape."""
    random = np.random.default_rng(seed)
    shape = (number, *model.input_shape[1:])
    if "int" in model.inputs[0].dtype:
        return random.integers(9, size=shape).astype("int32")
    return random.normal(size=shape).astype("float32")
