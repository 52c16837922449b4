"""What a published model is, on one page of Markdown that travels with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def card(
    record: Mapping[str, Any],
    metrics: Mapping[str, Any],
    cut: Mapping[str, Any],
    costs: Mapping[str, Any],
    schema: Mapping[str, Any],
    thresholds: Mapping[str, Any],
) -> str:
    """The page; equal arguments give equal text.

    Args:
        record: who was elected, and who else stood.
        metrics: the rung's scores and what it costs.
        cut: what its round took away.
        costs: the bytes of its files.
        schema: the data that it was trained on.
        thresholds: by artifact, where anomalies begin.
    """
    rows = schema["rows"]
    name = f" `{schema['path']}`" if schema["path"] else ""
    counted = metrics["costs"]
    parts = [
        f"# {record['rung']}",
        f"An autoencoder of {schema['features']} features: {counted['parameters']:,} parameters, "
        f"{counted['macs']:,} multiply-accumulates a row. Elected for its {record['minimise']} "
        f"among {len(record['candidates'])} rungs.",
        "## Files",
        _table(("artifact", "bytes", "validation MSE", "threshold"), _artifacts(thresholds, costs)),
        f"A row is an anomaly when its mean squared error, scaled, lies above the threshold, which "
        f"{thresholds['quantile']:.4g} of the validation rows do not exceed. `scaling.json` holds "
        "the scaling: scaled = raw · scale + offset. `secateur score` applies all of it.",
        "## Trained on",
        f"{schema['source']}{name}, md5 `{schema['source_md5']}`: {rows['train']:,} rows to train "
        f"on, {rows['validation']:,} to validate. `reference.npy` holds some of the scaled "
        "training rows, to compare new data with; leave it out of what goes to devices.",
        "## Stood for election",
        _table(
            ("rung", "state", record["minimise"]),
            (
                (c["rung"], c["state"].replace("_", " "), f"{c['value']:,}")
                for c in record["candidates"]
            ),
        ),
    ]
    if cut["groups"]:
        rows_of_cut = ((group["layer"], _changes(group)) for group in cut["groups"])
        parts += ["## Cut in its last round", _table(("layer", "change"), rows_of_cut)]
    return "\n\n".join(parts) + "\n"


def _artifacts(
    thresholds: Mapping[str, Any], costs: Mapping[str, Any]
) -> Iterable[tuple[str, ...]]:
    for artifact, numbers in thresholds["artifacts"].items():
        yield (
            f"`{artifact}.tflite`",
            f"{costs[f'{artifact}_bytes']:,}" if f"{artifact}_bytes" in costs else "",
            f"{numbers['validation_mse']:.6g}",
            f"{numbers['threshold']:.6g}",
        )


def _changes(group: Mapping[str, Any]) -> str:
    """Whatever the method counts before and after, such as `units 64 → 45`."""
    return ", ".join(
        f"{thing.replace('_', ' ')} {_told(before)} → {_told(group[f'{thing}_after'])}"
        for key, before in group.items()
        if (thing := key.removesuffix("_before")) != key and f"{thing}_after" in group
    )


def _told(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
