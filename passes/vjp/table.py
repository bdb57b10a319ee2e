"""Vector-Jacobian products: what each op hands back to its operands, given what its results were handed.

    @vjp("mul")
    def _mul(b, node, g): ...          # g: one adjoint per result (None: none); returns one per operand (None: nothing)

Where a derivative has several values (relu at 0, abs at 0, ties of max) frameworks differ; 0 at the kink, and for ties the
first operand, is what PyTorch does in the first two cases and what is done here in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import dim_eq
from ...ir.errors import Unsupported
from ...ir.graph import Node, Value

Handed = tuple[Value | None, ...]
Rule = Callable[[Builder, Node, Handed], Sequence[Value | None] | None]

#: Op name -> its rule. A rule that returns None has the node spelt with other ops first, as those without a rule are.
RULES: dict[str, Rule] = {}


def vjp(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of ops by name. A second rule for one op is an error."""

    def register(rule: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise TypeError(f"two derivatives of {name}")
            RULES[name] = rule
        return rule

    return register


def pointwise(name: str) -> Callable[[Callable[[Builder, Node, Value], Value]], Any]:
    """Register an op of one operand by its derivative: the adjoint of its result is multiplied by it."""

    def register(derivative: Callable[[Builder, Node, Value], Value]) -> Any:
        def rule(b: Builder, node: Node, handed: Handed) -> Sequence[Value | None]:
            return [b.mul(adjoint(handed), derivative(b, node, source(node)))]

        vjp(name)(rule)
        return derivative

    return register


def number(b: Builder, value: float, like: Value) -> Value:
    return b.const(np.asarray(value, like.dtype.numpy))  # type: ignore[union-attr]


def filled_like(b: Builder, x: Value, value: float) -> Value:
    """A tensor of x's shape and dtype."""
    if x.dtype is None:
        raise Unsupported(f"a derivative by a value of type {x.type}")
    known = x.shape is not None and all(isinstance(d, int) for d in x.shape)
    return b.expand(number(b, value, x), x.shape if known else b.shape(x))


def ones_like(b: Builder, x: Value) -> Value:
    return filled_like(b, x, 1)


def zeros_like(b: Builder, x: Value) -> Value:
    return filled_like(b, x, 0)


def source(node: Node) -> Value:
    return node.operands[0]  # type: ignore[return-value]


def adjoint(handed: Handed) -> Value:
    """The adjoint of the first result, which is there: a node is visited when one of its results has one."""
    return handed[0]  # type: ignore[return-value]


def rank_of(value: Value, node: Node) -> int:
    if value.rank is None:
        raise Unsupported(f"the derivative of {node.name} needs the rank of its operand")
    return value.rank


def summed_to(b: Builder, g: Value, like: Value, node: Node) -> Value:
    """`g` summed over the axes along which `like` was broadcast."""
    have, want = g.shape, like.shape
    if have is None or want is None:
        raise Unsupported(f"the derivative of {node.name} needs the shapes of its operands")
    lead = len(have) - len(want)
    axes = list(range(lead))
    for axis, (h, w) in enumerate(zip(have[lead:], want, strict=True), lead):
        if w == 1 and h != 1:
            axes.append(axis)
        elif w != 1 and dim_eq(h, w) is not True:
            raise Unsupported(f"the derivative of {node.name}: whether {w} is broadcast to {h} is not known")
    if not axes:
        return g
    kept = b.reduce_sum(g, tuple(axes), keepdims=True)
    return b.squeeze(kept, tuple(range(lead))) if lead else kept


def like_operand(b: Builder, g: Value, x: Value) -> Value:
    """`g`, which has x's elements in order, in x's shape."""
    if x.shape is not None and all(isinstance(d, int) for d in x.shape):
        return b.reshape(g, x.shape, allowzero=0 in x.shape)
    return b.reshape(g, b.shape(x), allowzero=True)
