"""The algebra of quantize (Q) and dequantize (D): pairs meet, merge and go, so that what stands between them can be integer.

D moves down and Q moves up through ops that only move or choose elements; where they meet with the same parameters both
go. D(Q(x)) rounds and stays. What a chain of Q and D does is not argued but tried out on every integer that it can see (at
most 2^16). Rules marked exact keep every bit; "approx" ones change an integer by at most one step, where it is rounded
anyway. Data is held to be free of NaN.

Given:
    %q = quantize(%x, %s, %z)
    %d = dequantize(%q, %s, %z)
    %t = transpose(%d)
    %r = quantize(%t, %s, %z)
Result:
    %q = quantize(%x, %s, %z)
    %r = transpose(%q)
"""

from __future__ import annotations

import numpy as np

from ...ir.graph import Graph, Module, Node, Value
from ...ir.opdef import PURE
from ...ir.types import F32
from ...kernels.registry import get_kernel
from ..manager import Context, module_pass
from ..rewrite import RuleSet, StagingBuilder, rewrite_graph, rule
from .layers import accumulator_scale, bias_integers, bias_values, layer_of
from .qdq import (
    Encoding,
    Stuck,
    apply_dequantize,
    apply_quantize,
    clamp_of,
    dequantized,
    encoding_of,
    exact_float,
    follow,
    lone,
    made_by,
    quantized,
    reliable,
    same,
)

#: Ops that copy elements of their first operand: D sinks through them, Q rises where nothing more is quantised for it.
RISES = (
    "transpose", "reshape", "flatten", "squeeze", "unsqueeze", "expand", "tile", "identity", "reverse",
    "depth_to_space", "space_to_depth", "max_pool", "resize", "pad",
)  # fmt: skip
SINKS = (
    *RISES, "slice", "gather", "split", "gather_elements", "gather_nd", "compress",
)  # fmt: skip
#: What integers of less than a byte go through: targets slice and gather nothing smaller.
PACKED = ("transpose", "reshape", "flatten", "squeeze", "unsqueeze", "identity")


# ------------------------------------------------------------------------------------------------------ pairs that meet


@rule("quantize", benefit=9)
def drop_pair(b: StagingBuilder, node: Node):
    """quantize(dequantize(q)) -> q where every integer comes back as it was"""
    inner = made_by(node.operands[0], "dequantize")
    if inner is None or inner.operands[0].dtype is not node.result.dtype:
        return None
    into, out = encoding_of(inner), encoding_of(node)
    why = reliable(into) or reliable(out)
    if why is not None:
        return b.decline(why)
    if same(into, out) and exact_float(into, inner.attr("to")):
        return inner.operands[0]
    if not (into.single and out.single):
        return b.decline("parameters along an axis differ")
    numbers = into.numbers()
    back = apply_quantize(apply_dequantize(numbers, into, inner.attr("to")), out)
    return inner.operands[0] if np.array_equal(back, numbers) else b.decline("some integers change")


@rule("quantize", "dequantize", benefit=8)
def skip_middle(b: StagingBuilder, node: Node):
    """D_b(Q_b(D_a(q))) -> D_a(q), and under another Q: where the middle was tried out to change no integer"""
    top = node.operands[0].node if node.name == "quantize" else node  # type: ignore[union-attr]
    middle = made_by(top.operands[0], "quantize") if top is not None and top.name == "dequantize" else None
    inner = made_by(middle.operands[0], "dequantize") if middle is not None else None
    if inner is None or top.attr("to") is not inner.attr("to"):  # type: ignore[union-attr]
        return None
    codes = [encoding_of(n) for n in (inner, middle, top)]  # type: ignore[arg-type]
    last = encoding_of(node)
    why = next(filter(None, map(reliable, (*codes, last))), None)
    if why is not None or not all(p.single for p in (*codes, last)):
        return b.decline(why or "parameters along an axis")
    short = apply_dequantize(codes[0].numbers(), codes[0], inner.attr("to"))
    long = apply_dequantize(apply_quantize(short, codes[1]), codes[2], inner.attr("to"))
    if node.name == "quantize":
        short, long = apply_quantize(short, last), apply_quantize(long, last)
    if not np.array_equal(short, long):
        return b.decline("the middle rounds")
    return inner.result if node.name == "dequantize" else quantized(b, inner.result, last)


@rule("quantize", numerics="approx", benefit=7)
def merge_requantised(b: StagingBuilder, node: Node):
    """Q_r(D_p(Q_p(x))) -> Q_r(x) where p is the finer grid and saturates no earlier: one rounding in place of two"""
    inner = made_by(node.operands[0], "dequantize")
    first = made_by(inner.operands[0], "quantize") if inner is not None else None
    if first is None or inner.result.n_uses != 1 or first.result.n_uses != 1:  # type: ignore[union-attr]
        return None
    p, again, r = encoding_of(first), encoding_of(inner), encoding_of(node)  # type: ignore[arg-type]
    why = reliable(p) or reliable(r)
    if why is not None or not (p.single and r.single and same(p, again)):
        return b.decline(why or "parameters along an axis, or a pair of unlike ones")
    (low, high), (least, most) = p.real_range(), r.real_range()
    if p.scales().item() > r.scales().item() or low > least or high < most:
        return b.decline("the first pair rounds more coarsely, or saturates")
    return quantized(b, first.operands[0], r)  # type: ignore[arg-type]


@rule("quantize", "dequantize", benefit=6)
def share_equal(b: StagingBuilder, node: Node):
    """Two Q or two D of one value with the same parameters -> one"""
    own = encoding_of(node)
    for other in node.operands[0].users:  # type: ignore[union-attr]
        if other is node:
            return None
        alike = other.name == node.name and other.attrs == node.attrs and other.graph is node.graph
        if alike and other.before(node) and same(own, encoding_of(other)):
            return other.result
    return None


@rule("quantize", benefit=9)
def quantize_constant(b: StagingBuilder, node: Node):
    """quantize(constant) -> the integers"""
    x, p = node.operands[0], encoding_of(node)
    if not x.is_const or not p.constant or not p.stored.is_int:  # type: ignore[union-attr]
        return None
    made = get_kernel("quantize")(*(None if v is None else v.array() for v in node.operands), **node.attrs.plain)
    weight = x.weight  # type: ignore[union-attr]
    if weight.role == "const":  # type: ignore[union-attr]
        return b.const(made)
    return b.const(made, key=weight.wanted, role=weight.role, origin=f"quantize({weight.key})")  # type: ignore[union-attr]


# ---------------------------------------------------------------------------------------------- D sinks through movement


def more_than_choosing(node: Node) -> str | None:
    """Why a node does more than copy elements or choose among them; None when it does not."""
    if node.name == "resize":
        plain = node.attr("mode") == "nearest" and not node.attr("antialias")
        outside = node.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
        return None if plain and not outside else "it interpolates"
    if node.name == "max_pool":
        kernel, pads = node.attr("kernel_shape"), node.attr("pads")
        dilated = any(d != 1 for d in node.attr("dilations"))
        covered = all(p < k for p, k in zip(pads, kernel * 2, strict=True)) if pads else True
        padded = any(pads) or node.attr("auto_pad") != "explicit"
        if padded and (dilated or not covered):
            return "a window may lie in the padding altogether"
    return None


def _stuck(node: Node, p: Encoding) -> str | None:
    """Why integers encoded as `p` do not go through `node`."""
    if not p.short:
        return f"{p.stored or 'an unknown type'} is no short integer"
    if p.stored.is_packed and node.name not in PACKED:
        return f"no target moves {p.stored} by {node.name}"
    if node.name == "max_pool" and reliable(p) is not None:
        return reliable(p)
    return more_than_choosing(node)


@rule(*SINKS, benefit=3)
def sink_dequantize(b: StagingBuilder, node: Node):
    """move(dequantize(q)) -> dequantize(move(q)), the parameters moved along"""
    inner = made_by(node.operands[0], "dequantize")
    if inner is None:
        return None
    p, q = encoding_of(inner), inner.operands[0]
    why = _stuck(node, p)
    if why is not None:
        return b.decline(why)
    operands = [q, *node.operands[1:]]
    if node.name == "pad" and node.attr("mode") == "constant":
        filler = _filler(b, node, p, inner)
        if filler is None:
            return b.decline("the padding is no number that the integers stand for")
        operands = [*operands, *[None] * (3 - len(operands))]
        operands[2] = filler
    moved_by = _rows(b, node, p) if node.name == "gather" else None
    carried = moved_by or follow(b, node, p)
    if isinstance(carried, Stuck):
        return b.decline(carried.reason)
    made = b.call(node.name, operands, dict(node.attrs)).results
    values = tuple(dequantized(b, v, carried, inner.attr("to")) for v in made)
    return values if len(values) > 1 else values[0]


def _rows(b: StagingBuilder, node: Node, p: Encoding) -> Encoding | None:
    """Scales along the axis that is gathered are gathered too: an embedding with a scale for each row."""
    axis, indices = node.attr("axis") % (node.operands[0].rank or 1), node.operands[1]  # type: ignore[union-attr]
    wide = [v for v in (p.scale, p.zero) if v is not None and v.rank and v.shape[axis] != 1]  # type: ignore[index]
    data = node.operands[0].shape  # type: ignore[union-attr]
    if not wide or data is None or any(v.shape[axis] != data[axis] for v in wide):  # type: ignore[index]
        return None
    if any(v is not None and v.rank and v not in wide for v in (p.scale, p.zero)):
        return None
    scale, zero = (v if v is None or not v.rank else b.gather(v, indices, axis=axis) for v in (p.scale, p.zero))
    return Encoding(scale, zero, p.stored, p.block)


def _filler(b: StagingBuilder, node: Node, p: Encoding, inner: Node | None) -> Value | None:
    """The integer that stands for the padding of a constant pad; None where there is none. Below Q (`inner` None) any
    number is rounded; below D it must be met."""
    value = node.operand("value")
    real = 0.0 if value is None else value.scalar()
    if real is None or not p.single or reliable(p) is not None:
        return None
    wanted = np.asarray(real, node.result.dtype.numpy)  # type: ignore[union-attr]
    number = apply_quantize(wanted, p)
    if inner is not None and apply_dequantize(number, p, inner.attr("to")) != wanted:
        return None
    return b.const(np.asarray(number, p.stored.numpy))


@rule("concat", "where", "max", "min", benefit=3)
def sink_together(b: StagingBuilder, node: Node):
    """concat, where, max and min of dequantised values with the same parameters -> dequantize of the integers"""
    first = 1 if node.name == "where" else 0
    inner = [made_by(v, "dequantize") for v in node.operands[first:]]
    if None in inner or not inner:
        return None
    codes = [encoding_of(n) for n in inner]  # type: ignore[arg-type]
    p = codes[0]
    if any(not same(p, other) for other in codes[1:]) or len({n.attr("to") for n in inner}) > 1:  # type: ignore[union-attr]
        return b.decline("the parameters differ")
    why = _stuck(node, p) or (reliable(p) if node.name in ("max", "min") else None)
    if why is not None:
        return b.decline(why)
    carried = follow(b, node, p)
    if isinstance(carried, Stuck):
        return b.decline(carried.reason)
    operands = [*node.operands[:first], *(n.operands[0] for n in inner)]  # type: ignore[union-attr]
    made = b.call(node.name, operands, dict(node.attrs)).result
    return dequantized(b, made, carried, inner[0].attr("to"))  # type: ignore[union-attr]


# ----------------------------------------------------------------------------------------------- Q rises through movement


@rule("quantize", benefit=4)
def raise_quantize(b: StagingBuilder, node: Node):
    """quantize(move(x)) -> move(quantize(x))"""
    move = node.operands[0].node  # type: ignore[union-attr]
    if move is None or move.name not in RISES or move.result.n_uses != 1:
        return None
    p = encoding_of(node)
    why = _stuck(move, p) or reliable(p)
    if why is not None or not p.single:
        return b.decline(why or "parameters along an axis")
    p = lone(b, p)
    operands = [quantized(b, move.operands[0], p), *move.operands[1:]]  # type: ignore[arg-type]
    if move.name == "pad" and move.attr("mode") == "constant":
        filler = _filler(b, move, p, None)
        if filler is None:
            return b.decline("the padding is computed")
        operands = [*operands, *[None] * (3 - len(operands))]
        operands[2] = filler
    return b.call(move.name, operands, dict(move.attrs)).result


@rule("quantize", benefit=4)
def raise_together(b: StagingBuilder, node: Node):
    """quantize of a concat or where -> the same of quantised values"""
    move = node.operands[0].node  # type: ignore[union-attr]
    if move is None or move.name not in ("concat", "where") or move.result.n_uses != 1:
        return None
    p = encoding_of(node)
    why = _stuck(move, p) or reliable(p)
    if why is not None or not p.single:
        return b.decline(why or "parameters along an axis")
    p, first = lone(b, p), 1 if move.name == "where" else 0
    operands = [*move.operands[:first], *(quantized(b, v, p) for v in move.operands[first:])]  # type: ignore[arg-type]
    return b.call(move.name, operands, dict(move.attrs)).result


# --------------------------------------------------------------------------------------------------------------- clamps


@rule("quantize", benefit=5)
def absorb_clamp(b: StagingBuilder, node: Node):
    """quantize(clamp(x)) -> quantize(x) where the integers end where the clamp does"""
    clamp = clamp_of(node.operands[0].node)  # type: ignore[union-attr]
    if clamp is None or node.operands[0].n_uses != 1:  # type: ignore[union-attr]
        return None
    p = encoding_of(node)
    why = reliable(p)
    if why is not None or not p.single:
        return b.decline(why or "parameters along an axis")
    ends = apply_quantize(np.asarray([clamp.low, clamp.high], node.operands[0].dtype.numpy), p)  # type: ignore[union-attr]
    if tuple(int(e) for e in ends) == p.limits:
        return quantized(b, clamp.x, p)
    inner = made_by(clamp.x, "dequantize")
    if inner is None or not same(p, encoding_of(inner)) or not exact_float(p, inner.attr("to")) or p.stored.bits != 8:
        return b.decline(f"the clamp ends at {ends[0]} and {ends[1]}, not at {p.limits}")
    return b.clip(inner.operands[0], b.const(ends[0]), b.const(ends[1]))


@rule("relu", "relu6", "clip", benefit=5)
def drop_clamp(b: StagingBuilder, node: Node):
    """clamp(dequantize(q)) -> dequantize(q) where no integer stands for a number beyond"""
    inner, clamp = made_by(node.operands[0], "dequantize"), clamp_of(node)
    if inner is None or clamp is None:
        return None
    p = encoding_of(inner)
    why = reliable(p)
    if why is not None or not p.single:
        return b.decline(why or "parameters along an axis")
    ends = apply_dequantize(np.asarray(p.limits).astype(p.stored.numpy), p, inner.attr("to")).astype(np.float64)
    return inner.result if clamp.low <= ends[0] and ends[1] <= clamp.high else b.decline("some numbers are clamped")


# -------------------------------------------------------------------------------------------------- scales and biases


@rule("mul", "div", numerics="ulp", benefit=5)
def scale_weights(b: StagingBuilder, node: Node):
    """mul(dequantize(weights, s), c) -> dequantize(weights, s c) for positive c"""
    inner, factor = made_by(node.operands[0], "dequantize"), node.operands[1]
    if inner is None or factor is None or not factor.is_const or not inner.operands[0].is_const:  # type: ignore[union-attr]
        return None
    p, shape = encoding_of(inner), inner.result.shape
    if reliable(p) is not None or p.block or inner.result.type is not node.result.type or shape is None:
        return b.decline(reliable(p) or "blocks, or the factor makes the weights larger")
    by = factor.array().astype(np.float64)
    by = by.reshape(()) if by.size == 1 else by.reshape((1,) * (len(shape) - by.ndim) + by.shape)
    scales = p.scales() * by if node.name == "mul" else p.scales() / by
    if sum(d != 1 for d in scales.shape) > max(1, sum(d != 1 for d in p.scales().shape)):
        return b.decline("the factor varies along another axis than the scales")
    made = Encoding(b.const(scales.astype(p.scale.dtype.numpy)), p.zero, p.stored)  # type: ignore[union-attr]
    why = reliable(made)
    return b.decline(why) if why is not None else dequantized(b, inner.operands[0], made, inner.attr("to"))  # type: ignore[arg-type]


@rule("conv", "gemm", numerics="approx", benefit=2)
def settle_bias(b: StagingBuilder, node: Node):
    """A constant bias of a layer of integers -> dequantize of i32 at the product of the scales of data and weights"""
    layer = layer_of(node)
    bias = node.operands[2] if len(node.operands) > 2 else None
    if layer is None or bias is None:
        return None
    scale = accumulator_scale(layer)
    if scale is None or reliable(layer.data) is not None or reliable(layer.weights) is not None:
        return b.decline("the scales of data and weights are not constants per tensor and channel")
    if node.name == "gemm" and not node.attr("alpha") == node.attr("beta") == 1.0:
        return b.decline("alpha and beta must be 1")
    values = bias_values(bias)
    if values is None or values.ndim != 1 or scale.size not in (1, values.size):
        return b.decline("the bias is no constant vector")
    if _settled(bias, scale):
        return None
    integers = bias_integers(values, scale)
    if integers is None:
        return b.decline("the bias is too large for 32 bits")
    weight = bias.weight if bias.is_const else bias.node.operands[0].weight  # type: ignore[union-attr]
    stored = b.const(integers, key=weight.wanted, role=weight.role, origin=f"quantize({weight.key})")  # type: ignore[union-attr]
    made = b.dequantize(stored, b.const(scale), None, to=F32)
    return b.call(node.name, (*node.operands[:2], made), dict(node.attrs)).result


def _settled(bias: Value, scale: np.ndarray) -> bool:
    """The bias is what the rule makes."""
    node = made_by(bias, "dequantize")
    if node is None or node.operands[0].dtype.name != "i32" or encoding_of(node).zeros().any():  # type: ignore[union-attr]
        return False
    own = node.operands[1].array()  # type: ignore[union-attr]
    return own.size in (1, scale.size) and bool(np.all(own.reshape(-1) == scale.reshape(-1)))


RULES = (
    drop_pair, skip_middle, merge_requantised, share_equal, quantize_constant, sink_dequantize, sink_together,
    raise_quantize, raise_together, absorb_clamp, drop_clamp, scale_weights, settle_bias,
)  # fmt: skip


@module_pass("fold-quantize", numerics="approx", rules=RULES)
def fold_quantize(module: Module, ctx: Context, *, exact: bool = False) -> None:
    """Quantize and dequantize moved, merged and folded until what lies between them can be computed in integers.

    `exact` leaves out the rules that may change an integer by one step, and those that round a scale anew.
    """
    rules = RuleSet(r for r in RULES if r.numerics == "exact" or not exact)
    settle(module, rules, ctx)


def settle(module: Module, rules: RuleSet, ctx: Context) -> None:
    """Rules to a fixpoint in every graph. What a rule leaves unused goes before the next round: rules ask for lone users."""
    for graph in reversed(list(module.all_graphs())):
        while rewrite_graph(graph, rules, ctx):
            drop_unused(graph)
    module.drop_unused_weights()


def drop_unused(graph: Graph) -> None:
    for node in graph.reversed():
        if node.has(PURE) and not node.regions and not any(value.n_uses for value in node.results):
            node.erase()
