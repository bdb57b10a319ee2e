"""Float kernels a cache-sized block at a time: widen, compute in float64, round once, next block.

    blockwise(np.exp, x)                            # elementwise
    along(softmax, x, axis=-1)                      # x seen as [outer, axis, inner]; blocks never cut the axis

The functions are plain numpy on float64 arrays; what they hold in between stays in cache and no float64 copy of a large
tensor is made. Imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from .numeric import narrow

Array = np.ndarray
Function = Callable[[Array], Array]

#: Elements of a block: 128 KB in float64, a few of which fit a core's cache.
BLOCK = 1 << 14


def blockwise(function: Function, x: Array, dtype: np.dtype | None = None) -> Array:
    """function(x in float64) rounded once to `dtype` (default: x's), for a function of single elements."""
    target = x.dtype if dtype is None else dtype
    if x.size <= BLOCK:
        return narrow(np.asarray(function(x.astype(np.float64))), target)
    y = np.empty(x.shape, target)
    source, made = np.ascontiguousarray(x).reshape(-1), y.reshape(-1)
    for start in range(0, x.size, BLOCK):
        part = slice(start, start + BLOCK)
        _round_into(made[part], function(source[part].astype(np.float64)))
    return y


def along(
    function: Callable[..., Array], x: Array, axis: int, end: int | None = None, parameters: Sequence[Array] = ()
) -> Array:
    """function(block [outer, n, inner] in float64, *parameters) of the same shape, rounded once, over x [..., n, ...].

    The middle axis is `axis`, or the axes from `axis` to before `end` in one (none: n is 1); the function may reduce over
    it. Parameters broadcast to the block and are cut as it is.
    """
    first = axis % max(x.ndim, 1) if end is None else axis
    last = first + 1 if end is None else end
    n, inner = math.prod(x.shape[first:last]), math.prod(x.shape[last:])
    view = x.reshape(math.prod(x.shape[:first]), n, inner)
    if x.size <= BLOCK:
        return narrow(np.asarray(function(view.astype(np.float64), *parameters)), x.dtype).reshape(x.shape)
    y = np.empty(view.shape, x.dtype)
    wide = max(1, min(inner, BLOCK // max(n, 1)))
    tall = max(1, BLOCK // max(n * wide, 1))
    for top in range(0, view.shape[0], tall):
        for left in range(0, inner, wide):
            part = (slice(top, top + tall), slice(None), slice(left, left + wide))
            cut = (
                p[tuple(s if d > 1 else slice(None) for s, d in zip(part, p.shape, strict=True))] for p in parameters
            )
            _round_into(y[part], function(view[part].astype(np.float64), *cut))
    return y.reshape(x.shape)


def _round_into(y: Array, made: Array) -> None:
    y[...] = made if y.dtype in (np.float32, np.float64) else narrow(made, y.dtype)
