"""Derivatives of products of matrices and of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.builder import Builder
from ...ir.errors import Unsupported
from ...ir.graph import Node, Value
from ...ir.ops.window import Window, resolve_pads, transposed, window
from .table import Handed, adjoint, number, rank_of, summed_to, vjp


def _turned(b: Builder, x: Value, rank: int) -> Value:
    """The last two axes swapped."""
    return b.transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))


@vjp("matmul")
def _matmul(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """Vectors become matrices of one row or column for the while."""
    x, y = node.inputs()
    given, rank_x, rank_y = adjoint(g), rank_of(x, node), rank_of(y, node)
    left = b.unsqueeze(x, (0,)) if rank_x == 1 else x
    right = b.unsqueeze(y, (1,)) if rank_y == 1 else y
    if rank_y == 1:
        given = b.unsqueeze(given, (-1,))
    if rank_x == 1:
        given = b.unsqueeze(given, (-2,))
    dx = summed_to(b, b.matmul(given, _turned(b, right, max(rank_y, 2))), left, node)
    dy = summed_to(b, b.matmul(_turned(b, left, max(rank_x, 2)), given), right, node)
    return [b.squeeze(dx, (0,)) if rank_x == 1 else dx, b.squeeze(dy, (1,)) if rank_y == 1 else dy]


@vjp("gemm")
def _gemm(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    x, y, z = (*node.operands, None)[:3]
    alpha, turned_x, turned_y = node.attr("alpha"), node.attr("transA"), node.attr("transB")
    given = adjoint(g)
    dx = (
        b.gemm(y, given, alpha=alpha, transA=turned_y, transB=True)
        if turned_x
        else b.gemm(given, y, alpha=alpha, transB=not turned_y)
    )
    dy = (
        b.gemm(given, x, alpha=alpha, transA=True, transB=turned_x)
        if turned_y
        else b.gemm(x, given, alpha=alpha, transA=not turned_x)
    )
    dz = None if z is None else summed_to(b, b.mul(given, number(b, node.attr("beta"), given)), z, node)
    return [dx, dy, dz]


@vjp("conv")
def _conv(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """By x: the transposed convolution, filled up to x's size."""
    x, w, bias = (*node.operands, None)[:3]
    given = adjoint(g)
    full = _geometry(node, given)
    spare = _spare(full, x.shape[2:], given.shape[2:])  # type: ignore[union-attr, index]
    if any(s >= max(full.strides[i], full.dilations[i]) for i, s in enumerate(spare)):
        raise Unsupported("the derivative of conv whose pads leave more than a stride unused")
    groups = node.attr("groups")
    dx = b.conv_transpose(
        given, w, strides=full.strides, pads=(*full.begins, *full.ends), dilations=full.dilations, groups=groups,
        output_padding=spare,
    )  # fmt: skip
    return [dx, _by_filter(b, x, given, full, groups), _by_bias(b, bias, given)]  # type: ignore[arg-type]


@vjp("conv_transpose")
def _conv_transpose(b: Builder, node: Node, g: Handed) -> Sequence[Value | None]:
    """By x: the convolution, of as many places as x has."""
    x, w, bias = (*node.operands, None)[:3]
    given = adjoint(g)
    _known_sizes(node, given)
    full, made = transposed(
        window(w.shape[2:], **_window_attrs(node)),
        x.shape[2:],
        node.attr("output_padding"),
        node.attr("output_shape"),  # type: ignore[union-attr, index]
    )
    ends = tuple(e - s for e, s in zip(full.ends, _spare(full, made, x.shape[2:]), strict=True))  # type: ignore[union-attr, index, arg-type]
    groups = node.attr("groups")
    framed = _padded(b, given, full.begins, ends)
    dx = b.conv(framed, w, strides=full.strides, dilations=full.dilations, groups=groups)
    return [dx, _by_filter(b, given, x, full, groups), _by_bias(b, bias, given)]  # type: ignore[arg-type]


def _window_attrs(node: Node) -> dict[str, Any]:
    return {name: node.attr(name) for name in ("strides", "pads", "dilations", "auto_pad")}


def _known_sizes(node: Node, given: Value) -> None:
    """Raises Unsupported where a size is open, but for the batch."""
    x, w = node.operands[:2]
    dims = [d for v in (x, given) for d in (v.shape or (None,) * 3)[1:]] + list(w.shape or (None,))  # type: ignore[union-attr]
    if node.attr("channels_last") or not all(isinstance(d, int) for d in dims):
        raise Unsupported(f"the derivative of {node.name} needs channels in front and known sizes")


def _geometry(node: Node, given: Value) -> Window:
    """The window of a convolution, its padding explicit."""
    _known_sizes(node, given)
    x, w = node.operands[:2]
    return resolve_pads(window(w.shape[2:], **_window_attrs(node)), x.shape[2:])  # type: ignore[union-attr, index]


def _spare(full: Window, sizes: Sequence[Any], places: Sequence[Any]) -> tuple[int, ...]:
    """How many elements at the end of each padded axis no window reads; below 0 where the last window reaches beyond."""
    return tuple(
        size + begin + end - ((count - 1) * stride + extent)
        for size, begin, end, count, stride, extent in zip(
            sizes, full.begins, full.ends, places, full.strides, full.extents, strict=True
        )
    )


def _by_filter(b: Builder, x: Value, given: Value, full: Window, groups: int) -> Value:
    """The convolution of x with what came of it, batch and channels in each other's place and strides and dilations too;
    groups are told apart by slices of the channels."""
    spatial = len(full.kernel)
    swap = (1, 0, *range(2, 2 + spatial))
    spare = _spare(full, x.shape[2:], given.shape[2:])  # type: ignore[index, arg-type]
    ends = tuple(end - s for end, s in zip(full.ends, spare, strict=True))
    parts = []
    for i in range(groups):
        data, kernel = (b.transpose(_channels(b, v, i, groups), perm=swap) for v in (x, given))
        framed = _padded(b, data, full.begins, ends)
        made = b.conv(framed, kernel, strides=full.dilations, dilations=full.strides)
        parts.append(b.transpose(made, perm=swap))
    return parts[0] if groups == 1 else b.concat(*parts, axis=0)


def _by_bias(b: Builder, bias: Value | None, given: Value) -> Value | None:
    return None if bias is None else b.reduce_sum(given, (0, *range(2, given.rank or 2)), keepdims=False)


def _channels(b: Builder, x: Value, index: int, groups: int) -> Value:
    """Group `index` of the channels."""
    if groups == 1:
        return x
    size = x.shape[1] // groups  # type: ignore[index]
    return b.slice(x, (index * size,), ((index + 1) * size,), (1,))


def _padded(b: Builder, x: Value, begins: Sequence[int], ends: Sequence[int]) -> Value:
    """Zeros around the spatial axes; a negative number cuts off."""
    if not any((*begins, *ends)):
        return x
    return b.pad(x, (0, 0, *begins, 0, 0, *ends))
