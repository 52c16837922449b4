"""Writing prepared arrays a block at a time, so that memory does not grow with the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from secateur.errors import InputError
from secateur.sources.scaling import Scaling
from secateur.sources.source import Selection, Source


def write_rows(
    path: Path, source: Source, selection: Selection, scaling: Scaling
) -> tuple[float, float]:
    """Write rows, scaled, as a (rows, features) float32 .npy file; gives their (min, max).

    Raises:
        InputError: a value, once scaled, is beyond float32.
    """
    lowest, highest = np.inf, -np.inf
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not a writable memory map: on a full disk that ends in SIGBUS, this in an error.
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file,
            {
                "descr": np.lib.format.dtype_to_descr(np.dtype("<f4")),
                "fortran_order": False,
                "shape": (len(selection), source.features),
            },
        )
        for block in selection.blocks():
            scaled = scaling.apply(block)
            _check_finite(source, block, scaled)
            lowest = min(lowest, float(scaled.min()))
            highest = max(highest, float(scaled.max()))
            file.write(np.ascontiguousarray(scaled, "<f4").data)
    return lowest, highest


def _check_finite(source: Source, raw: np.ndarray, scaled: np.ndarray) -> None:
    beyond = np.argwhere(~np.isfinite(scaled))
    if len(beyond):
        row, feature = beyond[0].tolist()
        raise InputError(
            f"{source.origin}: {source.column(feature)} holds {raw[row, feature]:g}, which is "
            "beyond float32 once scaled; allowed: values that scale to at most 3.4e38"
        )
