"""Where integers begin and end in a graph: dequantize (D) and quantize (Q) moved until they stand right at the operators.

    D(q) -> transpose -> pad -> conv -> reshape -> Q       becomes       transpose -> pad -> D -> conv -> Q -> reshape

Lowering needs floats, so `lift` first takes D out of chains that move integers. After it, `settle` makes 8-bit unsigned
values signed, lets D sink below ops that move or choose values, lets Q rise above them, and drops Q(D(q)) of equal
parameters. All of it is exact.
"""

from __future__ import annotations

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Graph, Module
from ...ir.opdef import SAME_QUANT
from ...ir.types import F16, F32, I8, U8, DType, TensorType
from ...ir.value import Node, Value
from ...kernels.run import run_node
from ...passes.quantize.qdq import (
    Encoding,
    Stuck,
    apply_dequantize,
    apply_quantize,
    dequantized,
    encoding_of,
    follow,
    lone,
    made_by,
    quantized,
    reliable,
    same,
)
from .emit.shape import pad_axes
from .ops.integer_unary import fixed_parameters

_SHIFT = 128


def usable(p: Encoding) -> bool:
    """What a TFLite tensor of integers can say: one positive, known scale."""
    return p.single and reliable(p) is None


def has_integers(module: Module) -> bool:
    """Something is quantised, or stored in halves."""
    return any(node.name in ("quantize", "dequantize") or is_half(node) for node in module.all_nodes())


def prepare(graph: Graph) -> None:
    """What lowering needs: ops on floats, and functions without a quantised operator as products of those that have one."""
    for node in list(graph.nodes("dequantize")):
        _mark_dynamic(node)
    lift(graph)
    for node in list(graph.nodes("silu")):
        _split_silu(node)


def _mark_dynamic(node: Node) -> None:
    """D(dynamic_quantize(x)) -> tfl.dynamic(x)"""
    maker = made_by(node.operands[0], "dynamic_quantize")
    if maker is not None and node.operands == maker.results and node.attr("to") is F32:
        b = Builder(node.graph, before=maker, loc=node.loc)
        node.replace(b.call("tfl.dynamic", (maker.operands[0],)).result)
        if not any(v.n_uses for v in maker.results):
            maker.erase()


def _split_silu(node: Node) -> None:
    """x * sigmoid(x) between D and Q, with the gate in the steps that its operator makes."""
    source, users = made_by(node.operands[0], "dequantize"), node.result.users
    if source is None or len(users) != 1 or users[0].name != "quantize":
        return
    p = encoding_of(source)
    fixed = fixed_parameters("tfl.q_logistic", I8 if p.stored is U8 else p.stored)
    if fixed is None or not usable(p):
        return
    b = Builder(node.graph, before=node, loc=node.loc)
    scale, zero = b.const(np.asarray(fixed[0], np.float32)), fixed[1] + (_SHIFT if p.stored is U8 else 0)
    point = b.const(np.asarray(zero, p.stored.numpy))
    gate = b.quantize(b.sigmoid(source.result), scale, point, to=p.stored)
    node.replace(b.mul(source.result, b.dequantize(gate, scale, point, to=F32)))


def is_weight(value: Value | None) -> bool:
    """A constant, or what stands for one: integers or halves behind what makes floats of them."""
    while value is not None and not value.is_const:
        node = value.node
        if node is None or node.name not in ("dequantize", "cast", "transpose", "reshape"):
            return False
        value = node.operands[0]
    return value is not None


def is_half(node: Node) -> bool:
    """A float16 constant, kept as it is and read through DEQUANTIZE."""
    return (
        node.name == "cast" and node.operands[0].is_const and node.operands[0].dtype is F16 and node.attr("to") is F32
    )


# ---------------------------------------------------------------------------------------------------------------- lift


def lift(graph: Graph) -> None:
    """D(move(q, ...)) -> move(D(q), ...): ops that keep scale and zero point work on floats until they are lowered."""
    pending = list(graph.nodes("dequantize"))
    while pending:
        node = pending.pop()
        inner = node.operands[0].node
        p = encoding_of(node)
        if inner is None or not inner.has(SAME_QUANT) or not (p.constant and p.single) or inner.regions:
            continue
        if inner.graph is not graph or len(inner.results) != 1 or any(v.dtype is F32 for v in inner.inputs()):
            continue
        b = Builder(graph, before=node, loc=inner.loc)
        p = lone(b, p)
        stored = inner.result.dtype
        operands = [dequantized(b, v, p, F32) if v is not None and v.dtype is stored else v for v in inner.operands]
        made = b.call(inner.name, operands, dict(inner.attrs))
        made.result.refine(TensorType(F32, inner.result.shape))
        node.replace(made.result)
        pending += [v.node for v in operands if v is not None and v.node is not None and v.node.name == "dequantize"]
        if not inner.result.n_uses:
            inner.erase()


# -------------------------------------------------------------------------------------------------- unsigned to signed


def make_signed(graph: Graph) -> None:
    """8-bit unsigned values, less 128, as signed ones with the zero point less 128: the same real numbers."""
    for node in list(graph.nodes("quantize", "dequantize")):
        p = encoding_of(node)
        if p.stored is not U8 or reliable(p):
            continue
        b = Builder(graph, before=node, loc=node.loc)
        signed = _signed(b, p)
        if node.name == "dequantize":
            source = node.operands[0]
            stored = _signed_data(b, source, p, signed)
            node.replace(b.dequantize(stored, signed.scale, signed.zero, to=node.attr("to"), block_size=signed.block))
            if source.node is not None and not source.n_uses:
                source.node.erase()
            continue
        stored = quantized(b, node.operands[0], signed)
        node.replace(_byte(b, stored, signed, p, U8))  # goes when only D reads it


def _signed(b: Builder, p: Encoding) -> Encoding:
    zeros = np.broadcast_to(p.zeros(), p.scales().shape) - _SHIFT
    return Encoding(p.scale, b.const(np.asarray(zeros, np.int8)), I8, p.block)


def _signed_data(b: Builder, source: Value, p: Encoding, signed: Encoding) -> Value:
    if source.is_const:
        made = (source.array().astype(np.int16) - _SHIFT).astype(np.int8)
        weight = source.weight
        return b.const(made, key=weight.key, role=weight.role, origin="signed")
    node = source.node
    if node is not None and node.name == "tfl.q_quantize" and node.operands[0].dtype is I8 and _shifts(node):
        return node.operands[0]
    return _byte(b, source, p, signed, I8)


def _shifts(node: Node) -> bool:
    """Equal scales, and zero points that differ by the offset of the two types."""
    (a, c), (z, y) = node.attr("scales"), node.attr("zeros")
    return a == c and abs(z - y) == _SHIFT


def _byte(b: Builder, x: Value, p: Encoding, to_p: Encoding, to: DType) -> Value:
    return requantised(b, x, numbers_of(p), numbers_of(to_p), to)


def numbers_of(p: Encoding) -> tuple[float, int]:
    """Scale and zero point of single constant parameters."""
    return float(np.float32(p.scales().item())), int(p.zeros().reshape(-1)[0])


def requantised(b: Builder, x: Value, have: tuple[float, int], want: tuple[float, int], to: DType) -> Value:
    """Integers `x` with other parameters; themselves where nothing changes."""
    if have == want and x.dtype is to:
        return x
    attrs = {"scales": (have[0], want[0]), "zeros": (have[1], want[1]), "to": to}
    return b.call("tfl.q_quantize", (x,), attrs).result


# -------------------------------------------------------------------------------------------------------------- settle

#: Ops that copy elements of their first operand.
_MOVES = frozenset(
    [
        "transpose",
        "reshape",
        "squeeze",
        "unsqueeze",
        "slice",
        "tfl.strided_slice",
        "split",
        "gather",
        "gather_nd",
        "tile",
        "tfl.broadcast_to",
        "reverse",
        "depth_to_space",
        "space_to_depth",
        "tfl.resize_nearest_neighbor",
        "tfl.max_pool_2d",
        "reduce_max",
        "reduce_min",
        "identity",
    ]
)
#: Ops below which data are still the data that were marked.
PASSING = frozenset(["transpose", "reshape", "squeeze", "unsqueeze", "pad", "slice"])
#: Ops whose operands must share one encoding.
_JOINS = frozenset(["concat", "max", "min"])


def settle(graph: Graph) -> None:
    """Sink every D, raise every Q, drop the pairs that meet, until nothing moves."""
    version = -1
    while version != graph.version:
        version = graph.version
        for node in list(graph.nodes("dequantize", "cast")):
            if node.graph is graph:
                _sink(graph, node)
        for node in list(graph.nodes("quantize")):
            if node.graph is graph:
                _drop_pair(node)
        for node in list(graph.reversed()):
            if node.name == "quantize" and node.graph is graph:
                _raise(node)
        _share(graph, "dequantize")
        _share(graph, "quantize")


def _sink(graph: Graph, node: Node) -> None:
    """Below every user that only moves what it reads."""
    if node.name == "cast" and not is_half(node):
        return
    for user in list(dict.fromkeys(node.result.users)):
        if user.graph is not graph or user is graph.return_node:
            continue
        if node.name == "cast":
            _sink_half(node, user)
        elif user.name == "tfl.shape":
            user.set_operand(0, node.operands[0])
        elif user.name in _MOVES and user.operands[0] is node.result:
            _sink_below(node, user)
        elif user.name == "pad" and user.operands[0] is node.result:
            _sink_pad(node, user)
        elif user.name in _JOINS:
            _sink_join(user)
    if not node.result.n_uses:
        node.erase()


def _sink_half(node: Node, user: Node) -> None:
    if user.name in ("transpose", "reshape"):
        b = Builder(user.graph, before=user, loc=user.loc)
        moved = b.call(user.name, (node.operands[0], *user.operands[1:]), dict(user.attrs)).result
        user.replace(b.cast(_computed(b, moved), to=F32))


def _computed(b: Builder, value: Value) -> Value:
    """What moves a constant is computed at once, under the constant's name."""
    node = value.node
    if node is None or not all(v.is_const for v in node.inputs()):
        return value
    weight = node.operands[0].weight
    (made,) = run_node(node, [v.array() if v is not None else None for v in node.operands])
    return b.const(np.array(made, order="C"), key=weight.key, role=weight.role, origin=node.name)


def _plain_activation(user: Node) -> bool:
    return user.attrs.get("fused_activation_function", "NONE") == "NONE"


def _sink_below(node: Node, user: Node) -> None:
    p = encoding_of(node)
    if not p.constant or not _plain_activation(user):
        return
    if not p.single and user.name not in ("transpose", "reshape", "gather", "squeeze", "unsqueeze"):
        return
    if p.stored is None or (p.stored.bits < 8 and not node.operands[0].is_const):
        return
    b = Builder(user.graph, before=user, loc=user.loc)
    moved = follow(b, user, lone(b, p) if p.single else p)
    if isinstance(moved, Stuck):
        return
    made = b.call(user.name, (node.operands[0], *user.operands[1:]), dict(user.attrs))
    results = []
    for old, new in zip(user.results, made.results, strict=True):
        new.refine(TensorType(p.stored, old.shape))
        results.append(dequantized(b, _computed(b, new) if len(user.results) == 1 else new, moved, F32))
    user.replace(*results)


def _sink_pad(node: Node, user: Node) -> None:
    """The fill must be an integer of the same encoding; below a pool that takes the largest, the least will do."""
    p = encoding_of(node)
    if not usable(p) or p.stored.bits < 8:
        return
    b = Builder(user.graph, before=user, loc=user.loc)
    p = lone(b, p)
    if user.attr("mode") == "reflect":
        made = b.call("pad", (node.operands[0], *user.operands[1:]), dict(user.attrs)).result
    elif user.attr("mode") == "constant" and user.operands[1].ints() is not None:
        fill = user.operand("value")
        number = 0.0 if fill is None else fill.scalar()
        stored = None if number is None else _fill(user, p, float(number))
        if stored is None:
            return
        made = _padded(b, node.operands[0], user, stored, int(p.zeros()))
    else:
        return
    made.refine(TensorType(p.stored, user.result.shape))
    user.replace(dequantized(b, made, p, F32))


def _fill(user: Node, p: Encoding, number: float) -> int | None:
    """The integer for a fill, None where there is none."""
    if number == -np.inf:
        return p.limits[0] if all(u.name == "tfl.max_pool_2d" for u in user.result.users) else None
    stored = apply_quantize(np.asarray(number, np.float32), p)
    return int(stored) if float(apply_dequantize(stored, p, F32)) == number else None


def _padded(b: Builder, x: Value, user: Node, fill: int, zero: int) -> Value:
    amounts, axes = user.operands[1].ints(), pad_axes(user)
    table = [0] * (2 * x.rank)
    for place, axis in enumerate(axes):
        table[axis], table[x.rank + axis] = amounts[place], amounts[len(axes) + place]
    if fill == zero and min(table) >= 0:
        return b.call("tfl.q_pad", (x,), {"pads": tuple(table), "zero": zero}).result
    return b.pad(x, tuple(table), b.const(np.asarray(fill, x.dtype.numpy)))


def _sink_join(user: Node) -> None:
    """All operands of one encoding, or a constant that one of its integers stands for."""
    sources = [made_by(v, "dequantize") for v in user.operands]
    first = next((s for s in sources if s is not None), None)
    if first is None:
        return
    p = encoding_of(first)
    if not usable(p) or p.stored.bits < 8:
        return
    b = Builder(user.graph, before=user, loc=user.loc)
    p, stored = lone(b, p), []
    for value, source in zip(user.operands, sources, strict=True):
        if source is not None and same(encoding_of(source), p):
            stored.append(source.operands[0])
        elif value.is_const and value.dtype is F32:
            numbers = apply_quantize(value.array(), p)
            if not np.array_equal(apply_dequantize(numbers, p, F32), value.array()):
                return
            stored.append(b.const(numbers))
        else:
            return
    made = b.call(user.name, stored, dict(user.attrs)).result
    made.refine(TensorType(p.stored, user.result.shape))
    user.replace(dequantized(b, made, p, F32))


def _drop_pair(node: Node) -> None:
    """Q(D(q)) of the same parameters is q; of others it is one step."""
    inner = made_by(node.operands[0], "dequantize")
    if inner is None:
        return
    into, out = encoding_of(inner), encoding_of(node)
    if reliable(into) or reliable(out) or min(into.stored.bits, out.stored.bits) < 8:
        return
    if same(into, out):
        node.replace(inner.operands[0])
    elif into.single and out.single and _signed_zero(into) and _signed_zero(out):
        b = Builder(node.graph, before=node, loc=node.loc)
        node.replace(requantised(b, inner.operands[0], numbers_of(into), numbers_of(out), out.stored))
    else:
        return
    if not inner.result.n_uses:
        inner.erase()


def _signed_zero(p: Encoding) -> bool:
    return p.stored in (I8, U8) or (p.stored.bits == 16 and p.stored.is_signed and not p.zeros().any())


# Q rises above these where nothing else reads their results.
_RISES = _MOVES - {"split", "reduce_max", "reduce_min"}


def _raise(node: Node) -> None:
    """Q(move(y)) -> move(Q(y)) where y is computed in floats, and Q(max(y, c)) -> max(Q(y), Q(c)): Q keeps order."""
    user = node.operands[0].node
    p = encoding_of(node)
    if user is None or user.graph is not node.graph or not only_read_by(node) or user.regions:
        return
    if not usable(p) or p.stored.bits < 8:
        return
    b = Builder(node.graph, before=user, loc=user.loc)
    p = lone(b, p)
    made: Value | None = None
    if user.name in _RISES and _plain_activation(user) and _worthwhile(user.operands[0]):
        made = b.call(user.name, (quantized(b, user.operands[0], p), *user.operands[1:]), dict(user.attrs)).result
    elif user.name == "concat" or (user.name in _JOINS and any(v.is_const for v in user.operands)):
        made = _joined(b, user, p)
    if made is None:
        return
    made.refine(TensorType(p.stored, user.result.shape))
    node.replace(made)
    for reader in list(user.result.users):
        reader.set_operand(0, made)
    user.erase()


def only_read_by(node: Node) -> bool:
    """What `node` quantises is read by nothing else, but for its shape."""
    return all(user is node or user.name == "tfl.shape" for user in node.operands[0].users)


def _worthwhile(value: Value) -> bool:
    """Made for this reader alone, by something that may become an integer operator."""
    return value.n_uses == 1 and value.node is not None


def _joined(b: Builder, user: Node, p: Encoding) -> Value | None:
    if any(v.dtype is not F32 for v in user.operands):
        return None
    stored = [b.const(apply_quantize(v.array(), p)) if v.is_const else quantized(b, v, p) for v in user.operands]
    low, high = p.limits
    if user.name in ("max", "min"):
        end = low if user.name == "max" else high
        for mine, other in ((0, 1), (1, 0)):  # a bound at the end of the range bounds nothing
            idle = stored[mine].is_const and (stored[mine].array() == end).all()
            if idle and stored[other].shape == user.result.shape:
                return stored[other]
    return b.call(user.name, stored, dict(user.attrs)).result


def rows_of_blocks(graph: Graph) -> None:
    """Constants with a scale per block as rows with a scale each, which DEQUANTIZE can read, and a reshape behind it."""
    for node in list(graph.nodes("dequantize")):
        p, stored = encoding_of(node), node.operands[0]
        if not stored.is_const or not p.constant or p.block or p.zeros().any() or p.scale.rank != stored.rank:
            continue
        wide = [axis for axis, size in enumerate(p.scale.shape) if size != 1]
        if not wide or p.scale.shape == stored.shape or any(stored.shape[a] != p.scale.shape[a] for a in wide[:-1]):
            continue
        last = wide[-1]
        if len(wide) == 1 and stored.shape[last] == p.scale.shape[last]:
            continue  # along an axis
        if any(d != 1 for d in stored.shape[: wide[0]]) or wide != list(range(wide[0], last + 1)):
            continue
        b, rows = Builder(graph, before=node, loc=node.loc), p.scales().size
        table = stored.array().reshape(rows, -1)
        weight = stored.weight
        made = b.const(table, stored.dtype, key=weight.key, role=weight.role, origin="rows of blocks")
        scales = b.const(p.scale.array().reshape(rows, 1))
        node.replace(b.reshape(b.dequantize(made, scales, to=F32), stored.shape))


def _share(graph: Graph, name: str) -> None:
    """One node for all that do the same to the same value."""
    seen: dict[Value, list[Node]] = {}
    for node in list(graph.nodes(name)):
        before = seen.setdefault(node.operands[0], [])
        twin = next((old for old in before if _alike(old, node)), None)
        if twin is None:
            before.append(node)
        else:
            node.replace(twin.result)


def _alike(a: Node, b: Node) -> bool:
    return a.attrs == b.attrs and same(encoding_of(a), encoding_of(b))
