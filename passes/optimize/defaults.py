"""Inputs with a default as constants: for formats that know no defaults, and to compute with them in advance."""

from __future__ import annotations

from dataclasses import replace

from ...ir.graph import Graph, Module, Value
from ...ir.infer import propagate
from ...ir.weights import Weight
from ..manager import Context, module_pass


@module_pass("fix-defaults")
def fix_defaults(module: Module, ctx: Context) -> None:
    """Replace each input that all signatures of its graph give the same default by that constant.

    Given:
        weight "w" param : f32[2] = [1.0, 2.0]
        %1 = add(%x, %w)
        signature "main" = @main("x" = 0, "w" default "w" = 1) -> ("y" = 0)
    Result:
        %1 = add(%x, %w)
        signature "main" = @main("x" = 0) -> ("y" = 0)
    """
    for graph in module.graphs.values():
        for index in reversed(range(len(graph.inputs))):
            weight = _default(module, graph, index)
            if weight is None:
                continue
            fix_input(module, graph, index, module.constant(weight))
            ctx.stats["fix-defaults"] += 1


def fix_input(module: Module, graph: Graph, index: int, constant: Value) -> None:
    """Put a constant in the place of an input, in all signatures of its graph."""
    value = graph.inputs[index]
    users = value.users
    value.replace_uses(constant)
    graph.remove_input(index)
    _drop_slot(module, graph, index)
    propagate(users)


def _default(module: Module, graph: Graph, index: int) -> Weight | None:
    """The default of an input, where every signature of the graph has it."""
    found = {sig.inputs[index].default: None for sig in module.signatures.values() if sig.graph is graph}
    return next(iter(found)) if len(found) == 1 else None


def _drop_slot(module: Module, graph: Graph, index: int) -> None:
    for key, sig in list(module.signatures.items()):
        if sig.graph is graph:
            state = [(y, x - (x > index)) for y, x in sig.state if x != index]
            inputs = [*sig.inputs[:index], *sig.inputs[index + 1 :]]
            module.signatures[key] = replace(sig, inputs=inputs, state=state)
