"""A published model in a folder: real LiteRT files of a small untrained network."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from secateur import paths
from tasks import champion

FEATURES = 6
TRAIN = np.random.default_rng(0).random((400, FEATURES)).astype(np.float32)
VALIDATION = np.random.default_rng(1).random((101, FEATURES)).astype(np.float32)
SCALE, OFFSET = np.linspace(0.5, 2, FEATURES), np.linspace(-1, 1, FEATURES)


def raw(scaled: np.ndarray) -> np.ndarray:
    """Rows as they come from the source."""
    return (scaled - OFFSET) / SCALE


@cache
def artifacts(seed: int) -> dict[str, bytes]:
    """The LiteRT files of a small untrained network, made once."""
    import keras

    from secateur.export import export_float32, export_int8

    keras.utils.clear_session()  # names are numbered through a process, and are in the files
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(3), keras.layers.Dense(FEATURES)]
    )
    with tempfile.TemporaryDirectory() as folder:
        float32, int8 = Path(folder, paths.FLOAT32), Path(folder, paths.INT8)
        export_float32(model, float32, TRAIN)
        export_int8(model, int8, TRAIN)
        return {file.name: file.read_bytes() for file in (float32, int8)}


def make_bundle(rung: str, seed: int = 0) -> None:
    """An exported rung in the current directory."""
    from secateur.litert import run_litert
    from secateur.metrics import squared_errors

    bundle = paths.EXPORTS / rung
    bundle.mkdir(parents=True)
    for name, content in artifacts(seed).items():
        artifact = bundle / name
        artifact.write_bytes(content)
        errors = squared_errors(VALIDATION, run_litert(artifact, VALIDATION))
        np.save(paths.errors_file(artifact), errors)
    paths.write_json(bundle / paths.METRICS, {"costs": {"parameters": 45, "macs": 36}})
    paths.write_json(
        bundle / paths.CUT, {"groups": [{"layer": "dense", "units_before": 6, "units_after": 3}]}
    )
    costs = {
        f"{kind}_bytes": (bundle / f"{kind}.tflite").stat().st_size for kind in ("float32", "int8")
    }
    paths.write_json(bundle / paths.COSTS, costs)
    scaling = {"kind": "standard", "scale": SCALE.tolist(), "offset": OFFSET.tolist()}
    paths.write_json(bundle / paths.SCALING.name, scaling)


def make_prepared(names: list[str] | None = None, train: np.ndarray = TRAIN) -> None:
    """Prepared data in the current directory, as far as the champion looks at it."""
    for folder in (paths.TRAIN, paths.DESCRIPTION):
        folder.mkdir(parents=True, exist_ok=True)
    np.save(paths.TRAIN / paths.ROWS, train)
    schema = {
        "source": "file",
        "path": "rows.npy",
        "source_md5": "0" * 32,
        "features": FEATURES,
        "feature_names": names,
        "rows": {"train": len(train), "validation": len(VALIDATION), "test": 1},
    }
    paths.write_json(paths.SCHEMA, schema)


def elect(rung: str) -> None:
    """An election in the current directory that this rung won."""
    paths.ELECTION.mkdir(parents=True, exist_ok=True)
    candidate = {"rung": rung, "state": "accepted", "accepted": True, "value": 45}
    record: dict[str, Any] = {"rung": rung, "minimise": "parameters", "value": 45}
    paths.write_json(paths.ELECTION / paths.CHAMPION_RECORD, {**record, "candidates": [candidate]})
    paths.SETTINGS.write_text(yaml.safe_dump({"rounds": {}, "detection": {"quantile": 0.95}}))


def publish_for_ever(folder: Path, begun: Event) -> None:
    """Promote one rung and the other in turn, until killed."""
    os.chdir(folder)
    while True:
        for rung in ("round_1", "round_2"):
            elect(rung)
            champion.run()
        begun.set()  # the first take longer


def publish(folder: Path, names: list[str] | None = None) -> Path:
    """A workspace in a folder, and the path of the model that it published."""
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        if not paths.EXPORTS.exists():
            make_bundle("round_1")
        make_prepared(names)
        elect("round_1")
        champion.run()
    return folder / paths.CHAMPION
