"""What the lowerings share: constants turned at compile time, int32 index chains, padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....ir.builder import Builder
from ....ir.dims import Dim, sym, symbols
from ....ir.errors import InternalError, LimitExceeded
from ....ir.expr import Atom
from ....ir.ops.shapes import UNBOUNDED
from ....ir.tensor import LazyTensor
from ....ir.types import I32, I64
from ....ir.value import Node, Value
from ..table import I32_MAX, I32_MIN


def turned(b: Builder, value: Value, perm: Sequence[int]) -> Value:
    """`value` transposed; a constant at compile time (lazily: weights may be large)."""
    perm = tuple(perm)
    if perm == tuple(range(len(perm))):
        return value
    if not value.is_const:
        return b.transpose(value, perm=perm)
    weight = value.weight
    tensor = LazyTensor("transpose", (weight.tensor,), {"perm": perm})
    return b.const(tensor, key=weight.key, role=weight.role, origin=f"transpose {list(perm)}")


def derived(b: Builder, value: Value, array: np.ndarray, origin: str) -> Value:
    """A constant computed from another one, under its name."""
    array = np.ascontiguousarray(array)
    return b.const(array, key=value.weight.key, role=value.weight.role, origin=origin)


def zeros(b: Builder, size: Dim) -> Value:
    return b.const(np.zeros(numbers((size,)), np.float32))


def f32(b: Builder, number: float) -> Value:
    return b.const(np.asarray(number, np.float32))


def i32(b: Builder, *numbers: int) -> Value:
    if not all(I32_MIN <= n <= I32_MAX for n in numbers):
        raise LimitExceeded(f"{max(numbers, key=abs)} does not fit into the 32 bits of TFLite's indices")
    return b.const(np.asarray(numbers, np.int32))


def static(dims: Sequence[Dim | None]) -> bool:
    return all(type(d) is int for d in dims)


def numbers(dims: Sequence[Dim]) -> tuple[int, ...]:
    """Dims that are known to be numbers. Raises InternalError for any other."""
    if not static(dims):
        raise InternalError(f"dims {tuple(dims)} are not all known")
    return tuple(d for d in dims if isinstance(d, int))


def shape_vector(b: Builder, value: Value) -> Value:
    """The shape of `value` as int32, a constant where it is known."""
    return i32(b, *numbers(value.shape)) if static(value.shape) else dims_of(b, value.shape, value)


def target(shape: Sequence[Dim]) -> tuple[int, ...] | None:
    """A reshape target with at most one -1; None when two dims are unknown or a -1 would be ambiguous."""
    if sum(type(d) is not int for d in shape) > 1 or (not static(shape) and 0 in shape):
        return None
    return tuple(d if type(d) is int else -1 for d in shape)


def reshaped(b: Builder, x: Value, shape: Sequence[Dim]) -> Value:
    """`x` in `shape`; computed where more than one dim is unknown. Unknown dims must be dims of `x`."""
    if tuple(x.shape or ()) == tuple(shape) and x.shape is not None:
        return x
    made = target(shape)
    return b.reshape(x, made if made is not None else dims_of(b, shape, x))


def dims_of(b: Builder, shape: Sequence[Dim], *sources: Value) -> Value:
    """`shape` as an int32 vector: runs of known numbers, and dims read from `sources` or computed from theirs."""
    known = [number_of(b, d, sources) if type(d) is not int else d for d in shape]
    parts: list[Value] = []
    run: list[int] = []
    for part in (*known, None):
        if type(part) is int:
            run.append(part)
            continue
        if run:
            parts.append(i32(b, *run))
            run = []
        if isinstance(part, Value):
            parts.append(part)
    return b.concat(*parts, axis=0) if len(parts) > 1 else parts[0]


def number_of(b: Builder, dim: Dim, sources: Sequence[Value]) -> Value:
    """One dim as an int32 [1] value. Raises InternalError where `knows_dims` says no."""
    if isinstance(dim, int):
        return i32(b, dim)
    for source in sources:
        if dim in (source.shape or ()):
            axis = source.shape.index(dim)
            return b.slice(b.call("tfl.shape", (source,)).result, (axis,), (axis + 1,), (0,))
    for size in (d for source in sources for d in source.shape or ()):
        line = _line(dim, size)
        if line is not None:
            scaled = b.mul(number_of(b, size, sources), i32(b, line[0]))
            return b.add(scaled, i32(b, line[1])) if line[1] else scaled
    total: Value | None = None
    for mono, factor in dim.terms:
        term = i32(b, factor)
        for atom, power in mono:
            for _ in range(power):
                term = b.mul(term, _atom(b, atom, sources))
        total = term if total is None else b.add(total, term)
    if total is None:
        raise InternalError(f"the dim {dim} cannot be computed")
    return total


def _line(dim: Dim, size: Dim) -> tuple[int, int] | None:
    """(a, b) of `dim` = a * `size` + b, a not 0; None where there are no such numbers."""
    if isinstance(dim, int) or isinstance(size, int):
        return None
    mono, factor = next((mono, factor) for mono, factor in size.terms if mono)
    times, odd = divmod(dict(dim.terms).get(mono, 0), factor)
    rest = dim - times * size
    return (times, rest) if times and not odd and isinstance(rest, int) else None


# Opaque dims by the op that computes them; divisions are of non-negative numbers.
_ATOM_OPS = {"floordiv": "floor_div", "mod": "mod", "min": "min", "max": "max"}


def _atom(b: Builder, atom: Atom, sources: Sequence[Value]) -> Value:
    if atom.kind == "sym":
        return number_of_symbol(b, atom.args[0], sources)
    args = [number_of(b, arg, sources) for arg in atom.args]
    made = args[0]
    for arg in args[1:]:
        made = b.call(_ATOM_OPS[atom.kind], (made, arg)).result
    return made


def number_of_symbol(b: Builder, name: str, sources: Sequence[Value]) -> Value:
    plain = sym(name)
    for source in sources:
        if plain in (source.shape or ()):
            return number_of(b, plain, (source,))
    raise InternalError(f"the dim {name} cannot be read from the operands")


def knows_dims(shape: Sequence[Dim], *sources: Value) -> bool:
    """`dims_of` can compute this shape from these values."""
    plain = {d for source in sources for d in source.shape or () if type(d) is not int}
    return all(
        type(d) is int
        or d in plain
        or all(sym(name) in plain for name in symbols(d))
        or any(_line(d, size) is not None for size in plain)
        for d in shape
    )


def padded(b: Builder, x: Value, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Value:
    """x [N, *S, C] grown (or cropped, where negative) along its spatial axes."""
    grow = [max(p, 0) for p in (*begins, *ends)]
    if any(grow):
        half = len(begins)
        x = b.pad(x, (0, *grow[:half], 0, 0, *grow[half:], 0), f32(b, value) if value else None)
    crop = [(axis + 1, max(-lo, 0), max(-hi, 0)) for axis, (lo, hi) in enumerate(zip(begins, ends, strict=True))]
    for axis, low, high in crop:
        if low or high:
            x = b.slice(x, (low,), (-high if high else UNBOUNDED,), (axis,))
    return x


# ------------------------------------------------------------------------------------------------- int32 index chains


def as_i32(b: Builder, value: Value) -> Value:
    """An int32 twin of an integer value that serves as shape or index: the chain of int64 arithmetic above it is built
    anew in int32 as far as it is index arithmetic, and cast where that ends."""
    twins: dict[Value, Value] = {}
    pending = [value]
    while pending:
        current = pending[-1]
        missing = [v for v in _chain(current) if v not in twins]
        if missing and current not in twins:
            pending += missing
            continue
        pending.pop()
        if current not in twins:
            twins[current] = _twin(b, current, twins)
    return twins[value]


# Index arithmetic: ops of which these operands are narrowed too (None: all).
_NARROWED: dict[str, int | None] = {
    **dict.fromkeys(("add", "sub", "mul", "max", "min", "floor_div", "div", "mod", "concat"), None),
    **dict.fromkeys(("slice", "reshape", "squeeze", "unsqueeze", "gather", "expand", "neg", "reduce_prod"), 1),
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "tile", "transpose", "reverse", "tfl.broadcast_to"), 1),
}


def _chain(value: Value) -> list[Value]:
    node = value.node
    if value.dtype is not I64 or node is None or node.name not in _NARROWED:
        return []
    count = _NARROWED[node.name]
    return [v for v in node.operands[:count] if v is not None]


def _twin(b: Builder, value: Value, twins: dict[Value, Value]) -> Value:
    if value.dtype is I32:
        return value
    if value.is_const:
        return b.const(np.clip(value.array(), I32_MIN, I32_MAX).astype(np.int32))
    node = value.node
    if value.dtype is I64 and node is not None:
        if node.name == "cast" and node.operands[0].dtype is I32:
            return node.operands[0]
        if node.name == "shape":
            return shape_i32(b, node)
        if node.name in _NARROWED:
            operands = [twins.get(v, v) if v is not None else None for v in node.operands]
            return b.make(node.op, tuple(operands), dict(node.attrs)).results[value.index]
    return b.cast(value, to=I32)


def shape_i32(b: Builder, node: Node) -> Value:
    """A `shape` node in int32."""
    (x,) = node.operands
    whole = b.call("tfl.shape", (x,)).result
    start, end, _ = slice(node.attr("start"), node.attr("end")).indices(x.rank)
    if (start, end) == (0, x.rank):
        return whole
    return b.slice(whole, (start,), (max(end, start),), (0,))


def image_type(node: Node) -> bool:
    """The rank of the data is known and its channels-last flag is set, as layout assignment leaves it."""
    return node.operands[0].rank is not None and node.attr("channels_last")
