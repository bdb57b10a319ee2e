"""Derivatives of arithmetic and of functions of single elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...ir.builder import Builder
from ...ir.errors import Unsupported
from ...ir.graph import Node, Value
from .table import Handed, adjoint, number, pointwise, source, summed_to, vjp


@vjp("add")
def _add(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [summed_to(b, adjoint(g), v, node) for v in node.inputs()]


@vjp("sub")
def _sub(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    x, y = node.inputs()
    return [summed_to(b, adjoint(g), x, node), summed_to(b, b.neg(adjoint(g)), y, node)]


@vjp("mul")
def _mul(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    x, y = node.inputs()
    return [summed_to(b, b.mul(adjoint(g), y), x, node), summed_to(b, b.mul(adjoint(g), x), y, node)]


@vjp("div")
def _div(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    x, y = node.inputs()
    first = b.div(adjoint(g), y)
    return [summed_to(b, first, x, node), summed_to(b, b.neg(b.mul(first, node.result)), y, node)]


@vjp("pow")
def _pow(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """y x**(y - 1), which is 0 for y = 0, and x**y log(x), which is 0 for x = 0."""
    x, y = node.inputs()
    if y.dtype is not x.dtype:
        if not y.is_const:
            raise Unsupported(f"the derivative of pow with an exponent of {y.dtype}")
        y = b.const(y.array().astype(x.dtype.numpy))  # type: ignore[union-attr]
    zero, one = number(b, 0, x), number(b, 1, x)
    lower = b.where(b.equal(y, zero), one, b.sub(y, one))
    base = b.mul(adjoint(g), b.mul(y, b.pow(x, lower)))
    if node.operands[1].is_const:  # type: ignore[union-attr]
        return [summed_to(b, base, x, node), None]
    log = b.log(b.where(b.equal(x, zero), one, x))
    power = b.mul(adjoint(g), b.mul(node.result, log))
    return [summed_to(b, base, x, node), summed_to(b, power, y, node)]


@vjp("max", "min")
def _extreme(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    x, y = node.inputs()
    first = b.greater_equal(x, y) if node.name == "max" else b.less_equal(x, y)
    zero = number(b, 0, x)
    return [
        summed_to(b, b.where(first, adjoint(g), zero), x, node),
        summed_to(b, b.where(first, zero, adjoint(g)), y, node),
    ]


@vjp("where")
def _where(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    condition, x, y = node.inputs()
    zero = number(b, 0, x)
    return [
        None,
        summed_to(b, b.where(condition, adjoint(g), zero), x, node),
        summed_to(b, b.where(condition, zero, adjoint(g)), y, node),
    ]


@vjp("clip")
def _clip(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """The bounds are taken as constants."""
    x, low, high = (*node.operands, None, None)[:3]
    made = adjoint(g)
    for bound, beyond in ((low, b.less), (high, b.greater)):
        if bound is not None:
            if not bound.is_const:
                raise Unsupported("the derivative of clip with computed bounds")
            made = b.where(beyond(x, bound), number(b, 0, made), made)
    return [made]


@vjp("floor", "ceil", "round", "trunc", "sign")
def _flat(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [None]


@vjp("neg")
def _neg(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [b.neg(adjoint(g))]


@vjp("identity")
def _identity(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    return [adjoint(g)]


@vjp("cast")
def _cast(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """Between floats; an integer hands nothing back."""
    dtype = source(node).dtype
    return [b.cast(adjoint(g), to=dtype) if dtype is not None and dtype.is_float else None]


pointwise("exp")(lambda b, n, x: n.result)
pointwise("log")(lambda b, n, x: b.reciprocal(x))
pointwise("sqrt")(lambda b, n, x: b.div(number(b, 0.5, x), n.result))
pointwise("rsqrt")(lambda b, n, x: b.mul(number(b, -0.5, x), b.div(n.result, x)))
pointwise("square")(lambda b, n, x: b.mul(number(b, 2, x), x))
pointwise("reciprocal")(lambda b, n, x: b.neg(b.mul(n.result, n.result)))
pointwise("abs")(lambda b, n, x: b.sign(x))
pointwise("sin")(lambda b, n, x: b.cos(x))
pointwise("cos")(lambda b, n, x: b.neg(b.sin(x)))
pointwise("tan")(lambda b, n, x: b.add(b.mul(n.result, n.result), number(b, 1, x)))
pointwise("asin")(lambda b, n, x: b.rsqrt(b.sub(number(b, 1, x), b.mul(x, x))))
pointwise("acos")(lambda b, n, x: b.neg(b.rsqrt(b.sub(number(b, 1, x), b.mul(x, x)))))
pointwise("atan")(lambda b, n, x: b.reciprocal(b.add(b.mul(x, x), number(b, 1, x))))
pointwise("sinh")(lambda b, n, x: b.cosh(x))
pointwise("cosh")(lambda b, n, x: b.sinh(x))
pointwise("asinh")(lambda b, n, x: b.rsqrt(b.add(b.mul(x, x), number(b, 1, x))))
pointwise("acosh")(lambda b, n, x: b.rsqrt(b.sub(b.mul(x, x), number(b, 1, x))))
pointwise("atanh")(lambda b, n, x: b.reciprocal(b.sub(number(b, 1, x), b.mul(x, x))))
pointwise("log1p")(lambda b, n, x: b.reciprocal(b.add(x, number(b, 1, x))))
pointwise("expm1")(lambda b, n, x: b.exp(x))
pointwise("tanh")(lambda b, n, x: b.sub(number(b, 1, x), b.mul(n.result, n.result)))
pointwise("sigmoid")(lambda b, n, x: b.mul(n.result, b.sub(number(b, 1, x), n.result)))
pointwise("softplus")(lambda b, n, x: b.sigmoid(x))
pointwise("relu")(lambda b, n, x: _above(b, x, number(b, 0, x)))
pointwise("relu6")(lambda b, n, x: b.mul(_above(b, x, number(b, 0, x)), _above(b, number(b, 6, x), x)))
pointwise("silu")(lambda b, n, x: _silu(b, n, x))


@pointwise("erf")
def _erf(b: Builder, node: Node, x: Value) -> Value:
    return b.mul(number(b, 2 / math.sqrt(math.pi), x), b.exp(b.neg(b.mul(x, x))))


@pointwise("leaky_relu")
def _leaky_relu(b: Builder, node: Node, x: Value) -> Value:
    return b.where(b.greater(x, number(b, 0, x)), number(b, 1, x), number(b, node.attr("alpha"), x))


@pointwise("elu")
def _elu(b: Builder, node: Node, x: Value) -> Value:
    alpha = number(b, node.attr("alpha"), x)
    return b.where(b.greater(x, number(b, 0, x)), number(b, 1, x), b.add(node.result, alpha))


def _above(b: Builder, x: Value, limit: Value) -> Value:
    return b.cast(b.greater(x, limit), to=x.dtype)


def _silu(b: Builder, node: Node, x: Value) -> Value:
    """s + y (1 - s) with s = sigmoid(x)."""
    s = b.sigmoid(x)
    return b.add(s, b.mul(node.result, b.sub(number(b, 1, x), s)))
