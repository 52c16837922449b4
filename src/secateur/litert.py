"""Running LiteRT files, which needs neither Keras nor TensorFlow."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from secateur.metrics import batches, squared_errors

_ROWS_AT_ONCE = 1024


class LiteRTModel:
    """A LiteRT file, ready to run: call it with rows.

    Rows run together in one call where the file's graph allows another batch size than its own,
    and one by one where it does not (a reshape that spells the batch size out).
    """

    def __init__(self, file: str | os.PathLike[str] | bytes, threads: int = 1) -> None:
        """Load a file.

        Args:
            file: the path of a `.tflite` file, or its content.
            threads: threads that LiteRT may use.
        """
        source = {"model_content": file} if isinstance(file, bytes) else {"model_path": str(file)}
        self._interpreter = Interpreter(**source, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._row_shape = tuple(map(int, self._interpreter.get_input_details()[0]["shape"][1:]))
        self._rows = 1  # that the graph is laid out for
        self._batches: bool | None = None  # whether rows may run together; not tried yet

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row of the input."""
        return self._row_shape

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """What the model makes of a batch.

        Args:
            rows: (rows, ...) float32 in the model's input shape.

        Returns:
            (rows, ...) float32, dequantized if the file computes in integers.
        """
        if len(rows) > 1 and self._batches is None:
            self._batches = self._may_run_together(rows[:2])
        if len(rows) <= 1 or self._batches:
            return self._run(rows)
        return np.concatenate([self._run(row) for row in np.split(rows, len(rows))])

    def _may_run_together(self, pair: np.ndarray) -> bool:
        """Whether two rows in one call give what each gives alone, but for the order of sums."""
        alone = np.concatenate([self._run(pair[:1]), self._run(pair[1:])])
        try:
            together = self._run(pair)
        except (RuntimeError, ValueError):
            return False
        step = float(self._interpreter.get_output_details()[0]["quantization"][0])
        return together.shape == alone.shape and np.allclose(
            together, alone, rtol=1e-4, atol=step + 1e-5
        )

    def _run(self, rows: np.ndarray) -> np.ndarray:
        details = self._interpreter.get_input_details()[0]
        if len(rows) != self._rows:
            self._rows = len(rows)
            self._interpreter.resize_tensor_input(details["index"], rows.shape, strict=False)
            self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(details["index"], _quantize(rows, details))
        self._interpreter.invoke()
        output = self._interpreter.get_output_details()[0]
        return _dequantize(self._interpreter.get_tensor(output["index"]), output)


def run_litert(path: str | os.PathLike[str], rows: np.ndarray, threads: int = 1) -> np.ndarray:
    """What a LiteRT file makes of the rows.

    Args:
        path: the `.tflite` file.
        rows: (rows, features) float32.
        threads: threads that LiteRT may use.

    Returns:
        (rows, features) float32, dequantized if the file computes in integers.
    """
    model = LiteRTModel(path, threads)
    return np.concatenate([model(batch) for batch in batches(rows, _ROWS_AT_ONCE)])


def row_errors_of_file(
    file: str | os.PathLike[str] | bytes, rows: np.ndarray, threads: int = 1
) -> np.ndarray:
    """The mean squared error of each row that a LiteRT autoencoder reconstructs.

    Args:
        file: the path of a `.tflite` file, or its content.
        rows: (rows, ...) float32 in the model's input shape.
        threads: threads that LiteRT may use.

    Returns:
        (rows,) float64.
    """
    model = LiteRTModel(file, threads)
    errors = [squared_errors(batch, model(batch)) for batch in batches(rows, _ROWS_AT_ONCE)]
    return np.concatenate(errors)


def _quantize(rows: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    kind = details["dtype"]
    if not np.issubdtype(kind, np.integer):
        return np.ascontiguousarray(rows, dtype=kind)
    scale, zero_point = details["quantization"]
    limits = np.iinfo(kind)
    return np.clip(np.rint(rows / scale) + zero_point, limits.min, limits.max).astype(kind)


def _dequantize(outputs: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    if not np.issubdtype(outputs.dtype, np.integer):
        return outputs.astype(np.float32, copy=False)
    scale, zero_point = details["quantization"]
    return ((outputs.astype(np.float32) - zero_point) * scale).astype(np.float32)
