"""Products: matmul, gemm, einsum and their integer forms (matmul_integer, conv_integer)."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..dims import Dim, dim_eq
from ..errors import TypeInferError
from ..opdef import PURE, SPATIAL, Axis, AxisMap, DtypeVar, OpDef, Sample, attr, ints, op, operand, optional, variadic
from ..types import FLOAT, I8, I32, I64, U8, U32, U64, TensorType
from . import rules
from .conv import _conv_axes, conv_shape
from .shapes import broadcast_dim, broadcast_shapes
from .window import AUTO_PAD

T = DtypeVar("T", FLOAT | {I32, I64, U32, U64})
BYTE = frozenset({I8, U8})


def matmul_shape(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Result dims of numpy's matmul. Raises TypeInferError."""
    if not a or not b:
        raise TypeInferError("matmul takes no scalars")
    left, right = (a if len(a) > 1 else (1, *a)), (b if len(b) > 1 else (*b, 1))
    rules.agree(left[-1], right[-2], f"inner dims of {rules.show(a)} and {rules.show(b)}")
    batch = broadcast_shapes(left[:-2], right[:-2])
    return (*batch, *left[-2:-1][: len(a) - 1], *right[-1:][: len(b) - 1])


def _matmul_axes(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> AxisMap:
    batch = broadcast_shapes(a[:-2], b[:-2])
    left = (*_batch_axes(a[:-2], batch), *([Axis("m")] if len(a) > 1 else []), Axis("k", "contract"))
    right = (*_batch_axes(b[:-2], batch), Axis("k", "contract"), *([Axis("n")] if len(b) > 1 else []))
    tail = [Axis(label) for label, shape in (("m", a), ("n", b)) if len(shape) > 1]
    return AxisMap((left, right), ((*(Axis(f"d{i}") for i in range(len(batch))), *tail),))


def _batch_axes(own: tuple[Dim, ...], batch: tuple[Dim, ...]) -> tuple[Axis, ...]:
    pairs = enumerate(own, len(batch) - len(own))
    return tuple(Axis(f"d{i}", "broadcast" if d == 1 and batch[i] != 1 else "pass") for i, d in pairs)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@op
class Matmul(OpDef):
    """numpy's matrix product: [..., M, K] times [..., K, N]; a 1-D operand is a row (left) or a column (right)."""

    a = operand(T)
    b = operand(T)

    def infer(self, a, b):
        dtype = rules.first_dtype(a, b)
        if a.shape is None or b.shape is None:
            return TensorType(dtype, None)
        return TensorType(dtype, matmul_shape(a.shape, b.shape))

    def axes(self, a, b):
        return _matmul_axes(a.shape, b.shape) if a.shape and b.shape else None

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for a, b in MATMUL_SAMPLES:
            yield Sample((_normal(rng, *a), _normal(rng, *b)))
        integers = rng.integers(-(2**31), 2**31, (2, 3, 4)).astype(np.int32)
        yield Sample((integers, integers.transpose(0, 2, 1)))


MATMUL_SAMPLES = (
    ((3, 4), (4, 5)),
    ((4,), (4, 5)),
    ((3, 4), (4,)),
    ((4,), (4,)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((3, 2, 1), (1, 4)),
    ((2, 3, 4), (4,)),
)


@op
class Gemm(OpDef):
    """alpha * a' b' + beta * c with a', b' [M, K], [K, N] after the transposes that transA and transB ask for.

    c broadcasts to [M, N] (ONNX Gemm-13).
    """

    a = operand(T)
    b = operand(T)
    c = optional(T)
    alpha = attr(float, 1.0)
    beta = attr(float, 1.0)
    transA = attr(bool, False)
    transB = attr(bool, False)

    def infer(self, a, b, c, *, transA, transB, **_):
        dtype = rules.first_dtype(a, b, c)
        left, right = rules.ranked(a, "a", 2), rules.ranked(b, "b", 2)
        if left is None or right is None:
            return TensorType(dtype, None)
        rows, inner = left[::-1] if transA else left
        other, columns = right[::-1] if transB else right
        rules.agree(inner, other, f"inner dims of {rules.show(left)} and {rules.show(right)}")
        if c is not None and c.shape is not None:
            _check_addend(c.shape, (rows, columns))
        return TensorType(dtype, (rows, columns))

    def axes(self, a, b, c, *, transA, transB, **_):
        left = (Axis("m"), Axis("k", "contract"))
        right = (Axis("k", "contract"), Axis("n"))
        rows = [left[::-1] if transA else left, right[::-1] if transB else right]
        if c is None:
            rows.append(None)
        elif c.shape is None or a.shape is None or b.shape is None:
            return None
        else:
            sizes = {"m": a.shape[1 if transA else 0], "n": b.shape[0 if transB else 1]}
            pairs = zip(c.shape, ("m", "n")[2 - len(c.shape) :], strict=True)
            rows.append(tuple(Axis(k, "broadcast" if d == 1 and sizes[k] != 1 else "pass") for d, k in pairs))
        return AxisMap(tuple(rows), ((Axis("m"), Axis("n")),))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        a, b = _normal(rng, 3, 4), _normal(rng, 4, 5)
        yield Sample((a, b, None))
        yield Sample((a, b, _normal(rng, 5)), {"alpha": 0.5, "beta": 2.0})
        yield Sample((a.T.copy(), b, _normal(rng, 3, 1)), {"transA": True})
        yield Sample((a, b.T.copy(), _normal(rng, 3, 5)), {"transB": True})
        yield Sample((a.T.copy(), b.T.copy(), _normal(rng)), {"transA": True, "transB": True, "beta": -1.0})
        yield Sample(tuple(rng.integers(-9, 9, s).astype(np.int64) for s in ((2, 3), (3, 4), (1, 4))))


def _check_addend(shape: tuple[Dim, ...], target: tuple[Dim, ...]) -> None:
    """c broadcasts one way, to `target`."""
    fits = len(shape) <= 2
    for have, want in zip(shape[::-1], target[::-1], strict=False):
        fits = fits and (have == 1 or dim_eq(have, want) is not False)
    if not fits:
        raise TypeInferError(f"c of shape {rules.show(shape)} does not broadcast to {rules.show(target)}")


class Equation(NamedTuple):
    """A parsed einsum: labels of each operand and of the result; "." stands for the dims of the ellipsis."""

    operands: tuple[str, ...]
    result: str


def parse_equation(equation: str) -> Equation:
    """numpy's notation; an omitted result is the ellipsis and then, sorted, the labels used once. TypeInferError."""
    text = equation.replace(" ", "").replace("...", ".")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    for term in (*terms, right):
        odd = [c for c in term if c != "." and c not in string.ascii_letters]
        if odd or term.count(".") > 1:
            raise TypeInferError(f"einsum equation {equation!r}: {term!r} is no list of labels")
    if not arrow:
        flat = "".join(terms)
        right = ("." if "." in flat else "") + "".join(c for c in sorted(set(flat)) if c != "." and flat.count(c) == 1)
    for label in right:
        if right.count(label) > 1 or label not in "".join(terms):
            raise TypeInferError(f"einsum equation {equation!r}: result label {label!r} is repeated or in no operand")
    return Equation(tuple(terms), right)


def _labelled(term: str, rank: int, hidden: int, what: str) -> list[str]:
    """One name per axis; ellipsis dims are named .0, .1 ... aligned to the right of `hidden` of them."""
    own = len(term) - ("." in term)
    if own > rank or ("." not in term and own != rank):
        raise TypeInferError(f"{what}: {term!r} does not fit an operand of rank {rank}")
    named: list[str] = []
    for label in term:
        count = rank - own
        named += [f".{i}" for i in range(hidden - count, hidden)] if label == "." else [label]
    return named


def einsum_labels(equation: str, ranks: tuple[int, ...]) -> tuple[list[list[str]], list[str]]:
    """The names of all operand axes and of the result's axes. Raises TypeInferError."""
    parsed = parse_equation(equation)
    if len(parsed.operands) != len(ranks):
        raise TypeInferError(f"einsum equation {equation!r} has {len(parsed.operands)} operands, got {len(ranks)}")
    pairs = list(zip(parsed.operands, ranks, strict=True))
    hidden = max((rank - len(term) + 1 for term, rank in pairs if "." in term), default=0)
    rows = [_labelled(term, rank, hidden, f"einsum {equation!r}") for term, rank in pairs]
    own = len(parsed.result) - ("." in parsed.result)
    return rows, _labelled(parsed.result, own + hidden if "." in parsed.result else own, hidden, "einsum result")


@op
class Einsum(OpDef):
    """Sum of products in einsum notation: ellipsis, repeated labels (diagonals) and implicit results as in numpy."""

    xs = variadic(T)
    equation = attr(str)

    def infer(self, xs, *, equation):
        dtype = rules.first_dtype(*xs)
        parse_equation(equation)
        if not xs or any(x.shape is None for x in xs):
            return TensorType(dtype, None)
        rows, result = einsum_labels(equation, tuple(len(x.shape) for x in xs))
        sizes: dict[str, Dim] = {}
        for x, row in zip(xs, rows, strict=True):
            for label, dim in zip(row, x.shape, strict=True):
                known = sizes.get(label, 1 if label[0] == "." else dim)
                sizes[label] = broadcast_dim(known, dim)
        return TensorType(dtype, tuple(sizes[label] for label in result))

    def axes(self, xs, *, equation):
        if any(x.shape is None for x in xs):
            return None
        rows, result = einsum_labels(equation, tuple(len(x.shape) for x in xs))
        sizes: dict[str, Dim] = {}
        for x, row in zip(xs, rows, strict=True):
            for label, dim in zip(row, x.shape, strict=True):
                sizes[label] = dim if sizes.get(label, 1) == 1 else sizes[label]
        diagonal = {label for row in rows for label in row if row.count(label) > 1}

        def axis(label: str, dim: Dim) -> Axis | None:
            if label in diagonal:
                return None
            if dim == 1 and sizes[label] != 1:
                return Axis(label, "broadcast") if label in result else None
            return Axis(label) if label in result else Axis(label, "contract")

        made = [tuple(axis(k, d) for k, d in zip(row, x.shape, strict=True)) for x, row in zip(xs, rows, strict=True)]
        return AxisMap(tuple(made), (tuple(None if k in diagonal else Axis(k) for k in result),))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for equation, *shapes in EINSUM_SAMPLES:
            yield Sample(([_normal(rng, *shape) for shape in shapes],), {"equation": equation})


EINSUM_SAMPLES: tuple[tuple, ...] = (
    ("ij,jk->ik", (3, 4), (4, 5)),
    ("bhqe,bhke->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 2)),
    ("ii->i", (4, 4)),
    ("...ii->...", (3, 4, 4)),
    ("ij->ji", (3, 5)),
    ("ij->", (3, 5)),
    ("bij, bjk", (2, 3, 4), (2, 4, 5)),
    ("i,j,k->kji", (2,), (3,), (4,)),
    ("Bi,ij,Bj->B", (3, 4), (4, 5), (3, 5)),
    ("i...->...", (3, 2, 4)),
)


@op
class MatmulInteger(OpDef):
    """(a - a_zp)(b - b_zp) in i32 for 8-bit a and b (ONNX MatMulInteger-10).

    Zero points are scalars; a_zp may be one per row of a [M], b_zp one per column of b [N], or of the operand's rank.
    """

    a = operand(BYTE)
    b = operand(BYTE)
    a_zp = optional(BYTE)
    b_zp = optional(BYTE)

    def infer(self, a, b, a_zp, b_zp):
        if a.shape is None or b.shape is None:
            return TensorType(I32, None)
        for value, other, what, axis in ((a_zp, a, "a_zp", -2), (b_zp, b, "b_zp", -1)):
            _check_same(value, other, what)
            if value is not None and value.rank == 1 and other.rank > 1 and value.shape[0] != 1:
                rules.agree(value.shape[0], other.shape[axis], f"{what} and its operand")
        return TensorType(I32, matmul_shape(a.shape, b.shape))

    def axes(self, a, b, a_zp, b_zp):
        if not a.shape or not b.shape or any(z is not None and z.rank != 0 for z in (a_zp, b_zp)):
            return None
        made = _matmul_axes(a.shape, b.shape)
        return AxisMap((*made.operands, *(None if z is None else () for z in (a_zp, b_zp))), made.results)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        a, b = _bytes(rng, (3, 4), U8), _bytes(rng, (4, 5), I8)
        yield Sample((a, b, None, None))
        yield Sample((a, b, np.uint8(7), np.int8(-3)))
        yield Sample((a, b, _bytes(rng, (3,), U8), _bytes(rng, (5,), I8)))
        yield Sample((_bytes(rng, (2, 3, 4), I8), _bytes(rng, (4, 2), U8), np.int8(5), None))


def _check_same(zero_point, data, what: str) -> None:
    if zero_point is not None and None not in (zero_point.dtype, data.dtype) and zero_point.dtype is not data.dtype:
        raise TypeInferError(f"{what} has dtype {zero_point.dtype}, its operand {data.dtype}; they must agree")


def _bytes(rng: np.random.Generator, shape: tuple[int, ...], dtype) -> np.ndarray:
    info = np.iinfo(dtype.numpy)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype.numpy)


@op
class ConvInteger(OpDef):
    """conv of x - x_zp with w - w_zp in i32 for 8-bit x and w (ONNX ConvInteger-10); w_zp may be per output channel."""

    x = operand(BYTE)
    w = operand(BYTE)
    x_zp = optional(BYTE)
    w_zp = optional(BYTE)
    strides = attr(ints, ())
    pads = attr(ints, ())
    dilations = attr(ints, ())
    groups = attr(int, 1)
    auto_pad = attr(str, "explicit", choices=AUTO_PAD)
    channels_last = attr(bool, False)
    traits = PURE | SPATIAL

    def infer(self, x, w, x_zp, w_zp, *, groups, channels_last, **geometry):
        _check_same(x_zp, x, "x_zp")
        _check_same(w_zp, w, "w_zp")
        rules.ranked(x_zp, "x_zp", 0, 1)
        if w_zp is not None and w_zp.rank == 1 and w.shape is not None and w_zp.shape[0] != 1:
            rules.agree(w_zp.shape[0], w.shape[0], "w_zp and output channels")
        return TensorType(I32, conv_shape(x, w, groups, channels_last, **geometry))

    def axes(self, x, w, x_zp, w_zp, *, groups, channels_last, **geometry):
        made = _conv_axes(x, w, groups, channels_last, **geometry)
        if made is None or any(z is not None and z.rank != 0 for z in (x_zp, w_zp)):
            return None
        return AxisMap((*made.operands, *(None if z is None else () for z in (x_zp, w_zp))), made.results)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, w = _bytes(rng, (2, 4, 6, 5), U8), _bytes(rng, (6, 2, 3, 3), I8)
        yield Sample((x, w, None, None), {"groups": 2})
        yield Sample((x, w, np.uint8(128), np.int8(2)), {"groups": 2, "pads": (1, 1, 0, 1), "strides": (2, 1)})
        yield Sample((x, _bytes(rng, (4, 1, 2, 2), I8), np.uint8(3), _bytes(rng, (4,), I8)), {"groups": 4})
        yield Sample(
            (_bytes(rng, (1, 5, 6, 4), I8), _bytes(rng, (3, 4, 3, 3), I8), None, None), {"channels_last": True}
        )
