"""Merging layers of Keras: elementwise merges of several tensors, concatenation and batched dot products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from ...ir import types as t
from ...ir.graph import Value
from .registry import layer
from .scope import Scope


def _aligned(s: Scope, xs: Sequence[Value]) -> list[Value]:
    """Equal ranks (new axes go behind the batch axis, as Keras puts them) and one dtype."""
    if not isinstance(xs, (list, tuple)) or not xs:
        raise s.invalid("it merges a list of tensors")
    rank = max(s.rank(x) for x in xs)
    grown = []
    for x in xs:
        for _ in range(rank - s.rank(x)):
            x = s.expand(x, 1)
        grown.append(x)
    return s.common(*grown) if len(grown) > 1 else grown


def _all_masked(s: Scope, xs: Sequence[Value]) -> None:
    """The mask of a merge is the AND of the masks; any input without one switches it off."""
    masks = [s.masks.get(x) for x in xs]
    if all(mask is not None for mask in masks):
        s.out_masks = [reduce(s.b.and_, masks)]


def _elementwise(
    name: str, *, count: int | None = None, masked: bool = True
) -> Callable[[Scope, Sequence[Value]], Value]:
    def lower(s: Scope, xs: Sequence[Value]) -> Value:
        if count is not None and len(xs) != count:
            raise s.invalid(f"it merges {count} tensors and got {len(xs)}")
        if masked:
            _all_masked(s, xs)
        return reduce(getattr(s.b, name), _aligned(s, xs))

    return lower


layer("Add", mask="own")(_elementwise("add"))
layer("Subtract", mask="own")(_elementwise("sub", count=2))
layer("Multiply", mask="refuse")(_elementwise("mul", masked=False))
layer("Maximum", mask="refuse")(_elementwise("max", masked=False))
layer("Minimum", mask="refuse")(_elementwise("min", masked=False))


@layer("Average", mask="own")
def average(s: Scope, xs: Sequence[Value]) -> Value:
    _all_masked(s, xs)
    items = [s.floating(x) for x in _aligned(s, xs)]
    return s.b.div(reduce(s.b.add, items), s.value(float(len(items)), items[0].dtype))


@layer("Concatenate", mask="own")
def concatenate(s: Scope, xs: Sequence[Value]) -> Value:
    items = s.common(*xs) if len(xs) > 1 else list(xs)
    axis = s.axis(s.config.get("axis", -1), s.rank(items[0]))
    masks = [s.masks.get(x) for x in xs]
    if any(mask is not None for mask in masks):
        s.out_masks = [_concat_masks(s, xs, masks, axis)]
    return s.b.concat(*items, axis=axis)


def _concat_masks(s: Scope, xs: Sequence[Value], masks: list[Value | None], axis: int) -> Value:
    """Masks broadcast to the data (all ones where there is none), joined like the data, then AND over the features."""
    grown = []
    for x, mask in zip(xs, masks, strict=True):
        whole = s.b.shape(x)
        if mask is None:
            grown.append(s.b.expand(s.value(True, t.BOOL), whole))
            continue
        for _ in range(s.rank(x) - s.rank(mask)):
            mask = s.expand(mask, -1)
        grown.append(s.b.expand(mask, whole))
    return s.b.reduce_all(s.b.concat(*grown, axis=axis), (-1,), keepdims=False)


@layer("Dot")
def dot(s: Scope, xs: Sequence[Value]) -> Value:
    """Batched dot product over one axis of each (`keras.layers.Dot`)."""
    if len(xs) != 2:
        raise s.invalid(f"it merges 2 tensors and got {len(xs)}")
    x, y = s.common(*xs)
    axes = s.config.get("axes")
    pair = axes if isinstance(axes, (list, tuple)) and len(axes) == 2 else (axes, axes)
    a, b = s.axis(pair[0], s.rank(x), "axes"), s.axis(pair[1], s.rank(y), "axes")
    if 0 in (a, b):
        raise s.invalid("axes names the batch axis")
    if s.flag("normalize"):
        x, y = l2_normalized(s, x, (a,)), l2_normalized(s, y, (b,))
    letters = "abcdefghijklmnopqrstuvwxyz"
    left = "".join("Z" if i == a else "N" if i == 0 else letters[i] for i in range(s.rank(x)))
    right = "".join("Z" if i == b else "N" if i == 0 else letters[i + s.rank(x)] for i in range(s.rank(y)))
    made = left.replace("Z", "") + right.replace("Z", "").replace("N", "")
    result = s.b.einsum(x, y, equation=f"{left},{right}->{made}")
    return s.expand(result, 1) if len(made) == 1 else result


def l2_normalized(s: Scope, x: Value, axes: Sequence[int], epsilon: float = 1e-7) -> Value:
    """x * min(1 / sqrt(sum x^2), 1 / epsilon) (`keras.ops.normalize`, order 2)."""
    square = s.b.reduce_sum(s.b.mul(x, x), tuple(axes), keepdims=True)
    scale = s.b.min(s.b.reciprocal(s.b.sqrt(square)), s.value(1.0 / epsilon, x.dtype))
    return s.b.mul(x, scale)
