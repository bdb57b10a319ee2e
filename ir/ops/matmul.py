"""Products: matmul, gemm, einsum; det."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..dims import Dim, dim_eq
from ..errors import TypeInferError
from ..opdef import Axis, AxisMap, DtypeVar, OpDef, Sample, attr, op, operand, optional, variadic
from ..types import FLOAT, I32, I64, U32, U64, TensorType
from . import rules
from .shapes import INTS, broadcast_dim, broadcast_shapes

T = DtypeVar("T", FLOAT | {I32, I64, U32, U64})


def matmul_shape(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Result dims of numpy's matmul. Raises TypeInferError."""
    if not a or not b:
        raise TypeInferError("matmul takes no scalars")
    left, right = (a if len(a) > 1 else (1, *a)), (b if len(b) > 1 else (*b, 1))
    rules.agree(left[-1], right[-2], f"inner dims of {rules.show(a)} and {rules.show(b)}")
    batch = broadcast_shapes(left[:-2], right[:-2])
    return (*batch, *left[-2:-1][: len(a) - 1], *right[-1:][: len(b) - 1])


def matmul_axes(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> AxisMap:
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
        return matmul_axes(a.shape, b.shape) if a.shape and b.shape else None

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


class Scaled(OpDef):
    """The factors of a gemm and which matrices it turns."""

    alpha = attr(float, 1.0)
    beta = attr(float, 1.0)
    transA = attr(bool, False)
    transB = attr(bool, False)


@op
class Gemm(Scaled):
    """alpha * a' b' + beta * c with a', b' [M, K], [K, N] after the transposes that transA and transB ask for.

    c broadcasts to [M, N] (ONNX Gemm-13).
    """

    a = operand(T)
    b = operand(T)
    c = optional(T)

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

    xs = variadic(DtypeVar("E", FLOAT | INTS))
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
class Det(OpDef):
    """Determinants of square matrices: [..., M, M] to [...] (ONNX Det-22)."""

    x = operand(DtypeVar("F", FLOAT))

    def infer(self, x):
        shape = rules.ranked(x, "x", least=2)
        if shape is None:
            return TensorType(x.dtype, None)
        rules.agree(shape[-1], shape[-2], f"rows and columns of {rules.show(shape)}")
        return TensorType(x.dtype, shape[:-2])

    def axes(self, x):
        if x.rank is None:
            return None
        batch = tuple(Axis(f"d{i}") for i in range(x.rank - 2))
        return AxisMap(((*batch, None, None),), (batch,))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((3, 3), (2, 4, 4), (2, 0, 1, 1), (1, 2, 2, 2)):
            yield Sample((_normal(rng, *shape),))
