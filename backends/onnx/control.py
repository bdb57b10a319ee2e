"""Control flow and operators of unknown domains."""

from __future__ import annotations

from ...ir.graph import Node
from .emitter import Emitter, Subgraph
from .registry import emits

OWN = ("domain", "op_type", "version", "types", "has")


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


@emits("opaque")
def opaque(e: Emitter, n: Node) -> None:
    """As it was read: absent operands at their places, attributes under their own names."""
    present = iter(n.operands)
    inputs = [next(present) if there else None for there in n.attrs.get("has", (True,) * len(n.operands))]
    attrs = {_own_name(k): v for k, v in n.attrs.items() if k not in OWN}
    e.foreign(n.attr("op_type"), n.attr("domain"), n.attr("version"), inputs, attrs)


def _own_name(name: str) -> str:
    return name.removesuffix("_") if name.rstrip("_") in OWN else name
