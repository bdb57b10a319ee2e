"""aten convolutions. Must not import torch."""

from __future__ import annotations

from ...ir.errors import InvalidModel
from ...ir.value import Value
from .context import Context
from .registry import Bool, Int, Ints, Str, Tensor, handles


def spread(values: tuple[int, ...], count: int, what: str) -> tuple[int, ...]:
    """One number for each of `count` axes; a single one is meant for all."""
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise InvalidModel(f"{what} has {len(values)} numbers for {count} axes")
    return values


def batched(c: Context, x: Value, rank: int) -> tuple[Value, bool]:
    """`x` with a batch axis in front if it has none; and whether one was added."""
    if c.rank(x) == rank - 1:
        return c.b.unsqueeze(x, (0,)), True
    if c.rank(x) != rank:
        raise InvalidModel(f"an input of rank {c.rank(x)} where {rank} or {rank - 1} is expected")
    return x, False


def _spatial(c: Context, weight: Value) -> int:
    if c.rank(weight) < 3:
        raise InvalidModel(f"a convolution weight of rank {c.rank(weight)}")
    return c.rank(weight) - 2


def _conv(
    c: Context,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Ints,
    pads: tuple[int, ...],
    dilation: Ints,
    groups: int,
) -> Value:
    n = _spatial(c, weight)
    x, added = batched(c, x, n + 2)
    y = c.b.conv(
        x,
        weight,
        bias,
        strides=spread(stride, n, "stride"),
        pads=pads,
        dilations=spread(dilation, n, "dilation"),
        groups=groups,
    )
    return c.b.squeeze(y, (0,)) if added else y


@handles("aten.conv1d", "aten.conv2d", "aten.conv3d")
def conv(
    c: Context, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = (1,), padding: Ints = (0,),
    dilation: Ints = (1,), groups: Int = 1,
) -> Value:  # fmt: skip
    pads = spread(padding, _spatial(c, weight), "padding")
    return _conv(c, input, weight, bias, stride, pads * 2, dilation, groups)


@handles("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")
def conv_padding(
    c: Context, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = (1,), padding: Str = "valid",
    dilation: Ints = (1,), groups: Int = 1,
) -> Value:  # fmt: skip
    """`same` pads d * (k - 1) in all, the odd one at the end (stride is 1 there)."""
    n = _spatial(c, weight)
    if padding not in ("same", "valid"):
        raise InvalidModel(f"padding {padding!r}")
    total = [d * (c.fixed(weight, 2 + i) - 1) for i, d in enumerate(spread(dilation, n, "dilation"))]
    begins = tuple(t // 2 if padding == "same" else 0 for t in total)
    ends = tuple(t - t // 2 if padding == "same" else 0 for t in total)
    return _conv(c, input, weight, bias, stride, begins + ends, dilation, groups)


@handles("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def conv_transpose(
    c: Context, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = (1,), padding: Ints = (0,),
    output_padding: Ints = (0,), groups: Int = 1, dilation: Ints = (1,),
) -> Value:  # fmt: skip
    n = _spatial(c, weight)
    x, added = batched(c, input, n + 2)
    y = c.b.conv_transpose(
        x, weight, bias, strides=spread(stride, n, "stride"), pads=spread(padding, n, "padding") * 2,
        output_padding=spread(output_padding, n, "output_padding"), dilations=spread(dilation, n, "dilation"), groups=groups,
    )  # fmt: skip
    return c.b.squeeze(y, (0,)) if added else y


@handles("aten.convolution", "aten._convolution")
def convolution(
    c: Context, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Ints, padding: Ints, dilation: Ints,
    transposed: Bool, output_padding: Ints, groups: Int, benchmark: Bool = False, deterministic: Bool = False,
    allow_tf32: Bool = False,
) -> Value:  # fmt: skip
    if transposed:
        return conv_transpose(c, input, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(c, input, weight, bias, stride, padding, dilation, groups)
