"""Reductions, arg-reductions, running sums and top-k."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.types import I32
from ...ir.value import Value
from .registry import Call, handles

_REDUCTIONS = {
    "SUM": "reduce_sum", "MEAN": "reduce_mean", "REDUCE_MAX": "reduce_max", "REDUCE_MIN": "reduce_min",
    "REDUCE_PROD": "reduce_prod", "REDUCE_ALL": "reduce_all", "REDUCE_ANY": "reduce_any",
}  # fmt: skip


@handles(*_REDUCTIONS)
def reduce(c: Call) -> Value:
    """No axes: nothing is reduced."""
    axes = c.operand(1)
    attrs = {"keepdims": bool(c.option("keep_dims")), "noop_with_empty_axes": True}
    return c.b.call(_REDUCTIONS[c.builtin], (c.x, axes if axes.rank else c.ints(1)), attrs).result


@handles("ARG_MAX", "ARG_MIN")
def arg_reduce(c: Call) -> Value:
    made = c.b.call(c.builtin.lower(), (c.x,), {"axis": c.ints(1)[0], "keepdims": False}).result
    return c.b.cast(made, to=I32) if c.result_types()[0].dtype is I32 else made


@handles("CUMSUM")
def cumsum(c: Call) -> Value:
    return c.b.cumsum(c.x, c.operand(1), exclusive=bool(c.option("exclusive")), reverse=bool(c.option("reverse")))


@handles("TOPK_V2")
def topk(c: Call) -> Sequence[Value]:
    return c.b.call("tfl.topk_v2", (c.x, c.operand(1))).results
