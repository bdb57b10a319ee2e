"""Arithmetic on shapes and on known elements: broadcasting, axes, and what integer operands say element by element.

Elements are ints, symbolic dims or None (unknown); shape arithmetic in a model is integer arithmetic on them. No op is
defined here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..dims import Dim, Expr, ceildiv, dim_le, dim_lt, dim_max, dim_min
from ..errors import TypeInferError
from ..expr import standing_for
from ..opdef import Known
from ..storage import check_limit
from ..types import BF16, BOOL, F16, F32, F64, I8, I16, I32, I64, STRING, U8, U16, U32, U64, DType, TensorType
from ..value import ELEMS_LIMIT, Value
from .rules import show

#: The dtypes that ONNX computes in.
FLOATS = frozenset({F16, BF16, F32, F64})
SIGNED_INTS = frozenset({I8, I16, I32, I64})
INTS = SIGNED_INTS | {U8, U16, U32, U64}
NUMBERS = FLOATS | INTS
SIGNED = FLOATS | SIGNED_INTS
COMPARABLE = NUMBERS | {BOOL, STRING}


def norm_axis(axis: int, rank: int, what: str = "axis") -> int:
    """`axis` as a non-negative number. Raises TypeInferError when it is out of range."""
    if not -rank <= axis < rank:
        raise TypeInferError(f"{what} {axis} is out of range for rank {rank}")
    return axis % rank


def norm_axes(axes: Sequence[int], rank: int, what: str = "axes") -> tuple[int, ...]:
    """Non-negative, distinct axes in the order given. Raises TypeInferError."""
    made = tuple(norm_axis(a, rank, what) for a in axes)
    if len(set(made)) != len(made):
        raise TypeInferError(f"{what} {tuple(axes)} name an axis twice")
    return made


# ------------------------------------------------------------------------------------------------ broadcasting


#: Dims that one symbol names at most, so that a long chain of different ones stays linear.
MAX_PARTS = 16
#: What the symbols of `_either` stand for. They are named by that, so no other symbol can be taken for one of them.
_PARTS: dict[Expr, tuple[Expr, ...]] = {}


def _either(a: Expr, b: Expr) -> Expr:
    """The symbol that stands for `a` broadcast with `b`: which of the two it is depends on which is 1. Broadcasting again
    what is in it already changes nothing."""
    found = dict.fromkeys((*_PARTS.get(a, (a,)), *_PARTS.get(b, (b,))))
    parts = tuple(sorted(found if len(found) <= MAX_PARTS else (a, b), key=str))
    made = standing_for(f"broadcast({', '.join(map(str, parts))})")
    _PARTS[made] = parts
    return made


def _caps(b: Expr, a: Expr) -> bool:
    """`b` is min(a, n) with n > 1, as of a table cut to the length of a sequence: it is 1 only where `a` is, so that the two
    broadcast to `a` wherever they fit."""
    ((mono, factor), *more) = b.terms
    if more or factor != 1 or len(mono) != 1 or mono[0][1] != 1 or mono[0][0].kind != "min":
        return False
    args = mono[0][0].args
    return any(arg is a for arg in args) and all(arg is a or (isinstance(arg, int) and arg > 1) for arg in args)


def broadcast_dim(a: Dim, b: Dim) -> Dim:
    """One axis of numpy broadcasting. Two symbols that may differ give a symbol of their own: either may be 1."""
    if a == 1 or a == b:
        return b
    if b == 1:
        return a
    if isinstance(a, Expr) and isinstance(b, Expr):
        return a if _caps(b, a) else b if _caps(a, b) else _either(a, b)
    if isinstance(a, Expr):
        return b
    if isinstance(b, Expr):
        return a
    raise TypeInferError(f"dims {a} and {b} do not broadcast")


def broadcast_shapes(*shapes: Sequence[Dim]) -> tuple[Dim, ...]:
    """numpy broadcasting of any number of shapes. Raises TypeInferError naming the shapes."""
    rank = max(map(len, shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for i, dim in enumerate(shape, rank - len(shape)):
            try:
                result[i] = broadcast_dim(result[i], dim)
            except TypeInferError:
                shown = " and ".join(map(show, shapes))
                raise TypeInferError(f"shapes {shown} do not broadcast (axis {i} of the result)") from None
    return tuple(result)


def broadcast_values(values: Sequence[Value | None]) -> tuple[Dim, ...] | None:
    """The broadcast shape of the operands that are present; None when a rank is unknown."""
    shapes = [v.shape for v in values if v is not None]
    return None if any(s is None for s in shapes) else broadcast_shapes(*shapes)  # type: ignore[arg-type]


def fresh_shape(rank: Dim | None) -> tuple[Dim, ...] | None:
    """A shape of new symbols; None when the rank is no number. For results that depend on more than operand types:
    an op that uses it must say `reads_elems`, or equal types would share symbols that need not be equal."""
    if type(rank) is not int:
        return None
    check_limit("rank", rank, "rank")
    return tuple(Expr.fresh() for _ in range(rank))


# ---------------------------------------------------------------------------------------------------- slices

#: A slice bound of this size or more means "to the end": no axis is longer.
UNBOUNDED = 2**31 - 1
#: Entries of a shape-like operand: far above any rank, for it may hold the sizes of a split.
MAX_ENTRIES = 1 << 16


def slice_positions(dim: int, start: int, end: int, step: int) -> range:
    """The positions that ONNX Slice-13 takes of an axis. Unlike in Python, a negative step whose start lies before
    the axis begins at its first element."""
    first, last = (v + dim if v < 0 else v for v in (start, end))
    if step > 0:
        return range(min(max(first, 0), dim), min(max(last, 0), dim), step)
    return range(min(max(first, 0), dim - 1), min(max(last, -1), dim - 1), step)


def python_slice(dim: int, start: int, end: int, step: int) -> slice:
    """`slice_positions` as a slice object."""
    at = slice_positions(dim, start, end, step)
    return slice(at.start, at.stop if at.stop >= 0 else None, step) if at else slice(0, 0)


def sliced_dim(dim: Dim, start: Dim | None, end: Dim | None, step: Dim | None) -> Dim:
    """The length of a slice; a fresh symbol where the bounds do not say."""
    if step == 0:
        raise TypeInferError("a slice with step 0")
    if all(type(v) is int for v in (dim, start, end, step)):
        return len(slice_positions(dim, start, end, step))  # type: ignore[arg-type]
    if type(step) is not int:
        return Expr.fresh()
    if step < 0:
        return _reversed_length(dim, start, end, step)
    low, high = _bound(dim, start), _bound(dim, end)
    if low is None or high is None:
        return Expr.fresh()
    if type(start) is int and start < 0 and high is dim:
        return ceildiv(dim_min(-start, dim), step)
    low = start if type(start) is int and start >= 0 else low  # max() below does the clamping
    return dim_max(ceildiv(high - low, step), 0)


def _bound(dim: Dim, bound: Dim | None) -> Dim | None:
    """A slice bound as a position in [0, dim]; None where its sign is unknown."""
    if bound is None:
        return None
    if type(bound) is int and bound >= UNBOUNDED:
        return dim
    if dim_le(0, bound) is True:
        return dim_min(bound, dim)
    if dim_le(bound, 0) is True and dim_le(dim + bound, 0) is True:
        return 0
    return dim_max(dim + bound, 0) if dim_lt(bound, 0) is True else None


def _reversed_length(dim: Dim, start: Dim | None, end: Dim | None, step: int) -> Dim:
    """Only the walk from the last element to the first has a length that holds for every size."""
    from_last = start == -1 or (type(start) is int and start >= UNBOUNDED)
    return ceildiv(dim, -step) if from_last and type(end) is int and end <= -UNBOUNDED else Expr.fresh()


# -------------------------------------------------------------------------------------------- known elements


def vector_length(value: Value | None) -> int | None:
    """How many entries a shape-like operand has, if that is a number. Raises TypeInferError unless it is 0-D or 1-D."""
    if value is None or value.rank is None:
        return None
    if value.rank > 1:
        raise TypeInferError(f"a shape-like operand has shape {show(value.shape or ())}, expected a vector")
    count = value.type.numel  # type: ignore[attr-defined]
    if type(count) is not int:
        return None
    if count > MAX_ENTRIES:
        raise TypeInferError(f"a shape-like operand has {count} entries (at most {MAX_ENTRIES})")
    return count


def entries(value: Value | None) -> tuple[Dim | None, ...] | None:
    """The elements of a shape-like operand, all None where only their number is known; None when not even that is."""
    count = vector_length(value)
    if count is None:
        return None
    return value.elems if value is not None and value.elems is not None else (None,) * count


def operand_ints(value: Value | None) -> tuple[int, ...] | None:
    """All elements of a shape-like operand as plain ints, or None. Raises TypeInferError unless it is 0-D or 1-D."""
    vector_length(value)
    return None if value is None else value.ints()


def elem_count(type_: TensorType) -> int | None:
    """Number of elements if it is a number and small enough for elements to be tracked."""
    count = type_.numel
    return count if type(count) is int and count <= ELEMS_LIMIT else None


def known(type_: TensorType, elems: Sequence[Dim | bool | None] | None) -> Known:
    """A result with its known elements fitted to its dtype; where none is known there is no tuple at all."""
    fitted = [fit(e, type_.dtype) for e in elems or ()]
    if elems is None or (fitted and all(e is None for e in fitted)):
        return Known(type_)
    return Known(type_, tuple(fitted))


def elem_array(value: Value) -> np.ndarray | None:
    """The elements of a small static integer or bool operand as an object array of its shape, None where unknown."""
    type_, elems = value.type, value.elems
    if not isinstance(type_, TensorType) or not type_.is_static or type_.dtype is None:
        return None
    count = elem_count(type_)
    if count is None or not (type_.dtype.is_int or type_.dtype is BOOL):
        return None
    return object_array((None,) * count if elems is None else elems, type_.shape)  # type: ignore[arg-type]


def object_array(elems: Sequence[Any], shape: Sequence[int]) -> np.ndarray:
    """An object array (numpy must not look into symbolic dims for sequences)."""
    flat = np.empty(len(elems), dtype=object)
    for i, elem in enumerate(elems):
        flat[i] = elem
    return flat.reshape(tuple(shape))


def moved_elems(type_: TensorType, values: Sequence[Value], move: Callable[..., np.ndarray]) -> Known:
    """`type_` with the elements that `move` makes of the operands' elements by copying or combining them."""
    if elem_count(type_) is None or all(v.elems is None for v in values):
        return Known(type_)
    arrays = [elem_array(v) for v in values]
    if any(a is None for a in arrays):
        return Known(type_)
    moved = move(*arrays)
    return known(type_, list(moved.reshape(-1)) if isinstance(moved, np.ndarray) else [moved])


def mapped_elems(
    type_: TensorType, values: Sequence[Value | None], function: Callable[..., Dim | bool | None]
) -> Known:
    """`type_` with `function` applied element by element to the broadcast elements of the operands (None: unknown)."""
    count = elem_count(type_)
    if count is None or not type_.is_static or all(v is None or v.elems is None for v in values):
        return Known(type_)
    static_shape: Any = type_.shape
    columns: list[list[Any]] = []
    for value in values:
        array = None if value is None else elem_array(value)
        if array is None:
            columns.append([None] * count)
        else:
            columns.append(list(np.broadcast_to(array, static_shape).reshape(-1)))
    return known(type_, [function(*row) for row in zip(*columns, strict=True)])


def fit(elem: Dim | bool | None, dtype: DType | None) -> Dim | None:
    """`elem` as an element of `dtype`: numbers wrap; symbols are taken to fit 32 and 64 bits and are unknown below."""
    if elem is None or dtype is None:
        return None
    if isinstance(elem, Expr):
        return elem if dtype in (I32, I64, U32, U64) else None
    if dtype is BOOL:
        return int(bool(elem))
    if not dtype.is_int:
        return None
    low = int(elem) & ((1 << dtype.bits) - 1)
    return low - (1 << dtype.bits) if dtype.kind == "int" and low >> (dtype.bits - 1) else low
