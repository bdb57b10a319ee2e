"""Rich ops in every opset: in the fewest nodes, valid, and with the reference kernels' numbers, in onnxruntime too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime")

from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module, Value
from anyir.ir.types import F16, F32, F64, DType, TensorType
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.runtimes import onnxruntime as ort

ROWS, IMAGE = ("N", 8), ("N", 8, "H", 3)
SCALE, BIAS = np.linspace(0.5, 2, 8), np.linspace(-1, 1, 8)

_LAYER_NORM = "ReduceMean Sub Pow ReduceMean Add Sqrt Div Mul Add"
_GROUP_NORM = "Reshape InstanceNormalization Reshape Mul Add"


def _norm(name: str, **attrs: Any):
    def build(b: Builder, x: Value) -> Value:
        numbers = [b.const(a.astype(x.dtype.numpy)) for a in (SCALE, BIAS)]
        return b.call(
            name, (x, *numbers[: attrs.get("affine", 2)]), {k: v for k, v in attrs.items() if k != "affine"}
        ).result

    return build


#: What is built, on data of which shape, and the nodes from each opset on.
SPELLED: dict[str, tuple[Any, tuple, dict[int, str]]] = {
    "hard_swish": (lambda b, x: b.hard_swish(x), ROWS, {13: "HardSigmoid Mul", 14: "HardSwish"}),
    "silu": (lambda b, x: b.silu(x), ROWS, {13: "Sigmoid Mul", 24: "Swish", 25: "Sigmoid Mul"}),
    "gelu": (lambda b, x: b.gelu(x), ROWS, {13: "Div Erf Add Mul Mul", 20: "Gelu"}),
    "gelu_tanh": (
        lambda b, x: b.gelu(x, approximate="tanh"), ROWS, {13: "Pow Mul Add Mul Tanh Add Mul Mul", 20: "Gelu"},
    ),
    "mish": (lambda b, x: b.mish(x), ROWS, {13: "Softplus Tanh Mul", 18: "Mish"}),
    "relu6": (lambda b, x: b.relu6(x), ROWS, {13: "Clip"}),
    "square": (lambda b, x: b.square(x), ROWS, {13: "Mul"}),
    "layer_norm": (_norm("layer_norm", axis=-1), ROWS, {13: _LAYER_NORM, 17: "LayerNormalization"}),
    "layer_norm_scale": (_norm("layer_norm", axis=1, affine=1), ROWS, {13: _LAYER_NORM[:-4], 17: "LayerNormalization"}),
    "layer_norm_plain": (_norm("layer_norm", axis=1, affine=0), ROWS, {13: _LAYER_NORM[:-8], 17: "LayerNormalization"}),
    "rms_norm": (_norm("rms_norm", axis=-1, affine=1), ROWS, {13: "Pow ReduceMean Add Sqrt Div Mul", 23: "RMSNormalization"}),
    "rms_norm_plain": (_norm("rms_norm", axis=-1, affine=0), ROWS, {13: "Pow ReduceMean Add Sqrt Div", 23: "RMSNormalization"}),
    "group_norm": (_norm("group_norm", num_groups=4), IMAGE, {13: _GROUP_NORM, 21: "GroupNormalization"}),
}  # fmt: skip
OPSETS = (13, 14, 17, 18, 20, 21, 23, 24, 25, 26)


def _module(build: Any, shape: tuple, dtype: DType = F32) -> Module:
    module = Module("net")
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(dtype, tuple(sym(d) if isinstance(d, str) else d for d in shape)), "x")
    graph.set_outputs([build(Builder(graph), x)])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    return module


def _nodes(proto: onnx.ModelProto) -> str:
    return " ".join(node.op_type for node in proto.graph.node)


def _feeds(shape: tuple, dtype: DType, special: bool) -> dict[str, np.ndarray]:
    """Normal numbers; or also larger ones (whose fourth power float32 holds), infinities, NaN and zeros of both signs."""
    x = np.random.default_rng(0).standard_normal([{"N": 6, "H": 5}.get(d, d) for d in shape])
    if special:
        x.flat[[0, 9, 18, 27, 36, 45]] = [np.nan, np.inf, -np.inf, -0.0, 1e8, -1e8]
    return {"x": x.astype(dtype.numpy)}


@pytest.mark.parametrize("name", SPELLED)
def test_each_opset_has_its_shortest_spelling(name: str) -> None:
    build, shape, wanted = SPELLED[name]
    module = _module(build, shape)
    for opset in OPSETS:
        proto = backend.to_model_proto(module, opset=opset)
        onnx.checker.check_model(proto, full_check=True)
        assert _nodes(proto) == wanted[max(o for o in wanted if o <= opset)], opset


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", SPELLED)
def test_a_spelling_gives_the_numbers_of_the_op(name: str, special: bool) -> None:
    """In our kernels after reading back, and in onnxruntime with and without its own fusions."""
    build, shape, wanted = SPELLED[name]
    module, feeds = _module(build, shape), _feeds(shape, F32, special)
    truth = run(module, feeds)
    limits = limits_for(module, feeds, exact=truth)
    for opset in wanted:
        proto = backend.to_model_proto(module, opset=opset)
        data = proto.SerializeToString()
        found = [run(frontend.read(proto), feeds), *(ort.run(data, feeds, optimise=way) for way in (False, True))]
        for made in found:
            report = compare(truth, made, limits)
            assert report.passed, f"opset {opset}: {report}"


@pytest.mark.parametrize("dtype", [F16, F64])
@pytest.mark.parametrize("name", SPELLED)
def test_other_floats_lose_nothing_on_the_way(name: str, dtype: DType) -> None:
    """Half floats are not rounded between the steps; a sixth stays one in double precision."""
    build, shape, wanted = SPELLED[name]
    module, feeds = _module(build, shape, dtype), _feeds(shape, dtype, False)
    truth = run(module, feeds)
    limits = limits_for(module, feeds, exact=truth)
    for opset in wanted:
        proto = backend.to_model_proto(module, opset=opset)
        onnx.checker.check_model(proto, full_check=True)
        report = compare(truth, run(frontend.read(proto), feeds), limits)
        assert report.passed, f"opset {opset}: {report}"


def test_helpers_that_say_the_same_are_one_node() -> None:
    """Below opset 15 parts of a shape are slices of all of it, which is asked for once."""

    def build(b: Builder, x: Value) -> Value:
        parts = b.shape(x, start=0, end=1), b.const(np.asarray([2], np.int64)), b.shape(x, start=2, end=3)
        shape = b.concat(*parts, b.const(np.asarray([-1], np.int64)), axis=0)
        return b.add(b.sigmoid(b.reshape(x, shape)), b.const(np.float32(1)))

    module = _module(build, ("N", 8, "H"))
    assert _nodes(backend.to_model_proto(module, opset=13)) == "Shape Slice Slice Concat Reshape Sigmoid Add"
    assert _nodes(backend.to_model_proto(module, opset=15)) == "Shape Shape Concat Reshape Sigmoid Add"


def test_a_helper_takes_the_place_of_no_value() -> None:
    """The sigmoid inside a silu is the one that stands beside it; two values that are equal stay two."""

    def build(b: Builder, x: Value) -> Value:
        return b.concat(b.sigmoid(x), b.silu(x), b.sigmoid(x), axis=0)

    assert _nodes(backend.to_model_proto(_module(build, ROWS), opset=17)) == "Sigmoid Mul Sigmoid Concat"


def test_what_passes_made_of_one_weight_is_stored_once() -> None:
    """Equal constants that ask for one name; the source's own, of different names, stay apart."""

    def build(b: Builder, x: Value) -> Value:
        rows = [b.const(np.ones(8, np.float32), key=key, role="param") for key in ("a", "b", "b", "b")]
        other = b.const(np.zeros(8, np.float32), key="b", role="param")
        for row in (*rows, other):
            x = b.mul(b.sigmoid(x), row)
        return x

    module = _module(build, ROWS)
    proto = backend.to_model_proto(module)
    assert [i.name for i in proto.graph.initializer] == ["a", "b", "b_3"]
    assert [node.input[1] for node in proto.graph.node if node.op_type == "Mul"] == ["a", "b", "b", "b", "b_3"]
    feeds = _feeds(ROWS, F32, False)
    assert compare(run(module, feeds), run(frontend.read(proto), feeds), limits_for(module, feeds)).passed


_GEMM_OF_ROWS = "Gather Add Shape Concat Reshape Gemm Reshape"


@pytest.mark.parametrize(
    ("shape", "opset", "shared", "nodes"),
    [
        (("N", "T", 8), 15, True, _GEMM_OF_ROWS),
        ((0, "T", 8), 15, True, _GEMM_OF_ROWS),
        (("N", "T", 8), 13, True, "Gather Add Transpose MatMul"),
        ((2, "T", 8), 13, True, "Gather Add Reshape Gemm Reshape"),
        ((2, 3, 8), 13, True, "Gather Add Reshape Gemm Reshape"),
        (("N", "T", 8), 15, False, "Transpose MatMul"),
        (("N", 8), 15, True, "Gather Add Transpose MatMul"),
    ],
)
@pytest.mark.parametrize("length", [0, 5])
def test_a_shared_table_is_not_transposed(shape: tuple, opset: int, shared: bool, nodes: str, length: int) -> None:
    """The product with a tied embedding reads it as the gather does, wherever the shape of the result can be said."""

    def build(b: Builder, x: Value) -> Value:
        numbers = np.random.default_rng(0).standard_normal((10, 8)).astype(np.float32)
        table = b.const(numbers, key="table", role="param")
        picked = b.add(x, b.gather(table, np.array([3]))) if shared else x
        return b.matmul(picked, b.transpose(table, perm=(1, 0)))

    module = _module(build, shape)
    proto = backend.to_model_proto(module, opset=opset)
    assert _nodes(proto) == nodes
    onnx.checker.check_model(proto, full_check=True)
    sizes = [{"N": 2, "T": length}.get(d, d) for d in shape]
    feeds = {"x": np.random.default_rng(1).standard_normal(sizes).astype(np.float32)}
    expected = run(module, feeds)
    for found in (ort.run(proto.SerializeToString(), feeds), run(frontend.read(proto), feeds)):
        assert compare(expected, found, limits_for(module, feeds)).passed
