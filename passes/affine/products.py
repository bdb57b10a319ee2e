"""Products and convolutions take what stands right before or behind them: a bias, an addend, a border of zeros."""

from __future__ import annotations

import numpy as np

from ...ir.graph import Node, Value
from ...ir.ops.window import spread
from ..optimize.common import is_float
from ..rewrite import StagingBuilder, rule
from .affine import scaled
from .plan import Plan

#: What yields nothing below zero.
NOT_NEGATIVE = frozenset(
    {"relu", "relu6", "sigmoid", "hard_sigmoid", "abs", "square", "exp", "softmax", "softplus", "sqrt"}
)


@rule("add", numerics="ulp", benefit=2)
def add_into_gemm(b: StagingBuilder, node: Node):
    """add(matmul(x, w), c) -> gemm(x, w, c) at rank 2, where c broadcasts to the product"""
    for product, c in (node.operands, node.operands[::-1]):
        maker = product.node
        if maker is None or product.n_uses != 1 or maker.name not in ("matmul", "gemm"):
            continue
        if product.type is not node.result.type or not is_float(product) or product.rank != 2:
            continue
        if maker.name == "gemm" and maker.operand("c") is not None:
            continue
        x, w = maker.operands[:2]
        if x.rank != 2 or w.rank != 2 or c.rank is None or not _broadcasts_to(c, product):
            continue
        attrs = {**maker.attrs, "beta": 1.0} if maker.name == "gemm" else {}
        return b.call("gemm", (x, w, c), attrs).result
    return None


def _broadcasts_to(c: Value, product: Value) -> bool:
    """c has 1 or surely the product's dims, from the right."""
    own, whole = c.shape[::-1], product.shape[::-1]  # type: ignore[index]
    return len(own) <= 2 and all((type(n) is type(d) and n == d) or n == 1 for n, d in zip(own, whole, strict=False))


@rule("conv", "average_pool", benefit=2)
def pad_into_window(b: StagingBuilder, node: Node):
    """conv(pad(x, zeros), w) -> conv(x, w) with pads; average_pool likewise, counting its padding"""
    found = _border(node)
    if found is None:
        return None
    x, pads, value = found
    if not _is_zero(value):
        return b.decline("the border is not zero")
    attrs = {**node.attrs, "pads": pads}
    if node.name == "conv":
        weight = node.operands[1]
        if weight is None or weight.weight is None or not _finite(weight):
            return b.decline("a weight may be infinite: times a border of zeros that is NaN")
        return b.call("conv", (x, *node.operands[1:]), attrs).result
    outer = any(node.attr("pads"))
    if node.attr("ceil_mode") or (outer and not node.attr("count_include_pad")) or not _within(pads, node):
        return b.decline("the pool would count other elements")
    return b.call("average_pool", (x,), {**attrs, "count_include_pad": True}).result


@rule("max_pool", numerics="ulp", benefit=2)
def pad_into_max_pool(b: StagingBuilder, node: Node):
    """max_pool(pad(relu(x), zeros)) -> max_pool(relu(x)) with pads; likewise a border of -inf around anything"""
    found = _border(node)
    if found is None:
        return None
    x, pads, value = found
    low = value is not None and value.scalar() == -np.inf
    harmless = _is_zero(value) and x.node is not None and x.node.name in NOT_NEGATIVE
    if not (low or harmless) or node.attr("ceil_mode") or not _within(pads, node):
        return b.decline("the border may be the largest element")
    return b.call("max_pool", (x,), {**node.attrs, "pads": pads}).result


def _border(node: Node) -> tuple[Value, tuple[int, ...], Value | None] | None:
    """What a constant pad in front of a window op pads, the window's pads with it added, and the pad's value."""
    pad = node.operands[0].node  # type: ignore[union-attr]
    if pad is None or pad.name != "pad" or pad.attr("mode") != "constant" or node.operands[0].n_uses != 1:  # type: ignore
        return None
    x = pad.operands[0]
    if node.attr("auto_pad") != "explicit" or node.attr("channels_last") or x.rank is None or x.rank < 3:  # type: ignore
        return None
    given, axes = pad.operand("pads").ints(), pad.operand("axes")
    over = tuple(range(x.rank)) if axes is None else axes.ints()  # type: ignore[union-attr]
    if given is None or over is None or any(p < 0 for p in given):
        return None
    rank = x.rank  # type: ignore[union-attr]
    begins, ends = [0] * rank, [0] * rank
    for axis, first, last in zip(over, given[: len(over)], given[len(over) :], strict=True):
        begins[axis % rank], ends[axis % rank] = first, last
    if any(begins[:2]) or any(ends[:2]):
        return None
    own = spread(node.attr("pads"), 2 * (rank - 2), 0, "pads")
    return x, tuple(p + q for p, q in zip(own, begins[2:] + ends[2:], strict=True)), pad.operand("value")  # type: ignore


def _is_zero(value: Value | None) -> bool:
    return value is None or value.scalar() == 0


def _finite(weight: Value) -> bool:
    return weight.weight.nbytes <= 1 << 24 and bool(np.isfinite(weight.array().astype(np.float64)).all())  # type: ignore


def _within(pads: tuple[int, ...], node: Node) -> bool:
    """Every window still holds an element: pads are smaller than the kernel."""
    kernel = node.attr("kernel_shape")
    dilations = node.attrs.get("dilations") or (1,) * len(kernel)
    return all(d == 1 for d in dilations) and all(p < k for p, k in zip(pads, kernel * 2, strict=True))


@rule("gemm", numerics="ulp", benefit=5)
def unit_factors_of_gemm(b: StagingBuilder, node: Node):
    """gemm{alpha, beta}(x, w, c) with constants -> gemm(x, alpha w, beta c)"""
    w, c = node.operands[1], node.operand("c")
    alpha, beta = node.attr("alpha"), node.attr("beta")
    plan = Plan()
    attrs = {}
    if alpha != 1.0 and w.weight is not None and np.isfinite(alpha):  # type: ignore[union-attr]
        attrs["alpha"] = 1.0
        why = plan.put(node, 1, scaled(w.weight, np.full((1, 1), alpha)))  # type: ignore[union-attr]
        if why:
            return b.decline(why)
    if beta != 1.0 and (c is None or (c.weight is not None and np.isfinite(beta))):
        attrs["beta"] = 1.0
        why = None if c is None else plan.put(node, 2, scaled(c.weight, np.full((1,) * c.rank, beta)))
        if why:
            return b.decline(why)
    if not attrs or not is_float(node.result):
        return None
    new = {i: plan.constant(b, item) for i, item in plan.operands.get(node, {}).items()}
    operands = [new.get(i, v) for i, v in enumerate(node.operands)]
    return b.call("gemm", operands, {**node.attrs, **attrs}).result


PRODUCTS = (
    add_into_gemm,
    pad_into_window,
    pad_into_max_pool,
    unit_factors_of_gemm,
)
