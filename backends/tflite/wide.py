"""Integer layers that are written in parts of their rows, because one zero point of 8 bytes for each would weigh too much.

The format wants as many zero points of a weight as it has scales, all of them 0; a file holds one vector of them for each
width that its layers have. A layer much wider than all others pays for its own: in parts as wide as another layer, it shares
that one's. Results stay the same to the bit: rows know nothing of each other, and the parts have one scale.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Graph
from ...ir.value import Node, Value

#: Bytes of a zero point, and of what one more operator with its tensors takes.
ZERO, OPERATOR = 8, 300
#: What a split must save: so many bytes, and this part of the model's.
LEAST, WORTH = 8 << 10, 0.01


def narrow(graph: Graph) -> None:
    """Split the fully connected layers of `graph` where enough is saved."""
    scales = {node: node.operand("w_scale") for node in graph.nodes() if "w_scale" in node.op.positions}
    rows = {node: int(scale.type.numel) for node, scale in scales.items()}  # type: ignore[attr-defined, union-attr]
    total = sum(weight.nbytes for weight in graph.module.used_weights())  # type: ignore[union-attr]
    for node, count in rows.items():
        others = {width for other, width in rows.items() if other is not node}
        if node.name == "tfl.q_fully_connected" and others and count not in others:
            saved, width = max((_saved(count, width, others), width) for width in others)
            if saved >= max(LEAST, WORTH * total):
                _split(node, width)


def _saved(rows: int, width: int, known: Collection[int]) -> int:
    """Bytes that parts of `width` rows save: the layer's zero points, less those of a shorter last part, and operators."""
    if width >= rows:
        return 0
    rest = rows % width
    return ZERO * (rows - (0 if rest in known else rest)) - OPERATOR * -(-rows // width)


def _split(node: Node, width: int) -> None:
    b = Builder(node.graph, before=node, loc=node.loc)  # type: ignore[arg-type]
    x, *constants = node.operands
    parts = zip(*(_rows(b, value, width) for value in constants), strict=True)  # type: ignore[arg-type]
    made = b.concat(
        *(b.call(node.name, (x, *part), dict(node.attrs)).result for part in parts), axis=node.result.rank - 1
    )  # type: ignore[operator]
    made.hint = node.result.hint
    node.replace(made)


def _rows(b: Builder, value: Value, width: int) -> Iterator[Value]:
    array, weight = value.array(), value.weight
    assert weight is not None
    for start in range(0, len(array), width):
        part = np.ascontiguousarray(array[start : start + width])
        yield b.const(part, key=weight.key, role=weight.role, origin=f"rows from {start} on")
