"""The data and the network of the benchmarks."""

from __future__ import annotations

import gzip
from pathlib import Path

import keras
import numpy as np

from secateur.autoencoders import dense

FOLDERS = (Path("data/raw"), Path("/usr/share/datasets/fashion-mnist"))


def images(split: str) -> np.ndarray:
    """(rows, 784) float32 in [0, 1] of `train` or `t10k`."""
    name = f"{split}-images-idx3-ubyte.gz"
    for folder in FOLDERS:
        if (folder / name).is_file():
            raw = gzip.decompress((folder / name).read_bytes())
            return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 784).astype(np.float32) / 255
    raise SystemExit(f"{name} is in none of {', '.join(map(str, FOLDERS))}")


def splits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """54,000 training rows, 6,000 validation rows, 10,000 test rows."""
    train = images("train")
    return train[:54_000], train[54_000:], images("t10k")


def network(width: float = 1.0) -> keras.Model:
    """784-256-128-32-128-256-784 with its hidden layers at a fraction of their width."""
    return dense(784, (round(256 * width), round(128 * width)), 32, output_activation="sigmoid")


def print_table(header: list[str], rows: list[list[object]]) -> None:
    """A Markdown table."""
    print(f"| {' | '.join(header)} |")
    print(f"|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")
