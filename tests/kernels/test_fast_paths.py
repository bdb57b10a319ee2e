"""Short cuts of kernels (float32 quantisation, small powers, clips, separable pools) against the formulas they stand for."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from anyir.ir.types import F32, I8, I16, U8, U16
from anyir.kernels import blocks, quant

RNG = np.random.default_rng(0)
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-45], np.float32)


@pytest.fixture(params=[5, 1 << 14])
def block(request, monkeypatch) -> None:
    monkeypatch.setattr(quant, "BLOCK", request.param)
    monkeypatch.setattr(blocks, "BLOCK", request.param)


@pytest.mark.parametrize("to", [I8, U8, I16, U16])
@pytest.mark.parametrize("shape", [(), (1, 1), (4, 1), (1, 64), (2, 8)])
def test_quantise_and_back(call, block, to, shape):
    """Ties, saturation, NaN, blocks; the quotient is rounded to float32 before it is rounded to an integer."""
    x = np.concatenate([RNG.standard_normal(216) * 300, RNG.integers(-900, 900, 32) / 4, SPECIAL])
    x = x.astype(np.float32).reshape(4, 64)
    scale = RNG.choice([0.25, 0.1, 3.0], shape).astype(np.float32)
    zero = RNG.integers(0, 100, shape).astype(to.numpy)
    each = [np.broadcast_to(quant.blocks_to(np.asarray(p), x.shape), x.shape).astype(np.float64) for p in (scale, zero)]
    with np.errstate(all="ignore"):
        quotient = (x.astype(np.float64) / each[0]).astype(np.float32).astype(np.float64)
    info = np.iinfo(to.numpy)
    wanted = np.clip(np.where(np.isnan(quotient), -each[1], np.rint(quotient)) + each[1], info.min, info.max)
    made = call("quantize", x, np.asarray(scale), np.asarray(zero), to=to)
    np.testing.assert_array_equal(made, np.where(np.isnan(quotient), 0, wanted).astype(to.numpy))
    back = call("dequantize", made, np.asarray(scale), np.asarray(zero), to=F32)
    np.testing.assert_array_equal(back, ((made.astype(np.float64) - each[1]) * each[0]).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, -1.0])
def test_powers(call, block, dtype, exponent):
    x = np.concatenate([RNG.standard_normal(50), [np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-5]]).astype(dtype)
    made = call("pow", x, np.array(exponent, dtype))
    with np.errstate(all="ignore"):
        wanted = np.power(x.astype(np.float64), exponent)
    eps, tiny = (float(getattr(ml_dtypes.finfo(dtype), name)) for name in ("eps", "smallest_normal"))
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(
            made.astype(np.float64), wanted.astype(dtype).astype(np.float64), rtol=eps, atol=tiny
        )
    assert np.array_equal(np.signbit(made.astype(np.float64)), np.signbit(wanted))


def test_clip_keeps_nan_and_prefers_the_upper_bound(call):
    x = np.array([np.nan, -np.inf, -1.0, 0.5, np.inf], np.float32)
    np.testing.assert_array_equal(
        call("clip", x, np.float32(0), np.float32(1)), np.array([np.nan, 0, 0, 0.5, 1], np.float32)
    )
    np.testing.assert_array_equal(call("clip", x[1:], np.float32(2), np.float32(1)), np.ones(4, np.float32))


def windows(x: np.ndarray, kernel, strides, dilations, pads) -> list:
    """Per output place of [H, W] the values in its window, padding left out."""
    sizes = [
        (x.shape[a] + pads[a] + pads[a + 2] - (kernel[a] - 1) * dilations[a] - 1) // strides[a] + 1 for a in range(2)
    ]
    rows = []
    for out in itertools.product(*map(range, sizes)):
        taps = itertools.product(*map(range, kernel))
        places = [
            tuple(o * s + k * d - p for o, s, k, d, p in zip(out, strides, tap, dilations, pads, strict=False))
            for tap in taps
        ]
        rows.append([x[p] for p in places if all(0 <= q < n for q, n in zip(p, x.shape, strict=True))])
    return [sizes, rows]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8, np.uint8, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("kernel", "strides", "dilations", "pads"),
    [
        ((3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
        ((2, 1), (1, 3), (2, 1), (0, 0, 1, 0)),
        ((1, 4), (1, 1), (1, 2), (0, 3, 0, 3)),
    ],
)
def test_largest_of_each_window(call, dtype, kernel, strides, dilations, pads):
    x = (RNG.standard_normal((7, 9)) * 40).astype(dtype)
    if np.dtype(dtype).kind == "f":
        x[2, 3], x[5, 5] = np.nan, -np.inf
    sizes, rows = windows(x.astype(np.float64), kernel, strides, dilations, pads)
    wanted = np.array([np.max(row) for row in rows]).reshape(sizes)
    attrs = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    made = call("max_pool", x[None, None], **attrs)
    assert made.dtype == dtype
    np.testing.assert_array_equal(made[0, 0].astype(np.float64), wanted)
    last = call("max_pool", x[None, :, :, None], channels_last=True, **attrs)
    np.testing.assert_array_equal(last[0, ..., 0].astype(np.float64), wanted)


def test_a_window_of_padding_alone_has_the_smallest_value(call):
    attrs = {"kernel_shape": (1,), "pads": (1, 1)}
    made = call("max_pool", np.zeros((1, 1, 2), np.int8), **attrs)
    np.testing.assert_array_equal(made[0, 0], [-128, 0, 0, -128])
    made = call("max_pool", np.zeros((1, 1, 2), np.float32), **attrs)
    np.testing.assert_array_equal(made[0, 0], [-np.inf, 0, 0, -np.inf])


def test_infinity_and_nan_stay_in_their_windows(call):
    x = np.ones((1, 1, 12), np.float32)
    x[0, 0, 3], x[0, 0, 8] = np.inf, np.nan
    made = call("average_pool", x, kernel_shape=(2,), strides=(2,))[0, 0]
    np.testing.assert_array_equal(made, np.array([1, np.inf, 1, 1, np.nan, 1], np.float32))
