"""Kernels of the elementwise family: numpy broadcasting, one result element from one element of each operand.

+ - * / and sqrt run in the stored type where numpy rounds once there; everything else runs in float64 and is rounded
once (kernels/numeric.py). Integers wrap; integer division by zero is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np

from ..ir.errors import InvalidModel, Unsupported
from ..ir.types import DType
from . import precision
from .blocks import blockwise
from .budget import spend
from .jit import jit
from .numeric import E8M0, exact, is_float, is_integer, narrow, to_e8m0, truncate, wide
from .precision import quiet
from .registry import kernel
from .text import READING, numbers, spellings, texts

Array = np.ndarray

_SATURATING = tuple(
    np.dtype(t)
    for t in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz)
)


@jit(lambda x, y: y.size)
def erf_loop(x: Array, y: Array) -> None:
    """y[i] = erf(x[i]) over flat float64 arrays."""
    for i in range(x.size):
        y[i] = math.erf(x[i])


def erf_wide(x: Array) -> Array:
    """erf of a float64 array of any shape."""
    flat = np.ascontiguousarray(x).reshape(-1)
    y = np.empty_like(flat)
    erf_loop(flat, y)
    return y.reshape(x.shape)


def unary(function: Callable[[Array], Array], widen: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def run(x: Array) -> Array:
        with quiet():
            return narrow(function(widen(x)), x.dtype)

    return run


def float_unary(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A kernel that computes in float64, or complex128, and rounds once."""
    narrow_complex = unary(function, wide)

    def run(x: Array) -> Array:
        with quiet():
            return blockwise(function, x) if is_float(x.dtype) else narrow_complex(x)

    return run


_EXACT_UNARY: dict[str, Callable[[Array], Array]] = {
    "abs": np.abs,
    "neg": np.negative,
    "sqrt": np.sqrt,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "sign": np.sign,
    "square": np.square,
    "reciprocal": np.reciprocal,
}

_WIDE_UNARY: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "log": np.log,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "erf": erf_wide,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "log1p": np.log1p,
    "expm1": np.expm1,
}

for _name, _function in _EXACT_UNARY.items():
    kernel(_name)(unary(_function, exact))
for _name, _function in _WIDE_UNARY.items():
    kernel(_name)(float_unary(_function))


@kernel("identity")
def identity(x: Array) -> Array:
    return x


def binary(
    function: Callable[[Array, Array], Array], widen: Callable[[Array], Array]
) -> Callable[[Array, Array], Array]:
    def run(a: Array, b: Array) -> Array:
        with quiet():
            return narrow(function(widen(a), widen(b)), a.dtype)

    return run


_EXACT_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
}

for _name, _pair in _EXACT_BINARY.items():
    kernel(_name)(binary(_pair, exact))
kernel("atan2")(binary(np.arctan2, wide))


def _no_zero(b: Array, op: str) -> None:
    if not np.all(b):
        raise InvalidModel(
            f"{op}: integer division by zero", code="F021", hint="replace zero divisors by a where before dividing"
        )


@kernel("div")
def div(a: Array, b: Array) -> Array:
    """a / b; integers truncate toward zero (ONNX Div). Raises InvalidModel for an integer zero divisor."""
    x, y = exact(a), exact(b)
    with quiet():
        if not is_integer(a.dtype):
            return narrow(np.divide(x, y), a.dtype)
        _no_zero(y, "div")
        return narrow((x - np.fmod(x, y)) // y, a.dtype)


@kernel("floor_div")
def floor_div(a: Array, b: Array) -> Array:
    """floor(a / b) of the exact quotient. Raises InvalidModel for an integer zero divisor."""
    x, y = wide(a), wide(b)
    with quiet():
        if is_integer(a.dtype):
            _no_zero(y, "floor_div")
        return narrow(np.floor_divide(x, y), a.dtype)


@kernel("mod")
def mod(a: Array, b: Array, *, fmod: bool) -> Array:
    """The remainder, with the sign of `b` (ONNX Mod, also for floats as of opset 28) or, if `fmod`, of `a`."""
    x, y = wide(a), wide(b)
    with quiet():
        if is_integer(a.dtype):
            _no_zero(y, "mod")
        return narrow((np.fmod if fmod else np.remainder)(x, y), a.dtype)


#: Small powers as products: far quicker than the general power, and as close before the one rounding.
_POWERS: dict[float, Callable[[Array], Array]] = {2.0: np.square, 3.0: lambda x: x * x * x}


@kernel("pow")
def pow_(a: Array, b: Array) -> Array:
    """a ** b in the dtype of `a`. Integers: exact modulo 2**bits; a negative exponent truncates the true value."""
    with quiet():
        if is_integer(a.dtype) and is_integer(b.dtype):
            return _integer_power(a, b)
        if is_float(a.dtype) and b.size == 1 and b.ndim <= a.ndim:
            quick = _POWERS.get(wide(b).reshape(-1)[0].item())
            if quick is not None and a.dtype != np.float64:
                return blockwise(quick, a)
        power = np.power(wide(a).astype(np.float64), wide(b).astype(np.float64))
        return truncate(power, a.dtype) if is_integer(a.dtype) else narrow(power, a.dtype)


def _integer_power(a: Array, b: Array) -> Array:
    """Two's complement power: the low 64 bits of a product depend on the low 64 bits of its factors only."""
    base, exponent = np.broadcast_arrays(a.astype(np.int64), b.astype(np.int64))
    negative = exponent < 0 if np.issubdtype(wide(b).dtype, np.signedinteger) else np.zeros(base.shape, bool)
    if np.any(negative & (base == 0)):
        raise InvalidModel("pow: integer zero to a negative power", code="F021")
    power = np.power(base, np.where(negative, 0, exponent))
    minus_one = (base == -1) & (np.issubdtype(wide(a).dtype, np.signedinteger))
    reciprocal = np.where(base == 1, 1, np.where(minus_one, 1 - 2 * (exponent & 1), 0))
    return narrow(np.where(negative, reciprocal, power), a.dtype)


@kernel("clip")
def clip(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    """min(high, max(low, x)): where low > high the result is high; NaN stays NaN."""
    y = exact(x)
    if low is not None:
        y = np.maximum(y, exact(low))
    if high is not None:
        y = np.minimum(y, exact(high))  # np.clip takes another zero where a bound is 0.0 and the number -0.0
    return narrow(y, x.dtype)


@kernel("cast")
def cast(x: Array, *, to: DType, saturate: bool, round_mode: str) -> Array:
    """ONNX Cast-25: see `_to_float` for float targets, `numeric.truncate` for float to integer; integers wrap."""
    target = to.numpy
    if x.dtype == target:
        return x
    if x.dtype == np.object_ or x.dtype.kind in "US":
        return _parse(x, to, saturate, round_mode)
    if target == np.object_:
        return _spell(x)
    if x.dtype.kind == "c" and target.kind != "c":
        raise Unsupported(f"cast from {DType.of(x.dtype)} to {to}", hint="take the real part first")
    if target == np.bool_:
        return wide(x) != 0
    if is_integer(target):
        return truncate(wide(x), target) if is_float(x.dtype) else narrow(wide(x), target)
    return _to_float(wide(x), target, saturate, round_mode)


def _to_float(value: Array, target: np.dtype, saturate: bool, round_mode: str) -> Array:
    """To nearest even. fp8 clamps what is out of range if `saturate`; fp4 and fp6, without inf and NaN, always do."""
    if target == E8M0:
        return to_e8m0(value.astype(np.float64), saturate=saturate, round_mode=round_mode)
    if target.kind == "c" or value.dtype.kind == "c":
        return narrow(value.astype(np.complex128), target)
    if value.dtype.kind in "iu" and target.kind == "f":
        with quiet():
            return value.astype(target)
    odd = _odd_float64(value)
    return precision.saturate(odd, target) if saturate and target in _SATURATING else narrow(odd, target)


def _odd_float64(value: Array) -> Array:
    """float64 of `value`; integers above 2**53 are reduced so that the rounding to come is still the only one."""
    if value.dtype.kind not in "iu":
        return value.astype(np.float64)
    near = value.astype(np.float64)
    big = np.abs(near) > 2.0**53
    if not big.any():
        return near
    sticky = (value >> 11) << 11
    lost = sticky != value
    return np.where(big, (sticky | (lost.astype(value.dtype) << 11)).astype(np.float64), near)


def _parse(x: Array, to: DType, saturate: bool, round_mode: str) -> Array:
    """Strings to another dtype: see `text.numbers`."""
    if to.numpy == np.object_:
        return texts(x)
    made = numbers(x, to)
    return narrow(made, to.numpy) if to.is_int else cast(made, to=to, saturate=saturate, round_mode=round_mode)


def _spell(x: Array) -> Array:
    """Numbers to strings: see `text.spellings`."""
    value = x if x.dtype.kind in "fiub" else wide(x).astype(np.float32 if is_float(x.dtype) else np.int64)
    made = np.empty(x.size, np.object_)
    spend(READING * value.size)
    made[:] = spellings(value.ravel())
    return made.reshape(x.shape)


@kernel("bitcast")
def bitcast(x: Array, *, to: DType) -> Array:
    """The same bits read as another dtype of the same width; sub-byte elements keep their low bits."""
    target = to.numpy
    if target == x.dtype:
        return x
    source = np.ascontiguousarray(x)
    if to.bits >= 8:
        return source.view(target).reshape(x.shape)
    return (source.view(np.uint8) & np.uint8(2**to.bits - 1)).view(target).reshape(x.shape)
