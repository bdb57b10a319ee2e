"""Calls of functions, and operators of unknown domains."""

from __future__ import annotations

from ...ir.graph import Node
from .emitter import Emitter, Subgraph
from .registry import emits

OWN = ("domain", "op_type", "overload", "version", "types", "has", "gives", "graphs", "captures", "protos")


@emits("call")
def call(e: Emitter, n: Node) -> None:
    """A function of its own, or the one that another call has."""
    e.call(n.attr("name"), n.attr("domain"), n.attr("overload"), n.operands, n.regions[0])


@emits("opaque")
def opaque(e: Emitter, n: Node) -> None:
    """As it was read: absent operands and results at their places, attributes under their own names."""
    count = len(n.operands) - n.attr("captures")
    captured = n.operands[count:]
    present = iter(n.operands[:count])
    inputs = [next(present) if there else None for there in n.attrs.get("has", (True,) * count)]
    attrs = {_own_name(k): v for k, v in n.attrs.items() if k not in OWN}
    graphs: dict[str, Subgraph | list[Subgraph]] = {}
    for name, region in zip(n.attr("graphs"), n.regions, strict=True):
        own = len(region.inputs) - len(captured)
        made = Subgraph(region, dict(zip(region.inputs[own:], captured, strict=True)), region.inputs[:own])
        if name.endswith("*"):
            graphs.setdefault(name[:-1], []).append(made)  # type: ignore[union-attr]
        else:
            graphs[name] = made
    e.foreign(
        n.attr("op_type"),
        n.attr("domain"),
        n.attr("version"),
        inputs,
        attrs,
        graphs=graphs,
        overload=n.attr("overload"),
        gives=n.attrs.get("gives", (True,) * len(n.results)),
        protos=n.attrs.get("protos", ()),
    )


def _own_name(name: str) -> str:
    return name.removesuffix("_") if name.rstrip("_") in OWN else name
