"""Pixel shuffle and its inverse, written as a transpose between two reshapes, become depth_to_space and space_to_depth. Exact:
elements only move."""

from __future__ import annotations

from ...ir.dims import Dim, dim_eq
from ...ir.graph import Node
from ..manager import pattern_pass
from ..optimize.common import same_dims
from ..rewrite import StagingBuilder, rule
from .terms import own

#: What the transpose does to [N, b, b, C, H, W] or [N, C, b, b, H, W]: where n, the two blocks, c, h and w stand, and the mode.
_SPREAD = {
    (0, 3, 4, 1, 5, 2): ((0, 1, 2, 3, 4, 5), "DCR"),
    (0, 1, 4, 2, 5, 3): ((0, 2, 3, 1, 4, 5), "CRD"),
}
#: The same for [N, C, H, b, W, b].
_GATHERED = {(0, 3, 5, 1, 2, 4): "DCR", (0, 1, 3, 5, 2, 4): "CRD"}


def _equal(pairs: list[tuple[Dim, Dim]]) -> bool:
    return all(dim_eq(a, b) is True for a, b in pairs)


@rule("reshape")
def fuse_pixel_shuffle(b: StagingBuilder, node: Node):
    """reshape(transpose(reshape(x))) that moves channels into the picture, or back -> depth_to_space(x), space_to_depth(x)"""
    turned = own(node.operands[0], "transpose")
    cut = None if turned is None else own(turned.operands[0], "reshape")
    if cut is None or cut.result.rank != 6 or cut.operands[0].rank != 4 or node.result.rank != 4:
        return None
    x, shape, perm = cut.operands[0], cut.result.shape, turned.attr("perm")  # type: ignore[union-attr]
    n, c, h, w = x.shape  # type: ignore[misc]
    made = None
    if perm in _SPREAD:
        places, mode = _SPREAD[perm]
        batch, block, other, depth, high, wide = (shape[p] for p in places)  # type: ignore[index]
        pairs = [(other, block), (depth * block * block, c), (batch, n), (high, h), (wide, w)]
        if type(block) is int and block > 1 and type(depth) is int and _equal(pairs):
            made = b.depth_to_space(x, blocksize=block, mode=mode)
    elif perm in _GATHERED:
        batch, depth, high, block, wide, other = shape  # type: ignore[misc]
        if (
            type(block) is int
            and block > 1
            and _equal([(other, block), (depth, c), (batch, n), (high * block, h), (wide * block, w)])
        ):
            made = b.space_to_depth(x, blocksize=block, mode=_GATHERED[perm])
    if made is None or not same_dims(made.shape, node.result.shape):
        return b.decline("the blocks are not surely those of a picture")
    return made


fuse_shuffle = pattern_pass(
    "fuse-shuffle", [fuse_pixel_shuffle], doc="Pixel shuffle and its inverse that were written out become one op."
)
