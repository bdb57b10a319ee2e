"""Gather, scatter, one-hot and selection."""

from __future__ import annotations

from ...ir.graph import Node
from .emitter import Emitter
from .registry import emits
from .shape import as_i64, operands


@emits("gather", "gather_elements")
def gather(e: Emitter, n: Node) -> None:
    e.node("Gather" if n.name == "gather" else "GatherElements", n.operands, axis=n.attr("axis"))


@emits("gather_nd")
def gather_nd(e: Emitter, n: Node) -> None:
    e.node("GatherND", [n.operands[0], as_i64(e, n.operands[1])], batch_dims=n.attr("batch_dims") or None)


@emits("scatter_elements")
def scatter_elements(e: Emitter, n: Node) -> None:
    e.node("ScatterElements", n.operands, axis=n.attr("axis"), reduction=_reduction(e, n))


@emits("scatter_nd")
def scatter_nd(e: Emitter, n: Node) -> None:
    x, indices, updates = n.operands
    e.node("ScatterND", [x, as_i64(e, indices), updates], reduction=_reduction(e, n))


def _reduction(e: Emitter, n: Node) -> str | None:
    """add and mul came with opset 16, min and max with 18."""
    reduction = n.attr("reduction")
    if reduction == "none":
        return None
    e.needs(16 if reduction in ("add", "mul") else 18, f"scatter with reduction {reduction}")
    return reduction


@emits("one_hot")
def one_hot(e: Emitter, n: Node) -> None:
    """ONNX wants at least one index axis."""
    indices, depth, values = n.operands
    if indices.rank != 0:  # type: ignore[union-attr]
        e.node("OneHot", n.operands, axis=n.attr("axis"))
        return
    row = e.temp("OneHot", [e.temp("Unsqueeze", [indices, e.ints((0,))], indices.dtype), depth, values], values.dtype)  # type: ignore[union-attr]
    e.node("Squeeze", [row, e.ints((0,))])


@emits("non_zero")
def non_zero(e: Emitter, n: Node) -> None:
    e.node("NonZero", n.operands)


@emits("compress")
def compress(e: Emitter, n: Node) -> None:
    e.node("Compress", n.operands, axis=n.attr("axis"))


@emits("unique", since=11)
def unique(e: Emitter, n: Node) -> None:
    e.node("Unique", n.operands, axis=n.attr("axis"), sorted=int(n.attr("sorted")))


@emits("tensor_scatter", since=24)
def tensor_scatter(e: Emitter, n: Node) -> None:
    past, update, start = operands(n, 3)
    e.node("TensorScatter", [past, update, as_i64(e, start)], axis=n.attr("axis"), mode=n.attr("mode"))
