"""Pooling."""

from __future__ import annotations

from typing import Any

from .conv import window
from .importer import Call, Importer
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


@handles("LpPool")
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
def global_lp_pool(c: Importer, n: Call) -> Any:
    return c.b.global_lp_pool(n.x, p=int(n.attr("p", 2)))


@handles("MaxUnpool")
def max_unpool(c: Importer, n: Call) -> Any:
    x, indices, shape = n.take(3)
    kernel = _kernel(n)
    attrs = window(n, len(kernel), dilations=False)
    del attrs["auto_pad"]
    return c.b.max_unpool(x, indices, shape, kernel_shape=kernel, **attrs)
