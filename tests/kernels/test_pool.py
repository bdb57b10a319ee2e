"""Pools against windows written out element by element, and against torch where torch has the case."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from anyir.kernels.jit import interpreted

torch = pytest.importorskip("torch")


def _positions(attrs, sizes):
    """For each axis and output: the tap positions (may lie outside), and the padded extent."""
    kernel = attrs["kernel_shape"]
    rank = len(kernel)
    strides = attrs.get("strides") or (1,) * rank
    dilations = attrs.get("dilations") or (1,) * rank
    pads = attrs.get("pads") or (0,) * (2 * rank)
    rows, extents = [], []
    for axis, size in enumerate(sizes):
        extent = (kernel[axis] - 1) * dilations[axis] + 1
        begin, end = pads[axis], pads[rank + axis]
        if attrs.get("auto_pad", "explicit") != "explicit":
            out = math.ceil(size / strides[axis])
            total = max((out - 1) * strides[axis] + extent - size, 0)
            begin = total // 2 if attrs["auto_pad"] == "same_upper" else total - total // 2
            end = total - begin
        else:
            rounding = math.ceil if attrs.get("ceil_mode") else math.floor
            out = rounding((size + begin + end - extent) / strides[axis]) + 1
            while (out - 1) * strides[axis] >= size + begin:
                out -= 1
        taps = [[o * strides[axis] - begin + k * dilations[axis] for k in range(kernel[axis])] for o in range(out)]
        rows.append(taps)
        extents.append((-begin, size + end))
    return rows, extents


def _by_hand(x, attrs, reduce):
    """`reduce(values, padding)` of each window: values inside the input, count of taps inside the declared padding."""
    rows, extents = _positions(attrs, x.shape[2:])
    y = np.empty((*x.shape[:2], *map(len, rows)))
    for n, c in itertools.product(range(x.shape[0]), range(x.shape[1])):
        for place in itertools.product(*(range(len(r)) for r in rows)):
            taps = list(itertools.product(*(rows[a][o] for a, o in enumerate(place))))
            inside = [t for t in taps if all(0 <= p < s for p, s in zip(t, x.shape[2:], strict=True))]
            covered = [t for t in taps if all(lo <= p < hi for p, (lo, hi) in zip(t, extents, strict=True))]
            y[(n, c, *place)] = reduce([float(x[(n, c, *t)]) for t in inside], len(covered))
    return y


REDUCERS = {
    "max_pool": lambda attrs: lambda values, _: max(values),
    "average_pool": lambda attrs: (
        lambda values, covered: math.fsum(values) / (covered if attrs.get("count_include_pad") else len(values))
    ),
    "lp_pool": lambda attrs: lambda values, _: math.fsum(abs(v) ** attrs["p"] for v in values) ** (1 / attrs["p"]),
}


@pytest.mark.parametrize("name", REDUCERS)
def test_samples_by_hand(call, samples, rounded_once, name):
    for sample in samples(name):
        (x,) = sample.operands
        last = sample.attrs.get("channels_last", False)
        exact = _by_hand(np.moveaxis(x, -1, 1) if last else x, sample.attrs, REDUCERS[name](sample.attrs))
        made = call(name, x, **sample.attrs)
        if made.dtype.kind == "i":
            np.testing.assert_array_equal(made, exact)
        else:
            rounded_once(made, np.moveaxis(exact, 1, -1) if last else exact)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "dilation"), [(3, 2, 1, 1), (2, 2, 0, 1), (3, 1, 1, 2), (4, 3, 2, 1)]
)
def test_torch_max_pool_and_indices(call, ceil_mode, kernel, stride, pad, dilation):
    x = np.random.default_rng(kernel).standard_normal((2, 3, 11, 10)).astype(np.float32)
    function = torch.nn.functional.max_pool2d
    wanted, places = function(torch.from_numpy(x), kernel, stride, pad, dilation, ceil_mode, return_indices=True)
    attrs = {"kernel_shape": (kernel,) * 2, "strides": (stride,) * 2, "pads": (pad,) * 4, "dilations": (dilation,) * 2}
    made, indices = call("max_pool_with_indices", x, ceil_mode=ceil_mode, **attrs)
    np.testing.assert_array_equal(made, wanted.numpy())
    planes = np.arange(6).reshape(2, 3, 1, 1) * 110
    np.testing.assert_array_equal(indices, places.numpy() + planes)
    np.testing.assert_array_equal(x.ravel()[indices], made)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("include", [False, True])
def test_torch_average_pool(call, rounded_once, ceil_mode, include):
    x = np.random.default_rng(1).standard_normal((2, 3, 11, 10)).astype(np.float32)
    function = torch.nn.functional.avg_pool2d
    wanted = function(torch.from_numpy(x).double(), 3, 2, 1, ceil_mode=ceil_mode, count_include_pad=include)
    attrs = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
    rounded_once(call("average_pool", x, ceil_mode=ceil_mode, count_include_pad=include, **attrs), wanted.numpy())


def test_first_of_equals_and_nan(call):
    x = np.array([[[[1, 1], [0, 1]]]], np.float32)
    assert call("max_pool_with_indices", x, kernel_shape=(2, 2))[1].item() == 0
    x[0, 0, 1, 0] = np.nan
    value, index = call("max_pool_with_indices", x, kernel_shape=(2, 2))
    assert np.isnan(value.item())
    assert index.item() == 2


def test_column_major_indices(call):
    x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    _, rows = call("max_pool_with_indices", x, kernel_shape=(2, 2))
    _, columns = call("max_pool_with_indices", x, kernel_shape=(2, 2), storage_order=1)
    for r, c in zip(rows.ravel(), columns.ravel(), strict=True):
        assert c == r % 4 * 3 + r // 4


@pytest.mark.parametrize("name", ["adaptive_average_pool", "adaptive_max_pool"])
def test_adaptive_pools_match_torch(call, samples, rounded_once, name):
    for sample in samples(name):
        (x,) = sample.operands
        last = sample.attrs.get("channels_last", False)
        data = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1) if last else x)).double()
        size = sample.attrs["output_size"]
        kind = "avg" if "average" in name else "max"
        wanted = getattr(torch.nn.functional, f"adaptive_{kind}_pool{len(size)}d")(data, size).numpy()
        rounded_once(call(name, x, **sample.attrs), np.moveaxis(wanted, 1, -1) if last else wanted)


def test_global_pools(call, samples, rounded_once):
    formulas = {
        "global_average_pool": lambda x, axes: x.mean(axis=axes, keepdims=True),
        "global_max_pool": lambda x, axes: x.max(axis=axes, keepdims=True),
        "global_lp_pool": lambda x, axes: np.sqrt((x * x).sum(axis=axes, keepdims=True)),
    }
    for name, formula in formulas.items():
        for sample in samples(name):
            (x,) = sample.operands
            axes = tuple(range(1, x.ndim - 1)) if sample.attrs.get("channels_last") else tuple(range(2, x.ndim))
            rounded_once(call(name, x, **sample.attrs), formula(x.astype(np.float64), axes))


def test_unpool_undoes_pool(call):
    x = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    y, places = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
    wanted = torch.nn.functional.max_unpool2d(y, places, 2).numpy()
    indices = places.numpy() + np.arange(6).reshape(2, 3, 1, 1) * 48
    made = call("max_unpool", y.numpy(), indices, None, kernel_shape=(2, 2), strides=(2, 2))
    np.testing.assert_array_equal(made, wanted)


def test_uncompiled_body_is_the_same_function(call, samples):
    for name in ("max_pool_with_indices", "average_pool", "adaptive_average_pool"):
        for sample in itertools.islice(samples(name), 5):
            compiled = call(name, *sample.operands, **sample.attrs)
            with interpreted():
                plain = call(name, *sample.operands, **sample.attrs)
            for a, b in zip(np.atleast_1d(compiled), np.atleast_1d(plain), strict=True):
                np.testing.assert_array_equal(a, b)
