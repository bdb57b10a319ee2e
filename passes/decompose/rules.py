"""The table of decompositions, and the few things that all families build with. Knows no target.

    @decomposes("silu")
    def silu(b, node):
        (x,) = node.operands
        return b.mul(x, b.sigmoid(x))

A rule builds in front of `node` and returns one value per result (None for a result that nothing uses), or `Declined`
with the reason why it cannot. It never edits `node`; what it built is dropped when it declines. Rules are exact but for
rounding: each step rounds once to its dtype, and half floats go through f32 where that would be felt (`rounds=True`).
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import Dim
from ...ir.storage import check_limit
from ...ir.types import BF16, F16, F32, DType
from ...ir.value import Node, Value

FAMILIES = (
    "activation",
    "attention",
    "control",
    "elementwise",
    "index",
    "matmul",
    "ml",
    "norm",
    "pool",
    "qlinear",
    "quant",
    "random",
    "recurrent",
    "reduce",
    "resize",
    "shape",
    "signal",
    "structure",
)


class Declined(NamedTuple):
    """Why a rule does not apply to a node; `final`: no other rule would help either."""

    reason: str
    final: bool = False


Outcome = Value | tuple[Value | None, ...] | Declined
Rule = Callable[[Builder, Node], Outcome]

#: Op name -> its rule. Filled by the family files; `load` imports them all.
DECOMPOSITIONS: dict[str, Rule] = {}

#: Op name -> the ops that its rule always makes and that a target may lack: without them the rule is of no use.
NEEDS: dict[str, tuple[str, ...]] = {}


def decomposes(*names: str, rounds: bool = False, needs: tuple[str, ...] = ()) -> Callable[[Rule], Rule]:
    """Register a rule for ops by name.

    `rounds`: the rule rounds more than once, so a node on half floats first becomes the same node on f32 between casts.
    `needs`: ops without which a target gains nothing from the rule; see `decomposable`.
    """

    def register(rule: Rule) -> Rule:
        made = _through_f32(rule) if rounds else rule
        for name in names:
            DECOMPOSITIONS[name] = made
            NEEDS[name] = needs
        return rule

    return register


def _through_f32(rule: Rule) -> Rule:
    @functools.wraps(rule)
    def widened(b: Builder, node: Node) -> Outcome:
        return rule(b, node) if half_float(node) is None else in_f32(b, node)

    return widened


def half_float(node: Node) -> DType | None:
    """The half-float dtype that a node computes in."""
    return next((v.dtype for v in node.inputs() if v.dtype in (F16, BF16)), None)


def in_f32(b: Builder, node: Node) -> tuple[Value | None, ...]:
    """The same node on operands widened from half floats to f32, its results rounded back."""
    made = b.call(node.name, [_wide(b, v) for v in node.operands], dict(node.attrs))
    return tuple(_rounded(b, new, old) for new, old in zip(made.results, node.results, strict=True))


def _wide(b: Builder, value: Value | None) -> Value | None:
    if value is None or value.dtype not in (F16, BF16):
        return value
    return b.const(value.array().astype(np.float32)) if value.is_const else b.cast(value, to=F32)


def _rounded(b: Builder, new: Value, old: Value) -> Value | None:
    if not old.n_uses:
        return None
    return new if new.dtype is old.dtype else b.cast(new, to=old.dtype)


def load() -> dict[str, Rule]:
    """The whole table."""
    for family in FAMILIES:
        importlib.import_module(f".{family}", __package__)
    return DECOMPOSITIONS


def decomposable(name: str, writes: Callable[[str], bool]) -> bool:
    """There is a shared rule for the op, and what it cannot do without is written by the target."""
    return name in load() and all(writes(needed) for needed in NEEDS[name])


# ---------------------------------------------------------------------------------------- shared building blocks


def scalar(b: Builder, number: float, like: Value) -> Value:
    """A rank-0 constant in the dtype of `like`."""
    return b.const(np.asarray(number, like.dtype.numpy))


def axes_from(axis: int, rank: int) -> tuple[int, ...]:
    return tuple(range(axis % rank if rank else 0, rank))


def spatial_axes(rank: int, channels_last: bool) -> tuple[int, ...]:
    return tuple(range(1, rank - 1)) if channels_last else tuple(range(2, rank))


def per_channel(b: Builder, vector: Value, rank: int, channels_last: bool = False) -> Value:
    """A [C] vector that broadcasts along the channel axis of a tensor of this rank."""
    return vector if channels_last or rank < 2 else b.reshape(vector, (-1, *[1] * (rank - 2)))


def room(*dims: int) -> int:
    """The number of elements of a table of these dims, which a rule is about to make. Raises LimitExceeded (the rule then
    declines) where they take more bytes than a folded constant may: dims come from the model and cost it nothing."""
    count = math.prod(dims)
    check_limit("fold_bytes", 8 * count, "bytes of a table in a decomposition")
    return count


def static(*dims: Dim | None) -> bool:
    """Every dim is a known number."""
    return all(type(d) is int for d in dims)


class Size(NamedTuple):
    """Dim `axis` of `value`, known or not."""

    value: Value
    axis: int


#: One dim of a shape that is put together: a number (an int, or a Dim that is known to be one) or a dim of a value.
Part = int | Dim | Size


def shape_of(b: Builder, parts: Sequence[Part | Value]) -> tuple[int, ...] | Value:
    """A shape operand from numbers, dims of values, and i64 [n] values: plain ints where everything is known."""
    known: list[Any] = [p.value.shape[p.axis] if isinstance(p, Size) else p for p in parts]
    if static(*known):
        return tuple(known)
    pieces: list[Any] = []
    run: list[int] = []
    for part, number in zip(parts, known, strict=True):
        if type(number) is int:
            run.append(number)
            continue
        if run:
            pieces.append(b.const(np.asarray(run, np.int64)))
            run = []
        pieces.append(b.shape(part.value, start=part.axis, end=part.axis + 1) if isinstance(part, Size) else part)
    if run:
        pieces.append(b.const(np.asarray(run, np.int64)))
    return b.concat(*pieces, axis=0) if len(pieces) > 1 else pieces[0]


def sizes(value: Value, axes: Sequence[int] | None = None) -> list[Size]:
    """Every dim of a value (or those of `axes`) as parts of a shape."""
    return [Size(value, axis) for axis in (range(value.rank) if axes is None else axes)]


def flat_size(b: Builder, parts: Sequence[Part]) -> Value:
    """The product of dims as an i64 [1] value."""
    made = shape_of(b, parts)
    if isinstance(made, tuple):
        return b.const(np.asarray([int(np.prod(np.asarray(made, object)))] if made else [1], np.int64))
    return b.reduce_prod(made, (0,), keepdims=True)


def reshape_to(b: Builder, x: Value, parts: Sequence[Part]) -> Value:
    """`x` with the dims of `parts`; one unknown dim needs no shape arithmetic."""
    known = [p.value.shape[p.axis] if isinstance(p, Size) else p for p in parts]
    unknown = [i for i, d in enumerate(known) if type(d) is not int]
    if len(unknown) == 1 and 0 not in known:
        return b.reshape(x, tuple(-1 if i in unknown else d for i, d in enumerate(known)))
    return b.reshape(x, shape_of(b, parts), allowzero=0 in known)


def slice_axis(b: Builder, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    return b.slice(x, (start,), (stop,), (axis,), (step,))


def moved_last(rank: int, axis: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The permutation that puts `axis` last, and the one that undoes it."""
    perm = (*(i for i in range(rank) if i != axis), axis)
    return perm, tuple(int(i) for i in np.argsort(perm))


def transposed(b: Builder, x: Value, perm: Sequence[int]) -> Value:
    perm = tuple(perm)
    return x if perm == tuple(range(len(perm))) else b.transpose(x, perm=perm)


def channels_first(b: Builder, x: Value) -> Value:
    """[N, ..., C] as [N, C, ...]."""
    return transposed(b, x, (0, x.rank - 1, *range(1, x.rank - 1)))


def back_to_last(b: Builder, x: Value) -> Value:
    """[N, C, ...] as [N, ..., C]."""
    return transposed(b, x, (0, *range(2, x.rank), 1))


def in_channels_first(b: Builder, node: Node) -> tuple[Value, ...]:
    """A channels-last node as the same node on channels-first data between transposes; other operands keep their order."""
    first = channels_first(b, node.operands[0])
    made = b.call(node.name, (first, *node.operands[1:]), dict(node.attrs) | {"channels_last": False}).results
    return tuple(back_to_last(b, value) for value in made)


def along_axis(b: Builder, x: Value, axis: int, matrix: np.ndarray) -> Value:
    """A constant linear map on one axis: `y[..., o, ...] = sum_i matrix[o, i] * x[..., i, ...]`."""
    perm, back = moved_last(x.rank, axis)
    weight = b.const(np.ascontiguousarray(matrix.T).astype(x.dtype.numpy))
    return transposed(b, b.matmul(transposed(b, x, perm), weight), back)
