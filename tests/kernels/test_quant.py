"""Quantisation against torch, exhaustive tables of small floats, and the integer arithmetic of gemmlowp written out."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from anyir.ir import types
from anyir.ir.errors import InvalidModel
from anyir.kernels.quant import quantized_multiplier

torch = pytest.importorskip("torch")


def _random(*shape, seed=0, scale=5.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def test_per_tensor_matches_torch(call):
    x = _random(300)
    for to, kind, zero in ((types.U8, torch.quint8, 100), (types.I8, torch.qint8, -7)):
        wanted = torch.quantize_per_tensor(torch.from_numpy(x), 0.0625, zero, kind)
        made = call("quantize", x, np.float32(0.0625), np.array(zero, to.numpy), to=to)
        np.testing.assert_array_equal(made, wanted.int_repr().numpy())
        back = call("dequantize", made, np.float32(0.0625), np.array(zero, to.numpy), to=types.F32)
        np.testing.assert_array_equal(back, wanted.dequantize().numpy())


def test_per_axis_matches_torch(call):
    x = _random(4, 3, 5)
    scales = np.array([0.25, 0.125, 0.5], np.float32)
    zeros = np.array([0, 3, -9], np.int8)
    fake = torch.quantize_per_channel(
        torch.from_numpy(x), torch.from_numpy(scales), torch.from_numpy(zeros), 1, torch.qint8
    )
    made = call("quantize", x, scales.reshape(1, 3, 1), zeros.reshape(1, 3, 1), to=types.I8)
    np.testing.assert_array_equal(made, fake.int_repr().numpy())


def test_blocks_repeat_their_scale(call):
    x = _random(2, 3, 8)
    scales = np.random.default_rng(1).uniform(0.02, 0.3, (2, 1, 4)).astype(np.float32)
    made = call("quantize", x, scales, None, to=types.I8)
    full = np.broadcast_to(scales, (2, 3, 4)).repeat(2, axis=2)
    np.testing.assert_array_equal(made, np.clip(np.rint(x / full), -128, 127))
    with pytest.raises(InvalidModel, match="do not divide"):
        call("quantize", x, np.ones((2, 3, 3), np.float32), None, to=types.I8)


def test_ties_go_to_even_and_extremes_saturate(call):
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32)
    made = call("quantize", x, np.float32(1), None, to=types.I8)
    assert made.tolist() == [0, 2, 2, 0, -2, 127, -128, 127, -128, 0]


def test_quotient_is_rounded_in_float32(call):
    """ONNX divides in the scale's type: a quotient just below a half that float32 rounds onto it is a tie."""
    scale = np.float32(0.1)
    x = (np.arange(-60, 60) + np.float32(0.5)).astype(np.float32) * scale
    wanted = np.clip(np.rint(x / scale), -128, 127)
    np.testing.assert_array_equal(call("quantize", x, scale, None, to=types.I8), wanted)


@pytest.mark.parametrize("to", [types.I2, types.U2, types.I4, types.U4, types.I16, types.U16])
def test_every_integer_width_saturates(call, to):
    low, high = int(ml_dtypes.iinfo(to.numpy).min), int(ml_dtypes.iinfo(to.numpy).max)
    x = np.array([-1e9, low - 1, low, low + 1, 0, high - 1, high, high + 1, 1e9], np.float32)
    made = call("quantize", x, np.float32(1), None, to=to)
    np.testing.assert_array_equal(made.astype(np.int64), np.clip(x, low, high).astype(np.int64))
    assert made.dtype == to.numpy


@pytest.mark.parametrize(
    "to", [types.F8E4M3FN, types.F8E5M2, types.F8E4M3FNUZ, types.F8E5M2FNUZ, types.F4E2M1, types.F6E3M2]
)
def test_small_floats_are_the_nearest_value(call, to):
    """Against the table of all values of the type; ties to the even code."""
    codes = np.arange(1 << (to.bits if to.bits == 8 and to.name.startswith("f8") else 4 if to.bits == 4 else 6))
    values = codes.astype(np.uint8).view(to.numpy).astype(np.float64)
    finite = np.isfinite(values)
    x = _random(2000, scale=3.0)
    made = call("quantize", x, np.float32(0.37), None, to=to).astype(np.float64)
    quotient = (x / np.float32(0.37)).astype(np.float64)
    nearest = np.abs(quotient[:, None] - values[finite][None, :]).min(axis=1)
    np.testing.assert_array_equal(np.abs(quotient - made), nearest)


def test_fp8_overflow(call):
    x = np.array([1e6, -1e6, np.inf, np.nan], np.float32)
    saturated = call("quantize", x, np.float32(1), None, to=types.F8E4M3FN).astype(np.float32)
    assert saturated[:3].tolist() == [448, -448, 448]
    assert np.isnan(saturated[3])
    assert np.isnan(
        call("quantize", x, np.float32(1), None, to=types.F8E4M3FN, saturate=False).astype(np.float32)
    ).all()


def test_dequantize_is_a_single_rounding(call):
    x = np.array([2**31 - 1, -(2**31), 12345679], np.int32)
    made = call("dequantize", x, np.float32(0.1), np.int32(0), to=types.F32)
    np.testing.assert_array_equal(made, (x.astype(np.float64) * np.float64(np.float32(0.1))).astype(np.float32))
    assert call("dequantize", x, np.float16(0.5), None, to=types.F16).dtype == np.float16


def _multiply(x: int, multiplier: float) -> int:
    """TensorFlow Lite's MultiplyByQuantizedMultiplier, in Python integers."""
    fraction, shift = np.frexp(multiplier)
    mantissa = int(np.floor(abs(fraction) * 2**31 + 0.5)) * (1 if fraction >= 0 else -1)
    if mantissa == 2**31:
        mantissa, shift = mantissa // 2, shift + 1
    left, right = max(int(shift), 0), max(-int(shift), 0)
    product = x * 2**left * mantissa
    nudge = 2**30 if product >= 0 else 1 - 2**30
    total = product + nudge
    high = abs(total) // 2**31 * (1 if total >= 0 else -1)
    remainder, threshold = high & (2**right - 1), ((2**right - 1) >> 1) + (high < 0)
    return (high >> right) + (remainder > threshold)


def test_fixed_point_requantisation(call):
    rng = np.random.default_rng(4)
    x = rng.integers(-(2**24), 2**24, 500).astype(np.int32)
    for multiplier in (0.0003717, 0.5, 1.7, 2.0**-20, 0.9999999999):
        made = call(
            "requantize", x, np.float64(multiplier), np.array(5, np.int16), to=types.I16, rounding="fixed_point"
        )
        wanted = [min(max(_multiply(int(v), multiplier) + 5, -(2**15)), 2**15 - 1) for v in x]
        assert made.tolist() == wanted


def test_half_even_requantisation(call):
    x = np.array([1, 3, 5, -1, -3, 1000, -1000], np.int32)
    made = call("requantize", x, np.float32(0.5), np.int8(1), to=types.I8)
    assert made.tolist() == [1, 3, 3, 1, -1, 127, -128]


def test_multiplier_round_trip():
    for value in (1e-9, 0.3, 1.0, 123.456):
        mantissa, shift = quantized_multiplier(np.float64(value))
        assert 2**30 <= mantissa < 2**31
        assert abs(float(mantissa) * 2.0 ** (int(shift) - 31) - value) <= value * 2.0**-31


def test_dynamic_quantize_spans_the_range(call, samples):
    for sample in samples("dynamic_quantize"):
        (x,) = sample.operands
        y, scale, zero = call("dynamic_quantize", x)
        back = (y.astype(np.float64) - int(zero)) * float(scale)
        assert np.abs(back - x).max() <= float(scale) * 0.5001
        assert y.dtype == zero.dtype == np.uint8
