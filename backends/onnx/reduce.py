"""Reductions, arg-reductions, running sums, top-k."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Node
from ...ir.types import I32, I64, DType
from .emitter import Emitter, Ref, Temp
from .registry import emits

REDUCE = {
    "reduce_mean": "ReduceMean",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
    "reduce_l1": "ReduceL1",
    "reduce_l2": "ReduceL2",
    "reduce_log_sum": "ReduceLogSum",
    "reduce_log_sum_exp": "ReduceLogSumExp",
    "reduce_sum_square": "ReduceSumSquare",
}
OF_BOOLS = {"reduce_any": "ReduceMax", "reduce_all": "ReduceMin"}
ARG = {"arg_max": "ArgMax", "arg_min": "ArgMin"}


def _axes_input(e: Emitter, n: Node, op_type: str) -> None:
    x, axes = (*n.operands, None)[:2]
    if axes is not None and axes.dtype is not I64:  # type: ignore[union-attr]
        axes = e.temp("Cast", [axes], I64, to=7)  # type: ignore[assignment]
    attrs: dict[str, Any] = {
        "keepdims": int(n.attr("keepdims")),
        "noop_with_empty_axes": int(n.attr("noop_with_empty_axes")) or None,
    }
    e.node(op_type, [x, axes] if axes is not None else [x], **attrs)


def reduced(e: Emitter, op_type: str, x: Ref, axes: tuple[int, ...], dtype: DType) -> Temp:
    """A reduction for a row's own use: axes are an operand since opset 18."""
    if e.opset >= 18:
        return e.temp(op_type, [x, e.ints(axes)], dtype, keepdims=1)
    return e.temp(op_type, [x], dtype, axes=axes, keepdims=1)


@emits("reduce_sum", since=13)
def reduce_sum(e: Emitter, n: Node) -> None:
    _axes_input(e, n, "ReduceSum")


@emits(*REDUCE, since=18)
def reduce(e: Emitter, n: Node) -> None:
    _axes_input(e, n, REDUCE[n.name])


@emits(*REDUCE)
def reduce_attribute(e: Emitter, n: Node) -> None:
    """Axes as an attribute; none of them means all, so "none, and so nothing" cannot be said."""
    x, axes = (*n.operands, None)[:2]
    known = e.known(axes, "axes", 18)
    if not known and n.attr("noop_with_empty_axes"):
        raise e.refuse("a reduction over no axes has no operator")
    e.node(REDUCE[n.name], [x], axes=known or None, keepdims=int(n.attr("keepdims")))


@emits(*OF_BOOLS, since=20)
def of_bools(e: Emitter, n: Node) -> None:
    if n.operands[0].shape is not None and 0 in n.operands[0].shape:  # type: ignore[union-attr]
        of_bools_as_ints(e, n)  # no runtime reduces an empty set of bools
    else:
        _axes_input(e, n, OF_BOOLS[n.name])


@emits(*OF_BOOLS)
def of_bools_as_ints(e: Emitter, n: Node) -> None:
    """Before opset 20 only numbers can be reduced: through i32, where an empty maximum is below 0, an empty minimum above."""
    x, axes = (*n.operands, None)[:2]
    ints = e.temp("Cast", [x], I32, to=6)
    keepdims = int(n.attr("keepdims"))
    if e.opset >= 18:
        inputs: list[Any] = [ints] if axes is None else [ints, axes]
        noop = int(n.attr("noop_with_empty_axes")) or None
        made = e.temp(OF_BOOLS[n.name], inputs, I32, keepdims=keepdims, noop_with_empty_axes=noop)
    else:
        known = e.known(axes, "axes", 18)
        if not known and n.attr("noop_with_empty_axes"):
            raise e.refuse("a reduction over no axes has no operator")
        made = e.temp(OF_BOOLS[n.name], [ints], I32, axes=known or None, keepdims=keepdims)
    e.node("Greater", [made, e.literal(0, I32)])


@emits(*ARG)
def arg_reduce(e: Emitter, n: Node) -> None:
    last = int(n.attr("select_last_index")) or None
    e.node(ARG[n.name], n.operands, axis=n.attr("axis"), keepdims=int(n.attr("keepdims")), select_last_index=last)


@emits("cumsum")
def cumsum(e: Emitter, n: Node) -> None:
    exclusive, reverse = (int(n.attr(name)) or None for name in ("exclusive", "reverse"))
    e.node("CumSum", n.operands, exclusive=exclusive, reverse=reverse)


@emits("cumprod", since=26)
def cumprod(e: Emitter, n: Node) -> None:
    exclusive, reverse = (int(n.attr(name)) or None for name in ("exclusive", "reverse"))
    e.node("CumProd", n.operands, exclusive=exclusive, reverse=reverse)


@emits("topk")
def topk(e: Emitter, n: Node) -> None:
    """K is a vector of one element in ONNX. Where order does not matter it is asked for all the same: runtimes then agree."""
    x, k = n.operands
    known = k.ints()  # type: ignore[union-attr]
    if known is not None:
        count = e.ints(known)
    else:
        wide = k if k.dtype is I64 else e.temp("Cast", [k], I64, to=7)  # type: ignore[union-attr]
        count = wide if k.rank == 1 else e.temp("Reshape", [wide, e.ints((1,))], I64)  # type: ignore[assignment, union-attr]
    e.node("TopK", [x, count], axis=n.attr("axis"), largest=None if n.attr("largest") else 0)
