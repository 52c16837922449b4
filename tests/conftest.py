"""Shared rows and models: small, fixed by seed, made here."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests run side by side: a thread for each is as fast, and none wait for another's cores.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole pipelines go first: begun last, they would keep one core busy while the other waits."""
    items.sort(key=lambda item: item.get_closest_marker("pipeline") is None)


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """(1797, 64) float32 in [0, 1], in a fixed random order."""
    from sklearn.datasets import load_digits

    rows = (load_digits().data / 16).astype(np.float32)
    return rows[np.random.default_rng(0).permutation(len(rows))]


@pytest.fixture(scope="session")
def train(digits: np.ndarray) -> np.ndarray:
    return digits[:1200]


@pytest.fixture(scope="session")
def validation(digits: np.ndarray) -> np.ndarray:
    return digits[1200:1500]


@pytest.fixture(scope="session")
def trained(train: np.ndarray, validation: np.ndarray):
    """A dense 64-32-16-8-16-32-64 autoencoder, trained enough to tell a good cut from a bad."""
    import keras

    from secateur.autoencoders import dense
    from secateur.recovery import recover

    keras.utils.set_random_seed(0)
    untrained = dense(64, widths=(32, 16), code=8)
    model, _ = recover(untrained, train, validation, epochs=30, batch=32, learning_rate=3e-3)
    return model


def _train_without_xla():
    """Its compiling takes longer than small trainings; which compiler it is changes no promise."""
    from secateur.training import loop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "convolves", lambda model: True)
        yield


_without_xla = pytest.fixture(_train_without_xla, scope="module", name="_without_xla")
_uncompiled = pytest.fixture(_train_without_xla, name="_uncompiled")
