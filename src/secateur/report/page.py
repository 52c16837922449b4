"""The page: one HTML file that needs nothing else, neither network nor script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from secateur.report import drawing, formats, plots
from secateur.report.cuts import account
from secateur.report.heat import heat
from secateur.report.remarks import remarks, speed_ratio, verdict
from secateur.report.rows import (
    Rows,
    baseline_of,
    champion_of,
    controls_of,
    files_of,
    guarded_of,
    is_judged,
    latency_of,
    rounds_of,
    shown_file,
    standing,
    validation_rise,
)

# The shape beside a standing's word; the same shapes as in the pictures.
_SYMBOLS = {
    "baseline": "■",
    "accepted": "●",
    "rejected": "✕",
    "passed_through": "○",
    "scratch": "△",
    "pca": "◇",
}
_WORDS = {"scratch": "control", "pca": "control"}  # their names say the rest


def build_page(
    rungs: Rows,
    cuts: Mapping[str, Any],
    schema: Mapping[str, Any],
    context: Mapping[str, Any],
    latency: Mapping[str, Any],
    reconstructions: np.ndarray,
    sensitivity: Rows = (),
) -> str:
    """The report as one self-contained HTML page; equal arguments give equal text.

    Args:
        rungs: the rows of `rungs.json`, one a rung or control.
        cuts: what each rung cut, by name: the content of its `cut.json`.
        schema: the data's schema; an `image_shape` makes reconstructions images.
        context: seeds, versions and settings of the run.
        latency: the content of `latency.json`, in microseconds.
        reconstructions: (3, rows, features) originals, the baseline's, the champion's.
        sensitivity: the rows of `sensitivity.json`, one a layer and share of its units.
    """
    settings = context["settings"]
    with drawing.style():
        frontier = {
            name: drawing.inline_svg(figure, f"frontier-{name}", _describe_frontier(name, rungs))
            for name, figure in plots.frontier_figures(rungs, latency, settings).items()
        }
        rows = _reconstruction_lines(reconstructions, schema)
    return _template().render(
        rungs=rungs,
        baseline=baseline_of(rungs),
        champion=champion_of(rungs),
        rounds=rounds_of(rungs),
        scratch=controls_of(rungs, "scratch"),
        guarded=guarded_of(rungs),
        has_auc=any(row["auc"] is not None for row in rungs),
        cuts=cuts,
        schema=schema,
        context=context,
        settings=settings,
        settings_text=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        latency=latency,
        verdict=verdict(rungs, latency),
        remarks=remarks(rungs, cuts, settings, latency),
        speed=speed_ratio(rungs, latency),
        frontier={name: Markup(svg) for name, svg in frontier.items()},
        lines=Markup(rows) if rows else None,
        images=_reconstruction_images(reconstructions, schema),
        worst=float(abs(reconstructions[1:] - reconstructions[0]).max()),
        sensitivity=heat(sensitivity),
        shown_rows=reconstructions.shape[1],
        shown_features=min(plots.SHOWN_FEATURES, schema["features"]),
    )


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("secateur.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "significant": formats.significant,
        "count": formats.count,
        "amount": formats.amount,
        "times": formats.times,
        "kilobytes": formats.kilobytes,
        "percent": formats.percent,
        "loss": formats.loss,
        "metric": formats.metric,
        "tolerance": formats.tolerance,
        "standing": standing,
        "account": account,
        "symbol": lambda name: _SYMBOLS[name],
        "word": lambda name: _WORDS.get(name, plots.MARKS[name].label),
        "plain": _plain,
    }
    environment.globals |= {
        "files_of": files_of,
        "is_judged": is_judged,
        "latency_of": latency_of,
        "shown_file": shown_file,
        "validation_rise": validation_rise,
    }
    return environment.get_template("page.html")


def _plain(value: Any) -> str:
    """A setting as a person writes it: lists with commas, options as `keep 0.7`, none unset."""
    if isinstance(value, Mapping):
        pairs = (
            f"{key.replace('_', ' ')} {_plain(item)}"
            for key, item in value.items()
            if item is not None
        )
        return ", ".join(pairs) or formats.MISSING
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or formats.MISSING
    if value is None:
        return formats.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _describe_frontier(name: str, rungs: Rows) -> str:
    champion, baseline = champion_of(rungs), baseline_of(rungs)
    return (
        f"Test MSE against {name} of every rung. Champion: {champion['name']} with "
        f"{formats.significant(champion['test_mse'])} at {formats.count(champion['parameters'])} "
        f"parameters; baseline: {formats.significant(baseline['test_mse'])} at "
        f"{formats.count(baseline['parameters'])}. The tables below hold all numbers."
    )


def _reconstruction_lines(reconstructions: np.ndarray, schema: Mapping[str, Any]) -> str | None:
    if schema["image_shape"]:
        return None
    figure = plots.reconstruction_figure(reconstructions, schema["feature_names"])
    description = "Test rows as lines over their features: original, baseline and champion."
    return drawing.inline_svg(figure, "reconstructions", description)


def _reconstruction_images(
    reconstructions: np.ndarray, schema: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Strips of images with their labels; the last two show how far each value is off."""
    if not schema["image_shape"]:
        return []
    original, baseline, champion = plots.grey_images(reconstructions, schema)
    low, high = plots.grey_range(schema)
    off = abs(np.stack([baseline, champion]) - original)
    worst = float(off.max()) or 1.0
    strips = [
        ("Original", "test rows as they are", original, low, high),
        ("Baseline", "the same rows from the baseline", baseline, low, high),
        ("Champion", "the same rows from the champion", champion, low, high),
        ("Baseline off by", "the baseline's absolute error", off[0], 0, worst),
        ("Champion off by", "the champion's absolute error", off[1], 0, worst),
    ]
    return [
        {"label": label, "alt": alt, "uri": drawing.strip_of_images(strip, black, white)}
        for label, alt, strip, black, white in strips
    ]
