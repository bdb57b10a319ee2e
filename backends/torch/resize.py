"""Torch expressions of resize and sampling: what torch's own conventions cover; the rest is taken apart."""

from __future__ import annotations

from typing import Any

from ...ir.value import Node
from .calls import Call, Refusal, known, only, rank_of, row

_NEAREST = {("asymmetric", "floor"): "nearest", ("half_pixel", "round_prefer_ceil"): "nearest-exact"}
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@row("resize")
def resize(node: Node) -> Call:
    """F.interpolate over all spatial axes."""
    only(node, "mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "axes")
    x, _, scales, sizes = (*node.operands, None, None, None)[:4]
    assert x is not None
    n = rank_of(x) - 2
    if not 1 <= n <= 3:
        raise Refusal(f"torch resizes 1 to 3 axes, not {n}")
    spatial = _spatial_only(node, n)
    extra = _how(node, n)
    if scales is not None:
        if not scales.is_const:
            raise Refusal("its scales are computed")
        factors = tuple(float(f) for f in scales.array().reshape(-1))
        return Call("F.interpolate", x, scale_factor=spatial(factors, 1.0), **extra)
    return Call("F.interpolate", x, size=spatial(known(sizes, "sizes"), None, x.shape), **extra)


def _spatial_only(node: Node, n: int) -> Any:
    axes = tuple(axis % (n + 2) for axis in node.attr("axes")) or tuple(range(n + 2))

    def pick(values: tuple[Any, ...], neutral: Any, shape: Any = None) -> tuple[Any, ...]:
        by_axis = dict(zip(axes, values, strict=True))
        for axis in (0, 1):
            if axis in by_axis and by_axis[axis] != (neutral if shape is None else shape[axis]):
                raise Refusal("it resizes batch or channels")
        missing = [axis for axis in range(2, n + 2) if axis not in by_axis]
        if missing and shape is None:
            by_axis |= dict.fromkeys(missing, neutral)
        elif missing:
            by_axis |= {axis: shape[axis] for axis in missing}
        return tuple(by_axis[axis] for axis in range(2, n + 2))

    return pick


def _how(node: Node, n: int) -> dict[str, Any]:
    mode, place = node.attr("mode"), node.attr("coordinate_transformation_mode")
    if mode != "nearest" and not node.result.dtype.is_float:
        raise Refusal("torch rounds integers between pixels by rules of its own")
    if mode == "nearest":
        found = _NEAREST.get((place, node.attr("nearest_mode")))
        if found is None:
            raise Refusal(f"nearest by {place} and {node.attr('nearest_mode')}")
        return {"mode": found}
    if place not in ("half_pixel", "align_corners"):
        raise Refusal(f"coordinates by {place}")
    if mode == "cubic" and (n != 2 or abs(node.attr("cubic_coeff_a") + 0.75) > 1e-6):
        raise Refusal("torch's cubic is over two axes, with the coefficient -0.75")
    return {"mode": "bicubic" if mode == "cubic" else _LINEAR[n], "align_corners": place == "align_corners"}


_SAMPLE = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}


@row("grid_sample")
def grid_sample(node: Node) -> Call:
    x, grid = node.operands
    assert x is not None
    if rank_of(x) not in (4, 5) or (rank_of(x) == 5 and node.attr("mode") == "cubic"):
        raise Refusal("torch samples images and volumes")
    return Call(
        "F.grid_sample", x, grid, mode=_SAMPLE[node.attr("mode")], padding_mode=node.attr("padding_mode"),
        align_corners=node.attr("align_corners"),
    )  # fmt: skip


@row("affine_grid")
def affine_grid(node: Node) -> Call:
    theta, size = node.operands
    return Call("F.affine_grid", theta, known(size, "size"), align_corners=node.attr("align_corners"))
