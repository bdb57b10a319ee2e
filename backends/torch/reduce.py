"""Torch expressions of reductions, scans and sorting."""

from __future__ import annotations

from typing import Any

from ...ir.types import BOOL
from ...ir.value import Node, Value
from .calls import Call, Refusal, axis_of, known, known_ints, only, rank_of, row


def axes_of(node: Node) -> tuple[int, ...]:
    """The reduced axes, counted from the front; no axes mean all of them."""
    x = node.operand("x")
    given = known_ints(node.operand("axes"), "axes") if node.operand("axes") is not None else ()
    if not given and node.attr("noop_with_empty_axes"):
        raise Refusal("it reduces nothing")
    rank = rank_of(x)
    return tuple(axis_of(axis, rank) for axis in given) if given else tuple(range(rank))


_DIRECT = {
    "reduce_sum": "torch.sum", "reduce_mean": "torch.mean", "reduce_max": "torch.amax", "reduce_min": "torch.amin",
    "reduce_any": "torch.any", "reduce_all": "torch.all", "reduce_log_sum_exp": "torch.logsumexp",
}  # fmt: skip


@row(*_DIRECT)
def reduce(node: Node) -> Call:
    x: Value = node.operand("x")
    axes = axes_of(node)
    if not axes:
        raise Refusal("there is no axis to reduce")
    extra = _exact_dtype(node, x) if node.name == "reduce_sum" else {}
    if node.name in ("reduce_mean", "reduce_log_sum_exp") and (x.dtype is None or not x.dtype.is_float):
        raise Refusal("torch takes this of floats only")
    if node.name in ("reduce_max", "reduce_min") and x.dtype is BOOL:
        raise Refusal("the extreme of bools")
    if node.name in ("reduce_max", "reduce_min") and any(x.shape[axis] == 0 for axis in axes):  # type: ignore[index]
        raise Refusal("the extreme of nothing")
    return Call(_DIRECT[node.name], x, dim=axes, keepdim=node.attr("keepdims"), **extra)


def _exact_dtype(node: Node, x: Value) -> dict[str, Any]:
    """torch adds up integers in int64 unless it is told the dtype."""
    return {} if x.dtype is None or x.dtype.is_float else {"dtype": node.result.dtype}


@row("reduce_prod")
def reduce_prod(node: Node) -> Call:
    x, axes = node.operand("x"), axes_of(node)
    if len(axes) != 1:
        raise Refusal("torch multiplies along one axis at a time")
    return Call("torch.prod", x, dim=axes[0], keepdim=node.attr("keepdims"), **_exact_dtype(node, x))


@row("reduce_l1", "reduce_l2")
def norm(node: Node) -> Call:
    x = node.operand("x")
    if x.dtype is None or not x.dtype.is_float or not axes_of(node):
        raise Refusal("torch has norms of floats over at least one axis")
    order = 1.0 if node.name == "reduce_l1" else 2.0
    return Call("torch.linalg.vector_norm", x, ord=order, dim=axes_of(node), keepdim=node.attr("keepdims"))


@row("arg_max", "arg_min")
def arg_max(node: Node) -> Call:
    only(node, "axis", "keepdims")
    x = node.operand("x")
    if rank_of(x) == 0 or x.dtype is BOOL:
        raise Refusal("torch wants numbers and an axis")
    return Call(f"torch.{node.name.replace('_', '')}", x, dim=node.attr("axis"), keepdim=node.attr("keepdims"))


@row("cumsum", "cumprod")
def cumulative(node: Node) -> Call:
    only(node)
    x, axis = node.operands
    assert x is not None
    (dim,) = known_ints(axis, "axis")
    return Call(f"torch.{node.name}", x, dim=dim, **_exact_dtype(node, x))


@row("topk")
def topk(node: Node) -> Call:
    """Sorted, and of equal elements the first: a stable sort, where torch.topk promises nothing."""
    x, k = node.operands
    (count,) = known(k, "k")
    return Call("helpers.topk", x, count, axis=node.attr("axis"), largest=node.attr("largest"))
