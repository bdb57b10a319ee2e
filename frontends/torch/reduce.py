"""aten reductions, arg-reductions, scans, sorting. Must not import torch."""

from __future__ import annotations

import math
from typing import Any

from ...ir.dims import Dim
from ...ir.errors import InvalidModel, Unsupported
from ...ir.expr import Expr
from ...ir.types import BOOL, I64
from ...ir.value import Value
from .context import Context
from .registry import Bool, Dtype, Int, Ints, Number, Scalar, Size, Tensor, handles


def _reduce(c: Context, op: str, x: Value, dim: tuple[int, ...] | None, keepdim: bool) -> Value:
    """An IR reduction over `dim` (None and (): all). Rank 0 has no axis to reduce: it passes unless the op computes."""
    axes = c.axes(x, dim)
    if not axes:
        return c.b.squeeze(_reduce(c, op, c.b.unsqueeze(x, (0,)), (0,), True), (0,))
    return c.b.call(op, (x, axes), {"keepdims": keepdim}).result


_SIMPLE = {"sum": "reduce_sum", "mean": "reduce_mean", "prod": "reduce_prod"}


def _arithmetic(op: str) -> Any:
    def handler(
        c: Context, self: Tensor, dim: Ints | None = None, keepdim: Bool = False, dtype: Dtype | None = None
    ) -> Value:
        return _reduce(c, op, c.cast(self, c.dtype), dim, keepdim)

    return handler


for _aten, _op in _SIMPLE.items():
    handles(f"aten.{_aten}")(_arithmetic(_op))


@handles("aten.amax", "aten.amin")
def amax(c: Context, self: Tensor, dim: Ints = (), keepdim: Bool = False) -> Value:
    return _extreme(c, "amax" in c.node.target, self, dim, keepdim)


def _extreme(c: Context, largest: bool, x: Value, dim: tuple[int, ...] | None, keepdim: bool) -> Value:
    if x.dtype is BOOL:
        return _reduce(c, "reduce_any" if largest else "reduce_all", x, dim, keepdim)
    return _reduce(c, "reduce_max" if largest else "reduce_min", x, dim, keepdim)


@handles("aten.max", "aten.min")
def max_all(c: Context, self: Tensor) -> Value:
    return _extreme(c, ".max" in c.node.target, self, None, False)


@handles("aten.max.dim", "aten.min.dim")
def max_dim(c: Context, self: Tensor, dim: Int, keepdim: Bool = False) -> tuple[Value | None, ...]:
    """Values and the position of the first of them."""
    largest = ".max" in c.node.target
    values = _extreme(c, largest, self, (dim,), keepdim)
    return values, _position(c, largest, self, dim, keepdim) if c.is_used(1) else None


def _position(c: Context, largest: bool, x: Value, dim: int, keepdim: bool) -> Value:
    x = c.cast(x, I64) if x.dtype is BOOL else x
    if c.rank(x) == 0:
        return c.const(0, I64)
    op = c.b.arg_max if largest else c.b.arg_min
    return op(x, axis=c.axis(x, dim), keepdims=keepdim)


@handles("aten.aminmax")
def aminmax(c: Context, self: Tensor, dim: Int | None = None, keepdim: Bool = False) -> tuple[Value, ...]:
    axes = None if dim is None else (dim,)
    return _extreme(c, False, self, axes, keepdim), _extreme(c, True, self, axes, keepdim)


@handles("aten.argmax", "aten.argmin")
def argmax(c: Context, self: Tensor, dim: Int | None = None, keepdim: Bool = False) -> Value:
    largest = "argmax" in c.node.target
    if dim is not None:
        return _position(c, largest, self, dim, keepdim)
    found = _position(c, largest, c.reshape(self, (c.count(self, range(c.rank(self))),)), 0, False)
    return c.reshape(found, (1,) * c.rank(self)) if keepdim else found


@handles("aten.any", "aten.all")
def any_(c: Context, self: Tensor, dim: Ints | None = None, keepdim: Bool = False) -> Value:
    op = "reduce_any" if ".any" in c.node.target else "reduce_all"
    return c.cast(_reduce(c, op, c.cast(self, BOOL), dim, keepdim), c.dtype)


@handles("aten.count_nonzero")
def count_nonzero(c: Context, self: Tensor, dim: Ints | None = None) -> Value:
    return _reduce(c, "reduce_sum", c.cast(c.cast(self, BOOL), I64), dim, False)


@handles("aten.logsumexp")
def logsumexp(c: Context, self: Tensor, dim: Ints, keepdim: Bool = False) -> Value:
    return _reduce(c, "reduce_log_sum_exp", c.as_float(self), dim, keepdim)


@handles("aten.var", "aten.std", "aten.var_mean", "aten.std_mean")
def var(
    c: Context,
    self: Tensor,
    dim: Any = None,
    correction: Scalar | None = None,
    keepdim: Bool = False,
    unbiased: Bool = True,
) -> Any:
    """Mean squared distance from the mean, over n - correction (1 unless told otherwise)."""
    if isinstance(dim, bool):  # var(self, unbiased)
        dim, unbiased = None, dim
    axes = c.axes(self, _dims(dim))
    b = c.b
    mean = _reduce(c, "reduce_mean", self, axes, True)
    squares = _reduce(c, "reduce_sum", b.square(b.sub(self, mean)), axes, keepdim)
    count = c.count(self, axes)
    less = (1 if unbiased else 0) if correction is None else correction
    made = b.div(squares, _degrees(c, count, less, self))
    made = b.sqrt(made) if ".std" in c.node.target else made
    if "_mean" not in c.node.target:
        return made
    return made, mean if keepdim else b.squeeze(mean, axes)


def _dims(dim: Any) -> tuple[int, ...] | None:
    if dim is None:
        return None
    dims = dim if isinstance(dim, tuple) else (dim,)
    if not all(isinstance(item, int) for item in dims):
        raise InvalidModel("dimensions that are no ints")
    return dims


def _degrees(c: Context, count: Dim, less: Any, like: Value) -> Value:
    """max(0, count - less) in the dtype of `like`."""
    assert like.dtype is not None
    if isinstance(less, Expr) or not isinstance(less, int | float):
        raise Unsupported("a correction that is known only at run time")
    if not isinstance(count, Expr):
        return c.like(float(max(0, count - less)), like)
    total = c.cast(c.symbols.value(c.b, count), like.dtype)
    return c.b.max(c.b.sub(total, c.like(float(less), like)), c.like(0.0, like))


@handles("aten.linalg_vector_norm", "aten.norm", "aten.frobenius_norm")
def vector_norm(
    c: Context, self: Tensor, ord: Number | None = None, p: Number | None = None, dim: Ints | None = None,
    keepdim: Bool = False, dtype: Dtype | None = None,
) -> Value:  # fmt: skip
    """(sum |x|^p)^(1/p), with the limits for p = 0 and the infinities."""
    order = next((float(item) for item in (ord, p) if item is not None), 2.0)
    return _norm(c, c.cast(self, c.dtype), order, dim, keepdim)


def _norm(c: Context, x: Value, order: float, dim: tuple[int, ...] | None, keepdim: bool) -> Value:
    b = c.b
    if order in (1.0, 2.0):
        return _reduce(c, "reduce_l1" if order == 1.0 else "reduce_l2", x, dim, keepdim)
    if math.isinf(order):
        return _extreme(c, order > 0, b.abs(x), dim, keepdim)
    if order == 0:
        return _reduce(c, "reduce_sum", c.cast(c.cast(x, BOOL), x.dtype), dim, keepdim)  # type: ignore[arg-type]
    total = _reduce(c, "reduce_sum", b.pow(b.abs(x), c.like(order, x)), dim, keepdim)
    return b.pow(total, c.like(1 / order, x))


@handles("aten.cdist", "aten._cdist_forward", "aten.pairwise_distance")
def cdist(
    c: Context,
    x1: Tensor,
    x2: Tensor,
    p: Number = 2.0,
    compute_mode: Any = None,
    eps: Number = 1e-6,
    keepdim: Bool = False,
) -> Value:
    """Distances of all rows of x1 from all rows of x2, or of rows at the same place (with eps added to the difference)."""
    if "pairwise" in c.node.target:
        gap = c.b.sub(x1, x2)
        return _norm(c, c.b.add(gap, c.like(eps, gap)), float(p), (-1,), keepdim)
    gap = c.b.sub(c.b.unsqueeze(x1, (-2,)), c.b.unsqueeze(x2, (-3,)))
    return _norm(c, gap, float(p), (-1,), False)


@handles("aten.cumsum", "aten.cumprod")
def cumulative(c: Context, self: Tensor, dim: Int, dtype: Dtype | None = None) -> Value:
    x = c.cast(self, c.dtype)
    if c.rank(x) == 0:
        return x
    axis = c.const(c.axis(x, dim), I64)
    return c.b.cumsum(x, axis) if "cumsum" in c.node.target else c.b.cumprod(x, axis)


@handles("aten.topk")
def topk(
    c: Context, self: Tensor, k: Size, dim: Int = -1, largest: Bool = True, sorted: Bool = True
) -> tuple[Value, ...]:
    if c.rank(self) == 0:
        return self, c.const(0, I64)
    return c.b.topk(self, c.sizes((k,)), axis=c.axis(self, dim), largest=largest, sorted=True)


@handles("aten.sort", "aten.argsort", "aten.msort")
def sort(c: Context, self: Tensor, dim: Int = -1, descending: Bool = False, stable: Bool | None = False) -> Any:
    """All elements as a topk; equal ones keep their order."""
    name = c.node.target.split(".")[1]
    dim = 0 if name == "msort" else dim
    if c.rank(self) == 0:
        values, positions = self, c.const(0, I64)
    else:
        axis = c.axis(self, dim)
        size = c.sizes((c.size(self, axis),))
        x = c.cast(self, I64) if self.dtype is BOOL else self
        values, positions = c.b.topk(x, size, axis=axis, largest=descending, sorted=True)
        values = c.cast(values, self.dtype) if self.dtype is not None else values
    return {"sort": (values, positions), "argsort": positions, "msort": values}[name]


@handles("aten.cosine_similarity")
def cosine_similarity(c: Context, x1: Tensor, x2: Tensor, dim: Int = 1, eps: Number = 1e-8) -> Value:
    """The dot product of the vectors, each divided by its length (at least eps)."""
    (x, y), _ = c.promoted(x1, x2)
    axis = (c.axis(max(c.rank(x), c.rank(y)), dim) - max(c.rank(x), c.rank(y)),)
    scaled = []
    for item in (x, y):
        length = _reduce(c, "reduce_l2", item, axis, True)
        scaled.append(c.b.div(item, c.b.max(length, c.like(eps, item))))
    return _reduce(c, "reduce_sum", c.b.mul(*scaled), axis, False)


@handles("aten.mse_loss", "aten.l1_loss", "aten.smooth_l1_loss", "aten.huber_loss")
def loss(
    c: Context, self: Tensor, target: Tensor, reduction: Int = 1, beta: Number = 1.0, delta: Number = 1.0
) -> Value:
    """Distances of two tensors: each, their mean (1) or their sum (2)."""
    (x, y), _ = c.promoted(self, target)
    b, name = c.b, c.node.target.split(".")[1]
    gap = b.abs(b.sub(x, y))
    bound = c.like(beta if name == "smooth_l1_loss" else delta, gap)
    made = gap
    if name == "mse_loss":
        made = b.square(b.sub(x, y))
    elif name != "l1_loss":
        half = b.mul(c.like(0.5, gap), b.square(gap))
        near = b.div(half, bound) if name == "smooth_l1_loss" else half
        far = b.sub(gap, b.mul(c.like(0.5, gap), bound))
        far = far if name == "smooth_l1_loss" else b.mul(bound, far)
        made = b.where(b.less(gap, bound), near, far)
    if reduction not in (0, 1, 2):
        raise InvalidModel(f"loss reduction {reduction}")
    return made if reduction == 0 else _reduce(c, "reduce_mean" if reduction == 1 else "reduce_sum", made, None, False)
