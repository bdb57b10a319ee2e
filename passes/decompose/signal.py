"""Windows of a known size as tables. Knows no target."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.value import Node, Value
from ...kernels.run import run_node
from .rules import Declined, decomposes, room


@decomposes("hann_window", "hamming_window", "blackman_window")
def window(b: Builder, node: Node) -> Value | Declined:
    """The weights themselves."""
    (size,) = node.operands
    count = size.ints()
    if count is None:
        return Declined("a window of a size known at run time only")
    room(*count)
    (weights,) = run_node(node, [size.array()])
    return b.const(weights, node.result.dtype)
