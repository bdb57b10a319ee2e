"""Gathers and scatters. Must not import MindSpore."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.types import BOOL
from ...ir.value import Node
from ...passes.decompose.rules import Outcome
from .registry import EVERY, Call, emits, lowers


@emits("gather", EVERY)
def gather(node: Node) -> Call:
    return Call("Gather", (*node.operands, node.attr("axis"), 0))


@emits("gather_elements", EVERY)
def gather_elements(node: Node) -> Call:
    x, indices = node.operands
    return Call("GatherD", (x, node.attr("axis"), indices))


def _no_batch(node: Node) -> str | None:
    return None if node.attr("batch_dims") == 0 else "GatherNd has no batch dims"


@emits("gather_nd", EVERY, check=_no_batch)
def gather_nd(node: Node) -> Call:
    return Call("GatherNd", node.operands)


_SCATTERS = {
    "none": "TensorScatterUpdate",
    "add": "TensorScatterAdd",
    "mul": "TensorScatterMul",
    "max": "TensorScatterMax",
    "min": "TensorScatterMin",
}


def _numbers(node: Node) -> str | None:
    whole = node.attr("reduction") == "none" or node.operands[0].dtype is not BOOL
    return None if whole else "there is no such reduction of bools"


@emits("scatter_nd", EVERY, check=_numbers)
def scatter_nd(node: Node) -> Call:
    return Call(_SCATTERS[node.attr("reduction")], node.operands)


def _set_or_add(node: Node) -> str | None:
    return None if node.attr("reduction") in ("none", "add") else "TensorScatterElements sets or adds"


@emits("scatter_elements", EVERY, check=_set_or_add)
def scatter_elements(node: Node) -> Call:
    x, indices, updates = node.operands
    return Call("TensorScatterElements", (x, indices, updates, node.attr("axis"), int(node.attr("reduction") == "add")))


@emits("ms.non_zero", EVERY)
def ms_non_zero(node: Node) -> Call:
    return Call("NonZero", node.operands)


@lowers("non_zero")
def non_zero(b: Builder, node: Node) -> Outcome:
    """MindSpore gives one row per element, ONNX one row per axis."""
    return b.transpose(b.call("ms.non_zero", node.operands).results[0], perm=(1, 0))
