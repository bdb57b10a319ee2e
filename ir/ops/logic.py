"""Elementwise ops about truth and bits: predicates, comparisons, logic, bitwise operations, selection.

Where integer elements are known, symbols included, comparisons are decided as far as they can be.
"""

from __future__ import annotations

import numpy as np

from ..dims import dim_eq, dim_le, dim_lt
from ..opdef import ASSOCIATIVE, COMMUTATIVE, ELEMENTWISE, PURE, DtypeVar, Known, Sample, attr, op, operand
from ..types import BOOL, F32, FLOAT, I32, I64, U8, U32, TensorType
from .elementwise import Binary, Elementwise, FloatUnary, Unary
from .sampling import draw
from .shapes import COMPARABLE, INTS, NUMBERS, broadcast_values, mapped_elems

T = DtypeVar("T")
NUMBER = DtypeVar("T", NUMBERS)
INTEGER = DtypeVar("T", INTS)
BOOLEAN = DtypeVar("T", frozenset({BOOL}))
ANY_FLOAT = DtypeVar("T", FLOAT)
COMPARED = DtypeVar("T", COMPARABLE)


@op
class IsNan(FloatUnary):
    """bool: x is NaN."""

    x = operand(ANY_FLOAT)
    result = BOOL


@op
class IsInf(FloatUnary):
    """bool: x is infinite, of a sign that is asked for."""

    x = operand(ANY_FLOAT)
    detect_negative = attr(bool, True)
    detect_positive = attr(bool, True)
    result = BOOL

    def samples(self, rng):
        x = np.array([np.inf, -np.inf, np.nan, 0.0, -1.5], np.float32)
        for negative in (True, False):
            for positive in (True, False):
                yield Sample((x,), {"detect_negative": negative, "detect_positive": positive})


@op
class Not(Unary):
    """Logical not."""

    x = operand(BOOLEAN)
    dtypes = (BOOL,)

    def elem(self, a):
        return None if a is None else not a


@op
class BitwiseNot(Unary):
    """Every bit flipped."""

    x = operand(INTEGER)
    dtypes = (I32, U8)

    def elem(self, a):
        return None if a is None else -1 * a - 1


class Compare(Binary):
    """Base: a bool from two operands of one dtype."""

    a = operand(NUMBER)
    b = operand(NUMBER)
    result = BOOL


@op
class Equal(Compare):
    """a == b; NaN equals nothing."""

    a = operand(COMPARED)
    b = operand(COMPARED)
    traits = PURE | ELEMENTWISE | COMMUTATIVE
    dtypes = (I32, F32, BOOL)

    def of(self, a, b):
        return dim_eq(a, b)


@op
class NotEqual(Compare):
    """a != b; NaN differs from everything."""

    a = operand(COMPARED)
    b = operand(COMPARED)
    traits = PURE | ELEMENTWISE | COMMUTATIVE
    dtypes = (I32, F32, BOOL)

    def of(self, a, b):
        same = dim_eq(a, b)
        return None if same is None else not same


@op
class Less(Compare):
    """a < b."""

    def of(self, a, b):
        return dim_lt(a, b)


@op
class LessEqual(Compare):
    """a <= b."""

    def of(self, a, b):
        return dim_le(a, b)


@op
class Greater(Compare):
    """a > b."""

    def of(self, a, b):
        return dim_lt(b, a)


@op
class GreaterEqual(Compare):
    """a >= b."""

    def of(self, a, b):
        return dim_le(b, a)


class Logical(Binary):
    """Base of the ops on bools; one known operand may decide."""

    a = operand(BOOLEAN)
    b = operand(BOOLEAN)
    dtypes = (BOOL,)
    traits = PURE | ELEMENTWISE | COMMUTATIVE | ASSOCIATIVE


@op
class And(Logical):
    """Logical and."""

    def elem(self, a, b):
        return False if a == 0 or b == 0 else None if a is None or b is None else True


@op
class Or(Logical):
    """Logical or."""

    def elem(self, a, b):
        return True if a == 1 or b == 1 else None if a is None or b is None else False


@op
class Xor(Logical):
    """Exactly one of them."""

    def of(self, a, b):
        return a != b


class Bitwise(Binary):
    """Base of the ops on the bits of integers."""

    a = operand(INTEGER)
    b = operand(INTEGER)
    dtypes = (I32, U8)
    traits = PURE | ELEMENTWISE | COMMUTATIVE | ASSOCIATIVE


@op
class BitwiseAnd(Bitwise):
    """Bits set in both."""

    def of(self, a, b):
        return a & b if type(a) is int and type(b) is int else None


@op
class BitwiseOr(Bitwise):
    """Bits set in one or both."""

    def of(self, a, b):
        return a | b if type(a) is int and type(b) is int else None


@op
class BitwiseXor(Bitwise):
    """Bits set in exactly one."""

    def of(self, a, b):
        return a ^ b if type(a) is int and type(b) is int else None


@op
class BitShift(Binary):
    """`a` shifted by `b` bits; right shifts of signed integers keep the sign, past the width only sign is left."""

    a = operand(INTEGER)
    b = operand(INTEGER)
    direction = attr(str, choices=("LEFT", "RIGHT"))
    dtypes = (U32, I32, U8)
    domain = (0.0, 9.0)

    def variants(self):
        return [{"direction": "LEFT"}, {"direction": "RIGHT"}]


@op
class Where(Elementwise):
    """`x` where `cond`, else `y`; all three broadcast."""

    cond = operand(frozenset({BOOL}))
    x = operand(T)
    y = operand(T)

    def infer(self, cond, x, y):
        type_ = TensorType(x.dtype if x.dtype is not None else y.dtype, broadcast_values([cond, x, y]))
        if type_.dtype is None or not (type_.dtype.is_int or type_.dtype is BOOL):
            return Known(type_)
        return mapped_elems(type_, [cond, x, y], self.elem)

    def elem(self, cond, x, y):
        if cond is not None:
            return x if cond else y
        return x if x is not None and y is not None and dim_eq(x, y) is True else None

    def samples(self, rng):
        for dtype in (F32, I64, BOOL):
            yield Sample((draw(rng, (3, 1), BOOL), draw(rng, (2, 1, 4), dtype), draw(rng, (4,), dtype)))
        yield Sample((draw(rng, (), BOOL), draw(rng, (), F32), draw(rng, (), F32)))
        yield Sample((draw(rng, (2, 0), BOOL), draw(rng, (), F32), draw(rng, (2, 1), F32)))
