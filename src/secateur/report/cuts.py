"""What became of a layer in a round, in words, from its entry in `cut.json`.

Every method has entries of its own kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Account(NamedTuple):
    """What is said of one layer."""

    what: str
    """What is counted: units, MACs, …"""
    before: int
    after: int
    how: str
    """What was done, in words; empty where the units that went are listed."""

    @property
    def kept(self) -> float:
        """The share that is left, in [0, 1]."""
        return self.after / self.before if self.before else 0.0

    @property
    def text(self) -> str:
        """In one line, without the layer's name."""
        counted = f"{self.before:,} → {self.after:,} {self.what}"
        return f"{counted}, {self.how}" if self.how else counted


def account(group: Mapping[str, Any]) -> Account:
    """What became of a layer.

    Args:
        group: one of the `groups` of a round's report.
    """
    if "how" in group:
        return Account("units", group["units_before"], group["units_after"], _left(group))
    if "rank" in group:
        return Account("MACs", group["macs_before"], group["macs_after"], _factored(group))
    if "values_before" in group:
        return Account("values", group["values_before"], group["values_after"], _shared(group))
    if "nonzeros_before" in group:
        how = "the others set to zero"
        return Account("weights", group["nonzeros_before"], group["nonzeros_after"], how)
    if "ns_before" in group:
        return Account("units", group["units_before"], group["units_after"], _swapped(group))
    how = "; ".join(
        f"{thing.replace('_', ' ')} {before} → {group[f'{thing}_after']}"
        for key, before in group.items()
        if (thing := key.removesuffix("_before")) != key
        and thing != "units"
        and group.get(f"{thing}_after", before) != before
    )
    if "folded_into" in group:
        how = f"folded into {_listed(group['folded_into'])}"
    elif group.get("turned"):
        how = "turned before, so that what left is least"
    return Account("units", group["units_before"], group["units_after"], how)


def _left(group: Mapping[str, Any]) -> str:
    told = [f"{group['how']} with {_listed(group['with'])}" if group["with"] else group["how"]]
    if group["share"]:
        told.append(f"{_listed(group['read_by'])} lost {_percent(group['share'])} of what it gave")
    told.append(f"{group['macs_before'] - group['macs_after']:,} MACs less")
    return "; ".join(told)


def _swapped(group: Mapping[str, Any]) -> str:
    return (
        f"{group['activation_before']} → {group['activation_after']}; by the table of costs "
        f"{group['ns_before']:g} → {group['ns_after']:g} ns a row; what reads it lost "
        f"{_percent(group['lost'])} of what it gave"
    )


def _factored(group: Mapping[str, Any]) -> str:
    kept = f"keeps {_percent(group['energy'])} of what it gives"
    if "narrowed" in group:
        return f"reads {group['rank']} units of {group['narrowed']}; {kept}"
    return f"rank {group['rank']} ({group['split']}); {kept}"


def _shared(group: Mapping[str, Any]) -> str:
    return f"gzip {group['gzip_bytes_before']:,} → {group['gzip_bytes_after']:,} bytes"


def _percent(share: float) -> str:
    """In percent; not rounded to all where something is missing."""
    digits = 3 if share < 0.99 else 4 if share < 0.999 else 5
    return f"{100 * share:.{digits}g}%"


def _listed(names: Any) -> str:
    return ", ".join(names)
