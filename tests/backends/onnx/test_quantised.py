"""Quantised layers in each form that ONNX has for them: the operators that are written, and onnxruntime's results.

onnxruntime runs every file with and without its own optimisations, which fuse QDQ into integer kernels. Its integers may be
neighbours of ours on few elements (ties); our own run of the legalised module must be the same as before.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime")

from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.errors import Unsupported, UsageError
from anyir.ir.graph import Module
from anyir.ir.types import I4, I8, I16, U2, U4, U8, U16
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support.quantised import Quantising, feeds, graph_of
from anyir.tests.support.text import optimised
from onnx import numpy_helper

IMAGE, MATRIX = (2, 3, 8, 8), (4, 6)
#: Steps that an integer type has, and terms of the longest sum: what float32 arithmetic can be off by is in units of both.
STEPS, TERMS = 256, 64


def most_ties(count: int) -> float:
    """How many of `count` integers may be neighbours: those whose sum lies within its rounding error of a tie, on both of its
    sides; four deviations above the mean of as many rare events (Poisson), and one."""
    mean = count * 2 * STEPS * np.sqrt(TERMS) * np.finfo(np.float32).eps / 2
    return mean + 4 * np.sqrt(mean) + 1


def written(module: Module, form: str = "qdq", opset: int | None = None) -> onnx.ModelProto:
    proto = backend.to_model_proto(module, quant_form=form, opset=opset)
    onnx.checker.check_model(proto, full_check=form == "qdq")
    return proto


def operators(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def judge(module: Module, form: str, seed: int = 0) -> Counter[str]:
    """The operators of the file; its results in onnxruntime, and those of its own reading, are ours up to ties."""
    proto, given = written(module, form), feeds(module, seed)
    wanted, limits = run(module, given), limits_for(module, given)
    made = [ort.run(proto.SerializeToString(), given, threads=1, optimise=o) for o in (False, True)]
    made += [run(frontend.read(proto), given), run(backend.legalize(module, quant_form=form), given)]
    for found in made:
        for name, array in wanted.items():
            if array.dtype.kind == "f":
                report = compare({name: array}, {name: found[name]}, limits)
                assert report.passed, f"{form}\n{report}"
                continue
            gap = np.abs(array.astype(int) - found[name])
            assert gap.max() <= 1 and (gap > 0).sum() <= most_ties(gap.size), (form, gap.max(), (gap > 0).sum())
    return operators(proto)


def layer(to, op="conv", *, bias=True, clamp=None, zero=None, **attrs) -> Module:
    rng = np.random.default_rng(4)
    zero = (7 if to is I8 else 130) if zero is None else zero

    def build(b: Quantising, x):
        data = b.qd(x, 0.05, zero, to)
        if op == "conv":
            w, count = b.weights(rng.integers(-127, 128, (4, 3, 3, 3)), [0.01, 0.02, 0.03, 0.04], key="w"), 4
        else:
            w, count = b.weights(rng.integers(-127, 128, (6, 5)), np.linspace(0.01, 0.03, 5), axis=1, key="w"), 5
        scales = np.float32(0.05) * w.node.operands[1].array().reshape(-1)
        offset = b.d(b.const(rng.integers(-900, 900, count).astype(np.int32), key="b", role="param"), scales, axis=0)
        if op == "matmul":
            y = b.matmul(data, w)
            y = b.add(y, offset) if bias else y
        else:
            y = b.call(op, (data, w, offset if bias else None), attrs).result
        return b.q(clamp(b, y) if clamp else y, 0.21, zero, to)

    return graph_of(build, IMAGE if op == "conv" else MATRIX)


BOTH = pytest.mark.parametrize("to", [I8, U8])


# -------------------------------------------------------------------------------------------------------------- QOperator


@BOTH
@pytest.mark.parametrize(
    ("form", "operator"),
    [
        ({"pads": (1, 1, 1, 1)}, "QLinearConv"),
        ({"bias": False, "strides": (2, 2)}, "QLinearConv"),
        ({"op": "matmul", "bias": False}, "QLinearMatMul"),
        ({"op": "matmul"}, "QGemm"),
        ({"op": "gemm"}, "QGemm"),
        ({"op": "gemm", "alpha": 0.5}, "QGemm"),
    ],
    ids=["conv", "conv without bias", "matmul", "matmul and bias", "gemm", "gemm with a factor"],
)
def test_layers(form, operator, to) -> None:
    module = layer(to, **form)
    assert judge(module, "qoperator") == {"QuantizeLinear": 1, operator: 1}
    assert judge(module, "qdq")["DequantizeLinear"] >= 2


@BOTH
def test_a_clamp_becomes_a_clip_of_integers(to) -> None:
    module = layer(to, clamp=lambda b, y: b.relu(y))
    assert judge(module, "qoperator") == {"QuantizeLinear": 1, "QLinearConv": 1, "Clip": 1}
    lowest = -128 if to is I8 else 0
    module = layer(to, clamp=lambda b, y: b.relu(y), zero=lowest)
    assert judge(module, "qoperator") == {"QuantizeLinear": 1, "QLinearConv": 1}


ELEMENTWISE = {
    "QLinearAdd": lambda b, x, y: b.add(x, y),
    "QLinearMul": lambda b, x, y: b.mul(x, y),
    "QLinearSigmoid": lambda b, x, y: b.sigmoid(x),
    "QLinearLeakyRelu": lambda b, x, y: b.leaky_relu(x, alpha=0.2),
    "QLinearAveragePool": lambda b, x, y: b.average_pool(x, kernel_shape=(3, 2), strides=(2, 1), pads=(1, 0, 1, 1)),
    "QLinearGlobalAveragePool": lambda b, x, y: b.global_average_pool(x),
    "QLinearGlobalAveragePool of a mean": lambda b, x, y: b.reduce_mean(x, (2, 3), keepdims=False),
    "QLinearConcat": lambda b, x, y: b.concat(x, y, axis=2),
}


@BOTH
@pytest.mark.parametrize("operator", ELEMENTWISE)
def test_operators_of_onnxruntime(operator, to) -> None:
    middle = 0 if to is I8 else 128

    def build(b: Quantising, x, y):
        made = ELEMENTWISE[operator](b, b.qd(x, 0.0503, middle + 3, to), b.qd(y, 0.0807, middle - 20, to))
        return b.q(made, 0.1137, middle + 9, to)

    assert judge(graph_of(build, IMAGE, IMAGE), "qoperator")[operator.split()[0]] == 1


@BOTH
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("op", "operator"), [("conv", "QLinearConv"), ("gemm", "QGemm")])
def test_requantised_sums_become_operators(op, operator, bias, to) -> None:
    """Zero points for each channel, one ratio or one for each: the same integers to the last bit."""
    rng = np.random.default_rng(2)

    def build(b: Quantising, x):
        stored = b.q(x, 0.05, 3 if to is I8 else 130, to)
        count, zero = (4, 5)[op == "gemm"], b.const(np.asarray(3 if to is I8 else 130, to.numpy))
        ratios = rng.uniform(1e-4, 1e-3, count).astype(np.float32)
        zeros = rng.integers(-5, 5, count).astype(np.int8)
        c = rng.integers(-900, 900, count).astype(np.int32)
        if op == "conv":
            total = b.conv_integer(stored, rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), zero, zeros)
            ratios, c = ratios.reshape(-1, 1, 1)[None], c.reshape(-1, 1, 1)
        else:
            total = b.matmul_integer(stored, rng.integers(-127, 128, (6, 5)).astype(np.int8), zero, zeros)
            ratios = ratios[None]
        total = b.add(total, c) if bias else total
        return b.requantize(total, b.const(ratios), zero, to=to)

    module = graph_of(build, IMAGE if op == "conv" else MATRIX)
    proto, given = written(module, "qoperator"), feeds(module)
    assert operators(proto) == {"QuantizeLinear": 1, operator: 1}
    np.testing.assert_array_equal(
        run(backend.legalize(module, quant_form="qoperator"), given)["y0"], run(module, given)["y0"]
    )
    np.testing.assert_array_equal(ort.run(proto.SerializeToString(), given)["y0"], run(module, given)["y0"])


@BOTH
def test_softmax(to) -> None:
    """onnxruntime sums whole numbers of a table: a result may be beside ours."""
    lowest = -128 if to is I8 else 0
    module = graph_of(lambda b, x: b.q(b.softmax(b.qd(x, 0.1, lowest + 128, to), axis=-1), 1 / 256, lowest, to), MATRIX)
    assert judge(module, "qoperator")["QLinearSoftmax"] == 1


@BOTH
def test_functions_without_an_operator_become_tables(to) -> None:
    module = graph_of(lambda b, x: b.q(b.gelu(b.qd(x, 0.05, 3, to)), 0.03, 9, to), IMAGE)
    made = judge(module, "qoperator")
    assert made["Gather"] == 1 and "DequantizeLinear" not in made


def test_products_of_activations_of_higher_rank() -> None:
    def build(b: Quantising, x, y):
        return b.q(b.matmul(b.qd(x, 0.05, 3), b.qd(y, 0.04, -9)), 0.3, 4)

    assert judge(graph_of(build, (2, 4, 6), (2, 6, 3)), "qoperator")["QLinearMatMul"] == 1


def test_rows_are_flattened_around_qgemm() -> None:
    rng = np.random.default_rng(4)

    def build(b: Quantising, x):
        w = b.weights(rng.integers(-127, 128, (6, 5)), np.linspace(0.01, 0.03, 5), axis=1)
        y = b.add(b.matmul(b.qd(x, 0.05, 3), w), b.const(np.linspace(-1, 1, 5).astype(np.float32)))
        return b.q(y, 0.2)

    assert judge(graph_of(build, (2, 3, 6)), "qoperator") == {"QuantizeLinear": 1, "Reshape": 2, "QGemm": 1}


def test_what_has_no_operator_stays_qdq() -> None:
    """A result that others read, and 16-bit data times 16-bit data."""
    rng = np.random.default_rng(4)

    def wide(b: Quantising, x, y):
        return b.q(b.matmul(b.qd(x, 0.001, 0, I16), b.qd(y, 0.001, 0, I16)), 0.01, 0, I16)

    def shared(b: Quantising, x):
        y = b.conv(b.qd(x, 0.05, 3), b.weights(rng.integers(-127, 128, (4, 3, 3, 3)), 0.01))
        return [b.q(y, 0.2), y]

    assert judge(graph_of(wide, MATRIX, MATRIX[::-1]), "qoperator")["MatMul"] == 1
    assert judge(graph_of(shared, IMAGE), "qoperator")["Conv"] == 1


@pytest.mark.parametrize(("to", "zero"), [(I16, 0), (I16, 300), (U16, 32768), (U16, 40000)])
@pytest.mark.parametrize(
    ("form", "operator"),
    [
        ({"pads": (1, 1, 1, 1)}, "ConvInteger"),
        ({"bias": False, "strides": (2, 2)}, "ConvInteger"),
        ({"op": "matmul"}, "MatMulInteger"),
        ({"op": "gemm", "alpha": 0.5}, "MatMulInteger"),
    ],
    ids=["conv", "conv without bias", "matmul and bias", "gemm with a factor"],
)
def test_products_of_sixteen_bits_are_two_of_bytes(form, operator, to, zero) -> None:
    """The weights are stored once, unsigned: what pairs of products add up to saturates on no processor."""
    module = layer(to, zero=zero, **form)
    assert judge(module, "qoperator")[operator] == 2
    proto = written(module, "qoperator", opset=13)
    products = [node for node in proto.graph.node if node.op_type == operator]
    data, weights = (len({node.input[place] for node in products}) for place in (0, 1))
    assert (data, weights) == (2, 1)
    stored = next(i for i in proto.graph.initializer if i.name == products[0].input[1])
    integers = next(w for w in module.weights if w.key == "w").tensor.numpy()
    np.testing.assert_array_equal(numpy_helper.to_array(stored).astype(int) - 128, integers)


def test_a_bias_that_no_layer_takes_is_written_in_floats() -> None:
    """onnxruntime adds it to a matmul in floats: with integers it would be twice the bytes."""
    proto = written(layer(U8, "matmul"))
    assert not [i for i in proto.graph.initializer if i.data_type == onnx.TensorProto.INT32]
    assert judge(layer(U8, "matmul"), "qdq")["DequantizeLinear"] == 2
    assert [i for i in written(layer(U8, "conv")).graph.initializer if i.data_type == onnx.TensorProto.INT32]


def test_integer_products_become_operators_again() -> None:
    """requantize(matmul_integer + c) has one ratio: it stands as one of the scales."""
    module = layer(U8, "gemm")
    plain = optimised(module, "integer-ops")
    made = written(plain, "qoperator")
    assert operators(made) == {"QuantizeLinear": 1, "QGemm": 1}
    given = feeds(module)
    np.testing.assert_array_equal(ort.run(made.SerializeToString(), given)["y0"], run(plain, given)["y0"])
    plain = optimised(layer(I8), "integer-ops")
    assert operators(written(plain, "qoperator")) == {"QuantizeLinear": 1, "QLinearConv": 1}
    assert judge(plain, "qoperator")["QLinearConv"] == 1


# -------------------------------------------------------------------------------------------------------------------- QDQ


def test_integers_of_weights_stand_in_the_file() -> None:
    proto = written(layer(I8))
    stored = {t.name: numpy_helper.to_array(t).dtype for t in proto.graph.initializer}
    assert stored["w"] == np.int8 and stored["b"] == np.int32
    (axis,) = {
        a.i for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == "w" for a in n.attribute
    }
    assert axis == 0
    bias = next(n for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == "b")
    assert len(bias.input) == 2, "int32 has no zero point"


@pytest.mark.parametrize(
    ("to", "block", "oldest"), [(I8, None, 13), (I16, None, 21), (I4, None, 21), (I8, 3, 21), (U2, None, 25)]
)
def test_each_opset_has_its_rules(to, block, oldest) -> None:
    low, high = (0, 2) if to is U2 else (-7, 8)

    def build(b: Quantising, x):
        array = np.random.default_rng(1).integers(low, high, (6, 5))
        stored = b.const(array.astype(to.numpy), key="w", role="param")
        scale = np.linspace(0.01, 0.02, 5 * (6 // block if block else 1)).astype(np.float32)
        return b.matmul(x, b.dequantize(stored, b.const(scale.reshape(-1, 5)), None, to=x.dtype))

    module = graph_of(build, MATRIX)
    proto = written(module)
    assert max(o.version for o in proto.opset_import) >= oldest
    written(module, opset=oldest)
    if to in (I4, U2):
        with pytest.raises(Unsupported, match="opset"):
            written(module, opset=oldest - 1)
    elif oldest > 13:  # as arithmetic on the same integers
        older = written(module, opset=oldest - 1)
        assert "DequantizeLinear" not in operators(older)
        (weight,) = [t for t in older.graph.initializer if t.name == "w"]
        assert numpy_helper.to_array(weight).dtype == to.numpy


# ------------------------------------------------------------------------------------------------------------ MatMulNBits


def nbits(to, *, shape=(64, 48), blocks=2, turned=False, bias=False, zeros=False, axis_only=False) -> Module:
    """Weights [K, N] (or [N, K]) in blocks along K."""
    rng = np.random.default_rng(7)
    deep, wide = shape
    low, high = {I4: (-8, 8), U4: (0, 16), I8: (-128, 128), U8: (0, 256)}[to]

    def build(b: Quantising, x):
        array = rng.integers(low, high, shape)
        scale = rng.uniform(0.01, 0.1, (1 if axis_only else blocks, wide)).astype(np.float32)
        zero = rng.integers(low, high, scale.shape).astype(to.numpy) if zeros else None
        if zero is None and not to.is_signed:
            zero = np.full(scale.shape, (low + high) // 2, to.numpy)
        parts = [array.astype(to.numpy), scale, zero]
        parts = [p if p is None or not turned else np.ascontiguousarray(p.T) for p in parts]
        stored = b.const(parts[0], key="fc.weight", role="param")
        w = b.dequantize(stored, b.const(parts[1]), None if parts[2] is None else b.const(parts[2]), to=x.dtype)
        vector = b.const(rng.standard_normal(wide).astype(np.float32), key="fc.bias") if bias else None
        if turned:
            return b.gemm(x, w, vector, transB=True)
        return b.matmul(x, w)

    return graph_of(build, (3, deep))


@pytest.mark.parametrize("to", [I4, U4, I8, U8])
@pytest.mark.parametrize(
    "form",
    [{}, {"turned": True, "bias": True}, {"zeros": True}, {"axis_only": True, "shape": (50, 7)}, {"blocks": 4}],
    ids=["plain", "turned, with a bias", "zero points", "one scale for each column", "blocks of 16"],
)
def test_matmul_nbits(form, to) -> None:
    module = nbits(to, **form)
    proto = written(module, "matmulnbits")
    assert operators(proto) == {"MatMulNBits": 1}
    given = {"x0": np.random.default_rng(0).standard_normal((3, module.main.inputs[0].shape[1])).astype(np.float32)}
    wanted, limits = run(module, given), limits_for(module, given)
    legal = backend.legalize(module, quant_form="matmulnbits")
    for found in (ort.run(proto.SerializeToString(), given), run(frontend.read(proto), given), run(legal, given)):
        report = compare(wanted, found, limits)
        assert report.passed, str(report)


def test_bytes_of_4_bits_are_half_a_byte_each() -> None:
    module = nbits(I4, shape=(256, 64), blocks=8)
    (weight,) = [t for t in written(module, "matmulnbits").graph.initializer if t.name == "fc.weight"]
    assert len(weight.raw_data) == 256 * 64 // 2


@pytest.mark.parametrize("form", [{"shape": (48, 8), "blocks": 2}, {"shape": (16, 8), "blocks": 2}], ids=["24", "8"])
def test_blocks_that_are_no_power_of_two_from_16_on_stay(form) -> None:
    made = operators(written(nbits(I4, **form), "matmulnbits"))
    assert made == {"DequantizeLinear": 1, "MatMul": 1}


MOVES = {
    "Pad": lambda b, x: b.pad(x, (0, 0, 1, 2, 0, 0, 3, 1)),
    "MaxPool": lambda b, x: b.max_pool(x, kernel_shape=(3, 3), pads=(1, 1, 1, 1), strides=(2, 2)),
    "Resize": lambda b, x: b.resize(x, None, None, (2, 3, 16, 12), mode="nearest"),
    "DepthToSpace": lambda b, x: b.depth_to_space(b.concat(x, x, x, x, axis=1), blocksize=2),
    "SpaceToDepth": lambda b, x: b.space_to_depth(x, blocksize=2),
    "Max": lambda b, x: b.max(x, b.transpose(x, perm=(0, 1, 3, 2))),
    "Where": lambda b, x: b.where(np.arange(8) > 3, x, b.transpose(x, perm=(0, 1, 3, 2))),
    "Gather": lambda b, x: b.gather(x, np.asarray([2, 0, 1, 1]), axis=1),
    "Slice": lambda b, x: b.slice(x, (1,), (3,), (2,)),
    "Tile": lambda b, x: b.tile(x, (1, 2, 1, 1)),
    "Split": lambda b, x: b.split(x, axis=3, num_outputs=2)[1],
}


@pytest.mark.parametrize("to", [I8, U8, I16])
@pytest.mark.parametrize("operator", MOVES)
def test_onnxruntime_moves_the_integers_that_folding_gives_it(operator, to) -> None:
    """What dequantize sinks through must be there for integers; 16 bits go through floats where it is not."""
    zero = {I8: 3, U8: 130, I16: 0}[to]
    module = graph_of(lambda b, x: b.neg(MOVES[operator](b, b.qd(x, 0.05, zero, to))), IMAGE)
    made = optimised(module, "fold-quantize")
    assert [n.name for n in made.all_nodes()][-2:] == ["dequantize", "neg"]
    for form in ("qdq", "qoperator"):
        assert judge(made, form)[operator] == 1


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(UsageError, match="one of qdq, qoperator, matmulnbits"):
        backend.to_model_proto(layer(I8), quant_form="other")
