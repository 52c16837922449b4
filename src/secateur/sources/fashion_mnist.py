"""Fashion-MNIST (Xiao et al., 2017), from wherever this machine has it."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from secateur.errors import InputError
from secateur.settings import DataSettings
from secateur.sources.checks import one_line, reading
from secateur.sources.source import Source

TRAIN_FILE = "train-images-idx3-ubyte.gz"
TEST_FILE = "t10k-images-idx3-ubyte.gz"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PATIENCE_S = 30  # a download that stands still this long has failed

IDX_IMAGES = 0x0803  # unsigned bytes, three dimensions
IDX_HEADER_BYTES = 16


def read_fashion_mnist(settings: DataSettings) -> Source:
    """Pictures of 28x28 pixels in [0, 255]: 60,000 rows, and 10,000 test rows of the source's own.

    Looked for in `data.path`, where Debian's package puts them, and in Keras' cache; else Keras
    fetches them. The files with the classes are not needed.

    Raises:
        InputError: a file is broken, or there is none and fetching failed.
    """
    folder = _find(settings.path)
    if folder is not None:
        train = read_idx_images(folder / TRAIN_FILE)
        test = read_idx_images(folder / TEST_FILE)
        origin = str(folder)
    else:
        train, test = _fetch(settings.path)
        origin = "fashion-mnist"
    if train.shape[1:] != test.shape[1:]:
        raise InputError(
            f"{origin} holds pictures of {train.shape[1:]} pixels to train on and of "
            f"{test.shape[1:]} to test on; allowed: one size"
        )
    if len(test) == 0:
        raise InputError(f"{origin}/{TEST_FILE} has no rows")
    md5 = hashlib.md5(train.data, usedforsecurity=False)
    md5.update(test.data)
    return Source(
        name="fashion-mnist",
        origin=origin,
        rows=train,
        test_rows=test,
        md5=md5.hexdigest(),
        image_shape=(train.shape[1], train.shape[2]),
    )


def read_idx_images(path: Path) -> np.ndarray:
    """(pictures, height, width) uint8 from a gzipped idx file.

    Raises:
        InputError: it cannot be unpacked, or is not what its header says.
    """
    with reading(path):
        content = gzip.decompress(path.read_bytes())
    header = np.frombuffer(content[:IDX_HEADER_BYTES].ljust(IDX_HEADER_BYTES, b"\0"), ">u4")
    kind, *shape = header.tolist()
    pixels = len(content) - IDX_HEADER_BYTES
    if kind != IDX_IMAGES or pixels != shape[0] * shape[1] * shape[2]:
        raise InputError(
            f"{path} is not a whole idx file of pictures: its header says kind {kind:#06x} and "
            f"shape {tuple(shape)}, {max(pixels, 0)} pixels follow; allowed: kind {IDX_IMAGES:#06x}"
        )
    return np.frombuffer(content, np.uint8, offset=IDX_HEADER_BYTES).reshape(shape)


def _find(first: Path) -> Path | None:
    """The first folder that holds both files with pictures."""
    for folder in _places(first):
        with reading(folder):
            if (folder / TRAIN_FILE).is_file() and (folder / TEST_FILE).is_file():
                return folder
    return None


def _places(first: Path) -> Iterator[Path]:
    yield first
    yield DEBIAN
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")  # noqa: PTH111, it may lack
    yield Path(home) / "datasets" / "fashion-mnist"


def _fetch(first: Path) -> tuple[np.ndarray, np.ndarray]:
    import keras  # starts TensorFlow: only when there is no other way

    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_S)
    try:
        (train, _), (test, _) = keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # Keras raises a bare Exception when it cannot fetch
        raise InputError(
            f"Fashion-MNIST is in none of {', '.join(map(str, _places(first)))}, and could not be "
            f"fetched ({one_line(error)}). Install Debian's package dataset-fashion-mnist, or put "
            f"{TRAIN_FILE} and {TEST_FILE} into the folder that data.path names"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
    return np.ascontiguousarray(train), np.ascontiguousarray(test)
