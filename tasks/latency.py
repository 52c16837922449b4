"""Stage `latency`: time every exported rung on this machine."""

from __future__ import annotations

import logging
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from secateur import paths
from secateur.latency import Latency, measure_latency
from secateur.settings import load_settings
from tasks.command import main

logger = logging.getLogger(__name__)


def run() -> None:
    """Time each rung's LiteRT files, one row a call on one thread."""
    settings = load_settings()
    runs, warm_up = settings.latency.runs, settings.latency.warm_up
    rungs: dict[str, dict[str, Latency]] = {}
    for rung in settings.rungs:
        files = sorted((paths.EXPORTS / rung).glob("*.tflite"))
        rungs[rung] = {file.stem: measure_latency(file, runs, warm_up) for file in files}
        medians = [f"{scheme} {found.median_us:.1f} µs" for scheme, found in rungs[rung].items()]
        logger.info("%s: %s (median of %d)", rung, ", ".join(medians), runs)
    with paths.publishing(paths.REPORTS) as folder:
        paths.write_json(
            folder / paths.LATENCY.name,
            {
                "runtime": f"ai-edge-litert {version('ai-edge-litert')}",
                "threads": 1,
                "runs": runs,
                "warm_up": warm_up,
                "machine": _machine(),
                "rungs": {
                    rung: {kind: asdict(latency) for kind, latency in kinds.items()}
                    for rung, kinds in rungs.items()
                },
            },
        )


def _machine() -> dict[str, str | int | None]:
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    """The processor's name; Linux tells it in a file alone."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


if __name__ == "__main__":
    main(run)
