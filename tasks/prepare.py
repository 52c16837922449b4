"""Read the source, check it, split it and scale it."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from secateur import paths
from secateur.settings import load_settings
from secateur.sources.checks import check_batch, listed
from secateur.sources.reading import read_source
from secateur.sources.scaling import Scaling, fit_scaling
from secateur.sources.source import Selection, Source
from secateur.sources.splitting import Splits, split
from secateur.sources.writing import write_rows
from tasks.command import main

LOG = logging.getLogger("tasks.prepare")


def run() -> None:
    """Write `data/prepared`; nothing is written if the data cannot be used."""
    settings = load_settings()
    data = settings.data
    source = read_source(data)
    splits = split(source, data.validation, data.test, settings.seed)
    check_batch(len(splits.train), settings.baseline.training.batch)
    scaling, constant = fit_scaling(source, splits.train, data.scaling)
    with paths.publishing(paths.PREPARED) as folder:
        scaled_range = _write_splits(folder, source, splits, scaling)
        description = folder / paths.DESCRIPTION.relative_to(paths.PREPARED)
        description.mkdir()
        paths.write_json(description / paths.SCALING.name, scaling.as_json())
        schema = _schema(source, splits, scaling, scaled_range, constant)
        paths.write_json(description / paths.SCHEMA.name, schema)
    _forget_old_anomalies(splits)
    _tell(source, splits, constant)


def _anomalies(splits: Splits) -> dict[Path, Selection | None]:
    """By split; None where there are none to write."""
    return {
        paths.VALIDATION: splits.validation_anomalies or None,
        paths.TEST: splits.test_anomalies or None,
    }


def _write_splits(
    folder: Path, source: Source, splits: Splits, scaling: Scaling
) -> tuple[float, float]:
    """Write every array below `folder`; gives the range of the scaled training rows."""

    def write(split_folder: Path, name: str, selection: Selection) -> tuple[float, float]:
        path = folder / split_folder.relative_to(paths.PREPARED) / name
        return write_rows(path, source, selection, scaling)

    scaled_range = write(paths.TRAIN, paths.ROWS, splits.train)
    write(paths.VALIDATION, paths.ROWS, splits.validation)
    write(paths.TEST, paths.ROWS, splits.test)
    for split_folder, anomalies in _anomalies(splits).items():
        if anomalies is not None:
            write(split_folder, paths.ANOMALIES, anomalies)
    return scaled_range


def _forget_old_anomalies(splits: Splits) -> None:
    """An earlier run may have had labels."""
    for split_folder, anomalies in _anomalies(splits).items():
        if anomalies is None:
            (split_folder / paths.ANOMALIES).unlink(missing_ok=True)


def _schema(
    source: Source,
    splits: Splits,
    scaling: Scaling,
    scaled_range: tuple[float, float],
    constant: list[int],
) -> dict[str, Any]:
    return {
        "source": source.name,
        "path": source.path,
        "source_md5": source.md5,
        "files": [asdict(file) for file in source.files],
        "features": source.features,
        "feature_names": None if source.feature_names is None else list(source.feature_names),
        "image_shape": None if source.image_shape is None else list(source.image_shape),
        "scaling": scaling.kind,
        "scaled_range": list(scaled_range),
        "rows": {
            "train": len(splits.train),
            "validation": len(splits.validation),
            "test": len(splits.test),
        },
        "anomalies": {
            "validation": len(splits.validation_anomalies or ()),
            "test": len(splits.test_anomalies or ()),
        },
        "constant_columns": constant,
    }


def _tell(source: Source, splits: Splits, constant: list[int]) -> None:
    LOG.info(
        "%s: %d features; %d rows to train on, %d to validate, %d to test",
        source.origin,
        source.features,
        len(splits.train),
        len(splits.validation),
        len(splits.test),
    )
    if constant:
        # Dark corners are what pictures look like; in a table it is worth a look.
        level = logging.INFO if source.image_shape else logging.WARNING
        names = listed((source.column(feature) for feature in constant), most=20)
        LOG.log(level, "%d constant in the training rows: %s", len(constant), names)
    if source.labels is None:
        return
    counts = [len(selection or ()) for selection in _anomalies(splits).values()]
    LOG.info("%d anomalies to validate, %d to test", *counts)
    if sum(counts) > (~source.labels).sum():
        LOG.warning("more anomalies than normal rows: is 1 = anomaly and 0 = normal?")
    elif 0 in counts:
        LOG.warning("too few anomalies: a split without any has no AUC")


if __name__ == "__main__":
    main(run)
