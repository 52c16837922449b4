"""MLPerf Tiny's trained anomaly detector, folded and cut without training.

    python -m benchmarks.mlperf_tiny FOLDER

The folder holds `ad01.h5` and `normal_id_01_00000000_hist_librosa.bin` of
github.com/mlcommons/tiny: a clip as 200 frames of 128 log-mel energies, float32. The detector looks
at five frames at a time, so that a clip gives 196 windows, each a frame after the other; the
clip's score is the mean squared error over all of them.

There is no other data than this clip. It is calibrated on the first half of the clip and scored on
the whole, and on the windows of the second half that share no frame with the first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import secateur
from benchmarks.fashion import print_table
from secateur.metrics import mean_squared_error

MELS, FRAMES = 128, 5


def main() -> None:
    """Fold, cut, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    detector = secateur.load(folder / "ad01.h5")
    seen = windows(folder / "normal_id_01_00000000_hist_librosa.bin")
    half = len(seen) // 2
    folded, report = secateur.shrink(detector, seen, "fold")
    models = {"as published": detector, f"fold ({len(report.groups)} norms)": folded}
    for keep in (0.5, 0.25):
        for importance, compensate in (
            ("obs", "least_squares"),
            ("magnitude", "least_squares"),
            ("magnitude", "bias"),
            ("magnitude", "none"),
        ):
            name = f"folded, units to {keep:.0%}, {importance}, {compensate}"
            models[name], _ = secateur.shrink(
                folded, seen[:half], "units", keep=keep, importance=importance,
                compensate=compensate,
            )  # fmt: skip
    rows: list[list[object]] = [
        [
            name,
            f"{model.count_params():,}",
            f"{mean_squared_error(model, seen):.4f}",
            f"{mean_squared_error(model, seen[half + FRAMES :]):.4f}",
        ]
        for name, model in models.items()
    ]
    print_table(["model", "parameters", "clip's score", "of its unseen frames"], rows)


def windows(path: Path) -> np.ndarray:
    """(windows, 640): every five consecutive frames of a clip, the oldest frame first."""
    frames = np.fromfile(path, np.float32).reshape(-1, MELS)
    slid = np.lib.stride_tricks.sliding_window_view(frames, FRAMES, axis=0)
    return np.ascontiguousarray(slid.transpose(0, 2, 1).reshape(len(slid), FRAMES * MELS))


if __name__ == "__main__":
    main()
