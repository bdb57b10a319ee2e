"""Dead code: pure nodes that nobody uses, and weights that no node uses."""

from __future__ import annotations

from ...ir.graph import Module
from ...ir.opdef import PURE
from ..manager import Context, module_pass


@module_pass("dce")
def dce(module: Module, ctx: Context) -> None:
    """Erase pure nodes without users, last first, so that one sweep is enough; then forget unused weights.

    Given:
        %1 = exp(%x)
        %2 = neg(%x)
        return(%2)
    Result:
        %1 = neg(%x)
        return(%1)
    """
    for graph in module.all_graphs():
        for node in graph.reversed():
            if node.has(PURE) and not any(value.n_uses for value in node.results):
                node.erase()
                ctx.stats["dce"] += 1
    module.drop_unused_weights()
