"""Convolutions. Weights are in ONNX's order, so nothing moves; a kernel_shape that contradicts the weight is refused."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Value
from .importer import Call, Importer
from .registry import handles

#: No runtime counts a window's geometry in more than 32 bits.
FARTHEST = (1 << 31) - 1
AUTO_PAD = {"NOTSET": "explicit", "VALID": "explicit", "SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}


def spatial_rank(n: Call, *values: Value | None) -> int:
    """Number of spatial axes, from the first value of known rank or from kernel_shape."""
    for value in values:
        if value is not None and value.rank is not None:
            if value.rank < 3:
                raise n.invalid(f"an operand of rank {value.rank} has no spatial axes")
            return value.rank - 2
    if n.attr("kernel_shape"):
        return len(n.attrs["kernel_shape"])
    raise n.refuse("the number of spatial axes is not known")


def window(n: Call, spatial: int, *, dilations: bool = True) -> dict[str, Any]:
    """strides, pads, dilations and auto_pad, complete and of the right length."""
    auto_pad = n.attr("auto_pad", "NOTSET")
    if auto_pad not in AUTO_PAD:
        raise n.invalid(f"auto_pad is {auto_pad!r} (expected one of {', '.join(AUTO_PAD)})")
    made: dict[str, Any] = {"auto_pad": AUTO_PAD[auto_pad]}
    wanted = {"strides": (1,) * spatial, "pads": (0,) * (2 * spatial)}
    if dilations:
        wanted["dilations"] = (1,) * spatial
    for name, default in wanted.items():
        value = tuple(n.attr(name) or default)
        if len(value) != len(default):
            raise n.invalid(f"{name} has {len(value)} entries, expected {len(default)}")
        if max(value, default=0) > FARTHEST:
            raise n.invalid(f"{name} {list(value)} reaches farther than any tensor (at most {FARTHEST})")
        if min(value, default=1) < (0 if name == "pads" else 1):
            raise n.invalid(f"{name} {list(value)} must not be {'negative' if name == 'pads' else 'below 1'}")
        made[name] = value
    if auto_pad != "NOTSET":
        made["pads"] = wanted["pads"]
    return made


def check_kernel(n: Call, w: Value) -> None:
    """kernel_shape repeats what the weight says; when it does not, one of them is wrong."""
    declared = n.attr("kernel_shape")
    if not declared or w.shape is None:
        return
    actual = w.shape[2:]
    if len(actual) != len(declared) or any(type(a) is int and a != d for a, d in zip(actual, declared, strict=True)):
        raise n.invalid(f"kernel_shape {list(declared)} contradicts the weight's shape {list(w.shape)}")


@handles("Conv")
def conv(c: Importer, n: Call) -> Any:
    x, w, b = n.take(3)
    check_kernel(n, w)
    return c.b.conv(x, w, b, groups=n.attr("group", 1), **window(n, spatial_rank(n, w, x)))


@handles("ConvTranspose")
def conv_transpose(c: Importer, n: Call) -> Any:
    x, w, b = n.take(3)
    check_kernel(n, w)
    spatial = spatial_rank(n, w, x)
    extra = tuple(n.attr("output_padding") or (0,) * spatial)
    shape = tuple(n.attr("output_shape") or ())
    shape = shape[2:] if len(shape) == spatial + 2 else shape  # opset 1 files state the whole shape
    attrs = window(n, spatial)
    return c.b.conv_transpose(x, w, b, groups=n.attr("group", 1), output_padding=extra, output_shape=shape, **attrs)


@handles("ConvInteger")
def conv_integer(c: Importer, n: Call) -> Any:
    x, w, x_zero, w_zero = n.take(4)
    check_kernel(n, w)
    return c.b.conv_integer(x, w, x_zero, w_zero, groups=n.attr("group", 1), **window(n, spatial_rank(n, w, x)))
