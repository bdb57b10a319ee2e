"""Handlers for what `net.py` files use besides aten operators: the helpers of `formats/torch_helpers.py`, indexing, and
functions of torch.nn.functional that choose among operators. Must not import torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.errors import InvalidModel, Unsupported
from ...ir.types import F32, I64
from ...ir.value import Value
from .context import Context
from .registry import Bool, Dtype, Floats, Int, Ints, Operand, Size, Sizes, Str, Tensor, handles


@handles("anyir.topk")
def topk(c: Context, x: Tensor, k: Size, axis: Int, largest: Bool) -> tuple[Value, ...]:
    return c.b.topk(x, c.sizes((k,)), axis=axis, largest=largest, sorted=True)


@handles("anyir.gather_elements")
def gather_elements(c: Context, x: Tensor, indices: Tensor, axis: Int) -> Value:
    return c.b.gather_elements(x, indices, axis=axis)


@handles("anyir.gather_nd")
def gather_nd(c: Context, x: Tensor, indices: Tensor) -> Value:
    return c.b.gather_nd(x, indices)


@handles("anyir.scatter_elements")
def scatter_elements(c: Context, x: Tensor, indices: Tensor, updates: Tensor, axis: Int, reduction: Str) -> Value:
    return c.b.scatter_elements(x, indices, updates, axis=axis, reduction=reduction)


@handles("anyir.scatter_nd")
def scatter_nd(c: Context, x: Tensor, indices: Tensor, updates: Tensor, reduction: Str) -> Value:
    return c.b.scatter_nd(x, indices, updates, reduction=reduction)


@handles("anyir.non_zero")
def non_zero(c: Context, x: Tensor) -> Value:
    return c.b.non_zero(x)


@handles("anyir.int_tensor")
def int_tensor(c: Context, values: Sizes, shape: Sizes, dtype: Dtype) -> Value:
    return c.cast(c.reshape(c.sizes(values), shape), dtype)


@handles("anyir.max_pool_with_indices")
def max_pool_with_indices(
    c: Context, x: Tensor, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: Bool
) -> tuple[Value, ...]:
    return c.b.max_pool_with_indices(
        x, kernel_shape=kernel_size, strides=stride, pads=padding * 2, dilations=dilation, ceil_mode=ceil_mode
    )


def _hidden(c: Context, r: Value) -> int:
    if c.rank(r) != 3:
        raise InvalidModel("recurrent weights of another rank than 3")
    return c.fixed(r, 2)


@handles("anyir.lstm")
def lstm(
    c: Context, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, h0: Tensor | None, c0: Tensor | None, direction: Str
) -> tuple[Value, ...]:
    return c.b.lstm(x, w, r, b, None, h0, c0, hidden_size=_hidden(c, r), direction=direction)


@handles("anyir.gru")
def gru(
    c: Context, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, h0: Tensor | None, direction: Str
) -> tuple[Value, ...]:
    return c.b.gru(x, w, r, b, None, h0, hidden_size=_hidden(c, r), direction=direction, linear_before_reset=True)


@handles("anyir.rnn")
def rnn(
    c: Context,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    h0: Tensor | None,
    direction: Str,
    activations: Any = (),
) -> tuple[Value, ...]:
    return c.b.rnn(x, w, r, b, None, h0, hidden_size=_hidden(c, r), direction=direction, activations=activations)


@handles("anyir.slice")
def slice_(c: Context, x: Tensor, starts: Sizes, ends: Sizes, steps: Sizes) -> Value:
    """`x[a:b:s, ...]` over the first axes; whole axes are (0, end, 1)."""
    rows = list(zip(range(len(starts)), starts, ends, steps, strict=True))
    cut = [r for r in rows if r[1:] != (0, END, 1)]
    if not cut:
        return x
    return c.b.slice(x, *(c.sizes([r[i] for r in cut]) for i in (1, 2, 0, 3)))


#: The bound of a slice that runs to the end.
END = (1 << 63) - 1


@handles("anyir.item")
def item(c: Context, x: Tensor, index: Operand, axis: Int) -> Value:
    """`x[:, index]`: one position, or those of a tensor."""
    return c.b.gather(x, index if isinstance(index, Value) else c.value(index, I64), axis=axis)


_MODES: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "nearest-exact": {
        "mode": "nearest",
        "coordinate_transformation_mode": "half_pixel",
        "nearest_mode": "round_prefer_ceil",
    },
} | {
    name: {"mode": mode, "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.75}
    for name, mode in (("linear", "linear"), ("bilinear", "linear"), ("trilinear", "linear"), ("bicubic", "cubic"))
}


@handles("anyir.interpolate")
def interpolate(
    c: Context, input: Tensor, size: Sizes | None = None, scale_factor: Floats | None = None, mode: Str = "nearest",
    align_corners: Bool = False,
) -> Value:  # fmt: skip
    attrs = dict(_MODES.get(mode, ()))
    axes = tuple(range(2, c.rank(input)))
    if not attrs or (size is None) == (scale_factor is None) or len(size or scale_factor or ()) != len(axes):
        raise Unsupported(f"interpolate of this kind ({mode})")
    if align_corners:
        attrs["coordinate_transformation_mode"] = "align_corners"
    if scale_factor is not None:
        return c.b.resize(input, None, c.b.const(np.asarray(scale_factor, np.float32), F32), None, axes=axes, **attrs)
    return c.b.resize(input, None, None, c.sizes(size or ()), axes=axes, **attrs)


_SAMPLING = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}


@handles("anyir.grid_sample")
def grid_sample(c: Context, input: Tensor, grid: Tensor, mode: Str, padding_mode: Str, align_corners: Bool) -> Value:
    if mode not in _SAMPLING:
        raise InvalidModel(f"grid_sample mode {mode!r}")
    return c.b.grid_sample(input, grid, mode=_SAMPLING[mode], padding_mode=padding_mode, align_corners=align_corners)
