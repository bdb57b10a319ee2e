"""What proven intervals settle without any removal: clamps that never act, and values that are constants."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from ...ir.graph import Graph, Module, Node, Value
from ...ir.opdef import ELEMENTWISE, PURE, RANDOM
from ...ir.tensor import ArrayTensor
from ..prune.walk import dead_nodes
from .spans import Spans

#: A constant that takes the place of a computed value has at most this many elements, unless it is broadcast.
LARGEST = 1 << 14

CLAMPS = frozenset({"relu", "relu6", "clip", "max", "min"})


def settle(module: Module, spans: Spans, stats: Counter[str]) -> bool:
    """Replace what is settled; True where something was."""
    changed = False
    for graph in module.all_graphs():
        for node in graph.nodes():
            if (
                len(node.results) != 1
                or node.regions
                or not node.has(PURE)
                or node.has(RANDOM)
                or not node.result.n_uses
            ):
                continue
            if node.name in CLAMPS and _never_acts(node, spans):
                node.replace(node.operands[0])
                stats["needless-clamp"] += 1
                changed = True
            elif (node.result in spans.hulls or node.result in spans.along) and _made_constant(graph, node, spans):
                stats["constant-value"] += 1
                changed = True
    if changed:
        for graph in module.all_graphs():
            for node in dead_nodes(graph):
                node.erase()
    return changed


def _never_acts(node: Node, spans: Spans) -> bool:
    x = node.operands[0]
    if x is None or x.is_const or x.type is not node.result.type:
        return False
    lo, hi = (float(end[0]) for end in spans.hull(x))
    low, high = -np.inf, np.inf
    if node.name in ("relu", "relu6"):
        low, high = 0.0, 6.0 if node.name == "relu6" else np.inf
    else:
        bounds = [spans.hull(v) if v is not None else None for v in node.operands[1:]]
        first, second = (*bounds, None, None)[:2]
        if node.name == "clip":
            low = -np.inf if first is None else float(first.hi[0])
            high = np.inf if second is None else float(second.lo[0])
        elif first is not None:
            low, high = (float(first.hi[0]), np.inf) if node.name == "max" else (-np.inf, float(first.lo[0]))
    return low <= lo and hi <= high and math.isfinite(lo if low > -np.inf else hi)


def _made_constant(graph: Graph, node: Node, spans: Spans) -> bool:
    """Use a constant in place of a value that is equal to it; False where that would take more room than it saves."""
    y = node.result
    found = _constant_of(y, spans)
    if found is None or all(v.is_const for v in node.inputs()):
        return False
    shape = y.shape
    static = all(type(n) is int for n in shape) and int(np.prod(shape)) <= LARGEST  # type: ignore[arg-type, union-attr]
    if static:
        found = np.ascontiguousarray(np.broadcast_to(found, shape))  # type: ignore[arg-type]
    elif not all(_broadcasts(use.node, use.index, y) for use in y.uses):
        return False
    y.replace_uses(
        graph.module.add_weight(f"{node.name}.constant", ArrayTensor(found), "buffer", f"a constant {node.name}")
    )
    return True


def _constant_of(y: Value, spans: Spans) -> np.ndarray | None:
    if y.shape is None:
        return None
    rows = [(None, spans.hulls.get(y)), *spans.along.get(y, {}).items()]
    for axis, span in rows:
        if span is not None and span.constant.all():
            view = [len(span.lo) if i == axis else 1 for i in range(len(y.shape))]
            numbers = span.lo.astype(y.dtype.numpy)  # type: ignore[union-attr]
            return numbers.reshape(view) if np.isfinite(numbers).all() else None
    return None


def _broadcasts(node: Node, index: int, y: Value) -> bool:
    """Whether the node has another operand of the same shape, so that a smaller one may stand here."""
    others = [v for i, v in enumerate(node.operands) if i != index and v is not None]
    return (
        node.has(ELEMENTWISE)
        and any(v.shape == y.shape and v is not y for v in others)
        and node.result.shape == y.shape
    )
