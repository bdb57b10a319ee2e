"""Reductions over constant axes, arg-reductions, sums and products along an axis, topk. Must not import MindSpore."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.types import BOOL, I8, I16, I32, I64, U8
from ...ir.value import Node, Value
from ...passes.decompose.reduce import reduced_axes
from ...passes.decompose.rules import Declined, Outcome
from .registry import FLOAT_2, FLOAT_3, NUMBERS, WIDER, Call, Dtypes, emits, lowers


def _constant_axes(node: Node) -> str | None:
    axes = reduced_axes(node)
    if axes is None:
        return "the axes are computed"
    return None if axes else "there is nothing to reduce"


def _reduction(name: str, primitive: str, dtypes: Dtypes, *more: bool) -> None:
    @emits(name, dtypes, check=_constant_axes)
    def reduce(node: Node) -> Call:
        return Call(primitive, (node.operands[0], reduced_axes(node), node.attr("keepdims"), *more))


_reduction("reduce_sum", "ReduceSum", NUMBERS, False)
_reduction("reduce_mean", "ReduceMean", FLOAT_3)
_reduction("reduce_max", "ReduceMax", NUMBERS)
_reduction("reduce_min", "ReduceMin", NUMBERS)
_reduction("reduce_prod", "ReduceProd", NUMBERS - {I8})
_reduction("reduce_all", "ReduceAll", frozenset({BOOL}))
_reduction("reduce_any", "ReduceAny", frozenset({BOOL}))


@lowers("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod", "reduce_all", "reduce_any")
def reduce_nothing(b: Builder, node: Node) -> Outcome:
    """No axes: every element is its own reduction."""
    return node.operands[0] if reduced_axes(node) == () else Declined("")


def _first_without_axis(node: Node) -> str | None:
    plain = not node.attr("keepdims") and not node.attr("select_last_index")
    return None if plain else "Argmax drops its axis and finds the first"


@emits("arg_max", NUMBERS, check=_first_without_axis)
def arg_max(node: Node) -> Call:
    return Call("Argmax", (node.operands[0], node.attr("axis"), 35))


@emits("arg_min", NUMBERS, check=_first_without_axis)
def arg_min(node: Node) -> Call:
    return Call("Argmin", (node.operands[0], node.attr("axis"), 35))


def _constant_axis(node: Node) -> str | None:
    return None if node.operands[1].ints() is not None else "the axis is computed"


@emits("cumsum", NUMBERS, check=_constant_axis)
def cumsum(node: Node) -> Call:
    return Call("CumSum", (node.operands[0], node.operands[1].ints()[0], node.attr("exclusive"), node.attr("reverse")))


@emits("cumprod", NUMBERS - {I8}, check=_constant_axis)
def cumprod(node: Node) -> Call:
    return Call("CumProd", (node.operands[0], node.operands[1].ints()[0], node.attr("exclusive"), node.attr("reverse")))


_SORTED = FLOAT_2 | {I8, I16, I32, I64, U8}


@lowers("topk")
def topk(b: Builder, node: Node) -> Outcome:
    """The head of the sorted last axis: TopK itself leaves the order of equal elements open, Sort keeps it."""
    x, k = node.operands
    if node.attr("axis") % x.rank != x.rank - 1:
        return Declined("")
    if x.dtype not in _SORTED:
        return _sorted_wider(b, node, x, k)
    values, indices = b.call("ms.sort", (x,), {"descending": node.attr("largest")}).results
    head = [b.slice(v, (0,), k if k.dtype is I64 else b.cast(k, to=I64), (-1,)) for v in (values, indices)]
    return head[0], b.cast(head[1], to=I64)


def _sorted_wider(b: Builder, node: Node, x: Value, k: Value) -> Outcome:
    wide = next((w for w in WIDER.get(x.dtype, ()) if w in _SORTED), None)
    if wide is None:
        return Declined(f"MindSpore on CPU does not sort {x.dtype}")
    values, indices = b.topk(b.cast(x, to=wide), k, **dict(node.attrs))
    return b.cast(values, to=x.dtype), indices


@emits("ms.sort", _SORTED)
def sort(node: Node) -> Call:
    return Call("Sort", node.operands, {"axis": -1, "descending": node.attr("descending")}, (0, 1))
