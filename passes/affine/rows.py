"""Layers on rows that were only flattened for them: reshape(gemm(reshape(x))) is a product of higher rank.

A gemm takes rank 2, so exporters flatten what stands before the last axis and restore it behind. A matmul takes any rank; its
bias is then a node of its own, so the rule counts nodes.
"""

from __future__ import annotations

from typing import NamedTuple

from ...ir.graph import Node, Value
from ...ir.opdef import ELEMENTWISE
from ...ir.tensor import LazyTensor
from ..optimize.common import same_type
from ..rewrite import StagingBuilder, rule

#: Nodes between the two reshapes.
STEPS = 8


class Rows(NamedTuple):
    """What stands between the reshapes, first to last, and the reshape that flattened."""

    flatten: Node
    steps: tuple[Node, ...]


@rule("reshape", numerics="ulp", benefit=2)
def gemm_of_rows_to_matmul(b: StagingBuilder, node: Node):
    """reshape(gemm(reshape(x, [-1, K]), w, c), [..., N]) -> add(matmul(x, w), c), where that is fewer nodes"""
    found = _rows(node)
    if found is None:
        return None
    start, saved = _source(b, node, found)
    gemms = [step for step in found.steps if step.name == "gemm"]
    saved += _between_transposes(node, found)
    if start is None or not gemms or saved <= sum(step.operand("c") is not None for step in gemms):
        return b.decline("there would be as many nodes")
    value = start
    for step in found.steps:
        value = _product(b, step, value) if step.name == "gemm" else _again(b, step, value)
    return value if same_type(value, node.result) else b.decline("the rows are grouped in another way")


def _rows(node: Node) -> Rows | None:
    """The steps above a reshape up to the one that flattened to rank 2; all are read by the next alone."""
    shape = node.result.shape
    steps: list[Node] = []
    value = node.operands[0]
    if shape is None or len(shape) < 3:
        return None
    while value is not None and value.node is not None and value.n_uses == 1 and len(steps) <= STEPS:
        step = value.node
        if step.name == "reshape":
            return Rows(step, tuple(steps[::-1])) if value.rank == 2 and steps else None
        if not (_layer(step) if step.name == "gemm" else _rowwise(step)):
            return None
        steps.append(step)
        value = step.operands[0]
    return None


def _layer(gemm: Node) -> bool:
    """x w + c with constant w, transposed only if nobody else uses it, and no or a constant vector c."""
    w, c = gemm.operands[1], gemm.operand("c")
    if w is None or w.weight is None or gemm.attr("transA") or gemm.attr("alpha") != 1.0 or gemm.attr("beta") != 1.0:
        return False
    return (c is None or (c.weight is not None and c.rank == 1)) and (w.n_uses == 1 or not gemm.attr("transB"))


def _between_transposes(node: Node, found: Rows) -> bool:
    """Whether a transpose stands on both sides and moves rows only: without the flat rows between them they are one."""
    user, above = node.result.single_user(), found.flatten.operands[0].node  # type: ignore[union-attr]
    if user is None or above is None or not user.name == above.name == "transpose":
        return False
    return all(turn.attr("perm")[-1] == turn.result.rank - 1 for turn in (user, above))


def _rowwise(step: Node) -> bool:
    """Elementwise, beside constants that broadcast to a row."""
    others = [v for v in step.operands[1:] if v is not None]
    fits = all(v.weight is not None and v.rank is not None and v.rank <= 1 for v in others)
    return step.has(ELEMENTWISE) and fits and step.result.rank == 2


def _source(b: StagingBuilder, node: Node, found: Rows) -> tuple[Value | None, int]:
    """What the first step reads instead, and how many reshapes go: x itself, or x in the shape that the last one makes."""
    flatten = found.flatten
    x, width = flatten.operands[0], flatten.result.shape[1]  # type: ignore[index]
    shape = node.result.shape
    if x.shape is None or not isinstance(width, int) or shape is None:  # type: ignore[union-attr]
        return None, 0
    if len(x.shape) == len(shape) and x.shape[-1] == width:  # type: ignore[union-attr]
        return x, 2
    if shape[-1] == width:
        return b.call("reshape", (x, node.operands[1]), dict(node.attrs)).result, 1
    return None, 0


def _product(b: StagingBuilder, gemm: Node, x: Value) -> Value:
    w, c = gemm.operands[1], gemm.operand("c")
    if gemm.attr("transB"):
        old = w.weight  # type: ignore[union-attr]
        turned = LazyTensor("transpose", (old.tensor,), {"perm": (1, 0)})  # type: ignore[union-attr]
        w = b.const(turned, key=old.wanted, role=old.role, origin="; ".join(filter(None, (old.origin, "transposed"))))  # type: ignore
    product = b.matmul(x, w)
    return product if c is None else b.add(product, c)


def _again(b: StagingBuilder, step: Node, x: Value) -> Value:
    return b.call(step.name, (x, *step.operands[1:]), dict(step.attrs)).result
