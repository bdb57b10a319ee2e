"""Elementwise ops: numpy broadcasting, no promotion; integer arithmetic also runs on known elements, symbols included.

ONNX's newest semantics throughout (kernels/elementwise.py has the numbers). Reads shapes of integer tensors through
`ir/ops/shapes.py`; knows no kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from ..dims import Dim, Expr, dim_eq, dim_le, dim_lt, dim_max, dim_min
from ..errors import TypeInferError
from ..opdef import (
    ASSOCIATIVE,
    COMMUTATIVE,
    ELEMENTWISE,
    IDEMPOTENT,
    MOVEMENT,
    PURE,
    SAME_QUANT,
    DtypeVar,
    Known,
    OpDef,
    Sample,
    attr,
    op,
    operand,
    optional,
)
from ..types import BOOL, F16, F32, F64, I8, I32, I64, U8, U32, DType, TensorType
from .sampling import PAIRS, SHAPES, draw
from .shapes import FLOATS, NUMBERS, SIGNED, broadcast_values, mapped_elems

T = DtypeVar("T")
NUMBER = DtypeVar("T", NUMBERS)
SIGN = DtypeVar("T", SIGNED)
FLOATING = DtypeVar("T", FLOATS)


class Elementwise(OpDef):
    """Base: one result with the operands' dtype (or `result`), broadcast; `elem` computes on known integer elements."""

    traits = PURE | ELEMENTWISE
    reads_elems = True
    result: ClassVar[DType | None] = None
    domain: ClassVar[tuple[float, float]] = (-4.0, 4.0)
    dtypes: ClassVar[tuple[DType, ...]] = (F32, F16, I32)

    def memoisable(self, operands: tuple) -> bool:
        """Only integers and bools have known elements, so everything else is inferred once per set of types."""
        return all(v is None or (v.dtype is not None and v.dtype.is_float) for v in operands)

    def elem(self, *elems: Any, **attrs: Any) -> Dim | bool | None:
        """One known result element from one element of each operand (None: unknown); None when it cannot be said."""
        return None

    def spread(self, values: list[Any], attrs: dict[str, Any]) -> Known:
        """The shared rule over operands that take part in broadcasting."""
        first = next(v for v in values if v is not None)
        type_ = TensorType(self.result or first.dtype, broadcast_values(values))
        if type_.dtype is None or type_.dtype.is_float:
            return Known(type_)
        return mapped_elems(type_, values, lambda *row: self.elem(*row, **attrs))


class Unary(Elementwise):
    """Base: one operand, one result of its shape."""

    def infer(self, x, **attrs):
        return self.spread([x], attrs)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for dtype in self.dtypes:
            for shape in SHAPES if dtype is self.dtypes[0] else SHAPES[3:5]:
                yield Sample((draw(rng, shape, dtype, *self.domain),))


class FloatUnary(Unary):
    """Base: a function of one float."""

    reads_elems = False
    dtypes = (F32, F16, F64)
    x = operand(FLOATING)

    def memoisable(self, operands: tuple) -> bool:
        return True


def _float_unary(
    name: str, doc: str, domain: tuple[float, float] = (-4.0, 4.0), traits: Any = PURE | ELEMENTWISE
) -> None:
    """Define and register one function of a float: it differs from its siblings by nothing but these four."""
    op(type(name, (FloatUnary,), {"__doc__": doc, "__module__": __name__, "domain": domain, "traits": traits}))


for _row in (
    ("Exp", "e ** x."),
    ("Log", "Natural logarithm; -inf at 0, NaN below.", (0.01, 9.0)),
    ("Sqrt", "Square root; NaN below 0.", (0.0, 9.0)),
    ("Rsqrt", "1 / sqrt(x), rounded once.", (0.01, 9.0)),
    ("Reciprocal", "1 / x.", (0.1, 4.0)),
    ("Floor", "The largest integral value not above x.", (-4.0, 4.0), PURE | ELEMENTWISE | IDEMPOTENT),
    ("Ceil", "The smallest integral value not below x.", (-4.0, 4.0), PURE | ELEMENTWISE | IDEMPOTENT),
    ("Round", "To the nearest integral value, halves to even.", (-4.0, 4.0), PURE | ELEMENTWISE | IDEMPOTENT),
    ("Trunc", "To the nearest integral value toward zero.", (-4.0, 4.0), PURE | ELEMENTWISE | IDEMPOTENT),
    ("Erf", "The error function."),
    ("Sin", "Sine of radians."),
    ("Cos", "Cosine of radians."),
    ("Tan", "Tangent of radians.", (-1.4, 1.4)),
    ("Asin", "Inverse sine; NaN outside [-1, 1].", (-1.0, 1.0)),
    ("Acos", "Inverse cosine; NaN outside [-1, 1].", (-1.0, 1.0)),
    ("Atan", "Inverse tangent."),
    ("Sinh", "Hyperbolic sine."),
    ("Cosh", "Hyperbolic cosine."),
    ("Asinh", "Inverse hyperbolic sine."),
    ("Acosh", "Inverse hyperbolic cosine; NaN below 1.", (1.0, 9.0)),
    ("Atanh", "Inverse hyperbolic tangent; NaN outside [-1, 1].", (-0.99, 0.99)),
    ("Log1p", "log(1 + x), accurate near 0.", (-0.9, 9.0)),
    ("Expm1", "exp(x) - 1, accurate near 0."),
):
    _float_unary(*_row)


def _sign(a: Dim) -> int | None:
    """The sign of a dim where it is known."""
    for sign, holds in ((1, dim_lt(0, a)), (-1, dim_lt(a, 0)), (0, dim_eq(a, 0))):
        if holds:
            return sign
    return None


def not_negative(a: Dim) -> bool:
    return dim_le(0, a) is True


@op
class Abs(Unary):
    """The absolute value; the smallest signed integer stays itself."""

    x = operand(NUMBER)
    traits = PURE | ELEMENTWISE | IDEMPOTENT

    def elem(self, a):
        return None if a is None else a if not_negative(a) else -1 * a if dim_le(a, 0) else None


@op
class Neg(Unary):
    """-x; integers wrap."""

    x = operand(SIGN)

    def elem(self, a):
        return None if a is None else -1 * a


@op
class Sign(Unary):
    """-1, 0 or 1; NaN stays NaN."""

    x = operand(NUMBER)
    traits = PURE | ELEMENTWISE | IDEMPOTENT

    def elem(self, a):
        return None if a is None else _sign(a)


@op
class Square(Unary):
    """x * x; integers wrap."""

    x = operand(NUMBER)

    def elem(self, a):
        return None if a is None else a * a


@op
class Identity(OpDef):
    """The operand itself, of any type."""

    x = operand()
    traits = PURE | ELEMENTWISE | MOVEMENT | SAME_QUANT | IDEMPOTENT
    reads_elems = True

    def infer(self, x):
        return Known(x.type, x.elems)

    def samples(self, rng):
        for shape in SHAPES:
            yield Sample((draw(rng, shape, F32),))


@op
class Cast(OpDef):
    """Convert every element to the dtype `to` (ONNX Cast).

    Floats round to nearest even, to integers toward zero; integers wrap; `saturate` clamps what overflows an fp8 type;
    `round_mode` and `saturate` rule powers of two (f8e8m0).
    """

    x = operand(T)
    to = attr(DType)
    saturate = attr(bool, True)
    round_mode = attr(str, "up", choices=("up", "down", "nearest"))
    traits = PURE | ELEMENTWISE
    reads_elems = True

    def infer(self, x, *, to, saturate, round_mode):
        type_ = TensorType(to, x.shape)
        if not (to.is_int or to is BOOL):
            return Known(type_)
        test = _truth if to is BOOL else lambda a: a
        return mapped_elems(type_, [x], test)

    def samples(self, rng):
        for source in (F32, I32, BOOL, U8):
            for to in (F16, F32, I64, I8, BOOL):
                yield Sample((draw(rng, (2, 3), source),), {"to": to})
        yield Sample((draw(rng, (), F32),), {"to": I32})


def _truth(a: Dim | None) -> bool | None:
    same = None if a is None else dim_eq(a, 0)
    return None if same is None else not same


@op
class Bitcast(OpDef):
    """The same bits read as the dtype `to`, which must have the same width (ONNX BitCast)."""

    x = operand(T)
    to = attr(DType)
    traits = PURE | ELEMENTWISE

    def infer(self, x, *, to):
        if x.dtype is not None and (x.dtype.bits != to.bits or to.bits == 0):
            raise TypeInferError(f"bitcast from {x.dtype} ({x.dtype.bits} bits) to {to} ({to.bits} bits)")
        return TensorType(to, x.shape)

    def samples(self, rng):
        for source, to in ((F32, I32), (I32, U32), (U8, I8), (F64, I64)):
            yield Sample((draw(rng, (2, 3), source),), {"to": to})


class Binary(Elementwise):
    """Base: two operands of one dtype."""

    second: ClassVar[tuple[float, float] | None] = None

    def infer(self, a, b, **attrs):
        return self.spread([a, b], attrs)

    def elem(self, a, b, **attrs):
        return None if a is None or b is None else self.of(a, b, **attrs)

    def of(self, a: Dim, b: Dim, **attrs: Any) -> Dim | bool | None:
        """`elem` for two elements that are both known."""
        return None

    def variants(self) -> list[dict[str, Any]]:
        """The attribute sets to sample."""
        return [{}]

    def samples(self, rng):
        for attrs in self.variants():
            for dtype in self.dtypes:
                for left, right in PAIRS if dtype is self.dtypes[0] else PAIRS[:3]:
                    a = draw(rng, left, dtype, *self.domain)
                    yield Sample((a, draw(rng, right, dtype, *(self.second or self.domain))), attrs)


class Arithmetic(Binary):
    """Base of add, sub, mul ... on any number."""

    a = operand(NUMBER)
    b = operand(NUMBER)


@op
class Add(Arithmetic):
    """a + b; integers wrap."""

    traits = PURE | ELEMENTWISE | COMMUTATIVE | ASSOCIATIVE

    def of(self, a, b):
        return a + b


@op
class Sub(Arithmetic):
    """a - b; integers wrap."""

    def of(self, a, b):
        return a - b


@op
class Mul(Arithmetic):
    """a * b; integers wrap."""

    traits = PURE | ELEMENTWISE | COMMUTATIVE | ASSOCIATIVE

    def of(self, a, b):
        return a * b


def _nonzero(b: Dim) -> bool:
    """Usable as a divisor: a positive number or a dim (a symbolic zero would fail when the model runs)."""
    return dim_lt(0, b) is True or (isinstance(b, Expr) and not_negative(b))


@op
class Div(Arithmetic):
    """a / b; integers truncate toward zero, and division by an integer zero is an error."""

    second = (1.0, 5.0)

    def of(self, a, b):
        if type(a) is int and type(b) is int:
            return None if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        return a // b if _nonzero(b) and not_negative(a) else None


@op
class FloorDiv(Arithmetic):
    """floor(a / b); division by an integer zero is an error."""

    second = (1.0, 5.0)

    def of(self, a, b):
        if type(a) is int and type(b) is int:
            return None if b == 0 else a // b
        return a // b if _nonzero(b) else None


@op
class Mod(Arithmetic):
    """The remainder with the sign of `b` or, if `fmod`, of `a`; an integer zero divisor is an error."""

    fmod = attr(bool, False)
    second = (1.0, 5.0)

    def of(self, a, b, *, fmod):
        if type(a) is int and type(b) is int:
            return None if b == 0 else a % b if not fmod else abs(a) % abs(b) * (-1 if a < 0 else 1)
        return a % b if _nonzero(b) and (not fmod or not_negative(a)) else None

    def variants(self):
        return [{}, {"fmod": True}]


@op
class Min(Arithmetic):
    """The smaller one; NaN wins."""

    traits = PURE | ELEMENTWISE | COMMUTATIVE | ASSOCIATIVE | SAME_QUANT

    def of(self, a, b):
        return dim_min(a, b)


@op
class Max(Arithmetic):
    """The larger one; NaN wins."""

    traits = PURE | ELEMENTWISE | COMMUTATIVE | ASSOCIATIVE | SAME_QUANT

    def of(self, a, b):
        return dim_max(a, b)


@op
class Pow(Binary):
    """a ** b in the dtype of `a`; the exponent may have another dtype. Integers wrap."""

    a = operand(NUMBER)
    b = operand(DtypeVar("E", NUMBERS))
    domain = (0.1, 3.0)

    def of(self, a, b):
        return a**b if type(a) is int and type(b) is int and 0 <= b <= 64 else None

    def samples(self, rng):
        yield from super().samples(rng)
        yield Sample((draw(rng, (2, 3), F32, 0.1, 3.0), draw(rng, (3,), I32, 0, 3)))


@op
class Atan2(Binary):
    """The angle of the point (x = b, y = a), in (-pi, pi]."""

    a = operand(FLOATING)
    b = operand(FLOATING)
    dtypes = (F32, F64)


@op
class Clip(Elementwise):
    """min(high, max(low, x)); an absent bound does not bind; where low > high the result is high."""

    x = operand(NUMBER)
    min = optional(NUMBER)
    max = optional(NUMBER)
    traits = PURE | ELEMENTWISE | IDEMPOTENT | SAME_QUANT

    def infer(self, x, min, max):
        for bound in (min, max):
            if bound is not None and bound.rank not in (None, 0):
                raise TypeInferError(f"a bound of clip has shape {bound.type}, expected a scalar")
        if x.dtype is None or not x.dtype.is_int:
            return x.type
        return mapped_elems(x.type, [x, min, max], lambda a, low, high: _clipped(a, min, low, max, high))

    def samples(self, rng):
        low, high = np.float32(-1.0), np.float32(2.0)
        for shape in SHAPES:
            yield Sample((draw(rng, shape), np.asarray(low), np.asarray(high)))
        yield Sample((draw(rng, (2, 3)), None, np.asarray(high)))
        yield Sample((draw(rng, (2, 3)), np.asarray(low)))
        yield Sample((draw(rng, (2, 3), I32), np.asarray(-1, np.int32), np.asarray(2, np.int32)))
        yield Sample((draw(rng, (2, 3)), np.asarray(high), np.asarray(low)))


def _clipped(a: Dim | None, min: Any, low: Dim | None, max: Any, high: Dim | None) -> Dim | None:
    if a is None or (min is not None and low is None) or (max is not None and high is None):
        return None
    a = dim_max(a, low) if low is not None else a
    return dim_min(a, high) if high is not None else a
