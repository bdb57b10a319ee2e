"""resize and sampling at computed coordinates: resize, grid_sample, affine_grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Dim, Expr
from ..errors import TypeInferError
from ..opdef import PURE, SAME_QUANT, SPATIAL, Axis, AxisMap, DtypeVar, OpDef, Sample, attr, ints, op, operand, optional
from ..types import BOOL, F32, FLOAT, I64, NUMERIC, STRING, TensorType
from . import rules
from .shapes import FLOATS, norm_axis

if TYPE_CHECKING:
    from ..value import Value

T = DtypeVar("T", NUMERIC | {BOOL, STRING})
R = DtypeVar("R", FLOAT)
G = DtypeVar("G", FLOAT)

MODES = ("nearest", "linear", "cubic")
COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)
NEAREST_MODES = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
POLICIES = ("stretch", "not_larger", "not_smaller")


def resized_axes(rank: int, axes: Sequence[int]) -> tuple[int, ...]:
    """The axes that roi, scales and sizes speak of: all when none are named. Raises TypeInferError."""
    made = tuple(norm_axis(axis, rank, "axes") for axis in axes) or tuple(range(rank))
    if len(set(made)) != len(made):
        raise TypeInferError(f"axes {tuple(axes)} name an axis twice")
    return made


def resized_shape(
    shape: Sequence[Dim], axes: Sequence[int], scales: Any, sizes: Sequence[Dim | None] | None, policy: str
) -> tuple[Dim, ...]:
    """Result dims of a resize of `axes`: floor(size * scale) in float32, as ONNX and its runtimes have it, or `sizes`.

    `scales` is an array or None, `sizes` known elements or None. Raises TypeInferError unless one of the two is given.
    """
    by_scale = scales is not None and len(scales) > 0
    by_size = sizes is not None and len(sizes) > 0
    if by_scale == by_size:
        raise TypeInferError("resize needs either scales or sizes")
    made = list(shape)
    given: Any = scales if by_scale else sizes
    if len(given) != len(axes):
        raise TypeInferError(f"{len(given)} scales or sizes for {len(axes)} axes")
    if by_scale:
        for axis, scale in zip(axes, given, strict=True):
            made[axis] = _scaled(shape[axis], np.float32(scale))
        return tuple(made)
    wanted = [Expr.fresh() if size is None else int(size) if not isinstance(size, Expr) else size for size in given]
    if policy != "stretch":
        wanted = _keeping_ratio([shape[a] for a in axes], wanted, policy)
    for axis, size in zip(axes, wanted, strict=True):
        if isinstance(size, int) and size < 1 and shape[axis] != 0:
            raise TypeInferError(f"size {size} of axis {axis} is not positive")
        made[axis] = size
    return tuple(made)


def _scaled(size: Dim, scale: np.float32) -> Dim:
    if not scale > 0:
        raise TypeInferError(f"scale {scale} is not positive")
    if not isinstance(size, Expr):
        return math.floor(np.float32(size) * scale)
    ratio = Fraction(float(scale))
    # A dyadic scale of few bits is exact in float32 for every size that occurs; others round as the size decides.
    if ratio.denominator <= 64 and ratio.numerator <= 1 << 12:
        return size * ratio.numerator // ratio.denominator
    return Expr.fresh()


def _keeping_ratio(shape: list[Dim], sizes: list[Dim], policy: str) -> list[Dim]:
    known = [(want, have) for want, have in zip(sizes, shape, strict=True) if type(want) is type(have) is int]
    if len(known) < len(sizes):
        return [Expr.fresh() for _ in sizes]
    pick = min if policy == "not_larger" else max
    ratio = pick((Fraction(want, have) for want, have in known if have), default=Fraction(1))
    return [math.floor(ratio * have + Fraction(1, 2)) for _, have in known]


def _check_strings(x: Value, mode: str) -> None:
    if x.dtype is STRING and mode != "nearest":
        raise TypeInferError(f"strings cannot be interpolated (mode {mode}); nearest picks one")


def _const_scales(scales: Value | None) -> np.ndarray | None:
    """The elements of constant scales; None when they are computed or absent."""
    return scales.array().reshape(-1) if scales is not None and scales.is_const else None


def _is_empty(value: Value | None) -> bool:
    return value is None or value.shape == (0,)


@op
class Resize(OpDef):
    """Interpolate along `axes` (all when empty) by `scales` or to `sizes` (ONNX Resize-19).

    With channels_last only x and the result have channels last: axes, roi, scales and sizes count channels-first.
    """

    x = operand(T)
    roi = optional(R)
    scales = optional(frozenset({F32}))
    sizes = optional(frozenset({I64}))
    mode = attr(str, "nearest", choices=MODES)
    coordinate_transformation_mode = attr(str, "half_pixel", choices=COORDINATES)
    nearest_mode = attr(str, "round_prefer_floor", choices=NEAREST_MODES)
    cubic_coeff_a = attr(float, -0.75)
    exclude_outside = attr(bool, False)
    extrapolation_value = attr(float, 0.0)
    antialias = attr(bool, False)
    axes_ = attr(ints, ())
    keep_aspect_ratio_policy = attr(str, "stretch", choices=POLICIES)
    channels_last = attr(bool, False)
    traits = PURE | SPATIAL | SAME_QUANT
    reads_elems = True

    def infer(self, x, roi, scales, sizes, *, mode, axes, antialias, keep_aspect_ratio_policy, channels_last, **attrs):
        _check_strings(x, mode)
        if antialias and mode == "nearest":
            raise TypeInferError("antialias needs mode linear or cubic")
        if attrs["coordinate_transformation_mode"] == "tf_crop_and_resize" and roi is None:
            raise TypeInferError("tf_crop_and_resize needs a roi")
        if _is_empty(scales) and _is_empty(sizes):
            raise TypeInferError("resize needs either scales or sizes")
        if x.shape is None:
            return x.type
        shape = rules.channels_first(x.shape, channels_last)
        made = _resized(shape, resized_axes(len(shape), axes), scales, sizes, keep_aspect_ratio_policy)
        return x.type.with_shape(rules.in_layout(made, channels_last))

    def axes(self, x, roi, scales, sizes, *, axes, channels_last, coordinate_transformation_mode, **_):
        if x.shape is None or len(x.shape) < 2:
            return None
        row = _unscaled_axes(x, scales, sizes, axes, channels_last)
        if coordinate_transformation_mode == "tf_crop_and_resize" or row is None:
            return None
        others = (None if v is None else (None,) for v in (roi, scales, sizes))
        return AxisMap((row, *others), (row,))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, operands, attrs in RESIZE_SAMPLES:
            x = rng.standard_normal(shape).astype(np.float32)
            made = {k: np.array(v, np.int64 if k == "sizes" else np.float32) for k, v in operands.items()}
            given = tuple(made.get(k) for k in ("roi", "scales", "sizes"))
            yield Sample((x, *given), attrs, ("roi", "scales", "sizes"))
        pixels = rng.integers(0, 256, (1, 2, 4, 5)).astype(np.uint8)
        yield Sample((pixels, None, None, np.array([7, 9], np.int64)), {"mode": "linear", "axes": (2, 3)}, ("sizes",))


def _resized(
    shape: tuple[Dim, ...], axes: tuple[int, ...], scales: Value | None, sizes: Value | None, policy: str
) -> tuple[Dim, ...]:
    factors = _const_scales(scales)
    wanted = None if _is_empty(sizes) else sizes.elems  # type: ignore[union-attr]
    if (factors is not None and factors.size) or wanted is not None:
        return resized_shape(shape, axes, factors, wanted, policy)
    return tuple(Expr.fresh() if i in axes else d for i, d in enumerate(shape))


def _unscaled_axes(x: Value, scales: Value | None, sizes: Value | None, axes: tuple[int, ...], channels_last: bool):
    """Axes that keep their size exactly pass, others are pinned; None when nothing is known."""
    shape = rules.channels_first(x.shape, channels_last)  # type: ignore[arg-type]
    chosen = resized_axes(len(shape), axes)
    factors = _const_scales(scales)
    if factors is not None and factors.size:
        kept = {axis for axis, scale in zip(chosen, factors, strict=True) if scale == 1}
    elif not _is_empty(sizes) and sizes.elems is not None:  # type: ignore[union-attr]
        kept = {axis for axis, size in zip(chosen, sizes.elems, strict=True) if size == shape[axis]}  # type: ignore
    else:
        kept = set()
    kept |= set(range(len(shape))) - set(chosen)
    row = tuple(Axis(f"d{i}") if i in kept else None for i in range(len(shape)))
    return rules.in_layout(row, channels_last)


@op
class GridSample(OpDef):
    """x [N, C, *S] read at grid [N, *S', len(S)] with coordinates in [-1, 1], last axis first (ONNX GridSample-22)."""

    x = operand(T)
    grid = operand(G)
    mode = attr(str, "linear", choices=MODES)
    padding_mode = attr(str, "zeros", choices=("zeros", "border", "reflection"))
    align_corners = attr(bool, False)

    def infer(self, x, grid, *, mode, **_):
        _check_strings(x, mode)
        data, points = rules.ranked(x, "x", 4, 5), rules.ranked(grid, "grid", 4, 5)
        if data is None or points is None:
            return x.type.with_shape(None)
        if len(data) != len(points):
            raise TypeInferError(f"x has rank {len(data)} and grid rank {len(points)}; they must agree")
        rules.agree(points[-1], len(data) - 2, "last dim of grid")
        return x.type.with_shape((rules.agree(data[0], points[0], "batch of x and grid"), data[1], *points[1:-1]))

    def axes(self, x, grid, **_):
        if x.shape is None or grid.shape is None:
            return None
        inner = len(x.shape) - 2
        places = tuple(Axis(f"s{i}") for i in range(inner))
        row = (Axis("n"), Axis("c"), *(None,) * inner)
        return AxisMap((row, (Axis("n"), *places, None)), ((Axis("n"), Axis("c"), *places),))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        grid = rng.uniform(-1.4, 1.4, (2, 3, 5, 2)).astype(np.float32)
        x = rng.standard_normal((2, 3, 4, 6)).astype(np.float32)
        for mode in MODES:
            for padding in ("zeros", "border", "reflection"):
                yield Sample((x, grid), {"mode": mode, "padding_mode": padding, "align_corners": padding == "border"})
        volume = rng.standard_normal((1, 2, 3, 4, 5)).astype(np.float32)
        yield Sample((volume, rng.uniform(-1.2, 1.2, (1, 2, 3, 2, 3)).astype(np.float32)), {"mode": "linear"})


@op
class AffineGrid(OpDef):
    """theta [N, 2, 3] or [N, 3, 4] and size [N, C, *S] to grid_sample's grid [N, *S, len(S)] (ONNX AffineGrid-20)."""

    theta = operand(FLOATS)
    size = operand(frozenset({I64}))
    align_corners = attr(bool, False)
    reads_elems = True

    def infer(self, theta, size, **_):
        shape = rules.ranked(theta, "theta", 3)
        count = (rules.ranked(size, "size", 1) or (None,))[0]
        if shape is None or not isinstance(count, int):
            return TensorType(theta.dtype, None)
        inner = count - 2
        rules.agree(shape[1], inner, f"theta of shape {rules.show(shape)} for {inner} spatial sizes")
        rules.agree(shape[2], inner + 1, f"theta of shape {rules.show(shape)} for {inner} spatial sizes")
        sizes = size.elems or (None,) * count
        return TensorType(theta.dtype, (shape[0], *(Expr.fresh() if e is None else e for e in sizes[2:]), inner))

    def axes(self, theta, size, **_):
        if theta.shape is None or isinstance(theta.shape[1], Expr):
            return None
        held = (None,) * (theta.shape[1] + 1)
        return AxisMap(((Axis("n"), None, None), (None,)), ((Axis("n"), *held),))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for size in ((2, 3, 4, 5), (2, 1, 2, 3, 4), (2, 1, 1, 3)):
            theta = rng.standard_normal((2, len(size) - 2, len(size) - 1)).astype(np.float32)
            for corners in (False, True):
                yield Sample((theta, np.array(size, np.int64)), {"align_corners": corners}, ("size",))


_HALVES = {"scales": (1, 1, 0.5, 0.5)}
_CROP = {"roi": (0, 0, 0.1, -0.2, 1, 1, 0.7, 0.8), "sizes": (1, 2, 3, 4)}

RESIZE_SAMPLES: tuple[tuple[tuple[int, ...], dict[str, Any], dict[str, Any]], ...] = (
    ((1, 2, 4, 5), {"scales": (1, 1, 2, 2)}, {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ((1, 2, 4, 5), {"sizes": (1, 2, 7, 8)}, {"nearest_mode": "round_prefer_ceil"}),
    ((1, 2, 5, 4), {"scales": (1, 1, 0.6, 1.7)}, {"mode": "linear"}),
    (
        (1, 2, 5, 4),
        {"sizes": (9, 3)},
        {"mode": "linear", "axes": (2, 3), "coordinate_transformation_mode": "align_corners"},
    ),
    ((1, 2, 6, 8), _HALVES, {"mode": "linear", "antialias": True}),
    ((1, 2, 6, 8), _HALVES, {"mode": "cubic", "antialias": True, "cubic_coeff_a": -0.5}),
    ((1, 2, 5, 6), {"sizes": (1, 2, 8, 4)}, {"mode": "cubic"}),
    ((1, 2, 5, 6), {"sizes": (1, 2, 8, 4)}, {"mode": "cubic", "exclude_outside": True}),
    ((1, 2, 5, 6), {"sizes": (1, 2, 1, 4)}, {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}),
    (
        (1, 2, 5, 6),
        {"scales": (1, 1, 0.7, 0.8)},
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"},
    ),
    (
        (1, 2, 5, 6),
        _CROP,
        {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0},
    ),
    ((1, 2, 4, 6), {"sizes": (8, 8)}, {"axes": (2, 3), "keep_aspect_ratio_policy": "not_larger"}),
    ((1, 2, 4, 6), {"sizes": (8, 8)}, {"axes": (2, 3), "keep_aspect_ratio_policy": "not_smaller", "mode": "linear"}),
    ((1, 4, 5, 2), {"scales": (1, 1, 2, 2)}, {"mode": "linear", "channels_last": True}),
    ((2, 3, 4), {"scales": (1, 1, 1.5)}, {"mode": "cubic", "coordinate_transformation_mode": "asymmetric"}),
    ((1, 1, 2, 3, 4), {"scales": (1, 1, 2, 2, 1.5)}, {"mode": "linear"}),
)
