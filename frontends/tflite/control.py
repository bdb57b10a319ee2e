"""IF and WHILE: other subgraphs become regions."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.types import join
from ...ir.value import Value
from .registry import Call, handles


@handles("IF")
def if_(c: Call) -> Sequence[Value]:
    cond = c.x if c.x.rank == 0 else c.b.reshape(c.x, ())
    captures = [c.operand(i) for i in range(1, len(c.operands))]
    types = [v.type for v in captures]
    regions = [c.reader.region(c.option(f"{name}_subgraph_index"), types) for name in ("then", "else")]
    return c.b.call("if", (cond, *captures), regions=regions).results


@handles("WHILE")
def while_(c: Call) -> Sequence[Value]:
    """The body is read once with the types of the operands, and again where it changes them (growing tensors)."""
    values = [c.operand(i) for i in range(len(c.operands))]
    types = [v.type for v in values]
    body = c.reader.region(c.option("body_subgraph_index"), types)
    if len(body.outputs) == len(types):
        kept = [join(before, after.type) for before, after in zip(types, body.outputs, strict=True)]
        if kept != types:
            body.clear()
            types = kept
            body = c.reader.region(c.option("body_subgraph_index"), types)
    cond = c.reader.region(c.option("cond_subgraph_index"), types)
    return c.b.call("tfl.while", values, regions=(cond, body)).results
