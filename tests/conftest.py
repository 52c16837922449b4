"""Shared rows and models: small, fixed by seed, made here."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests run side by side: a thread for each is as fast, and none wait for another's cores.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
# What Prefect's server does besides for nobody here: schedules, work pools, triggers.
IDLE_SERVICES = {
    f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false"
    for name in (
        "SCHEDULER", "LATE_RUNS", "FOREMAN", "CANCELLATION_CLEANUP", "PAUSE_EXPIRATIONS",
        "TRIGGERS", "REPOSSESSOR",
    )
}  # fmt: skip


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


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings that keep Prefect's records away from the user's; one database serves all tests."""
    return {
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_API_URL": "",
        "PREFECT_PROFILE": "ephemeral",
    }


@pytest.fixture(scope="session")
def prefect_server(prefect_home: dict[str, str]) -> Iterator[dict[str, str]]:
    """Settings that name a Prefect server with its UI, which starts once for all tests."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    settings = {**prefect_home, "PREFECT_API_URL": url, "PREFECT_SERVER_API_PORT": str(port)}
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "flows.leash", "prefect", "server", "start"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            **settings,
            **IDLE_SERVICES,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        deadline = time.monotonic() + 90
        while not _is_healthy(url):
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)
        yield settings
        server.communicate()  # the end of its input is the end of its leash


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health") as answer:
            return answer.status == 200
    except OSError:
        return False


def _train_without_xla():
    """Its compiling takes longer than small trainings; which compiler it is changes no promise."""
    from secateur.training import loop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "convolves", lambda model: True)
        yield


_without_xla = pytest.fixture(_train_without_xla, scope="module", name="_without_xla")
_uncompiled = pytest.fixture(_train_without_xla, name="_uncompiled")
