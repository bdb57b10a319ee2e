"""com.microsoft: integer layers and packed weights, judged by onnxruntime running the original and by float64 formulas.

Products are compared to the last bit. What onnxruntime computes by tables or fused float kernels must round the exact value,
like ours: both may differ only where it lies on a half up to float32's rounding.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.errors import InvalidModel, Unsupported
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support.onnx_nodes import FLOAT, HALF, carried, element, judge, nearest, one_node, written

RNG = np.random.default_rng(3)
DYNAMIC = pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
STORED = pytest.mark.parametrize("stored", [np.uint8, np.int8])
EPS = float(np.finfo(np.float32).eps)


def numbers(stored: type, *shape: int) -> np.ndarray:
    info = np.iinfo(stored)
    return RNG.integers(info.min, info.max + 1, shape).astype(stored)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def scale(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def real(x: np.ndarray, s: np.ndarray, zero: int) -> np.ndarray:
    return (x.astype(np.float64) - zero) * np.float64(s)


def quanta(value: np.ndarray, s: np.ndarray, zero: int):
    """How results must round: `value` in units of `s`, a dozen roundings of float32 away from a half at most."""
    exact = value / np.float64(s)
    return nearest(exact + zero, 12 * EPS * float(np.abs(exact).max() + abs(zero)))


@DYNAMIC
@STORED
@pytest.mark.parametrize("shape", [(3, 40), (40,), (1,)])
@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
def test_binary(op_type, shape, stored, dynamic) -> None:
    a, b, (sa, sb, sy) = numbers(stored, 3, 40), numbers(stored, *shape), map(scale, (0.037, 0.021, 0.053))
    zeros = [stored(z) for z in (7, 3, 11)]
    inputs = {"A": a, "sa": sa, "za": zeros[0], "B": b, "sb": sb, "zb": zeros[1], "sy": sy, "zy": zeros[2]}
    left, right = real(a, sa, 7), real(b, sb, 3)
    value = left + right if op_type == "QLinearAdd" else left * right
    judge(*one_node(op_type, inputs, {"Y": element(a)}, dynamic=dynamic), quanta(value, sy, 11))


@STORED
def test_activations(stored) -> None:
    x, sx = numbers(stored, 30, 40), scale(0.037)
    inputs = {"X": x, "sx": sx, "zx": stored(7), "sy": scale(1 / 256), "zy": stored(0)}
    value = 1 / (1 + np.exp(-real(x, sx, 7)))
    judge(*one_node("QLinearSigmoid", inputs, {"Y": element(x)}), quanta(value, scale(1 / 256), 0))
    value = np.where(real(x, sx, 7) < 0, np.float64(np.float32(0.2)), 1) * real(x, sx, 7)
    inputs |= {"sy": scale(0.04), "zy": stored(9)}
    judge(*one_node("QLinearLeakyRelu", inputs, {"Y": element(x)}, alpha=0.2), quanta(value, scale(0.04), 9))
    bare = {"X": x, "sx": sx, "zx": None, "sy": scale(0.04), "zy": None}  # onnxruntime aborts where the name lacks
    value = np.where(real(x, sx, 0) < 0, np.float64(np.float32(0.01)), 1) * real(x, sx, 0)
    judge(*one_node("QLinearLeakyRelu", bare, {"Y": element(x)}), quanta(value, scale(0.04), 0))


@STORED
@pytest.mark.parametrize(("opset", "axis"), [(11, 1), (11, -1), (13, 1), (13, -1)])
def test_softmax(opset, axis, stored) -> None:
    """onnxruntime sums a table of whole numbers: half a thousandth of a quantum beside the exact value at most."""
    x, sx = numbers(stored, 3, 4, 10), scale(0.037)
    inputs = {"X": x, "sx": sx, "zx": stored(7), "sy": scale(1 / 256), "zy": stored(0)}
    exponential = np.exp(real(x, sx, 7))
    axes = (axis % 3,) if opset >= 13 else tuple(range(axis % 3, 3))
    value = exponential / exponential.sum(axis=axes, keepdims=True)
    model, feeds = one_node("QLinearSoftmax", inputs, {"Y": element(x)}, attributes={"opset": opset, "axis": axis})
    judge(model, feeds, nearest(value * 256, 5e-4))


@pytest.mark.parametrize("last", [0, 1])
@STORED
def test_pools(stored, last) -> None:
    x, sx, sy = numbers(stored, 2, 5, 6, 3), scale(0.037), scale(0.02)
    inputs = {"X": x, "sx": sx, "zx": stored(7), "sy": sy, "zy": stored(5)}
    data = np.moveaxis(real(x, sx, 7), -1, 1) if last else real(x, sx, 7)

    def back(y: np.ndarray) -> np.ndarray:
        return np.moveaxis(y, 1, -1) if last else y

    value = back(data.mean(axis=(2, 3), keepdims=True))
    judge(*one_node("QLinearGlobalAveragePool", inputs, {"Y": element(x)}, channels_last=last), quanta(value, sy, 5))
    padded = np.pad(data, ((0, 0), (0, 0), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 2), axis=(2, 3))[:, :, ::2]
    attributes = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 0], "count_include_pad": 1}
    model, feeds = one_node("QLinearAveragePool", inputs, {"Y": element(x)}, channels_last=last, **attributes)
    judge(model, feeds, quanta(back(windows.mean(axis=(4, 5))), sy, 5))


@pytest.mark.parametrize("last", [0, 1])
@STORED
def test_convolution_in_either_layout(stored, last) -> None:
    shape = (2, 7, 6, 4) if last else (2, 4, 7, 6)
    inputs = {"x": numbers(stored, *shape), "sx": scale(0.02), "zx": stored(9), "w": numbers(np.int8, 6, 2, 3, 3)}
    inputs |= {"sw": RNG.uniform(0.01, 0.05, 6).astype(np.float32), "zw": np.zeros(6, np.int8)}
    inputs |= {"sy": scale(1.3), "zy": stored(5), "b": RNG.integers(-9000, 9000, 6).astype(np.int32)}
    attributes = {"group": 2, "pads": [1, 1, 0, 1], "channels_last": last}
    judge(*one_node("QLinearConv", inputs, {"y": element(inputs["x"])}, const=tuple(inputs)[1:], **attributes))


@DYNAMIC
@STORED
def test_concat(stored, dynamic) -> None:
    """A part that has the result's scale and zero point is copied; the others are quantised anew."""
    a, b = numbers(stored, 3, 40), numbers(stored, 3, 5)
    inputs = {"sy": scale(0.05), "zy": stored(9), "A": a, "sa": scale(0.03), "za": stored(1)}
    inputs |= {"B": b, "sb": scale(0.05), "zb": stored(9)}
    value = np.concatenate([real(a, scale(0.03), 1), real(b, scale(0.05), 9)], axis=1)
    judge(*one_node("QLinearConcat", inputs, {"Y": element(a)}, dynamic=dynamic, axis=1), quanta(value, scale(0.05), 9))
    module = frontend.read(one_node("QLinearConcat", inputs | {"sb": scale(0.05)}, {"Y": element(a)}, axis=1)[0])
    assert len(list(module.signature.graph.nodes("quantize"))) == 2


#: onnxruntime has kernels for these types of the left and right operand.
PAIRS = [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)]


@pytest.mark.parametrize("columns", [False, True], ids=["tensor", "column"])
@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_qgemm(left, right, columns) -> None:
    a, b, c = numbers(left, 4, 6), numbers(right, 6, 5), RNG.integers(-900, 900, 5).astype(np.int32)
    sb = RNG.uniform(0.01, 0.05, 5).astype(np.float32) if columns else scale(0.02)
    zb = np.full(sb.shape, 3, right)
    inputs = {"A": a, "sa": scale(0.037), "za": left(7), "B": b, "sb": sb, "zb": zb, "C": c}
    const = ("sa", "za", "B", "sb", "zb")
    judge(*one_node("QGemm", inputs, {"Y": FLOAT}, const=const))
    quantised = inputs | {"sy": scale(0.9), "zy": left(5)}
    judge(*one_node("QGemm", quantised, {"Y": element(a)}, const=(*const, "C")))
    turned = quantised | {"A": numbers(left, 6, 4), "B": numbers(right, 5, 6), "C": None}
    judge(*one_node("QGemm", turned, {"Y": element(a)}, transA=1, transB=1, alpha=0.7))


@DYNAMIC
@pytest.mark.parametrize("columns", [False, True], ids=["tensor", "column"])
@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_integer_product_to_float(left, right, columns, dynamic) -> None:
    sb = RNG.uniform(0.01, 0.05, 5).astype(np.float32) if columns else scale(0.02)
    zb = RNG.integers(0, 100, sb.shape).astype(right)
    inputs = {"A": numbers(left, 2, 4, 6), "B": numbers(right, 6, 5), "sa": scale(0.03), "sb": sb}
    judge(*one_node("MatMulIntegerToFloat", inputs, {"Y": FLOAT}, dynamic=dynamic))
    zeros = {"za": left(7), "zb": zb, "bias": normal(5)}
    judge(*one_node("MatMulIntegerToFloat", inputs | zeros, {"Y": FLOAT}, dynamic=dynamic))
    if left is np.uint8:
        own = {"A": normal(2, 4, 6), "B": inputs["B"], "sb": sb, "zb": zb, "bias": normal(5)}
        judge(*one_node("DynamicQuantizeMatMul", own, {"Y": FLOAT}, dynamic=dynamic))


@DYNAMIC
@pytest.mark.parametrize("stored", [np.uint8, np.int8, np.uint16, np.int16])
def test_quantize_and_dequantize(stored, dynamic) -> None:
    zeros = RNG.integers(0, 100, 3).astype(stored)
    scales = RNG.uniform(0.01, 0.1, 3).astype(np.float32)
    inputs = {"x": normal(3, 40) * 5, "s": scales, "z": zeros}
    judge(*one_node("QuantizeLinear", inputs, {"y": element(zeros)}, dynamic=dynamic, axis=0))
    inputs = {"x": numbers(stored, 40, 3), "s": scales, "z": zeros}
    judge(*one_node("DequantizeLinear", inputs, {"y": FLOAT}, dynamic=dynamic, axis=1))


# ------------------------------------------------------------------------------------------- DynamicQuantizeLSTM

LSTM = {
    "forward": {},
    "reverse": {"direction": "reverse"},
    "bidirectional": {"direction": "bidirectional"},
    "columns": {"columns": True},
    "unsigned": {"stored": np.uint8, "direction": "bidirectional", "columns": True},
    "states": {"states": True},
    "lengths": {"lens": (3, 2, 4), "direction": "bidirectional"},
    "full lengths": {"lens": (5, 2, 4)},
    "peepholes": {"states": True, "peepholes": True},
    "no bias": {"bias": False},
    "clip": {"clip": 0.5},
    "activations": {"activations": ["Sigmoid", "Relu", "Tanh"]},
    "input_forget": {"input_forget": 1},
    "one sample": {"batch": 1, "steps": 30, "hidden": 16},
    "many samples": {"batch": 9, "steps": 7, "hidden": 24},
}


def lstm(
    direction="forward", stored=np.int8, columns=False, states=False, lens=None, peepholes=False, bias=True, batch=3,
    steps=5, hidden=8, **attributes,
):  # fmt: skip
    """Operands and attributes of one call."""
    count = 2 if direction == "bidirectional" else 1
    shape = (count, 4 * hidden) if columns else (count,)
    zero = np.full(shape, 0 if stored is np.int8 else 120, stored)
    inputs = {
        "X": normal(steps, batch, 7),
        "W": numbers(stored, count, 7, 4 * hidden),
        "R": numbers(stored, count, hidden, 4 * hidden),
        "B": normal(count, 8 * hidden) * np.float32(0.3) if bias else None,
        "lens": None if lens is None else np.array(lens, np.int32),
        "h": np.tanh(normal(count, batch, hidden)) if states else None,
        "c": normal(count, batch, hidden) if states else None,
        "P": normal(count, 3 * hidden) * np.float32(0.3) if peepholes else None,
    }
    for name in "WR":
        inputs |= {f"{name}s": RNG.uniform(0.002, 0.01, shape).astype(np.float32), f"{name}z": zero}
    return inputs, {"direction": direction, "hidden_size": hidden, **attributes}


@DYNAMIC
@pytest.mark.parametrize("case", LSTM)
def test_dynamic_quantize_lstm(case, dynamic) -> None:
    """Written as it came; as a loop where the module is not from a file of that domain. Any number of steps goes in."""
    inputs, attributes = lstm(**LSTM[case])
    const = ("W", "R", "B", "P", "Ws", "Wz", "Rs", "Rz")
    outputs = dict.fromkeys(("Y", "Y_h", "Y_c"), FLOAT)
    model, feeds = one_node("DynamicQuantizeLSTM", inputs, outputs, const=const, dynamic=dynamic, **attributes)
    judge(model, feeds)
    assert "DynamicQuantizeLSTM" in {node.op_type for node in written(model, 0).graph.node}
    module = frontend.read(model)
    del module.metadata["opset.com.microsoft"]
    spelled = backend.to_model_proto(module)
    assert "Loop" in {node.op_type for node in spelled.graph.node}
    truth = run(module, feeds)
    assert compare(truth, ort.run(spelled.SerializeToString(), feeds), limits_for(module, feeds, exact=truth)).passed


# ---------------------------------------------------------------------------------------------------- MatMulNBits


def unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """[rows, bytes] as [rows, numbers], the first in the lowest bits."""
    shifts = np.arange(0, 8, bits)
    return ((packed[:, :, None] >> shifts) & ((1 << bits) - 1)).reshape(len(packed), -1)


def packed_weights(bits: int, columns: int, size: int, rows: int = 6) -> tuple[dict, dict]:
    """Weights in blocks, scales, packed zero points; and the attributes that say how."""
    blocks = -(-columns // size)
    inputs = {
        "A": normal(2, 3, columns),
        "B": numbers(np.uint8, rows, blocks, size * bits // 8),
        "scales": RNG.uniform(0.01, 0.05, (rows, blocks)).astype(np.float32),
        "zeros": numbers(np.uint8, rows, -(-blocks * bits // 8)),
    }
    return inputs, {"N": rows, "K": columns, "bits": bits, "block_size": size}


SIZES = pytest.mark.parametrize(("columns", "size"), [(32, 16), (40, 16), (70, 32)])


@DYNAMIC
@SIZES
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_matmul_nbits(bits, columns, size, dynamic) -> None:
    """Whole and ragged last blocks; zero points packed, flat, absent; a bias; an opset that lacks small types."""
    inputs, attributes = packed_weights(bits, columns, size)
    const = ("B", "scales", "zeros", "bias")
    for change in (
        {},
        {"scales": inputs["scales"].reshape(-1), "zeros": inputs["zeros"].reshape(-1)},
        {"zeros": None},
        {"groups": None, "bias": normal(6)},
    ):
        model, feeds = one_node(
            "MatMulNBits", inputs | change, {"Y": FLOAT}, const=const, dynamic=dynamic, **attributes
        )
        judge(model, feeds)


@SIZES
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_that_are_inputs(bits, columns, size) -> None:
    inputs, attributes = packed_weights(bits, columns, size)
    judge(*one_node("MatMulNBits", inputs, {"Y": FLOAT}, **attributes))
    judge(*one_node("MatMulNBits", inputs, {"Y": FLOAT}, const=("B",), **attributes))
    judge(*one_node("MatMulNBits", inputs | {"zeros": None}, {"Y": FLOAT}, **attributes))


@SIZES
@pytest.mark.parametrize("bits", [2, 4])
def test_float_zero_points_and_halves(bits, columns, size) -> None:
    inputs, attributes = packed_weights(bits, columns, size)
    const = ("B", "scales", "zeros", "groups")
    floats = inputs | {"zeros": normal(*inputs["scales"].shape) + np.float32(1 << (bits - 1))}
    judge(*one_node("MatMulNBits", floats, {"Y": FLOAT}, const=const, **attributes))
    halves = inputs | {name: inputs[name].astype(np.float16) for name in ("A", "scales")}
    judge(*one_node("MatMulNBits", halves, {"Y": HALF}, const=const, **attributes))


@SIZES
@pytest.mark.parametrize("kind", ["none", "float", "packed"])
def test_groups(kind, columns, size) -> None:
    """g_idx gives each column a block. onnxruntime forgets packed zero points then: the formula is the judge of those."""
    inputs, attributes = packed_weights(4, columns, size)
    blocks = inputs["scales"].shape[1]
    groups = RNG.integers(0, blocks, columns).astype(np.int32)
    zeros = {"none": None, "float": normal(6, blocks) + np.float32(8), "packed": inputs["zeros"]}[kind]
    inputs |= {"zeros": zeros, "groups": groups}
    model, feeds = one_node("MatMulNBits", inputs, {"Y": FLOAT}, const=("B", "scales", "zeros", "groups"), **attributes)
    if kind != "packed":
        judge(model, feeds)
        return
    numbers_ = unpacked(inputs["B"].reshape(6, -1), 4)[:, :columns]
    offsets = unpacked(zeros, 4)[:, :blocks][:, groups]
    weights = (numbers_.astype(np.float64) - offsets) * inputs["scales"][:, groups].astype(np.float64)
    wanted = inputs["A"].astype(np.float64) @ weights.T
    bound = columns * EPS * (np.abs(inputs["A"]).astype(np.float64) @ np.abs(weights).T)
    for found in (run(frontend.read(model), feeds), ort.run(written(model, 2).SerializeToString(), feeds)):
        assert (np.abs(found["Y"] - wanted) <= bound).all()


def test_packed_weights_keep_their_bytes(tmp_path) -> None:
    """Weights in external data are used where they lie, not copied."""
    import onnx

    inputs, attributes = packed_weights(4, 4096, 32, rows=64)
    model, feeds = one_node("MatMulNBits", inputs, {"Y": FLOAT}, const=("B", "scales", "zeros"), opset=21, **attributes)
    wanted = run(frontend.read(model), feeds)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    module = frontend.read(path)
    kinds = {type(weight.tensor).__name__ for weight in module.weights if weight.tensor.dtype.bits == 4}
    assert kinds == {"MappedTensor"}
    np.testing.assert_array_equal(run(module, feeds)["Y"], wanted["Y"])


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"bits": 3}, Unsupported, "bits = 3"),
        ({"block_size": 24}, InvalidModel, "block_size 24"),
        ({"weight_prepacked": 1}, Unsupported, "weight_prepacked = 1"),
    ],
)
def test_what_matmul_nbits_refuses(change, error, reason) -> None:
    inputs, attributes = packed_weights(4, 32, 16)
    model, _ = one_node("MatMulNBits", inputs, {"Y": FLOAT}, const=("B",), **(attributes | change))
    if error is Unsupported:
        carried(model, reason)
    else:
        with pytest.raises(error, match=reason):
            frontend.read(model)
