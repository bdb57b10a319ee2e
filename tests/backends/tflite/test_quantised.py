"""Quantised models as TFLite: every form of a quantised op becomes an integer operator, with LiteRT's numbers.

What LiteRT's reference kernels give equals our kernels' of the legalised graph in every bit. Its fast kernels round sums
once instead of twice, or scale them in float32: these may differ by one step of the result.
"""

from __future__ import annotations

from pathlib import Path

import anyir
import numpy as np
import pytest
from anyir.backends import tflite
from anyir.backends.tflite import legalization, selfcheck
from anyir.backends.tflite.writer import emit, write_legal
from anyir.compress.data import open_data
from anyir.formats.tflite import parse
from anyir.formats.tflite_schema import OP_NAMES, TYPE_NAMES
from anyir.frontends.tflite import read
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import InternalError
from anyir.ir.graph import Module
from anyir.ir.types import F16, F32, I4, I8, I16, U8, DType, TensorType
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.passes.manager import Context, run_pipeline
from anyir.passes.pipeline import parse_pipeline
from anyir.passes.presets import preset
from anyir.runtimes import litert
from anyir.tests.support.datasets import mnist5k
from anyir.tests.support.models import model_path
from anyir.tests.support.trained import mnist, mnist_images

pytest.importorskip("ai_edge_litert")
N = sym("N")
FAST = ({}, {"xnnpack": False})


class Net:
    """A graph with quantize and dequantize on all values, as the pass `quantize` writes them."""

    def __init__(self, shape=(N, 3, 9, 8), stored: DType = I8, seed: int = 4):
        self.module = Module("net")
        self.graph = self.module.add_graph("main")
        self.b, self.rng, self.stored = Builder(self.graph), np.random.default_rng(seed), stored
        self.x = self.point(self.graph.add_input(TensorType(F32, shape), "x"), 4.0)

    def constant(self, value, dtype=np.float32):
        return self.b.const(np.asarray(value, dtype))

    def point(self, value, reach: float, zero: int | None = None, scale: float | None = None):
        """Rounded to integers that reach to about `reach`."""
        full = {I8: 127, U8: 127, I16: 32767}[self.stored]
        offset = {I8: -7, U8: 121, I16: 0}[self.stored] if zero is None else zero
        step = self.constant(reach / full if scale is None else scale)
        point = self.constant(offset, self.stored.numpy)
        return self.b.dequantize(self.b.quantize(value, step, point, to=self.stored), step, point, to=F32)

    def weight(self, *shape, axis: int | None = 0, dtype: DType = I8):
        """Integers with a scale, or one per entry along `axis`."""
        high = 7 if dtype is I4 else 127
        array = self.rng.integers(-high, high + 1, shape).astype(dtype.numpy)
        dims = () if axis is None else tuple(d if i == axis else 1 for i, d in enumerate(shape))
        size = 1.5 / high / np.sqrt(np.prod(shape[1:]))
        scale = self.constant(self.rng.uniform(0.5, 1.0, dims) * size)
        return self.b.dequantize(self.b.const(array, key="w"), scale, to=F32)

    def bias(self, w, count: int):
        """32-bit integers at the product of scales."""
        data = self.x.node.operand("scale").array()
        scales = np.broadcast_to(data * w.node.operand("scale").array().reshape(-1), (count,)).astype(np.float32)
        array = self.rng.integers(-3000, 3000, count).astype(np.int32)
        return self.b.dequantize(self.b.const(array, key="b"), self.b.const(scales), to=F32)

    def conv(self, x, outs: int, kernel: int = 3, **attrs):
        w = self.weight(outs, x.shape[1] // attrs.get("groups", 1), kernel, kernel)
        return self.b.conv(x, w, self.bias(w, outs), **attrs)

    def done(self, *outputs) -> Module:
        self.graph.set_outputs(outputs)
        self.module.add_signature("serving_default", self.graph, ["x"], [f"y{i}" for i in range(len(outputs))])
        return self.module


def listing(path) -> list[str]:
    """Operators with the types of data and result."""
    model = parse(memoryview(path.read_bytes()))
    names, graph = [OP_NAMES[c["builtin_code"]] for c in model["operator_codes"]], model["subgraphs"][0]
    kinds = [TYPE_NAMES[t["type"]] for t in graph["tensors"]]
    return [f"{names[op['opcode_index']]} {kinds[op['outputs'][0]]}" for op in graph["operators"]]


def check(module, path, steps: float = 1.0, exact: bool = True, **options) -> list[str]:
    """Reference kernels equal ours; fast ones are within one step; quantising the float way is within `steps`; the file,
    read and written again, is the same integers."""
    legal = tflite.legalize(module, **options)
    write_legal(legal, path)
    shape = [d if isinstance(d, int) else 2 for d in module.main.inputs[0].shape]
    x = (np.random.default_rng(9).normal(size=shape) * 1.5).astype(np.float32)
    ours, wanted, limits = run(legal, {"x": x}), run(module, {"x": x}), limits_for(module, {"x": x})
    again = path.with_suffix(".again.tflite")
    write_legal(tflite.legalize(read(path), **options), again)
    assert [f.removeprefix("STRIDED_") for f in listing(again)] == [f.removeprefix("STRIDED_") for f in listing(path)]
    jobs = [litert.Job(str(path), {"x": x}, **kernels) for kernels in ({"xnnpack": False, "reference": True}, *FAST)]
    reference, *fast, rewritten = litert.run_many([*jobs, litert.Job(str(again), {"x": x}, xnnpack=False)])
    for (name, mine), value in zip(ours.items(), module.main.outputs, strict=True):
        if exact:
            np.testing.assert_array_equal(reference[name], mine)
        for made in fast:
            assert np.abs(made[name] - mine).max() <= _step(value, limits[name])
        assert np.abs(wanted[name] - mine).max() <= _step(value, limits[name], steps)
        np.testing.assert_array_equal(rewritten[name], fast[1][name])
    return listing(path)[1:-1]


def _step(value, limit, count: float = 1.0) -> float:
    """So many steps of a rounded value, each product of integer and scale rounded too; of a float, what its sums may be off."""
    if value.node.name != "dequantize":
        return limit.atol
    point = np.float32(2 ** (value.node.operands[0].dtype.bits - 1))
    scale = float(value.node.operand("scale").array())
    return count * scale + 2 * float(np.spacing(point * np.float32(scale)))


def chain(net):
    """A small network: padded, strided, depthwise, residual, pooled, a gate, a classifier."""
    b = net.b
    net.x = y = net.point(b.relu(net.conv(net.x, 8, pads=(1, 1, 1, 1), strides=(2, 2))), 4.0)
    z = net.x = net.point(b.relu6(net.conv(y, 8, groups=8, pads=(1, 1, 1, 1))), 6.0)
    z = net.point(net.conv(z, 8, kernel=1), 4.0)
    net.x = y = net.point(b.add(y, z), 6.0)
    y = net.x = net.point(b.max_pool(y, kernel_shape=(2, 2), strides=(2, 2)), 6.0)
    y = net.x = net.point(b.reduce_mean(y, (2, 3), keepdims=False), 4.0)
    w = net.weight(8, 5, axis=1)
    return net.point(b.gemm(y, w, net.bias(w, 5)), 4.0)


@pytest.mark.parametrize("stored", [I8, U8, I16], ids=str)
def test_a_network_computes_in_integers_from_end_to_end(tmp_path, stored):
    net = Net(stored=stored)
    found = check(net.done(chain(net)), tmp_path / "m.tflite", steps=3)
    kind = "INT16" if stored is I16 else "INT8"
    assert {f.split()[1] for f in found} == {kind}
    kinds = [f.split()[0] for f in found]
    assert kinds.count("CONV_2D") == 2 and "DEPTHWISE_CONV_2D" in kinds and "FULLY_CONNECTED" in kinds
    assert not any(k in kinds for k in ("RELU", "RELU6", "DEQUANTIZE"))


def _gate(net):
    return net.point(net.b.sigmoid(net.x), 1, *((-128, 1 / 256) if net.stored is I8 else (0, 1 / 32768)))


def _tanh(net):
    return net.point(net.b.tanh(net.x), 1, 0, 1 / 128 if net.stored is I8 else 1 / 32768)


def _softmax(net):
    y = net.b.softmax(net.b.reshape(net.x, (-1, 216)), axis=1)
    return net.point(y, 1, *((-128, 1 / 256) if net.stored is I8 else (0, 1 / 32768)))


def _matmul(net):
    return net.point(net.b.matmul(net.x, net.b.transpose(net.x, perm=(0, 1, 3, 2))), 60.0)


def _transposed(net):
    w = net.weight(3, 4, 3, 3, axis=1)
    return net.point(net.b.conv_transpose(net.x, w, net.bias(w, 4), strides=(2, 2), pads=(1, 1, 1, 1)), 4.0)


def _one_dim(net):
    x = net.b.reshape(net.x, (-1, 3, 72))
    w = net.weight(5, 3, 5)
    return net.point(net.b.conv(x, w, net.bias(w, 5), pads=(2, 2)), 4.0)


def _joined(net):
    return net.point(net.b.concat(net.x, net.point(net.b.relu(net.x), 4.0), axis=1), 4.0)


def _split(net):
    left, right = net.b.split(net.x, (1, 2), axis=1)
    return net.point(net.b.mul(left, right), 12.0)


OPS = {
    "sub": (lambda n: n.point(n.b.sub(n.x, n.point(n.b.relu(n.x), 4.0)), 4.0), "RELU SUB", 2),
    "mul by a number": (lambda n: n.point(n.b.mul(n.x, n.constant(0.37)), 2.0), "MUL", 1),
    "silu": (lambda n: n.point(n.b.silu(n.x), 4.0), "LOGISTIC MUL", 3),
    "sigmoid": (_gate, "LOGISTIC", 1),
    "sigmoid, another scale": (lambda n: n.point(n.b.sigmoid(n.x), 1.0), "LOGISTIC QUANTIZE", 1),
    "tanh": (_tanh, "TANH", 1),
    "softmax": (_softmax, "RESHAPE SOFTMAX", 1),
    "leaky relu": (lambda n: n.point(n.b.leaky_relu(n.x, alpha=0.2), 4.0), "LEAKY_RELU", 1),
    "hard swish": (lambda n: n.point(n.b.hard_swish(n.x), 4.0, -95, 0.06), "HARD_SWISH", 1),
    "gelu": (lambda n: n.point(n.b.gelu(n.x), 4.0), "GELU", 1),
    "exp": (lambda n: n.point(n.b.exp(n.x), 40.0), "EXP", 1),
    "abs": (lambda n: n.point(n.b.abs(n.x), 4.0), "ABS", 1),
    "matmul": (_matmul, "BATCH_MATMUL", 1),
    "transposed convolution": (_transposed, None, 1),
    "one dim": (_one_dim, None, 1),
    "concat": (_joined, "RELU CONCATENATION", 1),
    "split": (_split, None, 1),
    "sum": (lambda n: n.point(n.b.reduce_sum(n.x, (3,)), 20.0), "SUM", 1),
    "largest": (lambda n: n.point(n.b.reduce_max(n.x, (3,)), 4.0), "REDUCE_MAX", 1),
    "average pool": (lambda n: n.point(n.b.average_pool(n.x, kernel_shape=(2, 2)), 4.0), None, 1),
    "padded largest": (lambda n: n.point(n.b.max_pool(n.x, kernel_shape=(3, 3), pads=(1,) * 4), 4.0), None, 1),
    "clip": (lambda n: n.point(n.b.clip(n.x, np.float32(-1.0), np.float32(2.0)), 4.0), None, 1),
    "other scales": (lambda n: n.point(n.x, 9.0), "QUANTIZE", 1),
    "slice and pad": (lambda n: n.point(n.b.pad(n.b.slice(n.x, (1,), (6,), (2,)), (0, 1, 0, 0) * 2), 4.0), None, 1),
}
ONLY_BYTES = {"hard swish", "exp", "gelu"}
#: The reference kernels read signed sums as unsigned; the fast ones are ours.
NO_REFERENCE = {"sum"}


@pytest.mark.parametrize("stored", [I8, I16], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_op(tmp_path, name, stored):
    if stored is I16 and name in ONLY_BYTES:
        pytest.skip("no 16-bit kernel")
    make, wanted, steps = OPS[name]
    net = Net(stored=stored)
    wide = 60 if stored is I16 and name in ("gelu", "exp", "tanh", "sigmoid", "silu", "sigmoid, another scale") else 1
    found = check(net.done(make(net)), tmp_path / "m.tflite", steps * wide, name not in NO_REFERENCE)
    assert wanted is None or [f.split()[0] for f in found] == wanted.split()
    assert all(f.endswith(("INT16" if stored is I16 else "INT8", "INT32")) for f in found)


def test_functions_without_a_quantised_kernel_stay_floats_between_integers(tmp_path):
    net = Net()
    y = net.point(net.b.sin(net.x), 1.0)
    found = check(net.done(net.point(net.b.add(y, net.x), 5.0)), tmp_path / "m.tflite", steps=2)
    assert found == ["DEQUANTIZE FLOAT32", "SIN FLOAT32", "QUANTIZE INT8", "ADD INT8"]


def test_hard_swish_that_truncates_to_one_side_is_computed_in_floats(tmp_path):
    net = Net()
    found = check(net.done(net.point(net.b.hard_swish(net.x), 4.0)), tmp_path / "m.tflite")
    assert found == ["DEQUANTIZE FLOAT32", "HARD_SWISH FLOAT32", "QUANTIZE INT8"]


@pytest.mark.parametrize("spoiled", ["zero point", "lowest value", "float result"])
def test_what_integer_kernels_cannot_say_is_computed_in_floats_exactly(tmp_path, spoiled):
    net = Net(shape=(2, 40))
    array = net.rng.integers(-127, 128, (40, 30)).astype(np.int8)
    array[3, 3] = -128 if spoiled == "lowest value" else 1
    zero = net.constant(3, np.int8) if spoiled == "zero point" else None
    y = net.b.matmul(net.x, net.b.dequantize(net.b.const(array, key="w"), net.constant(0.002), zero, to=F32))
    outputs = [net.point(y, 4.0), *([y] if spoiled == "float result" else [])]
    found = check(net.done(*outputs), tmp_path / "m.tflite", exact=len(outputs) == 1)
    assert "FULLY_CONNECTED FLOAT32" in found and "FULLY_CONNECTED INT8" not in found
    assert any("computes in floats" in line for line in tflite.legalize(net.module).diagnostics)


def test_a_bias_at_another_scale_is_brought_to_the_product(tmp_path):
    net = Net(shape=(2, 40))
    w = net.weight(40, 6, axis=1)
    bias = net.b.dequantize(net.b.const(np.arange(6, dtype=np.int32) * 1000), net.constant(1e-4), to=F32)
    check(net.done(net.point(net.b.add(net.b.matmul(net.x, w), bias), 4.0)), tmp_path / "m.tflite")


def _layers(*widths: int, axis: int | None = 1) -> Module:
    """Matrices of so many columns, all for one input."""
    net = Net(shape=(2, 16))
    made = []
    for width in widths:
        w = net.weight(16, width, axis=axis)
        made.append(net.point(net.b.add(net.b.matmul(net.x, w), net.bias(w, width)), 4.0))
    return net.done(*made)


def test_a_layer_much_wider_than_all_others_is_written_in_parts_that_share_their_zero_points(tmp_path):
    whole, parts = tmp_path / "whole.tflite", tmp_path / "parts.tflite"
    assert check(_layers(250, 2100), parts).count("FULLY_CONNECTED INT8") == 1 + 9
    legal = tflite.legalize(_layers(250, 2100))
    assert [node.name for node in legal.main.nodes("concat")] == ["concat"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(legalization, "narrow", lambda graph: None)
        assert check(_layers(250, 2100), whole).count("FULLY_CONNECTED INT8") == 2
    x = {"x": np.random.default_rng(3).normal(size=(2, 16)).astype(np.float32)}
    for one, other in zip(*(litert.run(path, x).values() for path in (whole, parts)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert parts.stat().st_size < whole.stat().st_size - 2100 * 8 // 2


@pytest.mark.parametrize(
    ("widths", "axis"),
    [((2100, 2100), 1), ((250, 270), 1), ((2100,), 1), ((4, 2100), 1), ((250, 2100), None)],
    ids=["shared already", "too little", "no other layer", "too many parts", "one scale"],
)
def test_other_layers_stay_whole(widths, axis):
    legal = tflite.legalize(_layers(*widths, axis=axis))
    assert len(list(legal.main.nodes("tfl.q_fully_connected"))) == len(widths)


def test_integer_ends_stay_integers(tmp_path):
    module = Module("ends")
    graph = module.add_graph("main")
    b, scale, zero = Builder(graph), np.float32(0.05), np.uint8(130)
    x = b.dequantize(graph.add_input(TensorType(U8, (2, 30)), "x"), scale, zero, to=F32)
    graph.set_outputs([b.quantize(b.relu(x), np.float32(0.03), np.uint8(0), to=U8)])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    tflite.write(module, tmp_path / "m.tflite")
    assert listing(tmp_path / "m.tflite") == ["QUANTIZE INT8", "RELU INT8", "QUANTIZE UINT8"]
    data = np.random.default_rng(1).integers(0, 256, (2, 30)).astype(np.uint8)
    wanted = run(tflite.legalize(module), {"x": data})["y"]
    np.testing.assert_array_equal(litert.run(tmp_path / "m.tflite", {"x": data}, xnnpack=False)["y"], wanted)
    assert np.abs(wanted.astype(int) - run(module, {"x": data})["y"].astype(int)).max() <= 1


# --------------------------------------------------------------------------------------------------- weights alone


def floating(dtype: DType, dynamic: bool = False, block: int = 0) -> Module:
    """Float data; a convolution and a matrix with integer or half weights."""
    module = Module("weights")
    graph = module.add_graph("main")
    net = Net.__new__(Net)
    net.graph, net.b, net.rng = graph, Builder(graph), np.random.default_rng(2)
    b, x = net.b, graph.add_input(TensorType(F32, (N, 8, 6, 6)), "x")

    def weight(*shape, axis):
        if dtype is F16:
            return b.cast(b.const(net.rng.normal(size=shape).astype(np.float16) / 10, key="w"), to=F32)
        if block and len(shape) == 2:
            array = net.rng.integers(-7, 8, shape).astype(dtype.numpy)
            scale = net.rng.uniform(0.01, 0.02, (shape[0] // block, shape[1])).astype(np.float16).astype(np.float32)
            return b.dequantize(b.const(array, key="w"), b.const(scale), to=F32)
        return net.weight(*shape, axis=axis, dtype=dtype)

    def data(value):
        return b.dequantize(*b.dynamic_quantize(value), to=F32) if dynamic else value

    y = b.relu(b.conv(data(x), weight(32, 8, 3, 3, axis=0), b.const(net.rng.normal(size=32).astype(np.float32))))
    y = b.reshape(y, (-1, 512))
    graph.set_outputs([b.matmul(data(y), weight(512, 10, axis=1))])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    return module


@pytest.mark.parametrize(("dtype", "block"), [(I8, 0), (I4, 0), (F16, 0), (I4, 32)], ids=str)
def test_weights_alone_are_read_exactly(tmp_path, dtype, block):
    module = floating(dtype, block=block)
    tflite.write(module, tmp_path / "m.tflite")
    found = listing(tmp_path / "m.tflite")
    assert found.count("DEQUANTIZE FLOAT32") == 2
    bits = {I8: 8, I4: 4, F16: 16}[dtype]
    assert (tmp_path / "m.tflite").stat().st_size < 7424 * bits / 8 + 5000
    x = np.random.default_rng(0).normal(size=(2, 8, 6, 6)).astype(np.float32)
    wanted, limits = run(module, {"x": x}), limits_for(module, {"x": x})
    made = [litert.run(tmp_path / "m.tflite", {"x": x}, **kernels) for kernels in FAST]
    for found in (*made, run(read(tmp_path / "m.tflite"), {"x": x})):
        report = compare(wanted, found, limits)
        assert report.passed, str(report)


def noise_of_data(module: Module, x: np.ndarray) -> float:
    """What rounding the data of both layers to 127 steps of their largest element makes of a result: a uniform error of half a
    step has the deviation step / sqrt(12), sums of independent ones add in squares, 5 deviations are never exceeded."""
    filters, matrix = (
        node.operands[0].array().astype(np.float64) * node.operand("scale").array()
        for node in module.all_nodes("dequantize")
        if node.operands[0].is_const
    )
    hidden = module.clone()
    hidden.main.set_outputs([next(hidden.all_nodes("relu")).result])
    largest = [float(np.abs(a).max()) for a in (x, run(hidden, {"x": x})["y"])]
    steps = np.asarray(largest) / 127 / np.sqrt(12)
    made = steps[0] * np.sqrt(np.square(filters).sum(axis=(1, 2, 3)).max())
    return 5 * float(np.hypot(made, steps[1]) * np.linalg.norm(matrix, axis=0).max())


@pytest.mark.parametrize("dtype", [I8, I4], ids=str)
def test_data_quantised_as_they_come(tmp_path, dtype):
    for module, options in ((floating(dtype, dynamic=True), {}), (floating(dtype), {"hybrid": True})):
        legal = tflite.legalize(module, **options)
        write_legal(legal, tmp_path / "m.tflite")
        assert set(listing(tmp_path / "m.tflite")) >= {"CONV_2D FLOAT32", "FULLY_CONNECTED FLOAT32"}
        assert not any("DEQUANTIZE" in f for f in listing(tmp_path / "m.tflite"))
        x = np.random.default_rng(0).normal(size=(1, 8, 6, 6)).astype(np.float32)
        wanted, stated = run(legal, {"x": x}), run(module, {"x": x})
        reference = litert.run_many([litert.Job(str(tmp_path / "m.tflite"), {"x": x}, xnnpack=False, reference=True)])
        report = compare(wanted, reference[0], limits_for(legal, {"x": x}))
        assert report.passed, str(report)
        rounded = noise_of_data(module, x) if options else limits_for(module, {"x": x})["y"].atol
        assert np.abs(stated["y"] - wanted["y"]).max() <= rounded
        write_legal(tflite.legalize(read(tmp_path / "m.tflite")), tmp_path / "again.tflite")
        assert listing(tmp_path / "again.tflite") == listing(tmp_path / "m.tflite")


# ----------------------------------------------------------------------------------------------------------- the check


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda t: t["y0"].update(scale=[0.5]), "must keep"),
        (lambda t: t["b"].update(scale=[s * 1.01 for s in t["b"]["scale"]]), "not the product"),
        (lambda t: t["w"].update(quantized_dimension=3), "wrong axis|along axis"),
        (lambda t: t["w"].update(zero_point=[1] * 4), "zero point 0"),
    ],
)
def test_wrong_scales_never_reach_a_file(spoil, text):
    net = Net(shape=(1, 9, 8, 3))
    net.x = net.b.transpose(net.x, perm=(0, 3, 1, 2))
    source = net.x
    net.x = source.node.operands[0]
    w = net.weight(4, 3, 3, 3)
    y = net.point(net.b.conv(source, w, net.bias(w, 4)), 4.0)
    module = net.done(net.b.reshape(y.node.operands[0], (1, -1)))
    model, payloads = emit(tflite.legalize(module))
    tensors = {
        t["name"][:2].rstrip("_"): t["quantization"] for t in model["subgraphs"][0]["tensors"] if t.get("quantization")
    }
    sizes = [0 if p is None else p.nbytes for p in payloads]
    selfcheck.check(model, sizes)
    spoil(tensors)
    with pytest.raises(InternalError, match=text):
        selfcheck.check(model, sizes)


# ---------------------------------------------------------------------------------------------------- trained networks


def quantise(path, images, options: str):
    """The optimised module, quantised by the pass with these samples."""
    module = anyir.load(path)
    ctx = Context()
    ctx.data = open_data({module.signature.input_names()[0]: images}, module)
    run_pipeline(module, preset(2), ctx)
    run_pipeline(module, parse_pipeline(options), ctx)
    return module


def right(name: str, source: str, options: str, path, count: int) -> tuple[float, float]:
    """How many of `count` unseen digits the float network, and the file in LiteRT, get right."""
    digits, where = mnist5k(), mnist(name, source)
    module = quantise(where, mnist_images(name, digits.x[:200], source), options)
    tflite.write(module, path)
    x, y = mnist_images(name, digits.x_test[:count], source), digits.y_test[:count]
    key = module.signature.input_names()[0]
    (wanted,), (made,) = run(anyir.load(where), {key: x}).values(), litert.run(path, {key: x}).values()
    return float((wanted.argmax(1) == y).mean()), float((made.argmax(1) == y).mean())


def test_a_trained_network_keeps_its_accuracy(tmp_path):
    before, after = right("cnn", "onnx", "quantize", tmp_path / "m.tflite", 200)
    assert after >= before - 0.005
    found = listing(tmp_path / "m.tflite")
    assert [f for f in found if not f.endswith("INT8")] == ["DEQUANTIZE FLOAT32"]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["torch", "onnx", "keras"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("options", ["quantize", "quantize{activations=int16}", "quantize{activations=dynamic}"])
def test_trained_networks_keep_their_accuracy(tmp_path, name, source, options):
    before, after = right(name, source, options, tmp_path / "m.tflite", 1000)
    assert after >= before - 0.005
    products = [f for f in listing(tmp_path / "m.tflite") if f.startswith(("CONV", "FULLY"))]
    kind = {"int16": "INT16", "dynamic": "FLOAT32"}.get(options.partition("=")[2].rstrip("}"), "INT8")
    assert products and all(f.endswith(kind) for f in products)
    assert not any(f.startswith("DEQUANTIZE") for f in listing(tmp_path / "m.tflite")[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddddocr-old-int8", "t5-encoder-int8", "smart-turn-qdq"])
def test_quantised_files_of_others_keep_their_weights_in_integers(tmp_path, name):
    source = model_path(name)
    tflite.write(anyir.load(source), tmp_path / "m.tflite")
    assert (tmp_path / "m.tflite").stat().st_size < 1.05 * source.stat().st_size


@pytest.mark.parametrize("zeros", [np.zeros(6, np.int8), np.arange(-3, 3, dtype=np.int8)], ids=["zero", "each its own"])
def test_integer_products_with_a_zero_point_for_each_channel(zeros: np.ndarray, tmp_path: Path) -> None:
    """What QOperator files of onnxruntime have: filters of one scale, and a vector of zero points."""
    module, rng = Module("net"), np.random.default_rng(0)
    graph = module.add_graph("main")
    b = Builder(graph)
    q = b.quantize(graph.add_input(TensorType(F32, (N, 2, 5, 5)), "x"), np.float32(0.03), np.uint8(120), to=U8)
    w = b.const(rng.integers(-60, 60, (6, 2, 3, 3)).astype(np.int8), key="w", role="param")
    total = b.conv_integer(q, w, np.uint8(120), b.const(zeros))
    rows = b.requantize(total, np.float32(0.002), np.uint8(128), to=U8)
    v = b.const(rng.integers(-60, 60, (54, 6)).astype(np.int8), key="v", role="param")
    product = b.matmul_integer(b.reshape(rows, (-1, 54)), v, np.uint8(128), b.const(zeros))
    graph.set_outputs([b.mul(b.cast(product, to=F32), np.float32(1e-4))])
    module.add_signature("main", graph, ["x"], ["y"])
    anyir.save(module, tmp_path / "net.tflite")
    x = rng.normal(0, 1, (3, 2, 5, 5)).astype(np.float32)
    wanted = run(module, [x])["y"]
    np.testing.assert_array_equal(run(anyir.load(tmp_path / "net.tflite"), [x])["y"], wanted)
    np.testing.assert_array_equal(litert.run(tmp_path / "net.tflite", {"x": x})["y"], wanted)
