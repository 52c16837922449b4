"""A model's dependency groups as a table that people read."""

from __future__ import annotations

import keras
from rich.table import Table

from secateur.graph.footprint import Footprint
from secateur.graph.groups import Group, dependency_groups


def describe(model: keras.Model, cut_code: bool = False) -> Table:
    """A table of a model's dependency groups: what can be cut, and why the rest cannot.

    Parameters and MACs are what leaves with one unit while all else stays. Print it with
    `rich.print`.

    Args:
        model: a built functional or Sequential model, which may hold others.
        cut_code: whether the bottleneck may be cut too.

    Raises:
        InputError: the model has no graph that could be read.
    """
    whole = Footprint(model)
    table = Table(
        title=f"{model.name}: {whole.parameters({}):,} parameters, {whole.macs({}):,} MACs",
        caption="Parameters and MACs leave with one unit.",
    )
    table.add_column("Group")
    table.add_column("Together with")
    for heading in ("Units", "Parameters", "MACs"):
        table.add_column(heading, justify="right")
    table.add_column("Prunable")
    for group in dependency_groups(model, cut_code):
        table.add_row(
            group.name,
            ", ".join(_others(group)),
            f"{group.units:,}",
            f"{group.unit_parameters:,}",
            f"{group.unit_macs:,}",
            f"no: {group.frozen}" if group.frozen else "yes",
        )
    return table


def _others(group: Group) -> list[str]:
    """The layers that make the same units."""
    paths = dict.fromkeys(one.path for one in group.producers)
    return [path for path in paths if path != group.name.partition(":")[0]]
