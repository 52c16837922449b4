"""How every picture looks, and how a figure becomes bytes that depend on its content alone."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave

# The light theme. In the page each colour becomes a CSS variable of its name, so that dark mode
# and print restyle the pictures too: every value must therefore be unique.
COLOURS = {
    "ink": "#1d2733",
    "muted": "#5d6b7a",
    "line": "#c9d1d9",
    "original": "#a9b4bf",
    "accept": "#1b7a4b",
    "reject": "#b3401c",
    "control": "#6b4fa0",
    "second": "#1f6fb2",
    "surface": "#ffffff",
}
_STYLE = {
    "svg.hashsalt": "secateur",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "legend.frameon": False,
    "text.parse_math": False,
}
_TIP = "tip:"
_NO_VERSION: Any = {"Software": None}  # a PNG's bytes should not tell matplotlib's version


@contextmanager
def style() -> Iterator[None]:
    """Draw and save inside: matplotlib reads its style at both times."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # A feature's name may be in a script that the font lacks; its box is no reason to stop.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def tip(text: str) -> str:
    """A gid that gives an artist a tooltip in the page."""
    return _TIP + text


def png(figure: Figure) -> bytes:
    """The figure as a PNG on white."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=144, facecolor=COLOURS["surface"], metadata=_NO_VERSION
    )
    return buffer.getvalue()


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an SVG element for an HTML page, in the page's own colours and font.

    Args:
        figure: drawn in `style()`, with colours of `COLOURS`.
        name: unique in the page; it sets the ids of this figure apart from other figures'.
        description: what a reader who cannot see the picture needs to know.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}metadata"):
                parent.remove(child)
    for element in root.iter():
        _adapt(element, name)
    # With the size gone, the page's width rules and the view box keeps the proportions.
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", description)
    text = ElementTree.tostring(root, encoding="unicode")
    for role, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{role})")
    return text


def _adapt(element: ElementTree.Element, name: str) -> None:
    """Drop namespaces, which HTML does not want, and set the ids apart."""
    element.tag = element.tag.rpartition("}")[2]
    for key, value in list(element.attrib.items()):
        del element.attrib[key]
        if key == "id" and value.startswith(_TIP):
            title = ElementTree.Element("title")
            title.text = value.removeprefix(_TIP)
            element.insert(0, title)
            continue
        if key == "id":
            value = f"{name}-{value}"
        elif key.endswith("href"):
            value = value.replace("#", f"#{name}-", 1)
        else:
            value = re.sub(r"url\(#", f"url(#{name}-", value)
        element.set(key.rpartition("}")[2], value)


def strip_of_images(images: Any, low: float, high: float) -> str:
    """Grey images side by side, one pixel a value, as a data URI.

    Args:
        images: (images, height, width).
        low: the value drawn black.
        high: the value drawn white.
    """
    buffer = io.BytesIO()
    # A column of transparent pixels sets the images apart, whatever the page's background.
    grey = np.clip((np.asarray(images, np.float64) - low) / (high - low), 0, 1)
    pixels = np.repeat(grey[..., None], 4, axis=-1)
    pixels[..., 3] = 1
    pixels = np.pad(pixels, ((0, 0), (0, 0), (0, 1), (0, 0)))
    strip = np.concatenate(list(pixels), axis=1)[:, :-1]
    imsave(buffer, strip, format="png", metadata=_NO_VERSION)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
