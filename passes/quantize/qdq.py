"""Quantize and dequantize as rewrites see them: parameters as data, when two are the same, how they follow moved elements.

Scale and zero point have rank 0 or the data's rank (ir/ops/quant.py), so an axis needs no bookkeeping: what moves the data
moves them. Everything here reads; nothing edits a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Node, Value
from ...ir.ops.quant import REAL_FLOAT
from ...ir.types import F32, F64, DType
from ...kernels.registry import get_kernel

#: Products of a float32 scale with differences of at most this many bits are so near that dividing by it gives them back.
SHORT_BITS = 16
TINY = float(np.finfo(np.float32).tiny)


class Encoding(NamedTuple):
    """How integers of dtype `stored` stand for real numbers. `block` is the attribute block_size."""

    scale: Value
    zero: Value | None
    stored: DType | None
    block: int = 0

    @property
    def short(self) -> bool:
        """Integers of a known type, so small that the arithmetic of SHORT_BITS holds."""
        return self.stored is not None and self.stored.is_int and self.stored.bits <= SHORT_BITS

    @property
    def constant(self) -> bool:
        return self.scale.is_const and (self.zero is None or self.zero.is_const)

    @property
    def single(self) -> bool:
        """One scale and one zero point for everything."""
        return all(v is None or v.type.numel == 1 for v in (self.scale, self.zero))  # type: ignore[attr-defined]

    def scales(self) -> np.ndarray:
        """The scales of constant parameters in float64."""
        return self.scale.array().astype(np.float64)

    def zeros(self) -> np.ndarray:
        """The zero points of constant parameters, 0 where there are none."""
        return np.zeros((), np.int64) if self.zero is None else self.zero.array().astype(np.int64)

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest stored integer."""
        info = ml_dtypes.iinfo(self.stored.numpy)
        return int(info.min), int(info.max)

    def numbers(self) -> np.ndarray:
        """Every stored integer, in order, for enumerating what a chain of nodes does. At most 2**16."""
        low, high = self.limits
        return np.arange(low, high + 1).astype(self.stored.numpy)

    def real_range(self) -> tuple[float, float]:
        """Smallest and largest real number of single constant parameters."""
        (low, high), scale, zero = self.limits, self.scales().item(), self.zeros().item()
        return scale * (low - zero), scale * (high - zero)


def encoding_of(node: Node) -> Encoding:
    """The parameters of a quantize or dequantize node."""
    stored = node.result.dtype if node.name == "quantize" else node.operands[0].dtype  # type: ignore[union-attr]
    return Encoding(node.operands[1], node.operand("zero_point"), stored, node.attr("block_size"))  # type: ignore[arg-type]


def made_by(value: Value | None, name: str) -> Node | None:
    """The node of op `name` that yields `value`, if one does."""
    node = None if value is None else value.node
    return node if node is not None and node.name == name else None


def reliable(p: Encoding) -> str | None:
    """Why nothing is proven about these parameters; None for constant, positive, normal scales of short integers."""
    if not p.constant:
        return "the scale or zero point is computed"
    if not p.short:
        return f"{p.stored or 'an unknown type'} is no short integer"
    scales = p.scales()
    low, high = p.limits
    widest = np.maximum(high - p.zeros().min(), p.zeros().max() - low)
    if not (np.isfinite(scales).all() and (scales >= TINY).all()):
        return "a scale is not a positive normal number"
    if not np.isfinite((scales * widest).astype(p.scale.dtype.numpy)).all():  # type: ignore[union-attr]
        return "the range overflows"
    return None


def same(a: Encoding, b: Encoding) -> bool:
    """Surely the same numbers: the same values, or constants that say the same."""
    if a.stored is not b.stored or (a.block != b.block and not (a.single and b.single)):
        return False
    return _equal(a.scale, b.scale) and (a.zero is b.zero or _equal_zeros(a, b))


def _equal(a: Value, b: Value) -> bool:
    if a is b:
        return True
    if not (a.is_const and b.is_const) or a.dtype is not b.dtype:
        return False
    x, y = a.array(), b.array()
    if x.size == y.size == 1:
        return bool(x.reshape(()) == y.reshape(()))
    return x.shape == y.shape and bool(np.array_equal(x, y))


def _equal_zeros(a: Encoding, b: Encoding) -> bool:
    if not all(p.zero is None or p.zero.is_const for p in (a, b)):
        return False
    x, y = a.zeros(), b.zeros()
    if x.ndim == y.ndim or x.size == 1 or y.size == 1:
        return bool((x == y).all()) if x.size == 1 or y.size == 1 or x.shape == y.shape else False
    return False


# ---------------------------------------------------------------------------------------------- building and computing


def quantized(b: Builder, x: Value, p: Encoding) -> Value:
    return b.quantize(x, p.scale, p.zero, to=p.stored, block_size=p.block)


def dequantized(b: Builder, q: Value, p: Encoding, to: DType) -> Value:
    return b.dequantize(q, p.scale, p.zero, to=to, block_size=p.block)


def apply_quantize(x: np.ndarray, p: Encoding) -> np.ndarray:
    """What `quantize` does to an array, by its kernel; the parameters are constants."""
    return get_kernel("quantize")(x, *_arrays(p), to=p.stored, block_size=p.block)


def apply_dequantize(q: np.ndarray, p: Encoding, to: DType) -> np.ndarray:
    """What `dequantize` does to an array, by its kernel; the parameters are constants."""
    return get_kernel("dequantize")(q, *_arrays(p), to=to, block_size=p.block)


def _arrays(p: Encoding) -> tuple[np.ndarray, np.ndarray | None]:
    """Scale and zero point; single ones fit data of every rank."""
    scale, zero = p.scale.array(), None if p.zero is None else p.zero.array()
    return (scale.reshape(()), None if zero is None else zero.reshape(())) if p.single else (scale, zero)


def lone(b: Builder, p: Encoding) -> Encoding:
    """Single constant parameters as rank 0, which suits data of every rank."""
    parts = [v if v is None or v.rank == 0 else b.const(v.array().reshape(())) for v in (p.scale, p.zero)]
    return Encoding(parts[0], parts[1], p.stored)  # type: ignore[arg-type]


class Clamp(NamedTuple):
    """y = min(max(x, low), high)."""

    x: Value
    low: float
    high: float


def clamp_of(node: Node | None) -> Clamp | None:
    """What a relu, relu6, or clip of floats by single constants does; None for other nodes."""
    if node is None or node.name not in ("relu", "relu6", "clip") or node.result.dtype not in REAL_FLOAT:
        return None
    x = node.operands[0]
    if node.name != "clip":
        return Clamp(x, 0.0, 6.0 if node.name == "relu6" else np.inf)  # type: ignore[arg-type]
    bounds = []
    for name, free in (("min", -np.inf), ("max", np.inf)):
        bound = node.operand(name)
        if bound is not None and bound.scalar() is None:
            return None
        bounds.append(free if bound is None else float(bound.scalar()))
    low, high = bounds
    return Clamp(x, low, high) if low <= high else None  # type: ignore[arg-type]


def exact_float(p: Encoding, to: DType) -> bool:
    """Dividing a dequantised number by its scale rounds back to the integer it came from."""
    return to in (F32, F64) and p.scale.dtype in (F32, F64)


# ------------------------------------------------------------------------------- parameters that follow moved elements


class Stuck(NamedTuple):
    """Why parameters cannot follow."""

    reason: str


#: From a movement node and a parameter of its operand's rank: the parameter of its result, None where it cannot follow.
Follow = Callable[[Node, np.ndarray], "np.ndarray | None"]
#: The axes that a node touches, for data of a rank; None where that is not known.
Axes = Callable[[Node, int], "set[int] | None"]


def follow(b: Builder, node: Node, p: Encoding) -> Encoding | Stuck:
    """The parameters of the result of a movement node whose data operand (the first) has parameters `p`."""
    if p.single:
        return p if p.scale.rank == 0 and (p.zero is None or p.zero.rank == 0) else _single(b, p)
    if not p.constant:
        return Stuck("the parameters are computed")
    rule = _FOLLOW.get(node.name)
    if rule is None:
        return Stuck(f"parameters along an axis do not follow {node.name}")
    made = []
    for value in (p.scale, p.zero):
        if value is None or value.rank == 0:
            made.append(value)
            continue
        moved = rule(node, value.array())
        if moved is None:
            return Stuck(f"{node.name} touches the axis of the scales")
        made.append(_constant(b, value, moved))
    return Encoding(made[0], made[1], p.stored, p.block)


def _single(b: Builder, p: Encoding) -> Encoding | Stuck:
    return lone(b, p) if p.constant else Stuck("the parameters are computed")


def _constant(b: Builder, like: Value, array: np.ndarray) -> Value:
    """A parameter of another shape, named after the one it was."""
    weight = like.weight
    if weight is None or (weight.role == "const" and weight.key.startswith("const")):
        return b.const(array)
    return b.const(array, key=weight.wanted, role=weight.role, origin=f"moved({weight.key})")


def _wide(p: np.ndarray) -> set[int]:
    """The axes along which parameters vary."""
    return {axis for axis, size in enumerate(p.shape) if size != 1}


def _transpose(node: Node, p: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.transpose(p, node.attr("perm")))


def _reshape(node: Node, p: np.ndarray) -> np.ndarray | None:
    """Every axis that parameters vary along must be an axis of the result too: as many elements before it, as long."""
    old, new = node.operands[0].shape, node.result.shape  # type: ignore[union-attr]
    if old is None or new is None or any(type(d) is not int for d in (*old, *new)):
        return None
    places = {_before(new, axis): axis for axis, size in enumerate(new) if size != 1}
    shape = [1] * len(new)
    for axis in sorted(_wide(p)):
        to = places.get(_before(old, axis))
        if to is None or new[to] != old[axis]:
            return None
        shape[to] = p.shape[axis]
    return p.reshape(shape)


def _before(shape: tuple, axis: int) -> int:
    return int(np.prod(shape[:axis], dtype=np.int64))


def _axis_of(node: Node, rank: int) -> int:
    return int(node.attr("axis")) % rank


def _gather(node: Node, p: np.ndarray) -> np.ndarray | None:
    """Rows of an embedding take their scales along; single ones make room for the indices' axes."""
    indices = node.operands[1]
    axis = _axis_of(node, p.ndim)
    if indices is None or indices.rank is None or p.shape[axis] != 1:
        return None
    return p.reshape(*p.shape[:axis], *(1,) * indices.rank, *p.shape[axis + 1 :])


def _untouched(axes: Axes) -> Follow:
    """Parameters stay as they are where the node leaves the axes alone that they vary along."""

    def rule(node: Node, p: np.ndarray) -> np.ndarray | None:
        touched = axes(node, p.ndim)
        return None if touched is None or touched & _wide(p) else p

    return rule


def _given_axes(name: str) -> Axes:
    def axes(node: Node, rank: int) -> set[int] | None:
        given = node.operand(name)
        if given is None:
            return set(range(rank))
        known = given.ints()
        return None if known is None else {axis % rank for axis in known}

    return axes


def _grown(node: Node, rank: int) -> set[int] | None:
    """The axes that expand or tile makes longer; None where the rank grows."""
    old, new = node.operands[0].shape, node.result.shape  # type: ignore[union-attr]
    if old is None or new is None or len(old) != len(new):
        return None
    return {axis for axis in range(rank) if old[axis] != new[axis]}


_FOLLOW: dict[str, Follow] = {
    "transpose": _transpose,
    **dict.fromkeys(("reshape", "flatten", "squeeze", "unsqueeze"), _reshape),
    "gather": _gather,
    "slice": _untouched(_given_axes("axes")),
    "pad": _untouched(_given_axes("axes")),
    "reverse": _untouched(lambda node, rank: {axis % rank for axis in node.attr("axes")}),
    **dict.fromkeys(("split", "concat"), _untouched(lambda node, rank: {_axis_of(node, rank)})),
    **dict.fromkeys(("expand", "tile"), _untouched(_grown)),
    "max_pool": _untouched(lambda node, rank: set(range(2, rank)) if not node.attr("channels_last") else None),
    "identity": lambda node, p: p,
}
