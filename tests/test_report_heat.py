"""What layers have to lose, and what became of targets, as the page tells it."""

from __future__ import annotations

import html

from secateur.report import build_page
from secateur.report.heat import heat
from tests.test_report import Outline, example

ROWS = [
    {"layer": layer, "units": 32, "ratio": ratio, "removed": int(32 * ratio), "mse": 0.01,
     "rise": rise}
    for layer, rises in {"encoder_1": (0.0001, 0.0025), "decoder_1": (0.0, None)}.items()
    for ratio, rise in zip((0.25, 0.5), rises, strict=True)
]  # fmt: skip


def test_heat_is_the_root_of_the_rise_and_full_where_the_error_doubles():
    found = heat(ROWS)
    assert found["ratios"] == [0.25, 0.5]
    cells = {name: [cell["heat"] for cell in layer["cells"]]
             for name, layer in found["layers"].items()}  # fmt: skip
    assert cells == {"encoder_1": [0.1, 0.5], "decoder_1": [0.0, 1.0]}
    assert heat([]) is None


def test_the_page_draws_the_map_and_only_where_there_is_one():
    page = build_page(**example(), sensitivity=ROWS)
    outline = Outline(page)
    assert (outline.unbalanced, outline.open) == ([], [])
    told = html.unescape(page)
    assert 'style="--heat:0.5"' in told
    assert "+25%" in told
    assert "What layers have to lose" not in build_page(**example())


def test_the_page_tells_what_became_of_a_target():
    arguments = example()
    budget = {"cost": "int8_bytes", "asked": 9000, "reached": 8992, "before": 13744, "why": None}
    arguments["cuts"]["round_1"]["budget"] = budget
    arguments["cuts"]["round_2"]["budget"] = {**budget, "reached": 9100, "why": "it is as it is"}
    arguments["context"]["settings"]["rounds"]["round_1"]["target"] = {"int8_bytes": 9000}
    page = html.unescape(build_page(**arguments))
    assert "int8 bytes of at most 9,000; reached 8,992 of 13,744." in page
    assert "reached 9,100 of 13,744: it is as it is." in page
    assert "target int8 bytes 9000" in page
