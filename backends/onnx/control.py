"""Control flow."""

from __future__ import annotations

from ...ir.graph import Node
from .emitter import Emitter, Subgraph
from .registry import emits


@emits("if")
def if_(e: Emitter, n: Node) -> None:
    """Captured values are simply used by their outer names."""
    graphs = {}
    for name, region in zip(("then_branch", "else_branch"), n.regions, strict=True):
        graphs[name] = Subgraph(region, dict(zip(region.inputs, n.operands[1:], strict=True)), [])
    e.node("If", n.operands[:1], graphs=graphs)


@emits("loop")
def loop(e: Emitter, n: Node) -> None:
    (body,) = n.regions
    carried = n.attr("carried")
    captures = dict(zip(body.inputs[2 + carried :], n.operands[2 + carried :], strict=True))
    e.node("Loop", n.operands[: 2 + carried], graphs={"body": Subgraph(body, captures, body.inputs[: 2 + carried])})


@emits("scan", since=9)
def scan(e: Emitter, n: Node) -> None:
    (body,) = n.regions
    own = n.attr("carried") + n.attr("num_scan_inputs")
    captures = dict(zip(body.inputs[own:], n.operands[own:], strict=True))
    lists = {name: n.attr(name) or None for name in n.attrs if name.startswith("scan_")}
    graphs = {"body": Subgraph(body, captures, body.inputs[:own])}
    e.node("Scan", n.operands[:own], graphs=graphs, num_scan_inputs=n.attr("num_scan_inputs"), **lists)
