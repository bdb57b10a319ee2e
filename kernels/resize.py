"""resize, grid_sample and affine_grid.

Resizing is separable: along each axis every output is a weighted sum of a few input positions, found in float64 from
exact ratios of sizes, and one compiled loop applies them. Imports no framework.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ..ir.errors import InvalidModel
from ..ir.ops.resize import resized_axes, resized_shape
from .budget import hold
from .jit import jit
from .numeric import is_integer
from .precision import narrow, wide
from .registry import kernel

Array = np.ndarray


class AxisPlan(NamedTuple):
    """How one axis is resized: sizes, the scale as a ratio (the length it gives may be fractional), the roi."""

    size: int
    out: int
    numerator: float
    denominator: float
    roi: tuple[float, float]

    @property
    def scale(self) -> float:
        return self.numerator / self.denominator

    @property
    def length(self) -> float:
        return self.size * self.numerator / self.denominator


class _How(NamedTuple):
    """The attributes of a resize; `filter` is cubic_coeff_a, antialias, exclude_outside."""

    mode: str
    coordinates: str
    rounding: str
    filter: tuple[float, bool, bool]
    axes: tuple[int, ...]
    policy: str
    channels_last: bool


def _half_pixel(at: Array, plan: AxisPlan) -> Array:
    return (at + 0.5) * plan.denominator / plan.numerator - 0.5


def _symmetric(at: Array, plan: AxisPlan) -> Array:
    return plan.size / 2 * (1 - plan.out / plan.length) + _half_pixel(at, plan)


def _pytorch_half_pixel(at: Array, plan: AxisPlan) -> Array:
    return _half_pixel(at, plan) if plan.out > 1 else np.zeros(at.shape)


def _align_corners(at: Array, plan: AxisPlan) -> Array:
    return at * (plan.size - 1) / (plan.length - 1) if plan.length != 1 else np.zeros(at.shape)


def _asymmetric(at: Array, plan: AxisPlan) -> Array:
    return at * plan.denominator / plan.numerator


def _crop_and_resize(at: Array, plan: AxisPlan) -> Array:
    start, end = plan.roi
    if plan.out == 1:
        return np.full(at.shape, 0.5 * (start + end) * (plan.size - 1))
    return start * (plan.size - 1) + at * (end - start) * (plan.size - 1) / (plan.length - 1)


def _shifted(at: Array, plan: AxisPlan) -> Array:
    return (at + 0.5) * plan.denominator / plan.numerator


_COORDINATES: dict[str, Callable[[Array, AxisPlan], Array]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "tf_crop_and_resize": _crop_and_resize,
    "tf_half_pixel_for_nn": _shifted,
}

_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _triangle(distance: Array, _: float) -> Array:
    return np.maximum(1.0 - np.abs(distance), 0.0)


def _keys(distance: Array, a: float) -> Array:
    """Keys' cubic convolution kernel (1981), equation 4."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


_FILTERS: dict[str, tuple[Callable[[Array, float], Array], int]] = {"linear": (_triangle, 1), "cubic": (_keys, 2)}


def _taps(
    at: Array, plan: AxisPlan, mode: str, a: float, antialias: bool, exclude_outside: bool
) -> tuple[Array, Array]:
    """Input positions and weights [out, taps] of each source coordinate; positions outside repeat the edge."""
    curve, radius = _FILTERS[mode]
    stretch = min(plan.scale, 1.0) if antialias else 1.0
    reach = math.ceil(radius / stretch) if antialias else radius
    places = np.floor(at)[:, None] + np.arange(1 - reach, reach + 1)
    weights = curve((places - at[:, None]) * stretch, a)
    if antialias:
        weights = weights / weights.sum(axis=1, keepdims=True)
    if exclude_outside:
        weights = np.where((places < 0) | (places >= plan.size), 0.0, weights)
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total == 0, 1.0, total)
    return np.clip(places, 0, plan.size - 1).astype(np.int64), weights


@jit(lambda x, places, weights, y: y.size * places.shape[1])
def _apply(x, places, weights, y):
    """y [A, O, B] = sum over taps of weights [O, taps] times x [A, I, B] at places [O, taps]."""
    outer, _, inner = x.shape
    outs, taps = places.shape
    for a in range(outer):
        for o in range(outs):
            if inner == 1:
                total = 0.0
                for t in range(taps):
                    total += weights[o, t] * x[a, places[o, t], 0]
                y[a, o, 0] = total
                continue
            target = y[a, o]
            for b in range(inner):
                target[b] = 0.0
            for t in range(taps):
                weight = weights[o, t]
                line = x[a, places[o, t]]
                for b in range(inner):
                    target[b] += weight * line[b]


def _interpolate(data: Array, axis: int, places: Array, weights: Array) -> Array:
    shape = data.shape
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    y = np.empty((*shape[:axis], len(places), *shape[axis + 1 :]))
    flat = np.ascontiguousarray(data).reshape(outer, shape[axis], inner)
    _apply(flat, places, weights, y.reshape(outer, len(places), inner))
    return y


def _plans(x: Array, axes: tuple[int, ...], out: tuple[int, ...], roi, scales, sizes, policy: str) -> list[AxisPlan]:
    regions = np.concatenate([np.zeros(len(axes)), np.ones(len(axes))])
    if roi is not None and roi.size:
        regions = wide(roi)
    ratios = _ratios(x.shape, axes, scales, sizes, policy)
    return [
        AxisPlan(x.shape[axis], out[axis], *ratios[i], (float(regions[i]), float(regions[len(axes) + i])))
        for i, axis in enumerate(axes)
    ]


def _ratios(shape, axes, scales, sizes, policy) -> list[tuple[float, float]]:
    """Scale of each axis as numerator and denominator, exact where it comes from sizes."""
    if scales is not None and scales.size:
        return [(float(s), 1.0) for s in scales]
    ratios = [(float(want), float(shape[axis])) for want, axis in zip(sizes, axes, strict=True)]
    if policy == "stretch":
        return ratios
    pick = min if policy == "not_larger" else max
    return [pick(ratios, key=lambda r: r[0] / r[1])] * len(ratios)


def _is_identity(plan: AxisPlan) -> bool:
    return plan.out == plan.size and plan.numerator == plan.denominator and plan.roi == (0.0, 1.0)


@kernel("resize")
def resize(
    x,
    roi=None,
    scales=None,
    sizes=None,
    *,
    mode="nearest",
    coordinate_transformation_mode="half_pixel",
    nearest_mode="round_prefer_floor",
    cubic_coeff_a=-0.75,
    exclude_outside=False,
    extrapolation_value=0.0,
    antialias=False,
    axes=(),
    keep_aspect_ratio_policy="stretch",
    channels_last=False,
):
    """ONNX Resize-19. With channels_last only x and y have channels last: axes and operands count channels-first.

    Integer results are rounded half to even and saturated; complex numbers are interpolated by parts.
    """
    how = _How(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        (cubic_coeff_a, antialias, exclude_outside),
        axes,
        keep_aspect_ratio_policy,
        channels_last,
    )
    if x.dtype.kind != "c" or mode == "nearest":
        return _resized(x, roi, scales, sizes, extrapolation_value, how)
    return _complex(
        _resized(x.real, roi, scales, sizes, extrapolation_value, how), _resized(x.imag, roi, scales, sizes, 0.0, how)
    )


def _complex(real: Array, imaginary: Array) -> Array:
    made = np.empty(real.shape, np.result_type(real, np.complex64))
    made.real, made.imag = real, imaginary
    return made


def _resized(x: Array, roi: Any, scales: Any, sizes: Any, fill: float, how: _How) -> Array:
    """Real numbers, or in mode nearest any elements; `fill` is put outside of a crop."""
    data = np.moveaxis(x, -1, 1) if how.channels_last else x
    chosen = resized_axes(data.ndim, how.axes)
    out: Any = resized_shape(data.shape, chosen, scales, sizes, how.policy)
    hold(math.prod(map(int, out)) * x.dtype.itemsize)
    y, outside = (data if how.mode == "nearest" else wide(data)), []
    for axis, plan in zip(chosen, _plans(data, chosen, out, roi, scales, sizes, how.policy), strict=True):
        if _is_identity(plan):
            continue
        at = _COORDINATES[how.coordinates](np.arange(plan.out, dtype=np.float64), plan)
        if how.mode == "nearest":
            y = np.take(y, np.clip(_NEAREST[how.rounding](at), 0, plan.size - 1).astype(np.int64), axis=axis)
        else:
            y = _interpolate(y, axis, *_taps(at, plan, how.mode, *how.filter))
        if how.coordinates == "tf_crop_and_resize":
            outside.append((axis, (at < 0) | (at > plan.size - 1)))
    return _settle(y, outside, fill, x.dtype, how.channels_last)


def _settle(y: Array, outside: list[tuple[int, Array]], value: float, dtype: np.dtype, channels_last: bool) -> Array:
    """Fill what lies outside the source, return to the declared dtype and layout."""
    fill: Any = "" if y.dtype == np.object_ else _rounded(np.asarray(value), y.dtype)
    for axis, mask in outside:
        if mask.any():
            y = np.where(mask.reshape([-1 if i == axis else 1 for i in range(y.ndim)]), fill, y)
    y = _rounded(y, dtype)
    return np.ascontiguousarray(np.moveaxis(y, 1, -1)) if channels_last else np.ascontiguousarray(y).reshape(y.shape)


def _rounded(y: Array, dtype: np.dtype) -> Array:
    """`y` in `dtype`: float64 is rounded once, to an integer type half to even and saturated."""
    if y.dtype == dtype:
        return y
    if not is_integer(dtype):
        return y.astype(dtype) if dtype.kind == "c" else narrow(wide(y), dtype)
    info = ml_dtypes.iinfo(dtype)
    return np.clip(np.rint(y.astype(np.float64)), int(info.min), int(info.max)).astype(dtype)


# grid_sample


def _reflect(at: Array, low: float, high: float) -> Array:
    """Coordinates folded back into [low, high] as often as needed."""
    span = high - low
    if span <= 0:
        return np.zeros_like(at)
    distance = np.abs(at - low) % (2 * span)
    return low + np.where(distance > span, 2 * span - distance, distance)


def _bounded(at: Array, size: int, padding_mode: str, align_corners: bool) -> Array:
    if padding_mode == "reflection":
        at = _reflect(at, 0.0, size - 1.0) if align_corners else _reflect(at, -0.5, size - 0.5)
    return at if padding_mode == "zeros" else np.clip(at, 0, size - 1)


def _sample_taps(at: Array, size: int, mode: str, padding_mode: str, align_corners: bool) -> list[tuple[Array, Array]]:
    """(position, weight) per tap of one axis; positions may lie outside, where zeros are read."""
    if mode == "nearest":
        return [(_bounded(np.rint(at), size, padding_mode, align_corners), np.ones_like(at))]
    if mode == "linear":
        at = _bounded(at, size, padding_mode, align_corners)
    first = np.floor(at)
    curve, reach = _FILTERS[mode]
    taps = [(first + k, curve(first + k - at, -0.75)) for k in range(1 - reach, reach + 1)]
    if mode == "linear":
        return taps
    return [(np.rint(_bounded(place, size, padding_mode, align_corners)), weight) for place, weight in taps]


@kernel("grid_sample")
def grid_sample(x, grid, *, mode="linear", padding_mode="zeros", align_corners=False):
    """x [N, C, *S] read at grid [N, *S', len(S)]: coordinates in [-1, 1], last axis first (ONNX GridSample-22)."""
    spatial = x.shape[2:]
    points = wide(grid)[..., ::-1]
    per_axis = []
    for axis, size in enumerate(spatial):
        unit = points[..., axis]
        at = (unit + 1) / 2 * (size - 1) if align_corners else ((unit + 1) * size - 1) / 2
        per_axis.append(_sample_taps(at, size, mode, padding_mode, align_corners))
    combinations = [_combined(taps, spatial) for taps in itertools.product(*per_axis)]
    if mode == "nearest":
        made = _picked(x.reshape(*x.shape[:2], math.prod(spatial)), *combinations[0][:2])
    elif x.dtype.kind == "c":
        made = _complex(_blended(x.real, combinations), _blended(x.imag, combinations))
    else:
        made = _blended(x, combinations)
    return _rounded(made.reshape(*x.shape[:2], *grid.shape[1:-1]), x.dtype)


def _combined(taps: tuple, spatial: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """One tap per axis together, [N, P] each: the flat index, whether it lies inside, and the weight."""
    index: Any = 0
    weight: Any = 1.0
    inside: Any = True
    for (place, share), size in zip(taps, spatial, strict=True):
        inside = inside & (place >= 0) & (place < size)
        index = index * size + np.clip(np.nan_to_num(place), 0, size - 1).astype(np.int64)
        weight = weight * share
    shape = (len(index), math.prod(index.shape[1:]))
    return index.reshape(shape), inside.reshape(shape), weight.reshape(shape)


def _picked(flat: Array, index: Array, inside: Array) -> Array:
    """Elements of flat [N, C, S] of any dtype, zero (or "") outside: [N, C, P]."""
    found = np.take_along_axis(flat, np.broadcast_to(index[:, None], (*flat.shape[:2], index.shape[1])), axis=2)
    return np.where(inside[:, None], found, "" if flat.dtype == np.object_ else np.zeros((), flat.dtype))


def _blended(x: Array, combinations: list[tuple[Array, Array, Array]]) -> Array:
    """The weighted sum of all combinations of taps, in float64: [N, C, P]."""
    flat = wide(x).reshape(*x.shape[:2], math.prod(x.shape[2:]))
    y = np.zeros((*x.shape[:2], combinations[0][0].shape[1]))
    for index, inside, weight in combinations:
        for n in range(len(y)):
            y[n] += np.where(inside[n], flat[n][:, index[n]] * weight[n], 0.0)
    return y


@kernel("affine_grid")
def affine_grid(theta, size, *, align_corners=False):
    """theta [N, 2, 3] or [N, 3, 4] and size [N, C, *S] to the sampling grid [N, *S, len(S)] of grid_sample."""
    spatial = tuple(int(n) for n in size[2:])
    if theta.shape[1] != len(spatial):
        raise InvalidModel(f"theta of shape {theta.shape} does not fit {len(spatial)} spatial sizes")
    axes = []
    for n in spatial:
        steps = np.arange(n, dtype=np.float64)
        aligned = steps * 2 / (n - 1) - 1 if n > 1 else np.zeros(n)
        axes.append(aligned if align_corners else (2 * steps + 1) / n - 1)
    base = np.stack([*np.meshgrid(*axes, indexing="ij")[::-1], np.ones(spatial)], axis=-1)
    made = base.reshape(1, -1, len(spatial) + 1) @ wide(theta).transpose(0, 2, 1)
    return narrow(made.reshape(len(theta), *spatial, len(spatial)), theta.dtype)
