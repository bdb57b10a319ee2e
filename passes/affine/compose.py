"""Two linear layers in a row become one, where that is smaller: w (v x + a) + b = (w v) x + (w a + b); products of three in the
order that takes the fewest multiplications."""

from __future__ import annotations

import math

import numpy as np

from ...ir.cost import is_cheaper
from ...ir.graph import Node, Value
from ...ir.tensor import ArrayTensor
from ..optimize.common import is_float, same_type
from ..rewrite import StagingBuilder, rule
from .affine import rounded

#: Multiplications that composing two layers may take.
WORK = 1 << 28


@rule("conv", numerics="ulp", benefit=1)
def compose_convolutions(b: StagingBuilder, node: Node):
    """conv(conv(x, v), w) with a 1x1 w -> conv(x, w v), where that has fewer weights"""
    inner = node.operands[0].node  # type: ignore[union-attr]
    if inner is None or inner.name != "conv" or inner.result.n_uses != 1 or not _pointwise(node):
        return None
    outer, own = _parameters(node), _parameters(inner)
    if outer is None or own is None:
        return b.decline("weights and biases must be constants")
    if inner.attr("channels_last") or inner.attr("auto_pad") != "explicit":
        return b.decline("the windows depend on the input's size")
    (w, bias), (v, shift), groups = outer, own, inner.attr("groups")
    size = w.shape[0] * v.shape[1] * groups * math.prod(v.shape[2:])
    if size >= v.size + w.size or size * (v.shape[0] // groups) > WORK:
        return b.decline("the composed weights would be more")
    made = _composed(w, v, groups)
    added = 0.0 if shift is None else w.reshape(w.shape[:2]) @ shift
    whole = np.broadcast_to((0.0 if bias is None else bias) + added, (w.shape[0],))
    dtype = node.result.dtype
    weight, vector = rounded(made, dtype), rounded(whole, dtype)  # type: ignore[arg-type]
    if weight is None or vector is None:
        return b.decline("a number would run over or lose digits")
    return _conv(b, node, inner, weight, None if bias is None and shift is None else vector)


def _pointwise(node: Node) -> bool:
    """A 1x1 convolution of all channels without a border."""
    w = node.operands[1]
    if w is None or w.shape is None or node.attr("groups") != 1 or node.attr("channels_last") or any(node.attr("pads")):
        return False
    return all(d == 1 for d in w.shape[2:])


def _parameters(node: Node) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Weights and bias in double precision; None where they are computed, large, or not finite."""
    w, bias = node.operands[1], node.operand("b")
    if w is None or w.weight is None or (bias is not None and bias.weight is None) or w.type.numel > WORK:  # type: ignore
        return None
    arrays = [w.array().astype(np.float64), None if bias is None else bias.array().astype(np.float64)]
    return tuple(arrays) if all(a is None or np.isfinite(a).all() for a in arrays) else None  # type: ignore[return-value]


def _composed(w: np.ndarray, v: np.ndarray, groups: int) -> np.ndarray:
    """w [O, M, 1...] after v [M, C / groups, *K] as one weight [O, C, *K]: each group reads channels of its own."""
    rows, per_group = v.shape[0] // groups, v.shape[1]
    outer = w.reshape(w.shape[0], groups, rows)
    inner = v.reshape(groups, rows, -1)
    made = np.stack([outer[:, g] @ inner[g] for g in range(groups)], 1)
    return made.reshape(w.shape[0], groups * per_group, *v.shape[2:])


def _conv(b: StagingBuilder, node: Node, inner: Node, weight: np.ndarray, bias: np.ndarray | None) -> Value:
    count, dtype = weight.ndim - 2, node.result.dtype
    strides = [node.attr("strides") or (1,) * count, inner.attr("strides") or (1,) * count]
    v, w = inner.operands[1].weight, node.operands[1].weight  # type: ignore[union-attr]
    origin = f"{w.key} after {v.key}"  # type: ignore[union-attr]
    role = v.role  # type: ignore[union-attr]
    made = b.const(ArrayTensor(weight, dtype), key=v.wanted, role=role, origin=origin)  # type: ignore[union-attr]
    vector = None
    if bias is not None:
        old = node.operand("b") or inner.operand("b")
        vector = b.const(ArrayTensor(bias, dtype), key=old.weight.wanted, role=role, origin=origin)
    attrs = {**inner.attrs, "groups": 1, "strides": tuple(m * n for m, n in zip(*strides, strict=True))}
    return b.call("conv", (inner.operands[0], made, vector), attrs).result


@rule("matmul", numerics="ulp")
def order_of_products(b: StagingBuilder, node: Node):
    """(x v) w -> x (v w), x (v w) -> (x v) w, where that takes fewer multiplications and no more weights"""
    left, right = node.operands
    for value, first in ((left, True), (right, False)):
        inner = _product(value)
        if inner is None or left.rank < 2 or right.rank < 2:  # type: ignore[operator,union-attr]
            continue
        v, w = inner.operands
        if first:
            part = b.matmul(w, right)
            made = b.matmul(v, part)
        else:
            part = b.matmul(left, v)
            made = b.matmul(part, w)
        if same_type(made, node.result) and is_cheaper((node, inner), (made.node, part.node)):  # type: ignore[arg-type]
            return made
    return None


def _product(value: Value | None) -> Node | None:
    """A product of floats, of two axes at least each, that is used here alone."""
    node = value.node if value is not None and value.n_uses == 1 else None
    if node is None or node.name != "matmul" or not is_float(value):  # type: ignore[arg-type]
        return None
    return node if all(v.rank is not None and v.rank >= 2 for v in node.operands) else None  # type: ignore[union-attr]
