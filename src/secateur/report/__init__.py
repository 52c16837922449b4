"""The page and the pictures that people look at: what was shrunk, what it cost, what it gained.

Everything here takes plain values, as `evaluate` and `latency` write them, and returns text, bytes
or a table. Reading and writing files is the caller's.
"""

from __future__ import annotations

from secateur.report.page import build_page
from secateur.report.plots import frontier_picture, reconstructions_picture
from secateur.report.table import frontier_table

__all__ = ["build_page", "frontier_picture", "frontier_table", "reconstructions_picture"]
