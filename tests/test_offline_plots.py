"""`dvc plots` needs no network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.pipeline

TEMPLATES = Path(__file__).parents[1] / ".dvc" / "plots"
ROW = {"name": "round_1", "kind": "round", "state": "accepted", "champion": "True"}


def render(name, **properties):
    from dvc_render import VegaRenderer

    rows = [ROW | {"parameters": 10, "test_mse": 0.1, "rev": "workspace"}]
    chosen = {"template": name, "template_dir": TEMPLATES, "x": "parameters", "y": "test_mse"}
    return VegaRenderer(rows, "frontier.csv", **chosen | properties)


def test_page_carries_vega_and_links_to_nothing(tmp_path):
    from dvc_render.html import render_html

    from tasks.offline_plots import write_template

    write_template(tmp_path / "plots" / "offline.html")
    page = tmp_path / "index.html"
    render_html([render("scatter")], page, tmp_path / "plots" / "offline.html")
    text = page.read_text()
    assert len(text) > 500_000
    assert "vegaEmbed('#" in text
    assert not re.search(r"<(script|link)[^>]*(src|href)=|cdn", text)


def test_frontier_template_is_filled_and_tells_rungs_apart():
    content = render("frontier").get_filled_template()
    assert "<DVC_METRIC" not in json.dumps(content)
    assert content["data"]["values"][0]["name"] == "round_1"
    assert content["layer"][0]["encoding"]["shape"]["field"] == "standing"
