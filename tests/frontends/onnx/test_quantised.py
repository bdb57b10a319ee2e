"""ONNX models that arrive quantised keep their integers: byte by byte through reading, -O2 and writing, and the results of
onnxruntime on the original. Models made by onnxruntime's own quantiser, and trained ones from packages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime")

from anyir.api import load, optimize, save
from anyir.backends import onnx as backend
from anyir.kernels.run import run
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support.integer_cases import cases, model_of
from anyir.tests.support.models import model_path
from onnx import TensorProto, helper, numpy_helper

INTEGERS = (TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT4, TensorProto.INT4)
#: Below this many elements a tensor is a parameter, which may be spelled another way.
LARGE = 64


def integers(model: onnx.ModelProto) -> dict[tuple, str]:
    """Contents of the large integer tensors: dtype and bytes."""
    found = {}
    for tensor in tensors(model.graph):
        if tensor.data_type in INTEGERS and np.prod(tensor.dims) >= LARGE:
            found[tensor.data_type, numpy_helper.to_array(tensor).tobytes()] = tensor.name
    return found


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from tensors(attribute.g)


def halves(content: tuple) -> set[tuple]:
    """The two directions of a recurrent weight, one for each."""
    kind, data = content
    return {(kind, data[: len(data) // 2]), (kind, data[len(data) // 2 :])}


def kept(source: onnx.ModelProto, made: onnx.ModelProto) -> None:
    """Every integer tensor is there, whole or (where a layer of two directions is taken apart) in halves, and none is
    stored as floats instead."""
    before, after = integers(source), integers(made)
    lost = [name for content, name in before.items() if content not in after and not halves(content) <= set(after)]
    assert not lost, lost
    assert made.ByteSize() <= 1.01 * source.ByteSize()


# ------------------------------------------------------------------------------------- what onnxruntime's quantiser makes


def small_net() -> onnx.ModelProto:
    """Convolutions, a residual, pools, activations, a concat and dense layers."""
    rng, n = np.random.default_rng(3), helper.make_node

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) * 0.3).astype(np.float32), name)

    nodes = [
        n("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        n("Relu", ["c1"], ["r1"]),
        n("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        n("Add", ["r1", "c2"], ["a"]),
        n("LeakyRelu", ["a"], ["l"], alpha=0.1),
        n("MaxPool", ["l"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        n("AveragePool", ["l"], ["ap"], kernel_shape=[2, 2], strides=[2, 2]),
        n("Concat", ["p", "ap"], ["cc"], axis=1),
        n("Sigmoid", ["cc"], ["sg"]),
        n("Mul", ["cc", "sg"], ["m"]),
        n("GlobalAveragePool", ["m"], ["g"]),
        n("Flatten", ["g"], ["f"]),
        n("Gemm", ["f", "w3", "b3"], ["gm"], transB=1),
        n("MatMul", ["gm", "w4"], ["y"]),
    ]
    shapes = {
        "w1": (8, 3, 3, 3),
        "b1": (8,),
        "w2": (8, 8, 3, 3),
        "b2": (8,),
        "w3": (10, 16),
        "b3": (10,),
        "w4": (10, 7),
    }
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 1, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", 1, ["N", 7])],
        [weight(name, *shape) for name, shape in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The net as QDQ, QOperator and dynamic, by onnxruntime."""
    tool = pytest.importorskip("onnxruntime.quantization")
    folder = tmp_path_factory.mktemp("quantised")
    source = folder / "float.onnx"
    onnx.save(small_net(), source)
    rng = np.random.default_rng(5)

    class Reader(tool.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"x": rng.standard_normal((4, 3, 16, 16)).astype(np.float32)} for _ in range(3)])

        def get_next(self):
            return next(self.left, None)

    made = {}
    for name, form, data, per_channel in (
        ("qdq", tool.QuantFormat.QDQ, tool.QuantType.QInt8, True),
        ("qdq-u8", tool.QuantFormat.QDQ, tool.QuantType.QUInt8, False),
        ("qoperator", tool.QuantFormat.QOperator, tool.QuantType.QInt8, True),
        ("qoperator-u8", tool.QuantFormat.QOperator, tool.QuantType.QUInt8, False),
    ):
        made[name] = folder / f"{name}.onnx"
        options = {"activation_type": data, "weight_type": tool.QuantType.QInt8, "per_channel": per_channel}
        tool.quantize_static(source, made[name], Reader(), quant_format=form, **options)
    made["dynamic"] = folder / "dynamic.onnx"
    tool.quantize_dynamic(source, made["dynamic"], weight_type=tool.QuantType.QUInt8)
    return made


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", ["qdq", "qdq-u8", "qoperator", "qoperator-u8", "dynamic"])
def test_integers_and_results_are_kept(quantised, name, level, form) -> None:
    source = onnx.load(quantised[name])
    module = optimize(load(quantised[name]), level)
    made = backend.to_model_proto(module, quant_form=form)
    kept_or_moved(source, made)
    given = {"x": np.random.default_rng(9).standard_normal((3, 3, 16, 16)).astype(np.float32)}
    wanted = ort.run(source.SerializeToString(), given, threads=1, optimise=False)["y"]
    # onnxruntime's QLinearAveragePool adds the zero point before it rounds: ties there move what comes behind.
    step = output_step(source) * (2 if form == "qoperator" else 1)
    for found in (
        run(module, given)["y"],
        ort.run(made.SerializeToString(), given, threads=1, optimise=False)["y"],
        ort.run(made.SerializeToString(), given, threads=1, optimise=True)["y"],
    ):
        assert np.abs(found - wanted).max() <= step * 1.001


def kept_or_moved(source: onnx.ModelProto, made: onnx.ModelProto) -> None:
    """Equal integers; a matrix may be stored transposed, which is folded at -O2."""
    before, after = integers(source), integers(made)
    for tensor in tensors(source.graph):
        content = (tensor.data_type, numpy_helper.to_array(tensor).tobytes())
        if content in before and content not in after:
            assert (tensor.data_type, np.ascontiguousarray(numpy_helper.to_array(tensor).T).tobytes()) in after, (
                tensor.name
            )


def output_step(model: onnx.ModelProto) -> float:
    """The scale of the last dequantize: what a tie on the way may change. Without one, rounding of floats."""
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    last = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.output[0] == "y"]
    return float(values[last[0].input[1]]) if last else 1e-4


# --------------------------------------------------------------------------------------------------------- trained models

TRAINED = ("smart-turn-qdq", "ddddocr-old-int8", "tashkeel-bilstm", "t5-encoder-int8")


@pytest.mark.parametrize("name", TRAINED)
def test_trained_models_keep_their_integers(name) -> None:
    path = model_path(name)
    source = onnx.load(path)
    module = optimize(load(path), 2)
    kept(source, backend.to_model_proto(module))
    whole = backend.to_model_proto(module, quant_form="qoperator")
    assert set(integers(source)) <= set(integers(whole)), "QOperator has the layers of two directions too"


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_trained_models_give_onnxruntimes_results(name) -> None:
    """What onnxruntime makes of the original and of both forms that we write at -O2: within what its own optimiser changes,
    or a thousandth of the range."""
    from anyir.kernels.inputs import sample_inputs
    from anyir.tests.support.model_cases import CASES

    path = model_path(name)
    module = load(path)
    given = sample_inputs(module, seed=3, sizes=CASES[name].first if name in CASES else None)
    wanted = ort.run(path.read_bytes(), given, threads=1)
    plain = ort.run(path.read_bytes(), given, threads=1, optimise=False)
    made = optimize(module, 2)
    for form in ("qdq", "qoperator"):
        found = ort.run(backend.to_model_proto(made, quant_form=form).SerializeToString(), given, threads=1)
        for key, array in wanted.items():
            own = np.abs(array.astype(np.float64) - plain[key]).max()
            span = float(np.ptp(array)) if array.size else 0.0
            assert np.abs(array.astype(np.float64) - found[key]).max() <= max(2 * own, 1e-3 * span), (form, key)


# ------------------------------------------------------------------------------------------------------------ MatMulNBits


def test_packed_weights_keep_their_bytes() -> None:
    """Through -O2 and out again as MatMulNBits: the same bytes, and at opset 21 as DequantizeLinear of 4 bits."""
    batch = list(cases("MatMulNBits", 3, 12))
    source, given = model_of(batch)
    module = optimize(load(source), 2)
    made = backend.to_model_proto(module, quant_form="matmulnbits")
    assert [n.op_type for n in made.graph.node] == ["MatMulNBits"] * 12
    stored = {numpy_helper.to_array(t).tobytes() for t in made.graph.initializer}
    for case in batch:
        if case.attributes["K"] % case.attributes["block_size"] == 0:
            assert case.inputs["b"].tobytes() in stored
    standard = backend.to_model_proto(module)
    assert {n.domain for n in standard.graph.node} == {""}
    wanted = ort.run(source.SerializeToString(), given, threads=1)
    for proto in (made, standard):  # its optimiser would round the data of DequantizeLinear and MatMul to 8 bits
        found = ort.run(proto.SerializeToString(), given, threads=1, optimise=False)
        for i, case in enumerate(batch):
            assert (np.abs(found[f"y{i}_0"] - wanted[f"y{i}_0"]) <= 2 * case.atol).all()


@pytest.mark.parametrize("name", ["tashkeel-bilstm", "ddddocr-old-int8", "smart-turn-qdq"])
def test_integers_are_kept_on_the_way_to_tflite(name, tmp_path) -> None:
    """Dynamic layers (ConvInteger, MatMulInteger, DynamicQuantizeLSTM) and QDQ: the file is no larger than the source."""
    path = model_path(name)
    (made,) = save(optimize(load(path), 2), tmp_path / "model.tflite")
    assert Path(made).stat().st_size <= 1.05 * path.stat().st_size
