"""From quantize and dequantize around float ops to integer arithmetic: `integer-ops`.

Products of 8-bit integers add up in i32 without rounding, a bias in the accumulator's own unit is added, and one requantize
rounds the sum; where no quantize follows, one multiplication turns it into floats. Exact but for ties: a result may be
the neighbour where the float ops rounded onto a half, or off it. Elementwise ops follow in integer_elementwise.py.

Given (%dx, %dw and %db dequantised, the last one in units of s_x s_w):
    %y = conv(%dx, %dw, %db)
    %q = quantize(%y, %s, %z)
Result (form=plain):
    %t = add(conv_integer(%x, %w, %zx), %b)
    %q = requantize(%t, s_x s_w / s, %z)
Result (form=qlinear):
    %q = qlinear_conv(%x, %sx, %zx, %w, %sw, %zw, %s, %z, %b)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...ir.errors import UsageError
from ...ir.graph import Module, Node, Value
from ...ir.types import F32, I8, U8
from ..manager import Context, module_pass
from ..rewrite import Rule, RuleSet, StagingBuilder, rule
from .fold import settle
from .layers import BIAS_LIMIT, Layer, accumulator_scale, along_channels, bias_integers, bias_values, layer_of
from .qdq import Encoding, apply_quantize, clamp_of, encoding_of, reliable

ROUNDINGS = ("half_even", "fixed_point")
FORMS = ("plain", "qlinear")
#: What the products of an i32 accumulator may add up to, whatever the bias.
MOST = 2**31 - 1 - BIAS_LIMIT


class Closed(NamedTuple):
    """A layer of integers from data to the quantize node that ends it; `low` and `high` are a clamp's integers."""

    layer: Layer
    out: Encoding
    bias: Value | None
    factor: float = 1.0
    low: Any = None
    high: Any = None


def closed(node: Node) -> Closed | str | None:
    """What `node` (quantize) ends: a layer, perhaps a bias added to a matmul, perhaps a clamp. A reason where it nearly does."""
    out, x = encoding_of(node), node.operands[0]
    limits: tuple[Any, Any] = (None, None)
    clamp = clamp_of(x.node)  # type: ignore[union-attr]
    if clamp is not None and x.n_uses == 1 and reliable(out) is None and out.single:  # type: ignore[union-attr]
        limits = tuple(apply_quantize(np.asarray([clamp.low, clamp.high], np.float32), out))  # type: ignore[assignment]
        x = clamp.x
    made, bias = x.node, None  # type: ignore[union-attr]
    if made is not None and made.name == "add" and x.n_uses == 1:  # type: ignore[union-attr]
        made, bias = _added_bias(made)
    layer = layer_of(made)
    if layer is None:
        return None
    if layer.node.result.n_uses != 1 or x.n_uses != 1:  # type: ignore[union-attr]
        return "the float result is used elsewhere too"
    return _checked(layer, out, bias, limits)


def _checked(layer: Layer, out: Encoding, bias: Value | None, limits: tuple[Any, Any]) -> Closed | str | None:
    why = reliable(out) or unfit(layer)
    if why is not None:
        return why
    if not out.single or out.stored not in (I8, U8) or accumulator_scale(layer) is None:
        return "the result is not quantised to 8 bits per tensor, or a scale is computed"
    factor, own = _gemm_parts(layer.node)
    if own is not None and bias is not None:
        return "two biases"
    low, high = limits
    if low is not None and (int(low), int(high)) == out.limits:
        low = high = None
    return Closed(layer, out, bias if own is None else own, factor, low, high)


def _added_bias(node: Node) -> tuple[Node | None, Value | None]:
    """A matmul and the constant vector over its columns that `node` (add) puts on it."""
    first, second = node.operands[:2]
    for x, other in ((first, second), (second, first)):
        made = x.node  # type: ignore[union-attr]
        if made is None or made.name != "matmul" or x.n_uses != 1 or node.result.type is not x.type:  # type: ignore[union-attr]
            continue
        values = bias_values(other)  # type: ignore[arg-type]
        if values is not None and values.size in (1, values.shape[-1] if values.ndim else 1):
            return made, other
    return None, None


def _gemm_parts(node: Node) -> tuple[float, Value | None]:
    """The factor on the product and the bias operand of a layer."""
    bias = node.operands[2] if len(node.operands) > 2 else None
    return (node.attr("alpha"), bias) if node.name == "gemm" else (1.0, bias)


def unfit(layer: Layer) -> str | None:
    """Why the product of a layer is not one of 8-bit integers in i32; None when it is."""
    data, weights, node = layer.data, layer.weights, layer.node
    if data.stored not in (I8, U8) or weights.stored not in (I8, U8):
        return f"products of {data.stored} and {weights.stored}"
    if not data.single or weights.block or (layer.w.result.rank or 0) < 2:
        return "data must have one scale, weights no blocks, and channels"
    for value in (weights.scale, weights.zero):
        if value is not None and not _one(value) and along_channels(layer, value) is None:
            return "the weights' scales or zero points lie along another axis than the output channels"
    if node.name == "gemm" and node.attr("beta") != 1.0 and len(node.operands) > 2:
        return "beta must be 1"
    return None if _fits(layer) else "the sum may overflow 32 bits"


def _one(value: Value) -> bool:
    return value.type.numel == 1  # type: ignore[attr-defined]


def _fits(layer: Layer) -> bool:
    """No sum of products and a bias can leave i32."""
    data, weights, w = layer.data, layer.weights, layer.w.operands[0]
    low, high = data.limits
    zero = data.zeros().reshape(-1) if data.zero is None or data.zero.is_const else np.asarray([low, high])
    reach = int(max(high - zero.min(), zero.max() - low))
    if w.is_const and (weights.zero is None or weights.zero.is_const):  # type: ignore[union-attr]
        offset = np.abs(w.array().astype(np.int64) - weights.zeros())  # type: ignore[union-attr]
        rows = offset.reshape(offset.shape[0], -1).sum(axis=1) if layer.node.name == "conv" else _columns(layer, offset)
        return int(rows.max(initial=0)) * reach < MOST
    depth = w.shape[-2 if w.rank > 1 else 0] if w.shape else None  # type: ignore[union-attr, index, operator]
    return layer.node.name == "matmul" and type(depth) is int and depth * reach * 255 < MOST


def _columns(layer: Layer, offset: np.ndarray) -> np.ndarray:
    turned = layer.node.name == "gemm" and layer.node.attr("transB")
    return offset.sum(axis=-1 if turned or offset.ndim == 1 else -2)


# ------------------------------------------------------------------------------------------------------------- products


def product(b: StagingBuilder, layer: Layer) -> Value:
    """The i32 sums of a layer, zero points taken off."""
    node, x, w = layer.node, layer.x.operands[0], layer.w.operands[0]
    data_zero, weight_zero = _scalar_zero(b, layer.data), _weight_zero(b, layer)
    if node.name == "conv":
        return b.conv_integer(x, w, data_zero, weight_zero, **dict(node.attrs))
    if node.name == "gemm":
        x = b.transpose(x, perm=(1, 0)) if node.attr("transA") else x
        w = turned(b, w) if node.attr("transB") else w  # type: ignore[arg-type]
    return b.matmul_integer(x, w, data_zero, weight_zero)


def turned(b: StagingBuilder, w: Value) -> Value:
    """The transpose of a matrix: of a constant, at once."""
    if not w.is_const:
        return b.transpose(w, perm=(1, 0))
    array, weight = np.ascontiguousarray(w.array().T), w.weight
    return b.const(array, key=weight.wanted, role=weight.role, origin=f"transpose({weight.key})")  # type: ignore[union-attr]


def _scalar_zero(b: StagingBuilder, p: Encoding) -> Value | None:
    if p.zero is None or (p.zero.is_const and not p.zero.array().any()):
        return None
    if p.zero.rank == 0:
        return p.zero
    return b.const(p.zero.array().reshape(())) if p.zero.is_const else b.reshape(p.zero, ())


def _weight_zero(b: StagingBuilder, layer: Layer) -> Value | None:
    zero = layer.weights.zero
    if zero is None or _one(zero):
        return _scalar_zero(b, layer.weights)
    vector = along_channels(layer, zero)
    return b.const(vector) if vector is not None and vector.any() else None


def shaped(b: StagingBuilder, layer: Layer, vector: np.ndarray) -> Value:
    """A number for each output channel as a constant that broadcasts against the result."""
    if vector.size == 1:
        return b.const(vector.reshape(()))
    node = layer.node
    rank = node.result.rank or 2
    last = node.name != "conv" or node.attr("channels_last")
    shape = tuple(-1 if axis == (rank - 1 if last else 1) else 1 for axis in range(rank))
    return b.const(vector.reshape(shape))


def ratio_of(c: Closed, wide: bool = False) -> np.ndarray:
    """alpha s_x s_w / s_y: rank 0 or a vector; in float32 step by step as onnxruntime, or `wide` in float64."""
    to = np.float64 if wide else np.float32
    data, made = (np.asarray(p.scale.scalar(), to) for p in (c.layer.data, c.out))
    weights = np.asarray(along_channels(c.layer, c.layer.weights.scale), to)
    scaled = np.multiply(np.asarray(c.factor, to), data, dtype=to)
    return np.asarray(np.divide(np.multiply(scaled, weights, dtype=to), made, dtype=to))


def bias_of(b: StagingBuilder, c: Closed) -> np.ndarray | str | None:
    """The bias in whole units of the accumulator, i32: rank 0 or a vector; None without one, else why there is none."""
    if c.bias is None:
        return None
    values = bias_values(c.bias)
    scale = accumulator_scale(c.layer)
    if values is None or scale is None:
        return "the bias is computed"
    vector = values.reshape(-1)
    if values.size not in (1, values.shape[-1] if values.ndim else 1):
        return "the bias is no vector over the output channels"
    integers = bias_integers(vector, np.float32(c.factor) * scale)
    return integers if integers is not None else "the bias is too large for 32 bits"


def zero_of(b: StagingBuilder, p: Encoding) -> Value:
    return b.const(np.asarray(p.zeros().item(), p.stored.numpy))


def clamped(b: StagingBuilder, y: Value, c: Closed) -> Value:
    return y if c.low is None else b.clip(y, b.const(c.low), b.const(c.high))


# ---------------------------------------------------------------------------------------------------------------- rules


def _plain(rounding: str) -> Rule:
    @rule("quantize", numerics="approx", benefit=5)
    def integer_layer(b: StagingBuilder, node: Node):
        """quantize(layer(D(x), D(w)) + bias) -> requantize(integer product + i32 bias)"""
        c = closed(node)
        if not isinstance(c, Closed):
            return b.decline(c) if c else None
        bias = bias_of(b, c)
        if isinstance(bias, str):
            return b.decline(bias)
        total = product(b, c.layer)
        if bias is not None:
            total = b.add(total, shaped(b, c.layer, bias))
        ratio = shaped(b, c.layer, ratio_of(c, wide=rounding == "fixed_point"))
        y = b.requantize(total, ratio, zero_of(b, c.out), to=c.out.stored, rounding=rounding)
        return clamped(b, y, c)

    return integer_layer


@rule("quantize", numerics="approx", benefit=5)
def qlinear_layer(b: StagingBuilder, node: Node):
    """quantize(conv(D(x), D(w), bias)) -> qlinear_conv, quantize(matmul(D(a), D(b))) -> qlinear_matmul"""
    c = closed(node)
    if not isinstance(c, Closed):
        return b.decline(c) if c else None
    bias = bias_of(b, c)
    if isinstance(bias, str):
        return b.decline(bias)
    layer = c.layer
    if layer.node.name == "conv":
        if layer.node.attr("channels_last"):
            return b.decline("qlinear_conv has channels first")
        vector = None if bias is None else b.const(_per_channel(layer, bias))
        attrs = {k: v for k, v in layer.node.attrs.items() if k != "channels_last"}
        operands = (*factors(b, layer), b.const(out_scale(c)), zero_of(b, c.out), vector)
        return clamped(b, b.call("qlinear_conv", operands, attrs).result, c)
    if layer.node.name != "matmul" or bias is not None:
        return b.decline("qlinear_matmul takes no bias, no factor and nothing transposed")
    operands = (*factors(b, layer), b.const(out_scale(c)), zero_of(b, c.out))
    return clamped(b, b.call("qlinear_matmul", operands).result, c)


def out_scale(c: Closed) -> np.ndarray:
    return np.asarray(c.out.scale.scalar(), np.float32)


def _per_channel(layer: Layer, bias: np.ndarray) -> np.ndarray:
    return np.broadcast_to(bias.reshape(-1), (layer.w.result.shape[0],)).copy()  # type: ignore[index, arg-type]


def factors(b: StagingBuilder, layer: Layer) -> tuple[Value, ...]:
    """x, scale, zero point, w, scale, zero point in the shapes of qlinear ops: rank 0 or vectors."""
    parts: list[Value] = []
    for node, p in ((layer.x, layer.data), (layer.w, layer.weights)):
        scale = along_channels(layer, p.scale) if node is layer.w else p.scale.array().reshape(())
        zero = np.zeros(scale.shape, p.stored.numpy)  # type: ignore[union-attr]
        if p.zero is not None:
            own = along_channels(layer, p.zero) if node is layer.w else p.zero.array().reshape(())
            zero = np.broadcast_to(own, scale.shape).astype(p.stored.numpy)  # type: ignore[arg-type, union-attr]
        parts += [node.operands[0], b.const(scale.astype(np.float32)), b.const(zero)]  # type: ignore[list-item, union-attr]
    return tuple(parts)


@rule("conv", "gemm", "matmul", numerics="approx", benefit=1)
def open_layer(b: StagingBuilder, node: Node):
    """layer(D(x), D(w)) whose result stays float -> the integer product times s_x s_w, plus the bias in float"""
    layer = layer_of(node)
    if layer is None:
        return None
    why = unfit(layer)
    if why is not None:
        return b.decline(why)
    if any(_one(p.scale) is False and not p.scale.is_const for p in (layer.data, layer.weights)):
        return b.decline("scales along an axis are computed")
    return with_bias(b, layer, real_product(b, layer))


def real_product(b: StagingBuilder, layer: Layer) -> Value:
    """The sums of a layer as floats, its bias left out."""
    return b.mul(b.cast(product(b, layer), to=F32), _unit(b, layer, _gemm_parts(layer.node)[0]))


def with_bias(b: StagingBuilder, layer: Layer, y: Value) -> Value:
    """The float bias of a layer, where it has one, on its product `y`."""
    node, (_, bias) = layer.node, _gemm_parts(layer.node)
    if bias is None:
        return y
    if node.name != "conv" or node.attr("channels_last"):
        return b.add(y, bias)
    shape, values = (1, -1, *(1,) * ((node.result.rank or 3) - 2)), bias_values(bias)
    return b.add(y, b.reshape(bias, shape) if values is None else b.const(values.astype(np.float32).reshape(shape)))


def _unit(b: StagingBuilder, layer: Layer, factor: float) -> Value:
    """alpha s_x s_w, a constant where both are."""
    scale = accumulator_scale(layer)
    if scale is not None:
        return shaped(b, layer, np.asarray(np.float32(factor) * scale, np.float32))
    weights = along_channels(layer, layer.weights.scale)
    own = layer.weights.scale if weights is None else shaped(b, layer, weights.astype(np.float32))
    parts = [v if v.is_const or v.rank == 0 else b.reshape(v, ()) for v in (layer.data.scale, own)]
    unit = b.mul(*parts)
    return unit if factor == 1.0 else b.mul(unit, b.const(np.asarray(factor, np.float32)))


def _check(options: Mapping[str, Any]) -> None:
    for name, choices in (("rounding", ROUNDINGS), ("form", FORMS)):
        if options[name] not in choices:
            raise UsageError(
                f"option {name} of pass 'integer-ops' is {options[name]!r}", hint=f"one of {', '.join(choices)}"
            )


@module_pass("integer-ops", numerics="approx", check=_check)
def integer_ops(
    module: Module,
    ctx: Context,
    *,
    rounding: str = "half_even",
    form: str = "plain",
    tables: bool = True,
    open_ends: bool = True,
) -> None:
    """What lies between dequantize and quantize in integer arithmetic: products, sums and (`tables`) 256-entry tables.

    `rounding` is that of requantize; `form` qlinear makes qlinear_conv and qlinear_matmul and leaves the rest;
    `open_ends` also takes layers whose result stays float.
    """
    from . import integer_elementwise

    rules = [qlinear_layer] if form == "qlinear" else [_plain(rounding), *integer_elementwise.rules(rounding, tables)]
    settle(module, RuleSet(rules), ctx)
    if open_ends and form == "plain":
        settle(module, RuleSet([open_layer]), ctx)
