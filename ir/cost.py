"""What a node costs, as integers or expressions of the symbols: arithmetic, bytes moved, weights; and what a graph keeps alive.

    cost(node).flops                       2*512*N*S**2, say
    evaluate(cost(node).flops, {"N": 1, "S": 128})

The model is that of a roofline: an operation reads every operand (of a table the rows that it picks) and writes every result
once. How often the body of a loop
runs is not known, so a node with regions costs what one run of each of its regions costs, and a branch counts like a body.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from .dims import Dim, dim_le, evaluate, product, symbols
from .graph import Graph, Node, Value
from .opdef import ELEMENTWISE
from .types import TensorType


class Cost(NamedTuple):
    """Of one run. `flops` counts a multiplication and an addition as two, `read` and `written` are bytes, weights included;
    None where a shape that decides is not known. `weights` are the bytes of the constants alone."""

    flops: Dim | None
    read: Dim | None
    written: Dim | None
    weights: int

    def numbers(self, sizes: Mapping[str, int]) -> tuple[int, int, int] | None:
        """flops, read and written with the symbols bound by `sizes`; None where one of them stays open."""
        if self.flops is None or self.read is None or self.written is None:
            return None
        bound = [_bound(dim, sizes) for dim in (self.flops, self.read, self.written)]
        return None if None in bound else (bound[0], bound[1], bound[2])  # type: ignore[return-value]


class Peak(NamedTuple):
    """The largest sum of tensors that are alive at once, weights left out: bytes, and the node that runs then (None: before
    the first)."""

    nbytes: int
    node: Node | None


#: Results that share the memory of operand 0: nothing is computed and nothing moves.
VIEWS = frozenset({"reshape", "flatten", "squeeze", "unsqueeze", "identity", "bitcast"})

#: Data is copied or chosen, or nothing but shapes is looked at: no arithmetic.
MOVES = VIEWS | {
    "transpose", "concat", "split", "slice", "pad", "expand", "tile", "gather", "gather_elements", "gather_nd",
    "scatter_elements", "scatter_nd", "depth_to_space", "space_to_depth", "reverse", "reverse_sequence", "shape", "size",
    "constant_of_shape", "eye_like", "trilu", "compress", "non_zero", "one_hot", "range", "return", "call",
}  # fmt: skip

#: Of operand 0 they read as much as they write.
PICKS = frozenset({"gather", "gather_elements", "gather_nd", "slice", "split", "compress"})
#: They look at the type of operand 0 only.
SHAPES = frozenset({"shape", "size"})

#: Operations per element of the result, where that is not one: as many as the op's definition has when it is written out.
PER_RESULT = {
    "sigmoid": 4, "silu": 5, "swish": 6, "mish": 7, "softplus": 3, "gelu": 8, "hard_swish": 5, "hard_sigmoid": 4, "elu": 4,
    "selu": 4, "celu": 5, "prelu": 3, "leaky_relu": 3, "softsign": 3, "tanh": 6, "batch_norm": 2, "softmax": 5,
    "log_softmax": 6, "layer_norm": 8, "rms_norm": 5, "instance_norm": 8, "group_norm": 8, "lrn": 8, "quantize": 4,
    "dequantize": 2, "requantize": 4, "lp_normalization": 4, "mean_variance_normalization": 8,
}  # fmt: skip

_REDUCTIONS = ("reduce_", "arg_", "cum", "topk", "global_")
_POOLS = frozenset({"max_pool", "max_pool_with_indices", "average_pool", "lp_pool"})


class _Unknown(Exception):
    """A shape that is not known."""


def cost(node: Node) -> Cost:
    """The cost of one node; see the module's docstring for regions."""
    weights = sum(v.weight.nbytes for v in dict.fromkeys(node.inputs()) if v.weight is not None)
    if node.regions:
        return _of_regions(node, weights)
    try:
        flops: Dim | None = _flops(node)
    except _Unknown:
        flops = None
    if node.name in VIEWS:
        return Cost(flops, 0, 0, weights)
    written = _sum(map(_bytes, node.results))
    whole = [v for v in dict.fromkeys(node.inputs()) if v is not node.operands[0] or node.name not in PICKS | SHAPES]
    read = _sum([*map(_bytes, whole), written if node.name in PICKS else 0])
    return Cost(flops, read, written, weights)


def _of_regions(node: Node, weights: int) -> Cost:
    inner = [cost(n) for region in node.regions for n in region.nodes() if n.name != "return"]
    flops, read, written = (_sum(getattr(c, field) for c in inner) for field in ("flops", "read", "written"))
    return Cost(flops, read, written, weights + sum(c.weights for c in inner))


def is_cheaper(before: Sequence[Node], after: Sequence[Node]) -> bool:
    """Nodes that stand for others are no dearer, whatever the sizes, in arithmetic or in bytes of constants, and cheaper in
    one of both. What is computed from constants alone counts as the constant that it folds to. False where a shape is not
    known. What rules ask that may compute one thing in several ways."""
    old, new = _standing(before), _standing(after)
    if old is None or new is None:
        return False
    pairs = tuple(zip(new, old, strict=True))
    return all(dim_le(a, b) is True for a, b in pairs) and not all(dim_le(b, a) is True for a, b in pairs)


def _standing(nodes: Sequence[Node]) -> tuple[Dim, Dim] | None:
    """(flops, bytes of constants) of what is left of nodes when constants are folded."""
    folded = {value for node in nodes if all(v.is_const for v in node.inputs()) for value in node.results}
    kept = [node for node in nodes if node.results[0] not in folded]
    constants = dict.fromkeys(v for node in kept for v in node.inputs() if v.is_const or v in folded)
    flops, nbytes = _sum(cost(node).flops for node in kept), _sum(map(_bytes, constants))
    return None if flops is None or nbytes is None else (flops, nbytes)


def macs(node: Node, sizes: Mapping[str, int]) -> int | None:
    """Multiply-accumulates of one run of a conv, gemm, matmul, attention or recurrent node, symbols bound by `sizes`; 0 for
    other ops, None where a shape is not known. Regions are not entered."""
    count = _MACS.get(node.name)
    try:
        return _bound(count(node), sizes) if count is not None else 0
    except _Unknown:
        return None


def peak_memory(graph: Graph, sizes: Mapping[str, int]) -> Peak | None:
    """The peak of `graph` run node by node in its order, each tensor freed behind its last use; inputs count while they are
    used, a view counts with what it views, regions with their own peak. None where a size stays open. O(nodes + uses)."""
    try:
        return _peak(graph, sizes)
    except _Unknown:
        return None


def _peak(graph: Graph, sizes: Mapping[str, int]) -> Peak:
    owner = _owners(graph)
    uses: Counter[Value] = Counter()
    for value, storage in owner.items():
        uses[storage] += value.n_uses
    alive = {value: _counted(value, sizes) for value in graph.inputs if uses[value]}
    now = sum(alive.values())
    best = Peak(now, None)
    for node in graph.nodes():
        for value in node.results:
            if owner[value] is value:
                alive[value] = _counted(value, sizes)
                now += alive[value]
        here = now + max((_peak(region, sizes).nbytes for region in node.regions), default=0)
        if here > best.nbytes:
            best = Peak(here, node)
        used = [owner[value] for value in node.inputs() if value in owner]
        uses.subtract(used)
        for storage in dict.fromkeys((*used, *(owner[value] for value in node.results))):
            if uses[storage] <= 0:
                now -= alive.pop(storage, 0)
    return best


def _owners(graph: Graph) -> dict[Value, Value]:
    """The value whose memory each value is: itself, or what it is a view of."""
    owner = {value: value for value in graph.inputs}
    for node in graph.nodes():
        viewed = node.operands[0] if node.name in VIEWS else None
        for value in node.results:
            owner[value] = value if viewed is None else owner.get(viewed, value)
    return owner


def _counted(value: Value, sizes: Mapping[str, int]) -> int:
    bound = _bound(_bytes(value), sizes)
    if bound is None:
        raise _Unknown
    return bound


def _bound(dim: Dim | None, sizes: Mapping[str, int]) -> int | None:
    """The number at these sizes; None where one is missing, or where they are too small for the graph (a window that does not
    fit)."""
    if dim is None or any(name not in sizes for name in symbols(dim)):
        return None
    found = evaluate(dim, sizes)
    return found if found >= 0 else None


def _sum(parts: Iterable[Dim | None]) -> Dim | None:
    total: Dim = 0
    for part in parts:
        if part is None:
            return None
        total = total + part
    return total


def _bytes(value: Value) -> Dim | None:
    """Bytes in memory; None for what has no known type. Packed integers count as in a file, strings nothing."""
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.shape is None or type_.dtype is None:
        return None
    count = product(type_.shape)
    return count * (type_.dtype.bits // 8) if type_.dtype.bits >= 8 else (count * type_.dtype.bits + 7) // 8


def _shape(value: Value | None) -> tuple[Dim, ...]:
    if value is None or value.shape is None:
        raise _Unknown
    return value.shape


def _flops(node: Node) -> Dim:
    if node.name in _MACS:
        biased = (
            node.name in ("conv", "conv_transpose", "gemm") and len(node.operands) > 2 and node.operands[2] is not None
        )
        return _MACS[node.name](node) * 2 + (product(_shape(node.results[0])) if biased else 0)
    if node.name in MOVES:
        return 0
    if node.name in PER_RESULT or node.has(ELEMENTWISE):
        return product(_shape(node.results[0])) * PER_RESULT.get(node.name, 1)
    if node.name in _POOLS:
        return product(_shape(node.results[0])) * product(node.attr("kernel_shape"))
    if node.name.startswith(_REDUCTIONS):
        return product(_shape(node.operands[0]))
    total: Dim = 0
    for value in node.results:
        total = total + product(_shape(value))
    return total


def _conv(weight: int) -> Callable[[Node], Dim]:
    """Every result is a sum over the input channels of its group and the window."""
    return lambda node: product(_shape(node.results[0])) * product(_shape(node.operands[weight])[1:])


def _product(a: int) -> Callable[[Node], Dim]:
    return lambda node: product(_shape(node.results[0])) * _shape(node.operands[a])[-1]


def _transposed(node: Node) -> Dim:
    """Every input is spread over the output channels of its group and the window."""
    return product(_shape(node.operands[0])) * product(_shape(node.operands[1])[1:])


def _gemm(node: Node) -> Dim:
    return product(_shape(node.results[0])) * _shape(node.operands[0])[0 if node.attr("transA") else 1]


def _recurrent(node: Node) -> Dim:
    """W is [directions, gates * hidden, input], R [directions, gates * hidden, hidden], x [time, batch, input]."""
    x, w, r = (_shape(node.operands[i]) for i in range(3))
    return product(x[:2]) * (product(w) + product(r))


def _attention(node: Node) -> Dim:
    """q k^T and the weighted sum of v, masked places included."""
    query, key, value = (_shape(node.operands[i]) for i in range(3))
    heads = query[1] if len(query) == 4 else node.attr("q_num_heads")
    pairs = ((query, heads), (value, node.attr("kv_num_heads") or 1))
    widths = [s[-1] if len(s) == 4 else s[-1] // h for s, h in pairs]
    past = _shape(node.operands[4])[2] if len(node.operands) > 4 and node.operands[4] is not None else 0
    return query[0] * heads * query[-2] * (key[-2] + past) * (widths[0] + widths[1])


_MACS: dict[str, Callable[[Node], Dim]] = {
    "conv": _conv(1),
    "conv_integer": _conv(1),
    "qlinear_conv": _conv(3),
    "conv_transpose": _transposed,
    "gemm": _gemm,
    "matmul": _product(0),
    "matmul_integer": _product(0),
    "qlinear_matmul": _product(0),
    "attention": _attention,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn": _recurrent,
}

#: Ops whose work `macs` counts: the layers of a network.
LAYERS = frozenset(_MACS)
