"""Scales and zero points: how a range of numbers becomes a grid of integers. Arithmetic on arrays; knows no graph.

x^ = scale * (q - zero_point), q = clip(round_half_even(x / scale) + zero_point, low, high) (Jacob et al., 1712.05877,
section 2.1). Every range is widened to hold 0, so that padding and ReLU stay exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...ir.types import I4, I8, I16, I32, U8, DType

#: Smallest scale: the product of two of them is still a normal float32.
FLOOR = 2.0**-60
#: Integer biases stay below this, so that adding one to an accumulator cannot overflow 32 bits by itself.
BIAS_LIMIT = 2**30
#: An all-zero channel has no range of its own: its scale follows from its bias, which then takes this many steps.
BIAS_STEPS = 2**24
#: Parts of the largest magnitude that the search for a weight's clipping point tries, the whole one first.
CLIPS = tuple(np.linspace(1.0, 0.3, 71))


class Grid(NamedTuple):
    """The integers that values of one kind are laid on."""

    dtype: DType
    low: int
    high: int
    symmetric: bool

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid."""
        return (self.low + self.high + 1) // 2


ACTIVATIONS = {
    "int8": Grid(I8, -128, 127, False),
    "uint8": Grid(U8, 0, 255, False),
    "int16": Grid(I16, -32767, 32767, True),
}
#: The same with the zero point in the middle.
SYMMETRIC = {
    "int8": Grid(I8, -127, 127, True),
    "uint8": Grid(U8, 1, 255, True),
    "int16": ACTIVATIONS["int16"],
}
#: Weights are symmetric and use no -128 or -8: targets' kernels rely on it.
WEIGHTS = {"int8": Grid(I8, -127, 127, True), "int4": Grid(I4, -7, 7, True)}


class Params(NamedTuple):
    """A float32 scale of rank 0 or of the data's rank (entries above its shape's 1s serve channels or blocks), and a zero
    point of the storage dtype, None for 0. `block` is the size of blocks whose last one is shorter, else 0."""

    scale: np.ndarray
    zero: np.ndarray | None
    grid: Grid
    block: int = 0

    @property
    def dtype(self) -> DType:
        return self.grid.dtype


def affine(low: float, high: float, grid: Grid) -> Params:
    """One scale and zero point for the range [low, high], widened to hold 0. A range of nothing gets scale 1.

    Raises ValueError for bounds that are not finite.
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"the range [{low}, {high}] is not finite")
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if grid.symmetric:
        bound = max(-low, high)
        steps = grid.high - grid.middle
        scale = np.float32(max(bound / steps, FLOOR)) if bound else np.float32(1)
        zero = grid.middle
    else:
        scale = np.float32(max((high - low) / (grid.high - grid.low), FLOOR)) if high > low else np.float32(1)
        zero = int(np.clip(np.rint(grid.low - low / float(scale)), grid.low, grid.high))
    return Params(np.asarray(scale), np.asarray(zero, grid.dtype.numpy), grid)


def fixed(low: float, high: float, name: str) -> Params:
    """The parameters that TensorFlow Lite's specification fixes for results with the range [low, high]: 256 steps, or
    32768 on either side of 0. `name` is that of an activation grid."""
    grid = ACTIVATIONS[name]
    if name == "int16":
        return Params(np.asarray(max(-low, high) / 32768, np.float32), np.zeros((), np.int16), grid)
    scale = (high - low) / 256
    zero = int(min(grid.low - low / scale, grid.high))
    return Params(np.asarray(scale, np.float32), np.asarray(zero, grid.dtype.numpy), grid)


def spans(array: np.ndarray, axes: Sequence[int], block: tuple[int, int] | None = None) -> np.ndarray:
    """max |w| for every index of `axes`, and in blocks of `size` along `axis` for `block` = (axis, size); of the rank of
    `array`, 1 along the other axes."""
    magnitude = np.abs(array.astype(np.float64))
    if block is not None:
        axis, size = block
        starts = np.arange(0, array.shape[axis], size)
        magnitude = np.maximum.reduceat(magnitude, starts, axis=axis)
        axes = (*axes, axis)
    others = tuple(i for i in range(array.ndim) if i not in axes)
    return magnitude.max(axis=others, keepdims=True) if others else magnitude


def weight_params(
    array: np.ndarray,
    grid: Grid,
    axes: Sequence[int] = (),
    block: tuple[int, int] | None = None,
    clip: bool = False,
) -> Params:
    """Symmetric parameters of a weight: one scale in all, one per index of `axes`, or one per block.

    `clip` looks for the scale of the least squared error among parts of the largest magnitude: worth it at 4 bits. An
    all-zero channel gets scale 1. Raises ValueError where the weight has no elements or is not finite.
    """
    if not array.size or not np.isfinite(array).all():
        raise ValueError("the weight is empty, or not finite")
    steps = grid.high - grid.middle
    bound = spans(array, axes, block)
    if clip:
        bound = bound * _best_clip(array, bound, grid, axes, block)
    scale = np.where(bound > 0, np.maximum(bound / steps, FLOOR), 1.0).astype(np.float32)
    short = block is not None and array.shape[block[0]] % block[1] != 0
    if not axes and block is None:
        scale = scale.reshape(())
    return Params(scale, None, grid, block[1] if short and block else 0)


def _best_clip(
    array: np.ndarray, bound: np.ndarray, grid: Grid, axes: Sequence[int], block: tuple[int, int] | None
) -> np.ndarray:
    """For each scale, the part of its largest magnitude that gives the least squared error."""
    best = np.full(bound.shape, np.inf)
    part = np.ones(bound.shape)
    size = block[1] if block is not None else 0
    kept = (*axes, block[0]) if block is not None else tuple(axes)
    others = tuple(i for i in range(array.ndim) if i not in kept)
    steps = grid.high - grid.middle
    for clip in CLIPS:
        scale = spread(np.where(bound > 0, bound * clip / steps, 1.0), array.shape, size)
        error = (np.clip(np.rint(array / scale), -steps, steps) * scale - array) ** 2
        if block is not None:
            error = np.add.reduceat(error, np.arange(0, array.shape[block[0]], block[1]), axis=block[0])
        total = error.sum(axis=others, keepdims=True) if others else error
        better = total < best
        best, part = np.where(better, total, best), np.where(better, clip, part)
    return part


def spread(scale: np.ndarray, shape: Sequence[int], block: int = 0) -> np.ndarray:
    """`scale` with each block's entry repeated, so that it broadcasts to `shape`."""
    if scale.ndim == 0:
        return scale
    for axis, (have, want) in enumerate(zip(scale.shape, shape, strict=True)):
        if have not in (1, want):
            scale = np.repeat(scale, block or want // have, axis=axis)
            scale = scale[(slice(None),) * axis + (slice(want),)]
    return scale


def to_integers(array: np.ndarray, params: Params) -> np.ndarray:
    """The integers that stand for `array`: rounded half to even in float32, as the quantize op does, within the grid."""
    scale = spread(params.scale, array.shape, params.block)
    zero = 0.0 if params.zero is None else params.zero.astype(np.float64)
    levels = np.rint(array.astype(np.float32) / scale).astype(np.float64) + zero
    return np.asarray(np.clip(levels, params.grid.low, params.grid.high), params.dtype.numpy)


def to_floats(integers: np.ndarray, params: Params) -> np.ndarray:
    """scale * (q - zero_point) in float32, as the dequantize op does."""
    scale = spread(params.scale, integers.shape, params.block)
    zero = 0.0 if params.zero is None else params.zero.astype(np.float64)
    return np.asarray((integers.astype(np.float64) - zero) * scale, np.float32)


def raised_for_bias(weight: Params, bias: np.ndarray, data: Params, axis: int | None, empty: np.ndarray) -> Params:
    """`weight` with scales large enough that every bias fits its integer: |b| <= BIAS_LIMIT * s_x * s_w.

    `axis` is the output channel's axis in the weight's scale (None: one scale for all). Where `empty` says that a scale
    belongs to zeros only, it is set so that the bias takes BIAS_STEPS steps.
    """
    need = np.abs(bias.astype(np.float64).reshape(-1)) / float(data.scale)
    if weight.scale.ndim and axis is not None:
        need = need.reshape(tuple(-1 if i == axis else 1 for i in range(weight.scale.ndim)))
        if need.shape[axis] != weight.scale.shape[axis]:  # groups share the scales of a transposed convolution
            need = need.reshape(-1, weight.scale.shape[axis]).max(axis=0).reshape(weight.scale.shape)
    else:
        need = need.max(initial=0.0)
    scale = np.where(empty & (need > 0), need / BIAS_STEPS, weight.scale)
    scale = np.maximum(np.maximum(scale, need / BIAS_LIMIT), FLOOR)
    return weight._replace(scale=np.asarray(scale, np.float32))


def bias_params(weight: Params, data: Params, channels: int) -> Params:
    """The scale of a bias vector: s_x * s_w per channel, rounded to float32 once, zero point 0."""
    scale = np.asarray(data.scale * weight.scale, np.float32)
    if scale.ndim:
        scale = np.tile(scale.reshape(-1), channels // scale.size)
    info = np.iinfo(np.int32)
    return Params(scale, None, Grid(I32, int(info.min), int(info.max), True))


def bias_integers(bias: np.ndarray, params: Params) -> np.ndarray:
    """round_half_even(b / (s_x s_w)) as int32."""
    levels = np.rint(bias.astype(np.float64) / params.scale.astype(np.float64))
    return np.clip(levels, params.grid.low, params.grid.high).astype(np.int32)
