"""Layers as the fused operators of onnxruntime (`ort_ops.py`): fewer nodes, and what it would fuse while loading is fused in
the file. Such files run in onnxruntime only, on its CPU provider. f32 alone: other types have no kernels there."""

from __future__ import annotations

import numpy as np

from ...ir.graph import Module, Node, Value
from ...ir.types import F32
from ...passes.manager import Context, run_pipeline
from ...passes.rewrite import RuleSet, StagingBuilder, rewrite_graph, rule
from .ort_attention import ATTENTION, OPERATORS
from .ort_ops import ACTIVATIONS

_NAMES = {ours: theirs for theirs, (ours, _) in ACTIVATIONS.items()}


def rewrite(module: Module) -> bool:
    """Fuse in all graphs, in place. False when attention is left that has no operator there."""
    for rules in (_FIRST, _THEN):
        for graph in reversed(list(module.all_graphs())):
            rewrite_graph(graph, RuleSet(rules), Context())
            for node in graph.reversed():
                if node.name in _EATEN and not any(value.n_uses for value in node.results):
                    node.erase()
    if next(module.all_nodes(*OPERATORS), None) is not None:
        run_pipeline(
            module, "canonicalize,fold,cse,dce"
        )  # each counted the tokens, and turned masks and angles, for itself
    module.drop_unused_weights()
    return next(module.all_nodes("attention"), None) is None


#: What the rules leave unused.
_EATEN = frozenset({"conv", "gemm", "matmul", "add", "mul", "transpose", "sigmoid"})


def _lone(value: Value | None, *names: str) -> Node | None:
    """The node that made the value, one of these and nobody else's source."""
    node = value.node if value is not None else None
    return node if node is not None and node.name in names and value.n_uses == 1 and value.dtype is F32 else None  # type: ignore[union-attr]


def _activation(node: Node) -> dict | None:
    """The name and parameters of an activation, None where they are not known."""
    if node.name == "relu6":
        return {"activation": "Clip", "activation_params": (0.0, 6.0)}
    if node.name == "clip":
        bounds = [_number(v) for v in (*node.operands[1:], None, None)[:2]]
        if None in bounds:
            return None
        return {"activation": "Clip", "activation_params": tuple(bounds)}
    theirs = _NAMES[node.name]
    return {"activation": theirs, "activation_params": tuple(node.attr(key) for key in ACTIVATIONS[theirs][1])}


def _number(value: Value | None) -> float | None:
    """A single finite number that is known."""
    if value is None or not value.is_const or value.array().size != 1:
        return None
    number = float(value.array().reshape(()))
    return number if np.isfinite(number) else None


@rule("relu", "relu6", "sigmoid", "tanh", "leaky_relu", "hard_sigmoid", "clip", numerics="exact")
def fuse_conv_activation(b: StagingBuilder, node: Node):
    """activation(conv(x, w, b) [+ z]) -> FusedConv"""
    total, rest = _lone(node.operands[0], "conv", "add", "gemm"), None
    if total is None:
        return None
    if total.name == "add":
        found = _sum_of_conv(total)
        if found is None or node.name != "relu":  # its sum is fused before Relu alone
            return None
        total, rest = found
    kind = _activation(node)
    if kind is None:
        return b.decline("the bounds are not finite constants")
    operands = (*total.operands, None, None)[:3]
    if total.name == "gemm":
        if kind["activation"] not in ("Relu", "Sigmoid", "Tanh", "LeakyRelu"):
            return b.decline("FusedGemm has no such activation")
        return b.call("ort.fused_gemm", operands, {**total.attrs, **kind}).result
    if total.attr("channels_last") or total.operands[0].rank not in (3, 4):
        return b.decline("the conv is not one that FusedConv takes")
    window = {key: value for key, value in total.attrs.items() if key != "channels_last"}
    return b.call("ort.fused_conv", (*operands, rest), {**window, **kind}).result


def _sum_of_conv(total: Node) -> tuple[Node, Value] | None:
    """A sum of a conv that nobody else uses and a value of its shape."""
    for conv, rest in (total.operands, total.operands[::-1]):
        made = _lone(conv, "conv")
        if made is not None and rest.type is conv.type and conv.rank == 4 and rest.node is not None:  # type: ignore[union-attr]
            return made, rest  # type: ignore[return-value]
    return None


def _swaps_last(node: Node | None) -> bool:
    """A transpose of the last two axes."""
    if node is None:
        return False
    rank = len(node.attr("perm"))
    return rank >= 2 and tuple(node.attr("perm")) == (*range(rank - 2), rank - 1, rank - 2)


@rule("matmul", numerics="exact")
def fuse_matmul_transposes(b: StagingBuilder, node: Node):
    """matmul(transpose(a), transpose(b)), the last two axes swapped -> FusedMatMul"""
    if node.result.dtype is not F32 or any(v.rank is None or v.rank < 2 for v in node.operands):  # type: ignore[operator, union-attr]
        return None
    turned = [_lone(v, "transpose") for v in node.operands]
    turned = [made if _swaps_last(made) else None for made in turned]
    if turned == [None, None]:
        return None
    operands = [v if made is None else made.operands[0] for v, made in zip(node.operands, turned, strict=True)]
    return b.call(
        "ort.fused_matmul", operands, {"transA": turned[0] is not None, "transB": turned[1] is not None}
    ).result


@rule("mul", numerics="ulp")
def fuse_matmul_scale(b: StagingBuilder, node: Node):
    """mul(matmul(a, b), number) -> FusedMatMul"""
    x, factor = node.operands
    number, product = _number(factor), _lone(x, "matmul", "ort.fused_matmul")
    if number is None or product is None or factor.rank or any(v.rank is None or v.rank < 2 for v in product.operands):  # type: ignore[operator, union-attr]
        return None
    alpha = number * product.attrs.get("alpha", 1.0)
    return b.call("ort.fused_matmul", product.operands, {**product.attrs, "alpha": float(np.float32(alpha))}).result


@rule("silu", "swish", numerics="ulp")
def fuse_quick_gelu(b: StagingBuilder, node: Node):
    """x sigmoid(alpha x) -> QuickGelu"""
    if node.result.dtype is not F32:
        return None
    return b.call("ort.quick_gelu", node.operands, {"alpha": node.attrs.get("alpha", 1.0)}).result


@rule("gelu", numerics="ulp")
def fuse_gelu(b: StagingBuilder, node: Node):
    """gelu(x + bias) -> BiasGelu, gelu(x) -> Gelu; by tanh FastGelu"""
    (x,) = node.operands
    if x.dtype is not F32:  # type: ignore[union-attr]
        return b.decline("not f32")
    operands = _with_bias(x) or (x,)
    if node.attr("approximate") == "tanh":
        return b.call("ort.fast_gelu", operands).result
    return b.call("ort.bias_gelu" if len(operands) > 1 else "ort.gelu", operands).result


def _with_bias(value: Value | None) -> tuple[Value, Value] | None:
    """(x, bias) of x + bias, a constant vector along the last axis, that is used here alone."""
    total = _lone(value, "add")
    for x, bias in () if total is None else (total.operands, total.operands[::-1]):
        if bias.is_const and bias.rank == 1 and x.type is total.result.type and x.shape[-1] == bias.shape[0]:  # type: ignore[index, union-attr]
            return x, bias  # type: ignore[return-value]
    return None


def _biased(left: Value, right: Value, affine: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    """Operands of a norm of a sum, with the bias that one side of it may add."""
    for x, skip in ((left, right), (right, left)):
        found = _with_bias(x)
        if found is not None:
            return found[0], skip, *affine, found[1]
    return left, right, *affine


@rule("layer_norm", "rms_norm", numerics="ulp")
def fuse_skip_norm(b: StagingBuilder, node: Node):
    """a norm over the last axis of x + skip -> SkipLayerNormalization, SkipSimplifiedLayerNormalization"""
    x, scale = (*node.operands, None)[:2]
    total = x.node if x is not None else None
    if total is None or total.name != "add" or total.graph is not node.graph or scale is None or x.dtype is not F32:  # type: ignore[union-attr]
        return None
    left, right = total.operands
    rank = x.rank  # type: ignore[union-attr]
    if rank != 3 or node.attr("axis") % rank != rank - 1 or left.type is not right.type or left.type is not x.type:  # type: ignore[union-attr]
        return b.decline("not a sum of two values of one shape, normalised along the last of three axes")
    if type(x.shape[-1]) is not int or any(v is not None and v.shape != x.shape[-1:] for v in node.operands[1:]):  # type: ignore[index, union-attr]
        return b.decline("the scale is no vector along the last axis")
    operands = (left, right, *node.operands[1:])
    if node.name == "layer_norm":
        operands = _biased(left, right, (*node.operands, None)[1:3])
    made = b.call(f"ort.skip_{node.name}", operands, {"epsilon": node.attr("epsilon")})
    return b.instead({node.result: made.results[0], x: made.results[1]}, (node, total))  # type: ignore[dict-item]


_FIRST = (fuse_conv_activation, fuse_matmul_transposes, fuse_quick_gelu, fuse_gelu, fuse_skip_norm, *ATTENTION)
_THEN = (fuse_matmul_scale,)
