"""Rows of reductions, arg-reductions, running sums and top-k."""

from __future__ import annotations

from ....ir.value import Node
from ..table import Emitted, i32, index_operand, needs_i32, row, scalar_i32

_REDUCTIONS = {
    "reduce_sum": ("SUM", "f32 i32 i64"),
    "reduce_mean": ("MEAN", "f32"),
    "reduce_max": ("REDUCE_MAX", "f32 i32 i64 i16 u8 i8"),
    "reduce_min": ("REDUCE_MIN", "f32 i32 i64 i16 u8 i8"),
    "reduce_prod": ("REDUCE_PROD", "f32 i32 i64"),
    "reduce_all": ("REDUCE_ALL", "bool"),
    "reduce_any": ("REDUCE_ANY", "bool"),
}


def _known_axes(node: Node) -> str | None:
    if node.operands[0].rank is None:
        return "a tensor of unknown rank"
    if not node.operands[0].rank:
        return "a scalar has no axes"
    axes = node.operand("axes")
    if axes is None or axes.ints() == ():
        return "no axes" if node.attr("noop_with_empty_axes") else None
    return needs_i32(axes)


def _reduce(node: Node) -> Emitted:
    x, axes = node.operands[0], node.operand("axes")
    known = axes.ints() if axes is not None else ()
    if known is None:
        return Emitted([x, axes], {"keep_dims": node.attr("keepdims")})
    wanted = sorted(a % x.rank for a in known) or range(x.rank)
    return Emitted([x, i32(*wanted)], {"keep_dims": node.attr("keepdims")})


for _op, (_builtin, _dtypes) in _REDUCTIONS.items():
    row(_op, _builtin, _dtypes, _known_axes)(_reduce)


def _plain_arg(node: Node) -> str | None:
    if node.attr("keepdims"):
        return "the kernel drops the axis"
    return "the kernel takes the first of equals" if node.attr("select_last_index") else None


def _arg(node: Node) -> Emitted:
    axis = node.attr("axis") % node.operands[0].rank
    return Emitted([node.operands[0], scalar_i32(axis)], {"output_type": "INT64"})


row("arg_max", "ARG_MAX", "f32 i32 u8 i8", _plain_arg)(_arg)
row("arg_min", "ARG_MIN", "f32 i32 u8 i8", _plain_arg)(_arg)


def _known_axis(node: Node) -> str | None:
    return None if node.operands[1].ints() is not None else "a computed axis"


@row("cumsum", "CUMSUM", "f32 i32 i64", _known_axis)
def _cumsum(node: Node) -> Emitted:
    axis = node.operands[1].ints()[0] % node.operands[0].rank
    return Emitted([node.operands[0], scalar_i32(axis)], {k: node.attr(k) for k in ("exclusive", "reverse")})


@row("tfl.topk_v2", "TOPK_V2", "f32 i32 i64 u8 i8")
def _topk(node: Node) -> Emitted:
    k = index_operand(node.operands[1])
    return Emitted([node.operands[0], k], {})
