"""aten pooling. Must not import torch."""

from __future__ import annotations

from typing import Any

from ...ir.dims import Dim, dim_eq
from ...ir.errors import InvalidModel, Unsupported
from ...ir.expr import Expr
from ...ir.value import Value
from .context import Context
from .conv import batched, spread
from .registry import Bool, Int, Ints, Tensor, handles


def _spatial(c: Context) -> int:
    """1, 2 or 3, from the operator's name."""
    found = [n for n in (1, 2, 3) if f"{n}d" in c.node.target]
    return found[0]


def _window(c: Context, n: int, kernel: Ints, stride: Ints, padding: Ints) -> dict[str, Any]:
    kernel = spread(kernel, n, "kernel_size")
    return {
        "kernel_shape": kernel,
        "strides": spread(stride, n, "stride") if stride else kernel,
        "pads": spread(padding, n, "padding") * 2,
    }


def _back(c: Context, y: Value, added: bool) -> Value:
    return c.b.squeeze(y, (0,)) if added else y


@handles("aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d")
def max_pool(
    c: Context,
    self: Tensor,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = (0,),
    dilation: Ints = (1,),
    ceil_mode: Bool = False,
) -> Value:
    n = _spatial(c)
    x, added = batched(c, self, n + 2)
    window = _window(c, n, kernel_size, stride, padding)
    y = c.b.max_pool(x, **window, dilations=spread(dilation, n, "dilation"), ceil_mode=ceil_mode)
    return _back(c, y, added)


@handles("aten.max_pool1d_with_indices", "aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices")
def max_pool_with_indices(
    c: Context,
    self: Tensor,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = (0,),
    dilation: Ints = (1,),
    ceil_mode: Bool = False,
) -> tuple[Value | None, ...]:
    """torch counts positions within a channel, the IR within the whole tensor."""
    if not c.is_used(1):
        return max_pool(c, self, kernel_size, stride, padding, dilation, ceil_mode), None
    n = _spatial(c)
    x, added = batched(c, self, n + 2)
    window = _window(c, n, kernel_size, stride, padding)
    y, flat = c.b.max_pool_with_indices(x, **window, dilations=spread(dilation, n, "dilation"), ceil_mode=ceil_mode)
    plane: Dim = c.count(x, range(2, n + 2))
    indices = c.b.mod(flat, c.symbols.value(c.b, plane))
    return _back(c, y, added), _back(c, indices, added)


@handles("aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d")
def avg_pool(
    c: Context, self: Tensor, kernel_size: Ints, stride: Ints = (), padding: Ints = (0,), ceil_mode: Bool = False,
    count_include_pad: Bool = True, divisor_override: Int | None = None,
) -> Value:  # fmt: skip
    n = _spatial(c)
    x, added = batched(c, self, n + 2)
    window = _window(c, n, kernel_size, stride, padding)
    if divisor_override is None:
        y = c.b.average_pool(x, **window, ceil_mode=ceil_mode, count_include_pad=count_include_pad)
        return _back(c, y, added)
    if ceil_mode or divisor_override == 0:
        raise Unsupported("average pooling with a divisor of its own and ceil_mode")
    elements = 1
    for size in window["kernel_shape"]:
        elements *= size
    y = c.b.average_pool(x, **window, count_include_pad=True)
    return _back(c, c.b.mul(y, c.like(elements / divisor_override, y)), added)


def _adaptive(c: Context, op: str, x: Value, output_size: Ints) -> Value:
    n = _spatial(c)
    x, added = batched(c, x, n + 2)
    sizes = spread(output_size, n, "output_size")
    if all(size == 1 for size in sizes):
        name = {"adaptive_average_pool": "global_average_pool", "adaptive_max_pool": "global_max_pool"}[op]
        return _back(c, c.b.call(name, (x,)).result, added)
    if any(size < 1 for size in sizes):
        raise InvalidModel(f"output size {sizes}")
    if all(dim_eq(size, c.size(x, 2 + i)) for i, size in enumerate(sizes)):
        return _back(c, x, added)
    window = _even_windows(c, x, sizes)
    if window is not None:
        name = "average_pool" if op == "adaptive_average_pool" else "max_pool"
        return _back(c, c.b.call(name, (x,), window).result, added)
    return _back(c, c.b.call(op, (x,), {"output_size": sizes}).result, added)


def _even_windows(c: Context, x: Value, sizes: tuple[int, ...]) -> dict[str, Any] | None:
    """The plain pooling that an adaptive one is when every input size is a multiple of the output size."""
    spatial = [c.size(x, 2 + i) for i in range(len(sizes))]
    if any(isinstance(dim, Expr) or dim % size for dim, size in zip(spatial, sizes, strict=True)):
        return None
    kernel = tuple(dim // size for dim, size in zip(spatial, sizes, strict=True))  # type: ignore[operator]
    return {"kernel_shape": kernel, "strides": kernel, "pads": (0,) * (2 * len(sizes))}


@handles(
    "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.adaptive_avg_pool3d",
    "aten._adaptive_avg_pool2d", "aten._adaptive_avg_pool3d",
)  # fmt: skip
def adaptive_avg_pool(c: Context, self: Tensor, output_size: Ints) -> Value:
    return _adaptive(c, "adaptive_average_pool", self, output_size)


@handles("aten.adaptive_max_pool1d", "aten.adaptive_max_pool2d", "aten.adaptive_max_pool3d")
def adaptive_max_pool(c: Context, self: Tensor, output_size: Ints) -> tuple[Value | None, ...]:
    return _adaptive(c, "adaptive_max_pool", self, output_size), None
