"""Reading TFLite files: names, symbols, weights in place, foreign operators, and files that lie."""

from __future__ import annotations

import random

import numpy as np
import pytest
from anyir.backends import tflite as backend
from anyir.formats import tflite
from anyir.formats.tflite import Record
from anyir.frontends.tflite import read
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import AnyIRError, InvalidModel, Unsupported
from anyir.ir.graph import Module
from anyir.ir.tensor import MappedTensor
from anyir.ir.types import F32, I64, TensorType
from anyir.kernels.run import run


def network(path, **options):
    """Two inputs that share a batch dim, a convolution, a gather, weights of several kinds."""
    rng = np.random.default_rng(3)
    module = Module("net")
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, (sym("N"), 3, 8, 6)), "image")
    ids = graph.add_input(TensorType(I64, (sym("N"),)), "ids")
    b = Builder(graph)
    w = b.const(rng.normal(size=(64, 3, 3, 3)).astype("f4"), key="conv.weight", role="param")
    y = b.relu(b.conv(x, w, b.const(rng.normal(size=64).astype("f4"), key="conv.bias", role="param")))
    y = b.reduce_mean(y, (2, 3), keepdims=False)
    table = b.const(rng.normal(size=(10, 64)).astype("f4"), key="table", role="param")
    graph.set_outputs([b.add(y, b.gather(table, ids)), y])
    module.add_signature("serving_default", graph, ["image", "ids"], ["sum", "features"])
    backend.write(module, path, **options)
    return module


@pytest.mark.parametrize("external_data", [False, True])
def test_names_order_symbols_and_numbers_come_back(tmp_path, external_data):
    module = network(tmp_path / "net.tflite", external_data=external_data)
    back = read(tmp_path / "net.tflite")
    assert back.signature.input_names() == ["image", "ids"]
    assert back.signature.output_names() == ["sum", "features"]
    assert [str(v.type) for v in back.main.inputs] == ["f32[N, 3, 8, 6]", "i64[N]"]
    assert isinstance(back.weights["conv.weight"].tensor, MappedTensor)
    for n in (1, 4):
        rng = np.random.default_rng(n)
        inputs = {"image": rng.normal(size=(n, 3, 8, 6)).astype("f4"), "ids": rng.integers(-10, 10, n)}
        expected, got = run(module, inputs), run(back, inputs)
        for name in expected:
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-5)


def test_damaged_files_raise_only_our_errors(tmp_path):
    network(tmp_path / "net.tflite")
    data = (tmp_path / "net.tflite").read_bytes()
    rng = random.Random(1)
    bad = tmp_path / "bad.tflite"
    for _ in range(150):
        damaged = bytearray(data[: rng.randrange(8, len(data))] if rng.random() < 0.2 else data)
        for _ in range(rng.randint(1, 5)):
            damaged[rng.randrange(8, min(len(damaged), 6000))] = rng.randrange(256)
        bad.unlink(missing_ok=True)
        bad.write_bytes(damaged)
        try:
            read(bad)
        except AnyIRError:
            continue


def written(tmp_path, model):
    path = tmp_path / "made.tflite"
    path.write_bytes(bytes(tflite.build(model)))
    return path


def model(operators, codes, tensors, outputs):
    graph = Record("SubGraph", tensors=tensors, inputs=[0], outputs=outputs, operators=operators)
    return Record("Model", version=3, operator_codes=codes, subgraphs=[graph], buffers=[Record("Buffer")])


def tensor(name, shape=(2,), **more):
    return Record("Tensor", shape=list(shape), name=name, has_rank=True, **more)


def operator(inputs, outputs, **more):
    return Record("Operator", inputs=inputs, outputs=outputs, **more)


RELU = Record("OperatorCode", builtin_code=19, deprecated_builtin_code=19)
CUSTOM = Record("OperatorCode", builtin_code=32, deprecated_builtin_code=32, custom_code="Evil\u202eOp")


@pytest.mark.parametrize(
    ("operators", "code", "outputs", "error", "text"),
    [
        ([operator([0], [1])], CUSTOM, [1], Unsupported, "CUSTOM Evil"),
        ([operator([1], [2]), operator([2], [1])], RELU, [1], InvalidModel, "never computed"),
        ([operator([0], [1]), operator([0], [1])], RELU, [1], InvalidModel, "twice"),
        ([operator([7], [1])], RELU, [1], InvalidModel, "tensor 7"),
        ([operator([], [1])], RELU, [1], InvalidModel, "operand|operands"),
        ([operator([0], [1], opcode_index=5)], RELU, [1], InvalidModel, "operator code 5"),
        ([operator([0], [1])], RELU, [9], InvalidModel, "tensor 9"),
        ([], RELU, [2], InvalidModel, "never computed"),
    ],
)
def test_broken_models(tmp_path, operators, code, outputs, error, text):
    tensors = [tensor("x"), tensor("y"), tensor("z")]
    path = written(tmp_path, model(operators, [code], tensors, outputs))
    with pytest.raises(error, match=text):
        read(path)


def test_a_file_without_signature_is_read_by_tensor_names(tmp_path):
    path = written(tmp_path, model([operator([0], [1])], [RELU], [tensor("in"), tensor("out")], [1]))
    module = read(path)
    made = run(module, {"in": np.asarray([-1.0, 2.0], "f4")})
    assert made["out"].tolist() == [0.0, 2.0]
