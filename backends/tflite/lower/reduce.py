"""Reductions and their kin: axes made explicit, kept dims by reshape, top-k along the last axis."""

from __future__ import annotations

import numpy as np

from ....ir.builder import Builder
from ....ir.types import F32, I32, I64
from ....ir.value import Node, Value
from ....passes.decompose.rules import Declined, Outcome, moved_last
from . import lowers
from .common import as_i32, i32, numbers, reshaped, static
from .elementwise import in_dtype, widened


@lowers("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod", "reduce_all", "reduce_any")
def reduce(b: Builder, node: Node) -> Outcome:
    x, axes = node.operands[0], node.operand("axes")
    if not x.rank:
        return x if x.rank == 0 else Declined("a tensor of unknown rank")
    if axes is None or axes.ints() == ():
        if node.attr("noop_with_empty_axes"):
            return x
    elif axes.ints() is None and axes.dtype is not I32:
        return b.call(node.name, (x, as_i32(b, axes)), dict(node.attrs)).result
    if node.name == "reduce_mean" and x.dtype.is_int:
        return _integer_mean(b, node, x)
    return widened(b, node)


def _integer_mean(b: Builder, node: Node, x: Value) -> Outcome:
    """The sum over the count, truncated toward zero."""
    axes = node.operand("axes")
    chosen = None if axes is None else axes.ints()
    sizes = [x.shape[a] for a in (chosen or range(x.rank))]
    if (axes is not None and chosen is None) or not static(sizes):
        return Declined("a mean over a computed number of integers")
    wide = x if x.dtype in (I32, I64) else b.cast(x, to=I32)
    total = b.reduce_sum(wide, axes, **dict(node.attrs))
    made = b.div(total, b.const(np.asarray(int(np.prod(numbers(sizes))), wide.dtype.numpy)))
    return made if made.dtype is x.dtype else b.cast(made, to=x.dtype)


@lowers("cumprod")
def cumprod(b: Builder, node: Node) -> Outcome:
    """Doubling steps: after step k each element is the product of the 2**k elements that end there."""
    x, axis = node.operands[0], node.operands[1].ints()
    if axis is None or type(x.shape[axis[0]]) is not int or x.dtype not in (F32, I32, I64):
        return Declined("a running product of unknown length")
    at, from_end = axis[0] % x.rank, node.attr("reverse")
    (size,) = numbers(x.shape[at : at + 1])
    if node.attr("exclusive"):
        x = _shifted(b, x, at, 1, from_end)
    step = 1
    while step < size:
        x = b.mul(x, _shifted(b, x, at, step, from_end))
        step *= 2
    return x


def _shifted(b: Builder, x: Value, axis: int, step: int, from_end: bool) -> Value:
    """x moved by `step` along `axis`, ones where nothing comes from."""
    kept = b.slice(x, (step if from_end else 0,), (x.shape[axis] if from_end else -step,), (axis,))
    pads = (0, step) if from_end else (step, 0)
    return b.pad(kept, pads, b.const(np.ones((), x.dtype.numpy)), (axis,))


@lowers("arg_max", "arg_min")
def arg_reduce(b: Builder, node: Node) -> Outcome:
    (x,) = node.operands
    axis = node.attr("axis") % x.rank
    attrs = {**node.attrs, "keepdims": False, "axis": axis}
    if node.attr("select_last_index"):
        if type(x.shape[axis]) is not int:
            return Declined("the last of equals along an axis of unknown length")
        turned = b.call(node.name, (b.reverse(x, axes=(axis,)),), attrs | {"select_last_index": False}).result
        made = b.sub(b.const(np.asarray(x.shape[axis] - 1, np.int64)), turned)
        return reshaped(b, made, node.result.shape)
    if node.attr("keepdims"):
        return reshaped(b, b.call(node.name, (x,), attrs).result, node.result.shape)
    if x.dtype.is_int and x.dtype.bits < 32:
        return in_dtype(b, node, I32)
    return Declined("")


@lowers("topk")
def topk(b: Builder, node: Node) -> Outcome:
    """TOPK_V2 along the last axis; the smallest are the largest of the negated (floats) or reversed-sign integers."""
    x, k = node.operands
    axis = node.attr("axis") % x.rank
    if k.ints() is None:
        return Declined("a computed k")
    if axis != x.rank - 1:
        perm, back = moved_last(x.rank, axis)
        made = b.topk(b.transpose(x, perm=perm), k, **{**node.attrs, "axis": x.rank - 1})
        return tuple(b.transpose(v, perm=back) for v in made)
    if not node.attr("largest"):
        if x.dtype not in (F32, I32, I64):
            return Declined(f"the smallest of {x.dtype}")
        # ~x instead of -x would be needed for the lowest integer only, which has no negative.
        values, indices = b.topk(b.neg(x), k, **{**node.attrs, "largest": True})
        return b.neg(values), indices
    values, indices = b.call("tfl.topk_v2", (x, i32(b, *k.ints()))).results if k.rank == 0 else _scalar_k(b, x, k)
    return values, b.cast(indices, to=I64)


def _scalar_k(b: Builder, x: Value, k: Value) -> tuple[Value, ...]:
    return b.call("tfl.topk_v2", (x, b.const(np.asarray(k.ints()[0], np.int32)))).results
