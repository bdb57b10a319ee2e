"""Gathers, scatters and one-hot."""

from __future__ import annotations

import numpy as np

from ...ir.errors import Unsupported
from ...ir.value import Value
from .registry import Call, handles


@handles("GATHER")
def gather(c: Call) -> Value:
    if c.option("batch_dims"):
        raise Unsupported("GATHER with batch dims", code="U240")
    return c.b.gather(c.x, c.operand(1), axis=c.option("axis"))


@handles("GATHER_ND")
def gather_nd(c: Call) -> Value:
    return c.b.gather_nd(c.x, c.operand(1), batch_dims=0)


@handles("EMBEDDING_LOOKUP")
def embedding_lookup(c: Call) -> Value:
    return c.b.gather(c.operand(1), c.x, axis=0)


@handles("SCATTER_ND")
def scatter_nd(c: Call) -> Value:
    return c.b.call("tfl.scatter_nd", (c.x, c.operand(1), c.operand(2))).result


@handles("ONE_HOT")
def one_hot(c: Call) -> Value:
    depth = int(np.asarray(c.ints(1))[0])
    return c.b.call(
        "tfl.one_hot", (c.x, c.operand(2), c.operand(3)), {"depth": depth, "axis": c.option("axis", -1)}
    ).result


@handles("WHERE")
def where(c: Call) -> Value:
    return c.b.call("tfl.where", (c.x,)).result
