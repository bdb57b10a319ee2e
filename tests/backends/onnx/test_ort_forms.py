"""onnxruntime's fused operators: what becomes one, what does not, and that kernels and onnxruntime agree on each."""

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
from anyir.ir.types import BF16, BOOL, F16, F32, I64, DType, TensorType
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.runtimes import onnxruntime as ort

RNG = np.random.default_rng(0)
N = sym("N")
IMAGE, ROWS, TOKENS = (N, 4, 6, 6), (N, 6), (N, 3, 8)


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


KERNEL, COLUMNS, VECTOR = weights(4, 4, 3, 3), weights(6, 5), weights(8)
SEEN = np.where(np.eye(3), 0, -10000).astype(np.float32)
ANGLES = weights(5, 2)


def conv(b: Builder, x: Value) -> Value:
    return b.conv(x, b.const(KERNEL), pads=(1, 1, 1, 1))


def gemm(b: Builder, x: Value) -> Value:
    return b.gemm(x, b.const(COLUMNS))


def rows_by_columns(b: Builder, x: Value, *, last: bool = True) -> Value:
    return b.matmul(x, b.transpose(x, perm=(0, 2, 1) if last else (2, 1, 0)))


def both(b: Builder, x: Value) -> tuple[Value, Value]:
    """A norm of a sum, and the sum."""
    total = b.add(b.sigmoid(x), x)
    return b.layer_norm(total, b.const(VECTOR), b.const(VECTOR), axis=-1), total


def attends(b: Builder, x: Value, mask: np.ndarray | None = None, **attrs: Any) -> Value:
    operands = (x, b.relu(x), b.neg(x), None if mask is None else b.const(mask))
    return b.call("attention", operands, {"q_num_heads": 2, "kv_num_heads": 2, **attrs}).results[0]


def cached(b: Builder, x: Value) -> tuple[Value, ...]:
    past = b.transpose(b.reshape(x, (0, 0, 2, 4)), perm=(0, 2, 1, 3))
    operands = (x, b.relu(x), b.neg(x), None, past, past)
    return b.call("attention", operands, {"q_num_heads": 2, "kv_num_heads": 2}).results[:3]


def shared_heads(b: Builder, x: Value) -> Value:
    k = b.slice(x, (0,), (16,), (2,))
    return b.call("attention", (x, k, k), {"q_num_heads": 4, "kv_num_heads": 2, "is_causal": True}).results[0]


def shared_heads_cached(b: Builder, x: Value) -> tuple[Value, ...]:
    """One token behind two that are kept."""
    k = b.slice(x, (0,), (16,), (2,))
    past = b.reshape(x, (0, 2, 2, 8))
    heads = {"q_num_heads": 4, "kv_num_heads": 2, "softcap": 2.0, "scale": 0.7}
    return b.call("attention", (x, k, k, None, past, past), heads).results[:3]


def positions(b: Builder, x: Value) -> Value:
    """0, 1, 2 for each sample, which inference cannot see."""
    none = b.cast(b.reduce_sum(x, (2,), keepdims=False), to=BOOL)
    return b.add(b.cast(b.and_(none, b.not_(none)), to=I64), (0, 1, 2))


def rotary(b: Builder, x: Value) -> Value:
    """The same angles for all samples."""
    each = b.concat(b.shape(x, start=0, end=1), (1, 1), axis=0)
    tables = [b.expand(b.const(f(ANGLES)[None, :3]), each) for f in (np.cos, np.sin)]
    return b.rotary_embedding(x, *tables, num_heads=2, interleaved=True)


def rotary_by(b: Builder, x: Value, places: Value) -> Value:
    tables = [b.const(f(ANGLES[:, :1])) for f in (np.cos, np.sin)]
    return b.rotary_embedding(x, *tables, places, num_heads=2, rotary_embedding_dim=2)


#: What is built on data of which shape, and the nodes that it becomes.
FUSED: dict[str, tuple[Any, tuple, str]] = {
    "conv, relu": (lambda b, x: b.relu(conv(b, x)), IMAGE, "FusedConv"),
    "conv, relu6": (lambda b, x: b.relu6(conv(b, x)), IMAGE, "FusedConv"),
    "conv, clip": (lambda b, x: b.clip(conv(b, x), np.float32(-0.5), np.float32(0.25)), IMAGE, "FusedConv"),
    "conv, leaky": (lambda b, x: b.leaky_relu(conv(b, x), alpha=0.2), IMAGE, "FusedConv"),
    "conv, hard sigmoid": (lambda b, x: b.hard_sigmoid(conv(b, x), alpha=0.25, beta=0.5), IMAGE, "FusedConv"),
    "conv, sum, relu": (lambda b, x: b.relu(b.add(conv(b, x), b.neg(x))), IMAGE, "Neg FusedConv"),
    "gemm, tanh": (lambda b, x: b.tanh(gemm(b, x)), ROWS, "FusedGemm"),
    "gemm, leaky": (lambda b, x: b.leaky_relu(gemm(b, x), alpha=0.2), ROWS, "FusedGemm"),
    "product of transpose": (rows_by_columns, TOKENS, "FusedMatMul"),
    "scaled product": (lambda b, x: b.mul(rows_by_columns(b, x), np.float32(0.25)), TOKENS, "FusedMatMul"),
    "silu": (lambda b, x: b.silu(x), TOKENS, "QuickGelu"),
    "swish": (lambda b, x: b.swish(x, alpha=1.702), TOKENS, "QuickGelu"),
    "gelu": (lambda b, x: b.gelu(x), TOKENS, "Gelu"),
    "bias, gelu": (lambda b, x: b.gelu(b.add(x, b.const(VECTOR))), TOKENS, "BiasGelu"),
    "sum, layer norm": (both, TOKENS, "Sigmoid SkipLayerNormalization"),
    "sum, rms norm": (
        lambda b, x: b.rms_norm(b.add(b.sigmoid(x), x), b.const(VECTOR), axis=-1), TOKENS,
        "Sigmoid SkipSimplifiedLayerNormalization",
    ),
    "attention": (attends, TOKENS, "Relu Neg MultiHeadAttention"),
    "attention, scaled": (lambda b, x: attends(b, x, scale=0.3), TOKENS, "Relu Neg MultiHeadAttention"),
    "attention, causal": (lambda b, x: attends(b, x, is_causal=True), TOKENS, "Relu Neg MultiHeadAttention"),
    "attention, masked": (lambda b, x: attends(b, x, SEEN), TOKENS, "Relu Neg MultiHeadAttention"),
    "attention, cached": (cached, TOKENS, "Reshape Transpose Relu Neg MultiHeadAttention"),
    "shared heads": (shared_heads, (N, 3, 32), "Slice Shape Expand GroupQueryAttention"),
    "shared heads, cached": (shared_heads_cached, (N, 1, 32), "Slice Reshape Shape Expand GroupQueryAttention"),
    "rotary": (rotary, TOKENS, "RotaryEmbedding"),
    "rotary, by positions": (
        lambda b, x: rotary_by(b, x, positions(b, x)), TOKENS, "ReduceSum Cast Not And Cast Add RotaryEmbedding",
    ),
    "gelu by tanh": (lambda b, x: b.gelu(x, approximate="tanh"), TOKENS, "FastGelu"),
    "bias, gelu by tanh": (
        lambda b, x: b.gelu(b.add(b.const(VECTOR), x), approximate="tanh"), TOKENS, "FastGelu",
    ),
    "sum with a bias, layer norm": (
        lambda b, x: b.layer_norm(b.add(x, b.add(b.sigmoid(x), b.const(VECTOR))), b.const(VECTOR), axis=-1), TOKENS,
        "Sigmoid SkipLayerNormalization",
    ),
}  # fmt: skip

#: What is nearly one of them, and stays.
KEPT: dict[str, tuple[Any, tuple, str]] = {
    "a conv that is used twice": (lambda b, x: b.add(b.relu(y := conv(b, x)), y), IMAGE, "Conv Relu Add"),
    "another activation": (lambda b, x: b.softplus(conv(b, x)), IMAGE, "Conv Softplus"),
    "a bound that is no constant": (
        lambda b, x: b.clip(conv(b, x), b.reduce_min(x, keepdims=False)), IMAGE, "Conv ReduceMin Clip",
    ),
    "an unbounded clip": (lambda b, x: b.clip(conv(b, x), np.float32(-1)), IMAGE, "Conv Clip"),
    "a sum that broadcasts": (lambda b, x: b.relu(b.add(conv(b, x), b.const(weights(1, 4, 1, 1)))), IMAGE, "Conv Add Relu"),
    "another transpose": (lambda b, x: b.matmul(x, b.transpose(x, perm=(1, 2, 0))), (3, 3, 3), "Transpose MatMul"),
    "a norm of a sum that broadcasts": (
        lambda b, x: b.layer_norm(b.add(x, b.const(VECTOR)), b.const(VECTOR), axis=-1), TOKENS, "Add LayerNormalization",
    ),
}  # fmt: skip


def module_of(build: Any, shape: tuple, dtype: DType = F32) -> Module:
    module = Module("net")
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(dtype, shape), "x")
    made = build(Builder(graph), x)
    graph.set_outputs(list(made) if isinstance(made, tuple) else [made])
    module.add_signature("serving_default", graph, ["x"], [f"y{i}" for i in range(len(graph.outputs))])
    return module


def nodes(module: Module, **options: Any) -> str:
    return " ".join(n.op_type for n in backend.to_model_proto(module, opset=17, **options).graph.node)


@pytest.mark.parametrize("case", FUSED)
def test_what_is_fused_computes_the_same(case: str) -> None:
    """On our kernels before and after it is written, in onnxruntime with and without its own optimisations."""
    build, shape, wanted = FUSED[case]
    module = module_of(build, shape)
    assert nodes(module, ort=True) == wanted
    legal = backend.legalize(module, opset=17, ort=True)
    data = backend.to_model_proto(module, opset=17, ort=True).SerializeToString()
    onnx.checker.check_model(onnx.load_from_string(data))
    for size in (2, 1):
        feeds = {"x": weights(*(size if d is N else d for d in shape))}
        truth = run(module, feeds)
        limits = limits_for(module, feeds, exact=truth)
        for made in (
            run(legal, feeds), run(frontend.read(data), feeds), ort.run(data, feeds), ort.run(data, feeds, optimise=False),
        ):  # fmt: skip
            report = compare(truth, made, limits)
            assert report.passed, str(report)


@pytest.mark.parametrize("case", KEPT)
def test_what_is_nearly_one_stays(case: str) -> None:
    build, shape, wanted = KEPT[case]
    assert nodes(module_of(build, shape), ort=True) == wanted


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("case", ["silu", "gelu", "sum, layer norm"])
def test_other_floats_have_no_kernels_there(case: str, dtype: DType) -> None:
    build, shape, _ = FUSED[case]
    module = module_of(lambda b, x: b.cast(_first(build(b, b.cast(x, to=F32))), to=dtype), shape, dtype)
    assert "com.microsoft" in str(backend.to_model_proto(module, ort=True))
    plain = module_of(lambda b, x: b.silu(x), shape, dtype)
    assert "com.microsoft" not in str(backend.to_model_proto(plain, ort=True))


@pytest.mark.parametrize("mask", [SEEN > 0, np.where(SEEN < 0, -np.inf, 0).astype(np.float32)])
def test_a_mask_may_hide_all_keys(mask: np.ndarray) -> None:
    """A query that sees no key gets 0 from attention, and no number from onnxruntime's operator."""
    proto = backend.to_model_proto(module_of(lambda b, x: attends(b, x, mask), TOKENS), opset=17, ort=True)
    assert "MultiHeadAttention" not in str(proto)


def _first(made: Any) -> Value:
    return made[0] if isinstance(made, tuple) else made


def test_nothing_of_it_is_written_unless_asked_for() -> None:
    for build, shape, _ in FUSED.values():
        proto = backend.to_model_proto(module_of(build, shape), opset=17)
        assert {entry.domain for entry in proto.opset_import} == {""}
