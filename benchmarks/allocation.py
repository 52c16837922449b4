"""How a budget is spread over layers: five ways at equal MACs, on Fashion-MNIST, over seeds.

All ways cut the same units by the same importance and compensate alike, so that only the widths
differ: `uniform` keeps the same share of every layer; `global magnitude` compares the norms of all
units; `LAMP` compares their shares of what is left in their layer; `ERK` goes by the kernels'
shapes; `adaptive` by how much the model's error rises for the MACs that are saved. Selection (the
best epoch) is by validation rows; test rows only score.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import secateur
from benchmarks import conv, fashion
from secateur import allocation
from secateur.allocation import paths_of, price_of, sensitivity, spread
from secateur.answers import Answers
from secateur.costs import count_macs
from secateur.methods.units import Units
from secateur.metrics import mean_squared_error

WAYS: dict[str, dict[str, Any]] = {
    "uniform": {"scope": "local"},
    "global magnitude": {"scope": "global", "importance": "magnitude"},
    "LAMP": {"scope": "global", "importance": "magnitude", "normalize": "lamp"},
    "ERK": {"scope": "erk"},
    "adaptive": {"scope": "adaptive"},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "dense": {
        "make": fashion.network, "shape": (784,), "epochs": 30, "calibration": 8_000,
        "training": {"batch": 128, "learning_rate": 1e-3},
        "recovery": {"batch": 64, "learning_rate": 2e-3},
    },
    "conv": {
        "make": conv.network, "shape": (28, 28, 1), "epochs": 12, "calibration": 2_000,
        "training": conv.TRAINING, "recovery": conv.TRAINING,
    },
}  # fmt: skip


def main() -> None:
    """Train, spread, cut, recover, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="dense")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--left", type=float, nargs="+", default=[0.5, 0.25], help="share of MACs")
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS))
    parser.add_argument("--rows", type=int, help="that are trained on; all, if not given")
    parser.add_argument("--calibration", type=int, help="rows that a cut looks at")
    parser.add_argument("--epochs", type=int, help="of the baseline")
    parser.add_argument("--recovery", type=int, default=3, help="epochs; 0 for none")
    parser.add_argument("--rate", type=float, help="learning rate of the recovery")
    parser.add_argument("--baselines", type=Path, help="a folder that keeps them for another run")
    parser.add_argument("--scan", action="store_true", help="hold the scan against full cuts")
    arguments = parser.parse_args()
    network = NETWORKS[arguments.network]
    epochs = arguments.epochs or network["epochs"]
    recovery = {**network["recovery"]}
    if arguments.rate:
        recovery["learning_rate"] = arguments.rate
    train, validation, test = (rows.reshape(-1, *network["shape"]) for rows in fashion.splits())
    sample = train[: arguments.calibration or network["calibration"]]
    train = train[: arguments.rows]
    errors: dict[tuple[float, str], list[tuple[float, float]]] = {}
    macs: dict[tuple[float, str], int] = {}
    references = []
    for seed in arguments.seeds:
        kept = arguments.baselines and arguments.baselines / f"{arguments.network}_{seed}.keras"
        if kept and kept.is_file():
            baseline = secateur.load(kept)
        else:
            keras.utils.set_random_seed(seed)
            baseline, _ = secateur.recover(
                network["make"](), train, validation, epochs=epochs, patience=epochs, seed=seed,
                **network["training"],
            )  # fmt: skip
            if kept:
                secateur.save(baseline, kept)
        references.append(mean_squared_error(baseline, test))
        if arguments.scan:
            _scan(baseline, sample)
            continue
        answers = Answers(baseline, sample)
        paths = {
            by: paths_of(baseline, sample, answers, *by)
            for by in dict.fromkeys(scored_by(WAYS[way]) for way in arguments.ways)
        }
        for left in arguments.left:
            limit = left * count_macs(baseline)[0]
            for way in arguments.ways:
                cut = cut_by(baseline, sample, paths[scored_by(WAYS[way])], limit, WAYS[way])
                untrained = mean_squared_error(cut, test)
                if arguments.recovery:
                    cut, _ = secateur.recover(
                        cut, train, validation, epochs=arguments.recovery, seed=seed,
                        **recovery,
                    )  # fmt: skip
                found = untrained, mean_squared_error(cut, test)
                errors.setdefault((left, way), []).append(found)
                macs[left, way] = count_macs(cut)[0]
                print(seed, left, way, macs[left, way], *found, flush=True)
    if not arguments.scan:
        _print(arguments, epochs, recovery["learning_rate"], references, errors, macs)


def scored_by(options: dict[str, Any]) -> tuple[str, Any]:
    """Importance and normalization of a way of `WAYS`, as `paths_of` takes them."""
    return options.get("importance", "obs"), options.get("normalize", "none")


def cut_by(
    model: keras.Model,
    sample: np.ndarray,
    paths: Sequence[allocation.Path],
    limit: float,
    options: dict[str, Any],
) -> keras.Model:
    """A model cut by one way of `WAYS` to at most so many MACs."""
    widths = spread(paths, price_of("macs", model, limit), limit, options["scope"])
    return Units(keep=1.0).shrink_to(model, sample, widths)[0]


def _print(
    arguments: Any, epochs: int, rate: float, references: list[float], errors: Any, macs: Any
) -> None:
    print(
        f"\n{arguments.network}: baselines of {epochs} epochs, seeds {arguments.seeds}, test MSE "
        f"{_spread(references)}; {arguments.recovery} epochs of recovery at {rate:g}; "
        "mean ± sample deviation"
    )
    first = arguments.ways[0]
    rows: list[list[object]] = []
    for (left, way), found in errors.items():
        cells: list[object] = [f"{left:.0%}", way, f"{macs[left, way]:,}"]
        for step in range(2):
            now = np.array(found)[:, step]
            ratio = now / np.array(errors[left, first])[:, step]
            cells += [_spread(now), f"{np.mean(ratio):.3f} ± {_deviation(ratio):.3f}"]
        rows.append(cells)
    fashion.print_table(
        ["MACs left", "spread", "MACs (last seed)", "test MSE, untrained", f"to {first}",
         "test MSE, recovered", f"to {first}"],
        rows,
    )  # fmt: skip


def _scan(model: keras.Model, sample: np.ndarray) -> None:
    """What the scan predicts for each group and ratio, beside a full cut of that group alone."""
    whole = mean_squared_error(model, sample)
    rows: list[list[object]] = []
    for row in sensitivity(model, sample, ratios=(0.1, 0.25, 0.5, 0.75)):
        widths = {row["layer"]: row["units"] - row["removed"]}
        cut, _ = Units(keep=1.0).shrink_to(model, sample, widths)
        lost = mean_squared_error(cut, sample) - whole
        cells = [f"{row['ratio']:.0%}", f"{row['rise']:.6f}", f"{lost:.6f}"]
        rows.append([row["layer"], *cells, f"{row['rise'] / lost:.2f}" if lost > 0 else ""])
    fashion.print_table(["layer", "units that leave", "predicted rise", "full cut", "ratio"], rows)


def _spread(values: Any) -> str:
    return f"{np.mean(values):.5f} ± {_deviation(values):.5f}"


def _deviation(values: Any) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
