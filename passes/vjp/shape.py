"""Derivatives of what moves elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.builder import Builder
from ...ir.errors import Unsupported
from ...ir.graph import Node, Value
from ...ir.ops.shapes import UNBOUNDED, slice_positions
from ...ir.storage import check_limit
from .table import Handed, adjoint, like_operand, rank_of, source, summed_to, vjp, zeros_like


@vjp("reshape", "flatten", "squeeze", "unsqueeze")
def _reshape(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [like_operand(b, adjoint(g), source(node))]


@vjp("transpose")
def _transpose(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    perm = node.attr("perm") or tuple(reversed(range(rank_of(source(node), node))))
    return [b.transpose(adjoint(g), perm=tuple(int(i) for i in np.argsort(perm)))]


@vjp("expand")
def _expand(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [summed_to(b, adjoint(g), source(node), node)]


@vjp("concat")
def _concat(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    axis, parts = node.attr("axis"), list(node.inputs())
    sizes = [v.shape[axis] if v.shape is not None else None for v in parts]
    if not all(isinstance(size, int) for size in sizes):
        raise Unsupported("the derivative of concat needs known sizes")
    ends = np.cumsum(sizes).tolist()
    return [b.slice(adjoint(g), (end - size,), (end,), (axis,)) for end, size in zip(ends, sizes, strict=True)]


@vjp("slice")
def _slice(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """The adjoint put back where it was taken, zeros elsewhere: along each axis by the positions that were taken."""
    x, made = source(node), adjoint(g)
    starts, ends, axes, steps = (v.ints() if v is not None else None for v in (*node.operands[1:], None, None)[:4])
    if starts is None or ends is None or x.shape is None:
        raise Unsupported("the derivative of slice needs known bounds")
    axes = axes if axes is not None else tuple(range(len(starts)))
    steps = steps if steps is not None else (1,) * len(starts)
    for axis, *bounds in zip(axes, starts, ends, steps, strict=True):
        size = x.shape[axis]
        if not isinstance(size, int):
            raise Unsupported("the derivative of slice along an axis of unknown size")
        check_limit("fold_bytes", 8 * size, "bytes of a table in a derivative")
        positions = np.asarray(slice_positions(size, *bounds), np.int64)
        back = np.full(size, len(positions), np.int64)
        back[positions] = np.arange(len(positions))
        pads = [0] * (2 * len(x.shape))
        pads[len(x.shape) + axis % len(x.shape)] = 1
        made = b.gather(b.pad(made, tuple(pads)), b.const(back), axis=axis)
    return [made]


@vjp("split")
def _split(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    parts = [zeros_like(b, v) if given is None else given for v, given in zip(node.results, g, strict=True)]
    return [b.concat(*parts, axis=node.attr("axis"))]


@vjp("pad")
def _pad(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """Constant padding: what was added is cut off."""
    x, (pads, _, axes) = source(node), (*node.operands[1:], None, None)[:3]
    known = pads.ints() if pads is not None else None
    dims = x.shape
    if node.attr("mode") != "constant" or known is None or dims is None:
        raise Unsupported("the derivative of pad needs constant padding of known size")
    along = axes.ints() if axes is not None else tuple(range(len(dims)))
    ends = known[len(known) // 2 :]
    if along is None or min(known, default=0) < 0:
        raise Unsupported("the derivative of pad that cuts off")
    starts = known[: len(known) // 2]
    return [b.slice(adjoint(g), starts, tuple(-e if e else UNBOUNDED for e in ends), along), None]


@vjp("gather")
def _gather(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """Added up at the places that were read."""
    x, at = node.inputs()
    axis, rank, many = node.attr("axis") % rank_of(x, node), rank_of(x, node), rank_of(at, node)
    front = (*range(axis, axis + many), *range(axis), *range(axis + many, rank + many - 1))
    perm = (axis, *range(axis), *range(axis + 1, rank))
    base = b.transpose(zeros_like(b, x), perm=perm) if axis else zeros_like(b, x)
    given = b.transpose(adjoint(g), perm=front) if axis else adjoint(g)
    made = b.scatter_nd(base, b.unsqueeze(at, (-1,)), given, reduction="add")
    back = tuple(int(i) for i in np.argsort(perm))
    return [b.transpose(made, perm=back) if axis else made]
