"""Removing hidden units."""
from __future__ import annotations
from dataclasses import dataclass
from secateur.methods.base import Method
@dataclass(frozen=True)
class Units(Method):
    keep: float
    def shrink(self, model, sample): raise NotImplementedError
