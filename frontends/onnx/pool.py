"""Pooling."""

from __future__ import annotations

import math
from typing import Any

from ...ir.graph import Value
from .conv import window
from .importer import Call, Importer, rank_of
from .registry import handles


def _kernel(n: Call) -> tuple[int, ...]:
    kernel = tuple(n.attr("kernel_shape") or ())
    if not kernel or min(kernel) < 1:
        raise n.invalid(f"kernel_shape {list(kernel)} must have entries above 0")
    if n.x.rank is not None and n.x.rank != len(kernel) + 2:
        raise n.invalid(f"kernel_shape {list(kernel)} does not fit an input of rank {n.x.rank}")
    return kernel


@handles("MaxPool")
def max_pool(c: Importer, n: Call) -> Any:
    kernel = _kernel(n)
    attrs = window(n, len(kernel))
    attrs |= {"kernel_shape": kernel, "ceil_mode": bool(n.attr("ceil_mode", 0))}
    if not n.wants(1):
        return c.b.max_pool(n.x, **attrs)
    return c.b.max_pool_with_indices(n.x, storage_order=n.attr("storage_order", 0), **attrs)


@handles("AveragePool")
def average_pool(c: Importer, n: Call) -> Any:
    kernel = _kernel(n)
    return c.b.average_pool(
        n.x,
        kernel_shape=kernel,
        ceil_mode=bool(n.attr("ceil_mode", 0)),
        count_include_pad=bool(n.attr("count_include_pad", 0)),
        **window(n, len(kernel)),
    )


def _root(c: Importer, y: Value, p: float, count: int = 1) -> Value:
    """(count * y) ** (1 / p)."""
    return c.b.pow(c.b.mul(y, c.scalar(count, y)) if count > 1 else y, c.scalar(1 / p, y))


@handles("LpPool")
def lp_pool_real(c: Importer, n: Call) -> Any:
    """Opset 1 has a real `p`: unless it is whole, the root of a sum, which is a mean that counts the padding's zeros."""
    p, kernel = n.attr("p", 2.0), _kernel(n)
    if float(p).is_integer():
        return lp_pool(c, n)
    powers = c.b.pow(c.b.abs(n.x), c.scalar(p, n.x))
    mean = c.b.average_pool(powers, kernel_shape=kernel, count_include_pad=True, **window(n, len(kernel)))
    return _root(c, mean, p, math.prod(kernel))


@handles("LpPool", since=2)
def lp_pool(c: Importer, n: Call) -> Any:
    kernel = _kernel(n)
    ceil = bool(n.attr("ceil_mode", 0))
    return c.b.lp_pool(n.x, kernel_shape=kernel, ceil_mode=ceil, p=int(n.attr("p", 2)), **window(n, len(kernel)))


@handles("GlobalAveragePool")
def global_average_pool(c: Importer, n: Call) -> Any:
    return c.b.global_average_pool(n.x)


@handles("GlobalMaxPool")
def global_max_pool(c: Importer, n: Call) -> Any:
    return c.b.global_max_pool(n.x)


@handles("GlobalLpPool")
def global_lp_pool_real(c: Importer, n: Call) -> Any:
    """Opset 1 has a real `p`."""
    p = n.attr("p", 2.0)
    if float(p).is_integer():
        return global_lp_pool(c, n)
    powers = c.b.pow(c.b.abs(n.x), c.scalar(p, n.x))
    return _root(c, c.b.reduce_sum(powers, tuple(range(2, rank_of(n.x, n))), keepdims=True), p)


@handles("GlobalLpPool", since=2)
def global_lp_pool(c: Importer, n: Call) -> Any:
    return c.b.global_lp_pool(n.x, p=int(n.attr("p", 2)))


@handles("MaxUnpool")
def max_unpool(c: Importer, n: Call) -> Any:
    x, indices, shape = n.take(3)
    kernel = _kernel(n)
    attrs = window(n, len(kernel), dilations=False)
    del attrs["auto_pad"]
    return c.b.max_unpool(x, indices, shape, kernel_shape=kernel, **attrs)
