"""Secateur shrinks Keras autoencoders and proves that quality held.

The names below are the library; each is loaded when it is first used, so that importing the
package starts no TensorFlow.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.costs import Costs, costs
    from secateur.errors import InputError
    from secateur.graph import describe
    from secateur.guard import Verdict, judge
    from secateur.ladder import Ladder, Rung, compress
    from secateur.methods import METHODS
    from secateur.methods.base import RoundReport
    from secateur.recovery import History, recover
    from secateur.saving import load, save
    from secateur.shrinking import shrink

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Costs",
    "History",
    "InputError",
    "Ladder",
    "RoundReport",
    "Rung",
    "Scorer",
    "Verdict",
    "compress",
    "costs",
    "describe",
    "judge",
    "load",
    "recover",
    "save",
    "shrink",
]

_HOMES = {
    "METHODS": "methods",
    "Costs": "costs",
    "History": "recovery",
    "InputError": "errors",
    "Ladder": "ladder",
    "RoundReport": "methods.base",
    "Rung": "ladder",
    "Scorer": "scoring",
    "Verdict": "guard",
    "compress": "ladder",
    "costs": "costs",
    "describe": "graph",
    "judge": "guard",
    "load": "saving",
    "recover": "recovery",
    "save": "saving",
    "shrink": "shrinking",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


class _Package(types.ModuleType):
    """Where a submodule has the name of what it holds, such as `costs`, it must not hide it.

    Python makes every imported submodule an attribute of its package, whoever imports it.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, types.ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted(__all__)
