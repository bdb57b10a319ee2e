"""Rows of tables that no index can reach: behind the largest that clips, arg_max, remainders and constants let through.

    %i = clip(%ids, 0, 99)
    %y = gather(%table, %i)          : table f32[512, 64] becomes f32[100, 64]

Rows in front of the smallest index stay: every index would have to be made smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.graph import Module, Node, Value
from ...ir.tensor import ArrayTensor
from ..optimize.reach import Reach, note, reach, union

UNREACHED = "unreached-row"


def drop_unreached_rows(module: Module) -> list[dict[str, Any]]:
    """Cut tables behind the last row that is looked up; a row of the report for each."""
    reaches: dict[Value, Reach] = {}
    for graph in module.all_graphs():
        for node in graph.nodes():
            note(node, reaches)
    lookups: dict[Value, list[Node]] = {}
    for node in module.all_nodes("gather"):
        lookups.setdefault(node.operands[0], []).append(node)  # type: ignore[arg-type]
    made = [_cut(module, table, nodes, reaches) for table, nodes in lookups.items() if table.is_const]
    return [row for row in made if row is not None]


def _cut(module: Module, table: Value, nodes: Sequence[Node], reaches: dict[Value, Reach]) -> dict[str, Any] | None:
    rank = table.rank or 0
    if rank < 2 or len(nodes) != table.n_uses or any(node.attr("axis") % rank for node in nodes):
        return None
    found = [reach(node.operands[1], reaches) for node in nodes]
    rows = int(table.shape[0])  # type: ignore[index, arg-type]
    lowest, last = union(found)
    if lowest < 0 or last + 1 >= rows:
        return None
    last = int(last)
    tail, weight = table.shape[1:], table.weight  # type: ignore[index]
    assert weight is not None
    kept = weight.tensor.region((0,) * rank, (last + 1, *tail))  # type: ignore[arg-type]
    origin = f"rows 0 to {last} of {weight.origin or weight.wanted}"
    new = module.add_weight(weight.wanted, ArrayTensor(np.ascontiguousarray(kept)), weight.role, origin)
    new.weight.aliases = weight.aliases  # type: ignore[union-attr]
    table.replace_uses(new)
    return {"pass": "dead-weights", "layer": new.weight.key, "kind": UNREACHED, "count": rows - last - 1,  # type: ignore[union-attr]
            "proof": f"every index that is looked up is from 0 to {last}", "bound": 0.0}  # fmt: skip
