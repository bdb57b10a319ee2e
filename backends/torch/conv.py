"""Torch expressions of convolutions: explicit, symmetric padding; `legalize` brings the others into that form."""

from __future__ import annotations

from ...ir.errors import AnyIRError
from ...ir.ops.window import spread
from ...ir.value import Node, Value
from .calls import Call, Refusal, only, rank_of, row


def spatial_rank(x: Value) -> int:
    count = rank_of(x) - 2
    if not 1 <= count <= 3:
        raise Refusal(f"torch has windows over 1 to 3 axes, not {count}")
    return count


def symmetric(pads: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Padding of both sides where it is the same."""
    if not pads:
        return (0,) * count
    if pads[:count] != pads[count:] or any(p < 0 for p in pads):
        raise Refusal(f"pads {pads} differ between the sides")
    return pads[:count]


def each(node: Node, name: str, count: int, default: int = 1) -> tuple[int, ...]:
    try:
        return spread(node.attr(name), count, default, name)
    except AnyIRError as error:
        raise Refusal(error.message) from None


@row("conv")
def conv(node: Node) -> Call:
    only(node, "strides", "pads", "dilations", "groups")
    x, w, b = (*node.operands, None)[:3]
    assert x is not None
    n = spatial_rank(x)
    return Call(
        f"F.conv{n}d", x, w, b, stride=each(node, "strides", n), padding=symmetric(node.attr("pads"), n),
        dilation=each(node, "dilations", n), groups=node.attr("groups"),
    )  # fmt: skip


@row("conv_transpose")
def conv_transpose(node: Node) -> Call:
    only(node, "strides", "pads", "dilations", "groups", "output_padding")
    x, w, b = (*node.operands, None)[:3]
    assert x is not None
    n = spatial_rank(x)
    stride, dilation = each(node, "strides", n), each(node, "dilations", n)
    extra = each(node, "output_padding", n, 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise Refusal(f"output_padding {extra} is not below stride and dilation")
    return Call(
        f"F.conv_transpose{n}d", x, w, b, stride=stride, padding=symmetric(node.attr("pads"), n), output_padding=extra,
        groups=node.attr("groups"), dilation=dilation,
    )  # fmt: skip
