"""What a round is deployed as, where that is a LiteRT file of a scheme of its own.

The guard judges that very file, and the bundle holds it byte for byte.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import keras
import numpy as np

from secateur.export import calibration_sample, export_litert
from secateur.grids import round_weights

RANGE_ROWS = 512  # of the calibration sample, that set the ranges of integer activations


def write_deployed(
    model: keras.Model, path: str | os.PathLike[str], sample: np.ndarray, scheme: str
) -> None:
    """Write what a model is deployed as.

    The model's weights are rounded in place where training has moved them off the file's numbers,
    which it does with float16 alone.

    Args:
        model: the round's model, trained.
        path: where to write; must end in `.tflite`.
        sample: (rows, ...) float32 in the model's input shape, training rows.
        scheme: see `Method.deploys_as`.

    Raises:
        InputError: see `export_litert`.
    """
    round_weights(model, scheme)
    rows = np.asarray(calibration_sample(sample, RANGE_ROWS), np.float32)
    export_litert(model, path, rows, scheme)


def deployed_file(model: keras.Model, sample: np.ndarray, scheme: str) -> bytes:
    """The content of that file; arguments as `write_deployed`."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, f"{scheme}.tflite")
        write_deployed(model, path, sample, scheme)
        return path.read_bytes()
