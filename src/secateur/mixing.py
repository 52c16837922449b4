"""Layers that mix units, seen as what they are: linear maps.

Whatever a mixing layer is called, somewhere in it rows are multiplied with a matrix:

    Dense                  (rows, inputs) @ (inputs, outputs)
    convolution            a row is a patch, (window x channels), one a position of the output
    transposed convolution a row is what one position of the output sees: the window's taps that
                           reach it, and zeros for the others, which belong to other phases
    EinsumDense, attention the contracted axes are the inputs, the new ones the outputs
    grouped, depthwise     one map a group, each with its own inputs and outputs
    recurrent              the kernel that reads the input; its outputs are the gates

A bias is the matrix' last row, whose input is always one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from secateur.graph import foldable_norms, inputs_at, layer_at, numbers_made
from secateur.graph.kinds import (
    ATTENTION,
    CONVOLUTIONS,
    DEPTHWISE,
    RECURRENT,
    SEPARABLE,
    TRANSPOSED,
)
from secateur.graph.rules import rule_of
from secateur.graph.rules.mixing import einsum_letters
from secateur.graph.trace import trace
from secateur.graph.walk import Place
from secateur.metrics import batches

POSITIONS = 2**16  # rows that are taken of a sample where one row of it gives many
_CHUNK_BYTES = 2**25
_REMEMBERED_NUMBERS = 2**26  # that a model makes of a sample whose parts are kept in memory


class _Piece(NamedTuple):
    """Rows that know the same inputs, and zeros for the others."""

    columns: np.ndarray | slice  # which of the map's inputs
    rows: int
    take: Callable[[np.ndarray], np.ndarray]  # indices of rows -> (rows, columns)


_Read = Callable[[np.ndarray], list[_Piece]]


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A matrix inside a layer, and the rows that the layer multiplies it with.

    Attributes:
        kernel: the layer's variable that holds the matrix.
        elements: (inputs, outputs) ints: where the matrix' elements are in the flattened kernel.
        bias: the layer's variable that is added; None where there is none, or where it is not one
            number an output.
        bias_elements: (outputs,) ints: where its elements are in the flattened bias.
        is_bias_subtracted: whether the bias is taken away instead, as a normalization's mean is.
    """

    kernel: Any
    elements: np.ndarray
    bias: Any | None
    bias_elements: np.ndarray | None
    _read: _Read
    is_bias_subtracted: bool = False

    @property
    def inputs(self) -> int:
        """Inputs without the bias' one."""
        return self.elements.shape[0]

    @property
    def outputs(self) -> int:
        """Columns of the matrix."""
        return self.elements.shape[1]

    @property
    def height(self) -> int:
        """Rows of the matrix: inputs, and one more for a bias."""
        return self.inputs + (self.bias is not None)

    def matrix(self) -> np.ndarray:
        """(inputs [+ 1], outputs) float64: the kernel, and below it the bias."""
        kernel = _numbers(self.kernel).ravel()[self.elements]
        if self.bias is None:
            return kernel
        bias = _numbers(self.bias).ravel()[self.bias_elements]
        return np.vstack([kernel, -bias if self.is_bias_subtracted else bias])

    def write(self, matrix: np.ndarray) -> None:
        """Give the layer a matrix of the form that `matrix` gives."""
        _assign(self.kernel, self.elements, matrix[: self.inputs])
        if self.bias is not None and self.bias_elements is not None:
            bias = matrix[self.inputs]
            _assign(self.bias, self.bias_elements, -bias if self.is_bias_subtracted else bias)

    def inputs_of(self, axis: int, positions: np.ndarray) -> np.ndarray:
        """Rows of the matrix that belong to positions along an axis of the kernel.

        Args:
            axis: of the kernel.
            positions: (units, k) ints, such as `Slice.positions`.

        Returns:
            (units, k · window) ints; no columns if the positions belong to another map's inputs.
        """
        found = np.unravel_index(self.elements[:, 0], self.kernel.shape)[axis]
        order = np.argsort(found, kind="stable")
        rows = order.reshape(-1, self._repeats(found))
        place = {int(found[one[0]]): index for index, one in enumerate(rows)}
        units = [[place[one] for one in unit if one in place] for unit in positions.tolist()]
        return np.stack([rows[unit].ravel() for unit in units])

    @staticmethod
    def _repeats(found: np.ndarray) -> int:
        return int(np.unique(found, return_counts=True)[1][0])

    def rows(self, inputs: Any, limit: int | None = None, seed: int = 0) -> np.ndarray:
        """(rows, inputs [+ 1]) float64: what the layer multiplies with the matrix.

        Args:
            inputs: (batch, ...) what the layer reads.
            limit: take so many rows at most, chosen at random.
            seed: of that choice.

        Returns:
            One row a position of the output. Those of a transposed convolution come phase by
            phase, all others in the output's order.
        """
        pieces = []
        for columns, (rows,) in self.pieces(inputs, limit=limit, seed=seed):
            piece = np.zeros((len(rows), self.height))
            piece[:, columns] = rows
            pieces.append(piece)
        return np.concatenate(pieces)

    def pieces(
        self, *inputs: Any, limit: int | None = None, seed: int = 0
    ) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
        """The rows in pieces of bounded size, each with the columns in which it may not be zero.

        Args:
            inputs: one or more (batch, ...), equally shaped, whose rows are wanted side by side.
            limit: take so many rows at most, chosen at random.
            seed: of that choice.

        Yields:
            (columns,) ints and, for each of the inputs, (rows, columns) float64.
        """
        read = [self._read(np.asarray(one)) for one in inputs]
        total = sum(piece.rows for piece in read[0])
        share = 1.0 if limit is None else min(1.0, limit / total)
        choose = np.random.default_rng(seed)
        for piece, *others in zip(*read, strict=True):
            columns = np.arange(self.inputs)[piece.columns]
            count = math.ceil(share * piece.rows)
            chosen = np.arange(piece.rows)
            if count < piece.rows:
                chosen = np.sort(choose.choice(piece.rows, count, replace=False, shuffle=False))
            at_once = max(1, _CHUNK_BYTES // (8 * self.height))
            if self.bias is not None:
                columns = np.append(columns, self.inputs)
            for at in (chosen[start : start + at_once] for start in range(0, count, at_once)):
                yield columns, tuple(self._with_one(one.take(at)) for one in (piece, *others))

    def _with_one(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, np.float64)
        if self.bias is None:
            return rows
        return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)


class Moments:
    """Second moments of a map's input, gathered piece by piece in float64.

    The memory it takes is inputs², however many rows pass.

    Attributes:
        rows: how many rows passed.
    """

    def __init__(self, height: int) -> None:
        """Start with none of `height` inputs."""
        self.rows = 0
        self._now = np.zeros((height, height))
        self._cross = np.zeros((height, height))
        self._means = np.zeros(height)

    def add(self, columns: np.ndarray, now: np.ndarray, before: np.ndarray | None = None) -> None:
        """Take in rows, (rows, columns), of the input now and, if it was another, before."""
        self.rows += len(now)
        block = np.ix_(columns, columns)
        gram = now.T @ now
        self._now[block] += gram
        self._cross[block] += gram if before is None else now.T @ before
        self._means[columns] += now.sum(axis=0)

    @property
    def now(self) -> np.ndarray:
        """E[hhᵀ], (height, height), the bias' one included."""
        return self._now / self.rows

    @property
    def cross(self) -> np.ndarray:
        """E[h·h_beforeᵀ], (height, height), with the input before any cut."""
        return self._cross / self.rows

    @property
    def means(self) -> np.ndarray:
        """E[h], (height,)."""
        return self._means / self.rows

    @property
    def drift(self) -> np.ndarray:
        """E[h·h_beforeᵀ] - E[hhᵀ], (height, height): how the cuts so far have moved the input."""
        return (self._cross - self._now) / self.rows


@dataclass(frozen=True, eq=False)
class MixingLayer:
    """A kernel of a model that mixes units, and the calls that read with it.

    Attributes:
        path: the layer's, with what it is inside of: `encoder/dense_1`, `attention/query`.
        layer: the layer that owns the kernel.
        kernel: its variable.
        places: the calls; `secateur.graph.inputs_at` tells what they read.
        maps: one, or one a group for grouped and depthwise convolutions.
    """

    path: str
    layer: keras.Layer
    kernel: Any
    places: tuple[Place, ...]
    maps: tuple[LinearMap, ...]

    def with_mean_of(self, norms: Mapping[int, layers.BatchNormalization]) -> MixingLayer:
        """The same with the mean for a bias that what reads it takes away; see `norms_behind`."""
        return replace(self, maps=linear_maps(self.layer, self.kernel, norms))


def mixing_layers(model: keras.Model, means: bool = False) -> tuple[MixingLayer, ...]:
    """All kernels of a model that are linear maps, in the order in which they are called.

    Embeddings, recurrent kernels and layers that nobody knows are not among them.

    Args:
        model: a built functional or Sequential model, which may hold others.
        means: whether layers without a bias get the mean for one that a BatchNormalization takes
            away; see `norms_behind`.

    Raises:
        InputError: the model has no graph that could be read.
    """
    norms = norms_behind(model) if means else {}
    calls: dict[int, tuple[Any, str, list[Place]]] = {}
    for visit in trace(model, rule_of).visits:
        for layer, place in _parts(visit.operation, visit.place):
            path = "/".join(name for name, _ in place)
            calls.setdefault(id(layer), (layer, path, []))[2].append(place)
    return tuple(
        MixingLayer(path, layer, kernel, tuple(places), linear_maps(layer, kernel, norms))
        for layer, path, places in calls.values()
        for kernel in kernels_of(layer)
    )


def _parts(operation: Any, place: Place) -> list[tuple[Any, Place]]:
    """The layer itself, or the projections of an attention."""
    if type(operation) not in ATTENTION:
        return [(operation, place)]
    dense = [part for part in operation._layers if type(part) is layers.EinsumDense]
    return [(part, (*place, (part.name, 0))) for part in dense]


def kernels_of(layer: Any) -> tuple[Any, ...]:
    """A layer's variables that `linear_maps` knows as maps."""
    if type(layer) in SEPARABLE:
        return layer.depthwise_kernel, layer.pointwise_kernel
    if type(layer) is layers.EinsumDense:
        return (layer.kernel,) if _is_einsum_map(layer) else ()
    if type(layer) in RECURRENT:
        return (layer.cell.kernel,)
    known = (layers.Dense, *CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE)
    return (layer.kernel,) if type(layer) in known else ()


def linear_maps(
    layer: Any, kernel: Any, norms: Mapping[int, layers.BatchNormalization] | None = None
) -> tuple[LinearMap, ...]:
    """The maps that a kernel holds: one, or one a group.

    Args:
        layer: the layer, or one that has it inside, as an attention has its projections.
        kernel: one of its variables.
        norms: whose means stand in for a bias, by the kernel's id; see `norms_behind`.

    Returns:
        None at all if this kernel is no linear map that is known here.
    """
    for one in layer._flatten_layers():
        if any(kernel is known for known in kernels_of(one)):
            maps, norm = _maps_of(one, kernel), (norms or {}).get(id(kernel))
            return maps if norm is None else tuple(_with_mean_of(norm, one, of) for of in maps)
    return ()


def norms_behind(model: keras.Model) -> dict[int, layers.BatchNormalization]:
    """The BatchNormalizations that alone read what layers without a bias make, by the kernel's id.

    What they take away shifts what such a layer gives, so that it can take over a constant.

    Raises:
        InputError: the model has no graph that could be read.
    """
    pairs = [[layer_at(model, path) for path in pair] for pair in foldable_norms(model)]
    return {
        id(layer.pointwise_kernel if type(layer) in SEPARABLE else layer.kernel): norm
        for layer, norm in pairs
        if not layer.use_bias and type(layer) not in DEPTHWISE
    }


def _with_mean_of(norm: keras.Layer, layer: keras.Layer, linear: LinearMap) -> LinearMap:
    axis = -2 if type(layer) in TRANSPOSED else -1
    made = np.unravel_index(linear.elements[0], linear.kernel.shape)[axis]
    return replace(linear, bias=norm.moving_mean, bias_elements=made, is_bias_subtracted=True)


class Remembered:
    """What the mixing layers of a model read of a sample, kept in memory where that is little.

    Repairs look at the original beside the model as it is cut so far, once a layer: without a
    memory the original is run anew, from its input on, each time.

    Attributes:
        model: the original.
    """

    def __init__(self, model: keras.Model, sample: np.ndarray) -> None:
        """Remember nothing yet.

        Args:
            model: a built functional or Sequential model, which does not change any more.
            sample: (rows, ...) in its input shape.
        """
        self.model, self._sample = model, sample

    def inputs_at(self, places: Sequence[Place]) -> Iterator[list[Any]]:
        """Batch after batch of the sample, what the calls at these places read."""
        if all(place in self._kept for place in places):
            return (list(found) for found in zip(*(self._kept[one] for one in places), strict=True))
        return _inputs(self.model, places, self._sample)

    @cached_property
    def _kept(self) -> dict[Place, list[Any]]:
        if len(self._sample) * numbers_made(self.model) > _REMEMBERED_NUMBERS:
            return {}
        places = {place: None for layer in mixing_layers(self.model) for place in layer.places}
        found = zip(*_inputs(self.model, list(places), self._sample), strict=True)
        return {place: list(one) for place, one in zip(places, found, strict=True)}


def _inputs(model: keras.Model, places: Sequence[Place], sample: np.ndarray) -> Iterator[list[Any]]:
    read = inputs_at(model, places)
    return (read(batch) for batch in batches(sample))


def moments_of(
    maps: Sequence[LinearMap],
    places: Sequence[Place],
    model: keras.Model,
    sample: np.ndarray,
    before: keras.Model | Remembered | None = None,
    positions: int = POSITIONS,
) -> tuple[Moments, ...]:
    """The second moments of what maps read, gathered over a sample.

    Args:
        maps: of one layer.
        places: the calls of that layer, in `model` and in `before`.
        model: the model as it is cut so far.
        sample: (rows, ...) in the model's input shape.
        before: the same model before any cut, or what is remembered of it and this sample; without
            it nothing is said to have moved.
        positions: how many rows are taken at most where a row of the sample gives several; never
            fewer than the sample's.
    """
    found = tuple(Moments(one.height) for one in maps)
    read = [_inputs(model, places, sample)]
    if isinstance(before, Remembered):
        read.append(before.inputs_at(places))
    elif before is not None and before is not model:
        read.append(_inputs(before, places, sample))
    for number, (batch, *calls) in enumerate(zip(batches(sample), *read, strict=True)):
        limit = max(len(batch), positions * len(batch) // len(sample))
        for inputs in zip(*calls, strict=True):
            for one, moments in zip(maps, found, strict=True):
                for columns, rows in one.pieces(*inputs, limit=limit, seed=number):
                    moments.add(columns, *rows)
    return found


def _maps_of(layer: Any, kernel: Any) -> tuple[LinearMap, ...]:
    elements = np.arange(math.prod(kernel.shape)).reshape(kernel.shape)
    if type(layer) is layers.EinsumDense:
        return _einsum_maps(layer, elements)
    if type(layer) in TRANSPOSED:
        # (..., out, in) -> (... · in, out)
        matrix = np.swapaxes(elements, -1, -2).reshape(-1, kernel.shape[-2])
        return (_plain(layer, matrix, _Windows(layer).transposed),)
    if type(layer) in CONVOLUTIONS:
        return _grouped(layer, elements, layer.groups)
    if type(layer) in DEPTHWISE:
        # Channel c makes the outputs c · multiplier, ...
        channels, multiplier = kernel.shape[-2:]
        blocks = elements.reshape(*kernel.shape[:-2], 1, channels * multiplier)
        return _grouped(layer, blocks, channels)
    if type(layer) in SEPARABLE and kernel is layer.depthwise_kernel:
        channels, multiplier = kernel.shape[-2:]
        blocks = elements.reshape(*kernel.shape[:-2], 1, channels * multiplier)
        return _grouped(layer, blocks, channels, kernel, has_bias=False)
    if type(layer) in SEPARABLE:
        matrix = elements.reshape(kernel.shape[-2:])
        return (_plain(layer, matrix, _after_depthwise(layer), kernel),)
    if type(layer) in RECURRENT:
        return (_recurrent_map(layer, elements),)
    return (_plain(layer, elements, _flat(elements.shape[0])),)


def _plain(layer: Any, elements: np.ndarray, read: _Read, kernel: Any = None) -> LinearMap:
    bias = layer.bias if layer.use_bias else None
    where = None if bias is None else np.arange(bias.shape[0])
    return LinearMap(layer.kernel if kernel is None else kernel, elements, bias, where, read)


def _recurrent_map(layer: Any, elements: np.ndarray) -> LinearMap:
    cell = layer.cell
    bias = cell.bias if cell.use_bias else None
    # A GRU may have a second row of biases, for its state.
    where = None if bias is None else np.arange(elements.shape[1])
    return LinearMap(cell.kernel, elements, bias, where, _flat(elements.shape[0]))


def _grouped(
    layer: Any, elements: np.ndarray, groups: int, kernel: Any = None, has_bias: bool = True
) -> tuple[LinearMap, ...]:
    """Convolution kernels, (..., in of a group, out of all groups)."""
    width = elements.shape[-2]
    bias = layer.bias if layer.use_bias and has_bias else None
    outputs = np.split(np.arange(elements.shape[-1]), groups)
    return tuple(
        LinearMap(
            layer.kernel if kernel is None else kernel,
            elements[..., made].reshape(-1, len(made)),
            bias,
            None if bias is None else made,
            _Windows(layer, slice(group * width, (group + 1) * width), elements.shape).direct,
        )
        for group, made in enumerate(outputs)
    )


def _flat(width: int) -> _Read:
    def read(inputs: np.ndarray) -> list[_Piece]:
        rows = inputs.reshape(-1, width)
        return [_Piece(slice(None), len(rows), rows.__getitem__)]

    return read


class _Windows:
    """What each position of a convolution's output sees of the input."""

    def __init__(
        self, layer: Any, channels: slice = slice(None), shape: tuple[int, ...] | None = None
    ) -> None:
        self.layer = layer
        self.channels = channels
        self.window = tuple(shape or layer.kernel.shape)[:-2]
        self.strides = _each(layer.strides, len(self.window))
        self.dilations = _each(layer.dilation_rate, len(self.window))

    def direct(self, inputs: np.ndarray) -> list[_Piece]:
        images = self._images(inputs)
        sizes = zip(images.shape[1:-1], self.window, self.strides, self.dilations, strict=True)
        return [_windows(images, [_steps(*size, self.layer.padding) for size in sizes])]

    def transposed(self, inputs: np.ndarray) -> list[_Piece]:
        images = self._images(inputs)
        lengths = self._output_lengths(inputs.shape)
        sizes = zip(
            images.shape[1:-1], lengths, self.window, self.strides, self.dilations, strict=True
        )
        phases = [_phases(*size, self.layer.padding) for size in sizes]
        elements = np.arange(math.prod(self.window) * images.shape[-1])
        elements = elements.reshape(*self.window, images.shape[-1])
        found = []
        for combination in product(*phases):
            columns = elements[np.ix_(*(taps for taps, _ in combination))].ravel()
            steps = [seen for _, seen in combination]
            found.append(_windows(images, steps)._replace(columns=columns))
        return found

    def _images(self, inputs: np.ndarray) -> np.ndarray:
        """(images, ..., channels)."""
        inputs = self._batch(inputs)
        if self.layer.data_format == "channels_first":
            inputs = np.moveaxis(inputs, 1, -1)
        return inputs[..., self.channels]

    def _batch(self, inputs: np.ndarray) -> np.ndarray:
        return inputs.reshape(-1, *inputs.shape[-len(self.window) - 1 :])

    def _output_lengths(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        shape = (1, *shape[-len(self.window) - 1 :])
        lengths = self.layer.compute_output_shape(shape)
        return lengths[2:] if self.layer.data_format == "channels_first" else lengths[1:-1]


def _each(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _steps(length: int, window: int, stride: int, dilation: int, padding: str) -> np.ndarray:
    """(positions, window): what each position sees along an axis; outside of [0, length) is zero.

    TensorFlow's own arithmetic: with `same`, the odd zero is at the end.
    """
    reach = (window - 1) * dilation + 1
    if padding == "same":
        positions = -(-length // stride)
        before = max((positions - 1) * stride + reach - length, 0) // 2
    else:
        before = reach - 1 if padding == "causal" else 0
        positions = (length + before - reach) // stride + 1
    return stride * np.arange(positions)[:, None] - before + dilation * np.arange(window)


def _phases(
    length: int, made: int, window: int, stride: int, dilation: int, padding: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions of a transposed convolution's output that are reached by the same taps.

    Input i reaches position i · stride + tap · dilation - before.

    Returns:
        For each phase (taps,) and (positions, taps): what its positions see along an axis.
    """
    reach = (window - 1) * dilation + 1
    before = max((length - 1) * stride + reach - made, 0) // 2 if padding == "same" else 0
    taps = np.arange(window)
    phases = []
    for phase in range(stride):
        reaching = taps[(taps * dilation) % stride == phase]
        positions = np.arange(made)
        positions = positions[(positions + before) % stride == phase]
        seen = (positions[:, None] + before - reaching * dilation) // stride
        phases.append((reaching, seen))
    return phases


def _windows(images: np.ndarray, steps: list[np.ndarray]) -> _Piece:
    """Rows of (images · positions), columns of (window · channels)."""
    padded = np.pad(images, [(0, 0), *([(1, 1)] * len(steps)), (0, 0)])
    # Whatever lies outside is looked up in the zeros at the border.
    lengths = images.shape[1:-1]
    seen = [np.clip(one, -1, length) + 1 for one, length in zip(steps, lengths, strict=True)]
    shape = (len(images), *(len(one) for one in seen))
    width = math.prod(one.shape[1] for one in seen) * images.shape[-1]

    def take(at: np.ndarray) -> np.ndarray:
        image, *where = np.unravel_index(at, shape)
        indices = [image.reshape(len(at), *[1] * len(seen))]
        for axis, (one, index) in enumerate(zip(seen, where, strict=True)):
            spread = [1] * len(seen)
            spread[axis] = one.shape[1]
            indices.append(one[index].reshape(len(at), *spread))
        return padded[tuple(indices)].reshape(len(at), width)

    return _Piece(slice(None), math.prod(shape), take)


def _numbers(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)


def _assign(variable: Any, elements: np.ndarray, values: np.ndarray) -> None:
    changed = np.array(keras.ops.convert_to_numpy(variable))
    changed.reshape(-1)[elements] = values
    variable.assign(changed)


def _after_depthwise(layer: Any) -> _Read:
    """A separable convolution's pointwise kernel reads what the depthwise one gives."""

    def read(inputs: np.ndarray) -> list[_Piece]:
        rank = len(layer.depthwise_kernel.shape) - 2
        given = keras.ops.depthwise_conv(
            inputs.reshape(-1, *inputs.shape[-rank - 1 :]),
            layer.depthwise_kernel,
            layer.strides,
            layer.padding,
            layer.data_format,
            layer.dilation_rate,
        )
        given = keras.ops.convert_to_numpy(given)
        if layer.data_format == "channels_first":
            given = np.moveaxis(given, 1, -1)
        return _flat(given.shape[-1])(given)

    return read


class _Letters(NamedTuple):
    """The axes of an EinsumDense by what the kernel does to them."""

    kernel: str
    groups: str  # in input, kernel and output: one map each
    inputs: str
    outputs: str
    bias: str


def _letters(layer: Any) -> _Letters:
    read, kernel, made = einsum_letters(layer.equation.replace("...", ""), 0)
    return _Letters(
        kernel,
        groups="".join(one for one in kernel if one in read and one in made),
        inputs="".join(one for one in kernel if one in read and one not in made),
        outputs="".join(one for one in kernel if one not in read and one in made),
        bias="".join(one for one in made if one in (layer.bias_axes or "")),
    )


def _is_einsum_map(layer: Any) -> bool:
    letters = _letters(layer)
    return len(letters.groups + letters.inputs + letters.outputs) == len(letters.kernel)


def _einsum_maps(layer: Any, elements: np.ndarray) -> tuple[LinearMap, ...]:
    letters = _letters(layer)
    sizes = dict(zip(letters.kernel, elements.shape, strict=True))
    lengths = [math.prod(sizes[one] for one in part) for part in letters[1:4]]
    order = [letters.kernel.index(one) for one in letters.groups + letters.inputs + letters.outputs]
    matrices = elements.transpose(order).reshape(lengths)
    bias, where = None, None
    # A bias that differs along other axes, or not along all of these, is no row of the matrix.
    made = letters.groups + letters.outputs
    if layer.bias is not None and set(letters.bias) == set(made):
        bias = layer.bias
        where = np.arange(math.prod(bias.shape)).reshape(bias.shape)
        where = where.transpose([letters.bias.index(one) for one in made])
        where = where.reshape(len(matrices), -1)
    return tuple(
        LinearMap(
            layer.kernel,
            matrix,
            bias,
            None if where is None else where[group],
            _einsum_read(layer, group),
        )
        for group, matrix in enumerate(matrices)
    )


def _einsum_read(layer: Any, group: int) -> _Read:
    letters = _letters(layer)

    def read(inputs: np.ndarray) -> list[_Piece]:
        if "..." not in layer.equation:
            rank = layer.equation.index(",")
            inputs = inputs.reshape(-1, *inputs.shape[inputs.ndim - rank + 1 :])
        axes, _, made = einsum_letters(layer.equation, inputs.ndim)
        summed = [one for one in axes if one not in letters.kernel + made]
        inputs = inputs.sum(axis=tuple(axes.index(one) for one in summed))
        axes = "".join(one for one in axes if one not in summed)
        rows = "".join(one for one in axes if one not in letters.kernel)
        order = [axes.index(one) for one in letters.groups + rows + letters.inputs]
        width = math.prod(inputs.shape[axes.index(one)] for one in letters.inputs)
        groups = math.prod(inputs.shape[axes.index(one)] for one in letters.groups)
        return _flat(width)(inputs.transpose(order).reshape(groups, -1, width)[group])

    return read
