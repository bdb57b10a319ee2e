"""Elementwise and logic kernels against formulas of exact rational or float64 arithmetic, for every dtype they take."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from anyir.ir.errors import InvalidModel, Unsupported
from anyir.ir.types import (
    BF16,
    BOOL,
    F8E4M3FN,
    F8E5M2,
    F8E8M0,
    F16,
    F32,
    F64,
    I4,
    I8,
    I16,
    I32,
    I64,
    STRING,
    U2,
    U4,
    U8,
    U16,
    U32,
    U64,
    DType,
)
from anyir.kernels import elementwise
from anyir.kernels.jit import interpreted

Call = Callable[..., Any]
RNG = np.random.default_rng(5)

FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
MATH: dict[str, tuple[Callable[[float], float], float, float]] = {
    "exp": (math.exp, -5, 5),
    "log": (math.log, 0.01, 9),
    "sqrt": (math.sqrt, 0, 9),
    "rsqrt": (lambda v: 1 / math.sqrt(v), 0.01, 9),
    "reciprocal": (lambda v: 1 / v, 0.1, 9),
    "erf": (math.erf, -3, 3),
    "sin": (math.sin, -7, 7),
    "cos": (math.cos, -7, 7),
    "tan": (math.tan, -1.4, 1.4),
    "asin": (math.asin, -1, 1),
    "acos": (math.acos, -1, 1),
    "atan": (math.atan, -9, 9),
    "sinh": (math.sinh, -4, 4),
    "cosh": (math.cosh, -4, 4),
    "asinh": (math.asinh, -9, 9),
    "acosh": (math.acosh, 1, 9),
    "atanh": (math.atanh, -0.99, 0.99),
    "log1p": (math.log1p, -0.9, 9),
    "expm1": (math.expm1, -3, 3),
    "floor": (math.floor, -9, 9),
    "ceil": (math.ceil, -9, 9),
    "round": (round, -9, 9),
    "trunc": (math.trunc, -9, 9),
    "square": (lambda v: v * v, -9, 9),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", MATH)
def test_functions_of_a_float_round_once(name: str, dtype: Any, call: Call, rounded_once: Any) -> None:
    function, low, high = MATH[name]
    x = RNG.uniform(low, high, (3, 17)).astype(dtype)
    x = np.clip(x.astype(np.float64), low, high).astype(dtype)
    exact = np.array([function(float(v)) for v in x.ravel()]).reshape(x.shape)
    made = call(name, x)
    assert made.dtype == x.dtype
    if dtype is ml_dtypes.bfloat16:
        np.testing.assert_array_equal(
            made.astype(np.float64), [[nearest(Fraction(v), 8) for v in row] for row in exact]
        )
    else:
        rounded_once(made, exact)


def nearest(value: Fraction, bits: int) -> float:
    """`value` to `bits` significant bits, ties to even, by integers alone."""
    if value == 0:
        return 0.0
    exponent = math.frexp(float(value))[1] - bits
    scaled = value / Fraction(2) ** exponent
    return float(round(scaled) * Fraction(2) ** exponent)


def test_erf_is_the_same_compiled_and_not() -> None:
    x = RNG.uniform(-4, 4, 2000)
    np.testing.assert_allclose(elementwise.erf_wide(x), [math.erf(v) for v in x], rtol=4e-16)
    with interpreted():
        np.testing.assert_array_equal(elementwise.erf_wide(x), [math.erf(v) for v in x])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_arithmetic_rounds_once(name: str, dtype: Any, call: Call) -> None:
    a, b = (RNG.uniform(0.5, 900, 200).astype(dtype) for _ in range(2))
    step = {"add": Fraction.__add__, "sub": Fraction.__sub__, "mul": Fraction.__mul__, "div": Fraction.__truediv__}[
        name
    ]
    bits = int(ml_dtypes.finfo(dtype).nmant) + 1
    made = call(name, a, b).astype(np.float64)
    limit = float(ml_dtypes.finfo(dtype).max)
    for x, y, got in zip(a, b, made, strict=True):
        wanted = nearest(step(Fraction(float(x)), Fraction(float(y))), bits)
        assert got == wanted or (abs(wanted) > limit and np.isinf(got))


INTS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)


def wrap(value: int, dtype: Any) -> int:
    bits = np.dtype(dtype).itemsize * 8
    low = value % (1 << bits)
    return low - (1 << bits) if np.dtype(dtype).kind == "i" and low >> (bits - 1) else low


def c_div(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


PYTHON: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": c_div,
    "floor_div": lambda a, b: a // b,
    "min": min,
    "max": max,
    "bitwise_and": lambda a, b: a & b,
    "bitwise_or": lambda a, b: a | b,
    "bitwise_xor": lambda a, b: a ^ b,
}


@pytest.mark.parametrize("dtype", INTS)
@pytest.mark.parametrize("name", PYTHON)
def test_integers_are_exact_and_wrap(name: str, dtype: Any, call: Call) -> None:
    info = np.iinfo(dtype)
    edge = np.array([info.min, info.max, info.max - 1, info.min + 1, 1, 2, 7], dtype)
    a = np.concatenate([edge, RNG.integers(info.min, info.max, 60, dtype, endpoint=True)])
    b = RNG.permutation(a)
    b = np.where(b == 0, 3, b).astype(dtype)
    made = call(name, a, b)
    assert made.dtype == dtype
    assert made.tolist() == [wrap(PYTHON[name](int(x), int(y)), dtype) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("dtype", INTS)
@pytest.mark.parametrize("fmod", [False, True])
def test_integer_mod(dtype: Any, fmod: bool, call: Call) -> None:
    info = np.iinfo(dtype)
    a = RNG.integers(info.min, info.max, 60, dtype, endpoint=True)
    b = np.where(a == 0, 1, RNG.permutation(a)).astype(dtype)
    b[b == 0] = 5
    step = c_mod if fmod else lambda x, y: x % y
    wanted = [step(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert call("mod", a, b, fmod=fmod).tolist() == wanted


def c_mod(x: int, y: int) -> int:
    """The remainder with the sign of the dividend."""
    return (abs(x) % abs(y)) * (-1 if x < 0 else 1)


def test_the_smallest_integer_over_minus_one_wraps(call: Call) -> None:
    low, minus = np.array([-(2**31)], np.int32), np.array([-1], np.int32)
    assert call("div", low, minus).tolist() == call("floor_div", low, minus).tolist() == [-(2**31)]
    assert call("abs", low).tolist() == call("neg", low).tolist() == [-(2**31)]


@pytest.mark.parametrize("name", ["div", "floor_div", "mod"])
def test_integer_division_by_zero_is_refused(name: str, call: Call) -> None:
    with pytest.raises(InvalidModel, match="division by zero"):
        call(name, np.array([4, 5]), np.array([1, 0]))
    made = call(name, np.array([4.0, -5.0], np.float32), np.array([0.0, 0.0], np.float32))
    assert not np.isfinite(made).any()


def test_float_remainders_take_the_sign_of_the_divisor_or_dividend(call: Call) -> None:
    a = np.array([5.5, -5.5, 5.5, -5.5, 4.0], np.float32)
    b = np.array([3.0, 3.0, -3.0, -3.0, 2.0], np.float32)
    assert call("mod", a, b).tolist() == [2.5, 0.5, -0.5, -2.5, 0.0]
    assert call("mod", a, b, fmod=True).tolist() == [2.5, -2.5, 2.5, -2.5, 0.0]
    assert call("floor_div", a, b).tolist() == [1.0, -2.0, -2.0, 1.0, 2.0]


def test_powers(call: Call) -> None:
    base = np.array([2, -2, 3, 1, -1, -1], np.int32)
    assert call("pow", base, np.array([10, 3, 0, -5, -3, -4], np.int64)).tolist() == [1024, -8, 1, 1, -1, 1]
    assert call("pow", np.array([2, 5], np.int32), np.array([-1, -2], np.int32)).tolist() == [0, 0]
    assert call("pow", np.array([3], np.int8), np.array([6], np.int8)).tolist() == [wrap(729, np.int8)]
    assert call("pow", np.array([2], np.uint64), np.array([63], np.uint8)).tolist() == [2**63]
    assert call("pow", np.array([9.0, 2.0], np.float32), np.array([0.5, -1], np.float64)).dtype == np.float32
    assert call("pow", np.array([4], np.int32), np.array([0.5], np.float32)).tolist() == [2]
    with pytest.raises(InvalidModel, match="negative power"):
        call("pow", np.array([0], np.int32), np.array([-1], np.int32))


@pytest.mark.parametrize("dtype", INTS)
def test_shifts(dtype: Any, call: Call) -> None:
    info = np.iinfo(dtype)
    a = RNG.integers(info.min, info.max, 40, dtype, endpoint=True)
    b = RNG.integers(0, np.dtype(dtype).itemsize * 8 + 4, 40).astype(dtype)
    pairs = [(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    assert call("bit_shift", a, b, direction="LEFT").tolist() == [wrap(x << y, dtype) for x, y in pairs]
    assert call("bit_shift", a, b, direction="RIGHT").tolist() == [x >> y for x, y in pairs]


def test_negative_shifts_leave_sign_bits_only(call: Call) -> None:
    a, b = np.array([-8, 8], np.int32), np.array([-1, -1], np.int32)
    assert call("bit_shift", a, b, direction="RIGHT").tolist() == [-1, 0]
    assert call("bit_shift", a, b, direction="LEFT").tolist() == [0, 0]


def test_halves_round_to_even(call: Call) -> None:
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5], np.float32)
    assert call("round", x).tolist() == [-2.0, -2.0, -0.0, 0.0, 2.0, 2.0, 4.0]


def test_nan_travels(call: Call) -> None:
    x = np.array([np.nan, 1.0], np.float32)
    for name in ("min", "max"):
        assert np.isnan(call(name, x, np.array([0.0, np.nan], np.float32))).all()
    assert np.isnan(call("clip", x, np.float32(0), np.float32(2))[0])
    assert np.isnan(call("sign", x)[0])
    assert call("is_nan", x).tolist() == [True, False]


def test_clip_with_crossed_bounds_gives_the_upper(call: Call) -> None:
    x = np.array([-5, 0, 5], np.int32)
    assert call("clip", x, np.int32(3), np.int32(1)).tolist() == [1, 1, 1]
    assert call("clip", x, None, np.int32(1)).tolist() == [-5, 0, 1]
    assert call("clip", x, np.int32(-1)).tolist() == [-1, 0, 5]


def test_bf16_is_not_rounded_twice(call: Call) -> None:
    value = np.array(
        [1 + 2**-8 + 2**-40]
    )  # just above the middle of two neighbours: through float32 it would fall to 1
    assert call("cast", value, to=BF16).astype(np.float64).tolist() == [1 + 2**-7]
    large = np.array([2**62 + 2**54 + 1], np.int64)
    assert call("cast", large, to=BF16).astype(np.float64).tolist() == [2.0**62 + 2.0**55]


@pytest.mark.parametrize("target", [I8, U8, I16, U16, I32, U32, I64, U64, I4, U4, U2])
def test_integers_keep_their_low_bits(target: DType, call: Call) -> None:
    x = np.array([0, 1, -1, 127, 128, 255, 256, 70000, -70000, 2**40 + 3], np.int64)
    bits = target.bits
    low = [int(v) % (1 << bits) for v in x]
    wanted = [v - (1 << bits) if target.kind == "int" and v >> (bits - 1) else v for v in low]
    made = call("cast", x, to=target)
    assert made.dtype == target.numpy and [int(v) for v in made] == wanted


def test_floats_truncate_toward_zero(call: Call) -> None:
    x = np.array([1.9, -1.9, 0.5, -0.5, 126.99], np.float32)
    assert call("cast", x, to=I8).tolist() == [1, -1, 0, 0, 126]
    assert call("cast", x, to=I64).tolist() == [1, -1, 0, 0, 126]
    assert call("cast", np.array([2.0**63, 1.5e19, 3.0]), to=U64).tolist() == [2**63, 15 * 10**18, 3]
    assert call("cast", np.array([np.nan, np.inf, 3e9]), to=I32).tolist() == [-(2**31)] * 3
    assert call("cast", np.array([-1.0, 300.0]), to=U8).tolist() == [255, 44]
    assert call("cast", np.array([7.9, -3.2]), to=I4).astype(int).tolist() == [7, -3]


@pytest.mark.parametrize("target", [F8E4M3FN, F8E5M2])
def test_fp8_saturates_or_overflows(target: DType, call: Call) -> None:
    top = float(ml_dtypes.finfo(target.numpy).max)
    x = np.array([1e9, -1e9, np.inf, -np.inf, np.nan, 1.0, top * 1.5], np.float32)
    clamped = call("cast", x, to=target).astype(np.float32)
    np.testing.assert_array_equal(clamped, np.array([top, -top, top, -top, np.nan, 1.0, top], np.float32))
    loose = call("cast", x, to=target, saturate=False).astype(np.float32)
    assert np.isnan(loose[:4]).all() if target is F8E4M3FN else np.isinf(loose[:4]).all()


def test_powers_of_two(call: Call) -> None:
    x = np.array([1.0, 1.25, 1.5, 1.75, 3.0, 0.0, np.nan, np.inf, 2.0**200], np.float64)

    def cast(mode: str, saturate: bool) -> list[float]:
        made = call("cast", x, to=F8E8M0, round_mode=mode, saturate=saturate).astype(np.float64)
        return [v if np.isfinite(v) else None for v in made.tolist()]

    top, low = 2.0**127, 2.0**-127
    assert cast("up", True) == [1, 2, 2, 2, 4, low, None, top, top]
    assert cast("down", True) == [1, 1, 1, 1, 2, low, None, top, top]
    assert cast("nearest", False) == [1, 1, 2, 2, 4, None, None, None, None]


def test_strings(call: Call) -> None:
    x = np.array(["1", "-2.5", "1e3", "INF", "-inf", "NaN"], object)
    np.testing.assert_array_equal(
        call("cast", x, to=F32), np.array([1, -2.5, 1e3, np.inf, -np.inf, np.nan], np.float32)
    )
    assert call("cast", np.array(["12", "-7", "3.9"], object), to=I64).tolist() == [12, -7, 3]
    made = call("cast", np.array([1.5, 0.1, 1e20, np.nan, -np.inf], np.float32), to=STRING)
    assert made.tolist() == ["1.5", "0.1", "100000000000000000000", "NaN", "-INF"]
    assert call("cast", np.array([[3, -4]]), to=STRING).tolist() == [["3", "-4"]]
    with pytest.raises(InvalidModel, match="numbers"):
        call("cast", np.array(["Hello"], object), to=F32)
    with pytest.raises(Unsupported, match="real part"):
        call("cast", np.array([1j], np.complex64), to=F32)


def test_truth(call: Call) -> None:
    x = np.array([0.0, -0.0, 0.5, np.nan], np.float32)
    assert call("cast", x, to=BOOL).tolist() == [False, False, True, True]
    assert call("cast", np.array([True, False]), to=F64).tolist() == [1.0, 0.0]


def test_bits(call: Call) -> None:
    x = np.array([1.0, -2.0], np.float32)
    assert call("bitcast", x, to=U32).tolist() == [0x3F800000, 0xC0000000]
    assert call("bitcast", np.array([-1, 3]).astype(ml_dtypes.int4), to=U4).astype(int).tolist() == [15, 3]
    assert call("bitcast", np.array([1.0], np.float16), to=I16).tolist() == [0x3C00]
    assert call("bitwise_not", np.array([0, 5], np.uint8)).tolist() == [255, 250]
    assert call("cast", np.array([1.0009765625]), to=F16).tolist() == [1.0009765625]


def test_comparisons_and_logic(call: Call) -> None:
    a, b = np.array([1.0, np.nan, 3.0], np.float32), np.array([1.0, np.nan, 2.0], np.float32)
    wanted = {"equal": "TFF", "not_equal": "FTT", "less": "FFF", "less_equal": "TFF", "greater": "FFT"}
    for name, flags in wanted.items():
        assert "".join("T" if v else "F" for v in call(name, a, b)) == flags, name
    text = np.array(["a", "b"], object)
    assert call("equal", text, np.array(["a", "c"], object)).tolist() == [True, False]
    p, q = np.array([True, True, False]), np.array([True, False, False])
    assert call("xor", p, q).tolist() == [False, True, False]
    assert call("not", p).tolist() == [False, False, True]
