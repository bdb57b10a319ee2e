"""The arithmetic of sliding windows: pads, output sizes and output padding of conv, pooling and their transposes.

Works on ints and on symbolic dims alike: shape rules and kernels share it. Formulas are those of the ONNX operator
documents of Conv, ConvTranspose, MaxPool and AveragePool; pads are in ONNX's order, all begins and then all ends.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..dims import Dim, ceildiv, dim_max, dim_min
from ..errors import TypeInferError

AUTO_PAD = ("explicit", "same_upper", "same_lower")


class Window(NamedTuple):
    """Kernel geometry, one entry per spatial axis. `auto_pad` other than explicit replaces `begins` and `ends`. Kernel
    sizes are dims: symbolic where the weights' shape is not known."""

    kernel: tuple[Any, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[Any, ...]  # dims once `resolve_pads` has met symbolic sizes, else ints
    ends: tuple[Any, ...]
    auto_pad: str = "explicit"

    @property
    def extents(self) -> tuple[Any, ...]:
        """Input positions from the first to the last tap, inclusive."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def spread(values: tuple[int, ...], count: int, default: int, what: str) -> tuple[int, ...]:
    """`values`, or `count` times `default` when empty. Raises TypeInferError on another length."""
    if not values:
        return (default,) * count
    if len(values) != count:
        raise TypeInferError(f"{what} has {len(values)} entries, expected {count}")
    return tuple(values)


def window(
    kernel: tuple[Any, ...],
    strides: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    dilations: tuple[int, ...] = (),
    auto_pad: str = "explicit",
) -> Window:
    """A checked Window; empty strides and dilations mean 1, empty pads 0. Raises TypeInferError."""
    rank = len(kernel)
    strides = spread(strides, rank, 1, "strides")
    dilations = spread(dilations, rank, 1, "dilations")
    pads = spread(pads, 2 * rank, 0, "pads")
    for name, values in (("kernel_shape", kernel), ("strides", strides), ("dilations", dilations)):
        if any(type(v) is int and v < 1 for v in values):
            raise TypeInferError(f"{name} is {values}; every entry must be at least 1")
    if auto_pad not in AUTO_PAD:
        raise TypeInferError(f"auto_pad is {auto_pad!r}, expected one of {', '.join(AUTO_PAD)}")
    if auto_pad != "explicit" and any(pads):
        raise TypeInferError(f"pads {pads} contradict auto_pad {auto_pad!r}")
    return Window(tuple(kernel), strides, dilations, pads[:rank], pads[rank:], auto_pad)


def output_size(w: Window, axis: int, size: Dim, ceil_mode: bool = False) -> Dim:
    """Windows along one axis. With `ceil_mode` the last may overhang but must start inside input or left padding."""
    stride, extent = w.strides[axis], w.extents[axis]
    if w.auto_pad != "explicit":
        return ceildiv(size, stride)
    padded = size + w.begins[axis] + w.ends[axis]
    if isinstance(padded, int) and isinstance(extent, int) and padded < extent and not ceil_mode:
        return 0
    if not ceil_mode:
        return (padded - extent) // stride + 1
    made = dim_min(ceildiv(padded - extent, stride) + 1, ceildiv(size + w.begins[axis], stride))
    return max(made, 0) if isinstance(made, int) else made


def output_sizes(w: Window, sizes: tuple[Dim, ...], ceil_mode: bool = False) -> tuple[Dim, ...]:
    return tuple(output_size(w, axis, size, ceil_mode) for axis, size in enumerate(sizes))


def split_padding(total: Dim, upper: bool) -> tuple[Dim, Dim]:
    """Total padding as (begin, end); `upper` puts the odd one at the end."""
    half = total // 2
    return (half, total - half) if upper else (total - half, half)


def resolve_pads(w: Window, sizes: tuple[Dim, ...]) -> Window:
    """The same window with explicit pads for these input sizes."""
    if w.auto_pad == "explicit":
        return w
    pairs = []
    for axis, size in enumerate(sizes):
        needed = (ceildiv(size, w.strides[axis]) - 1) * w.strides[axis] + w.extents[axis] - size
        pairs.append(split_padding(dim_max(needed, 0), w.auto_pad == "same_upper"))
    begins, ends = zip(*pairs, strict=True)
    return w._replace(begins=begins, ends=ends, auto_pad="explicit")


def transposed(
    w: Window, sizes: tuple[Dim, ...], output_padding: tuple[int, ...], output_shape: tuple[int, ...]
) -> tuple[Window, tuple[Dim, ...]]:
    """Explicit pads and output sizes of a transposed window (ONNX ConvTranspose).

    A given `output_shape`, or auto_pad (whose output is size * stride), decides the pads; what the full result lacks is
    zeros at the end.
    """
    begins: list[Dim] = []
    ends: list[Dim] = []
    made: list[Dim] = []
    for axis, size in enumerate(sizes):
        stride = w.strides[axis]
        full = (size - 1) * stride + w.extents[axis] + (output_padding[axis] if output_padding else 0)
        if output_shape or w.auto_pad != "explicit":
            wanted = output_shape[axis] if output_shape else size * stride
            begin, end = split_padding(dim_max(full - wanted, 0), w.auto_pad == "same_upper")
        else:
            begin, end = w.begins[axis], w.ends[axis]
            wanted = full - begin - end
        begins.append(begin)
        ends.append(end)
        made.append(wanted)
    return w._replace(begins=tuple(begins), ends=tuple(ends), auto_pad="explicit"), tuple(made)
