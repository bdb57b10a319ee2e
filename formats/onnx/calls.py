"""Limits on local functions, checked before anything is inlined. Works on `views` records only."""

from __future__ import annotations

from ...ir.errors import InvalidModel, clean
from ...ir.storage import check_limit
from .views import Function, Graph, Model


def check(model: Model) -> None:
    """Raises InvalidModel for recursion, LimitExceeded for calls nested too deep or too many nodes after inlining."""
    size: dict[tuple, int] = {}
    depth: dict[tuple, int] = {}
    for key in model.functions:
        _measure(key, model.functions, size, depth)
    total = _inlined(model.graph, model.functions, size)
    if model.functions:
        check_limit("inlined_nodes", total, "nodes once the local functions are inlined")


def _measure(root: tuple, functions: dict[tuple, Function], size: dict, depth: dict) -> None:
    """Fill size and depth of `root` and what it calls: depth-first, explicit stack, cycles refused."""
    stack: list[tuple] = [root]
    active: dict[tuple, None] = {}
    while stack:
        key = stack[-1]
        if key in size:
            stack.pop()
            active.pop(key, None)
            continue
        callees = _callees(functions[key].body, functions)
        waiting = [c for c in callees if c not in size]
        if key not in active:
            active[key] = None
            for callee in waiting:
                if callee in active:
                    raise InvalidModel(f"function {clean(callee[1])} calls itself", where=f"function {clean(key[1])}")
            stack.extend(waiting)
            continue
        if waiting:
            raise InvalidModel(f"function {clean(key[1])} calls itself")
        depth[key] = 1 + max((depth[c] for c in callees), default=0)
        size[key] = _inlined(functions[key].body, functions, size)
        check_limit("call_depth", depth[key], "depth of function calls", f"function {clean(key[1])}")


def _walk(graph: Graph):
    stack = [graph]
    while stack:
        for node in stack.pop().nodes:
            yield node
            stack.extend(node.graphs())


def _callees(graph: Graph, functions: dict) -> list[tuple]:
    keys = ((n.domain, n.op_type, n.overload) for n in _walk(graph))
    return list(dict.fromkeys(k for k in keys if k in functions))


def _inlined(graph: Graph, functions: dict, size: dict) -> int:
    return sum(size.get((n.domain, n.op_type, n.overload), 0) + 1 for n in _walk(graph))
