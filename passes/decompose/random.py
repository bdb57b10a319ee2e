"""dropout as a comparison with uniform numbers. Knows no target."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.ops.shapes import FLOATS
from ...ir.types import F32
from ...ir.value import Node, Value
from .rules import decomposes, scalar


@decomposes("dropout", needs=("random_uniform",))
def dropout(b: Builder, node: Node) -> tuple[Value, Value]:
    """Numbers that are not below the ratio keep their element; 8-bit floats are scaled in f32."""
    x, ratio = node.operands
    share = ratio if ratio.dtype is F32 else b.cast(ratio, to=F32)
    drawn = b.random_uniform(b.shape(x), dtype=F32, seed=node.attr("seed"), salt=node.attr("salt"))
    kept = b.greater_equal(drawn, share)
    scale = b.sub(scalar(b, 1, share), share)
    if x.dtype in FLOATS:
        scaled = b.div(x, scale if x.dtype is F32 else b.cast(scale, to=x.dtype))
    else:
        scaled = b.cast(b.div(b.cast(x, to=F32), scale), to=x.dtype)
    return b.where(kept, scaled, scalar(b, 0, x)), kept
