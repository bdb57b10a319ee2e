"""Elementwise ops, means and tables between dequantize and quantize in integer arithmetic; part of `integer-ops`.

Sums bring both sides to a common unit, a power of two below the result's scale, so that nothing but the last step rounds
(as in TensorFlow Lite's reference kernels); products and means are exact in i32. A chain of functions of one element
becomes a table of what it does to each of the 256 integers: exact by construction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...ir.graph import Node, Value
from ...ir.opdef import ELEMENTWISE
from ...ir.types import F32, I8, I32, U8
from ...kernels.run import run_node
from ..rewrite import Rule, StagingBuilder, rule
from .integer import zero_of
from .qdq import Encoding, apply_dequantize, apply_quantize, encoding_of, made_by, reliable

#: Sums stay below this.
ROOM = 2**30


def _bytes(node: Node | None) -> bool:
    """A quantize or dequantize node with single reliable parameters and 8-bit integers, f32 on the other side."""
    if node is None:
        return False
    p, real = encoding_of(node), node.operands[0] if node.name == "quantize" else node.result
    return p.stored in (I8, U8) and p.single and reliable(p) is None and real.dtype is F32  # type: ignore[union-attr]


def source(node: Node, count: int) -> tuple[Node, list[Node]] | None:
    """The float op that `node` (quantize) alone uses, and the dequantize nodes of its first `count` operands."""
    made = node.operands[0].node  # type: ignore[union-attr]
    if made is None or made.result.n_uses != 1 or not _bytes(node):
        return None
    inner = [made_by(v, "dequantize") for v in made.operands[:count]]
    if not all(map(_bytes, inner)) or len(inner) != count:
        return None
    return made, inner  # type: ignore[return-value]


def centred(b: StagingBuilder, node: Node) -> Value:
    """q - z in i32."""
    p = encoding_of(node)
    x = b.cast(node.operands[0], to=I32)
    return b.sub(x, b.const(np.asarray(p.zeros().item(), np.int32))) if p.zeros().any() else x


def _reach(p: Encoding) -> int:
    (low, high), zero = p.limits, int(p.zeros().item())
    return max(high - zero, zero - low)


def _scale(p: Encoding) -> float:
    return float(p.scales().item())


def _requantized(
    b: StagingBuilder, total: Value, ratio: float, out: Encoding, rounding: str, most: int = ROOM
) -> Value:
    """`total`, never above `most`, times `ratio`. Fixed point rounds the product to an integer before it shifts: small sums
    are first made as large as there is room."""
    spare = int(np.floor(np.log2(ROOM / most))) if rounding == "fixed_point" else 0
    if spare > 0:
        total, ratio = b.mul(total, b.const(np.int32(1 << spare))), ratio / 2.0**spare
    made = np.asarray(ratio, np.float64 if rounding == "fixed_point" else np.float32)
    return b.requantize(total, b.const(made), zero_of(b, out), to=out.stored, rounding=rounding)


def _sums(rounding: str) -> Rule:
    @rule("quantize", numerics="approx", benefit=4)
    def integer_sum(b: StagingBuilder, node: Node):
        """quantize(D(x) +- D(y)) -> requantize of the sum in a common unit"""
        found = source(node, 2)
        if found is None or found[0].name not in ("add", "sub"):
            return None
        made, inner = found
        out = encoding_of(node)
        ratios = [_scale(encoding_of(n)) / _scale(out) for n in inner]
        most = sum(_reach(encoding_of(n)) * r for n, r in zip(inner, ratios, strict=True))
        shift = int(np.floor(np.log2(ROOM / most)))
        factors = [int(np.rint(r * 2.0**shift)) for r in ratios]
        if not all(1 << 12 <= f < ROOM for f in factors):
            return b.decline("the scales are too far apart for one 32-bit unit")
        parts = [b.mul(centred(b, n), b.const(np.int32(f))) for n, f in zip(inner, factors, strict=True)]
        total = b.call(made.name, parts).result
        return _requantized(b, total, 2.0**-shift, out, rounding)

    return integer_sum


def _products(rounding: str) -> Rule:
    @rule("quantize", numerics="approx", benefit=4)
    def integer_product(b: StagingBuilder, node: Node):
        """quantize(D(x) D(y)) -> requantize of the product"""
        found = source(node, 2)
        if found is None or found[0].name != "mul":
            return None
        inner, out = found[1], encoding_of(node)
        x, y = (encoding_of(n) for n in inner)
        total = b.mul(*(centred(b, n) for n in inner))
        ratio = _scale(x) * _scale(y) / _scale(out)
        return _requantized(b, total, ratio, out, rounding, _reach(x) * _reach(y))

    return integer_product


def mean_axes(node: Node) -> Sequence[int] | None:
    """The axes that a mean is taken over; None for other ops, or where they are not known."""
    rank = node.operands[0].rank  # type: ignore[union-attr]
    if node.name == "global_average_pool" and rank is not None:
        return range(1, rank - 1) if node.attr("channels_last") else range(2, rank)
    if node.name != "reduce_mean" or rank is None or len(node.operands) < 2:
        return None
    axes = node.operands[1].ints() if node.operands[1] is not None else None
    return sorted({axis % rank for axis in axes}) if axes else None


def _means(rounding: str) -> Rule:
    @rule("quantize", numerics="approx", benefit=4)
    def integer_mean(b: StagingBuilder, node: Node):
        """quantize(mean(D(x))) -> requantize of the sum"""
        found = source(node, 1)
        axes = None if found is None else mean_axes(found[0])
        if found is None or axes is None:
            return None
        (made, (inner,)), out = found, encoding_of(node)
        sizes = [made.operands[0].shape[axis] for axis in axes]  # type: ignore[union-attr, index]
        known = [size for size in sizes if isinstance(size, int)]
        if len(known) != len(sizes):
            return b.decline("the number of elements is not known")
        count, p = math.prod(known), encoding_of(inner)
        if not 0 < count * _reach(p) < ROOM:
            return b.decline("the sum may overflow 32 bits")
        kept = made.name != "reduce_mean" or made.attr("keepdims")
        total = b.reduce_sum(centred(b, inner), tuple(axes), keepdims=kept)
        return _requantized(b, total, _scale(p) / (count * _scale(out)), out, rounding, count * _reach(p))

    return integer_mean


def _windows(rounding: str) -> Rule:
    @rule("quantize", numerics="approx", benefit=4)
    def integer_average_pool(b: StagingBuilder, node: Node):
        """quantize(average_pool(D(x))) -> requantize of a depthwise sum, where every window counts as many elements"""
        found = source(node, 1)
        if found is None or found[0].name != "average_pool" or found[0].attr("channels_last"):
            return None
        (made, (inner,)), out = found, encoding_of(node)
        kernel, channels = made.attr("kernel_shape"), made.operands[0].shape[1]  # type: ignore[union-attr, index]
        padded = any(made.attr("pads")) or made.attr("auto_pad") != "explicit"
        if type(channels) is not int or made.attr("ceil_mode") or (padded and not made.attr("count_include_pad")):
            return b.decline("windows count different numbers of elements, or the channels are not known")
        count, p = int(np.prod(kernel)), encoding_of(inner)
        ones = b.const(np.ones((channels, 1, *kernel), np.int8))
        zero = zero_of(b, p) if p.zeros().any() else None
        attrs = {key: made.attr(key) for key in ("strides", "pads", "dilations", "auto_pad")}
        total = b.conv_integer(inner.operands[0], ones, zero, groups=channels, **attrs)
        return _requantized(b, total, _scale(p) / (count * _scale(out)), out, rounding, count * _reach(p))

    return integer_average_pool


# --------------------------------------------------------------------------------------------------------------- tables


def chain(node: Node) -> tuple[Node, list[Node]] | None:
    """The dequantize node below a chain of functions of one element that ends in `node` (quantize), and the chain from
    there up; each is used by the next alone."""
    if not _bytes(node):
        return None
    between: list[Node] = []
    value = node.operands[0]
    while (made := value.node) is not None and made.name != "dequantize":  # type: ignore[union-attr]
        if value.n_uses != 1 or not _of_one_element(made):  # type: ignore[union-attr]
            return None
        between.append(made)
        value = next(v for v in made.inputs() if not v.is_const)
    if made is None or not _bytes(made):
        return None
    return made, between[::-1]


def _of_one_element(node: Node) -> bool:
    """One result of the shape of the one operand that is computed; all others are single constants."""
    if not node.has(ELEMENTWISE) or node.regions or len(node.results) != 1:
        return False
    computed = [v for v in node.inputs() if not v.is_const]
    if len(computed) != 1 or computed[0].type is not node.result.type:
        return False
    return all(v.type.numel == 1 for v in node.inputs() if v.is_const)  # type: ignore[attr-defined]


def table_of(node: Node, inner: Node, between: Sequence[Node]) -> np.ndarray:
    """What becomes of each stored integer, in order: [256] of the type that `node` (quantize) makes."""
    p = encoding_of(inner)
    values = apply_dequantize(p.numbers(), p, F32)
    for made in between:
        arrays = [values if v is not None and not v.is_const else _number(v) for v in made.operands]
        (values,) = run_node(made, arrays)
    return apply_quantize(values, encoding_of(node))


def _number(value: Value | None) -> np.ndarray | None:
    return None if value is None else value.array().reshape(())


@rule("quantize", benefit=3)
def tabulate(b: StagingBuilder, node: Node):
    """quantize(f(dequantize(q))) -> gather(table, q)"""
    found = chain(node)
    if found is None:
        return None
    inner, between = found
    p = encoding_of(inner)
    index = b.cast(inner.operands[0], to=I32)
    if p.limits[0]:
        index = b.sub(index, b.const(np.int32(p.limits[0])))
    return b.gather(b.const(table_of(node, inner, between)), index, axis=0)


def rules(rounding: str, tables: bool) -> list[Rule]:
    """The rules of this file for one rounding."""
    made = [_sums(rounding), _products(rounding), _means(rounding), _windows(rounding)]
    return [*made, tabulate] if tables else made
