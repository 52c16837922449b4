"""What the numbers say, in sentences: the verdict, and what a reader should know beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.report.formats import kilobytes, loss, metric, percent, significant, tolerance
from secateur.report.rows import (
    PCA,
    PRECISIONS,
    SCRATCH,
    Rows,
    baseline_of,
    champion_of,
    controls_of,
    files_of,
    guarded_of,
    is_judged,
    largest_mse,
    latency_of,
    rounds_of,
    shown_file,
)

_GUARD = {
    "accepted": "the guard accepted it",
    "rejected": "the guard rejected it",
    "passed_through": "it repeats a model that the guard had accepted",
    "baseline": "nothing smaller passed the guard",
}
_LIKELY = 0.05  # a chance of rejecting what lost nothing that is worth a sentence
_INT8_LOSS = 0.05  # a rise of the error by the int8 export that is worth a sentence


def verdict(rungs: Rows, latency: Mapping[str, Any]) -> str:
    """One sentence that starts with the champion's name: its size, quality and speed."""
    champion, baseline = champion_of(rungs), baseline_of(rungs)
    quality = f"test MSE {significant(champion['test_mse'])}"
    if champion is baseline:
        parts = ["baseline stays the champion, as " + _GUARD["baseline"], quality]
    else:
        parts = [
            f"{champion['name']} is {significant(champion['compression_ratio'])} times smaller "
            f"than the baseline and {_GUARD[champion['state']]}",
            f"{quality}, {significant(champion['test_mse_ratio'])} times the baseline's",
        ]
    scheme = shown_file(champion)
    if scheme is not None and (scheme == "int8" or is_judged(champion)):
        judged = ", which the guard judged" if is_judged(champion) else ""
        parts.append(f"{kilobytes(champion[scheme]['bytes'])} KB as {scheme}{judged}")
    speed = speed_ratio(rungs, latency)
    if speed and champion is not baseline:
        parts.append(_speed_words(speed[1], speed[0]))
    return "; ".join(parts) + "."


def speed_ratio(rungs: Rows, latency: Mapping[str, Any]) -> tuple[str, float] | None:
    """The precision compared, and the baseline's median latency over the champion's."""
    for precision in dict.fromkeys([shown_file(champion_of(rungs)) or "int8", *PRECISIONS]):
        ours = latency_of(latency, champion_of(rungs)["name"], precision)
        theirs = latency_of(latency, baseline_of(rungs)["name"], precision)
        if ours and theirs and ours["median_us"] > 0:
            return precision, theirs["median_us"] / ours["median_us"]
    return None


def _speed_words(ratio: float, precision: str) -> str:
    if 0.95 < ratio < 1.05:
        return f"as fast as the baseline ({precision})"
    word, factor = ("faster", ratio) if ratio > 1 else ("slower", 1 / ratio)
    return f"{significant(factor)} times {word} ({precision})"


def remarks(
    rungs: Rows,
    cuts: Mapping[str, Any],
    settings: Mapping[str, Any],
    latency: Mapping[str, Any],
) -> list[str]:
    """What a reader should know beside the verdict, most important first."""
    return [
        *_about_rounds(rungs),
        *_about_champion(rungs),
        *_about_controls(rungs),
        *_about_exports(rungs, latency),
        *_about_swaps(rungs, cuts, latency),
        *_about_skipped(cuts),
    ]


def _about_rounds(rungs: Rows) -> list[str]:
    told = []
    for row in rounds_of(rungs):
        failed = (
            {name: found for name, found in row["guard"].items() if not found["accepted"]}
            if (row["guard"])
            else {}
        )
        for name, found in failed.items():
            told.append(
                f"{row['name']} was rejected for its validation {metric(name)}: it lost "
                f"{loss(found['loss'], found)}, at most {loss(found['upper_bound'], found)}, and "
                f"the guard wants that within {tolerance(found)}."
            )
    passed = [row["name"] for row in rounds_of(rungs) if row["state"] == "passed_through"]
    if passed:
        told.append(
            f"{_listed(passed)} cut nothing: a round before stopped the ladder, so the model was "
            "passed through."
        )
    return told + _about_few_rows(rungs)


def _about_few_rows(rungs: Rows) -> list[str]:
    """What no candidate could have shown on these rows."""
    told = []
    for name in guarded_of(rungs):
        chances = [row["guard"][name]["false_rejection"] for row in rungs if row["guard"]]
        if max(chances) > _LIKELY:
            told.append(
                f"The validation rows are few for this tolerance of {metric(name)}: a round that "
                f"lost nothing would be rejected with a chance of up to "
                f"{percent(max(chances)).lstrip('+')}."
            )
    return told


def _about_champion(rungs: Rows) -> list[str]:
    champion, limit = champion_of(rungs), largest_mse(rungs)
    if limit is None or champion["test_mse"] <= limit:
        return []
    return [
        f"On test data the champion's MSE lies {_beside(champion['test_mse_ratio'] - 1)} the "
        "baseline's, outside the tolerance that the guard holds on validation data."
    ]


def _about_controls(rungs: Rows) -> list[str]:
    champion, told = champion_of(rungs), []
    for row in controls_of(rungs, SCRATCH):
        if row["of"] == champion["name"] and champion["kind"] != "baseline":
            change = champion["test_mse"] / row["test_mse"] - 1
            told.append(
                f"The champion's shape trained from scratch reaches "
                f"{significant(row['test_mse'])}: the shrunk one's error is {_better(change)}."
            )
    for row in controls_of(rungs, PCA):
        change = champion["test_mse"] / row["test_mse"] - 1
        told.append(
            f"PCA with the same code size reaches {significant(row['test_mse'])}: the champion's "
            f"error is {_better(change)}."
            + (" A longer training or another baseline should come first." if change > 0 else "")
        )
    if not controls_of(rungs, SCRATCH):
        told.append("No shape was trained from scratch to compare with: the control is turned off.")
    return told


def _beside(change: float) -> str:
    return f"{percent(abs(change)).lstrip('+')} {'above' if change >= 0 else 'below'}"


def _better(change: float) -> str:
    """In words, so that nobody has to know which way is good."""
    if abs(change) < 0.005:
        return "the same"
    amount = percent(abs(change)).lstrip("+")
    return f"{amount} lower" if change < 0 else f"{amount} higher"


def _about_exports(rungs: Rows, latency: Mapping[str, Any]) -> list[str]:
    told = []
    without = [row["name"] for row in rungs if row["kind"] in ("baseline", "round")]
    without = [row["name"] for row in rungs if row["name"] in without and not row["int8"]]
    if without:
        told.append(f"There is no int8 file of {_listed(without)}.")
    champion = champion_of(rungs)
    if champion["int8"]:
        loss = champion["int8"]["test_mse"] / champion["test_mse"] - 1
        if loss > _INT8_LOSS:
            told.append(
                f"The int8 file costs the champion quality: its test MSE lies {_beside(loss)} the "
                "Keras model's."
            )
    if not any(latency["rungs"].values()):
        told.append("Latency was not measured.")
    return told


def _about_swaps(rungs: Rows, cuts: Mapping[str, Any], latency: Mapping[str, Any]) -> list[str]:
    """What swapped activations did to latency, as measured and not as the table has it."""
    told = []
    for row in rounds_of(rungs):
        if not any("activation_after" in group for group in cuts[row["name"]]["groups"]):
            continue
        changes = []
        for scheme in files_of(row):
            before = latency_of(latency, str(row["of"]), scheme)
            after = latency_of(latency, row["name"], scheme)
            if before and after and before["median_us"] > 0:
                change = after["median_us"] / before["median_us"] - 1
                changes.append(
                    f"{scheme} {significant(before['median_us'])} → "
                    f"{significant(after['median_us'])} µs ({percent(change)})"
                )
        measured = ", ".join(changes) or "not measured"
        told.append(f"{row['name']} swapped activations; latency from {row['of']}: {measured}.")
    return told


def _about_skipped(cuts: Mapping[str, Any]) -> list[str]:
    layers = sorted({entry["layer"] for cut in cuts.values() for entry in cut["skipped"]})
    if not layers:
        return []
    return [f"Not cut: {_listed(layers)}; the reasons stand under “What was cut”."]


def _listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`; a long list is told by its ends."""
    if len(names) > 6:
        return f"{names[0]} … {names[-1]} ({len(names)})"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
