"""MLPerf Tiny's trained anomaly detector, folded and cut without training.

    python -m benchmarks.mlperf_tiny FOLDER

The folder holds `ad01.h5` and `normal_id_01_00000000_hist_librosa.bin` (float32, 640 log-mel
features a frame) of github.com/mlcommons/tiny. A clip's score is the mean squared error over its
frames. The clip is the calibration sample and the score's data at once: there is no other data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import secateur
from benchmarks.fashion import print_table
from secateur.metrics import mean_squared_error


def main() -> None:
    """Fold, cut, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    detector = secateur.load(folder / "ad01.h5")
    clip = np.fromfile(folder / "normal_id_01_00000000_hist_librosa.bin", np.float32)
    frames = clip.reshape(-1, 640)
    folded, report = secateur.shrink(detector, frames, "fold")
    models = {"as published": detector, f"fold ({len(report.groups)} norms)": folded}
    for importance, compensate in (("obs", "least_squares"), ("magnitude", "none")):
        models[f"folded, units to 50%, {importance}, {compensate}"] = secateur.shrink(
            folded, frames, "units", keep=0.5, importance=importance, compensate=compensate
        )[0]
    rows: list[list[object]] = [
        [name, f"{model.count_params():,}", f"{mean_squared_error(model, frames):.4f}"]
        for name, model in models.items()
    ]
    print_table(["model", "parameters", "clip's score"], rows)


if __name__ == "__main__":
    main()
