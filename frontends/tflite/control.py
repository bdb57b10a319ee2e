"""IF and WHILE: other subgraphs become regions."""

from __future__ import annotations

from collections.abc import Sequence

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
    values = [c.operand(i) for i in range(len(c.operands))]
    types = c.reader.types(c.record["outputs"])
    known = [v.type if t.shape is not None else t for v, t in zip(values, types, strict=True)]
    regions = [c.reader.region(c.option(f"{name}_subgraph_index"), known) for name in ("cond", "body")]
    return c.b.call("tfl.while", values, regions=regions).results
