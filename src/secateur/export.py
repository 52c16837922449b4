"""Models for the edge: LiteRT files from Keras models, each checked against Keras."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from ai_edge_litert.tools import flatbuffer_utils

from secateur.errors import InputError
from secateur.litert import run_litert
from secateur.metrics import reconstruct

logger = logging.getLogger(__name__)

# Both sum in float32, in another order; what lies further apart than this is another function.
_FLOAT32_TOLERANCE = 1e-4


def export_float32(model: keras.Model, path: str | os.PathLike[str], sample: np.ndarray) -> float:
    """Write a LiteRT file that computes in float32, one row a call, and check it against Keras.

    The file holds LiteRT's own operations only, so it runs without TensorFlow's; its bytes depend
    on the model alone. It appears under its name only when it is whole and checked.

    Args:
        model: a built model with one input and one output.
        path: where to write; must end in `.tflite`.
        sample: (rows, ...) float32 in the model's input shape, to check with.

    Returns:
        The largest absolute deviation from Keras on the sample.

    Raises:
        InputError: the path or the model cannot be used; an operation LiteRT lacks is named.
        RuntimeError: the file computes something else than the model.
    """
    import tensorflow as tf

    with _appearing(path) as scratch:
        _convert(model, scratch, [tf.lite.OpsSet.TFLITE_BUILTINS])
        expected = reconstruct(model, sample)
        deviation = largest_deviation(run_litert(scratch, sample), expected)
        allowed = _FLOAT32_TOLERANCE * max(1.0, float(np.abs(expected).max()))
        if not deviation <= allowed:  # NaN is refused too
            raise RuntimeError(
                f"the float32 file of {model.name!r} does not compute what Keras computes: they "
                f"lie up to {deviation:.3g} apart, allowed is {allowed:.3g}"
            )
    return deviation


def export_int8(model: keras.Model, path: str | os.PathLike[str], sample: np.ndarray) -> float:
    """Write a LiteRT file of 8-bit integers throughout, input and output included.

    That is what microcontrollers and integer-only accelerators need: whoever calls it scales a row
    with the input's scale and zero point, which are in the file; `run_litert` does so. Weights and
    activations are quantized after training, their ranges set by the sample (Jacob et al. 2018,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference"). The bytes depend on the model and the sample alone.

    Args:
        model: a built model with one input and one output.
        path: where to write; must end in `.tflite`.
        sample: (rows, ...) float32 in the model's input shape: representative training rows.

    Returns:
        The largest absolute deviation from Keras on the sample, after dequantizing.

    Raises:
        InputError: the path or the model cannot be used; an operation LiteRT lacks is named.
    """
    import tensorflow as tf

    def calibration_rows() -> Iterator[list[np.ndarray]]:
        for row in sample:
            yield [row[np.newaxis]]

    with _appearing(path) as scratch:
        _convert(
            model,
            scratch,
            [tf.lite.OpsSet.TFLITE_BUILTINS_INT8],
            optimizations=[tf.lite.Optimize.DEFAULT],
            representative_dataset=calibration_rows,
            inference_input_type=tf.int8,
            inference_output_type=tf.int8,
        )
        in_float = float_operations(scratch)
        if in_float:
            logger.warning(
                "LiteRT has no integer form of %s: the int8 file of %r computes them in float32, "
                "which integer-only devices cannot",
                ", ".join(in_float),
                model.name,
            )
        return largest_deviation(run_litert(scratch, sample), reconstruct(model, sample))


def calibration_sample(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the rows, spread evenly over all of them: (sample, ...), in memory."""
    chosen = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
    return np.asarray(rows[chosen])


def largest_deviation(one: np.ndarray, other: np.ndarray) -> float:
    """The largest absolute difference between two arrays of one shape."""
    return float(np.abs(one.astype(np.float64) - other).max())


def float_operations(path: str | os.PathLike[str]) -> list[str]:
    """The names of LiteRT's operations that a file computes in float32, sorted."""
    file = flatbuffer_utils.read_model(str(path))
    names = set()
    for graph in file.subgraphs:
        for operation in graph.operators:
            kinds = {
                flatbuffer_utils.type_to_name(graph.tensors[i].type) for i in operation.outputs
            }
            if "FLOAT32" in kinds:
                names.add(flatbuffer_utils.opcode_to_name(file, operation.opcodeIndex))
    return sorted(names - {"DEQUANTIZE"})


@contextlib.contextmanager
def _appearing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A scratch file that becomes `path` if all goes well."""
    path = Path(path)
    if path.suffix != ".tflite":
        raise InputError(f"a LiteRT file must end in .tflite, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".exporting-") as folder:
        scratch = Path(folder, path.name)
        yield scratch
        scratch.replace(path)


def _convert(model: keras.Model, path: Path, operations: list[Any], **options: Any) -> None:
    """Convert with nothing but the given sets of operations, one row a call."""
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            f"an exported model has one input and one output; {model.name!r} has "
            f"{len(model.inputs)} and {len(model.outputs)}"
        )
    shape = model.inputs[0].shape[1:]
    if None in shape:
        raise InputError(
            f"an exported model's input has a fixed shape; a row of {model.name!r} is {shape}"
        )
    try:
        with _quiet(tf.get_logger()):
            model.export(
                path,
                format="litert",
                verbose=False,
                input_signature=[tf.TensorSpec((1, *shape), model.inputs[0].dtype, name="rows")],
                target_spec={"supported_ops": operations},
                **options,
            )
    except ConverterError as error:
        lacking = sorted(set(re.findall(r"\btf\.([A-Z]\w*)", str(error))))
        if not lacking:
            raise
        raise InputError(
            f"{model.name!r} cannot be exported: LiteRT has no operation {', '.join(lacking)}, and "
            "TensorFlow's own (Flex) do not run on the edge; allowed are LiteRT's built-in ones"
        ) from error


@contextlib.contextmanager
def _quiet(talker: logging.Logger) -> Iterator[None]:
    """Keep news of TensorFlow's temporary files out of the log."""
    level = talker.level
    talker.setLevel(logging.WARNING)
    try:
        yield
    finally:
        talker.setLevel(level)
