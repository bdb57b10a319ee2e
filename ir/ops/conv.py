"""Convolutions: conv and conv_transpose in one, two or three spatial dims, any grouping and padding.

Weights are in ONNX's order whatever the layout of the data: [O, C/groups, *K] and, transposed, [C, O/groups, *K].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Dim, Expr, dim_eq
from ..errors import TypeInferError
from ..opdef import PURE, SPATIAL, Axis, AxisMap, DtypeVar, OpDef, Sample, attr, ints, op, operand, optional
from ..types import FLOAT, TensorType
from . import rules
from .window import AUTO_PAD, Window, output_sizes, spread, transposed, window

if TYPE_CHECKING:
    from ..value import Value

T = DtypeVar("T", FLOAT)


def conv_shape(x: Value, w: Value, groups: int, channels_last: bool, **geometry: Any) -> tuple[Dim, ...] | None:
    """Result dims of a convolution in the data's layout, None when a rank is unknown. Raises TypeInferError."""
    data, weights = _ranked(x, w)
    if data is None or weights is None:
        return None
    batch, channels, *spatial = rules.channels_first(data, channels_last)
    _check_groups(groups, channels, weights[0])
    rules.agree(weights[1] * groups, channels, f"channels: w takes {weights[1]} x {groups} groups, x has {channels}")
    kernel = weights[2:]
    sizes = output_sizes(window(kernel, **geometry), tuple(spatial))
    _check_sizes(sizes, spatial, kernel)
    return rules.in_layout((batch, weights[0], *sizes), channels_last)


def _ranked(x: Value, w: Value) -> tuple[tuple[Dim, ...] | None, tuple[Dim, ...] | None]:
    data, weights = rules.ranked(x, "x", 3, 4, 5), rules.ranked(w, "w", 3, 4, 5)
    if data is not None and weights is not None and len(data) != len(weights):
        raise TypeInferError(f"x has rank {len(data)} and w rank {len(weights)}; they must agree")
    return data, weights


def _check_groups(groups: int, *counts: Dim) -> None:
    if groups < 1:
        raise TypeInferError(f"groups is {groups}; it must be at least 1")
    for count in counts:
        if isinstance(count, int) and count % groups:
            raise TypeInferError(f"{count} channels do not divide into {groups} groups")


def _kernel(weights: tuple[Dim, ...]) -> tuple[int, ...] | None:
    return None if any(isinstance(d, Expr) for d in weights[2:]) else tuple(weights[2:])  # type: ignore[arg-type]


def _check_sizes(sizes: tuple[Dim, ...], spatial: list[Dim], kernel: tuple[Dim, ...]) -> None:
    for made, size in zip(sizes, spatial, strict=True):
        if isinstance(made, int) and made <= 0 and size != 0:
            raise TypeInferError(f"the kernel {list(kernel)} is larger than the padded input {rules.show(spatial)}")


def is_depthwise(weights: tuple[Dim, ...], groups: int) -> bool:
    """One input and one output channel per group."""
    return groups > 1 and dim_eq(weights[0], groups) is True and weights[1] == 1


def _conv_axes(x: Value, w: Value, groups: int, channels_last: bool, **geometry: Any) -> AxisMap | None:
    """Axes of x, w, result: a plain conv contracts C and passes O; a depthwise one passes C; other groups pin them."""
    if x.shape is None or w.shape is None:
        return None
    rank, kernel = len(x.shape), _kernel(w.shape)
    spatial = _spatial_axes(kernel, rank, geometry)
    source, made, weights = _channel_axes(w.shape, groups, rank)
    row = (Axis("n"), source, *spatial)
    result = (Axis("n"), made, *spatial)
    return AxisMap((rules.in_layout(row, channels_last), weights), (rules.in_layout(result, channels_last),))


def _channel_axes(weights: tuple[Dim, ...], groups: int, rank: int) -> tuple[Axis | None, Axis | None, rules.AxisRow]:
    held = (None,) * (rank - 2)
    if groups == 1:
        return Axis("i", "contract"), Axis("o"), (Axis("o"), Axis("i", "contract"), *held)
    if is_depthwise(weights, groups):
        return Axis("o"), Axis("o"), (Axis("o"), None, *held)
    return None, None, (None, None, *held)


def _spatial_axes(kernel: tuple[int, ...] | None, rank: int, geometry: dict[str, Any]) -> rules.AxisRow:
    """A spatial axis passes where the window is a single point that moves by one."""
    if kernel is None or geometry["auto_pad"] != "explicit":
        return (None,) * (rank - 2)
    w = window(kernel, **geometry)
    rows = zip(w.kernel, w.strides, w.begins, w.ends, strict=True)
    return tuple(Axis(f"s{i}") if row == (1, 1, 0, 0) else None for i, row in enumerate(rows))


def _with_bias(made: AxisMap | None, b: Value | None, channels_last: bool) -> AxisMap | None:
    if made is None:
        return None
    channel = made.results[0][-1 if channels_last else 1]
    return AxisMap((*made.operands, None if b is None else (channel,)), made.results)


class Sliding(OpDef):
    """How the filters of a convolution move over its data: what all forms of conv have."""

    strides = attr(ints, ())
    pads = attr(ints, ())
    dilations = attr(ints, ())
    groups = attr(int, 1)
    auto_pad = attr(str, "explicit", choices=AUTO_PAD)


@op
class Conv(Sliding):
    """Slide w [O, C/groups, *K] over x [N, C, *S] and add b [O]: [N, O, *S'] (ONNX Conv-22).

    `pads` are all begins, then all ends; empty strides and dilations mean 1, empty pads 0. auto_pad same_upper or
    same_lower pads so that S' = ceil(S / stride).
    """

    x = operand(T)
    w = operand(T)
    b = optional(T)
    channels_last = attr(bool, False)
    traits = PURE | SPATIAL

    def infer(self, x, w, b, *, groups, channels_last, **geometry):
        shape = conv_shape(x, w, groups, channels_last, **geometry)
        if shape is not None:
            rules.expect_vector(b, shape[-1 if channels_last else 1], "b")
        return TensorType(rules.first_dtype(x, w), shape)

    def axes(self, x, w, b, *, groups, channels_last, **geometry):
        return _with_bias(_conv_axes(x, w, groups, channels_last, **geometry), b, channels_last)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for x, w, bias, attrs in CONV_SAMPLES:
            b = _normal(rng, (w[0],)) if bias else None
            yield Sample((_normal(rng, x), _normal(rng, w), b), attrs)
        yield Sample((_normal(rng, (2, 4, 5), np.float16), _normal(rng, (3, 4, 2), np.float16), None))


@op
class ConvTranspose(OpDef):
    """The transpose of conv: spread x [N, C, *S] by w [C, O/groups, *K], add b [O] (ONNX ConvTranspose-22).

    S' = (S - 1) * stride + (K - 1) * dilation + 1 + output_padding - pads, or S * stride with auto_pad, or
    `output_shape` (spatial sizes); in the last two cases pads are derived.
    """

    x = operand(T)
    w = operand(T)
    b = optional(T)
    strides = attr(ints, ())
    pads = attr(ints, ())
    output_padding = attr(ints, ())
    dilations = attr(ints, ())
    groups = attr(int, 1)
    auto_pad = attr(str, "explicit", choices=AUTO_PAD)
    output_shape = attr(ints, ())
    channels_last = attr(bool, False)
    traits = PURE | SPATIAL

    def infer(self, x, w, b, *, groups, channels_last, output_padding, output_shape, **geometry):
        data, weights = _ranked(x, w)
        dtype = rules.first_dtype(x, w)
        if data is None or weights is None:
            return TensorType(dtype, None)
        batch, channels, *spatial = rules.channels_first(data, channels_last)
        rules.agree(weights[0], channels, f"channels: w takes {weights[0]}, x has {channels}")
        _check_groups(groups, channels)
        made = weights[1] * groups
        rules.expect_vector(b, made, "b")
        sizes = _transposed_sizes(weights, tuple(spatial), output_padding, output_shape, geometry)
        return TensorType(dtype, rules.in_layout((batch, made, *sizes), channels_last))

    def axes(self, x, w, b, *, groups, channels_last, **_):
        if x.shape is None or w.shape is None:
            return None
        held = (None,) * (len(x.shape) - 2)
        source, made, weights = None, None, (None, None, *held)
        if groups == 1:
            source, made = Axis("i", "contract"), Axis("o")
            weights = (source, made, *held)
        elif is_depthwise(w.shape, groups):
            source = made = Axis("o")
            weights = (made, None, *held)
        rows = [rules.in_layout((Axis("n"), c, *held), channels_last) for c in (source, made)]
        return _with_bias(AxisMap((rows[0], weights), (rows[1],)), b, channels_last)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for x, w, bias, attrs in TRANSPOSE_SAMPLES:
            b = _normal(rng, (w[1] * attrs.get("groups", 1),)) if bias else None
            yield Sample((_normal(rng, x), _normal(rng, w), b), attrs)


def _transposed_sizes(
    weights: tuple[Dim, ...],
    spatial: tuple[Dim, ...],
    output_padding: tuple[int, ...],
    output_shape: tuple[int, ...],
    geometry: dict[str, Any],
) -> tuple[Dim, ...]:
    rank = len(spatial)
    output_shape = spread(output_shape, rank, 0, "output_shape") if output_shape else ()
    made: Window = window(weights[2:], **geometry)
    output_padding = spread(output_padding, rank, 0, "output_padding")
    for extra, stride, dilation in zip(output_padding, made.strides, made.dilations, strict=True):
        if not 0 <= extra < max(stride, dilation):
            raise TypeInferError(f"output_padding {extra} must be smaller than stride {stride} or dilation {dilation}")
    sizes = transposed(made, spatial, output_padding, output_shape)[1]
    if any(isinstance(size, int) and size <= 0 for size in sizes):
        raise TypeInferError(f"the pads leave nothing: the result would have spatial dims {rules.show(sizes)}")
    return sizes


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


#: x shape, w shape, with bias, attributes.
CONV_SAMPLES: tuple[tuple[tuple, tuple, bool, dict[str, Any]], ...] = (
    ((2, 3, 7, 5), (4, 3, 3, 3), True, {}),
    ((1, 3, 8, 9), (4, 3, 3, 2), False, {"strides": (2, 3), "pads": (1, 0, 2, 1), "dilations": (2, 1)}),
    ((2, 4, 6, 7), (6, 2, 3, 3), True, {"groups": 2, "pads": (1, 1, 1, 1)}),
    ((2, 4, 9, 6), (4, 1, 3, 5), True, {"groups": 4, "pads": (1, 2, 1, 2), "strides": (2, 1)}),
    ((1, 3, 5, 6), (6, 1, 2, 2), False, {"groups": 3, "dilations": (1, 2)}),
    ((2, 5, 6, 4), (3, 5, 1, 1), True, {}),
    ((2, 5, 6, 5), (3, 5, 1, 1), False, {"strides": (2, 2)}),
    ((1, 2, 7, 6), (3, 2, 3, 4), True, {"auto_pad": "same_upper", "strides": (2, 2)}),
    ((1, 2, 7, 6), (3, 2, 3, 4), True, {"auto_pad": "same_lower", "strides": (2, 3), "dilations": (2, 1)}),
    ((2, 7, 5, 3), (4, 3, 3, 2), True, {"channels_last": True, "pads": (1, 1, 0, 1)}),
    ((2, 7, 5, 4), (4, 1, 3, 3), True, {"channels_last": True, "groups": 4, "auto_pad": "same_upper"}),
    ((2, 3, 11), (5, 3, 4), True, {"strides": (3,), "pads": (2, 1)}),
    ((1, 2, 4, 5, 6), (3, 2, 2, 3, 2), True, {"pads": (1, 0, 1, 0, 1, 0), "strides": (1, 2, 1)}),
)

TRANSPOSE_SAMPLES: tuple[tuple[tuple, tuple, bool, dict[str, Any]], ...] = (
    ((2, 3, 4, 5), (3, 2, 3, 3), True, {}),
    ((1, 3, 4, 3), (3, 4, 3, 2), False, {"strides": (2, 3), "pads": (1, 0, 0, 1), "dilations": (2, 1)}),
    ((2, 4, 3, 4), (4, 3, 3, 3), True, {"groups": 2, "strides": (2, 2), "output_padding": (1, 0)}),
    ((1, 3, 5, 4), (3, 1, 4, 4), True, {"groups": 3, "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((1, 2, 3, 4), (2, 3, 3, 4), True, {"auto_pad": "same_upper", "strides": (2, 2)}),
    ((1, 2, 3, 4), (2, 3, 3, 4), False, {"auto_pad": "same_lower", "strides": (3, 2)}),
    ((1, 2, 3, 3), (2, 2, 3, 3), False, {"strides": (3, 2), "output_shape": (10, 8)}),
    ((2, 4, 3, 2), (2, 3, 2, 2), True, {"channels_last": True, "strides": (2, 2)}),
    ((2, 3, 6), (3, 2, 3), True, {"strides": (2,)}),
    ((1, 2, 2, 3, 2), (2, 2, 2, 2, 3), True, {"strides": (1, 2, 1), "pads": (0, 1, 1, 0, 0, 0)}),
)
