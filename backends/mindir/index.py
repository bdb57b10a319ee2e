"""Gathers and scatters. Must not import MindSpore."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.types import BOOL, I32
from ...ir.value import Node, Value
from ...passes.decompose.rules import Declined, Outcome, shape_of, sizes, static
from .registry import EVERY, Call, emits, lowers


@emits("gather", EVERY)
def gather(node: Node) -> Call:
    return Call("Gather", (*node.operands, node.attr("axis"), 0))


@emits("gather_elements", EVERY)
def gather_elements(node: Node) -> Call:
    x, indices = node.operands
    return Call("GatherD", (x, node.attr("axis"), indices))


#: What gives indices that are never negative.
_COUNTS = ("arg_max", "arg_min", "ms.non_zero", "shape", "ms.max_pool_with_argmax")


def _never_negative(indices: Value) -> bool:
    """GatherNd and the TensorScatter family count from the start only."""
    if indices.is_const:
        return int(indices.array().min(initial=0)) >= 0
    node = indices.node
    if node is not None and node.name == "concat":
        return all(_is_count(value) for value in node.operands)
    return _is_count(indices)


def _is_count(value: Value) -> bool:
    """A constant without negative numbers, a count, the number of an iteration, or a remainder by something positive."""
    if value.is_const:
        return int(value.array().min(initial=0)) >= 0
    while value.node is not None and value.node.name in ("transpose", "reshape", "unsqueeze", "squeeze", "expand"):
        value = value.node.operands[0]
    node, graph = value.node, value.graph
    if node is None:
        parent = graph.parent if graph is not None else None
        return parent is not None and parent.name == "loop" and value.index == 0
    return node.name in _COUNTS or (node.name == "mod" and not node.attr("fmod"))


def wrapped(b: Builder, x: Value, indices: Value) -> Value:
    """Negative coordinates count from the end: the remainder by the dims."""
    count: Any = indices.shape[-1]
    if indices.is_const:
        array = indices.array()
        if static(*x.shape[:count]):
            return b.const(np.mod(array, np.asarray(x.shape[:count], array.dtype)))
    dims = shape_of(b, sizes(x, range(count)))
    dims = b.const(np.asarray(dims, np.int32)) if isinstance(dims, tuple) else b.cast(dims, to=I32)
    return b.mod(b.cast(indices, to=I32), dims)


@lowers("gather_nd")
def lower_gather_nd(b: Builder, node: Node) -> Outcome:
    x, indices = node.operands
    if node.attr("batch_dims") or _never_negative(indices) or not static(indices.shape[-1]):
        return Declined("")
    return b.gather_nd(x, wrapped(b, x, indices))


@lowers("scatter_nd")
def lower_scatter_nd(b: Builder, node: Node) -> Outcome:
    x, indices, updates = node.operands
    if _never_negative(indices) or not static(indices.shape[-1]):
        return Declined("")
    return b.scatter_nd(x, wrapped(b, x, indices), updates, reduction=node.attr("reduction"))


def _no_batch(node: Node) -> str | None:
    if node.attr("batch_dims"):
        return "GatherNd has no batch dims"
    return None if _never_negative(node.operands[1]) else "GatherNd takes no negative indices"


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
    if not _never_negative(node.operands[1]):
        return "TensorScatter takes no negative indices"
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
