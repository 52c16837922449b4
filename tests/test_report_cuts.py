"""What is told of a cut layer, whatever method cut it."""

from __future__ import annotations

import pytest

from secateur.report import build_page
from secateur.report.cuts import account
from tests.test_report import example

UNITS = {"layer": "dense", "units_before": 32, "units_after": 32, "removed": []}
LEFT = {**UNITS, "units_after": 0, "with": [], "read_by": ["code"], "macs_before": 5376,
        "macs_after": 4992, "share": 0.0339}  # fmt: skip

TOLD = {
    "units": ({**UNITS, "units_after": 16}, "32 → 16 units", 0.5),
    "layer": (
        {**LEFT, "how": "removed", "with": ["norm"]},
        "32 → 0 units, removed with norm; code lost 3.39% of what it gave; 384 MACs less",
        0.0,
    ),
    "merged": (
        {**LEFT, "how": "merged into code", "share": 0.0},
        "32 → 0 units, merged into code; 384 MACs less",
        0.0,
    ),
    "factored": (
        {**UNITS, "rank": 9, "split": "two layers", "energy": 0.99987, "macs_before": 1000,
         "macs_after": 750},
        "1,000 → 750 MACs, rank 9 (two layers); keeps 99.987% of what it gives",
        0.75,
    ),
    "narrowed": (
        {**UNITS, "rank": 9, "narrowed": "dense_rank", "energy": 0.5, "macs_before": 1000,
         "macs_after": 750},
        "1,000 → 750 MACs, reads 9 units of dense_rank; keeps 50% of what it gives",
        0.75,
    ),
    "weights": (
        {**UNITS, "nonzeros_before": 2048, "nonzeros_after": 512},
        "2,048 → 512 weights, the others set to zero",
        0.25,
    ),
    "cluster": (
        {**UNITS, "values_before": 2048, "values_after": 16, "gzip_bytes_before": 9000,
         "gzip_bytes_after": 900},
        "2,048 → 16 values, gzip 9,000 → 900 bytes",
        16 / 2048,
    ),
    "anything else": (
        {**UNITS, "numbers_before": "float32", "numbers_after": "int8"},
        "32 → 32 units, numbers float32 → int8",
        1.0,
    ),
    "activations": (
        {**UNITS, "activation_before": "gelu", "activation_after": "relu", "values": 32,
         "ns_before": 9.28, "ns_after": 0.0, "lost": 0.0123},
        "32 → 32 units, gelu → relu; by the table of costs 9.28 → 0 ns a row; what reads it lost "
        "1.23% of what it gave",
        1.0,
    ),
    "folded": (
        {**UNITS, "folded_into": ["a", "b"]},
        "32 → 32 units, folded into a, b",
        1.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", TOLD)
def test_every_kind_of_entry_is_told_in_words(method):
    group, text, kept = TOLD[method]
    assert account(group).text == text
    assert account(group).kept == pytest.approx(kept)


def test_the_page_tells_them_all():
    arguments = example()
    groups = [{**group, "layer": name} for name, (group, _, _) in TOLD.items()]
    arguments["cuts"]["round_1"]["groups"] = groups
    page = build_page(**arguments)
    for group, _, _ in TOLD.values():
        assert account(group).how in page


def test_swapped_activations_are_told_with_the_latency_that_was_measured():
    told = example()
    told["cuts"]["round_2"]["groups"] = [TOLD["activations"][0]]
    timed = told["latency"]["rungs"]
    median = {rung: timed[rung]["float32"]["median_us"] for rung in ("round_1", "round_2")}
    rows = {row["name"]: row for row in told["rungs"]}
    rows["round_2"]["of"] = "round_1"
    change = abs(100 * (median["round_2"] / median["round_1"] - 1))
    assert (
        f"round_2 swapped activations; latency from round_1: float32 {median['round_1']:.3g}"
        in (page := build_page(**told))
    )
    assert f"({chr(0x2212)}{change:.0f}%)" in page


def test_a_published_card_tells_what_was_rounded():
    from secateur.card import _changes

    assert _changes(TOLD["anything else"][0]) == "units 32 → 32, numbers float32 → int8"
