"""Canonical forms (the list is in ir/canonical.py): one spelling per meaning, and what does nothing goes.

Everything here is exact, bit for bit, NaN and -0.0 included. No rule may undo another; the rules stand by theme in the
modules that are named here.
"""

from __future__ import annotations

from ...ir.graph import Node
from ..manager import pattern_pass
from ..rewrite import StagingBuilder, rule
from . import algebra, bounds, broadcasts, identities, iotas, logic, reductions, reshapes, shape_arithmetic, slices


@rule("swish")
def swish_to_silu(b: StagingBuilder, node: Node):
    """swish with alpha 1 -> silu"""
    return b.silu(node.operands[0]) if node.attr("alpha") == 1.0 else None


CANONICAL = (
    *identities.RULES,
    *reshapes.RULES,
    *slices.RULES,
    *broadcasts.RULES,
    *shape_arithmetic.RULES,
    *iotas.RULES,
    *reductions.RULES,
    *algebra.RULES,
    *bounds.RULES,
    *logic.RULES,
    swish_to_silu,
)

canonicalize = pattern_pass(
    "canonicalize", CANONICAL, doc="Rewrite to the canonical forms, exactly; see ir/canonical.py."
)
