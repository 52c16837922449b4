"""The pictures: the frontier, and originals beside reconstructions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from secateur.report import drawing
from secateur.report.drawing import COLOURS
from secateur.report.formats import count, short, significant, tolerance
from secateur.report.rows import (
    PCA,
    PRECISIONS,
    ROUND,
    SCRATCH,
    Rows,
    baseline_of,
    champion_of,
    controls_of,
    guarded_of,
    largest_mse,
    latency_of,
    standing,
)

SHOWN_FEATURES = 512  # more than this many points on a line cannot be told apart
SHOWN_LINES = 6
_NAMED_FEATURES = 24


@dataclasses.dataclass(frozen=True)
class Mark:
    """How a standing is drawn: told apart by shape and filling, not by colour alone."""

    label: str
    shape: str
    colour: str
    area: float
    hollow: bool = False


MARKS = {
    "champion": Mark("champion", "*", COLOURS["accept"], 260),
    "baseline": Mark("baseline", "s", COLOURS["ink"], 60),
    "accepted": Mark("accepted", "o", COLOURS["accept"], 60),
    "rejected": Mark("rejected", "X", COLOURS["reject"], 80),
    # Larger, so that it rings the parent that it repeats.
    "passed_through": Mark("passed through", "o", COLOURS["muted"], 190, hollow=True),
    SCRATCH: Mark("same shape from scratch", "^", COLOURS["control"], 60, hollow=True),
    PCA: Mark("PCA, same code size", "D", COLOURS["control"], 50, hollow=True),
}


@dataclasses.dataclass(frozen=True)
class _Point:
    x: float
    y: float
    mark: str
    name: str
    tip: str


def frontier_figures(
    rungs: Rows, latency: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Figure]:
    """Quality against parameters, and against latency where something was timed.

    Args:
        rungs: the rows of `rungs.json`.
        latency: the content of `latency.json`.
        settings: the run's settings as plain values.
    """
    figures = {"parameters": Figure((6.4, 4.6), layout="constrained")}
    _draw_parameters(figures["parameters"], rungs, settings)
    if any(latency["rungs"].values()):
        figures["latency"] = Figure((6.4, 4.6), layout="constrained")
        _draw_latency(figures["latency"], rungs, latency, settings)
    return figures


def frontier_picture(rungs: Rows, latency: Mapping[str, Any], settings: Mapping[str, Any]) -> bytes:
    """The frontier as a PNG, both views side by side; arguments as `frontier_figures`."""
    with drawing.style():
        timed = any(latency["rungs"].values())
        figure = Figure((12.8 if timed else 6.4, 4.6), layout="constrained")
        if timed:
            halves: Any = figure.subfigures(1, 2)
            left, right = halves
            _draw_parameters(left, rungs, settings)
            _draw_latency(right, rungs, latency, settings)
        else:
            _draw_parameters(figure, rungs, settings)
        return drawing.png(figure)


def _draw_parameters(figure: Any, rungs: Rows, settings: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    ladder = [row for row in rungs if row["kind"] in ("baseline", ROUND)]
    controls = controls_of(rungs, SCRATCH) + controls_of(rungs, PCA)
    drawn = [row for row in [*ladder, *controls] if row["parameters"]]
    points = [
        _Point(
            row["parameters"],
            row["test_mse"],
            standing(row),
            row["name"] if row in ladder else "",  # a control is told by its mark
            f"{row['name']}: {count(row['parameters'])} parameters, "
            f"test MSE {significant(row['test_mse'])}, {MARKS[standing(row)].label}",
        )
        for row in drawn
    ]
    champion = champion_of(rungs)
    points.append(
        _Point(
            champion["parameters"],
            champion["test_mse"],
            "champion",
            champion["name"],
            f"{champion['name']}: the champion",
        )
    )
    _scale(axes.xaxis, [point.x for point in points])
    _scale(axes.yaxis, [point.y for point in points])
    place = {row["name"]: (row["parameters"], row["test_mse"]) for row in ladder}
    _draw_ladder(axes, place, rungs, settings, "-", COLOURS["muted"])
    for row in controls:
        if row["of"] in place and row["kind"] == SCRATCH:
            ends = np.array([place[row["of"]], (row["parameters"], row["test_mse"])])
            axes.plot(*ends.T, ":", color=COLOURS["control"], linewidth=1, zorder=1)
    _draw_limit(axes, rungs)
    _draw_points(axes, points)
    axes.set_xlabel("Parameters")
    axes.set_ylabel("Test MSE, scaled data")
    _draw_legend(figure, [point.mark for point in points], _limit_handles(rungs))
    _name_points(figure, axes, points)


def _draw_latency(
    figure: Any, rungs: Rows, latency: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    axes = figure.add_subplot()
    champion = champion_of(rungs)["name"]
    looks = {"int8": ("-", COLOURS["muted"]), "float32": ("--", COLOURS["second"])}
    lines: list[tuple[dict[str, tuple[float, float]], str, str]] = []
    points, bars = [], []
    for precision in PRECISIONS:
        place: dict[str, tuple[float, float]] = {}
        for row in rungs:
            quartiles = latency_of(latency, row["name"], precision)
            if not quartiles or not row[precision]:
                continue
            here = (quartiles["median_us"], row[precision]["test_mse"])
            place[row["name"]] = here
            bars.append((here, quartiles))
            text = (
                f"{row['name']}, {precision}: {significant(here[0])} µs, "
                f"test MSE {significant(here[1])}"
            )
            # One name a rung is enough: beside its first file, the int8 one where there is one.
            name = "" if any(row["name"] in place for place, *_ in lines) else row["name"]
            points.append(_Point(*here, standing(row), name, text))
            if row["name"] == champion:
                points.append(_Point(*here, "champion", name, text))
        lines.append((place, *looks[precision]))
    if points:
        _scale(axes.xaxis, [point.x for point in points])
        _scale(axes.yaxis, [point.y for point in points])
    for place, dashes, colour in lines:
        _draw_ladder(axes, place, rungs, settings, dashes, colour)
    for (x, y), quartiles in bars:
        spread = [[max(x - quartiles["q1_us"], 0)], [max(quartiles["q3_us"] - x, 0)]]
        axes.errorbar(x, y, xerr=spread, fmt="none", ecolor=COLOURS["ink"], capsize=3, zorder=2)
    _draw_limit(axes, rungs)
    _draw_points(axes, points)
    axes.set_xlabel("Median latency of one row in µs; bars: quartiles")
    axes.set_ylabel("Test MSE of the exported file")
    handles = [
        Line2D([], [], linestyle=dashes, color=colour, label=f"{precision} file")
        for precision, (dashes, colour) in looks.items()
        if any(point.tip.split(":")[0].endswith(precision) for point in points)
    ]
    _draw_legend(figure, [point.mark for point in points], handles + _limit_handles(rungs))
    _name_points(figure, axes, points)


def _draw_ladder(
    axes: Any,
    place: Mapping[str, tuple[float, float]],
    rungs: Rows,
    settings: Mapping[str, Any],
    dashes: str,
    colour: str,
) -> None:
    """A line to each round from what it was cut from, which is not its parent if that failed."""
    origins = {row["name"]: row["of"] for row in rungs}
    for name, chosen in settings["rounds"].items():
        origin = origins.get(name) or chosen["parent"]
        if name in place and origin in place:
            ends = np.array([place[origin], place[name]])
            axes.plot(*ends.T, dashes, color=colour, linewidth=1.2, zorder=1)


def _draw_limit(axes: Any, rungs: Rows) -> None:
    limit = largest_mse(rungs)
    if limit is not None:
        reference = baseline_of(rungs)["test_mse"]
        axes.axhspan(reference, limit, color=COLOURS["accept"], alpha=0.12, linewidth=0, zorder=0)


def _limit_handles(rungs: Rows) -> list[Any]:
    mse = guarded_of(rungs).get("mse")
    if mse is None:
        return []
    label = f"up to {tolerance(mse)} above the baseline"
    return [Patch(facecolor=COLOURS["accept"], alpha=0.12, label=label)]


def _draw_points(axes: Any, points: Sequence[_Point]) -> None:
    for point in points:
        mark = MARKS[point.mark]
        axes.scatter(
            [point.x],
            [point.y],
            s=mark.area,
            marker=mark.shape,
            facecolors="none" if mark.hollow else mark.colour,
            edgecolors=mark.colour if mark.hollow else COLOURS["surface"],
            linewidths=1.6 if mark.hollow else 0.8,
            zorder=5 if point.mark == "champion" else 4,
            gid=drawing.tip(point.tip),
        )


def _draw_legend(figure: Any, used: Sequence[str], others: Sequence[Any]) -> None:
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=mark.shape,
            markersize=min(mark.area, 150) ** 0.5,
            markerfacecolor="none" if mark.hollow else mark.colour,
            markeredgecolor=mark.colour,
            label=mark.label,
        )
        for name, mark in MARKS.items()
        if name in used
    ]
    # Three columns leave room for a page's font that runs wider than the one measured here.
    figure.legend(
        handles=[*handles, *others], loc="outside lower center", ncols=3, fontsize=9,
        columnspacing=2.2,
    )  # fmt: skip


def _scale(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic axis where the values span more than a factor of three, and plain labels."""
    spread = max(values) / min(values) if min(values) > 0 else 1
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(float(f"{value:.6g}"))))
    axes = axis.axes
    set_scale, set_limits = (
        (axes.set_xscale, axes.set_xlim)
        if axis.axis_name == "x"
        else (axes.set_yscale, axes.set_ylim)
    )
    if spread <= 3:
        room = (max(values) - min(values)) * 0.18 or max(values) * 0.1 or 1
        set_limits(max(min(values) - room, 0), max(values) + room)
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        return
    set_scale("log")
    set_limits(min(values) / spread**0.15, max(values) * spread**0.15)
    steps = (1, 1.5, 2, 3, 5, 7) if spread < 8 else (1, 2, 5) if spread < 200 else (1,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(float(f"{value:.6g}"))))


def _name_points(figure: Any, axes: Any, points: Sequence[_Point]) -> None:
    """Names beside points, where there is room: the tables name every one.

    Rungs that lie on one spot share a label. The champion and the baseline are named first.
    """
    spots: dict[tuple[float, float], list[str]] = {}
    order = {"champion": 0, "baseline": 1}
    for point in sorted(points, key=lambda point: order.get(point.mark, 2)):
        names = spots.setdefault((point.x, point.y), [])
        if point.name and point.name not in names:
            names.append(point.name)
    figure.figure.draw_without_rendering()
    taken = [_around(axes.transData.transform((point.x, point.y)), 9) for point in points]
    frame = axes.get_window_extent()
    for (x, y), names in spots.items():
        if not names:
            continue
        text = ", ".join(names) if len(names) < 3 else f"{names[0]} … {names[-1]}"
        for offset, sides in _PLACES:
            label = axes.annotate(
                text, (x, y), offset, textcoords="offset points", fontsize=9, zorder=3,
                bbox=_VEIL, **sides,
            )  # fmt: skip
            label.set_in_layout(False)  # or the axes would move away under the places found
            box = label.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 + 6
            if inside and frame.y0 <= box.y0 and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


# Behind a name, so that the lines it crosses do not strike it through.
_VEIL = {"facecolor": COLOURS["surface"], "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
_PLACES: tuple[tuple[tuple[int, int], dict[str, str]], ...] = (
    ((0, 10), {"ha": "center", "va": "bottom"}),
    ((0, -10), {"ha": "center", "va": "top"}),
    ((11, 0), {"ha": "left", "va": "center"}),
    ((-11, 0), {"ha": "right", "va": "center"}),
    ((9, 8), {"ha": "left", "va": "bottom"}),
    ((-9, 8), {"ha": "right", "va": "bottom"}),
    ((9, -8), {"ha": "left", "va": "top"}),
    ((-9, -8), {"ha": "right", "va": "top"}),
)


def _around(centre: Any, half: float) -> Bbox:
    return Bbox([(centre[0] - half, centre[1] - half), (centre[0] + half, centre[1] + half)])


def reconstruction_figure(reconstructions: Any, names: Sequence[str] | None) -> Figure:
    """Rows as lines over their features: the original, the baseline's, the champion's.

    Args:
        reconstructions: (3, rows, features) originals, baseline's, champion's.
        names: the features' names, if they have any.
    """
    shown = np.asarray(reconstructions)[:, :SHOWN_LINES, :SHOWN_FEATURES]
    rows, features = shown.shape[1:]
    columns = min(rows, 2)
    lines = -(-rows // columns)
    named = names is not None and features <= _NAMED_FEATURES
    figure = Figure((12.8, 2.1 * lines + (1.3 if named else 0.7)), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    where = np.arange(features)
    dots = "." if features <= _NAMED_FEATURES else ""
    for index, axes in enumerate(grid.flat):
        if index >= rows:
            axes.remove()
            continue
        original, baseline, champion = shown[:, index]
        axes.plot(where, original, color=COLOURS["original"], linewidth=5, label="original")
        axes.plot(
            where, baseline, "--", color=COLOURS["second"], linewidth=1.3, marker=dots,
            label="baseline",
        )  # fmt: skip
        axes.plot(
            where, champion, color=COLOURS["accept"], linewidth=1.3, marker=dots, label="champion"
        )
        axes.set_title(f"test row {index}", loc="left", fontsize=9, color=COLOURS["muted"])
        if named:
            axes.set_xticks(
                where, [_shorten(name) for name in names or ()], rotation=45, ha="right", fontsize=8
            )
        else:
            axes.xaxis.set_major_locator(
                FixedLocator(where.tolist()) if features <= 6 else MaxNLocator(8, integer=True)
            )
    figure.supylabel("scaled value", fontsize=9)
    if not named:
        figure.supxlabel("feature", fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=9)
    return figure


def reconstructions_picture(reconstructions: Any, schema: Mapping[str, Any]) -> bytes:
    """Originals beside the baseline's and the champion's reconstructions, as a PNG.

    Args:
        reconstructions: (3, rows, features).
        schema: the data's schema; with an `image_shape` the rows are drawn as images.
    """
    with drawing.style():
        if not schema["image_shape"]:
            return drawing.png(reconstruction_figure(reconstructions, schema["feature_names"]))
        images = grey_images(reconstructions, schema)
        low, high = grey_range(schema)
        figure = Figure((0.75 * images.shape[1] + 1.2, 2.6), layout="constrained")
        grid = figure.subplots(3, images.shape[1], squeeze=False)
        for row, name in enumerate(("original", "baseline", "champion")):
            for axes, image in zip(grid[row], images[row], strict=True):
                axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            grid[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        return drawing.png(figure)


def grey_images(reconstructions: Any, schema: Mapping[str, Any]) -> np.ndarray:
    """(3, rows, features) as (3, rows, height, width) float64: the mean of all channels."""
    height, width, *_ = schema["image_shape"]
    values = np.asarray(reconstructions, np.float64)
    return values.reshape(*values.shape[:2], height, width, -1).mean(axis=-1)


def grey_range(schema: Mapping[str, Any]) -> tuple[float, float]:
    """The values drawn black and white: the range of the scaled training data."""
    low, high = schema["scaled_range"]
    return (low, high) if high > low else (low, low + 1)


def _shorten(name: str, limit: int = 18) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
