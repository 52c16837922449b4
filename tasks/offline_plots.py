"""Lets `dvc plots show` and `diff` draw without a network: `python -m tasks.offline_plots`.

DVC's page loads Vega from the web. This writes DVC's page with Vega inside, and names it in this
clone's own configuration, so that a clone where it never ran keeps DVC's default.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from dvc_render.html import HTML, PAGE_HTML  # type: ignore[import-untyped]

TEMPLATE = Path(".dvc/plots/offline.html")
# Vega, Vega-Lite and Vega-Embed as their authors build them, in one file. They come in a package
# named for Django, which needs none.
_VEGA = files("js_lib_vega_embed") / "static" / "js_lib_vega_embed" / "vega-embed-full.js"


def write_template(path: Path) -> None:
    """Write DVC's page with Vega in place of the links to it; DVC fills in the plots."""
    script = _VEGA.read_text(encoding="utf-8")
    page = PAGE_HTML.replace(
        f"{{{HTML.SCRIPTS_PLACEHOLDER}}}", f'<meta charset="utf-8">\n<script>{script}</script>'
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def main() -> None:
    """Write the template and make this clone use it."""
    write_template(TEMPLATE)
    # Relative to .dvc, so that the clone may be moved.
    name = str(TEMPLATE.relative_to(".dvc"))
    dvc = [sys.executable, "-m", "dvc", "config", "--quiet", "--local"]
    subprocess.run([*dvc, "plots.html_template", name], check=True)


if __name__ == "__main__":
    main()
