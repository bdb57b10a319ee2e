"""A constant reshaped behind some elementwise steps is reshaped itself: how quantisers spell the bias of a convolution."""

from __future__ import annotations

from ...ir.graph import Node, Value
from ...ir.opdef import ELEMENTWISE
from ..rewrite import StagingBuilder, rule

#: Elementwise steps between the constant and the reshape.
STEPS = 6
#: Larger constants are not copied into another shape.
BYTES = 1 << 20


@rule("reshape", benefit=1)
def reshape_constant_first(b: StagingBuilder, node: Node):
    """reshape(floor(div(c, s))) with a constant c and single numbers s -> floor(div(reshape(c), s))"""
    shape = node.result.shape
    steps = _steps(node.operands[0])  # type: ignore[arg-type]
    if not steps or shape is None or not shape or not all(isinstance(d, int) for d in shape):
        return None
    first, index = steps[-1]
    leaf = first.operands[index]
    if leaf.weight is None or leaf.weight.nbytes > BYTES:  # type: ignore[union-attr]
        return b.decline("what is reshaped is not made of a constant")
    old = leaf.weight  # type: ignore[union-attr]
    key = None if old.role == "const" else old.wanted
    value = b.const(old.tensor.numpy().reshape(shape), leaf.dtype, key=key, role=old.role, origin=old.origin)  # type: ignore
    for step, place in reversed(steps):
        operands = [value if i == place else v for i, v in enumerate(step.operands)]
        value = b.call(step.name, operands, dict(step.attrs)).result
    return value


def _steps(value: Value) -> list[tuple[Node, int]]:
    """The elementwise nodes above `value`, last first, each with the operand that all other operands broadcast to."""
    made: list[tuple[Node, int]] = []
    while value.node is not None and len(made) < STEPS:
        node = value.node
        wide = [i for i, v in enumerate(node.operands) if v is not None and not _single(v)]
        if not node.has(ELEMENTWISE) or value.n_uses != 1 or len(wide) != 1:
            return []
        made.append((node, wide[0]))
        value = node.operands[wide[0]]  # type: ignore[assignment]
    return made if value.weight is not None else []


def _single(value: Value) -> bool:
    return value.shape is not None and len(value.shape) <= 1 and all(d == 1 for d in value.shape)
