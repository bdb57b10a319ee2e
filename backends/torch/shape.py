"""Torch expressions of shape ops. Shapes stand in the text as numbers and as sizes read from inputs (`n0`)."""

from __future__ import annotations

from typing import Any

from ...ir.dims import Dim
from ...ir.expr import Expr
from ...ir.value import Node, Value
from .calls import DEVICE, Call, Refusal, axis_of, known, known_ints, number, only, rank_of, row, shape_of

_END = (1 << 31) - 1  # bounds from here on mean "to the end"


def target_shape(node: Node) -> tuple[Dim, ...]:
    """The result's shape, with -1 for the only size known at run time."""
    shape = shape_of(node.result, "result")
    unknown = [i for i, dim in enumerate(shape) if isinstance(dim, Expr)]
    if len(unknown) != 1 or 0 in shape:
        return shape
    return tuple(-1 if i == unknown[0] else dim for i, dim in enumerate(shape))


@row("reshape")
def reshape(node: Node) -> Call:
    return Call("torch.reshape", node.operands[0], target_shape(node))


@row("transpose")
def transpose(node: Node) -> Call:
    return Call("torch.permute", *node.operands, node.attr("perm"))


@row("concat")
def concat(node: Node) -> Call:
    return Call("torch.cat", tuple(node.operands), dim=node.attr("axis"))


@row("split")
def split(node: Node) -> Call:
    x = node.operands[0]
    assert x is not None
    axis = axis_of(node.attr("axis"), rank_of(x))
    return Call("torch.split", x, tuple(shape_of(part)[axis] for part in node.results), dim=axis)


@row("slice")
def slice_(node: Node) -> Call:
    """Python's own slices: the IR's negative and clamped bounds are theirs."""
    x, starts, ends, axes, steps = (*node.operands, None, None)[:5]
    assert x is not None
    begin, end = known(starts, "starts"), known(ends, "ends")
    where = known_ints(axes, "axes") if axes is not None else tuple(range(len(begin)))
    strides = known_ints(steps, "steps") if steps is not None else (1,) * len(begin)
    items: list[Any] = [slice(None)] * rank_of(x)
    for axis, a, b, s in zip(where, begin, end, strides, strict=True):
        if s < 1:
            raise Refusal(f"a slice with step {s}")
        stop = None if isinstance(b, int) and b >= _END else b
        items[axis_of(axis, rank_of(x))] = slice(None if a == 0 else a, stop, None if s == 1 else s)
    while items and items[-1] == slice(None):
        items.pop()
    return Call("[]", x, tuple(items) or (slice(None),))


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@row("pad")
def pad(node: Node) -> Call:
    """torch names (begin, end) from the last axis backwards; other than constant modes want batch and channel axes left."""
    x, pads, value, axes = (*node.operands, None, None)[:4]
    assert x is not None
    rank, amounts = rank_of(x), known(pads, "pads")
    where = known_ints(axes, "axes") if axes is not None else tuple(range(rank))
    by_axis = {axis_of(axis, rank): (amounts[i], amounts[i + len(where)]) for i, axis in enumerate(where)}
    touched = [axis for axis, pair in by_axis.items() if pair != (0, 0)]
    first = min(touched, default=rank - 1)
    mode = node.attr("mode")
    if mode != "constant":
        first = _border_axes(rank, first, mode, [d for pair in by_axis.values() for d in pair])
    flat = tuple(side for axis in range(rank - 1, first - 1, -1) for side in by_axis.get(axis, (0, 0)))
    if mode != "constant":
        return Call("F.pad", x, flat, mode=_MODES[mode])
    fill = 0 if value is None else number(value)
    if fill is None:
        raise Refusal("the padding value is not a constant")
    return Call("F.pad", x, flat, mode="constant", value=fill)


def _border_axes(rank: int, first: int, mode: str, amounts: list[Dim]) -> int:
    """torch's border modes pad exactly the last rank - 2 (or rank - 1) axes, 1 to 3 of them."""
    if any(not isinstance(a, int) or a < 0 for a in amounts):
        raise Refusal(f"{mode} padding by sizes known at run time, or that crops")
    count = max(rank - first, 1)
    options = [n for n in (rank - 2, rank - 1) if n >= count and 1 <= n <= 3]
    if not options:
        raise Refusal(f"{mode} padding of the first axes")
    return rank - options[0]


@row("squeeze")
def squeeze(node: Node) -> Call:
    x, axes = (*node.operands, None)[:2]
    assert x is not None
    rank = rank_of(x)
    if axes is None:
        where = tuple(i for i, dim in enumerate(shape_of(x)) if dim == 1)
        if rank - len(where) != rank_of(node.result):
            raise Refusal("which axes go is known only at run time")
    else:
        where = tuple(axis_of(a, rank) for a in known_ints(axes, "axes"))
    return Call("torch.squeeze", x, dim=where)


@row("unsqueeze")
def unsqueeze(node: Node) -> Call:
    x, axes = node.operands
    where = known_ints(axes, "axes")
    if len(where) != 1:
        raise Refusal("torch adds one axis at a time")
    return Call("torch.unsqueeze", x, where[0])


@row("expand")
def expand(node: Node) -> Call:
    fill, shape = number(node.operands[0]), shape_of(node.result, "result")
    if fill is not None:
        return Call("torch.full", shape, fill, dtype=node.result.dtype, device=DEVICE)
    return Call("torch.broadcast_to", node.operands[0], shape)


@row("tile")
def tile(node: Node) -> Call:
    return Call("torch.tile", node.operands[0], known(node.operands[1], "repeats"))


@row("range")
def range_(node: Node) -> Call:
    bounds = [_scalar(value) for value in node.operands]
    if node.result.shape == (0,):
        return Call("torch.full", (0,), 0, dtype=node.result.dtype, device=DEVICE)
    return Call("torch.arange", *bounds, dtype=node.result.dtype, device=DEVICE)


def _scalar(value: Value | None) -> Any:
    found = number(value)
    return found if found is not None else known(value, "bound")[0]


@row("constant_of_shape")
def constant_of_shape(node: Node) -> Call:
    return Call("torch.full", shape_of(node.result, "result"), _fill(node), dtype=node.result.dtype, device=DEVICE)


def _fill(node: Node) -> int | float | bool:
    value = node.attr("value")
    return value if node.result.dtype is None or node.result.dtype.is_float else int(value)


@row("depth_to_space")
def depth_to_space(node: Node) -> Call:
    only(node, "blocksize", "mode")
    if node.attr("mode") != "CRD":
        raise Refusal("torch shuffles with the channel first")
    return Call("F.pixel_shuffle", *node.operands, node.attr("blocksize"))


@row("trilu")
def trilu(node: Node) -> Call:
    x, k = (*node.operands, None)[:2]
    (diagonal,) = known_ints(k, "diagonal") if k is not None else (0,)
    return Call("torch.triu" if node.attr("upper") else "torch.tril", x, diagonal=diagonal)


@row("reverse")
def reverse(node: Node) -> Call:
    x = node.operand("x")
    return Call("torch.flip", x, tuple(axis_of(axis, rank_of(x)) for axis in node.attr("axes")))


@row("eye_like")
def eye_like(node: Node) -> Call:
    if node.attr("k"):
        raise Refusal("torch.eye has the main diagonal only")
    rows, columns = shape_of(node.result, "result")
    return Call("torch.eye", rows, columns, dtype=node.result.dtype, device=DEVICE)
