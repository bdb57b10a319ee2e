"""Blocked evaluation gives what whole arrays give, whatever the layout, the dtype and where blocks end."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from anyir.kernels import blocks
from anyir.kernels.blocks import along, blockwise
from anyir.kernels.jit import interpreted

RNG = np.random.default_rng(0)


@pytest.fixture(params=[1, 7, 64, 1 << 14], autouse=True)
def block(request, monkeypatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", request.param)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (65,), (5, 13, 3)])
def test_elementwise(dtype, shape):
    x = RNG.standard_normal(shape).astype(dtype)
    with np.errstate(all="ignore"):
        wanted = np.asarray(np.expm1(x.astype(np.float64)))
        narrowed = wanted.astype(dtype) if dtype in (np.float16, np.float32, np.float64) else None
    made = blockwise(np.expm1, x)
    assert made.dtype == dtype and made.shape == shape
    if narrowed is not None:
        np.testing.assert_array_equal(made, narrowed)
    else:
        info = ml_dtypes.finfo(dtype)
        np.testing.assert_allclose(
            made.astype(np.float64), wanted, rtol=float(info.eps), atol=float(info.smallest_normal)
        )


def test_special_values_pass_through():
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0] * 30, np.float32)
    made = blockwise(lambda block: block, x)
    np.testing.assert_array_equal(made.view(np.uint32), x.view(np.uint32))


def test_layouts():
    x = RNG.standard_normal((9, 8, 6)).astype(np.float32).transpose(2, 0, 1)[::2, ::-1]
    np.testing.assert_array_equal(blockwise(np.square, x), np.square(x.astype(np.float64)).astype(np.float32))


@pytest.mark.parametrize(("axis", "end"), [(0, None), (1, None), (-1, None), (1, 3), (2, 2), (0, 3)])
def test_along_an_axis(axis, end):
    x = RNG.standard_normal((4, 9, 5)).astype(np.float32)
    over = tuple(range(axis, end)) if end is not None else (axis,)
    centred = along(lambda y: y - y.mean(axis=1, keepdims=True), x, axis, end)
    mean = x.astype(np.float64).mean(axis=over, keepdims=True) if over else x.astype(np.float64)
    np.testing.assert_allclose(centred, x - mean, rtol=0, atol=2**-23)


def test_parameters_are_cut_with_the_block():
    x = RNG.standard_normal((6, 4, 10)).astype(np.float32)
    outer, inner = np.arange(6.0).reshape(6, 1, 1), np.arange(10.0).reshape(1, 1, 10)
    made = along(lambda y, a, b: y * 0 + a + 100 * b, x, 1, None, [outer, inner])
    np.testing.assert_array_equal(made, np.broadcast_to(outer + 100 * inner, x.shape).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_batch_norm_compiled_blocked_and_by_formula(call, rounded_once, dtype, last, plain):
    x = RNG.standard_normal((3, 5, 4, 11)).astype(dtype)
    scale, bias, mean, var = (np.abs(RNG.standard_normal(5)).astype(dtype) for _ in range(4))
    channel = (1, -1, 1, 1)
    s, b, m, v = (p.astype(np.float64).reshape(channel) for p in (scale, bias, mean, var))
    wanted = (x.astype(np.float64) - m) * (s / np.sqrt(v + 1e-5)) + b
    given = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if last else x
    operands = (given, scale, bias, mean, var)
    if plain:
        with interpreted():
            made = call("batch_norm", *operands, epsilon=1e-5, channels_last=last)
    else:
        made = call("batch_norm", *operands, epsilon=1e-5, channels_last=last)
    rounded_once(np.moveaxis(made, -1, 1) if last else made, wanted)
