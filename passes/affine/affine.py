"""Scale and shift as numbers: y = factor * x + shift, elementwise with broadcasting.

What elementwise nodes with constants and batch norms do to their data is read off them as an `Affine`, and what an affine
does to a constant is computed here: in float64, rounded once. For batch norm the factor is scale / sqrt(var + epsilon) and
the shift bias - factor * mean (Ioffe and Szegedy, 2015, section 3.1). Must not know where affines go.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...ir.graph import Node, Value
from ...ir.tensor import ArrayTensor, LazyTensor, Tensor
from ...ir.types import DType
from ...ir.weights import Weight
from ..optimize.common import is_float

#: Weights above this many bytes are scaled lazily, when they are written.
LAZY_BYTES = 1 << 20
#: Scales and shifts with more elements are no parameters of a channel.
ELEMENTS = 1 << 20
#: Factors of weights that nobody has evaluated yet stay within these powers of two; then no exponent can run over.
SAFE_EXPONENT = 20

#: What `read` understands.
OPS = ("mul", "div", "add", "sub", "neg", "batch_norm")


class Affine(NamedTuple):
    """Float64 arrays of the data's rank, every dim 1 or the data's; `sources` are the weights that they come from."""

    factor: np.ndarray
    shift: np.ndarray
    sources: tuple[Weight, ...] = ()

    @property
    def scales(self) -> bool:
        """It has a factor other than 1."""
        return bool(np.any(self.factor != 1.0))

    @property
    def shifts(self) -> bool:
        """It has a shift other than 0."""
        return bool(np.any(self.shift))

    @property
    def grows(self) -> bool:
        """All factors are above 0: larger stays larger."""
        return bool(np.all(self.factor > 0))

    @property
    def rank(self) -> int:
        return self.factor.ndim

    @property
    def uniform(self) -> bool:
        """One number for all elements."""
        return self.factor.size == 1 and self.shift.size == 1

    def scale_only(self) -> Affine:
        return self._replace(shift=np.zeros((1,) * self.rank))


def affine(rank: int, factor: np.ndarray | float = 1.0, shift: np.ndarray | float = 0.0, sources=()) -> Affine:
    """An Affine for data of this rank from arrays that broadcast to it."""
    return Affine(_aligned(factor, rank), _aligned(shift, rank), tuple(sources))


def _aligned(array: np.ndarray | float, rank: int) -> np.ndarray:
    """`array` with leading dims of 1 up to `rank`, axes along which it does not vary reduced to one entry."""
    made = np.asarray(array, np.float64)
    made = made.reshape((1,) * (rank - made.ndim) + made.shape)
    for axis, size in enumerate(made.shape):
        first = made.take([0], axis) if size > 1 else made
        if size > 1 and bool(np.all(made == first)):
            made = first
    return made


def number(value: Value | None, rank: int) -> np.ndarray | None:
    """The float64 elements of a float constant of at most this rank; None where it is none, empty, large or not finite."""
    if value is None or value.weight is None or value.dtype is None or not value.dtype.is_float:
        return None
    if value.rank is None or value.rank > rank or not 0 < value.type.numel <= ELEMENTS:  # type: ignore[attr-defined]
        return None
    made = value.array().astype(np.float64)
    return made if np.isfinite(made).all() else None


def read(node: Node) -> tuple[int, Affine] | None:
    """Which operand a node of `OPS` scales and shifts, and how; None when it does anything else as well."""
    x = node.operands[0]
    if node.name in ("mul", "add", "sub", "div") and x is not None and x.is_const:
        return _found(node, 1, _constant_first(node))
    if node.name == "neg":
        return _found(node, 0, affine(x.rank, -1.0) if x is not None and x.rank else None)
    return _found(node, 0, _batch_norm(node) if node.name == "batch_norm" else _constant_second(node))


def _found(node: Node, index: int, made: Affine | None) -> tuple[int, Affine] | None:
    data = node.operands[index]
    if made is None or data is None or data.is_const or data.type is not node.result.type or not is_float(data):
        return None
    if not (np.isfinite(made.factor).all() and np.isfinite(made.shift).all()):
        return None
    return index, made


def _constant_second(node: Node) -> Affine | None:
    """mul(x, c), div(x, c), add(x, c), sub(x, c)"""
    rank, c = node.result.rank, node.operands[1]
    array = None if rank is None else number(c, rank)
    if array is None:
        return None
    sources = (c.weight,)  # type: ignore[union-attr]
    if node.name == "mul":
        return affine(rank, array, sources=sources)
    if node.name == "div":
        return affine(rank, 1.0 / array, sources=sources) if np.all(array) else None
    return affine(rank, shift=array if node.name == "add" else -array, sources=sources)


def _constant_first(node: Node) -> Affine | None:
    """mul(c, x), add(c, x), sub(c, x)"""
    rank, c = node.result.rank, node.operands[0]
    array = None if rank is None or node.name == "div" else number(c, rank)
    if array is None:
        return None
    sources = (c.weight,)  # type: ignore[union-attr]
    if node.name == "mul":
        return affine(rank, array, sources=sources)
    return affine(rank, -1.0 if node.name == "sub" else 1.0, array, sources)


def _batch_norm(node: Node) -> Affine | None:
    """The scale and shift of a batch norm with constant parameters."""
    rank = node.result.rank
    params = [number(v, 1) for v in node.operands[1:5]]
    if rank is None or rank < 2 or node.attr("channels_last") or any(p is None for p in params):
        return None
    scale, bias, mean, var = params
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(var + node.attr("epsilon"))  # type: ignore[operator]
    shape = (-1, *[1] * (rank - 2))
    shift = bias - factor * mean  # type: ignore[operator]
    sources = tuple(v.weight for v in node.operands[1:5])  # type: ignore[union-attr]
    return affine(rank, factor.reshape(shape), shift.reshape(shape), sources)  # type: ignore[arg-type]


def fits(made: Affine, value: Value) -> bool:
    """Scaled and shifted by it, the value keeps its shape."""
    if value.shape is None or len(value.shape) != made.rank:
        return False
    arrays = (made.factor, made.shift)
    return all(n in (1, d) for array in arrays for n, d in zip(array.shape, value.shape, strict=True))


def scaled(weight: Weight, factor: np.ndarray) -> Tensor | None:
    """weight * factor (an array that broadcasts to it), in the weight's dtype; lazy when large. None where the exponents do
    not suffice: a slice that one factor belongs to would run over, or become too small to keep its digits."""
    tensor, dtype = weight.tensor, weight.tensor.dtype
    if isinstance(tensor, LazyTensor) and tensor.nbytes > LAZY_BYTES:
        limits = np.abs(factor[factor != 0])
        if dtype.name == "f16" or np.any(np.abs(np.log2(limits)) > SAFE_EXPONENT):
            return None
        return _lazy(tensor, factor)
    array = tensor.numpy()
    if not _keeps_digits(array, factor, dtype):
        return None
    if tensor.nbytes > LAZY_BYTES:
        return _lazy(tensor, factor)
    return ArrayTensor((array.astype(np.float64) * factor).astype(dtype.numpy), dtype)


def _lazy(tensor: Tensor, factor: np.ndarray) -> Tensor | None:
    made = rounded(factor, tensor.dtype)
    return None if made is None else LazyTensor("mul", (tensor, ArrayTensor(made, tensor.dtype)))


def _keeps_digits(array: np.ndarray, factor: np.ndarray, dtype: DType) -> bool:
    """The largest elements of each slice that has a factor of its own stay finite and, unless they were small before,
    large enough that the slice's digits do not fall below the least normal number."""
    if array.size == 0:
        return True
    aligned = factor.reshape((1,) * (array.ndim - factor.ndim) + factor.shape)
    others = tuple(axis for axis, size in enumerate(aligned.shape) if size == 1)
    top = np.maximum(array.max(others, keepdims=True), -array.min(others, keepdims=True)).astype(np.float64)
    least, most, digits = _range_of(dtype)
    floor = least * 2.0**digits
    after = top * np.abs(aligned)
    return bool(np.all((after <= most) & ((after >= floor) | (top < floor) | (after == 0))))


def _range_of(dtype: DType) -> tuple[float, float, int]:
    """Least normal number, largest number, digits of the fraction."""
    if dtype.name == "bf16":
        return 2.0**-126, 2.0**127 * (2 - 2.0**-7), 7
    made = np.finfo(dtype.numpy)
    return float(made.tiny), float(made.max), made.nmant


def applied(made: Affine, weight: Weight) -> Tensor | None:
    """factor * weight + shift for a constant beside data of rank `made.rank`, in the weight's dtype and of its rank or more;
    None where it is large or a number would lose digits."""
    tensor = weight.tensor
    factor = _trimmed(made.factor, len(tensor.shape))
    if not made.shifts and tensor.size > max(factor.size, 1) and _broadcasts(factor.shape, tensor.shape):
        return scaled(weight, factor)
    if made.rank < len(tensor.shape) or max(tensor.size, made.factor.size, made.shift.size) > ELEMENTS:
        return None
    exact = made.factor * tensor.numpy().astype(np.float64) + made.shift
    array = rounded(_trimmed(exact, len(tensor.shape)), tensor.dtype)
    return None if array is None or array.size > ELEMENTS else ArrayTensor(np.asarray(array), tensor.dtype)


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """An array of the one shape broadcasts to the other shape."""
    return len(small) == len(large) and all(n in (1, d) for n, d in zip(small, large, strict=True))


def rounded(exact: np.ndarray, dtype: DType) -> np.ndarray | None:
    """`exact` in this dtype; None where a number runs over or loses digits."""
    with np.errstate(all="ignore"):
        made = exact.astype(dtype.numpy)
        away = np.abs(made.astype(np.float64) - exact)
    return made if np.all(away <= np.abs(exact) * 2.0 ** -_range_of(dtype)[2]) else None


def _trimmed(array: np.ndarray, rank: int) -> np.ndarray:
    """Without those leading dims of 1 that make it longer than `rank`."""
    shape = array.shape
    while len(shape) > rank and shape[0] == 1:
        shape = shape[1:]
    return array.reshape(shape)
