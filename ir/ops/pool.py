"""Pooling over the spatial axes of [N, C, *S]: sliding, global and adaptive windows, and max_unpool."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Dim, Expr, dim_max
from ..errors import TypeInferError
from ..opdef import PURE, SAME_QUANT, SPATIAL, Axis, AxisMap, DtypeVar, OpDef, Sample, attr, ints, op, operand, optional
from ..types import FLOAT, I8, I16, I32, I64, U8, U16, TensorType
from . import rules
from .window import AUTO_PAD, output_sizes, window

if TYPE_CHECKING:
    from ..value import Value

T = DtypeVar("T", FLOAT)
M = DtypeVar("M", FLOAT | {I8, I16, I32, U8, U16})


def _pooled(x: Any, kernel_shape: tuple[int, ...], ceil_mode: bool, channels_last: bool, **geometry: Any) -> TensorType:
    """The type of a sliding pool's result. Raises TypeInferError."""
    rank = len(kernel_shape)
    shape = rules.ranked(x, f"x (with kernel_shape {list(kernel_shape)})", rank + 2)
    made = window(kernel_shape, **geometry)
    for begin, end, taps, dilation in zip(made.begins, made.ends, made.kernel, made.dilations, strict=True):
        if not 0 <= begin < taps * dilation or not 0 <= end < taps * dilation:
            raise TypeInferError(f"pads {begin} and {end} must be smaller than the window of {taps * dilation}")
    if shape is None:
        return x.type
    batch, channels, *spatial = rules.channels_first(shape, channels_last)
    sizes = output_sizes(made, tuple(spatial), ceil_mode)
    for size, source in zip(sizes, spatial, strict=True):
        if isinstance(size, int) and size <= 0 and source != 0:
            raise TypeInferError(
                f"kernel_shape {list(kernel_shape)} is larger than the padded input {rules.show(spatial)}"
            )
    return x.type.with_shape(rules.in_layout((batch, channels, *sizes), channels_last))


def _channel_axes(x: Value, channels_last: bool) -> AxisMap | None:
    """Batch and channels pass, spatial axes are pinned."""
    if x.shape is None:
        return None
    row = rules.data_axes(len(x.shape), channels_last, Axis("c"))
    return AxisMap((row,), (row,))


def _spatial_rank(x: Value) -> tuple[Dim, ...] | None:
    return rules.ranked(x, "x", least=2)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


class _Sliding(OpDef):
    """What all sliding pools declare."""

    x = operand(T)
    kernel_shape = attr(ints)
    strides = attr(ints, ())
    pads = attr(ints, ())
    dilations = attr(ints, ())
    ceil_mode = attr(bool, False)
    auto_pad = attr(str, "explicit", choices=AUTO_PAD)
    channels_last = attr(bool, False)
    traits = PURE | SPATIAL

    def infer(self, x, *, kernel_shape, ceil_mode, channels_last, strides, pads, dilations, auto_pad, **_):
        geometry = {"strides": strides, "pads": pads, "dilations": dilations, "auto_pad": auto_pad}
        return _pooled(x, kernel_shape, ceil_mode, channels_last, **geometry)

    def axes(self, x, *, channels_last, **_):
        return _channel_axes(x, channels_last)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, attrs in POOL_SAMPLES:
            yield Sample((_normal(rng, *shape),), attrs)


@op
class MaxPool(_Sliding):
    """Largest value in each window; padding never wins (ONNX MaxPool-22)."""

    x = operand(M)
    storage_order = attr(int, 0, choices=(0, 1))
    traits = PURE | SPATIAL | SAME_QUANT

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield from super().samples(rng)
        yield Sample((rng.integers(-128, 128, (1, 2, 5, 4)).astype(np.int8),), {"kernel_shape": (2, 2)})


@op
class MaxPoolWithIndices(MaxPool):
    """max_pool and, as i64, the flat index into x of each maximum, the first among equals.

    Indices count as if x were channels-first; storage_order 1 numbers the spatial axes column-major.
    """

    results = ("y", "indices")

    def infer(self, x, **attrs):
        made = super().infer(x, **attrs)
        return [made, made.with_dtype(I64)]

    def axes(self, x, **_):
        return None  # the indices name places in the whole input, so no axis may be permuted

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield from super().samples(rng)
        yield Sample((_normal(rng, 2, 3, 5, 4),), {"kernel_shape": (2, 2), "storage_order": 1})


@op
class AveragePool(_Sliding):
    """Mean of each window; `count_include_pad` lets padding count as zeros (ONNX AveragePool-22)."""

    count_include_pad = attr(bool, False)
    traits = PURE | SPATIAL | SAME_QUANT

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for sample in super().samples(rng):
            yield sample
            yield sample._replace(attrs={**sample.attrs, "count_include_pad": True})


@op
class LpPool(_Sliding):
    """(sum of |x|^p)^(1/p) of each window (ONNX LpPool-22)."""

    p = attr(int, 2)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for p, sample in enumerate(super().samples(rng)):
            yield sample._replace(attrs={**sample.attrs, "p": p % 3 + 1})


class _Global(OpDef):
    x = operand(T)
    channels_last = attr(bool, False)
    traits = PURE | SPATIAL

    def infer(self, x, *, channels_last, **_):
        shape = _spatial_rank(x)
        if shape is None:
            return x.type
        batch, channels, *spatial = rules.channels_first(shape, channels_last)
        return x.type.with_shape(rules.in_layout((batch, channels, *(1 for _ in spatial)), channels_last))

    def axes(self, x, *, channels_last, **_):
        return _channel_axes(x, channels_last)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((_normal(rng, 2, 3, 5, 4),))
        yield Sample((_normal(rng, 2, 5, 4, 3),), {"channels_last": True})
        yield Sample((_normal(rng, 1, 2, 7),))
        yield Sample((_normal(rng, 1, 2, 3, 2, 4),))


@op
class GlobalAveragePool(_Global):
    """Mean over all spatial axes, which stay with size 1."""

    traits = PURE | SPATIAL | SAME_QUANT


@op
class GlobalMaxPool(_Global):
    """Largest value over all spatial axes, which stay with size 1."""

    x = operand(M)
    traits = PURE | SPATIAL | SAME_QUANT


@op
class GlobalLpPool(_Global):
    """(sum of |x|^p)^(1/p) over all spatial axes, which stay with size 1."""

    p = attr(int, 2)


class _Adaptive(OpDef):
    x = operand(T)
    output_size = attr(ints)
    channels_last = attr(bool, False)
    traits = PURE | SPATIAL

    def infer(self, x, *, output_size, channels_last):
        if not output_size or min(output_size) < 1:
            raise TypeInferError(f"output_size is {list(output_size)}; expected one positive size per spatial axis")
        shape = rules.ranked(x, f"x (with output_size {list(output_size)})", len(output_size) + 2)
        if shape is None:
            return x.type
        batch, channels, *_ = rules.channels_first(shape, channels_last)
        return x.type.with_shape(rules.in_layout((batch, channels, *output_size), channels_last))

    def axes(self, x, *, channels_last, **_):
        return _channel_axes(x, channels_last)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((_normal(rng, 2, 3, 7, 5),), {"output_size": (3, 2)})
        yield Sample((_normal(rng, 2, 7, 5, 3),), {"output_size": (2, 5), "channels_last": True})
        yield Sample((_normal(rng, 1, 2, 4),), {"output_size": (6,)})
        yield Sample((_normal(rng, 1, 2, 4, 3, 5),), {"output_size": (1, 2, 3)})


@op
class AdaptiveAveragePool(_Adaptive):
    """Mean over windows floor(i S / out) .. ceil((i + 1) S / out) along each spatial axis (torch's adaptive pools)."""


@op
class AdaptiveMaxPool(_Adaptive):
    """Largest value over the windows of adaptive_average_pool."""

    x = operand(M)


@op
class MaxUnpool(OpDef):
    """Zeros, but each x at its flat index (ONNX MaxUnpool-22): undoes max_pool_with_indices.

    Without `output_shape` spatial dims are (S - 1) * stride - pads + kernel.
    """

    x = operand(T)
    indices = operand(frozenset({I64}))
    output_shape = optional(frozenset({I64}))
    kernel_shape = attr(ints)
    strides = attr(ints, ())
    pads = attr(ints, ())
    reads_elems = True

    def infer(self, x, indices, output_shape, *, kernel_shape, strides, pads):
        shape = rules.ranked(x, f"x (with kernel_shape {list(kernel_shape)})", len(kernel_shape) + 2)
        made = window(kernel_shape, strides, pads)
        if shape is None:
            return x.type
        if indices.shape is not None:
            if len(indices.shape) != len(shape):
                raise TypeInferError(f"indices of shape {rules.show(indices.shape)} for x of shape {rules.show(shape)}")
            shape = tuple(rules.agree(a, b, "x and indices") for a, b in zip(shape, indices.shape, strict=True))
        if output_shape is not None:
            return x.type.with_shape(_given_shape(output_shape, len(shape)))
        sizes = [
            (size - 1) * made.strides[i] + made.kernel[i] - made.begins[i] - made.ends[i]
            for i, size in enumerate(shape[2:])
        ]
        return x.type.with_shape((*shape[:2], *(max(s, 0) if isinstance(s, int) else dim_max(s, 0) for s in sizes)))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, given in (((1, 2, 2, 3), None), ((2, 1, 3, 2), (2, 1, 7, 6))):
            x = _normal(rng, *shape)
            places = rng.permutation(math.prod(shape) * 4)[: x.size].reshape(shape)
            target = None if given is None else np.array(given, np.int64)
            attrs = {"kernel_shape": (2, 2), "strides": (2, 2)}
            yield Sample((x, places.astype(np.int64), target), attrs, ("output_shape",))


def _given_shape(output_shape: Value, rank: int) -> tuple[Dim, ...]:
    elems = output_shape.elems
    if elems is None:
        return tuple(Expr.fresh() for _ in range(rank))
    if len(elems) != rank:
        raise TypeInferError(f"output_shape has {len(elems)} entries for rank {rank}")
    return tuple(Expr.fresh() if e is None else e for e in elems)


POOL_SAMPLES: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 3, 7, 5), {"kernel_shape": (3, 2)}),
    ((1, 2, 8, 9), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 0, 1, 2)}),
    ((1, 2, 8, 9), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "ceil_mode": True}),
    ((1, 2, 7, 7), {"kernel_shape": (2, 2), "strides": (3, 2), "ceil_mode": True}),
    ((1, 2, 9, 8), {"kernel_shape": (3, 2), "dilations": (2, 3), "pads": (2, 1, 1, 2)}),
    ((1, 3, 7, 6), {"kernel_shape": (3, 4), "strides": (2, 2), "auto_pad": "same_upper"}),
    ((1, 3, 7, 6), {"kernel_shape": (2, 3), "strides": (2, 3), "auto_pad": "same_lower"}),
    ((2, 7, 5, 3), {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0, 1, 1, 0), "channels_last": True}),
    ((2, 3, 10), {"kernel_shape": (4,), "strides": (3,), "pads": (1, 2)}),
    ((1, 2, 4, 5, 6), {"kernel_shape": (2, 3, 2), "strides": (1, 2, 2), "pads": (1, 0, 0, 0, 1, 1)}),
)
