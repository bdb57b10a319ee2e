"""Constant folding with budgets: no folding bombs, no file growth, no waiting for the compiler.

A node whose operands are all constants is computed by its reference kernel; one whose integer results inference knows
already is replaced by them. Over a budget (`ir/storage.py` LIMITS) the node simply stays, and so it does where the constant
would make the file longer than what it replaces: the size is a property of the types, so that is settled before anything is
computed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from contextlib import nullcontext

import numpy as np

from ...ir.errors import AnyIRError
from ...ir.graph import Graph, Module, Node, Value
from ...ir.infer import propagate
from ...ir.opdef import PURE, RANDOM
from ...ir.storage import limit
from ...ir.tensor import as_tensor
from ...ir.types import STRING, U64, TensorType
from ...kernels.budget import ELEMENT, NODE, Budget, spending
from ...kernels.jit import interpreted
from ...kernels.registry import find_kernel
from ...kernels.run import run_node
from ..manager import Context, module_pass

#: Any constant may grow by this much, whatever the bytes of its inputs.
SLACK = 1 << 20
#: Up to this many scalar operations the uncompiled kernel is faster than waiting for numba.
INTERPRETED_WORK = 20_000
#: All folds of a module together may take the work of so many of the largest, and so much per byte of its constants.
FOLDS, WORK_PER_BYTE = 10, 50
#: How often it is planned what to fold at most: a node that is left out takes others along.
ROUNDS = 10
#: What a node, and what a constant, takes in a file besides data, from below; and how much of its weights a file may grow by
#: for the sake of fewer nodes: one part in so many.
NODE_BYTES, GROWTH = 64, 50
#: Ops that say something which a number would lose.
KEEP = frozenset({"dequantize", "quantize", "requantize", "opaque"})


@module_pass("fold")
def fold(module: Module, ctx: Context, *, max_bytes: int = 0) -> None:
    """Replace computations on constants by their results; `max_bytes` per constant (0: the limit `fold_bytes`).

    Given:
        const %c = [1.0, 2.0] : f32[2]
        %1 = neg(%c)
        %2 = add(%x, %1)
    Result:
        const %c = [-1.0, -2.0] : f32[2]
        %2 = add(%x, %c)
    """
    own, spent = _own_bytes(module), allowance(module)
    for node in _planned(_candidates(module), own, max_bytes or limit("fold_bytes")):
        graph = node.graph
        if graph is None:
            continue
        if _is_known(node):
            node.replace(*[_integers(module, value) for value in node.results])
        elif not _has_constants(node) or not _fold_computed(graph, node, spent):
            continue
        ctx.stats["fold"] += 1


def _planned(found: dict[Node, None], own: int, largest: int) -> dict[Node, None]:
    """Those of the candidates that are worthwhile and affordable together, in order: where one of them were left to the
    model for want of a budget, the constants that were made for it would stay as well."""
    spare = max(limit("fold_spare"), own // GROWTH)
    for _ in range(ROUNDS):
        kept = _affordable(_worthwhile(found, spare), own, largest)
        if len(kept) == len(found):
            return kept
        found = kept
    return {node: None for node in found if _is_known(node)}


def _candidates(module: Module) -> dict[Node, None]:
    """The nodes that are constant as far as types and operands say, in order."""
    found: dict[Node, None] = {}
    for graph in module.all_graphs():
        for node in graph.nodes():
            if not node.has(PURE) or node.has(RANDOM) or node.regions or node.name in KEEP or _unpacks(node):
                continue
            if not _has_constants(node, found) and not _is_known(node):
                continue
            if all(_known_type(v) and v.dtype is not STRING for v in node.results):
                found[node] = None
    return found


def _worthwhile(found: dict[Node, None], spare: int) -> list[Node]:
    """Those whose results, where something that stays needs them, are no larger than the constants and nodes that go for
    them. All results together may be larger by `spare`, the limit `fold_spare` or a part of the weights."""
    sources: dict[Node, int] = {}
    for node in found:
        freed = NODE_BYTES
        for value in dict.fromkeys(node.inputs()):
            if value.node in found:
                freed += sources[value.node] // max(1, len(value.users))
            elif value.weight is not None and value.used_only_by(found):
                freed += (value.weight.nbytes + NODE_BYTES) // len(value.users)
        sources[node] = freed
    stay: set[Node] = set()
    for node in reversed(found):
        needed = [v for v in node.results if any(u not in found or u in stay for u in v.users)]
        growth = _bytes(needed) + NODE_BYTES * len(needed) - sources[node]
        if needed and growth > NODE_BYTES:
            if growth > spare:
                stay.add(node)
            else:
                spare -= growth
    return [node for node in found if node not in stay]


def _unpacks(node: Node) -> bool:
    """A cast of a parameter to a wider float type: folded, the file would grow by what somebody has saved."""
    x = node.operands[0] if node.name == "cast" else None
    if x is None or x.weight is None or x.weight.role != "param" or x.dtype is None:
        return False
    to = node.attr("to")
    return x.dtype.is_float and to.is_float and to.bits > x.dtype.bits


def allowance(module: Module) -> Budget:
    """What all folds of a module may cost: the limits of one fold bound no thousand of them."""
    own = _own_bytes(module)
    nodes = sum(len(graph) for graph in module.all_graphs())
    work = ELEMENT * (FOLDS * limit("fold_work") + WORK_PER_BYTE * own) + NODE * nodes
    return Budget(work, limit("fold_total_bytes") + 4 * (limit("fold_bytes") + own))


def _own_bytes(module: Module) -> int:
    return sum(weight.nbytes for weight in module.weights)


def _is_known(node: Node) -> bool:
    """Inference knows all integer elements of the results (shape arithmetic; not what is made of named weights)."""
    if any(v.weight is not None and v.weight.role != "const" for v in node.inputs()):
        return False
    return bool(node.results) and all(_known_type(v) and v.ints() is not None for v in node.results)


def _known_type(value: Value) -> bool:
    type_ = value.type
    return isinstance(type_, TensorType) and type_.is_static and type_.dtype is not None


def _integers(module: Module, value: Value) -> Value:
    wide = np.uint64 if value.dtype is U64 else np.int64
    array = np.array(value.ints(), wide).astype(value.dtype.numpy)  # type: ignore[union-attr]
    return module.literal(array.reshape(value.shape))  # type: ignore[arg-type]


def _affordable(wanted: list[Node], own: int, largest: int) -> dict[Node, None]:
    """Those that the limits and the budgets of a module with `own` bytes of constants allow, and whose operands are
    constants when it is their turn."""
    bytes_left = max(limit("fold_total_bytes"), 2 * own)
    work_left = FOLDS * limit("fold_work") + WORK_PER_BYTE * own
    kept: dict[Node, None] = {}
    for node in wanted:
        if not _is_known(node):
            if find_kernel(node.name) is None or not _has_constants(node, kept):
                continue
            size, given = _bytes(node.results), _bytes(node.inputs())
            work = _work(node, sum(v.type.numel for v in node.results))  # type: ignore[attr-defined]
            if size > min(largest, bytes_left) or size > limit("fold_growth") * given + SLACK:
                continue
            if work > min(limit("fold_work"), work_left):
                continue
            bytes_left, work_left = bytes_left - size, work_left - work
        kept[node] = None
    return kept


def _has_constants(node: Node, made: Collection[Node] = ()) -> bool:
    """It has operands, and each is a constant or a result of the nodes `made`."""
    return bool(node.operands) and all(v is None or v.is_const or v.node in made for v in node.operands)


def _bytes(values: Iterable[Value]) -> int:
    """Of constants, and of values that are to be."""
    return sum(v.weight.nbytes if v.weight is not None else v.dtype.nbytes(v.type.numel) for v in values)  # type: ignore[union-attr, attr-defined, misc]


def _work(node: Node, result_count: int) -> int:
    """Scalar operations, from above: a dense product costs its contraction for each result, all else the elements."""
    counts = [v.type.numel for v in node.inputs()]  # type: ignore[attr-defined]
    if node.name in ("matmul", "gemm", "einsum", "conv", "conv_transpose", "attention"):
        return result_count * max(1, math.isqrt(max(counts, default=1)))
    return result_count + sum(counts)


def _fold_computed(graph: Graph, node: Node, spent: Budget) -> bool:
    """Run the kernel and put constants in place; False when there is no kernel or it refuses (the node then stays)."""
    arrays = [None if v is None else v.array() for v in node.operands]
    small = _work(node, sum(v.type.numel for v in node.results)) <= INTERPRETED_WORK  # type: ignore[attr-defined]
    try:
        with spending(spent), interpreted() if small else nullcontext():
            results = run_node(node, arrays)
    except AnyIRError:
        return False
    if any(r.shape != v.shape for r, v in zip(results, node.results, strict=True)):
        return False
    readers = [user for value in node.results for user in value.users if user.op.reads_elems]
    node.replace(*(_constant(graph.module, node, i, array) for i, array in enumerate(results)))
    propagate(readers)  # a range is as long as its floats say
    return True


def _constant(module: Module, node: Node, index: int, array: np.ndarray) -> Value:
    """A literal for plain numbers; a derived weight, with its origin, where a parameter went in."""
    sources = [v.weight for v in node.inputs() if v.weight is not None and v.weight.role != "const"]
    if not sources:
        return module.literal(array)
    roles = {w.role for w in sources}
    role = "param" if "param" in roles else "buffer"
    origin = f"{node.name}({', '.join(w.key for w in sources)})"
    key = sources[0].wanted if index == 0 else f"{sources[0].wanted}.{index}"
    return module.add_weight(key, as_tensor(array), role, origin)
