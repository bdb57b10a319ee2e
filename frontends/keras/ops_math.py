"""Operations of `keras.ops` on elements and along axes: arithmetic, comparison, reductions, products.

Handlers get constructor arguments as keywords and call arguments as they were given: values, numbers, arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir import types as t
from ...ir.graph import Value
from .merge import l2_normalized
from .registry import operation
from .scope import Scope

_FLOAT_UNARY = {
    "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Rsqrt": "rsqrt", "Sin": "sin", "Cos": "cos", "Tan": "tan",
    "Arcsin": "asin", "Arccos": "acos", "Arctan": "atan", "Sinh": "sinh", "Cosh": "cosh", "Tanh": "tanh",
    "Arcsinh": "asinh", "Arccosh": "acosh", "Arctanh": "atanh", "Erf": "erf", "Log1p": "log1p",
    "Expm1": "expm1", "Reciprocal": "reciprocal",
}  # fmt: skip
_UNARY = {
    "Absolute": "abs", "Abs": "abs", "Fabs": "abs", "Negative": "neg", "Sign": "sign", "BitwiseNot": "bitwise_not",
    "BitwiseInvert": "bitwise_not", "StopGradient": "identity", "Copy": "identity",
    "Conjugate": "identity", "Conj": "identity", "Real": "identity",
}  # fmt: skip
_ROUNDING = {"Floor": "floor", "Ceil": "ceil", "Trunc": "trunc"}
_BINARY = {"Add": "add", "Subtract": "sub", "Multiply": "mul", "Maximum": "max", "Minimum": "min"}
_COMPARE = {
    "Equal": "equal", "NotEqual": "not_equal", "Less": "less", "LessEqual": "less_equal", "Greater": "greater",
    "GreaterEqual": "greater_equal",
}  # fmt: skip
_LOGICAL = {"LogicalAnd": "and", "LogicalOr": "or", "LogicalXor": "xor"}
_BITWISE = {"BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor"}


def call(s: Scope, name: str, *operands: Any, **attrs: Any) -> Value:
    """One op of one result, by name."""
    return s.b.call(name, operands, attrs).result


def _register(table: dict[str, str], make: Callable[[str], Callable[..., Value]]) -> None:
    for keras_name, name in table.items():
        operation(keras_name)(make(name))


_register(_FLOAT_UNARY, lambda name: lambda s, x: call(s, name, s.floating(s.value(x))))
_register(_UNARY, lambda name: lambda s, x: s.value(x) if name == "identity" else call(s, name, s.value(x)))
_register(_ROUNDING, lambda name: lambda s, x: call(s, name, s.floating(s.value(x))))
_register(_BINARY, lambda name: lambda s, x1, x2: call(s, name, *s.common(x1, x2)))
_register(_COMPARE, lambda name: lambda s, x1, x2: call(s, name, *s.common(x1, x2)))
_register(_LOGICAL, lambda name: lambda s, x1, x2: call(s, name, *(_truth(s, x) for x in (x1, x2))))
_register(_BITWISE, lambda name: lambda s, x, y: call(s, name, *s.common(x, y)))


def _truth(s: Scope, x: Any) -> Value:
    """A value as bool: anything but zero."""
    value = s.value(x)
    return value if value.dtype is t.BOOL else s.b.not_equal(value, s.value(0, value.dtype))


@operation("LogicalNot")
def logical_not(s: Scope, x: Any) -> Value:
    return s.b.not_(_truth(s, x))


@operation("Divide", "TrueDivide")
def divide(s: Scope, x1: Any, x2: Any) -> Value:
    return s.b.div(*s.common(x1, x2, floating=True))


@operation("DivideNoNan")
def divide_no_nan(s: Scope, x1: Any, x2: Any) -> Value:
    """x1 / x2, and 0 where x2 is 0"""
    a, b = s.common(x1, x2, floating=True)
    zero, one = s.value(0.0, a.dtype), s.value(1.0, a.dtype)
    nothing = s.b.equal(b, zero)
    return s.b.where(nothing, zero, s.b.div(a, s.b.where(nothing, one, b)))


@operation("FloorDivide")
def floor_divide(s: Scope, x1: Any, x2: Any) -> Value:
    a, b = s.common(x1, x2)
    return s.b.floor(s.b.div(a, b)) if s.dtype_of(a).is_float else s.b.floor_div(a, b)


@operation("Mod")
def mod(s: Scope, x1: Any, x2: Any) -> Value:
    """The remainder with the sign of the divisor."""
    a, b = s.common(x1, x2)
    if not s.dtype_of(a).is_float:
        return s.b.mod(a, b, fmod=False)
    return s.b.sub(a, s.b.mul(s.b.floor(s.b.div(a, b)), b))


@operation("Fmod")
def fmod(s: Scope, x1: Any, x2: Any) -> Value:
    return s.b.mod(*s.common(x1, x2), fmod=True)


@operation("Power")
def power(s: Scope, x1: Any, x2: Any) -> Value:
    if isinstance(x2, (int, float)) and not isinstance(x2, bool) and x2 == 2 and isinstance(x1, Value):
        base = s.common(x1, x2)[0]
        return s.b.mul(base, base)
    return s.b.pow(*s.common(x1, x2))


@operation("Square")
def square(s: Scope, x: Any) -> Value:
    value = s.value(x)
    return s.b.mul(value, value)


@operation("Arctan2")
def arctan2(s: Scope, x1: Any, x2: Any) -> Value:
    return s.b.atan2(*s.common(x1, x2, floating=True))


@operation("Hypot")
def hypot(s: Scope, x1: Any, x2: Any) -> Value:
    a, b = s.common(x1, x2, floating=True)
    return s.b.sqrt(s.b.add(s.b.mul(a, a), s.b.mul(b, b)))


@operation("Logaddexp")
def logaddexp(s: Scope, x1: Any, x2: Any) -> Value:
    """max + log1p(exp(-|difference|))"""
    a, b = s.common(x1, x2, floating=True)
    return s.b.add(s.b.max(a, b), s.b.log1p(s.b.exp(s.b.neg(s.b.abs(s.b.sub(a, b))))))


def _scaled(name: str, op: str | None, factor: float, before: bool) -> None:
    """op(factor x) or factor op(x)."""

    def lower(s: Scope, x: Any) -> Value:
        value = s.floating(s.value(x))
        weight = s.value(factor, value.dtype)
        if before:
            value = s.b.mul(value, weight)
        value = call(s, op, value) if op else value
        return value if before else s.b.mul(value, weight)

    operation(name)(lower)


_scaled("Log2", "log", 1.0 / math.log(2.0), False)
_scaled("Log10", "log", 1.0 / math.log(10.0), False)
_scaled("Exp2", "exp", math.log(2.0), True)
_scaled("Deg2rad", None, math.pi / 180.0, False)
_scaled("Rad2deg", None, 180.0 / math.pi, False)


@operation("Erfc")
def erfc(s: Scope, x: Any) -> Value:
    value = s.floating(s.value(x))
    return s.b.sub(s.value(1.0, value.dtype), s.b.erf(value))


@operation("Clip")
def clip(s: Scope, x: Any, x_min: Any, x_max: Any) -> Value:
    value = s.value(x)
    low, high = (None if v is None else s.cast(s.value(v, value.dtype), s.dtype_of(value)) for v in (x_min, x_max))
    if all(v is None or s.rank(v) == 0 for v in (low, high)):
        return s.b.clip(value, low, high)
    value = value if low is None else s.b.max(value, low)
    return value if high is None else s.b.min(value, high)


@operation("Round")
def round_(s: Scope, x: Any, decimals: int = 0) -> Value:
    """Half to even, at `decimals` places."""
    value = s.floating(s.value(x))
    if decimals == 0:
        return s.b.round(value)
    scale = s.value(float(10.0**decimals), value.dtype)
    return s.b.div(s.b.round(s.b.mul(value, scale)), scale)


@operation("Isnan")
def isnan(s: Scope, x: Any) -> Value:
    return s.b.is_nan(s.floating(s.value(x)))


@operation("Isinf")
def isinf(s: Scope, x: Any) -> Value:
    return s.b.is_inf(s.floating(s.value(x)))


@operation("Isfinite")
def isfinite(s: Scope, x: Any) -> Value:
    value = s.floating(s.value(x))
    return s.b.not_(s.b.or_(s.b.is_nan(value), s.b.is_inf(value)))


@operation("Where")
def where(s: Scope, condition: Any, x1: Any = None, x2: Any = None) -> Value:
    if x1 is None or x2 is None:
        raise s.unsupported("where with a condition alone, whose result has no fixed shape")
    return s.b.where(_truth(s, condition), *s.common(x1, x2))


@operation("Cast", "SaturateCast")
def cast(s: Scope, x: Any, dtype: Any) -> Value:
    wanted = s.named_dtype(dtype)
    value = s.value(x)
    return s.b.cast(value, to=wanted, saturate=True) if s.layer.class_name == "SaturateCast" else s.cast(value, wanted)


@operation("ConvertToTensor", "Array")
def convert(s: Scope, x: Any, dtype: Any = None, **rest: Any) -> Value:
    value = s.value(x)
    return value if dtype is None else s.cast(value, s.named_dtype(dtype))


# ----------------------------------------------------------------------------------------------------------- reductions


def _summed_dtype(dtype: t.DType) -> t.DType:
    """Sums of bools and small integers are taken in int32 (`keras.ops.sum`)."""
    if dtype is t.BOOL or (dtype.is_int and dtype.bits < 32):
        return t.U32 if dtype.kind == "uint" else t.I32
    return dtype


def reduced(s: Scope, name: str, x: Value, axis: Any, keepdims: bool = False) -> Value:
    """A reduction over `axis` (None: all)."""
    return call(s, name, x, s.axes(axis, s.rank(x)), keepdims=bool(keepdims))


def _reduction(keras_names: tuple[str, ...], name: str, prepare: Callable[[Scope, Value], Value]) -> None:
    def lower(
        s: Scope, x: Any, axis: Any = None, keepdims: bool = False, initial: Any = None, dtype: Any = None
    ) -> Value:
        if initial is not None:
            raise s.unsupported("a reduction with an initial value")
        y = reduced(s, name, prepare(s, s.value(x)), axis, keepdims)
        return y if dtype is None else s.cast(y, s.named_dtype(dtype))

    operation(*keras_names)(lower)


_reduction(("Sum",), "reduce_sum", lambda s, x: s.cast(x, _summed_dtype(s.dtype_of(x))))
_reduction(("Prod",), "reduce_prod", lambda s, x: s.cast(x, _summed_dtype(s.dtype_of(x))))
_reduction(("Mean",), "reduce_mean", lambda s, x: x if s.dtype_of(x).is_float else s.cast(x, t.F32))
_reduction(("Max", "Amax"), "reduce_max", lambda s, x: x)
_reduction(("Min", "Amin"), "reduce_min", lambda s, x: x)
_reduction(("All",), "reduce_all", lambda s, x: _truth(s, x))
_reduction(("Any",), "reduce_any", lambda s, x: _truth(s, x))
_reduction(("Logsumexp",), "reduce_log_sum_exp", lambda s, x: s.floating(x))


def variance(s: Scope, x: Value, axis: Any, keepdims: bool) -> tuple[Value, Value]:
    """(mean, variance) over `axis`, two-pass."""
    mean = reduced(s, "reduce_mean", x, axis, True)
    centred = s.b.sub(x, mean)
    spread = reduced(s, "reduce_mean", s.b.mul(centred, centred), axis, keepdims)
    return (mean if keepdims else s.b.squeeze(mean, s.axes(axis, s.rank(x)))), spread


@operation("Var")
def var(s: Scope, x: Any, axis: Any = None, keepdims: bool = False) -> Value:
    return variance(s, s.floating(s.value(x)), axis, bool(keepdims))[1]


@operation("Std")
def std(s: Scope, x: Any, axis: Any = None, keepdims: bool = False) -> Value:
    return s.b.sqrt(var(s, x, axis, keepdims))


@operation("Moments")
def moments(s: Scope, x: Any, axes: Any, keepdims: bool = False, synchronized: bool = False) -> tuple[Value, Value]:
    return variance(s, s.floating(s.value(x)), axes, bool(keepdims))


@operation("Ptp")
def ptp(s: Scope, x: Any, axis: Any = None, keepdims: bool = False) -> Value:
    value = s.value(x)
    return s.b.sub(reduced(s, "reduce_max", value, axis, keepdims), reduced(s, "reduce_min", value, axis, keepdims))


@operation("CountNonzero")
def count_nonzero(s: Scope, x: Any, axis: Any = None) -> Value:
    return reduced(s, "reduce_sum", s.cast(_truth(s, x), t.I32), axis)


@operation("Norm")
def norm(s: Scope, x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Value:
    """Vector norms: Frobenius or 2, 1, infinities."""
    value = s.floating(s.value(x))
    axes = s.axes(axis, s.rank(value))
    if ord in (None, "fro", "euclidean") or (ord == 2 and len(axes) == 1):
        return reduced(s, "reduce_l2", value, list(axes), keepdims)
    if len(axes) != 1 or ord not in (1, float("inf"), float("-inf"), "inf", "-inf"):
        raise s.unsupported(f"norm of order {ord!r} over {len(axes)} axes")
    if ord == 1:
        return reduced(s, "reduce_l1", value, list(axes), keepdims)
    return reduced(s, "reduce_min" if str(ord).startswith("-") else "reduce_max", s.b.abs(value), list(axes), keepdims)


@operation("Normalize")
def normalize(s: Scope, x: Any, axis: Any = -1, order: int = 2, epsilon: Any = None) -> Value:
    value = s.floating(s.value(x))
    small = 1e-7 if epsilon is None else float(epsilon)
    axes = s.axes(axis, s.rank(value))
    if order == 2:
        return l2_normalized(s, value, axes, small)
    if order != 1:
        raise s.unsupported(f"normalization of order {order}")
    return s.b.div(value, s.b.max(reduced(s, "reduce_l1", value, list(axes), True), s.value(small, value.dtype)))


def _arg(name: str) -> Callable[..., Value]:
    def lower(s: Scope, x: Any, axis: Any = None, keepdims: bool = False) -> Value:
        value = s.value(x)
        if axis is None:
            found = call(s, name, s.b.reshape(value, (-1,)), axis=0, keepdims=False)
            return s.cast(s.b.reshape(found, (1,) * s.rank(value)) if keepdims else found, t.I32)
        return s.cast(call(s, name, value, axis=s.axis(axis, s.rank(value)), keepdims=bool(keepdims)), t.I32)

    return lower


operation("Argmax")(_arg("arg_max"))
operation("Argmin")(_arg("arg_min"))


def _cumulative(name: str) -> Callable[..., Value]:
    def lower(s: Scope, x: Any, axis: Any = None, dtype: Any = None) -> Value:
        value = s.value(x)
        value = s.cast(value, s.named_dtype(dtype) if dtype is not None else _summed_dtype(s.dtype_of(value)))
        if axis is None:
            value, axis = s.b.reshape(value, (-1,)), 0
        return call(s, name, value, s.value(s.axis(axis, s.rank(value)), t.I64))

    return lower


operation("Cumsum")(_cumulative("cumsum"))
operation("Cumprod")(_cumulative("cumprod"))


@operation("TopK")
def top_k(s: Scope, x: Any, k: int, sorted: bool = True) -> tuple[Value, Value]:
    values, indices = s.b.topk(s.value(x), (s.as_size(k, "k"),), axis=-1, largest=True, sorted=bool(sorted))
    return values, s.cast(indices, t.I32)


# ------------------------------------------------------------------------------------------------------------- products


@operation("Matmul")
def matmul(s: Scope, x1: Any, x2: Any) -> Value:
    return s.b.matmul(*s.common(x1, x2))


def _letters(s: Scope, a: int, b: int) -> tuple[str, str]:
    """Distinct axis names for two operands of an einsum."""
    if max(a, b) > 13:
        raise s.unsupported(f"a product of tensors of rank {max(a, b)}")
    return "abcdefghijklm"[:a], "nopqrstuvwxyz"[:b]


@operation("Dot")
def dot(s: Scope, x1: Any, x2: Any) -> Value:
    """numpy's dot: a product with scalars, matmul up to rank 2, else a sum over the last and the last but one axis."""
    a, b = s.common(x1, x2)
    if 0 in (s.rank(a), s.rank(b)):
        return s.b.mul(a, b)
    if s.rank(b) <= 2:
        return s.b.matmul(a, b)
    left, right = _letters(s, s.rank(a) - 1, s.rank(b))
    left, right = left + "Z", right[:-2] + "Z" + right[-1]
    return s.b.einsum(a, b, equation=f"{left},{right}->{left[:-1]}{right.replace('Z', '')}")


@operation("Tensordot")
def tensordot(s: Scope, x1: Any, x2: Any, axes: Any = 2) -> Value:
    a, b = s.common(x1, x2)
    if isinstance(axes, int):
        pair: Any = (list(range(s.rank(a) - axes, s.rank(a))), list(range(axes)))
    else:
        pair = [v if isinstance(v, (list, tuple)) else [v] for v in axes]
    left, right = map(list, _letters(s, s.rank(a), s.rank(b)))
    for i, j in zip(*pair, strict=True):
        right[s.axis(j, s.rank(b))] = left[s.axis(i, s.rank(a))]
    made = "".join(c for c in left if c not in right) + "".join(c for c in right if c not in left)
    return s.b.einsum(a, b, equation=f"{''.join(left)},{''.join(right)}->{made}")


@operation("Einsum")
def einsum(s: Scope, *operands: Any, subscripts: str, **kwargs: Any) -> Value:
    if not isinstance(subscripts, str):
        raise s.invalid("subscripts is not a text")
    return s.b.einsum(*s.common(*operands), equation=subscripts.replace(" ", ""))


@operation("Outer")
def outer(s: Scope, x1: Any, x2: Any) -> Value:
    a, b = s.common(x1, x2)
    return s.b.mul(s.b.reshape(a, (-1, 1)), s.b.reshape(b, (1, -1)))


@operation("Inner", "Vdot")
def inner(s: Scope, x1: Any, x2: Any) -> Value:
    a, b = s.common(x1, x2)
    if s.layer.class_name == "Vdot":
        a, b = s.b.reshape(a, (-1,)), s.b.reshape(b, (-1,))
    return s.b.reduce_sum(s.b.mul(a, b), (-1,), keepdims=False) if s.rank(a) == s.rank(b) == 1 else _inner(s, a, b)


def _inner(s: Scope, a: Value, b: Value) -> Value:
    left, right = _letters(s, s.rank(a) - 1, s.rank(b) - 1)
    return s.b.einsum(a, b, equation=f"{left}Z,{right}Z->{left}{right}")


@operation("NanToNum")
def nan_to_num(s: Scope, x: Any, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Value:
    value = s.floating(s.value(x))
    info = np.finfo(value.dtype.numpy) if value.dtype in (t.F16, t.F32, t.F64) else np.finfo(np.float32)
    high, low = (d if v is None else float(v) for v, d in ((posinf, float(info.max)), (neginf, float(info.min))))
    y = s.b.where(s.b.is_nan(value), s.value(float(nan), value.dtype), value)
    y = s.b.where(s.b.is_inf(y, detect_negative=False), s.value(high, value.dtype), y)
    return s.b.where(s.b.is_inf(y, detect_positive=False), s.value(low, value.dtype), y)
