"""ONNX's own quantisation, generated cases: onnxruntime is the judge where it has kernels, else the formulas of the spec.

Integer results are compared to the last bit, in what our kernels make as in what onnxruntime makes of the files we write.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime")

from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.errors import InvalidModel, Unsupported
from anyir.kernels.run import run
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support.onnx_nodes import FLOAT, INT32, element, judge, one_node, written

RNG = np.random.default_rng(17)
DYNAMIC = pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
#: Types of the left and right operand that onnxruntime has kernels for.
PAIRS = pytest.mark.parametrize(("left", "right"), [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)])


def numbers(stored: type, *shape: int) -> np.ndarray:
    info = np.iinfo(stored)
    return RNG.integers(info.min, info.max + 1, shape).astype(stored)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def scale(value: float) -> np.ndarray:
    return np.array(value, np.float32)


#: Shapes of data and weights, attributes.
CONVOLUTIONS = {
    "plain": ((2, 3, 7, 6), (4, 3, 3, 3), {}),
    "padded": ((2, 3, 7, 6), (4, 3, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    "groups": ((1, 6, 5, 5), (4, 3, 3, 3), {"group": 2}),
    "depthwise": ((1, 6, 5, 5), (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "dilated": ((1, 2, 9, 9), (3, 2, 3, 3), {"dilations": [2, 3]}),
    "same": ((1, 2, 9, 8), (3, 2, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "points": ((1, 5, 4, 4), (7, 5, 1, 1), {}),
    "line": ((2, 3, 9), (4, 3, 3), {"pads": [1, 1]}),
    "volume": ((1, 2, 4, 4, 5), (3, 2, 2, 2, 2), {}),
}


@DYNAMIC
@PAIRS
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_qlinear_conv(case, left, right, dynamic) -> None:
    data, weights, attributes = CONVOLUTIONS[case]
    channels = weights[0]
    inputs = {"x": numbers(left, *data), "sx": scale(0.02), "zx": left(9), "w": numbers(right, *weights)}
    inputs |= {"sw": RNG.uniform(0.01, 0.05, channels).astype(np.float32), "zw": np.zeros(channels, right)}
    inputs |= {"sy": scale(1.3), "zy": left(5), "b": RNG.integers(-9000, 9000, channels).astype(np.int32)}
    const = tuple(inputs)[1:]
    model, feeds = one_node(
        "QLinearConv", inputs, {"y": element(inputs["x"])}, domain="", const=const, dynamic=dynamic, **attributes
    )
    for optimise in (False, True):
        judge(model, feeds, optimise=optimise)
    assert [node.op_type for node in written(model, 2).graph.node] == ["QLinearConv"]
    plain = inputs | {"sw": scale(0.03), "zw": right(0), "b": None}
    judge(
        *one_node(
            "QLinearConv", plain, {"y": element(inputs["x"])}, domain="", const=const, dynamic=dynamic, **attributes
        )
    )


#: Shapes of both operands.
PRODUCTS = [
    ((3, 4), (4, 5)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((2, 1, 3, 4), (3, 4, 5)),
    ((1, 64), (64, 1)),
]


@DYNAMIC
@PAIRS
@pytest.mark.parametrize(("a", "b"), PRODUCTS)
def test_qlinear_matmul(a, b, left, right, dynamic) -> None:
    inputs = {"a": numbers(left, *a), "sa": scale(0.02), "za": left(9), "b": numbers(right, *b)}
    inputs |= {"sb": scale(0.03), "zb": right(3), "sy": scale(0.7), "zy": left(5)}
    model, feeds = one_node("QLinearMatMul", inputs, {"y": element(inputs["a"])}, domain="", dynamic=dynamic)
    for optimise in (False, True):
        judge(model, feeds, optimise=optimise)
    assert [node.op_type for node in written(model, 2).graph.node] == ["QLinearMatMul"]


@PAIRS
def test_qlinear_matmul_by_column(left, right) -> None:
    inputs = {"a": numbers(left, 2, 3, 4), "sa": scale(0.02), "za": left(9), "b": numbers(right, 4, 5)}
    inputs |= {"sb": RNG.uniform(0.01, 0.05, 5).astype(np.float32), "zb": np.full(5, 3, right)}
    inputs |= {"sy": scale(0.7), "zy": left(5)}
    const = ("b", "sb", "zb")
    judge(*one_node("QLinearMatMul", inputs, {"y": element(inputs["a"])}, domain="", const=const))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 3, 1)])
def test_qlinear_matmul_by_row(shape) -> None:
    """Rows of the left operand, each with its own scale and zero point: more than onnxruntime takes."""
    a, b = numbers(np.uint8, 2, 3, 4), numbers(np.int8, 4, 5)
    sa, za = RNG.uniform(0.01, 0.05, shape).astype(np.float32), numbers(np.uint8, *shape)
    inputs = {
        "a": a,
        "sa": sa,
        "za": za,
        "b": b,
        "sb": scale(0.03),
        "zb": np.int8(3),
        "sy": scale(0.7),
        "zy": np.int8(5),
    }
    model, feeds = one_node("QLinearMatMul", inputs, {"y": onnx.TensorProto.INT8}, domain="", opset=21)
    rows = (sa.reshape(-1, 1), za.reshape(-1, 1).astype(np.int64)) if len(shape) == 1 else (sa, za.astype(np.int64))
    total = (a.astype(np.int64) - rows[1]) @ (b.astype(np.int64) - 3)
    ratio = rows[0] * scale(0.03) / scale(0.7)
    wanted = np.clip(np.rint(total.astype(np.float32) * ratio) + 5, -128, 127).astype(np.int8)
    np.testing.assert_array_equal(run(frontend.read(model), feeds)["y"], wanted)
    assert [node.op_type for node in written(model, 0).graph.node] == ["QLinearMatMul"]


@DYNAMIC
@pytest.mark.parametrize("right", [np.uint8, np.int8])
@pytest.mark.parametrize("case", [c for c in CONVOLUTIONS if c != "volume"])
def test_conv_integer(case, right, dynamic) -> None:
    """onnxruntime has no kernel for signed data."""
    left = np.uint8
    data, weights, attributes = CONVOLUTIONS[case]
    inputs = {"x": numbers(left, *data), "w": numbers(right, *weights), "zx": left(9)}
    judge(*one_node("ConvInteger", inputs, {"y": INT32}, domain="", const=("w",), dynamic=dynamic, **attributes))
    more = inputs | {"zw": right(3)}
    judge(*one_node("ConvInteger", more, {"y": INT32}, domain="", const=("w", "zw"), dynamic=dynamic, **attributes))


def test_conv_integer_with_a_zero_point_per_channel() -> None:
    x, w, zw = numbers(np.uint8, 1, 2, 5, 5), numbers(np.int8, 3, 2, 3, 3), np.array([3, -7, 0], np.int8)
    model, feeds = one_node("ConvInteger", {"x": x, "w": w, "zx": np.uint8(9), "zw": zw}, {"y": INT32}, domain="")
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.int64) - 9, (3, 3), axis=(2, 3))
    weights = w.astype(np.int64) - zw.astype(np.int64).reshape(3, 1, 1, 1)
    wanted = np.einsum("nchwij,ocij->nohw", windows, weights)
    np.testing.assert_array_equal(run(frontend.read(model), feeds)["y"], wanted)


@DYNAMIC
@PAIRS
@pytest.mark.parametrize(("a", "b"), PRODUCTS)
def test_matmul_integer(a, b, left, right, dynamic) -> None:
    inputs = {"a": numbers(left, *a), "b": numbers(right, *b)}
    judge(*one_node("MatMulInteger", inputs, {"y": INT32}, domain="", dynamic=dynamic))
    judge(
        *one_node("MatMulInteger", inputs | {"za": left(9), "zb": right(3)}, {"y": INT32}, domain="", dynamic=dynamic)
    )
    columns = inputs | {"za": left(9), "zb": numbers(right, b[-1])}
    if len(b) == 2:
        judge(*one_node("MatMulInteger", columns, {"y": INT32}, domain="", dynamic=dynamic))


@pytest.mark.parametrize(
    ("a", "b", "za", "zb"),
    [
        ((4,), (4, 5), (), (5,)),
        ((3, 4), (4,), (3,), ()),
        ((4,), (4,), (), ()),
        ((3, 4), (4, 5), (3,), (5,)),
        ((2, 3, 4), (2, 4, 5), (2, 3, 1), (2, 1, 5)),
    ],
)
def test_matmul_integer_of_any_rank(a, b, za, zb) -> None:
    """Vectors, and zero points per row and column, per batch too: more than onnxruntime takes."""
    inputs = {"a": numbers(np.uint8, *a), "b": numbers(np.int8, *b)}
    inputs |= {"za": numbers(np.uint8, *za), "zb": numbers(np.int8, *zb)}
    model, feeds = one_node("MatMulInteger", inputs, {"y": INT32}, domain="")
    rows = inputs["za"].astype(np.int64).reshape(-1, 1) if len(za) == 1 else inputs["za"].astype(np.int64)
    wanted = (inputs["a"].astype(np.int64) - rows) @ (inputs["b"].astype(np.int64) - inputs["zb"])
    np.testing.assert_array_equal(run(frontend.read(model), feeds)["y"], wanted)


@DYNAMIC
@pytest.mark.parametrize(
    "x",
    [
        normal(7, 50) * 3,
        np.abs(normal(3, 40)) + 1,
        -np.abs(normal(3, 40)) - 1,
        np.zeros((2, 3), np.float32),
        np.arange(-128, 128, dtype=np.float32).reshape(2, 128) / 2,
        np.linspace(-1, 254, 511, dtype=np.float32),
        normal(5) * np.float32(1e-30),
    ],
    ids=["normal", "positive", "negative", "zero", "ties", "half steps", "tiny"],
)
def test_dynamic_quantize_linear(x, dynamic) -> None:
    outputs = {"y": onnx.TensorProto.UINT8, "s": FLOAT, "z": onnx.TensorProto.UINT8}
    model, feeds = one_node("DynamicQuantizeLinear", {"x": x}, outputs, domain="", dynamic=dynamic)
    wanted = ort.run(model.SerializeToString(), feeds)
    proto = written(model, 2)
    for found in (run(frontend.read(model), feeds), ort.run(proto.SerializeToString(), feeds)):
        for name, array in wanted.items():
            np.testing.assert_array_equal(found[name], array)


# ---------------------------------------------------------------------------- QuantizeLinear and DequantizeLinear

#: Stored type -> the opset since which QuantizeLinear has it.
INTEGERS = {np.uint8: 10, np.int8: 10, np.uint16: 21, np.int16: 21, ml_dtypes.uint4: 21, ml_dtypes.int4: 21}
SMALL_FLOATS = {
    ml_dtypes.float8_e4m3fn: 19,
    ml_dtypes.float8_e4m3fnuz: 19,
    ml_dtypes.float8_e5m2: 19,
    ml_dtypes.float8_e5m2fnuz: 19,
    ml_dtypes.float4_e2m1fn: 23,
}
LATER = {ml_dtypes.uint2: 25, ml_dtypes.int2: 25, ml_dtypes.float6_e2m3fn: 28, ml_dtypes.float6_e3m2fn: 28}
OPSETS = (10, 13, 19, 21, 23, 25, 28)
#: Shape of the data, of scale and zero point, attributes.
GRAINS = {
    "tensor": ((3, 40), (), {}),
    "axis": ((3, 40), (3,), {"axis": 0}),
    "last axis": ((3, 40), (40,), {"axis": -1}),
    "blocks": ((3, 40), (3, 5), {"axis": 1, "block_size": 8}),
    "first blocks": ((8, 5), (2, 5), {"axis": 0, "block_size": 4}),
    "ragged": ((3, 41), (3, 6), {"axis": 1, "block_size": 8}),
    "one short block": ((3, 5), (3, 1), {"axis": 1, "block_size": 8}),
}


def allowed(grain: str, opset: int) -> bool:
    return opset >= (21 if "block" in grain or grain == "ragged" else 13 if "axis" in grain else 10)


def parameters(stored: type, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Scales, and zero points within the type (0 for floats)."""
    scales = RNG.uniform(0.05, 0.3, shape).astype(np.float32)
    if stored in SMALL_FLOATS or (np.dtype(stored).kind == "V" and "float" in np.dtype(stored).name):
        return scales, np.zeros(shape, stored)
    info = ml_dtypes.iinfo(stored)
    return scales, np.asarray(RNG.integers(int(info.min) // 2, int(info.max) // 2 + 1, shape)).astype(stored)


def spread(parameter: np.ndarray, data: tuple[int, ...], attributes: dict) -> np.ndarray:
    """A parameter repeated until it has the data's shape, in float64."""
    wide, axis = parameter.astype(np.float64), attributes.get("axis", 1)
    if wide.ndim == 0:
        return np.broadcast_to(wide, data)
    if "block_size" in attributes:
        full = np.repeat(wide, attributes["block_size"], axis=axis)
        return np.take(full, range(data[axis]), axis=axis)
    shape = [1] * len(data)
    shape[axis] = -1
    return np.broadcast_to(wide.reshape(shape), data)


def quantised(x, scales, zeros, attributes, stored) -> np.ndarray:
    """The specification: quotient in float32, half to even, zero point, saturation."""
    quotient = (x / spread(scales, x.shape, attributes).astype(np.float32)).astype(np.float64)
    offset = spread(zeros, x.shape, attributes)
    if (np.dtype(stored).kind == "V" and "float" in np.dtype(stored).name) or stored in SMALL_FLOATS:
        limit = float(ml_dtypes.finfo(stored).max)
        return np.clip(quotient + offset, -limit, limit).astype(np.float32).astype(stored)
    info = ml_dtypes.iinfo(stored)
    return np.clip(np.rint(quotient) + offset, int(info.min), int(info.max)).astype(stored)


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint8) if array.dtype.itemsize == 1 else array


CASES = [
    (stored, opset, grain)
    for stored, since in (INTEGERS | SMALL_FLOATS | LATER).items()
    for opset in OPSETS
    for grain in GRAINS
    if opset >= since and allowed(grain, opset)
]


@pytest.mark.parametrize(("stored", "opset", "grain"), CASES, ids=[f"{np.dtype(s).name}-{o}-{g}" for s, o, g in CASES])
def test_quantize_and_dequantize(stored, opset, grain) -> None:
    """Every stored type of every opset, every grain: our kernels, and the file written at each level."""
    shape, own, attributes = GRAINS[grain]
    attributes = attributes if opset >= 13 else {}
    scales, zeros = parameters(stored, own)
    x = (RNG.standard_normal(shape) * 4).astype(np.float32)
    wanted = quantised(x, scales, zeros, attributes, stored)
    inputs = {"x": x, "s": scales, "z": zeros}
    model, feeds = one_node(
        "QuantizeLinear", inputs, {"y": element(zeros)}, domain="", opset=opset, const=("s", "z"), **attributes
    )
    _agree(model, feeds, wanted)
    back = (wanted.astype(np.float64) - spread(zeros, shape, attributes)) * spread(scales, shape, attributes)
    inputs = {"x": wanted, "s": scales, "z": zeros}
    model, feeds = one_node(
        "DequantizeLinear", inputs, {"y": FLOAT}, domain="", opset=opset, const=("s", "z"), **attributes
    )
    _agree(model, feeds, back.astype(np.float32))


def _agree(model: onnx.ModelProto, feeds: dict, wanted: np.ndarray) -> None:
    """Kernels give `wanted`; a file of ours reads back as the same, and onnxruntime makes the same of it where it can."""
    np.testing.assert_array_equal(bits(run(frontend.read(model), feeds)["y"]), bits(wanted))
    for level in (0, 2):
        proto = written(model, level)
        assert [node.op_type for node in proto.graph.node] == [model.graph.node[0].op_type]
        np.testing.assert_array_equal(bits(run(frontend.read(proto), feeds)["y"]), bits(wanted))
        try:
            found = ort.run(model.SerializeToString(), feeds)["y"]
        except Exception:
            continue  # onnxruntime has no kernel for the original
        again = ort.run(proto.SerializeToString(), feeds)["y"]
        np.testing.assert_array_equal(bits(again), bits(found))


@pytest.mark.parametrize("stored", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("grain", ["tensor", "axis", "blocks"])
def test_onnxruntime_agrees_with_the_formula(stored, grain) -> None:
    """The judge of the judge: where onnxruntime has kernels, the formula above is what it computes."""
    shape, own, attributes = GRAINS[grain]
    scales, zeros = parameters(stored, own)
    x = (RNG.standard_normal(shape) * 4).astype(np.float32)
    model, feeds = one_node(
        "QuantizeLinear", {"x": x, "s": scales, "z": zeros}, {"y": element(zeros)}, domain="", opset=21, **attributes
    )
    np.testing.assert_array_equal(
        ort.run(model.SerializeToString(), feeds)["y"], quantised(x, scales, zeros, attributes, stored)
    )


@DYNAMIC
@pytest.mark.parametrize("stored", [np.uint8, np.int8])
def test_scales_that_are_inputs(stored, dynamic) -> None:
    """That a scale has an entry per element of the axis may not be known before it runs."""
    scales, zeros = parameters(stored, (3,))
    inputs = {"x": normal(3, 40) * 4, "s": scales, "z": zeros}
    judge(*one_node("QuantizeLinear", inputs, {"y": element(zeros)}, domain="", dynamic=dynamic, axis=0))
    inputs = {"x": numbers(stored, 2, 3, 5), "s": scales, "z": zeros}
    judge(*one_node("DequantizeLinear", inputs, {"y": FLOAT}, domain="", dynamic=dynamic, axis=1))


@pytest.mark.parametrize("stored", [np.uint8, np.int8])
def test_blocks_of_scales_that_are_inputs(stored) -> None:
    scales, zeros = parameters(stored, (3, 6))
    attributes = {"axis": 1, "block_size": 8}
    inputs = {"x": normal(3, 41) * 4, "s": scales, "z": zeros}
    model, feeds = one_node("QuantizeLinear", inputs, {"y": element(zeros)}, domain="", opset=21, **attributes)
    _agree(model, feeds, quantised(inputs["x"], scales, zeros, attributes, stored))


def test_output_dtype_and_precision() -> None:
    x = (RNG.standard_normal((3, 40)) * 4).astype(np.float16)
    model, feeds = one_node(
        "QuantizeLinear",
        {"x": x, "s": np.float16(0.11)},
        {"y": element(np.int16(0))},
        domain="",
        opset=21,
        output_dtype=onnx.TensorProto.INT16,
    )
    quotient = (x.astype(np.float64) / np.float64(np.float16(0.11))).astype(np.float16)
    _agree(model, feeds, np.rint(quotient).astype(np.int16))
    model, feeds = one_node(
        "QuantizeLinear",
        {"x": x, "s": np.float16(0.11), "z": np.int8(3)},
        {"y": element(np.int8(0))},
        domain="",
        opset=23,
        precision=FLOAT,
    )
    quotient = x.astype(np.float32) / np.float32(np.float16(0.11))
    (found,) = run(frontend.read(model), feeds).values()
    np.testing.assert_array_equal(found, np.clip(np.rint(quotient) + 3, -128, 127).astype(np.int8))
    stored = numbers(np.int8, 3, 40)
    model, feeds = one_node(
        "DequantizeLinear",
        {"x": stored, "s": scale(0.1)},
        {"y": element(x)},
        domain="",
        opset=25,
        output_dtype=onnx.TensorProto.FLOAT16,
    )
    _agree(model, feeds, (stored.astype(np.float64) * np.float64(np.float32(0.1))).astype(np.float16))


def test_int32_and_overflowing_floats() -> None:
    x = np.array([2**31 - 1, -(2**31), 12345679, 0], np.int32)
    model, feeds = one_node("DequantizeLinear", {"x": x, "s": scale(0.1)}, {"y": FLOAT}, domain="")
    judge(model, feeds)
    big = np.array([1e6, -1e6, np.inf, 100.0], np.float32)
    for saturate in (0, 1):
        inputs = {"x": big, "s": scale(1), "z": np.zeros((), ml_dtypes.float8_e4m3fn)}
        model, feeds = one_node(
            "QuantizeLinear",
            inputs,
            {"y": element(inputs["z"])},
            domain="",
            opset=19,
            const=("s", "z"),
            saturate=saturate,
        )
        beyond = np.sign(big) * 448 if saturate else np.copysign(np.nan, big)
        wanted = np.where(np.abs(big) > 448, beyond, big)
        _agree(model, feeds, wanted.astype(np.float32).astype(ml_dtypes.float8_e4m3fn))


def test_blocks_below_opset_21_become_arithmetic() -> None:
    """And those that do not fit their data are refused."""
    scales, zeros = parameters(np.int8, (3, 6))
    inputs = {"x": normal(3, 41) * 4, "s": scales, "z": zeros}
    attributes = {"axis": 1, "block_size": 8}
    model, feeds = one_node(
        "QuantizeLinear", inputs, {"y": element(zeros)}, domain="", opset=21, const=("s", "z"), **attributes
    )
    proto = written(model, 0, opset=17)
    assert "QuantizeLinear" not in {node.op_type for node in proto.graph.node}
    wanted = quantised(inputs["x"], scales, zeros, attributes, np.int8)
    np.testing.assert_array_equal(ort.run(proto.SerializeToString(), feeds)["y"], wanted)
    model, _ = one_node("QuantizeLinear", inputs, {"y": element(zeros)}, domain="", opset=21, axis=1, block_size=9)
    with pytest.raises(InvalidModel, match="41 elements in 6 blocks of 9"):
        frontend.read(model)


def test_a_type_that_an_opset_lacks_is_refused_by_name() -> None:
    scales, zeros = parameters(ml_dtypes.int4, ())
    model, _ = one_node(
        "DequantizeLinear",
        {"x": np.zeros((2, 2), ml_dtypes.int4), "s": scales, "z": zeros},
        {"y": FLOAT},
        domain="",
        opset=21,
    )
    with pytest.raises(Unsupported, match="opset 21"):
        backend.to_model_proto(frontend.read(model), opset=17)
