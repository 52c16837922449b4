"""Numbers as a person wants to read them; a missing one is a dash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MISSING = "–"
_KILOBYTE = 1000


def significant(value: float | None, digits: int = 3) -> str:
    """Three digits that matter: 0.00875, 1.04, 20.1, 1,234, 4.2e-6."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    text = f"{value:#.{digits}g}"
    if "e" not in text:
        return text.removesuffix(".")
    mantissa, exponent = text.split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def count(value: float | None) -> str:
    """A whole number with its thousands set apart."""
    return MISSING if value is None else f"{value:,.0f}"


def amount(value: float) -> str:
    """A whole number as it is, another with the digits that matter."""
    return count(value) if value == round(value) else significant(value)


def times(value: float | None) -> str:
    """A ratio: 1.04×, 12.3×."""
    return MISSING if value is None else f"{significant(value)}×"


def kilobytes(size_bytes: float | None) -> str:
    """Bytes in KB of 1,000 bytes."""
    return MISSING if size_bytes is None else significant(size_bytes / _KILOBYTE)


def percent(fraction: float | None) -> str:
    """A change with its sign: +8.1%, −3%."""
    if fraction is None:
        return MISSING
    value = 100 * fraction
    digits = 0 if abs(value) >= 10 or value == round(value) else 1
    return f"{value:+,.{digits}f}%".replace("-", "\N{MINUS SIGN}")


_METRICS = {
    "mse": "MSE",
    "p99_error": "p99 error",
    "auc": "AUC",
    "partial_auc": "partial AUC",
    "spearman": "rank agreement",
    "decisions": "agreement of decisions",
}


def metric(name: str) -> str:
    """A guarded metric as people write it."""
    return _METRICS.get(name, name)


def loss(value: float, finding: Mapping[str, Any]) -> str:
    """A loss that the guard found, in its tolerance's measure: +8.1%, −0.0021."""
    if finding["relative"]:
        return percent(value)
    return ("+" if value >= 0 else "\N{MINUS SIGN}") + significant(abs(value))


def tolerance(finding: Mapping[str, Any]) -> str:
    """The largest loss that the guard accepts: 10%, 0.01."""
    return loss(finding["tolerance"], finding).lstrip("+")


def short(value: float) -> str:
    """A label on an axis: 0.01, 2, 15k, 1.2M."""
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"
