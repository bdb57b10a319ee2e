"""Sequences and optionals: lists of values of one type, and values that may be absent.

At run time a sequence is a Python list, an absent optional is None and a present one the value itself. The element type
of a sequence holds for each element: a named symbol is the same size in all of them, a made-up one (`ir/expr.py`) is a
size of each element's own, so that what is taken out of a sequence gets new ones. Knows no kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..dims import Dim, Expr, symbols
from ..errors import InvalidModel, TypeInferError
from ..expr import ANONYMOUS
from ..opdef import DtypeVar, Known, OpDef, Sample, Typed, attr, op, operand, optional, variadic
from ..types import BOOL, F32, I64, INDEX, OptionalType, SequenceType, TensorType, Type, join
from .sampling import draw, i64
from .shapes import norm_axis

T = DtypeVar("T")


def element(value: Any, what: str) -> Type:
    """The element type of a sequence. Raises TypeInferError for anything else."""
    if not isinstance(value.type, SequenceType):
        raise TypeInferError(f"{what} takes a sequence, not {value.type}")
    return value.type.elem


def together(types: list[Type], what: str) -> Type:
    """What is true of all elements. Raises TypeInferError when they have different dtypes or are of different kinds."""
    dtypes = {t.dtype for t in types if isinstance(t, TensorType) and t.dtype is not None}
    if len(dtypes) > 1:
        raise TypeInferError(f"the elements of {what} have dtypes {' and '.join(sorted(map(str, dtypes)))}")
    try:
        return functools.reduce(join, types)
    except InvalidModel as error:
        raise TypeInferError(f"the elements of {what}: {error.message}") from None


def _knows_more(type_: Type, joined: Type) -> bool:
    """The type of the only element says all that its join with a declared one does."""
    return isinstance(type_, TensorType) and isinstance(joined, TensorType) and type_.dtype is not None


def renewed(type_: Type) -> Type:
    """The type of one element taken out: a size that each element has of its own is a new symbol."""
    if not isinstance(type_, TensorType):
        return type_.with_elem(renewed(type_.elem)) if isinstance(type_, OptionalType | SequenceType) else type_
    if type_.shape is None:
        return type_
    fresh: dict[Dim, Dim] = {}
    for dim in type_.shape:
        own = isinstance(dim, Expr) and any(ANONYMOUS.match(name) for name in symbols(dim))
        fresh.setdefault(dim, Expr.fresh() if own else dim)
    return type_.with_shape([fresh[dim] for dim in type_.shape])


@op
class SequenceEmpty(OpDef):
    """A sequence without elements; `elem` is the type of those to come."""

    elem = attr(Type)

    def infer(self, *, elem):
        return Known(SequenceType(elem), ())  # known elements of a sequence: that there are none

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for elem in (TensorType(F32), TensorType(I64, (2,))):
            yield Sample((), {"elem": elem})


@op
class SequenceConstruct(OpDef):
    """The operands as a sequence. Their dtypes must agree, their shapes need not."""

    xs = variadic(T)

    def infer(self, xs):
        if not xs:
            raise TypeInferError("sequence_construct needs an operand: sequence_empty makes an empty one")
        return SequenceType(together([x.type for x in xs], "sequence_construct"))

    def samples(self, rng):
        yield Sample(([draw(rng, (2, 3)), draw(rng, (2, 3))],))
        yield Sample(([draw(rng, (2, 3)), draw(rng, (4, 3)), draw(rng, ())],))


def _sequence(rng: np.random.Generator, *shapes: tuple[int, ...]) -> Typed:
    """An operand for samples; sizes that differ are each element's own."""
    return Typed([draw(rng, s) for s in shapes], SequenceType(together([TensorType(F32, s) for s in shapes], "")))


class Positioned(OpDef):
    """Base of the ops that count positions, from the end where negative; one out of range is an error."""

    seq = operand()

    def samples(self, rng):
        for at in (0, 1, -1, -2):
            yield Sample((_sequence(rng, (2, 3), (4, 3)), np.asarray(at, np.int64)))
        yield Sample((_sequence(rng, (5,), (5,), (5,)), np.asarray(2, np.int32)))


@op
class SequenceInsert(OpDef):
    """A copy with `x` in front of the element at `position`, or at the end: position = length, or absent."""

    seq = operand()
    x = operand()
    position = optional(INDEX)
    reads_elems = True

    def infer(self, seq, x, position):
        made = together([element(seq, "sequence_insert"), x.type], "sequence_insert")
        return SequenceType(x.type if seq.elems == () and _knows_more(x.type, made) else made)

    def samples(self, rng):
        for at in (None, *(np.asarray(p, np.int64) for p in (0, 2, -1, -2))):
            yield Sample((_sequence(rng, (2, 3), (4, 3)), draw(rng, (1, 3)), at))
        yield Sample((Typed([], SequenceType(TensorType(F32))), draw(rng, (2, 2))))


@op
class SequenceErase(Positioned):
    """A copy without the element at `position`: the last one when absent."""

    position = optional(INDEX)

    def infer(self, seq, position):
        return SequenceType(element(seq, "sequence_erase"))

    def samples(self, rng):
        yield from super().samples(rng)
        yield Sample((_sequence(rng, (2, 3), (4, 3)),))


@op
class SequenceAt(Positioned):
    """The element at `position`."""

    position = operand(INDEX)

    def infer(self, seq, position):
        return renewed(element(seq, "sequence_at"))


@op
class SequenceLength(OpDef):
    """How many elements a sequence has."""

    seq = operand()

    def infer(self, seq):
        element(seq, "sequence_length")
        return TensorType(I64, ())

    def samples(self, rng):
        yield Sample((_sequence(rng, (2, 3), (4, 3)),))
        yield Sample((Typed([], SequenceType(TensorType(F32))),))


@op
class SplitToSequence(OpDef):
    """Consecutive pieces of `x` along `axis`: of the lengths `split` if it is a vector; all of length `split`, but the last
    one shorter, if it is a scalar; else of length 1, and without that axis unless `keepdims`."""

    x = operand(T)
    split = optional(INDEX)
    axis = attr(int, 0)
    keepdims = attr(bool, True)
    reads_elems = True

    def infer(self, x, split, *, axis, keepdims):
        if x.shape is None:
            return SequenceType(x.type)
        axis = norm_axis(axis, x.rank)
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        if split is None and not keepdims:
            return SequenceType(TensorType(x.dtype, (*before, *after)))
        return SequenceType(TensorType(x.dtype, (*before, _piece(x.shape[axis], split), *after)))

    def samples(self, rng):
        x = draw(rng, (6, 4))
        yield Sample((x, i64(1, 2, 3)), const=("split",))
        yield Sample((x, np.asarray(4, np.int64)), const=("split",))
        yield Sample((x, np.asarray(2, np.int32)), {"axis": -1})
        yield Sample((x,), {"axis": 1})
        yield Sample((x,), {"axis": -2, "keepdims": False})
        yield Sample((draw(rng, (0, 2)),))


def _piece(dim: Dim, split: Any) -> Dim:
    """The length of each piece; a new symbol where they may differ."""
    if split is None:
        return 1
    lengths = split.ints()
    if lengths is None or not lengths:
        return Expr.fresh()
    if min(lengths) < 1 and split.rank == 0:
        raise TypeInferError(f"pieces of length {lengths[0]}")
    if split.rank == 1:
        return lengths[0] if len(set(lengths)) == 1 else Expr.fresh()
    return min(lengths[0], dim) if type(dim) is int and (dim % lengths[0] == 0 or dim < lengths[0]) else Expr.fresh()


@op
class ConcatFromSequence(OpDef):
    """The elements joined along `axis`, or stacked along a new one if `new_axis`. An empty sequence is an error."""

    seq = operand()
    axis = attr(int)
    new_axis = attr(bool, False)

    def infer(self, seq, *, axis, new_axis):
        elem = renewed(element(seq, "concat_from_sequence"))
        if not isinstance(elem, TensorType):
            raise TypeInferError(f"elements of type {elem} cannot be joined")
        if elem.shape is None:
            return elem
        axis = norm_axis(axis, elem.rank + new_axis)
        rest = elem.shape[axis:] if new_axis else elem.shape[axis + 1 :]
        return elem.with_shape((*elem.shape[:axis], Expr.fresh(), *rest))

    def samples(self, rng):
        yield Sample((_sequence(rng, (2, 3), (4, 3)),), {"axis": 0})
        yield Sample((_sequence(rng, (2, 1), (2, 3), (2, 2)),), {"axis": -1})
        for axis in (0, 1, -1):
            yield Sample((_sequence(rng, (2, 3), (2, 3)),), {"axis": axis, "new_axis": True})


@op(name="optional")
class Optional(OpDef):
    """A value that may be absent: `x`, or nothing of the type `type` when that is absent."""

    x = optional()
    type = attr(Type, None)

    def infer(self, x, *, type):
        if (x is None) == (type is None):
            raise TypeInferError("optional takes a value or the type of an absent one")
        inner = type if x is None else x.type
        if isinstance(inner, OptionalType):
            raise TypeInferError("an optional of an optional")
        return OptionalType(inner)

    def samples(self, rng):
        yield Sample((draw(rng, (2, 3)),))
        yield Sample((_sequence(rng, (2, 3), (4, 3)),))
        yield Sample((), {"type": TensorType(F32, (2, 3))})
        yield Sample((), {"type": SequenceType(TensorType(F32))})


@op
class OptionalGetElement(OpDef):
    """The value of an optional, an error when it is absent; any other value is its own element."""

    x = operand()

    def infer(self, x):
        return x.type.elem if isinstance(x.type, OptionalType) else x.type

    def samples(self, rng):
        yield Sample((Typed(draw(rng, (2, 3)), OptionalType(TensorType(F32, (2, 3)))),))
        yield Sample((Typed([draw(rng, (2,))], OptionalType(SequenceType(TensorType(F32, (2,))))),))
        yield Sample((draw(rng, (2, 3)),))


@op
class OptionalHasElement(OpDef):
    """Whether an optional has a value: true for any value that is no optional, false for an absent operand."""

    x = optional()

    def infer(self, x):
        known = None if x is not None and isinstance(x.type, OptionalType) else (int(x is not None),)
        return Known(TensorType(BOOL, ()), known)

    def samples(self, rng):
        for value in (draw(rng, (2, 3)), None):
            yield Sample((Typed(value, OptionalType(TensorType(F32, (2, 3)))),))
