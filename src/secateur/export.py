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
from secateur.schemes import FLOAT32, INT8, Scheme, check_scheme

logger = logging.getLogger(__name__)

# Both sum in float32, in another order; what lies further apart than this is another function.
_FLOAT32_TOLERANCE = 1e-4


def export_float32(model: keras.Model, path: str | os.PathLike[str], sample: np.ndarray) -> float:
    """Write a LiteRT file that computes in float32: see `export_litert`."""
    return export_litert(model, path, sample, FLOAT32)


def export_int8(model: keras.Model, path: str | os.PathLike[str], sample: np.ndarray) -> float:
    """Write a LiteRT file of 8-bit integers throughout: see `export_litert`."""
    return export_litert(model, path, sample, INT8)


def export_litert(
    model: keras.Model, path: str | os.PathLike[str], sample: np.ndarray, scheme: str
) -> float:
    """Write a LiteRT file, one row a call, and compare it with Keras.

    The file holds LiteRT's own operations only, so it runs without TensorFlow's. It appears under
    its name only when it is whole and checked; its bytes depend on the model, the scheme and, where
    activations are integers, the sample alone.

    Files that compute in integers take and give integers too, as microcontrollers and integer-only
    accelerators need: whoever calls one scales a row with the input's scale and zero point, which
    are in the file; `run_litert` does so. Weights and activations are quantized after training, the
    ranges of activations set by the sample (Jacob et al. 2018, "Quantization and Training of Neural
    Networks for Efficient Integer-Arithmetic-Only Inference").

    Args:
        model: a built model with one input and one output.
        path: where to write; must end in `.tflite`.
        sample: (rows, ...) float32 in the model's input shape: representative training rows.
        scheme: a name in `secateur.schemes.SCHEMES`.

    Returns:
        The largest absolute deviation from Keras on the sample, after dequantizing.

    Raises:
        InputError: the path, the scheme or the model cannot be used; an operation LiteRT lacks is
            named.
        RuntimeError: a float32 file computes something else than the model.
    """
    numbers = check_scheme(scheme)
    with _appearing(path) as scratch:
        _convert(model, scratch, numbers, sample)
        if numbers.activations != "float32":
            _warn_of_float_operations(model, scratch, scheme)
        expected = reconstruct(model, sample)
        deviation = largest_deviation(run_litert(scratch, sample), expected)
        allowed = _FLOAT32_TOLERANCE * max(1.0, float(np.abs(expected).max()))
        if numbers.weights == "float32" and not deviation <= allowed:  # NaN is refused too
            raise RuntimeError(
                f"the float32 file of {model.name!r} does not compute what Keras computes: they "
                f"lie up to {deviation:.3g} apart, allowed is {allowed:.3g}"
            )
    return deviation


def _warn_of_float_operations(model: keras.Model, path: Path, scheme: str) -> None:
    in_float = float_operations(path)
    if in_float:
        logger.warning(
            "LiteRT has no integer form of %s: the %s file of %r computes them in float32, "
            "which integer-only devices cannot",
            ", ".join(in_float),
            scheme,
            model.name,
        )


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


def _convert(model: keras.Model, path: Path, numbers: Scheme, sample: np.ndarray) -> None:
    """Convert with nothing but LiteRT's own operations, one row a call."""
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
                **_converter_options(numbers, sample),
            )
    except ConverterError as error:
        lacking = sorted(set(re.findall(r"\btf\.([A-Z]\w*)", str(error))))
        if not lacking:
            raise
        raise InputError(
            f"{model.name!r} cannot be exported: LiteRT has no operation {', '.join(lacking)}, and "
            "TensorFlow's own (Flex) do not run on the edge; allowed are LiteRT's built-in ones"
        ) from error
    except RuntimeError as error:
        if numbers.activations == "float32" or "nsupported" not in str(error):
            raise
        raise InputError(
            f"{model.name!r} cannot be exported with {numbers.activations} activations: LiteRT "
            f"says: {error}"
        ) from error


def _converter_options(numbers: Scheme, sample: np.ndarray) -> dict[str, Any]:
    """The attributes of TensorFlow's LiteRT converter that give a scheme."""
    import tensorflow as tf

    def calibration_rows() -> Iterator[list[np.ndarray]]:
        for row in sample:
            yield [row[np.newaxis]]

    sets = tf.lite.OpsSet
    options: dict[str, Any] = {}
    target: dict[str, Any] = {"supported_ops": [sets.TFLITE_BUILTINS]}
    if numbers.weights != "float32":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if numbers.weights == "float16":
        target["supported_types"] = [tf.float16]
    if numbers.activations != "float32":
        kind = tf.as_dtype(numbers.activations)
        target["supported_ops"] = {
            tf.int8: [sets.TFLITE_BUILTINS_INT8],
            tf.int16: [
                sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
                sets.TFLITE_BUILTINS,  # what has no form in integers stays in float32
            ],
        }[kind]
        options["representative_dataset"] = calibration_rows
        options["inference_input_type"] = options["inference_output_type"] = kind
    return {**options, "target_spec": target}


@contextlib.contextmanager
def _quiet(talker: logging.Logger) -> Iterator[None]:
    """Keep news of TensorFlow's temporary files out of the log."""
    level = talker.level
    talker.setLevel(logging.WARNING)
    try:
        yield
    finally:
        talker.setLevel(level)
