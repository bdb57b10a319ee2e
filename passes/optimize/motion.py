"""`move-data`: what only moves elements is merged, cancelled and moved to where it meets its like.

The rules stand by theme in motion_parts, motion_index, motion_reshape, motion_alike and motion_products. None leaves more
nodes than it found, none moves more bytes, and each looks at a bounded number of neighbours.
"""

from __future__ import annotations

from ..manager import pattern_pass
from . import motion_alike, motion_index, motion_parts, motion_products, motion_reshape

move_data = pattern_pass(
    "move-data",
    (
        *motion_parts.RULES,
        *motion_index.RULES,
        *motion_reshape.RULES,
        *motion_alike.RULES,
        *motion_products.RULES,
    ),
    doc="Merge, cancel and move slices, splits, concats, gathers, pads, expands, reshapes and transposes.",
)
