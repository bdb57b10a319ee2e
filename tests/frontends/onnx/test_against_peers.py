"""Grids of attributes that the backend suite only touches: image operators against onnxruntime, attention against ONNX's
reference evaluator."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from anyir.frontends import onnx as frontend
from anyir.kernels.run import run
from anyir.tests.support.judge import assert_agrees
from onnx import helper
from onnx.reference import ReferenceEvaluator

Arrays = list[np.ndarray | None]


def model_of(
    op: str, opset: int, operands: Arrays, results: int = 1, **attrs: Any
) -> tuple[Any, dict[str, np.ndarray]]:
    """A model of one node and its feeds."""
    feeds = {f"x{i}": np.asarray(a) for i, a in enumerate(operands) if a is not None}
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(operands)]
    node = helper.make_node(op, names, [f"y{i}" for i in range(results)], **attrs)
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=f"y{i}") for i in range(results)]
    graph = helper.make_graph([node], "grid", infos, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), feeds


#: Operators that compute where they read.
PLACED = ("Resize", "Upsample", "GridSample", "RoiAlign", "MaxRoiPool")


def check(op: str, opset: int, operands: Arrays, results: int = 1, **attrs: Any) -> None:
    """Our numbers are onnxruntime's, within the computed limits; where places are computed, within what their float32
    rounding moves: a few ULPs of the longest side, times the steepest step between two elements."""
    from anyir.runtimes import onnxruntime as ort

    model, feeds = model_of(op, opset, operands, results, **attrs)
    module, wanted = frontend.read(model), ort.run(model.SerializeToString(), feeds)
    if op not in PLACED:
        assert_agrees(module, feeds, wanted)
        return
    floats = [a for a in feeds.values() if a.dtype == np.float32]
    longest = max(max(a.shape, default=1) for a in (*feeds.values(), *wanted.values()))
    moved = 8 * np.finfo(np.float32).eps * longest * 2 * float(np.abs(floats[0]).max())
    for ours, theirs in zip(run(module, feeds).values(), wanted.values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=moved, err_msg=f"{op}-{opset} {attrs}")


@pytest.fixture
def rng() -> np.random.Generator:
    pytest.importorskip("onnxruntime")
    return np.random.default_rng(21)


COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
SIZES = ((5, 4), (13, 11), (1, 20), (14, 18), (7, 1))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinates", [*COORDINATES, "tf_crop_and_resize"])
@pytest.mark.parametrize("extra", ["", "antialias", "exclude_outside"])
def test_resize(rng: np.random.Generator, mode: str, coordinates: str, extra: str) -> None:
    x = rng.standard_normal((1, 2, 7, 9)).astype(np.float32)
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    crops = coordinates == "tf_crop_and_resize"
    if extra == "exclude_outside" and mode == "linear":
        return
    roi = np.array([0, 0, 0.1, -0.2, 1, 1, 0.8, 1.1], np.float32) if crops else None
    for height, width in SIZES:
        if crops and (height == 7 or width == 9):
            continue  # onnxruntime forgets the region of an axis that keeps its size
        flags = {extra: 1} if extra else {}
        check("Resize", 19, [x, roi, None, np.array([1, 2, height, width])], **attrs, **flags)
        scales = np.array([1, 1, height / 7, width / 9], np.float32)
        check("Resize", 19, [x, roi, scales], **attrs, **flags)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_nearest(rng: np.random.Generator, coordinates: str, rounding: str) -> None:
    """Scales that float32 holds exactly: for others it decides which pixel is the nearest."""
    x = rng.standard_normal((1, 2, 8, 16)).astype(np.float32)
    attrs = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    for scales in ((2, 3), (0.5, 0.25), (4, 1.5), (1, 0.75)):
        check("Resize", 19, [x, None, np.array([1, 1, *scales], np.float32)], **attrs)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_resize_keeping_the_aspect_ratio(rng: np.random.Generator, policy: str) -> None:
    x = rng.standard_normal((1, 2, 7, 9)).astype(np.float32)
    for sizes in ((5, 4), (20, 30), (3, 30)):
        check(
            "Resize", 19, [x, None, None, np.array(sizes)], mode="linear", axes=[2, 3], keep_aspect_ratio_policy=policy
        )


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [0, 1])
def test_grid_sample(rng: np.random.Generator, mode: str, padding: str, corners: int) -> None:
    attrs = {"padding_mode": padding, "align_corners": corners}
    x = rng.standard_normal((2, 3, 7, 9)).astype(np.float32)
    grid = rng.uniform(-1.6, 1.6, (2, 4, 5, 2)).astype(np.float32)
    check("GridSample", 20, [x, grid], mode=mode, **attrs)
    check("GridSample", 16, [x, grid], mode={"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode), **attrs)
    if mode != "cubic":
        volume = rng.standard_normal((1, 2, 3, 4, 5)).astype(np.float32)
        check(
            "GridSample", 20, [volume, rng.uniform(-1.6, 1.6, (1, 2, 3, 4, 3)).astype(np.float32)], mode=mode, **attrs
        )


def test_regions(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 2, 7, 9)).astype(np.float32)
    corners = np.concatenate([rng.uniform(-2, 8, (6, 2)), rng.uniform(2, 16, (6, 2))], axis=1).astype(np.float32)
    which = np.array([0, 1, 1, 0, 1, 0])
    for mode, ratio, scale in itertools.product(("avg", "max"), (0, 1, 2, 3), (1.0, 0.5, 0.3)):
        attrs: dict[str, Any] = {"mode": mode, "sampling_ratio": ratio, "spatial_scale": scale}
        attrs |= {"output_height": 3, "output_width": 2}
        check("RoiAlign", 10, [x, corners, which], **attrs)
        for coordinates in ("half_pixel", "output_half_pixel"):
            check("RoiAlign", 16, [x, corners, which], coordinate_transformation_mode=coordinates, **attrs)
    regions = np.concatenate([which[:, None], corners], axis=1).astype(np.float32)
    for shape, scale in itertools.product(((1, 1), (2, 3), (5, 4), (7, 7)), (1.0, 0.5, 0.3)):
        check("MaxRoiPool", 1, [x, regions], pooled_shape=shape, spatial_scale=scale)


def test_non_max_suppression(rng: np.random.Generator) -> None:
    for trial in range(30):
        boxes = rng.uniform(0, 10, (2, 30, 4)).astype(np.float32)
        scores = np.round(rng.uniform(0, 1, (2, 3, 30)), 1).astype(np.float32)
        limits: Arrays = [rng.integers(0, 12, 1), rng.uniform(0, 1, 1).astype(np.float32)]
        limits += [np.array([0.5], np.float32)] if trial % 2 else []
        check("NonMaxSuppression", 11, [boxes, scores, *limits], center_point_box=int(trial % 3 == 0))


def test_unique_topk_and_norm_pools(rng: np.random.Generator) -> None:
    x = rng.integers(0, 2, (4, 3, 2)).astype(np.float32)
    for axis, kept in itertools.product((None, 0, 1, 2, -1), (0, 1)):
        check("Unique", 11, [x], 4, sorted=kept, **({} if axis is None else {"axis": axis}))
    for axis, largest in itertools.product((0, 1, -1), (0, 1)):
        check(
            "TopK", 11, [rng.integers(0, 3, (4, 3, 5)).astype(np.float32), np.array([2])], 2, axis=axis, largest=largest
        )
    image = rng.standard_normal((1, 2, 7, 9)).astype(np.float32)
    windows: tuple[dict[str, Any], ...] = (
        {"kernel_shape": [3, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2]},
        {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [2, 2], "dilations": [2, 3]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    )
    for p, window in itertools.product((1, 2, 3), windows):
        check("LpPool", 18, [image], p=p, **window)
        check("GlobalLpPool", 2, [image], p=p)


def test_transforms(rng: np.random.Generator) -> None:
    for length, attrs in itertools.product((None, 5, 16), ({}, {"inverse": 1}, {"onesided": 1})):
        x = rng.standard_normal((2, 9, 1 if "onesided" in attrs else 2)).astype(np.float32)
        check("DFT", 20, [x, None if length is None else np.array(length)], **attrs)
    for shape in ((3, 3), (2, 4, 4)):
        check("Det", 11, [rng.standard_normal(shape).astype(np.float32)])


# Attention: a random walk through heads, caches, masks, windows and outputs.


def attention(rng: np.random.Generator) -> tuple[int, Arrays, dict[str, Any]]:
    """Opset, operands and attributes of one call."""
    opset = int(rng.choice([23, 24, 25]))
    batch, heads, groups, queries, keys = (int(n) for n in rng.integers(1, (3, 3, 3, 5, 6)))
    size, values, past = 2 * int(rng.integers(1, 4)), int(rng.integers(1, 5)), int(rng.integers(0, 4))
    attrs: dict[str, Any] = {"is_causal": int(rng.integers(2))}
    shapes = ((batch, heads * groups, queries, size), (batch, heads, keys, size), (batch, heads, keys, values))
    q, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    if rng.random() < 0.3:
        attrs |= {"q_num_heads": heads * groups, "kv_num_heads": heads}
        q, k, v = (a.transpose(0, 2, 1, 3).reshape(batch, a.shape[2], -1) for a in (q, k, v))
    cache: Arrays = [None, None]
    if rng.random() < 0.4:
        cache = [rng.standard_normal((batch, heads, past, n)).astype(np.float32) for n in (size, values)]
    total = keys + (0 if cache[0] is None else past)
    mask = None
    if rng.random() < 0.5:
        shape = [(queries, total), (batch, 1, queries, total), (1, heads * groups, queries, total)][rng.integers(3)]
        mask = rng.random(shape) > 0.4 if rng.random() < 0.5 else rng.standard_normal(shape).astype(np.float32)
    lengths = rng.integers(1, keys + 1, batch) if opset > 23 and cache[0] is None and rng.random() < 0.4 else None
    if opset == 25:
        attrs |= {"left_window_size": int(rng.integers(-1, 4)), "right_window_size": int(rng.integers(-1, 3))}
    attrs |= {"scale": 0.3} if rng.random() < 0.3 else {}
    attrs["qk_matmul_output_mode"] = int(rng.integers(4))
    if attrs["qk_matmul_output_mode"] and rng.random() < 0.4:  # of mode 0 the evaluator yields capped scores
        attrs["softcap"] = 2.0
    return opset, [q, k, v, mask, *cache, lengths], attrs


def test_attention() -> None:
    rng = np.random.default_rng(22)
    for _ in range(250):
        opset, operands, attrs = attention(rng)
        outputs = 4 if operands[6] is None else 1
        model, feeds = model_of("Attention", opset, operands, outputs, **attrs)
        module = frontend.read(model)
        theirs = ReferenceEvaluator(model).run(None, feeds)
        assert_agrees(module, feeds, dict(zip(module.signature.output_names(), theirs, strict=True)))
