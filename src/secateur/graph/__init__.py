"""Dependency groups of any built functional or Sequential model, and cutting them."""

from secateur.graph.describe import describe
from secateur.graph.footprint import Footprint
from secateur.graph.groups import Group, KeptUnits, Slice, dependency_groups
from secateur.graph.reading import inputs_at
from secateur.graph.rebuild import keep_units

__all__ = [
    "Footprint",
    "Group",
    "KeptUnits",
    "Slice",
    "dependency_groups",
    "describe",
    "inputs_at",
    "keep_units",
]
