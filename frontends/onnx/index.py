"""Gather, scatter, one-hot and selection."""

from __future__ import annotations

from typing import Any

import numpy as np

from .importer import Call, Importer
from .registry import handles


@handles("Gather")
def gather(c: Importer, n: Call) -> Any:
    return c.b.gather(*n.inputs, axis=n.attr("axis", 0))


@handles("GatherElements")
def gather_elements(c: Importer, n: Call) -> Any:
    return c.b.gather_elements(*n.inputs, axis=n.attr("axis", 0))


@handles("GatherND")
def gather_nd(c: Importer, n: Call) -> Any:
    return c.b.gather_nd(*n.inputs, batch_dims=n.attr("batch_dims", 0))


@handles("Scatter", "ScatterElements")
def scatter_elements(c: Importer, n: Call) -> Any:
    return c.b.scatter_elements(*n.inputs, axis=n.attr("axis", 0), reduction=n.attr("reduction", "none"))


@handles("ScatterND")
def scatter_nd(c: Importer, n: Call) -> Any:
    return c.b.scatter_nd(*n.inputs, reduction=n.attr("reduction", "none"))


@handles("OneHot")
def one_hot(c: Importer, n: Call) -> Any:
    """`depth` may be of any number type and of shape [1]; the IR counts with i64 scalars."""
    indices, depth, values = n.inputs
    known = depth.scalar()  # type: ignore[union-attr]
    if known is not None:
        depth = c.const(np.asarray(int(known), np.int64))
    return c.b.one_hot(indices, depth, values, axis=n.attr("axis", -1))


@handles("NonZero")
def non_zero(c: Importer, n: Call) -> Any:
    return c.b.non_zero(n.x)


@handles("Compress")
def compress(c: Importer, n: Call) -> Any:
    axis = n.attr("axis")
    return c.b.compress(*n.inputs, **({} if axis is None else {"axis": axis}))


@handles("Unique", since=11)
def unique(c: Importer, n: Call) -> Any:
    axis = n.attr("axis")
    attrs = {"sorted": bool(n.attr("sorted", 1))} | ({} if axis is None else {"axis": axis})
    return c.b.call("unique", (n.x,), attrs).results


@handles("TensorScatter", since=24)
def tensor_scatter(c: Importer, n: Call) -> Any:
    return c.b.tensor_scatter(*n.take(3), axis=n.attr("axis", -2), mode=n.attr("mode", "linear"))
