"""`move-data`: what only moves elements is merged, cancelled and moved to where it meets its like.

The rules stand by theme in the files beside. None leaves more
nodes than it found, none moves more bytes, and each looks at a bounded number of neighbours.
"""

from __future__ import annotations

from ..manager import pattern_pass
from . import alike, index, parts, products, reshape, rows, tables

move_data = pattern_pass(
    "move-data",
    (
        *parts.RULES,
        *index.RULES,
        *reshape.RULES,
        *alike.RULES,
        *products.RULES,
        *rows.RULES,
        *tables.RULES,
    ),
    doc="Merge, cancel and move slices, splits, concats, gathers, pads, expands, reshapes and transposes.",
)
