"""Pools as MAX_POOL_2D and AVERAGE_POOL_2D: explicit pads that SAME does not make are padded before.

TFLite's SAME average leaves padding out of the count; other counts are corrected by a constant factor per position.
"""

from __future__ import annotations

import numpy as np

from ....ir.builder import Builder
from ....ir.dims import Dim
from ....ir.ops.window import Window, output_sizes, resolve_pads, window
from ....ir.types import F32
from ....ir.value import Node, Value
from ....passes.decompose.rules import Declined, Outcome
from . import lowers
from .common import dims_of, f32, numbers, padded, reshaped, static
from .conv import as_image, placed
from .elementwise import in_dtype


def _window(node: Node) -> Window:
    names = ("kernel_shape", "strides", "pads", "dilations", "auto_pad")
    return window(*(node.attr(name) for name in names))


def _refused(node: Node) -> str | None:
    x = node.operands[0]
    if x.rank not in (3, 4, 5) or not node.attr("channels_last"):
        return f"a pool over {x.type}"
    return None


def _one_dim(b: Builder, node: Node) -> Value:
    """Length as width, height 1."""
    pads = node.attr("pads")
    attrs = dict(node.attrs) | {
        "kernel_shape": (1, *node.attr("kernel_shape")),
        "strides": (1, *(node.attr("strides") or (1,))),
        "dilations": (1, *(node.attr("dilations") or (1,))),
        "pads": (0, pads[0], 0, pads[1]) if pads else (),
    }
    y = b.call(node.name, (as_image(b, node.operands[0]),), attrs).result
    return reshaped(b, y, node.result.shape)


def _three_dims(b: Builder, node: Node) -> Value | Declined:
    """Over height and width of every slice, then over depth: the largest, and the mean, of a box come apart so."""
    (x,), result = node.operands, node.result.shape
    if not static(x.shape[1:]) or not static(result[1:]):
        return Declined("a pool over a volume of unknown size")
    _, d, h, w, c = x.shape
    planes = b.reshape(x, (-1, h, w, c))
    flat = b.call(node.name, (planes,), _axes_of(node, (1, 2))).result
    columns = b.reshape(flat, (-1, d, result[2] * result[3], c))
    deep = b.call(node.name, (columns,), _axes_of(node, (0, None))).result
    return reshaped(b, deep, result)


def _axes_of(node: Node, axes: tuple[int | None, int | None]) -> dict:
    """The attributes for two of three spatial axes; None is an axis that the window leaves alone."""

    def pick(name: str, neutral: int) -> tuple[int, ...]:
        values = node.attr(name) or (neutral,) * 3
        return tuple(neutral if axis is None else values[axis] for axis in axes)

    pads = node.attr("pads") or (0,) * 6
    chosen = [0 if axis is None else pads[axis + side] for side in (0, 3) for axis in axes]
    windows = {
        "kernel_shape": pick("kernel_shape", 1),
        "strides": pick("strides", 1),
        "dilations": pick("dilations", 1),
    }
    return dict(node.attrs) | windows | {"pads": tuple(chosen) if node.attr("pads") else ()}


def _overhang(w: Window, sizes: tuple[Dim, ...], ceil_mode: bool) -> tuple[int, ...] | None:
    """How far the last window of each axis reaches beyond the padded input; None for unknown sizes."""
    if not ceil_mode:
        return (0,) * len(sizes)
    if not static(sizes):
        # stride - 1 more: floor((n + s - 1) / s) = ceil(n / s); the last window starts inside while extent >= stride.
        fits = all(e >= s for e, s in zip(w.extents, w.strides, strict=True)) and w.auto_pad == "explicit"
        return tuple(s - 1 for s in w.strides) if fits else None
    outs = output_sizes(w, sizes, True)
    return tuple(
        max(0, (out - 1) * w.strides[i] + w.extents[i] - (size + w.begins[i] + w.ends[i]))
        for i, (out, size) in enumerate(zip(outs, sizes, strict=True))
    )


def _call(b: Builder, name: str, x: Value, w: Window, padding: str) -> Value:
    attrs = {"padding": padding, "stride_h": w.strides[0], "stride_w": w.strides[1]}
    attrs |= {"filter_height": w.kernel[0], "filter_width": w.kernel[1]}
    return b.call(name, (x,), attrs).result


@lowers("max_pool")
def max_pool(b: Builder, node: Node) -> Outcome:
    reason = _refused(node)
    if reason is not None:
        return Declined(reason)
    x, w = node.operands[0], _window(node)
    if x.dtype is not F32:
        return in_dtype(b, node, F32) if x.dtype.bits <= 16 else Declined(f"a pool of {x.dtype}")
    if x.rank != 4:
        return _one_dim(b, node) if x.rank == 3 else _three_dims(b, node)
    sizes = tuple(x.shape[1:3])
    over, where = _overhang(w, sizes, node.attr("ceil_mode")), placed(w, sizes)
    if over is None or where is None:
        return Declined("the pads depend on sizes that are not known")
    padding, begins, ends = where
    if any(over):
        w = resolve_pads(w, sizes) if static(sizes) else w
        padding, begins, ends = "VALID", w.begins, tuple(e + o for e, o in zip(w.ends, over, strict=True))
    if any(d != 1 for d in w.dilations):
        return _max_of_taps(b, x, w, sizes, over)
    return _call(b, "tfl.max_pool_2d", padded(b, x, begins, ends, -np.inf), w, padding)


def _max_of_taps(b: Builder, x: Value, w: Window, sizes: tuple[Dim, ...], over: tuple[int, ...]) -> Value | Declined:
    """A dilated window: the largest of one strided slice per tap."""
    if not static(sizes):
        return Declined("a dilated pool over an image of unknown size")
    w = resolve_pads(w, sizes)
    x = padded(b, x, w.begins, tuple(e + o for e, o in zip(w.ends, over, strict=True)), -np.inf)
    outs = [(size - extent) // s + 1 for size, extent, s in zip(x.shape[1:3], w.extents, w.strides, strict=True)]
    made = None
    for taps in np.ndindex(*w.kernel):
        starts = tuple(t * d for t, d in zip(taps, w.dilations, strict=True))
        ends = tuple(start + (out - 1) * s + 1 for start, out, s in zip(starts, outs, w.strides, strict=True))
        piece = b.slice(x, starts, ends, (1, 2), w.strides)
        made = piece if made is None else b.max(made, piece)
    return made


@lowers("average_pool")
def average_pool(b: Builder, node: Node) -> Value | Declined:
    reason = _refused(node)
    if reason is not None:
        return Declined(reason)
    x, w = node.operands[0], _window(node)
    if any(d != 1 for d in w.dilations):
        return Declined("a dilated average")
    if x.rank != 4:
        return _one_dim(b, node) if x.rank == 3 else _three_dims(b, node)
    sizes = tuple(x.shape[1:3])
    over, where = _overhang(w, sizes, node.attr("ceil_mode")), placed(w, sizes)
    if over is None or where is None:
        return Declined("the pads depend on sizes that are not known")
    padding, begins, ends = where
    counts_pads = node.attr("count_include_pad")
    if not any(over) and (padding == "VALID" or not counts_pads) and not any((*begins, *ends)):
        return _call(b, "tfl.average_pool_2d", x, w, padding)
    if not any(over) and counts_pads and padding == "VALID":
        return _call(b, "tfl.average_pool_2d", padded(b, x, begins, ends), w, "VALID")
    if not static(sizes):
        return _counted_then(b, x, w, over, counts_pads)
    return _counted(b, x, resolve_pads(w, sizes), numbers(sizes), over, counts_pads)


def _counted(
    b: Builder, x: Value, w: Window, sizes: tuple[int, ...], over: tuple[int, ...], counts_pads: bool
) -> Value:
    """The mean over the whole window with zeros outside, times window / count."""
    ends = tuple(e + o for e, o in zip(w.ends, over, strict=True))
    y = _call(b, "tfl.average_pool_2d", padded(b, x, w.begins, ends), w, "VALID")
    factors = np.ones((1, 1, 1, 1))
    for axis, size in enumerate(sizes):
        line = _counts(w, axis, size, numbers(y.shape[1:3])[axis], counts_pads)
        factors = factors * (w.kernel[axis] / line).reshape([-1 if a == 1 + axis else 1 for a in range(4)])
    return y if (factors == 1).all() else b.mul(y, b.const(factors.astype(np.float32)))


def _counted_then(b: Builder, x: Value, w: Window, over: tuple[int, ...], counts_pads: bool) -> Value | Declined:
    """As `_counted` where the counts are known when it runs: the same pool over ones."""
    if w.auto_pad != "explicit" or any(p >= e for p, e in zip(w.ends, w.extents, strict=True)):
        return Declined("the number of elements in a window depends on sizes that are not known")
    ends = tuple(e + o for e, o in zip(w.ends, over, strict=True))
    sums = _call(b, "tfl.average_pool_2d", padded(b, x, w.begins, ends), w, "VALID")
    ones = b.call("tfl.fill", (dims_of(b, (1, *x.shape[1:3], 1), x), f32(b, 1.0))).result
    if counts_pads:
        ones = padded(b, padded(b, ones, w.begins, w.ends, 1.0), (0, 0), over)
    else:
        ones = padded(b, ones, w.begins, ends)
    return b.div(sums, _call(b, "tfl.average_pool_2d", ones, w, "VALID"))


def _counts(w: Window, axis: int, size: int, outs: int, counts_pads: bool) -> np.ndarray:
    """How many elements of each window along one axis count."""
    low, high = (-w.begins[axis], size + w.ends[axis]) if counts_pads else (0, size)
    starts = np.arange(outs) * w.strides[axis] - w.begins[axis]
    return np.minimum(starts + w.kernel[axis], high) - np.maximum(starts, low)


@lowers("global_average_pool", "global_max_pool")
def global_pool(b: Builder, node: Node) -> Value:
    (x,) = node.operands
    axes = tuple(range(1, x.rank - 1)) if node.attr("channels_last") else tuple(range(2, x.rank))
    name = "reduce_mean" if node.name == "global_average_pool" else "reduce_max"
    return b.call(name, (x, axes), {"keepdims": True}).result
