"""resize and grid_sample against torch, and resize's rarer modes against ONNX Runtime.

ONNX's own vectors (test_onnx_vectors.py) cover the coordinate modes; here are sizes and combinations that they lack.
"""

from __future__ import annotations

import numpy as np
import pytest
from anyir.kernels.jit import interpreted

torch = pytest.importorskip("torch")
F = torch.nn.functional


def _sizes(*sizes):
    return np.array(sizes, np.int64)


@pytest.mark.parametrize("size", [(7, 9), (3, 4), (11, 2), (1, 1), (5, 6)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("corners", [False, True])
def test_torch_linear_and_cubic(call, rounded_once, size, mode, corners):
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6)).astype(np.float32)
    wanted = F.interpolate(torch.from_numpy(x).double(), size, mode=mode, align_corners=corners).numpy()
    coordinates = "align_corners" if corners else "half_pixel"
    kind = "linear" if mode == "bilinear" else "cubic"
    made = call(
        "resize", x, None, None, _sizes(*size), mode=kind, axes=(2, 3), coordinate_transformation_mode=coordinates
    )
    rounded_once(made, wanted)


@pytest.mark.parametrize("size", [(7, 9), (3, 4), (2, 13)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_torch_antialias(call, rounded_once, size, mode):
    """torch's antialiased bicubic uses a = -0.5 and leaves out what lies outside, as PIL does."""
    x = np.random.default_rng(1).standard_normal((1, 2, 12, 16)).astype(np.float32)
    wanted = F.interpolate(torch.from_numpy(x).double(), size, mode=mode, antialias=True).numpy()
    kind = "linear" if mode == "bilinear" else "cubic"
    attrs = {"mode": kind, "axes": (2, 3), "antialias": True, "cubic_coeff_a": -0.5, "exclude_outside": True}
    rounded_once(call("resize", x, None, None, _sizes(*size), **attrs), wanted)


@pytest.mark.parametrize("size", [(7, 9), (3, 4), (13, 5)])
@pytest.mark.parametrize(
    ("mode", "coordinates", "rounding"),
    [("nearest", "asymmetric", "floor"), ("nearest-exact", "half_pixel", "round_prefer_ceil")],
)
def test_torch_nearest(call, size, mode, coordinates, rounding):
    x = np.random.default_rng(2).standard_normal((1, 2, 6, 7)).astype(np.float32)
    wanted = F.interpolate(torch.from_numpy(x), size, mode=mode).numpy()
    attrs = {"axes": (2, 3), "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    np.testing.assert_array_equal(call("resize", x, None, None, _sizes(*size), **attrs), wanted)


def test_torch_trilinear_and_channels_last(call, rounded_once):
    x = np.random.default_rng(3).standard_normal((1, 2, 3, 4, 5)).astype(np.float32)
    wanted = F.interpolate(torch.from_numpy(x).double(), (5, 6, 3), mode="trilinear").numpy()
    rounded_once(call("resize", x, None, None, _sizes(1, 2, 5, 6, 3), mode="linear"), wanted)
    moved = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    made = call("resize", moved, None, None, _sizes(1, 2, 5, 6, 3), mode="linear", channels_last=True)
    rounded_once(made, np.moveaxis(wanted, 1, -1))


def test_samples_match_onnxruntime(call, samples):
    """What onnxruntime computes in float32 stays near; it lacks half_pixel_symmetric's fractions and 3-D antialias."""
    runtime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    checked = 0
    for sample in samples("resize"):
        attrs = dict(sample.attrs)
        if attrs.pop("channels_last", False) or "half_pixel_symmetric" in attrs.values():
            continue
        names = ["x", "roi", "scales", "sizes"]
        given = {n: v for n, v in zip(names, sample.operands, strict=True) if v is not None}
        node = onnx.helper.make_node("Resize", [n if n in given else "" for n in names], ["y"], **attrs)
        made = call("resize", *sample.operands, **sample.attrs)
        try:
            wanted = _onnxruntime(onnx, runtime, node, given, made)
        except runtime.capi.onnxruntime_pybind11_state.Fail:
            continue
        checked += 1
        if made.dtype.kind == "u":
            assert np.abs(made.astype(int) - wanted).max() <= 1  # onnxruntime truncates
        else:
            np.testing.assert_allclose(made, wanted, atol=np.abs(wanted).max() * 32 * float(np.finfo(np.float32).eps))
    assert checked >= 10


def _onnxruntime(onnx, runtime, node, given, made):
    info = onnx.helper.make_tensor_value_info
    kind = onnx.helper.np_dtype_to_tensor_dtype
    inputs = [info(n, kind(v.dtype), v.shape) for n, v in given.items()]
    graph = onnx.helper.make_graph([node], "g", inputs, [info("y", kind(made.dtype), None)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, given)[0]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [False, True])
def test_torch_grid_sample(call, rounded_once, mode, padding, corners):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 3, 5, 7)).astype(np.float32)
    grid = rng.uniform(-2.5, 2.5, (2, 4, 6, 2)).astype(np.float32)
    kind = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    tensors = torch.from_numpy(x).double(), torch.from_numpy(grid).double()
    wanted = F.grid_sample(*tensors, kind, padding, align_corners=corners).numpy()
    rounded_once(call("grid_sample", x, grid, mode=mode, padding_mode=padding, align_corners=corners), wanted)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_torch_grid_sample_of_volumes(call, rounded_once, mode, padding):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((1, 2, 3, 4, 5)).astype(np.float32)
    grid = rng.uniform(-1.5, 1.5, (1, 2, 3, 4, 3)).astype(np.float32)
    tensors = torch.from_numpy(x).double(), torch.from_numpy(grid).double()
    wanted = F.grid_sample(*tensors, "bilinear" if mode == "linear" else mode, padding, align_corners=False).numpy()
    rounded_once(call("grid_sample", x, grid, mode=mode, padding_mode=padding), wanted)


def test_torch_affine_grid(call, samples, rounded_once):
    for sample in samples("affine_grid"):
        theta, size = sample.operands
        corners = sample.attrs["align_corners"]
        wanted = F.affine_grid(torch.from_numpy(theta).double(), size.tolist(), align_corners=corners).numpy()
        rounded_once(call("affine_grid", theta, size, align_corners=corners), wanted)


def test_uncompiled_body_is_the_same_function(call, samples):
    for sample in samples("resize"):
        compiled = call("resize", *sample.operands, **sample.attrs)
        with interpreted():
            np.testing.assert_array_equal(call("resize", *sample.operands, **sample.attrs), compiled)


def test_sampling_of_other_dtypes_and_of_nothing(call):
    """Nearest moves elements of any dtype untouched; complex numbers are interpolated by parts; integers are rounded."""
    far = np.array([[[[-0.5, -0.5], [0.5, 0.5], [3.0, 0.0]]]], np.float32)
    wide = np.array([[[[2**53 + 1, 7], [3, 2**62 + 1]]]])  # not exact in float64
    assert call("grid_sample", wide, far, mode="nearest").tolist() == [[[[2**53 + 1, 2**62 + 1, 0]]]]
    words = np.array([[[["a", "b"], ["c", "d"]]]], object)
    assert call("grid_sample", words, far, mode="nearest").tolist() == [[[["a", "d", ""]]]]
    assert call("resize", words, None, np.array([1, 1, 1, 2], np.float32))[0, 0, 0].tolist() == ["a", "a", "b", "b"]
    doubled = call("resize", wide, None, np.array([1, 1, 2, 1], np.float32))
    assert doubled[0, 0, :, 0].tolist() == [2**53 + 1, 2**53 + 1, 3, 3]
    z = np.array([[[[1 + 2j, 3 - 4j]]]], np.complex64)
    middle = call("grid_sample", z, np.zeros((1, 1, 1, 2), np.float32))
    assert middle.dtype == z.dtype and middle.item() == 2 - 1j
    stretched = call("resize", z, None, np.array([1, 1, 1, 2], np.float32), mode="linear")
    assert stretched.dtype == z.dtype and stretched.reshape(-1).tolist() == [1 + 2j, 1.5 + 0.5j, 2.5 - 2.5j, 3 - 4j]
    numbers = np.array([[[[0, 3]]]], np.int8)
    assert call("grid_sample", numbers, np.zeros((1, 1, 1, 2), np.float32)).item() == 2  # 1.5, half to even
    infinite = np.array([[[[np.inf, 1.0]]]])
    assert call("grid_sample", infinite, np.array([[[[-2.5, 0.0]]]])).item() == 0.0
    for mode in ("linear", "nearest"):
        none = call("grid_sample", np.zeros((0, 2, 3, 3), np.float32), np.zeros((0, 4, 5, 2), np.float32), mode=mode)
        assert none.shape == (0, 2, 4, 5)
