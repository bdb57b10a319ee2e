"""Shape ops: they copy or count elements and compute none. Shape-like parameters are operands, as in newest ONNX.

Every rule works on symbolic dims and on known elements, so shape arithmetic resolves where it stands. Semantics of odd
cases (negative pads and steps, 0 and -1 in a reshape) are ONNX's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dims import Dim, Expr, ceildiv, dim_eq, dim_lt, dim_min
from ..errors import TypeInferError
from ..opdef import (
    MOVEMENT,
    PURE,
    SAME_QUANT,
    Axis,
    AxisMap,
    DtypeVar,
    OpDef,
    Sample,
    attr,
    ints,
    op,
    operand,
    optional,
    variadic,
)
from ..types import BOOL, I32, I64, INDEX, TensorType
from .rules import agree, passing, show
from .sampling import draw, i64
from .shapes import (
    UNBOUNDED,
    broadcast_shapes,
    entries,
    fresh_shape,
    moved_elems,
    norm_axes,
    norm_axis,
    operand_ints,
    python_slice,
    sliced_dim,
    vector_length,
)

T = DtypeVar("T")
MOVES = PURE | MOVEMENT | SAME_QUANT
#: Bytes that a process can address.
ADDRESSES = 1 << 47


def _pins(value: Any) -> tuple[None, ...] | None:
    """The axis row of a shape-like operand."""
    return None if value is None else (None,) * (value.rank or 0)


@op
class Reshape(OpDef):
    """The same elements in row-major order in another shape; 0 copies a dim unless `allowzero`, one -1 is inferred."""

    x = operand(T)
    shape = operand(INDEX)
    allowzero = attr(bool, False)
    traits = MOVES
    reads_elems = True

    def infer(self, x, shape, *, allowzero):
        target = entries(shape)
        if target is None:
            return TensorType(x.dtype, None)
        type_ = TensorType(x.dtype, _reshaped(x, target, allowzero))
        return moved_elems(type_, [x], lambda a: a)

    def axes(self, x, shape, *, allowzero):
        target = entries(shape)
        if x.shape is None or target is None:
            return None
        source, result = _kept_axes(x.shape, _reshaped(x, target, allowzero))
        return AxisMap((source, _pins(shape)), (result,))

    def samples(self, rng):
        for source, target in (((2, 3, 4), (4, -1)), ((2, 3, 4), (0, 12)), ((6,), (2, 3)), ((1,), ()), ((), (1, 1)),
                               ((0, 3), (3, 0, 2)), ((2, 3, 4), (2, 12))):  # fmt: skip
            allowzero = 0 in source
            yield Sample((draw(rng, source), i64(*target)), {"allowzero": allowzero}, ("shape",))
        yield Sample((draw(rng, (2, 6), I32), np.array([3, 4], np.int32)), {}, ("shape",))


def _reshaped(x: Any, target: Sequence[Dim | None], allowzero: bool) -> tuple[Dim, ...]:
    """The result shape of a reshape. Raises TypeInferError when it surely does not fit."""
    dims: list[Dim | None] = []
    for i, entry in enumerate(target):
        if entry == 0 and not allowzero:
            if x.shape is not None and i >= len(x.shape):
                raise TypeInferError(f"0 at position {i} copies a dim that {x.type} does not have")
            dims.append(None if x.shape is None else x.shape[i])
        elif type(entry) is int and entry < -1:
            raise TypeInferError(f"{entry} in the shape of a reshape")
        else:
            dims.append(None if entry == -1 else entry)
    if list(target).count(-1) > 1:
        raise TypeInferError("a reshape to a shape with two -1")
    open_dims = [i for i, d in enumerate(dims) if d is None]
    rest: Dim = math.prod((d for d in dims if d is not None), start=1)
    total = x.type.numel
    if not open_dims and total is not None and dim_eq(total, rest) is False:
        raise TypeInferError(f"{x.type} has {total} elements, the shape {show(dims)} has {rest}")  # type: ignore[arg-type]
    if len(open_dims) == 1 and total is not None and dim_lt(rest, 1) is not True:
        dims[open_dims[0]] = _quotient(total, rest, x, target)
    elif open_dims and rest == 0 and -1 in target:
        raise TypeInferError("-1 beside a 0 in the shape of a reshape is undetermined")
    return tuple(Expr.fresh() if d is None else d for d in dims)


def _quotient(total: Dim, rest: Dim, x: Any, target: Sequence[Dim | None]) -> Dim:
    if type(total) is int and type(rest) is int and total % rest:
        shown = show("?" if d is None else d for d in target)  # type: ignore[misc]
        raise TypeInferError(f"{x.type} has {total} elements: they do not fill a shape {shown}")
    return total // rest


def _kept_axes(source: Sequence[Dim], result: Sequence[Dim]) -> tuple[tuple, tuple]:
    """Leading and trailing dims that agree keep their axes; what lies between is mixed, hence pinned."""
    head = 0
    while head < min(len(source), len(result)) and source[head] == result[head]:
        head += 1
    tail = 0
    while tail < min(len(source), len(result)) - head and source[-1 - tail] == result[-1 - tail]:
        tail += 1

    def row(rank: int) -> tuple:
        left = tuple(Axis(f"h{i}") for i in range(head))
        return left + (None,) * (rank - head - tail) + tuple(Axis(f"t{i}") for i in range(tail))

    return row(len(source)), row(len(result))


@op
class Transpose(OpDef):
    """Result axis i is operand axis perm[i]."""

    x = operand(T)
    perm = attr(ints)
    traits = MOVES
    reads_elems = True

    def infer(self, x, *, perm):
        if sorted(perm) != list(range(len(perm))):
            raise TypeInferError(f"perm {perm} is no permutation")
        if x.shape is None:
            return TensorType(x.dtype, fresh_shape(len(perm)))
        if len(perm) != len(x.shape):
            raise TypeInferError(f"perm {perm} for {x.type}")
        return moved_elems(TensorType(x.dtype, [x.shape[p] for p in perm]), [x], lambda a: a.transpose(perm))

    def axes(self, x, *, perm):
        labels = passing(len(perm))
        return AxisMap((labels,), (tuple(labels[p] for p in perm),))

    def samples(self, rng):
        for shape, perm in (
            ((2, 3), (1, 0)),
            ((2, 3, 4), (2, 0, 1)),
            ((2, 1, 4, 3), (0, 2, 3, 1)),
            ((), ()),
            ((0, 3), (1, 0)),
        ):
            yield Sample((draw(rng, shape),), {"perm": perm})
        yield Sample((draw(rng, (2, 3), BOOL),), {"perm": (1, 0)})


@op
class Concat(OpDef):
    """Join tensors along `axis`. All other dims must agree."""

    xs = variadic(T)
    axis = attr(int)
    traits = MOVES
    reads_elems = True

    def infer(self, xs, *, axis):
        if not xs:
            raise TypeInferError("concat of nothing")
        dtype = next((x.dtype for x in xs if x.dtype is not None), None)
        ranked = [x for x in xs if x.shape is not None]
        if not ranked:
            return TensorType(dtype, None)
        rank = ranked[0].rank
        along = norm_axis(axis, rank)
        shape: list[Any] = [None] * rank
        for x in ranked:
            if x.rank != rank:
                raise TypeInferError(f"ranks differ: {' and '.join(str(v.type) for v in xs)}")
            for i, dim in enumerate(x.shape):
                if i != along:
                    shape[i] = dim if shape[i] is None else agree(shape[i], dim, f"axis {i} of the operands")
        whole = len(ranked) == len(xs)
        shape[along] = sum((x.shape[along] for x in xs), start=0) if whole else Expr.fresh()
        return moved_elems(TensorType(dtype, shape), xs, lambda *arrays: np.concatenate(arrays, axis=along))

    def axes(self, xs, *, axis):
        if any(x.rank is None for x in xs):
            return None
        rank = xs[0].rank
        row = tuple(Axis(f"d{i}", "concat" if i == axis % rank else "pass") for i in range(rank))
        return AxisMap((row,) * len(xs), (row,))

    def samples(self, rng):
        for parts, axis in ((((2, 3), (2, 4)), 1), (((1, 3), (2, 3), (3, 3)), 0), (((5,),), 0), (((2, 0), (2, 3)), -1)):
            yield Sample(tuple(draw(rng, s) for s in parts), {"axis": axis})
        yield Sample((i64(1, 2), i64(3)), {"axis": 0})


@op
class Split(OpDef):
    """Consecutive pieces along `axis`, of the lengths `split` or `num_outputs` of ceil(dim / num_outputs)."""

    x = operand(T)
    split = optional(INDEX)
    axis = attr(int, 0)
    num_outputs = attr(int, None)
    results = "ys"
    traits = MOVES
    reads_elems = True

    def infer(self, x, split, *, axis, num_outputs):
        lengths = self._lengths(x, split, axis, num_outputs)
        if x.shape is None:
            return [TensorType(x.dtype, None)] * len(lengths)
        along = norm_axis(axis, x.rank)
        types = [TensorType(x.dtype, (*x.shape[:along], n, *x.shape[along + 1 :])) for n in lengths]
        if any(type(n) is not int for n in lengths):
            return types
        cuts = np.cumsum([0, *lengths])
        return [
            moved_elems(t, [x], lambda a, i=i: np.take(a, np.arange(cuts[i], cuts[i + 1]), axis=along))
            for i, t in enumerate(types)
        ]

    @staticmethod
    def _lengths(x: Any, split: Any, axis: int, num_outputs: int | None) -> list[Dim]:
        made: list[Dim]
        size = None if x.shape is None else x.shape[norm_axis(axis, x.rank)]
        if split is not None:
            given = entries(split)
            if given is None:
                raise TypeInferError("the number of pieces of a split is unknown")
            made = _pieces(given, size)
        elif num_outputs is None or num_outputs < 1:
            raise TypeInferError("split needs the lengths or num_outputs")
        elif size is None:
            return list(fresh_shape(num_outputs) or ())
        else:
            chunk = ceildiv(size, num_outputs)
            made = [chunk] * (num_outputs - 1) + [size - chunk * (num_outputs - 1)]
        if any(dim_lt(n, 0) for n in made) or (size is not None and dim_eq(sum(made, start=0), size) is False):
            raise TypeInferError(f"lengths {show(made)} do not add up to {size}")
        return made

    def axes(self, x, split, *, axis, num_outputs):
        count = vector_length(split) if split is not None else num_outputs
        if x.rank is None or count is None:
            return None
        row = tuple(Axis(f"d{i}", "split" if i == axis % x.rank else "pass") for i in range(x.rank))
        return AxisMap((row, _pins(split)), (row,) * count)

    def samples(self, rng):
        yield Sample((draw(rng, (7, 2)), i64(3, 0, 4)), {}, ("split",))
        yield Sample((draw(rng, (2, 6)), i64(2, 4)), {"axis": -1}, ("split",))
        yield Sample((draw(rng, (2, 7)),), {"axis": 1, "num_outputs": 3})
        yield Sample((draw(rng, (4,), I64),), {"num_outputs": 2})


def _pieces(given: Sequence[Dim | None], size: Dim | None) -> list[Dim]:
    """The lengths of the pieces of an axis: one that is unknown is what the others leave, and nothing falls into
    empty pieces."""
    unknown = sum(n is None for n in given)
    if size == 0:
        return [0 if n is None else n for n in given]
    rest = size - sum((n for n in given if n is not None), start=0) if unknown == 1 and size is not None else None
    return [n if n is not None else rest if rest is not None else Expr.fresh() for n in given]


@op
class Slice(OpDef):
    """Elements starts[i], starts[i] + steps[i] ... before ends[i] of `axes`; bounds are clamped."""

    x = operand(T)
    starts = operand(INDEX)
    ends = operand(INDEX)
    axes_ = optional(INDEX)
    steps = optional(INDEX)
    traits = MOVES
    reads_elems = True

    def infer(self, x, starts, ends, axes, steps):
        if x.shape is None:
            return TensorType(x.dtype, None)
        count = max((n for n in map(vector_length, (starts, ends, axes, steps)) if n is not None), default=None)
        along = tuple(range(count or 0)) if axes is None else operand_ints(axes)
        if count is None or along is None:
            return TensorType(x.dtype, fresh_shape(x.rank))
        first, last = (entries(v) or (None,) * count for v in (starts, ends))
        by = (1,) * count if steps is None else entries(steps) or (None,) * count
        if not len(first) == len(last) == len(along) == len(by):
            raise TypeInferError("starts, ends, axes and steps differ in length")
        bounds = dict(zip(norm_axes(along, x.rank), zip(first, last, by, strict=True), strict=True))
        most = _most(x)
        bounds = {
            i: (low, UNBOUNDED if type(high) is int and high >= most else high, s)
            for i, (low, high, s) in bounds.items()
        }
        shape = [sliced_dim(d, *bounds[i]) if i in bounds else d for i, d in enumerate(x.shape)]
        type_ = TensorType(x.dtype, shape)
        if any(type(v) is not int for row in bounds.values() for v in row):
            return type_

        def cut(elems: np.ndarray) -> np.ndarray:
            return elems[
                tuple(python_slice(d, *bounds[i]) if i in bounds else slice(None) for i, d in enumerate(x.shape))
            ]

        return moved_elems(type_, [x], cut)

    def axes(self, x, starts, ends, axes, steps):
        along = tuple(range(vector_length(starts) or 0)) if axes is None else operand_ints(axes)
        if x.rank is None or along is None:
            return None
        row = passing(x.rank, along)
        return AxisMap((row, *map(_pins, (starts, ends, axes, steps))), (row,))

    def samples(self, rng):
        every = ("starts", "ends", "axes", "steps")
        x = draw(rng, (5, 7, 3))
        yield Sample((x, i64(1), i64(4)), {}, every)
        yield Sample((x, i64(-3, 1), i64(2**63 - 1, -1), i64(1, 0)), {}, every)
        yield Sample((x, i64(-1, 6), i64(-(2**63), 1), i64(0, 1), i64(-1, -2)), {}, every)
        yield Sample((x, i64(4), i64(2), i64(1), i64(1)), {}, every)
        yield Sample((x, i64(-100), i64(100), i64(-1), i64(2)), {}, every)
        yield Sample((x, i64(100), i64(-100), i64(0), i64(-3)), {}, every)
        yield Sample((i64(3, 1, 4, 1, 5), i64(1), i64(5), i64(0), i64(2)), {}, every)
        yield Sample((draw(rng, (0, 4)), i64(0), i64(2), i64(0)), {}, every)


def _most(x: Any) -> int:
    """No axis of a tensor is longer: memory ends before, where only this one axis has no number for its size."""
    sizes = [d for d in x.shape if type(d) is int]
    if x.dtype is None or len(sizes) < len(x.shape) - 1 or 0 in sizes or not x.dtype.bits:
        return UNBOUNDED
    return min(UNBOUNDED, ADDRESSES * 8 // (math.prod(sizes) * x.dtype.bits) + 1)


@op
class Pad(OpDef):
    """Grow each axis in `axes` by pads[i] before and pads[n + i] behind; negative pads crop.

    New elements: `value` (constant), the mirror image without the edge (reflect), the edge, or the other end (wrap).
    """

    x = operand(T)
    pads = operand(INDEX)
    value = optional(T)
    axes_ = optional(INDEX)
    mode = attr(str, "constant", choices=("constant", "reflect", "edge", "wrap"))
    traits = PURE | SAME_QUANT
    reads_elems = True

    def infer(self, x, pads, value, axes, *, mode):
        if x.shape is None:
            return TensorType(x.dtype, None)
        along = range(x.rank) if axes is None else operand_ints(axes)
        if along is None:
            return TensorType(x.dtype, fresh_shape(x.rank))
        along = norm_axes(along, x.rank)
        amounts = entries(pads) or (None,) * (2 * len(along))
        if len(amounts) != 2 * len(along):
            raise TypeInferError(f"{len(amounts)} pads for {len(along)} axes")
        shape = list(x.shape)
        for axis, before, after in zip(along, amounts[: len(along)], amounts[len(along) :], strict=True):
            shape[axis] = _padded(shape[axis], before, after, mode)
        return TensorType(x.dtype, shape)

    def axes(self, x, pads, value, axes, *, mode):
        along = range(x.rank or 0) if axes is None else operand_ints(axes)
        amounts = operand_ints(pads)
        if x.rank is None or along is None or amounts is None:
            return None
        row = passing(x.rank, [a for i, a in enumerate(along) if amounts[i] or amounts[i + len(along)]])
        return AxisMap((row, *map(_pins, (pads, value, axes))), (row,))

    def samples(self, rng):
        every = ("pads", "axes")
        x = draw(rng, (3, 4, 5))
        for mode in ("constant", "reflect", "edge", "wrap"):
            yield Sample((x, i64(0, 1, 2, 1, 2, 0)), {"mode": mode}, every)
            yield Sample((x, i64(0, -1, 2, 0, 2, -2)), {"mode": mode}, every)
            yield Sample((x, i64(1, 2), None, i64(-1)), {"mode": mode}, every)
        yield Sample((x, i64(1, 0, 0, 0, 0, 1), np.float32(7).reshape(())), {}, every)
        yield Sample((draw(rng, (2, 3), I32), i64(1, 1), np.int32(5).reshape(()), i64(0)), {}, every)
        yield Sample((draw(rng, (2, 0)), i64(1, 1, 1, 1)), {}, every)


def _padded(dim: Dim, before: Dim | None, after: Dim | None, mode: str) -> Dim:
    if before is None or after is None:
        return Expr.fresh()
    size = dim + before + after
    if dim_lt(size, 0) or dim_lt(dim + dim_min(before, 0) + dim_min(after, 0), 0):
        raise TypeInferError(f"an axis of {dim} cannot be cropped by {before} and {after}")
    if mode != "constant" and dim == 0 and dim_lt(0, size):
        raise TypeInferError(f"pad mode {mode} on an empty axis")
    return size


@op
class Squeeze(OpDef):
    """Drop the axes `axes`, of size 1; without them, all axes of size 1."""

    x = operand(T)
    axes_ = optional(INDEX)
    traits = MOVES
    reads_elems = True

    def infer(self, x, axes):
        along = self._along(x, axes)
        if along is None:
            count = vector_length(axes)
            return TensorType(x.dtype, None if x.rank is None or count is None else fresh_shape(x.rank - count))
        for axis in along:
            if dim_eq(x.shape[axis], 1) is False:
                raise TypeInferError(f"axis {axis} of {x.type} has not size 1")
        type_ = TensorType(x.dtype, [d for i, d in enumerate(x.shape) if i not in along])
        return moved_elems(type_, [x], lambda a: a)

    @staticmethod
    def _along(x: Any, axes: Any) -> tuple[int, ...] | None:
        if x.shape is None:
            return None
        if axes is not None:
            given = operand_ints(axes)
            if given is not None:
                return norm_axes(given, x.rank)
        fit = tuple(i for i, d in enumerate(x.shape) if dim_eq(d, 1) is not False)
        if axes is not None:  # as many axes as can be meant
            return fit if vector_length(axes) == len(fit) else None
        return fit if all(x.shape[i] == 1 for i in fit) else None

    def axes(self, x, axes):
        along = self._along(x, axes)
        if along is None:
            return None
        row = passing(x.rank, along)
        return AxisMap((row, _pins(axes)), (tuple(a for i, a in enumerate(row) if i not in along),))

    def samples(self, rng):
        yield Sample((draw(rng, (1, 3, 1)),))
        yield Sample((draw(rng, (1, 3, 1)), i64(-1)), {}, ("axes",))
        yield Sample((draw(rng, (1, 0, 1)), i64(0, 2)), {}, ("axes",))
        yield Sample((i64(5), i64(0)), {}, ("axes",))


@op
class Unsqueeze(OpDef):
    """New axes of size 1 at the positions `axes` of the result."""

    x = operand(T)
    axes_ = operand(INDEX)
    traits = MOVES
    reads_elems = True

    def infer(self, x, axes):
        along, count = operand_ints(axes), vector_length(axes)
        if along is None or x.shape is None:
            rank = None if count is None or x.rank is None else x.rank + count
            return TensorType(x.dtype, fresh_shape(rank))
        places = norm_axes(along, x.rank + len(along))
        rest = iter(x.shape)
        shape = [1 if i in places else next(rest) for i in range(x.rank + len(along))]
        return moved_elems(TensorType(x.dtype, shape), [x], lambda a: a)

    def axes(self, x, axes):
        along = operand_ints(axes)
        if along is None or x.rank is None:
            return None
        row, rank = passing(x.rank), x.rank + len(along)
        rest = iter(row)
        result = tuple(None if i in {a % rank for a in along} else next(rest) for i in range(rank))
        return AxisMap((row, _pins(axes)), (result,))

    def samples(self, rng):
        for shape, axes in (((3,), (0,)), ((2, 3), (-1, 0)), ((), (0, 1)), ((0, 2), (1,))):
            yield Sample((draw(rng, shape), i64(*axes)), {}, ("axes",))
        yield Sample((np.asarray(7, np.int64), i64(0)), {}, ("axes",))


@op
class Expand(OpDef):
    """Broadcast to numpy's common shape of x and `shape`."""

    x = operand(T)
    shape = operand(INDEX)
    traits = MOVES
    reads_elems = True

    def infer(self, x, shape):
        target = entries(shape)
        if target is None or x.shape is None:
            return TensorType(x.dtype, None)
        made = list(broadcast_shapes(x.shape, [1 if d is None else d for d in target]))
        for axis, size in enumerate(target, len(made) - len(target)):
            if size is None and (made[axis] == 1 or isinstance(made[axis], Expr)):
                made[axis] = Expr.fresh()
        type_ = TensorType(x.dtype, made)
        return moved_elems(type_, [x], lambda a: np.broadcast_to(a, type_.shape))

    def axes(self, x, shape):
        target = entries(shape)
        if target is None or x.shape is None:
            return None
        rank = max(len(target), x.rank)
        kept = [target[i - rank] if i >= rank - len(target) else 1 for i in range(rank)]
        pairs = enumerate(x.shape, rank - x.rank)
        row = tuple(Axis(f"d{i}", "broadcast" if d == 1 and kept[i] != 1 else "pass") for i, d in pairs)
        return AxisMap((row, _pins(shape)), (passing(rank),))

    def samples(self, rng):
        for shape, target in (((3, 1), (2, 1, 4)), ((), (2, 3)), ((2, 3), (1,)), ((1,), (0,)), ((2, 1), ())):
            yield Sample((draw(rng, shape), i64(*target)), {}, ("shape",))


@op
class Tile(OpDef):
    """Repeat the whole tensor repeats[i] times along axis i."""

    x = operand(T)
    repeats = operand(INDEX)
    traits = MOVES
    reads_elems = True

    def infer(self, x, repeats):
        times = entries(repeats)
        if x.shape is None:
            return TensorType(x.dtype, fresh_shape(None if times is None else len(times)))
        times = (None,) * x.rank if times is None else times
        if len(times) != x.rank or any(n is not None and dim_lt(n, 0) for n in times):
            raise TypeInferError(f"repeats {show('?' if n is None else n for n in times)} for {x.type}")
        type_ = TensorType(x.dtype, [Expr.fresh() if n is None else d * n for d, n in zip(x.shape, times, strict=True)])
        if any(type(n) is not int for n in times):
            return type_
        return moved_elems(type_, [x], lambda a: np.tile(a, times) if times else a)

    def axes(self, x, repeats):
        times = entries(repeats)
        if x.rank is None or times is None:
            return None
        row = passing(x.rank, [i for i, n in enumerate(times) if n != 1])
        return AxisMap((row, _pins(repeats)), (row,))

    def samples(self, rng):
        for shape, times in (((2, 3), (2, 1)), ((3,), (0,)), ((), ()), ((2, 1, 2), (1, 3, 2))):
            yield Sample((draw(rng, shape), i64(*times)), {}, ("repeats",))


@op
class Flatten(OpDef):
    """Two dims: the product of those before `axis` and of the others. `axis` may equal the rank."""

    x = operand(T)
    axis = attr(int, 1)
    traits = MOVES
    reads_elems = True

    def infer(self, x, *, axis):
        if x.shape is None:
            return TensorType(x.dtype, fresh_shape(2))
        cut = axis if axis == x.rank else norm_axis(axis, x.rank)
        shape = math.prod(x.shape[:cut], start=1), math.prod(x.shape[cut:], start=1)
        return moved_elems(TensorType(x.dtype, shape), [x], lambda a: a)

    def axes(self, x, *, axis):
        if x.rank is None:
            return None
        cut = axis if axis >= 0 else axis + x.rank
        row = tuple(Axis(f"d{i}") if (i, cut) in ((0, 1), (x.rank - 1, x.rank - 1)) else None for i in range(x.rank))
        result = (row[0] if cut == 1 else None, row[-1] if cut == x.rank - 1 and x.rank > 0 else None)
        return AxisMap((row,), (result,))

    def samples(self, rng):
        for shape, axis in (((2, 3, 4), 1), ((2, 3, 4), 0), ((2, 3, 4), 3), ((2, 3, 4), -1), ((5,), 1), ((0, 3), 1)):
            yield Sample((draw(rng, shape),), {"axis": axis})
