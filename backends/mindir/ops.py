"""The ops that only MindIR has, each with what it means in core ops. Must not import MindSpore.

They make the legalised graph explicit where MindSpore differs from the core: tuples of integers instead of shape
tensors, a bias along the channels, indices of i32. Each has a kernel here, so a legalised module runs and is compared
before a byte is written.
"""

from __future__ import annotations

import numpy as np

from ...ir.dims import Dim, Expr, dim_max, dim_min
from ...ir.errors import TypeInferError
from ...ir.opdef import DtypeVar, Known, OpDef, attr, ints, op, operand, variadic
from ...ir.ops.window import output_sizes, window
from ...ir.types import F16, F32, I32, I64, TensorType
from ...ir.value import Value
from ...kernels.registry import get_kernel, kernel

T = DtypeVar("T")
#: An end beyond every dim, within 32 bits.
WHOLE = (1 << 31) - 1
FLOAT = DtypeVar("T", frozenset({F32, F16}))
COUNT = frozenset({I64})
_SCALAR = TensorType(I64, ())


# ------------------------------------------------------------------------------------------- tuples of integers


@op(name="ms.dim")
class Dimension(OpDef):
    """Dim `axis` of x as a scalar: TupleGetItem(Shape(x), axis)."""

    x = operand()
    axis = attr(int)
    reads_elems = True

    def infer(self, x, *, axis):
        return Known(_SCALAR, (x.shape[axis],))


_ARITHMETIC = {
    "add": (lambda a, b: a + b, np.add),
    "sub": (lambda a, b: a - b, np.subtract),
    "mul": (lambda a, b: a * b, np.multiply),
    "div": (lambda a, b: a // b, np.floor_divide),
    "mod": (lambda a, b: a % b, np.mod),
    "max": (dim_max, np.maximum),
    "min": (dim_min, np.minimum),
}


@op(name="ms.scalar")
class Scalar(OpDef):
    """Arithmetic on scalars, which are no tensors in MindSpore."""

    a = operand(COUNT)
    b = operand(COUNT)
    kind = attr(str, choices=tuple(_ARITHMETIC))
    reads_elems = True

    def infer(self, a, b, *, kind):
        known = [v.elems[0] if v.elems else None for v in (a, b)]
        return Known(_SCALAR, None if None in known else (_ARITHMETIC[kind][0](*known),))


@op(name="ms.make_tuple")
class MakeTuple(OpDef):
    """Scalars as a tuple, which is what shape arguments are."""

    dims = variadic(COUNT)
    reads_elems = True

    def infer(self, dims):
        return Known(TensorType(I64, (len(dims),)), tuple(v.elems[0] if v.elems else None for v in dims))


@op(name="ms.tensor_to_tuple")
class TensorToTuple(OpDef):
    """The elements of an integer vector as a tuple."""

    x = operand(frozenset({I32, I64}))
    reads_elems = True

    def infer(self, x):
        return Known(TensorType(I64, x.shape), x.elems)


@op(name="ms.item")
class Item(OpDef):
    """A tensor of rank 0 as a scalar."""

    x = operand(frozenset({I64, F32}))
    reads_elems = True

    def infer(self, x):
        return Known(x.type, x.elems)


kernel("ms.item")(lambda x: x.copy())
kernel("ms.dim")(lambda x, *, axis: np.asarray(x.shape[axis], np.int64))
kernel("ms.scalar")(lambda a, b, *, kind: np.asarray(_ARITHMETIC[kind][1](a, b), np.int64))
kernel("ms.make_tuple")(lambda *dims: np.asarray([int(d) for d in dims], np.int64))
kernel("ms.tensor_to_tuple")(lambda x: x.astype(np.int64))


# ------------------------------------------------------------------------------------------------ tensors


@op(name="ms.bias_add")
class BiasAdd(OpDef):
    """x [N, C, *S] plus bias [C]."""

    x = operand(T)
    bias = operand(T)

    def infer(self, x, bias):
        return x.type


@kernel("ms.bias_add")
def _bias_add(x, bias):
    return get_kernel("add")(x, bias.reshape((-1,) + (1,) * (x.ndim - 2)))


@op(name="ms.matmul")
class MatMul(OpDef):
    """Product of matrices with either one transposed."""

    a = operand(T)
    b = operand(T)
    transpose_a = attr(bool, False)
    transpose_b = attr(bool, False)

    def infer(self, a, b, *, transpose_a, transpose_b):
        rows = a.shape[-1 if transpose_a else -2]
        columns = b.shape[-2 if transpose_b else -1]
        return a.type.with_shape((*a.shape[:-2], rows, columns))


@kernel("ms.matmul")
def _matmul(a, b, *, transpose_a, transpose_b):
    left = np.swapaxes(a, -1, -2) if transpose_a else a
    right = np.swapaxes(b, -1, -2) if transpose_b else b
    return get_kernel("matmul")(np.ascontiguousarray(left), np.ascontiguousarray(right))


@op(name="ms.conv_transpose")
class ConvTranspose(OpDef):
    """Transposed convolution of two dims: explicit pads, and the whole output shape as a tuple."""

    x = operand(FLOAT)
    w = operand(FLOAT)
    shape = operand(COUNT)
    strides = attr(ints)
    pads = attr(ints)
    dilations = attr(ints)
    groups = attr(int, 1)
    reads_elems = True

    def infer(self, x, w, shape, **_):
        return x.type.with_shape(_dims(shape, x.rank))


@kernel("ms.conv_transpose")
def _conv_transpose(x, w, shape, *, strides, pads, dilations, groups):
    rank = x.ndim - 2
    made = [(x.shape[2 + i] - 1) * strides[i] + (w.shape[2 + i] - 1) * dilations[i] + 1 for i in range(rank)]
    rest = tuple(int(shape[2 + i]) - (made[i] - pads[i] - pads[rank + i]) for i in range(rank))
    attrs = {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups}
    return get_kernel("conv_transpose")(x, w, output_padding=rest, **attrs)


@op(name="ms.prelu")
class PRelu(OpDef):
    """prelu with a slope per channel, [C] or [1]."""

    x = operand(FLOAT)
    slope = operand(FLOAT)

    def infer(self, x, slope):
        return x.type


@kernel("ms.prelu")
def _prelu(x, slope):
    return get_kernel("prelu")(x, slope.reshape((-1,) + (1,) * max(x.ndim - 2, 0)))


@op(name="ms.sort")
class Sort(OpDef):
    """The last axis in order with the i32 places that its elements had; equal elements keep their order."""

    x = operand(T)
    descending = attr(bool, False)
    results = ("values", "indices")

    def infer(self, x, *, descending):
        return [x.type, x.type.with_dtype(I32)]


@kernel("ms.sort")
def _sort(x, *, descending):
    count = np.asarray([x.shape[-1]], np.int64)
    values, indices = get_kernel("topk")(x, count, axis=-1, largest=descending, sorted=True)
    return values, indices.astype(np.int32)


@op(name="ms.non_zero")
class NonZero(OpDef):
    """Coordinates of what is not zero, one row each: [count, rank]."""

    x = operand(T)

    def infer(self, x):
        return TensorType(I64, (Expr.fresh(), x.rank))


kernel("ms.non_zero")(lambda x: np.ascontiguousarray(get_kernel("non_zero")(x).T))


@op(name="ms.strided_slice")
class StridedSlice(OpDef):
    """Begin, end and positive step of every axis; begin and end are tuples."""

    x = operand(T)
    begin = operand(COUNT)
    end = operand(COUNT)
    strides = attr(ints)
    reads_elems = True

    def infer(self, x, begin, end, *, strides):
        bounds = zip(begin.elems or (None,) * x.rank, end.elems or (None,) * x.rank, strides, strict=True)
        return x.type.with_shape(tuple(_taken(dim, *row) for dim, row in zip(x.shape, bounds, strict=True)))


@kernel("ms.strided_slice")
def _strided_slice(x, begin, end, *, strides):
    return get_kernel("slice")(x, begin, end, None, np.asarray(strides, np.int64))


@op(name="ms.resize")
class Resize(OpDef):
    """Both spatial axes to `size`: nearest (floor of the scaled index) or bilinear with one of two grids."""

    x = operand()
    size = operand(COUNT)
    mode = attr(str, choices=("nearest", "linear"))
    align_corners = attr(bool, False)
    half_pixel = attr(bool, False)
    reads_elems = True

    def infer(self, x, size, **_):
        return x.type.with_shape((*x.shape[:2], *_dims(size, 2)))


@kernel("ms.resize")
def _resize(x, size, *, mode, align_corners, half_pixel):
    grid = "align_corners" if align_corners else "half_pixel" if half_pixel else "asymmetric"
    sizes = np.asarray(size, np.int64)
    attrs = {"mode": mode, "coordinate_transformation_mode": grid, "nearest_mode": "floor", "axes": (2, 3)}
    return get_kernel("resize")(x, None, None, sizes, **attrs)


@op(name="ms.max_pool_with_argmax")
class MaxPoolWithArgmax(OpDef):
    """max_pool over two dims with, as i64, the place of each maximum inside its own plane."""

    x = operand()
    kernel_shape = attr(ints)
    strides = attr(ints)
    pads = attr(ints)
    dilations = attr(ints)
    results = ("y", "indices")

    def infer(self, x, *, kernel_shape, strides, pads, dilations):
        made = window(kernel_shape, strides, pads, dilations)
        pooled = x.type.with_shape((*x.shape[:2], *output_sizes(made, tuple(x.shape[2:]))))
        return [pooled, pooled.with_dtype(I64)]


@kernel("ms.max_pool_with_argmax")
def _max_pool_with_argmax(x, **attrs):
    plain = {"ceil_mode": False, "auto_pad": "explicit", "storage_order": 0, "channels_last": False}
    y, flat = get_kernel("max_pool_with_indices")(x, **attrs, **plain)
    return y, flat % (x.shape[2] * x.shape[3])


@op(name="ms.lstm")
class Lstm(OpDef):
    """One forward layer: x [T, B, I], h and c [1, B, H], flat weights: input, recurrent, bias; gates i, f, g, o."""

    x = operand(FLOAT)
    h = operand(FLOAT)
    c = operand(FLOAT)
    w = operand(FLOAT)
    hidden_size = attr(int)
    results = ("y", "y_h", "y_c")

    def infer(self, x, h, c, w, *, hidden_size):
        steps, batch, _ = x.shape
        state = x.type.with_shape((1, batch, hidden_size))
        return [x.type.with_shape((steps, batch, hidden_size)), state, state]


@kernel("ms.lstm")
def _lstm(x, h, c, w, *, hidden_size):
    size, width = hidden_size, x.shape[2]
    flat = w.reshape(-1)
    parts = np.split(flat, [4 * size * width, 4 * size * (width + size)])
    order = [0, 3, 1, 2]  # ONNX's i, o, f, c from i, f, g, o
    inner, outer = (p.reshape(4, size, -1)[order].reshape(1, 4 * size, -1) for p in parts[:2])
    bias = np.concatenate([parts[2].reshape(4, size)[order].reshape(-1), np.zeros(4 * size, w.dtype)])[None]
    y, last, state = get_kernel("lstm")(x, inner, outer, bias, None, h, c, hidden_size=size)
    return y[:, 0], last, state


def _taken(dim: Dim, begin: Dim | None, end: Dim | None, stride: int) -> Dim:
    """How many places of an axis a slice takes; a fresh symbol where that is not known."""
    if begin == 0 and stride == 1 and type(end) is int and (end >= WHOLE or end == dim):
        return dim
    if type(dim) is int and type(begin) is int and type(end) is int:
        return len(range(dim)[begin:end:stride])
    return Expr.fresh()


def _dims(shape: Value, rank: int) -> tuple[Dim, ...]:
    """The dims that a tuple spells; a fresh symbol for what is not known."""
    elems = shape.elems or (None,) * rank
    if len(elems) != rank:
        raise TypeInferError(f"a shape of {len(elems)} dims for rank {rank}")
    return tuple(Expr.fresh() if e is None else e for e in elems)
