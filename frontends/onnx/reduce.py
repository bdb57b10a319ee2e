"""Reductions, arg-reductions, running sums and top-k."""

from __future__ import annotations

from typing import Any

from ...ir.types import BOOL
from .importer import Call, Importer
from .registry import handles

REDUCE = {
    "ReduceSum": "reduce_sum",
    "ReduceMean": "reduce_mean",
    "ReduceMax": "reduce_max",
    "ReduceMin": "reduce_min",
    "ReduceProd": "reduce_prod",
    "ReduceL1": "reduce_l1",
    "ReduceL2": "reduce_l2",
    "ReduceLogSum": "reduce_log_sum",
    "ReduceLogSumExp": "reduce_log_sum_exp",
    "ReduceSumSquare": "reduce_sum_square",
}
OF_BOOLS = {"ReduceMax": "reduce_any", "ReduceMin": "reduce_all"}
ARG = {"ArgMax": "arg_max", "ArgMin": "arg_min"}


@handles(*REDUCE)
def reduce(c: Importer, n: Call) -> Any:
    """Axes are an attribute before opset 18 (ReduceSum: 13), an operand since; absent means all of them."""
    x, axes = n.take(2)
    if "axes" in n.attrs:
        axes = tuple(n.attrs["axes"])
    name = OF_BOOLS.get(n.op_type, REDUCE[n.op_type]) if x.dtype is BOOL else REDUCE[n.op_type]
    attrs = {"keepdims": bool(n.attr("keepdims", 1)), "noop_with_empty_axes": bool(n.attr("noop_with_empty_axes", 0))}
    return c.b.call(name, (x, axes), attrs).result


@handles(*ARG)
def arg_reduce(c: Importer, n: Call) -> Any:
    attrs = {"axis": n.attr("axis", 0), "keepdims": bool(n.attr("keepdims", 1))}
    attrs["select_last_index"] = bool(n.attr("select_last_index", 0))
    return c.b.call(ARG[n.op_type], (n.x,), attrs).result


@handles("CumSum", "CumProd")
def running(c: Importer, n: Call) -> Any:
    name = {"CumSum": "cumsum", "CumProd": "cumprod"}[n.op_type]
    attrs = {"exclusive": bool(n.attr("exclusive", 0)), "reverse": bool(n.attr("reverse", 0))}
    return c.b.call(name, n.inputs, attrs).result


@handles("TopK")
def topk(c: Importer, n: Call) -> Any:
    """`k` is an attribute before opset 10; `largest` and `sorted` came with 11."""
    k = n.inputs[1] if len(n.inputs) > 1 else (n.attr("k"),)
    return c.b.topk(
        n.x, k, axis=n.attr("axis", -1), largest=bool(n.attr("largest", 1)), sorted=bool(n.attr("sorted", 1))
    )
