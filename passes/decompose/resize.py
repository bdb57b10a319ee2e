"""resize as one gather or one constant matrix per axis, grid_sample as gathers with weights. Knows no target.

The matrices are what the reference kernel does to the unit vectors of an axis, so there is one definition of resizing.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.ops.resize import resized_axes
from ...ir.types import I64
from ...ir.value import Node, Value
from ...kernels.resize import affine_grid as affine_grid_kernel
from ...kernels.resize import resize as resize_kernel
from .rules import (
    Declined,
    Outcome,
    Size,
    along_axis,
    back_to_last,
    channels_first,
    decomposes,
    half_float,
    in_f32,
    reshape_to,
    room,
    scalar,
    shape_of,
    sizes,
    static,
)


def axis_targets(node: Node) -> list[tuple[int, dict[str, np.ndarray], np.ndarray | None]] | Declined:
    """Per resized axis (channels-first): its number, its own `scales` or `sizes`, and its region of interest."""
    x, roi, scales, wanted = (*node.operands, None, None, None)[:4]
    axes = resized_axes(x.rank, node.attr("axes"))
    if scales is not None and scales.is_const and scales.array().size:
        kind, numbers = "scales", scales.array()
    elif wanted is not None and wanted.ints() is not None:
        kind, numbers = "sizes", np.asarray(wanted.ints(), np.int64)
        if node.attr("keep_aspect_ratio_policy") != "stretch":
            return Declined("sizes that keep the aspect ratio are not decomposed")
    else:
        return Declined("scales or sizes are computed")
    crops = node.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
    if crops and (roi is None or not roi.is_const):
        return Declined("the region of interest is computed")
    regions = roi.array() if crops else None
    count = len(axes)
    return [
        (axis, {kind: numbers[i : i + 1]}, None if regions is None else regions[[i, count + i]])
        for i, axis in enumerate(axes)
    ]


def _axis_kernel(node: Node, basis: np.ndarray, target: dict, roi: np.ndarray | None, fill: float) -> np.ndarray:
    """The reference kernel on axis 0 of `basis`."""
    names = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias")
    attrs = {name: node.attr(name) for name in names}
    return resize_kernel(basis, roi, **target, **attrs, axes=(0,), extrapolation_value=fill)


@decomposes("resize")
def resize(b: Builder, node: Node) -> Outcome:
    targets = axis_targets(node)
    if isinstance(targets, Declined):
        return targets
    last, x = node.attr("channels_last"), node.operands[0]
    if not x.dtype.is_float and node.attr("mode") != "nearest":
        return Declined("interpolated integers are not decomposed")
    if half_float(node) is not None and node.attr("mode") != "nearest":
        return in_f32(b, node)
    y = channels_first(b, x) if last else x
    for axis, target, roi in targets:
        size = y.shape[axis]
        if type(size) is not int:
            if not _keeps(target, node):
                return Declined("a resized axis has an unknown size")
            continue
        y = _resized_axis(b, node, y, axis, target, roi)
    return back_to_last(b, y) if last else y


def _keeps(target: dict, node: Node) -> bool:
    """An axis of any size that is scaled by exactly 1."""
    return (
        "scales" in target
        and target["scales"][0] == 1
        and node.attr("coordinate_transformation_mode") != "tf_crop_and_resize"
    )


def _resized_axis(b: Builder, node: Node, y: Value, axis: int, target: dict, roi: np.ndarray | None) -> Value:
    size: Any = y.shape[axis]
    room(size, 1 if node.attr("mode") == "nearest" else size)
    if node.attr("mode") == "nearest":
        places = _axis_kernel(node, np.arange(size, dtype=np.float64), target, roi, np.nan)
        made = (
            y if _is_identity(places, size) else b.gather(y, b.const(np.nan_to_num(places).astype(np.int64)), axis=axis)
        )
        outside = np.isnan(places)
    else:
        matrix = _axis_kernel(node, np.eye(size), target, roi, np.nan)
        outside = np.isnan(matrix).any(axis=1)
        matrix = np.where(outside[:, None], 0.0, matrix)
        made = y if matrix.shape == (size, size) and (matrix == np.eye(size)).all() else along_axis(b, y, axis, matrix)
    if not outside.any():
        return made
    line = [1] * y.rank
    line[axis] = len(outside)
    return b.where(b.const(outside.reshape(line)), scalar(b, node.attr("extrapolation_value"), y), made)


def _is_identity(places: np.ndarray, size: int) -> bool:
    return len(places) == size and bool((places == np.arange(size)).all())


# -------------------------------------------------------------------------------------------------- grid_sample


def _folded(b: Builder, at: Value, low: float, high: float) -> Value:
    """Coordinates reflected back into [low, high] as often as needed."""
    span = high - low
    if span <= 0:
        return b.mul(at, scalar(b, 0, at))
    distance, period = b.abs(b.sub(at, scalar(b, low, at))), scalar(b, 2 * span, at)
    rest = b.sub(distance, b.mul(b.floor(b.div(distance, period)), period))
    folded = b.where(b.greater(rest, scalar(b, span, at)), b.sub(period, rest), rest)
    return b.add(folded, scalar(b, low, at))


def _bounded(b: Builder, at: Value, size: int, node: Node) -> Value:
    mode, corners = node.attr("padding_mode"), node.attr("align_corners")
    if mode == "reflection":
        at = _folded(b, at, 0.0, size - 1.0) if corners else _folded(b, at, -0.5, size - 0.5)
    return at if mode == "zeros" else b.clip(at, scalar(b, 0, at), scalar(b, size - 1, at))


#: Keys' cubic kernel with a = -0.75 at distances d + 1, d, 1 - d, 2 - d: coefficients of d^3 .. d^0.
_CUBIC = ((-0.75, 1.5, -0.75, 0.0), (1.25, -2.25, 0.0, 1.0), (-1.25, 1.5, 0.75, 0.0), (0.75, -0.75, 0.0, 0.0))


def _taps(b: Builder, at: Value, size: int, node: Node) -> list[tuple[Value, Value | None]]:
    """(position, weight) per tap of one axis; a missing weight is 1."""
    mode = node.attr("mode")
    if mode == "nearest":
        return [(_bounded(b, b.round(at), size, node), None)]
    one = scalar(b, 1, at)
    if mode == "linear":
        at = _bounded(b, at, size, node)
        first = b.floor(at)
        rest = b.sub(at, first)
        return [(first, b.sub(one, rest)), (b.add(first, one), rest)]
    first = b.floor(at)
    rest = b.sub(at, first)
    taps = []
    for k, coefficients in enumerate(_CUBIC):
        weight = scalar(b, coefficients[0], at)
        for c in coefficients[1:]:
            weight = b.add(b.mul(weight, rest), scalar(b, c, at))
        taps.append((b.round(_bounded(b, b.add(first, scalar(b, k - 1, at)), size, node)), weight))
    return taps


@decomposes("grid_sample", rounds=True)
def grid_sample(b: Builder, node: Node) -> Value | Declined:
    """Every combination of taps reads the flattened image at one place per output and adds it with its weight."""
    x, grid = node.operands
    spatial: Any = x.shape[2:]
    points: Any = grid.shape[1:-1]
    if not static(*spatial, *points):
        return Declined("the size of the image or of the grid is not known")
    if x.dtype is not grid.dtype:
        grid = b.cast(grid, to=x.dtype)
    count = int(np.prod(points))
    per_axis = []
    for axis, size in enumerate(spatial):
        place = len(spatial) - 1 - axis
        unit = b.reshape(b.slice(grid, (place,), (place + 1,), (grid.rank - 1,)), (-1, count))
        per_axis.append(_taps(b, _pixels(b, unit, size, node.attr("align_corners")), size, node))
    flat = b.reshape(x, shape_of(b, [*sizes(x, (0, 1)), int(np.prod(spatial))]))
    total = None
    for taps in itertools.product(*per_axis):
        term = _read(b, node, flat, taps, spatial, count)
        total = term if total is None else b.add(total, term)
    return reshape_to(b, total, [Size(x, 0), Size(x, 1), *points])


def _pixels(b: Builder, unit: Value, size: int, align_corners: bool) -> Value:
    """[-1, 1] as positions along an axis."""
    one, half = scalar(b, 1, unit), scalar(b, 0.5, unit)
    if align_corners:
        return b.mul(b.mul(b.add(unit, one), half), scalar(b, size - 1, unit))
    return b.mul(b.sub(b.mul(b.add(unit, one), scalar(b, size, unit)), one), half)


def _read(b: Builder, node: Node, flat: Value, taps: tuple, spatial: tuple[int, ...], count: int) -> Value:
    """One combination of taps: [N, C, count]."""
    index = weight = inside = None
    for (place, share), size in zip(taps, spatial, strict=True):
        low, high = scalar(b, 0, place), scalar(b, size - 1, place)
        safe = place
        if node.attr("padding_mode") == "zeros" or node.attr("mode") == "linear":
            here = b.and_(b.greater_equal(place, low), b.less_equal(place, high))
            inside = here if inside is None else b.and_(inside, here)
            safe = b.clip(place, low, high)
        step = b.cast(safe, to=I64)
        index = step if index is None else b.add(b.mul(index, b.const(np.asarray(size))), step)
        if share is not None:
            weight = share if weight is None else b.mul(weight, share)
    wide = b.expand(b.unsqueeze(index, (1,)), shape_of(b, [*sizes(flat, (0, 1)), count]))
    term = b.gather_elements(flat, wide, axis=2)
    if weight is not None:
        term = b.mul(term, b.unsqueeze(weight, (1,)))
    return term if inside is None else b.where(b.unsqueeze(inside, (1,)), term, scalar(b, 0, term))


@decomposes("affine_grid")
def affine_grid(b: Builder, node: Node) -> Value | Declined:
    """The grid of the identity, with a column of ones, times the transposed matrices."""
    theta, size = node.operands
    known, rank = size.ints(), theta.shape[1]
    if known is None or type(rank) is not int:
        return Declined("the size of the grid is computed")
    room(*known[2:], rank + 1)
    identity = np.eye(rank, rank + 1)[None]
    base = affine_grid_kernel(identity, np.asarray((1, 1, *known[2:])), align_corners=node.attr("align_corners"))
    points = np.concatenate([base.reshape(-1, rank), np.ones((base.size // rank, 1))], axis=1)
    grid = b.matmul(b.const(points.astype(theta.dtype.numpy)), b.transpose(theta, perm=(0, 2, 1)))
    return reshape_to(b, grid, [Size(theta, 0), *known[2:], rank])
