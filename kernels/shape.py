"""Kernels of the shape family: pure data movement in numpy, any dtype; nothing is computed but indices.

Results never share memory with a caller's array that could be written: views of operands are returned where numpy gives
them, and no kernel writes into an operand.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir.errors import InvalidModel
from ..ir.ops.shapes import python_slice
from .registry import kernel

Array = np.ndarray


def as_ints(x: Array | None) -> list[int]:
    """The elements of an integer operand as Python ints; none for an absent one."""
    return [] if x is None else np.asarray(x).ravel().astype(np.int64, copy=False).tolist()


def norm_axes(axes: Sequence[int], rank: int, op: str) -> list[int]:
    """Non-negative, distinct axes. Raises InvalidModel for one out of range or named twice."""
    made = []
    for axis in axes:
        if not -rank <= axis < rank:
            raise InvalidModel(f"{op}: axis {axis} out of range for rank {rank}", code="F020")
        made.append(axis % rank)
    if len(set(made)) != len(made):
        raise InvalidModel(f"{op}: axes {list(axes)} name an axis twice", code="F020")
    return made


@kernel("reshape")
def reshape(x: Array, shape: Array, *, allowzero: bool) -> Array:
    """Row-major reshape; 0 copies a dim (unless `allowzero`), one -1 is inferred."""
    target = as_ints(shape)
    for i, dim in enumerate(target):
        if dim == 0 and not allowzero:
            if i >= x.ndim:
                raise InvalidModel(f"reshape: 0 at {i} copies a dim that {list(x.shape)} has not", code="F020")
            target[i] = x.shape[i]
    try:
        return x.reshape(target)
    except ValueError:
        raise InvalidModel(f"reshape: {list(x.shape)} does not fit {as_ints(shape)}", code="F020") from None


@kernel("transpose")
def transpose(x: Array, *, perm: tuple[int, ...]) -> Array:
    return np.ascontiguousarray(np.transpose(x, perm)) if x.ndim else x


@kernel("concat")
def concat(*xs: Array, axis: int) -> Array:
    return np.concatenate(xs, axis=axis)


@kernel("split")
def split(x: Array, split: Array | None = None, *, axis: int, num_outputs: int | None) -> tuple[Array, ...]:
    """Consecutive pieces along `axis`, of the lengths `split` or of ceil(dim / num_outputs), the last one the rest."""
    size = x.shape[axis]
    lengths = as_ints(split) if split is not None else even_split(size, num_outputs or 1)
    if sum(lengths) != size or any(n < 0 for n in lengths):
        raise InvalidModel(f"split: lengths {lengths} do not add up to {size}", code="F020")
    return tuple(np.split(x, np.cumsum(lengths)[:-1].tolist(), axis=axis))


def even_split(size: int, count: int) -> list[int]:
    """ONNX Split-18: chunks of ceil(size / count), the last one smaller; negative when that does not work out."""
    chunk = -(-size // count)
    return [chunk] * (count - 1) + [size - chunk * (count - 1)]


@kernel("slice")
def slice_(x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> Array:
    """Strided slices with clamped bounds; negative steps walk backwards (ONNX Slice-13)."""
    first, last = as_ints(starts), as_ints(ends)
    along = norm_axes(as_ints(axes) if axes is not None else range(len(first)), x.ndim, "slice")
    by = as_ints(steps) if steps is not None else [1] * len(first)
    if not len(first) == len(last) == len(along) == len(by):
        raise InvalidModel("slice: starts, ends, axes and steps differ in length", code="F020")
    if 0 in by:
        raise InvalidModel("slice: a step of 0", code="F020")
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(along, first, last, by, strict=True):
        index[axis] = python_slice(x.shape[axis], start, end, step)
    return x[tuple(index)]


@kernel("pad")
def pad(x: Array, pads: Array, value: Array | None = None, axes: Array | None = None, *, mode: str) -> Array:
    """Grow (or crop, where negative) each axis at both ends; crops come first, then the rest is padded.

    reflect mirrors without repeating the edge and goes on mirroring where the pad is wider than the axis; edge repeats
    the border; wrap treats the axis as a ring; constant fills with `value` (default zero).
    """
    along = norm_axes(as_ints(axes) if axes is not None else range(x.ndim), x.ndim, "pad")
    amounts = as_ints(pads)
    if len(amounts) != 2 * len(along):
        raise InvalidModel(f"pad: {len(amounts)} pads for {len(along)} axes", code="F020")
    pairs = list(zip(along, amounts[: len(along)], amounts[len(along) :], strict=True))
    for axis, before, after in pairs:
        kept = x.shape[axis] + min(before, 0) + min(after, 0)
        if kept < 0:
            raise InvalidModel(f"pad: axis {axis} of {x.shape[axis]} cropped by {before} and {after}", code="F020")
        x = x[(slice(None),) * axis + (slice(max(-before, 0), max(-before, 0) + kept),)]
    if mode == "constant":
        return _pad_constant(x, pairs, value)
    for axis, before, after in pairs:
        if before > 0 or after > 0:
            x = np.take(x, _pad_index(x.shape[axis], max(before, 0), max(after, 0), mode), axis=axis)
    return x


def _pad_constant(x: Array, pairs: list[tuple[int, int, int]], value: Array | None) -> Array:
    shape, index = list(x.shape), [slice(None)] * x.ndim
    for axis, before, after in pairs:
        shape[axis] += max(before, 0) + max(after, 0)
        index[axis] = slice(max(before, 0), max(before, 0) + x.shape[axis])
    zero = "" if x.dtype == np.object_ else 0
    out = np.full(shape, zero if value is None else np.asarray(value).reshape(-1)[0], dtype=x.dtype)
    out[tuple(index)] = x
    return out


def _pad_index(size: int, before: int, after: int, mode: str) -> Array:
    """For each position of a padded axis, the source position."""
    if size == 0:
        raise InvalidModel(f"pad: mode {mode} on an empty axis", code="F021")
    at = np.arange(-before, size + after)
    if mode == "edge":
        return np.clip(at, 0, size - 1)
    if mode == "wrap":
        return at % size
    period = max(2 * (size - 1), 1)
    at = at % period
    return np.minimum(at, period - at) if size > 1 else np.zeros_like(at)


@kernel("squeeze")
def squeeze(x: Array, axes: Array | None = None) -> Array:
    """Drop the given axes, or all axes of size 1. Raises InvalidModel for an axis of another size."""
    along = (
        [i for i, d in enumerate(x.shape) if d == 1] if axes is None else norm_axes(as_ints(axes), x.ndim, "squeeze")
    )
    for axis in along:
        if x.shape[axis] != 1:
            raise InvalidModel(f"squeeze: axis {axis} has size {x.shape[axis]}", code="F020")
    return x.squeeze(axis=tuple(along))


@kernel("unsqueeze")
def unsqueeze(x: Array, axes: Array) -> Array:
    """New axes of size 1 at the positions `axes` of the result."""
    given = as_ints(axes)
    shape = list(x.shape)
    for axis in sorted(norm_axes(given, x.ndim + len(given), "unsqueeze")):
        shape.insert(axis, 1)
    return x.reshape(shape)


@kernel("expand")
def expand(x: Array, shape: Array) -> Array:
    """Broadcast both ways: the result shape is numpy's broadcast of x.shape and `shape`."""
    try:
        return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(as_ints(shape)))).copy()
    except ValueError:
        raise InvalidModel(f"expand: {list(x.shape)} does not broadcast with {as_ints(shape)}", code="F020") from None


@kernel("tile")
def tile(x: Array, repeats: Array) -> Array:
    times = as_ints(repeats)
    if len(times) != x.ndim or any(n < 0 for n in times):
        raise InvalidModel(f"tile: repeats {times} for rank {x.ndim}", code="F020")
    return np.tile(x, times)


@kernel("flatten")
def flatten(x: Array, *, axis: int) -> Array:
    """2-D: the product of the dims before `axis` by the product of the others."""
    cut = axis if axis >= 0 else axis + x.ndim
    return x.reshape(int(np.prod(x.shape[:cut], dtype=np.int64)), int(np.prod(x.shape[cut:], dtype=np.int64)))
