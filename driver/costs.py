"""What a model costs, for `irc inspect --cost`: totals, by op, and the most expensive nodes with their formulas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .screen import size

if TYPE_CHECKING:
    from ..ir.cost import Cost
    from ..ir.graph import Module, Node
    from .screen import Screen

#: The longest formula that is shown as it is.
FORMULA = 40


@dataclass(frozen=True)
class Row:
    """One node's cost at the sizes; `numbers` are flops, bytes read and bytes written, None where a size stays open."""

    node: Node
    cost: Cost
    numbers: tuple[int, int, int] | None

    @property
    def flops(self) -> int:
        return self.numbers[0] if self.numbers else 0

    @property
    def moved(self) -> int:
        return self.numbers[1] + self.numbers[2] if self.numbers else 0


@dataclass(frozen=True)
class Costs:
    """Of the graph of the main signature, its symbols bound by `sizes`; `unknown` nodes have sizes that depend on data."""

    sizes: Mapping[str, int]
    rows: tuple[Row, ...]
    peak: int | None
    peak_at: str
    weights: int

    @property
    def flops(self) -> int:
        return sum(row.flops for row in self.rows)

    @property
    def moved(self) -> int:
        return sum(row.moved for row in self.rows)

    @property
    def unknown(self) -> int:
        return sum(row.numbers is None for row in self.rows)


def measure(module: Module) -> Costs:
    """Costs at the sizes that `--shape` gave, or else at small sample sizes of the open dims."""
    from ..ir.analysis import weight_bytes
    from ..ir.cost import cost, peak_memory
    from ..kernels.inputs import symbol_sizes

    graph = module.signature.graph
    sizes = symbol_sizes(module, graph, {})
    made = [(node, cost(node)) for node in graph.nodes()]
    peak = peak_memory(graph, sizes)
    at = "" if peak is None or peak.node is None else place(peak.node)
    rows = tuple(Row(node, found, found.numbers(sizes)) for node, found in made)
    return Costs(sizes, rows, None if peak is None else peak.nbytes, at, weight_bytes(module))


def place(node: Node) -> str:
    """Where a node stands in the user's model, else its name."""
    return str(node.loc) or (f"%{node.results[0].hint}" if node.results and node.results[0].hint else node.name)


def flops(count: float) -> str:
    """Operations for people: 4.1 GFLOP."""
    for unit in ("", "k", "M", "G"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}FLOP"
        count /= 1000
    return f"{count:.3g} TFLOP"


def show(costs: Costs, most: int, screen: Screen) -> None:
    """The totals, the table by op, and the `most` nodes that compute or move the most."""
    given = ", ".join(f"{name}={number}" for name, number in costs.sizes.items())
    screen.line(f"cost of one run{f' at {given} (--shape changes it)' if given else ''}:")
    screen.line(f"  arithmetic  {flops(costs.flops)}")
    screen.line(f"  bytes moved {size(costs.moved)}, {size(costs.weights)} of weights")
    if costs.peak is not None:
        screen.line(
            f"  activations {size(costs.peak)} at once at most{f', at {costs.peak_at}' if costs.peak_at else ''}"
        )
    if costs.unknown:
        screen.line(f"  unknown     {costs.unknown} nodes whose sizes depend on data are not counted")
    screen.table(("op", "count", "FLOP", "share", "moved", "weights"), _by_op(costs))
    shown = sorted(costs.rows, key=lambda row: (-row.flops, -row.moved))[:most]
    if shown:
        screen.table(("op", "FLOP", "formula", "moved", "where"), [_node_row(row) for row in shown])


def _by_op(costs: Costs) -> list[tuple[Any, ...]]:
    sums: dict[str, list[int]] = {}
    for row in costs.rows:
        found = sums.setdefault(row.node.name, [0, 0, 0, 0])
        for index, number in enumerate((1, row.flops, row.moved, row.cost.weights)):
            found[index] += number
    ranked = sorted(sums.items(), key=lambda item: (-item[1][1], -item[1][2], item[0]))
    total = costs.flops or 1
    return [
        (name, count, flops(work), f"{100 * work / total:.1f} %", size(moved), size(weights))
        for name, (count, work, moved, weights) in ranked
    ]


def _node_row(row: Row) -> tuple[Any, ...]:
    formula = str(row.cost.flops) if row.cost.flops is not None and not isinstance(row.cost.flops, int) else ""
    return (
        row.node.name,
        flops(row.flops) if row.numbers else "?",
        formula if len(formula) <= FORMULA else "...",
        size(row.moved),
        place(row.node),
    )


def data(costs: Costs) -> dict[str, Any]:
    """The same for --json: numbers, and formulas in full."""
    return {
        "sizes": dict(costs.sizes),
        "flops": costs.flops,
        "bytes_moved": costs.moved,
        "weight_bytes": costs.weights,
        "peak_activation_bytes": costs.peak,
        "peak_at": costs.peak_at,
        "nodes": [
            {
                "op": row.node.name,
                "where": place(row.node),
                "flops": row.numbers[0] if row.numbers else None,
                "read": row.numbers[1] if row.numbers else None,
                "written": row.numbers[2] if row.numbers else None,
                "weights": row.cost.weights,
                "formulas": [None if dim is None else str(dim) for dim in row.cost[:3]],
            }
            for row in costs.rows
        ],
    }
