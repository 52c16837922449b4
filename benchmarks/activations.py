"""What each activation costs in LiteRT: the table of the method `activations`, measured anew.

    python -m benchmarks.activations                 # float32 and int8, as a table and as options
    python -m benchmarks.activations --write FILE    # the library's own file of it

Each is timed behind a 1 x 1 convolution of 16 channels on 64 x 64 positions, one thread, against
the same convolution alone, in ns a value more.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
from importlib.metadata import version
from pathlib import Path

from benchmarks.fashion import print_table
from secateur.activations import NAMES
from secateur.timing import activation_costs

RESOLUTION = 0.05


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # of operations without an integer form
    costs = {
        scheme: activation_costs(scheme, NAMES, arguments.runs, arguments.repeats)
        for scheme in ("float32", "int8")
    }
    order = sorted(NAMES, key=lambda name: costs["float32"][name])
    print_table(
        ["activation", "float32, ns a value", "int8, ns a value"],
        [[name, *(f"{known[name]:.2f}" for known in costs.values())] for name in order],
    )
    for scheme, known in costs.items():
        flow = ", ".join(f"{name}: {known[name]:g}" for name in order)
        print(f"\nAs options of a round:\n  {{precision: {scheme}, costs: {{{flow}}}}}")
    if arguments.write:
        content = {
            "unit": "ns a value over none",
            "resolution": RESOLUTION,
            "measured": {
                "processor": processor(),
                "architecture": platform.machine(),
                "cores": os.cpu_count(),
                "threads": 1,
                "runtime": f"ai-edge-litert {version('ai-edge-litert')}",
                "converter": f"tensorflow {version('tensorflow')}, keras {version('keras')}",
                "behind": "a 1 x 1 convolution of 16 channels on 64 x 64 positions",
                "median_of": arguments.runs,
                "least_of": arguments.repeats,
            },
            **costs,
        }
        arguments.write.write_text(json.dumps(content, indent=2) + "\n")


def processor() -> str:
    """The processor's name, where Linux tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
