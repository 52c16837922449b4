"""Dependency groups of any built functional or Sequential model, and cutting them."""

from secateur.graph.code import with_code
from secateur.graph.columns import crossed_biases, crossed_widths, is_crossed
from secateur.graph.describe import describe
from secateur.graph.folding import fold_norms, foldable_norms
from secateur.graph.footprint import Footprint
from secateur.graph.groups import Group, KeptUnits, Slice, dependency_groups
from secateur.graph.reading import calls_noted, inputs_at, numbers_made
from secateur.graph.rebuild import keep_units, replace_layers, unit_keeper
from secateur.graph.walk import layer_at

__all__ = [
    "Footprint",
    "Group",
    "KeptUnits",
    "Slice",
    "calls_noted",
    "crossed_biases",
    "crossed_widths",
    "dependency_groups",
    "describe",
    "fold_norms",
    "foldable_norms",
    "inputs_at",
    "is_crossed",
    "keep_units",
    "layer_at",
    "numbers_made",
    "replace_layers",
    "unit_keeper",
    "with_code",
]
