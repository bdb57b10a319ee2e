"""Sample inputs for a module: seeded, in range, so that a check exercises the model instead of its error paths."""

from __future__ import annotations

import math

import numpy as np

from ..ir.dims import Expr, evaluate, symbols
from ..ir.errors import Unsupported
from ..ir.graph import Graph, Module, Node, Value
from ..ir.opdef import MOVEMENT
from ..ir.types import BOOL, STRING, DType, TensorType
from .budget import hold

#: Sizes of batch-like dims (axis 0 of an input) that the model leaves open. They differ, so that mixed-up dims show.
BATCH_SIZES = (2, 3, 5, 7)
#: Sizes tried for other open dims, until no dim in the graph comes out empty.
OPEN_SIZES = (4, 7, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)


def sample_inputs(
    module: Module, *, seed: int = 0, sizes: dict[str, int] | None = None, signature: str | None = None
) -> dict[str, np.ndarray]:
    """One random input per name. Floats are standard normal; integers that index a table stay inside it.

    `sizes` binds symbols; the others get small different sizes within what is known of them. Raises Unsupported for an input
    whose type is not known well enough.
    """
    sig = module.signatures[signature] if signature else module.signature
    rng = np.random.default_rng(seed)
    bindings = symbol_sizes(module, sig.graph, sizes or {})
    return {
        slot.name: _sample(value, slot.name, bindings, rng)
        for slot, value in zip(sig.inputs, sig.graph.inputs, strict=True)
    }


def symbol_sizes(module: Module, graph: Graph, given: dict[str, int]) -> dict[str, int]:
    """A size for every symbol of the inputs: the given one, else the smallest of OPEN_SIZES that the facts allow and with
    which nothing in the graph is empty (a pool or an unpadded convolution may need more than a few pixels)."""
    names = dict.fromkeys(s for v in graph.inputs for d in v.shape or () for s in symbols(d))
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


def _wanted(name: str, position: int, rung: int, batches: set[str]) -> int:
    return BATCH_SIZES[position % len(BATCH_SIZES)] if name in batches else rung + position


def _allowed(module: Module, name: str, wanted: int) -> int:
    """The size nearest to `wanted` within what is known of the symbol."""
    low, high = module.facts.range_of(name)
    divisor = module.facts.divisor_of(name)
    size = max(-(-wanted // divisor) * divisor, -(-int(low) // divisor) * divisor)
    return size if high is None or size <= high else int(high) // divisor * divisor


def _sample(value: Value, name: str, bindings: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.dtype is None or type_.shape is None:
        raise Unsupported(f"no sample can be made for input {name!r} of type {type_}", hint="give inputs with --inputs")
    shape = tuple(d if isinstance(d, int) else evaluate(d, bindings) for d in type_.shape)
    hold(math.prod(shape) * max(type_.dtype.bits // 8, 1))
    return random_array(type_.dtype, shape, rng, high=index_limit(value))


def random_array(dtype: DType, shape: tuple[int, ...], rng: np.random.Generator, high: int | None = None) -> np.ndarray:
    """Random elements of any dtype; integers below `high` (default: a range that fits the dtype and stays small)."""
    if dtype is BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype is STRING:
        made = np.empty(shape, object)
        made[...] = b"text"
        return made
    if dtype.is_int:
        top = min(high or 8, 1 << (dtype.bits - (1 if dtype.is_signed else 0)) - 1)
        return rng.integers(0, max(top, 1), shape).astype(dtype.numpy)
    if dtype.kind == "complex":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype.numpy)
    return rng.standard_normal(shape).astype(np.float32).astype(dtype.numpy)


def index_limit(value: Value) -> int | None:
    """How many different integers the model tells apart in `value`: rows of the smallest table that it indexes, the depth of
    a one-hot, one more than the largest constant it is compared with; looking through moves and casts. None if none."""
    limits: list[int] = []
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        for use in current.uses:
            node = use.node
            found = _told_apart(node, use.index)
            if found is not None:
                limits.append(found)
            elif node.name == "cast" or node.has(MOVEMENT):
                fresh = [v for v in node.results if v not in seen]
                seen.update(fresh)
                pending.extend(fresh)
    return min(limits, default=None)


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


__all__ = ["index_limit", "random_array", "resized", "sample_inputs", "symbol_sizes"]
