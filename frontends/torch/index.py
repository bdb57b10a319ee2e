"""aten indexing: index, index_put, gather, scatter, embedding, nonzero. Must not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.dims import Dim
from ...ir.errors import InvalidModel, Unsupported
from ...ir.types import BOOL, I64, U8
from ...ir.value import Value
from .context import Context
from .registry import Bool, Int, Number, Operand, OptionalTensors, Str, Tensor, handles


def _index_value(c: Context, index: Value) -> Value:
    return index if index.dtype is I64 else c.cast(index, I64)


@handles("aten.embedding")
def embedding(
    c: Context,
    weight: Tensor,
    indices: Tensor,
    padding_idx: Any = -1,
    scale_grad_by_freq: Bool = False,
    sparse: Bool = False,
) -> Value:
    return c.b.gather(weight, _index_value(c, indices), axis=0)


@handles("aten.index_select")
def index_select(c: Context, self: Tensor, dim: Int, index: Tensor) -> Value:
    if c.rank(self) == 0:
        return self
    index = _index_value(c, index)
    index = c.b.unsqueeze(index, (0,)) if c.rank(index) == 0 else index
    return c.b.gather(self, index, axis=c.axis(self, dim))


@handles("aten.gather", "aten.take_along_dim")
def gather(
    c: Context, self: Tensor, dim: Int | None = None, index: Tensor | None = None, indices: Tensor | None = None
) -> Value:
    where = index if index is not None else indices
    if where is None or dim is None:
        raise Unsupported("gather without an index or dimension")
    where = _index_value(c, where)
    if c.rank(self) == 0:
        return c.b.expand(self, c.sizes(where.shape or ()))
    if "take_along_dim" in c.node.target:
        self, where = _aligned(c, self, where, c.axis(self, dim))
    return c.b.gather_elements(self, where, axis=c.axis(self, dim))


def _aligned(c: Context, x: Value, where: Value, axis: int) -> tuple[Value, Value]:
    """Both broadcast against each other on all axes but one."""
    shape = list(c.shape)
    own = [*shape[:axis], c.size(x, axis), *shape[axis + 1 :]]
    return c.b.expand(x, c.sizes(own)), c.b.expand(where, c.sizes(shape))


@handles("aten.take")
def take(c: Context, self: Tensor, index: Tensor) -> Value:
    """Positions in the flat tensor."""
    flat = c.reshape(self, (c.count(self, range(c.rank(self))),))
    return c.b.gather(flat, _index_value(c, index), axis=0)


# -------------------------------------------------------------------------------------------------------- index


class _Plan:
    """How `x[indices]` is done: the indexed dims in front, one row of positions per result element."""

    def __init__(self, c: Context, x: Value, indices: tuple[Value | None, ...]) -> None:
        self.columns, self.axes = _columns(c, indices)
        rank = c.rank(x)
        if not self.axes or self.axes[-1] >= rank:
            raise InvalidModel(f"{len(indices)} indices of a tensor of rank {rank}")
        self.rest = [axis for axis in range(rank) if axis not in self.axes]
        self.adjacent = self.axes == list(range(self.axes[0], self.axes[-1] + 1))
        self.width = max(c.rank(column) for column in self.columns)

    def rows(self, c: Context) -> Value:
        """The indices broadcast and stacked: [..., number of indexed dims]."""
        shape: tuple[Dim, ...] = ()
        for column in self.columns:
            shape = _broadcast(c, shape, column.shape or ())
        grown = [column if column.shape == shape else c.b.expand(column, c.sizes(shape)) for column in self.columns]
        stacked = [c.b.unsqueeze(column, (len(shape),)) for column in grown]
        return stacked[0] if len(stacked) == 1 else c.b.concat(*stacked, axis=len(shape))

    @property
    def result_perm(self) -> list[int] | None:
        """From (index dims, rest) to torch's order: index dims stand where adjacent indices stood, else in front."""
        if not self.adjacent or self.axes[0] == 0:
            return None
        before = self.axes[0]
        own = range(self.width)
        return [
            *(self.width + i for i in range(before)),
            *own,
            *(self.width + i for i in range(before, len(self.rest))),
        ]


def _broadcast(c: Context, a: tuple[Dim, ...], b: tuple[Dim, ...]) -> tuple[Dim, ...]:
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    return tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))


def _columns(c: Context, indices: Sequence[Value | None]) -> tuple[list[Value], list[int]]:
    """One integer index per indexed dimension; a mask stands for as many dimensions as it has."""
    columns, axes, axis = [], [], 0
    for index in indices:
        if index is None:
            axis += 1
        elif index.dtype in (BOOL, U8):
            positions = c.b.non_zero(c.cast(index, BOOL))
            for i in range(c.rank(index)):
                columns.append(c.b.gather(positions, c.const(i, I64), axis=0))
                axes.append(axis + i)
            axis += c.rank(index)
        else:
            columns.append(_index_value(c, index))
            axes.append(axis)
            axis += 1
    return columns, axes


@handles("aten.index", "aten._unsafe_index")
def index(c: Context, self: Tensor, indices: OptionalTensors) -> Value:
    """NumPy's advanced indexing."""
    plan = _Plan(c, self, indices)
    if len(plan.axes) == 1:
        return c.b.gather(self, plan.columns[0], axis=plan.axes[0])
    perm = (*plan.axes, *plan.rest)
    x = self if perm == tuple(range(len(perm))) else c.b.transpose(self, perm=perm)
    made = c.b.gather_nd(x, plan.rows(c))
    return made if plan.result_perm is None else c.b.transpose(made, perm=tuple(plan.result_perm))


@handles("aten.index_put", "aten._unsafe_index_put")
def index_put(c: Context, self: Tensor, indices: OptionalTensors, values: Tensor, accumulate: Bool = False) -> Value:
    """`self` with `values` written (or added) at the indexed places."""
    assert self.dtype is not None
    only = indices[0] if len(indices) == 1 else None
    if (
        only is not None
        and only.dtype is BOOL
        and c.rank(only) == c.rank(self)
        and c.rank(values) == 0
        and not accumulate
    ):
        return c.b.where(only, c.cast(values, self.dtype), self)
    plan = _Plan(c, self, indices)
    perm = (*plan.axes, *plan.rest)
    rows = plan.rows(c)
    moved = (*(rows.shape or ())[:-1], *(c.size(self, axis) for axis in plan.rest))
    order = plan.result_perm
    source = moved if order is None else tuple(moved[i] for i in order)
    updates = c.cast(values, self.dtype)
    updates = updates if updates.shape == source else c.b.expand(updates, c.sizes(source))
    if order is not None:
        updates = c.b.transpose(updates, perm=tuple(order.index(i) for i in range(len(order))))
    x = self if perm == tuple(range(len(perm))) else c.b.transpose(self, perm=perm)
    made = c.b.scatter_nd(x, rows, updates, reduction="add" if accumulate else "none")
    return made if x is self else c.b.transpose(made, perm=tuple(perm.index(i) for i in range(len(perm))))


# ------------------------------------------------------------------------------------------------------ scatter

_REDUCTIONS = {"add": "add", "multiply": "mul", "sum": "add", "prod": "mul", "amax": "max", "amin": "min"}


def _scatter(c: Context, x: Value, dim: int, where: Value, updates: Value, reduction: str) -> Value:
    """torch allows updates larger than the index; only its shape counts."""
    where = _index_value(c, where)
    if c.rank(x) == 0:
        raise Unsupported("scatter into a scalar")
    if updates.shape != where.shape:
        rank = c.rank(where)
        updates = c.b.slice(updates, (0,) * rank, c.sizes(where.shape or ()), tuple(range(rank)))
    return c.b.scatter_elements(x, where, updates, axis=c.axis(x, dim), reduction=reduction)


@handles("aten.scatter")
def scatter(
    c: Context,
    self: Tensor,
    dim: Int,
    index: Tensor,
    src: Tensor | None = None,
    value: Operand | None = None,
    reduce: Str | None = None,
) -> Value:
    assert self.dtype is not None
    if reduce is not None and reduce not in _REDUCTIONS:
        raise InvalidModel(f"scatter reduction {reduce!r}")
    updates = src if src is not None else c.b.expand(c.value(value, self.dtype), c.sizes(index.shape or ()))
    return _scatter(c, self, dim, index, updates, "none" if reduce is None else _REDUCTIONS[reduce])


@handles("aten.scatter_add")
def scatter_add(c: Context, self: Tensor, dim: Int, index: Tensor, src: Tensor) -> Value:
    return _scatter(c, self, dim, index, src, "add")


@handles("aten.scatter_reduce")
def scatter_reduce(
    c: Context, self: Tensor, dim: Int, index: Tensor, src: Tensor, reduce: Str, include_self: Bool = True
) -> Value:
    if reduce not in _REDUCTIONS or not include_self:
        raise Unsupported(f"scatter_reduce {reduce!r} with include_self={include_self}")
    return _scatter(c, self, dim, index, src, _REDUCTIONS[reduce])


def _by_slices(c: Context, x: Value, dim: int, where: Value, source: Value, reduction: str) -> Value:
    """Whole slices of `source` written at positions along `dim`."""
    axis, rank = c.axis(x, dim), c.rank(x)
    front = (axis, *(i for i in range(rank) if i != axis))
    moved, updates = (v if axis == 0 else c.b.transpose(v, perm=front) for v in (x, source))
    rows = c.b.unsqueeze(_index_value(c, where), (1,))
    made = c.b.scatter_nd(moved, rows, updates, reduction=reduction)
    return made if axis == 0 else c.b.transpose(made, perm=tuple(front.index(i) for i in range(rank)))


@handles("aten.index_add", "aten.index_copy")
def index_add(c: Context, self: Tensor, dim: Int, index: Tensor, source: Tensor, alpha: Number = 1) -> Value:
    scaled = source if alpha == 1 else c.b.mul(source, c.like(alpha, source))
    return _by_slices(c, self, dim, index, scaled, "add" if "index_add" in c.node.target else "none")


@handles("aten.index_fill")
def index_fill(c: Context, self: Tensor, dim: Int, index: Tensor, value: Operand) -> Value:
    assert self.dtype is not None
    shape = list(self.shape or ())
    shape[c.axis(self, dim)] = c.size(index, 0)
    return _by_slices(c, self, dim, index, c.b.expand(c.value(value, self.dtype), c.sizes(shape)), "none")


# ---------------------------------------------------------------------------------------------------- positions


@handles("aten.nonzero")
def nonzero(c: Context, self: Tensor) -> Value:
    """[count, rank]; the IR's op has the rank first."""
    return c.b.transpose(c.b.non_zero(c.cast(self, BOOL)), perm=(1, 0))


@handles("aten.argwhere")
def argwhere(c: Context, self: Tensor) -> Value:
    return nonzero(c, self)


@handles("aten.nonzero_numpy", "aten.where.default")
def nonzero_numpy(c: Context, self: Tensor | None = None, condition: Tensor | None = None) -> tuple[Value, ...]:
    x = self if self is not None else condition
    if x is None:
        raise InvalidModel("nonzero of nothing")
    positions = c.b.non_zero(c.cast(x, BOOL))
    return tuple(c.b.gather(positions, c.const(i, I64), axis=0) for i in range(c.rank(x)))


@handles("aten.masked_select")
def masked_select(c: Context, self: Tensor, mask: Tensor) -> Value:
    shape = c.sizes(_broadcast(c, self.shape or (), mask.shape or ()))
    return c.b.compress(c.b.expand(self, shape), c.reshape_flat(c.b.expand(c.cast(mask, BOOL), shape)))


@handles("aten.one_hot")
def one_hot(c: Context, self: Tensor, num_classes: Int = -1) -> Value:
    if num_classes < 0:
        raise Unsupported("one_hot whose number of classes depends on the data", hint="give num_classes")
    return c.b.one_hot(_index_value(c, self), c.const(num_classes, I64), c.ints((0, 1)), axis=-1)
