"""Axes counted from the front and sorted; reductions of one element and of reductions."""

from __future__ import annotations

from ...ir.graph import Node
from ..optimize.common import is_float, producer, same_type
from ..rewrite import StagingBuilder, rule
from .reshapes import regrouped

REDUCTIONS = tuple(
    f"reduce_{kind}"
    for kind in ["sum", "mean", "max", "min", "prod", "l1", "l2", "log_sum", "log_sum_exp", "sum_square"]
)
#: Of one element they give that element.
KEEP_ONE = ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod")


@rule(
    *REDUCTIONS,
    "softmax",
    "log_softmax",
    "hardmax",
    "concat",
    "split",
    "arg_max",
    "arg_min",
    "topk",
    "gather",
    "layer_norm",
    "flatten",
    "gather_elements",
    "scatter_elements",
)
def positive_axis(b: StagingBuilder, node: Node):
    """negative axis attribute -> axis >= 0"""
    axis = node.attrs.get("axis")
    rank = node.operands[0].rank if node.operands else None
    if axis is None or axis >= 0 or rank is None:
        return None
    made = b.call(node.name, node.operands, {**node.attrs, "axis": axis + rank})
    return made.results


@rule(*REDUCTIONS)
def sorted_axes(b: StagingBuilder, node: Node):
    """absent, negative or unordered axes of a reduction -> all of them, sorted, >= 0"""
    x, axes = node.operands[0], node.operand("axes")
    if x.rank is None:  # type: ignore[union-attr]
        return None
    given = () if axes is None else axes.ints()
    if given is None or (not given and node.attr("noop_with_empty_axes")):
        return None
    wanted = tuple(sorted(a % x.rank for a in given)) or tuple(range(x.rank))  # type: ignore[union-attr, arg-type]
    if given == wanted and axes is not None and axes.is_const and not node.attr("noop_with_empty_axes"):
        return None
    if not wanted:
        return None  # of a scalar: absent axes are the only way to say it
    return b.call(node.name, (x, wanted), {"keepdims": node.attr("keepdims")}).result


@rule(*KEEP_ONE)
def reduce_of_one(b: StagingBuilder, node: Node):
    """reduction over axes of size 1 -> reshape, or x"""
    if is_float(node.result) and node.name in ("reduce_sum", "reduce_mean"):
        return b.decline("a sum of -0.0 alone may be 0.0")
    return only_element(b, node)


def only_element(b: StagingBuilder, node: Node):
    """What a reduction over axes of size 1 reduces, in the shape of its result."""
    x, axes = node.operands[0], node.operand("axes")
    over = axes.ints() if axes is not None else None
    if x.shape is None or not over or any(x.shape[a] != 1 for a in over):  # type: ignore[union-attr]
        return None
    if same_type(x, node.result):  # type: ignore[arg-type]
        return x
    found = regrouped(b, x, node.result)  # type: ignore[arg-type]
    return None if found is None else found[1].build(b, found[0])


@rule("reduce_max", "reduce_min")
def merge_extreme_reductions(b: StagingBuilder, node: Node):
    """reduce_max(reduce_max(x, a), b) -> reduce_max(x, a and b), the same for reduce_min"""
    return merged_reductions(b, node)


def merged_reductions(b: StagingBuilder, node: Node):
    """Two reductions of one kind in a row as one over the axes of both, where both keep the reduced axes or both drop them."""
    inner = producer(node.operands[0], node.name)
    if inner is None or inner.attr("keepdims") != node.attr("keepdims"):
        return None
    x, first, then = inner.operands[0], *(n.operand("axes") for n in (inner, node))
    first, then = (None if axes is None else axes.ints() for axes in (first, then))
    if x.rank is None or not first or not then:  # type: ignore[union-attr]
        return None
    left = list(range(x.rank)) if node.attr("keepdims") else [i for i in range(x.rank) if i not in first]  # type: ignore
    over = tuple(sorted({*first, *(left[a] for a in then)}))
    return b.call(node.name, (x, over), dict(node.attrs)).result


RULES = (positive_axis, sorted_axes, reduce_of_one, merge_extreme_reductions)
