"""Sample inputs for a module: seeded, in range, so that a check exercises the model instead of its error paths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..ir.dims import Dim, Expr, evaluate, symbols
from ..ir.errors import Unsupported
from ..ir.graph import Graph, Module, Node, Value
from ..ir.opdef import MOVEMENT
from ..ir.types import BOOL, STRING, DType, OptionalType, SequenceType, TensorType, Type
from .budget import hold
from .numeric import is_float

#: Sizes of batch-like dims (axis 0 of an input) that the model leaves open. They differ, so that mixed-up dims show.
BATCH_SIZES = (2, 3, 5, 7)
#: Sizes tried for other open dims, until no dim in the graph comes out empty.
OPEN_SIZES = (4, 7, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
#: Sizes tried where the small ones don't fit a model's own arithmetic.
ALIGNED_SIZES = (16, 32, 64, 96, 128, 256, 320, 512, 576, 640)
#: Elements of a sequence.
SEQUENCE = 3


def sample_inputs(
    module: Module, *, seed: int = 0, sizes: dict[str, int] | None = None, signature: str | None = None
) -> dict[str, Any]:
    """One random input per name; inputs with a default are left to it. Floats are standard normal; integers that index a
    table stay inside it; a single integer that the model compares with constants (a mode, a rate) is one of them. Masks
    are 0 and 1: what models make of other integers in a mask is infinite.

    `sizes` binds symbols; the others get small different sizes within what is known of them. Raises Unsupported for an input
    whose type is not known well enough.
    """
    sig = module.signatures[signature] if signature else module.signature
    rng = np.random.default_rng(seed)
    bindings = symbol_sizes(module, sig.graph, sizes or {})
    return {
        slot.name: _sampled(value, slot.name, bindings, rng)
        for slot, value in zip(sig.inputs, sig.graph.inputs, strict=True)
        if slot.default is None
    }


def symbol_sizes(module: Module, graph: Graph, given: dict[str, int]) -> dict[str, int]:
    """A size for every symbol of the inputs: the given one, else the smallest of OPEN_SIZES that the facts allow and with
    which nothing in the graph is empty (a pool or an unpadded convolution may need more than a few pixels)."""
    shapes = [_innermost(value.type) for value in graph.inputs]
    names = dict.fromkeys(s for shape in shapes for d in shape for s in symbols(d))
    batches = {s for v in graph.inputs if v.shape for s in symbols(v.shape[0])}
    dims = dict.fromkeys(
        d
        for node in graph.nodes()
        for v in node.results
        for d in v.shape or ()
        if isinstance(d, Expr) and set(symbols(d)) <= set(names)
    )
    sizes: dict[str, int] = {}
    for rung in OPEN_SIZES:
        sizes = {
            name: given[name] if name in given else _allowed(module, name, _wanted(name, position, rung, batches))
            for position, name in enumerate(names)
        }
        if all(evaluate(d, sizes) > 0 for d in dims):
            break
    return sizes


def candidate_sizes(module: Module) -> Iterator[dict[str, int]]:
    """Sizes of the open dims to try, the most telling first: small and all different; then multiples of a side, as patches and
    skip connections want them; then one batch for all inputs, where a model calls it by several names; then equal sides too."""
    graph = module.signature.graph
    base = symbol_sizes(module, graph, {})
    yield from (base, resized(module))
    shapes = [_innermost(value.type) for value in graph.inputs]
    leading = {s for shape in shapes for d in shape[:1] for s in symbols(d)}
    outermost = {
        s for shape in shapes for d in [d for d in shape if symbols(d)][:1] for s in symbols(d)
    }  # of a state, say
    tried: list[dict[str, int]] = []
    for turn, side in enumerate(ALIGNED_SIZES):
        batch = BATCH_SIZES[turn % len(BATCH_SIZES)]
        for batches, step, grow in ((leading, 1, side), (leading, 0, side), (leading, 0, 0), (outermost, 0, 0)):
            others = [name for name in base if name not in batches]
            wanted = {name: batch + step * i for i, name in enumerate(base) if name in batches}
            wanted |= {name: side + grow * i for i, name in enumerate(others)}
            sizes = {name: _allowed(module, name, wanted[name]) for name in base}
            if sizes not in tried:
                tried.append(sizes)
                yield sizes


def _wanted(name: str, position: int, rung: int, batches: set[str]) -> int:
    return BATCH_SIZES[position % len(BATCH_SIZES)] if name in batches else rung + position


def _allowed(module: Module, name: str, wanted: int) -> int:
    """The size nearest to `wanted` within what is known of the symbol."""
    low, high = module.facts.range_of(name)
    divisor = module.facts.divisor_of(name)
    size = max(-(-wanted // divisor) * divisor, -(-int(low) // divisor) * divisor)
    return size if high is None or size <= high else int(high) // divisor * divisor


def _innermost(type_: Type) -> tuple[Dim, ...]:
    """The shape of a tensor, of the elements of a sequence, of what an optional may hold; () when it is not known."""
    while isinstance(type_, OptionalType | SequenceType):
        type_ = type_.elem
    return type_.shape or () if isinstance(type_, TensorType) else ()


def _sample(type_: Type, name: str, bindings: dict[str, int], rng: np.random.Generator, high: int | None) -> Any:
    """Arrays for tensors, a list of a few for a sequence; an optional is present."""
    if isinstance(type_, OptionalType):
        return _sample(type_.elem, name, bindings, rng, high)
    if isinstance(type_, SequenceType):
        return [_sample(type_.elem, name, bindings, rng, high) for _ in range(SEQUENCE)]
    if not isinstance(type_, TensorType) or type_.dtype is None or type_.shape is None:
        raise Unsupported(f"no sample can be made for input {name!r} of type {type_}", hint="give inputs with --inputs")
    shape = tuple(d if isinstance(d, int) else evaluate(d, bindings) for d in type_.shape)
    hold(math.prod(shape) * max(type_.dtype.bits // 8, 1))
    try:
        return random_array(type_.dtype, shape, rng, high=high)
    except ValueError as error:  # even an empty array may have dims that numpy cannot count
        raise Unsupported(f"no sample can be made for input {name!r} of type {type_}: {error}") from None


def random_array(dtype: DType, shape: tuple[int, ...], rng: np.random.Generator, high: int | None = None) -> np.ndarray:
    """Random elements of any dtype; integers below `high` (default: a range that fits the dtype and stays small)."""
    if dtype is BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype is STRING:
        made = np.empty(shape, object)
        made[...] = "text"
        return made
    if dtype.is_int:
        top = min(high or 8, 1 << (dtype.bits - (1 if dtype.is_signed else 0)) - 1)
        return rng.integers(0, max(top, 1), shape).astype(dtype.numpy)
    if dtype.kind == "complex":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype.numpy)
    return rng.standard_normal(shape).astype(np.float32).astype(dtype.numpy)


def calmer(inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The same inputs with the magnitudes of their floats, then with those brought below 1, then below 1/8: for models that
    make nothing but NaN of normal samples (logarithms, roots, powers that overflow)."""
    for scale in (None, 1.0, 0.125):
        yield {name: _calmed(item, scale) for name, item in inputs.items()}


def _calmed(item: Any, scale: float | None) -> Any:
    if isinstance(item, list):
        return [_calmed(each, scale) for each in item]
    if not isinstance(item, np.ndarray) or not is_float(item.dtype):
        return item
    wide = np.abs(item.astype(np.float64))
    return (wide if scale is None else scale * wide / (1 + wide)).astype(item.dtype)


def _sampled(value: Value, name: str, bindings: dict[str, int], rng: np.random.Generator) -> Any:
    chosen = _choice(value, rng)
    limit = 2 if "mask" in name.lower() else index_limit(value)
    return _sample(value.type, name, bindings, rng, limit) if chosen is None else chosen


def _choice(value: Value, rng: np.random.Generator) -> Any:
    """For a single integer that the model compares for equality: an array of one of the constants; else None."""
    type_ = value.type
    if (
        not isinstance(type_, TensorType)
        or type_.dtype is None
        or not type_.dtype.is_int
        or type_.shape not in ((), (1,))
    ):
        return None
    known = {
        constant
        for node, index in _deciding(value)
        if node.name == "equal" and (other := node.operands[1 - index]) is not None
        for constant in other.ints() or ()
    }
    return np.full(type_.shape, rng.choice(sorted(known)), type_.dtype.numpy) if known else None


def index_limit(value: Value) -> int | None:
    """How many different integers the model tells apart in `value`: rows of the smallest table that it indexes, the depth of
    a one-hot, one more than the largest constant it is compared with; looking through moves and casts. None if none."""
    found = (_told_apart(node, index) for node, index in _deciding(value))
    return min((limit for limit in found if limit is not None), default=None)


def _deciding(value: Value) -> Iterator[tuple[Node, int]]:
    """The uses of an input, as (node, operand), of what moves and casts make of it too."""
    pending, seen = [value], {value}
    while pending:
        for use in pending.pop().uses:
            node = use.node
            yield node, use.index
            if node.name == "cast" or node.has(MOVEMENT):
                fresh = [v for v in node.results if v not in seen]
                seen.update(fresh)
                pending.extend(fresh)


def _told_apart(node: Node, index: int) -> int | None:
    if node.name in ("gather", "gather_nd", "gather_elements") and index == 1:
        data, axis = node.operands[0], node.attrs.get("axis", 0)
        rows = None if data is None or data.shape is None else data.shape[axis]
        return rows if isinstance(rows, int) else None
    other = node.operands[1 - index] if node.name == "equal" else node.operands[1] if node.name == "one_hot" else None
    known = None if other is None else other.ints()
    if not known or max(known) < 1:
        return None
    return max(known) + (node.name == "equal")


def resized(module: Module, factor: int = 1) -> dict[str, int]:
    """A second set of sizes for the open dims: each one larger by `factor`, within its facts."""
    base = symbol_sizes(module, module.signature.graph, {})
    wanted = {}
    for name, size in base.items():
        step = module.facts.divisor_of(name) * factor
        high = module.facts.range_of(name)[1]
        wanted[name] = size + step if high in (None, float("inf")) or size + step <= high else size
    return wanted


__all__ = ["calmer", "candidate_sizes", "index_limit", "random_array", "resized", "sample_inputs", "symbol_sizes"]
