"""Training shared by two devices and by two hosts, beside one device: how equal, and how fast.

The dense network of params.yaml on digits, the same global batch each time. The two devices are
halves of this machine's CPU, the two hosts are processes on loopback: what is measured is whether
the result agrees and what a step costs beyond the computation, not what GPUs would gain.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
BATCHES = (32, 256)
WAYS: dict[str, dict[str, int]] = {
    "one device": {},
    "two devices": {"devices": 2},
    "two hosts": {"hosts": 2},
}


def main() -> None:
    """Train in every way, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--part", nargs=2, metavar=("OPTIONS", "FILE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        train(json.loads(asked.part[0]), Path(asked.part[1]))
        return
    print(f"{'':12} {'batch':>5} {'µs a step':>9} {'validation MSE':>14} {'most in a weight':>16}")
    with tempfile.TemporaryDirectory() as folder:
        for batch in BATCHES:
            weights = None
            for way, options in WAYS.items():
                options = {**options, "batch": batch, "epochs": asked.epochs}
                found = train_on_all(options, Path(folder))
                weights = found["weights"] if weights is None else weights
                gap = np.abs(found["weights"] - weights).max()
                print(
                    f"{way:12} {batch:5} {found['step_us']:9.0f} {found['loss']:14.8f} {gap:16.1e}",
                    flush=True,
                )


def train_on_all(options: dict[str, int], folder: Path) -> dict[str, Any]:
    """What the hosts came to, which is the same for all."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(options.get("hosts", 1))]
    files, processes = [], []
    for index in range(len(addresses)):
        files.append(folder / f"{index}.npz")
        task = {"type": "worker", "index": index}
        config = {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})}
        processes.append(
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.replicas",
                    "--part",
                    json.dumps(options),
                    files[-1],
                ],
                cwd=ROOT,
                env={**os.environ, **config, "TF_NUM_INTRAOP_THREADS": "1"},
                stderr=subprocess.DEVNULL,
            )
        )
    assert [process.wait() for process in processes] == [0] * len(processes)
    found = [dict(np.load(file)) for file in files]
    assert all(np.array_equal(one["weights"], found[0]["weights"]) for one in found)
    return found[0]


def train(options: dict[str, int], file: Path) -> None:
    """One host's part."""
    import tensorflow as tf

    devices, hosts = options.get("devices", 1), options.get("hosts", 1)
    if devices > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        halves = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(cpu, halves)
    from secateur.training.replicas import replicas_of

    replicas_of(devices, hosts)
    import keras
    from sklearn.datasets import load_digits

    from secateur import recover
    from secateur.autoencoders import AUTOENCODERS

    digits = (load_digits().data / 16).astype(np.float32)
    keras.utils.set_random_seed(0)
    model = AUTOENCODERS["dense"]((64,), [64, 32], 8, "relu", "linear", "linear")
    clock = Clock()
    found, history = recover(
        model, digits[:1400], digits[1400:], learning_rate=0.003, patience=1000, **options
    )
    steps = 1400 // options["batch"] * options["epochs"]
    weights = np.concatenate([one.ravel() for one in found.get_weights()])
    np.savez(
        file, weights=weights, loss=history.validation_loss, step_us=clock.seconds() / steps * 1e6
    )


class Clock:
    """From the first report of progress, when all is compiled, to now."""

    def __init__(self) -> None:
        import logging
        import time

        self._time = time.monotonic
        self._start = 0.0
        handler = logging.Handler()
        handler.emit = self._begin  # type: ignore[method-assign]
        logging.getLogger("secateur").addHandler(handler)
        logging.getLogger("secateur").setLevel(logging.INFO)

    def _begin(self, record: Any) -> None:
        if not self._start and hasattr(record, "progress"):
            self._start = self._time()

    def seconds(self) -> float:
        """Since then."""
        return self._time() - self._start


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    main()
