"""What a teacher adds to the loss: how far the student is from its outputs, code or features.

Outputs as in Hinton et al. 2015; features, and a map where their widths differ, as the hints of
FitNets (Romero et al. 2015). Here the map is the least-squares one from the student's features, as
it came, to the teacher's, and stays as it is: what a cut left is a good start, and nothing else has
to be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from secateur.errors import InputError
from secateur.graph import calls_noted, with_code
from secateur.graph.kinds import CONVOLVING
from secateur.masks import masked_least_squares
from secateur.settings import Match

_SAMPLE_ROWS = 2048  # training rows that maps and scales are fitted on
_POSITIONS = 65536

Views = Callable[[Any, bool], tuple[Any, list[Any]]]
"""From a batch, and whether to train, to a model's output and what of it is to be matched."""

_READERS = (keras.layers.Dense, keras.layers.EinsumDense, *CONVOLVING)


class _Pair(NamedTuple):
    """Two views to match: which, a map from the student's, and one over the teacher's variance."""

    place: int
    matrix: np.ndarray | None  # None where both are of one width: they should be equal
    bias: np.ndarray | None
    scale: float


class Lesson:
    """One teacher's part in a student's loss.

    Attributes:
        teacher: the model that is to be matched.
        share: in [0, 1], the teacher's share of the loss.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        share: float,
        match: Match,
        rows: np.ndarray,
    ) -> None:
        """Find what is matched, and fit maps where widths differ.

        Args:
            student: as it came.
            teacher: of the same input and output shape.
            share: see above.
            match: `outputs`, `code` or `features`.
            rows: (rows, ...) training rows; the first few thousand are looked at.

        Raises:
            InputError: the two models have nothing to match.
        """
        for what in ("input_shape", "output_shape"):
            own, other = getattr(student, what), getattr(teacher, what)
            if own != other:
                raise InputError(
                    f"a teacher's {what} must be the model's {own[1:]}, got {other[1:]}"
                )
        self.teacher = teacher
        self.share = share
        if match == "outputs":
            self._views = _outputs_of(student), _outputs_of(teacher)
            self._pairs = [_Pair(0, None, None, 1.0)]
            return
        find = _codes_of if match == "code" else _features_of
        self._views = find(student, teacher)
        self._pairs = _pairs(*self._views, np.asarray(rows[:_SAMPLE_ROWS]))
        if not self._pairs:
            raise InputError(f"the model and its teacher have no {match} that could be matched")

    def taught(self, batch: Any) -> tuple[Any, Any]:
        """The student's output in training, and its mean squared distance from the teacher.

        That of codes and features is a share of the teacher's variance, brought to the scale of
        the error by the variance of the rows, so that `share` means the same for all.
        """
        student, teacher = self._views
        output, given = student(batch, True)
        _, wanted = teacher(batch, False)
        distances = [
            pair.scale
            * tf.reduce_mean(tf.square(_mapped(given[pair.place], pair) - wanted[pair.place]))
            for pair in self._pairs
        ]
        return output, tf.add_n(distances) / len(distances)


def _mapped(view: Any, pair: _Pair) -> Any:
    return view if pair.matrix is None else tf.tensordot(view, pair.matrix, 1) + pair.bias


def _outputs_of(model: keras.Model) -> Views:
    def views(batch: Any, training: bool) -> tuple[Any, list[Any]]:
        output = model(batch, training=training)
        return output, [output]

    return views


def _codes_of(student: keras.Model, teacher: keras.Model) -> tuple[Views, Views]:
    return _code_of(student), _code_of(teacher)


def _code_of(model: keras.Model) -> Views:
    both = with_code(model)

    def views(batch: Any, training: bool) -> tuple[Any, list[Any]]:
        output, code = both(batch, training=training)
        return output, [code]

    return views


def _features_of(student: keras.Model, teacher: keras.Model) -> tuple[Views, Views]:
    """What layers with kernels read, where both models have one of that path."""
    ours, theirs = dict(_readers(student, "")), dict(_readers(teacher, ""))
    common = [path for path in ours if path in theirs]
    return (
        _reads_of(student, [ours[path] for path in common]),
        _reads_of(teacher, [theirs[path] for path in common]),
    )


def _readers(layer: Any, inside: str) -> Iterator[tuple[str, Any]]:
    for part in layer._layers:
        if isinstance(part, _READERS):
            yield f"{inside}{part.name}", part
        else:
            yield from _readers(part, f"{inside}{part.name}/")


def _reads_of(model: keras.Model, layers: Sequence[Any]) -> Views:
    def views(batch: Any, training: bool) -> tuple[Any, list[Any]]:
        with calls_noted(layers) as notes:
            output = model(batch, training=training)
        return output, [calls[0] for calls in notes]

    return views


def _pairs(student: Views, teacher: Views, rows: np.ndarray) -> list[_Pair]:
    """The views that are of the same positions, with least-squares maps where widths differ."""
    spread = float(np.var(rows, axis=0, dtype=np.float64).mean())
    found = []
    _, given = student(rows, False)
    _, wanted = teacher(rows, False)
    for place, (one, other) in enumerate(zip(given, wanted, strict=True)):
        is_comparable = one.shape[:-1] == other.shape[:-1]
        if not is_comparable or _is_copy(other, rows):
            continue
        ours, theirs = (_flat(np.asarray(view, np.float64)) for view in (one, other))
        variance = float(np.var(theirs, axis=0).mean())
        matrix, bias = (None, None) if ours.shape == theirs.shape else _map(ours, theirs)
        if variance > 0:
            found.append(_Pair(place, matrix, bias, spread / variance))
    return found


def _is_copy(view: Any, rows: np.ndarray) -> bool:
    """Whether a view shows the rows themselves, which no training changes."""
    return np.array_equal(np.asarray(view).ravel(), rows.ravel())


def _flat(view: np.ndarray) -> np.ndarray:
    """(positions, width): enough of them to fit a map on."""
    flat = view.reshape(-1, view.shape[-1])
    return flat[:: max(1, len(flat) // _POSITIONS)]


def _map(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with_one = np.hstack([ours, np.ones((len(ours), 1))])
    gram, target = with_one.T @ with_one / len(ours), with_one.T @ theirs / len(ours)
    fitted = masked_least_squares(gram, target, np.ones(target.shape, bool)).astype(np.float32)
    return fitted[:-1], fitted[-1]
