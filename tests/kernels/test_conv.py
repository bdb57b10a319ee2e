"""conv, conv_transpose, conv_integer against torch in float64 and against sums written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from anyir.kernels.jit import interpreted

torch = pytest.importorskip("torch")


def _same(size: int, kernel: int, stride: int, dilation: int, lower: bool) -> tuple[int, int]:
    """TensorFlow's SAME padding."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return (total - total // 2, total // 2) if lower else (total // 2, total - total // 2)


def _padded(x, kernel, attrs):
    """x with the pads written out, and the remaining arguments of torch's conv."""
    rank = len(kernel)
    strides = attrs.get("strides") or (1,) * rank
    dilations = attrs.get("dilations") or (1,) * rank
    pads = attrs.get("pads") or (0,) * (2 * rank)
    mode = attrs.get("auto_pad", "explicit")
    if mode != "explicit":
        each = zip(x.shape[2:], kernel, strides, dilations, strict=True)
        pairs = [_same(*row, mode == "same_lower") for row in each]
        pads = (*(p[0] for p in pairs), *(p[1] for p in pairs))
    widths = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
    return np.pad(x, widths), {"stride": strides, "dilation": dilations, "groups": attrs.get("groups", 1)}


def _torch_conv(x, w, b, attrs):
    last = attrs.get("channels_last")
    x = np.moveaxis(x, -1, 1) if last else x
    padded, rest = _padded(x.astype(np.float64), w.shape[2:], attrs)
    tensors = [torch.from_numpy(np.ascontiguousarray(a, np.float64)) for a in (padded, w)]
    bias = None if b is None else torch.from_numpy(b.astype(np.float64))
    y = (torch.conv1d, torch.conv2d, torch.conv3d)[w.ndim - 3](*tensors, bias, **rest).numpy()
    return np.moveaxis(y, 1, -1) if last else y


def test_samples_match_torch(call, samples, rounded_once):
    for sample in samples("conv"):
        made = call("conv", *sample.operands, **sample.attrs)
        rounded_once(made, _torch_conv(*sample.operands, sample.attrs))


@pytest.mark.parametrize("groups", [1, 2, 4, 12])
@pytest.mark.parametrize(
    ("stride", "dilation", "pads"), [(1, 1, (1, 1, 1, 1)), (2, 1, (0, 3, 2, 1)), (1, 3, (2, 0, 4, 3))]
)
def test_geometry(call, rounded_once, groups, stride, dilation, pads):
    rng = np.random.default_rng(groups)
    x = rng.standard_normal((2, 12, 13, 11)).astype(np.float32)
    w = rng.standard_normal((24, 12 // groups, 3, 2)).astype(np.float32)
    attrs = {"groups": groups, "strides": (stride,) * 2, "dilations": (dilation,) * 2, "pads": pads}
    rounded_once(call("conv", x, w, None, **attrs), _torch_conv(x, w, None, attrs))


@pytest.mark.parametrize("limit", [1, 20_000, 200_000])
def test_tiles_of_rows_and_samples_join(call, rounded_once, monkeypatch, limit):
    monkeypatch.setattr("anyir.kernels.conv.UNFOLD_BYTES", limit)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 8, 17, 13)).astype(np.float32)
    w = rng.standard_normal((6, 4, 3, 3)).astype(np.float32)
    attrs = {"pads": (1, 1, 2, 1), "groups": 2}
    rounded_once(call("conv", x, w, None, **attrs), _torch_conv(x, w, None, attrs))
    turned = rng.standard_normal((8, 3, 3, 3)).astype(np.float32)
    attrs = {"strides": (2, 1), "pads": (1, 1, 0, 1), "groups": 2}
    rounded_once(call("conv_transpose", x, turned, None, **attrs), _torch_transpose(x, turned, None, attrs))


def test_uncompiled_body_is_the_same_function(call, samples):
    for name in ("conv", "conv_transpose"):
        for sample in samples(name):
            compiled = call(name, *sample.operands, **sample.attrs)
            with interpreted():
                plain = call(name, *sample.operands, **sample.attrs)
            np.testing.assert_array_equal(compiled, plain)


def test_bfloat16_rounds_once(call):
    import ml_dtypes

    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 40, 5, 5)).astype(ml_dtypes.bfloat16)
    w = rng.standard_normal((6, 40, 3, 3)).astype(ml_dtypes.bfloat16)
    exact = _torch_conv(x.astype(np.float64), w.astype(np.float64), None, {})
    made = call("conv", x, w).astype(np.float64)
    spacing = np.exp2(np.floor(np.log2(np.abs(exact))) - 7)
    assert (np.abs(made - exact) <= spacing / 2 * (1 + 1e-9)).all()


def test_empty_batch_and_window_larger_than_padding(call):
    assert call("conv", np.zeros((0, 3, 5, 5), np.float32), np.ones((2, 3, 3, 3), np.float32)).shape == (0, 2, 3, 3)
    far = call("conv", np.ones((1, 1, 2, 2), np.float32), np.ones((1, 1, 2, 2), np.float32), pads=(4, 4, 4, 4))
    assert far.shape == (1, 1, 9, 9)
    assert far.sum() == 16


def _torch_transpose(x, w, b, attrs):
    rank = w.ndim - 2
    strides = attrs.get("strides") or (1,) * rank
    dilations = attrs.get("dilations") or (1,) * rank
    pads = attrs.get("pads") or (0,) * (2 * rank)
    extra = attrs.get("output_padding") or (0,) * rank
    function = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)[rank - 1]
    tensors = [torch.from_numpy(np.ascontiguousarray(a, np.float64)) for a in (x, w)]
    bias = None if b is None else torch.from_numpy(b.astype(np.float64))
    y = function(*tensors, bias, stride=strides, dilation=dilations, groups=attrs.get("groups", 1)).numpy()
    for axis in range(rank):
        edge = np.zeros((*y.shape[: axis + 2], extra[axis], *y.shape[axis + 3 :]))
        if b is not None:
            edge = edge + b.reshape((-1,) + (1,) * rank)
        y = np.concatenate([y, edge], axis=axis + 2)
        y = y.take(range(pads[axis], y.shape[axis + 2] - pads[rank + axis]), axis=axis + 2)
    return y


def test_transpose_samples_match_torch(call, samples, rounded_once):
    for sample in samples("conv_transpose"):
        if {"auto_pad", "output_shape"} & set(sample.attrs):
            continue
        x, w, b = sample.operands
        attrs = dict(sample.attrs)
        last = attrs.pop("channels_last", False)
        exact = _torch_transpose(np.moveaxis(x, -1, 1) if last else x, w, b, attrs)
        rounded_once(call("conv_transpose", x, w, b, **sample.attrs), np.moveaxis(exact, 1, -1) if last else exact)


def test_transpose_with_derived_pads_is_a_crop(call):
    """auto_pad makes S * stride; same_lower and given shapes cut the odd one off the begin, same_upper off the end."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((1, 2, 3, 4)).astype(np.float32), rng.standard_normal((2, 3, 3, 4)).astype(np.float32)
    full = call("conv_transpose", x, w, strides=(2, 2))
    assert full.shape == (1, 3, 7, 10)
    upper = call("conv_transpose", x, w, strides=(2, 2), auto_pad="same_upper")
    lower = call("conv_transpose", x, w, strides=(2, 2), auto_pad="same_lower")
    shaped = call("conv_transpose", x, w, strides=(2, 2), output_shape=(6, 8))
    np.testing.assert_array_equal(upper, full[:, :, 0:6, 1:9])
    np.testing.assert_array_equal(lower, full[:, :, 1:7, 1:9])
    np.testing.assert_array_equal(shaped, lower)


def _integer_conv(x, w, x_zero, w_zero, stride, pads):
    """By definition, with Python integers."""
    x = np.pad(x.astype(object) - int(x_zero), [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
    w = w.astype(object) - w_zero
    out_h, out_w = (x.shape[2] - w.shape[2]) // stride + 1, (x.shape[3] - w.shape[3]) // stride + 1
    y = np.zeros((x.shape[0], w.shape[0], out_h, out_w), np.int64)
    for n, o, i, j in itertools.product(*map(range, y.shape)):
        patch = x[n, :, i * stride : i * stride + w.shape[2], j * stride : j * stride + w.shape[3]]
        y[n, o, i, j] = (patch * w[o]).sum()
    return y


def test_conv_integer_is_exact(call):
    rng = np.random.default_rng(5)
    x = rng.integers(0, 256, (1, 3, 6, 5)).astype(np.uint8)
    w = rng.integers(-128, 128, (4, 3, 3, 2)).astype(np.int8)
    zeros = rng.integers(-9, 9, 4).astype(np.int8)
    made = call("conv_integer", x, w, np.uint8(77), zeros, strides=(2, 2), pads=(1, 0, 1, 1))
    wanted = _integer_conv(x, w, 77, zeros.astype(object).reshape(-1, 1, 1, 1), 2, (1, 0, 1, 1))
    assert made.dtype == np.int32
    np.testing.assert_array_equal(made, wanted)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("per_group", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "pads"),
    [
        ((3,), 1, 1, (1, 1)), ((4,), 3, 2, (5, 0)), ((1, 5), 2, 1, (0, 2, 0, 2)), ((2, 3), 1, 3, (4, 0, 1, 9)),
        ((3, 3), 2, 1, (0, 1, 0, 0)), ((1, 1), 2, 1, (0, 0, 0, 0)), ((2, 1, 3), 2, 2, (1, 0, 2, 0, 3, 1)),
    ],
)  # fmt: skip
def test_depthwise(call, rounded_once, dtype, per_group, kernel, stride, dilation, pads):
    """Two outputs per group, every phase of a stride, odd and even taps."""
    rng = np.random.default_rng(0)
    rank, groups = len(kernel), 6
    x = rng.standard_normal((2, groups * per_group, *(9, 12, 7)[:rank])).astype(dtype)
    w = rng.standard_normal((2 * groups, per_group, *kernel)).astype(dtype)
    b = rng.standard_normal(2 * groups).astype(dtype)
    attrs = {"groups": groups, "strides": (stride,) * rank, "dilations": (dilation,) * rank, "pads": pads}
    rounded_once(call("conv", x, w, b, **attrs), _torch_conv(x, w, b, attrs))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_views_and_channels_last(call, groups):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 3, 11, 9)).astype(np.float32).transpose(1, 0, 3, 2)[:, :, ::-1]
    w = rng.standard_normal((8, 3, 3, 8 // groups)).astype(np.float32).transpose(0, 3, 1, 2)
    b = rng.standard_normal(8).astype(np.float32)
    attrs = {"groups": groups, "pads": (1, 1, 1, 1)}
    wanted = call("conv", np.ascontiguousarray(x), np.ascontiguousarray(w), b, **attrs)
    np.testing.assert_array_equal(call("conv", x, w, b, **attrs), wanted)
    last = call("conv", np.moveaxis(x, 1, -1), w, b, channels_last=True, **attrs)
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), wanted)


@pytest.mark.parametrize("groups", [1, 4])
def test_nan_and_infinity_reach_the_windows_that_hold_them(call, groups):
    x = np.ones((1, 4, 6, 6), np.float32)
    x[0, 1, 2, 2], x[0, 1, 5, 5] = np.nan, np.inf
    w = np.ones((4, 4 // groups, 3, 3), np.float32)
    made = call("conv", x, w, None, groups=groups, pads=(1, 1, 1, 1))
    reached = made[0, 1]
    assert np.isnan(reached[1:4, 1:4]).all() and np.isposinf(reached[4:, 4:]).all()
    assert np.isfinite(reached[:, 0]).all() and np.isfinite(reached[0]).all()


def test_pads_wider_than_the_data_and_empty_tensors(call, rounded_once):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 4, 3, 2)).astype(np.float32), rng.standard_normal((4, 4, 2, 2)).astype(np.float32)
    attrs = {"pads": (7, 0, 0, 9), "strides": (2, 3)}
    rounded_once(call("conv", x, w, None, **attrs), _torch_conv(x, w, None, attrs))
    attrs = {"pads": (7, 0, 0, 9), "groups": 4}
    rounded_once(call("conv", x, w[:, :1], None, **attrs), _torch_conv(x, w[:, :1], None, attrs))
    assert call("conv", x[:0], w).shape == (0, 4, 2, 1)
    assert call("conv", x, w[:0]).shape == (1, 0, 2, 1)
    bias = np.arange(4, dtype=np.float32)
    made = call("conv", x[:, :0], w[:, :0], bias)
    np.testing.assert_array_equal(made, np.broadcast_to(bias.reshape(1, 4, 1, 1), (1, 4, 2, 1)))


@pytest.mark.parametrize("channels", [1, 28, 300])
def test_integer_sums_at_the_extremes(call, channels):
    """Products of 255 * 255 over more taps than float32 holds."""
    x = np.full((1, channels, 5, 5), 255, np.uint8)
    w = np.full((2, channels, 3, 3), 255, np.uint8)
    w[1, ::2] = 254
    made = call("conv_integer", x, w, np.uint8(0), np.uint8(0), pads=(1, 1, 1, 1))
    padded = np.pad(x.astype(object), [(0, 0), (0, 0), (1, 1), (1, 1)])
    for out in range(2):
        total = sum(
            (padded[0, :, kh : kh + 5, kw : kw + 5] * w[out, :, kh, kw].astype(object)[:, None, None]).sum(axis=0)
            for kh in range(3)
            for kw in range(3)
        )
        np.testing.assert_array_equal(made[0, out], total.astype(np.int32))
