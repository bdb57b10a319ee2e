"""LSTM, GRU and plain cells that exporters wrote out gate by gate become one op again, over as many steps as follow each other.

    i, f, g, o = split(x W' + b + h R' + d)         the gates' lines may come from one product, from one each, or from a
    c' = sigmoid(f) c + sigmoid(i) tanh(g)          product with concat(x, h); in any order
    h' = sigmoid(o) tanh(c')

A GRU's reset gate scales the product of the state, or the state before its product. A plain cell alone is a layer like any
other: it takes two in a row.

Each gate must be linear in the same two values, with constant weights; nothing inside may be used outside. The weights are
put into the op's order by ops on constants, which `fold` evaluates. Single precision only: runtimes lack the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Value
from ...ir.loc import Loc
from ...ir.types import F32
from ..manager import Context, graph_pass
from ..optimize.common import same_dims
from ..rewrite import erase_dead
from .terms import number

#: The most nodes that one gate's line is looked through.
DEEPEST = 12


@dataclass(frozen=True)
class Part:
    """Columns `low` to `high` of a product with a constant: rows of `weight` if it is transposed (`rows`), and of its other
    axis those from `first` to `last`, which meet the source."""

    weight: Value
    rows: bool
    low: int
    high: int
    first: int
    last: int

    def build(self, b: Builder) -> Value:
        """The weights as [high - low, last - first]."""
        outs, ins = (0, 1) if self.rows else (1, 0)
        made = self.weight
        if (self.low, self.high) != (0, made.shape[outs]):  # type: ignore[index]
            made = b.slice(made, (self.low,), (self.high,), (outs,))
        if (self.first, self.last) != (0, made.shape[ins]):  # type: ignore[index]
            made = b.slice(made, (self.first,), (self.last,), (ins,))
        return made if self.rows else b.transpose(made, perm=(1, 0))


@dataclass
class Line:
    """A sum of products of values with constants, and of constants: columns of one matrix [batch, size]."""

    parts: dict[Value, Part] = field(default_factory=dict)
    biases: list[tuple[Value, int, int]] = field(default_factory=list)

    def bias(self, b: Builder) -> Value | None:
        """The constants' sum as a vector."""
        total = None
        for value, low, high in self.biases:
            flat = value if value.rank == 1 else b.reshape(value, (-1,))
            if (low, high) != (0, flat.shape[0]):  # type: ignore[index]
                flat = b.slice(flat, (low,), (high,), (0,))
            total = flat if total is None else b.add(total, flat)
        return total


class Cell:
    """The nodes of one cell, as far as they are found; `inside` are those that the op replaces."""

    def __init__(self) -> None:
        self.inside: dict[Node, None] = {}

    def node(self, value: Value | None, *ops: str) -> Node | None:
        """The node of one of these ops that computes `value`."""
        node = None if value is None else value.node
        return node if node is not None and node.name in ops else None

    def take(self, *nodes: Node) -> None:
        self.inside.update(dict.fromkeys(nodes))

    def is_closed(self, outputs: Sequence[Value]) -> bool:
        """Nothing but `outputs` is used outside."""
        return all(
            user in self.inside
            for node in self.inside
            for value in node.results
            if value not in outputs
            for user in value.users
        )

    # Lines.

    def line(self, value: Value | None) -> Line | None:
        """What a gate's input comes to; None where that is no line."""
        made = Line()
        if value is None or value.rank != 2 or type(value.shape[1]) is not int:  # type: ignore[index]
            return None
        todo: list[tuple[Value, int, int]] = [(value, 0, value.shape[1])]  # type: ignore[index]
        for _ in range(DEEPEST):
            if not todo:
                return made
            if not self._look(made, todo, *todo.pop()):
                return None
        return None

    def _look(self, made: Line, todo: list[tuple[Value, int, int]], value: Value, low: int, high: int) -> bool:
        """Take one term of a sum apart; False where it is no term of a line."""
        node = value.node
        if node is None:
            return False
        if node.name in ("split", "slice"):
            start = _column(node, value)
            todo.append((node.operands[0], low + start, high + start) if start is not None else (value, low, high))
            self.take(node)
            return start is not None
        if node.name == "add":
            self.take(node)
            return all(self._term(made, todo, term, node.result, low, high) for term in node.operands)
        return node.name in ("gemm", "matmul") and self._product(made, todo, node, low, high)

    def _term(self, made: Line, todo: list, term: Value, total: Value, low: int, high: int) -> bool:
        """One side of a sum: a matrix of its shape, or a constant row."""
        if same_dims(term.shape, total.shape) and not term.is_const:
            todo.append((term, low, high))
            return True
        shape = term.shape
        if not term.is_const or not shape or shape[-1] != total.shape[1] or any(d != 1 for d in shape[:-1]):  # type: ignore[index]
            return False
        made.biases.append((term, low, high))
        return True

    def _product(self, made: Line, todo: list, node: Node, low: int, high: int) -> bool:
        source, weight = node.operands[:2]
        rows = node.name == "gemm" and node.attr("transB")
        if weight.rank != 2 or not weight.is_const or weight.dtype is not F32 or source.rank != 2:
            return False
        if node.name == "gemm":
            shift = node.operand("c")
            if node.attr("transA") or node.attr("alpha") != 1 or (shift is not None and node.attr("beta") != 1):
                return False
            if shift is not None and not self._term(made, todo, shift, node.result, low, high):
                return False
        self.take(node)
        first = 0
        for piece, size in self._pieces(source):
            if piece in made.parts:
                return False
            made.parts[piece] = Part(weight, rows, low, high, first, first + size)
            first += size
        return first == weight.shape[1 if rows else 0]  # type: ignore[index]

    def _pieces(self, source: Value) -> Iterator[tuple[Value, int]]:
        """A joined source's parts with their sizes, or the source."""
        node = self.node(source, "concat")
        joined = node is not None and node.attr("axis") % 2 == 1
        pieces = node.operands if joined else (source,)  # type: ignore[union-attr]
        if joined:
            self.take(node)  # type: ignore[arg-type]
        for piece in pieces:
            size = piece.shape[1] if piece.shape is not None else None
            if type(size) is int:
                yield piece, size


def _column(node: Node, value: Value) -> int | None:
    """Where the columns of `value` begin in the matrix that a split or slice cuts."""
    x = node.operands[0]
    if x.rank != 2 or type(x.shape[1]) is not int:  # type: ignore[index]
        return None
    if node.name == "split":
        sizes = [v.shape[1] for v in node.results if v.shape is not None and type(v.shape[1]) is int]
        known = len(sizes) == len(node.results) and node.attr("axis") % 2 == 1
        return sum(sizes[: value.index]) if known else None
    starts, axes, steps = (node.operand(name) for name in ("starts", "axes", "steps"))
    start = starts.ints()
    over = (0,) if axes is None else axes.ints()
    if (
        start is None
        or over is None
        or len(over) != 1
        or over[0] % 2 != 1
        or (steps is not None and steps.ints() != (1,))
    ):
        return None
    width = x.shape[1]  # type: ignore[index]
    return min(max(start[0] + (width if start[0] < 0 else 0), 0), width)


def _pairs(node: Node) -> Iterator[tuple[Value, Value]]:
    """Both orders of a node's two operands."""
    yield node.operands[0], node.operands[1]
    yield node.operands[1], node.operands[0]


def _gate(cell: Cell, value: Value, function: str) -> Line | None:
    node = cell.node(value, function)
    if node is None:
        return None
    cell.take(node)
    return cell.line(node.operands[0])


# LSTM.


@dataclass(frozen=True)
class Found:
    """A cell: the op, its gates' lines in the op's order, sources and states, and what it yields."""

    op: str
    cell: Cell
    gates: tuple[Line, ...]
    recalled: Line | None
    x: Value
    h: Value
    states: tuple[Value, ...]
    outputs: tuple[Value, ...]
    size: int
    activation: str = ""

    @property
    def attrs(self) -> dict:
        """Those of the op beside its size."""
        if self.op == "gru":
            return {"linear_before_reset": self.recalled is not None}
        return {"activations": (self.activation,)} if self.activation else {}


def _lstm(last: Node, made: Mapping[Value, Found]) -> Found | None:
    """The cell whose h' is the result of this mul; `made` are those before it."""
    for o, squashed in _pairs(last):
        tanh = squashed.node
        total = tanh.operands[0].node if tanh is not None and tanh.name == "tanh" else None
        if total is None or total.name != "add":
            continue
        for kept, new in _pairs(total):
            if kept.node is None or new.node is None or not kept.node.name == new.node.name == "mul":
                continue
            for f, state in _pairs(kept.node):
                for i, g in _pairs(new.node):
                    found = _lstm_of((last, tanh, total, kept.node, new.node), (i, o, f, g), state, made)  # type: ignore[arg-type]
                    if found is not None:
                        return found
    return None


def _lstm_of(nodes: Sequence[Node], gates: Sequence[Value], state: Value, made: Mapping[Value, Found]) -> Found | None:
    functions = ("sigmoid", "sigmoid", "sigmoid", "tanh")
    if not all(v.node is not None and v.node.name == f for v, f in zip(gates, functions, strict=True)):
        return None
    cell = Cell()
    cell.take(*nodes)
    lines = [_gate(cell, v, f) for v, f in zip(gates, functions, strict=True)]
    if any(line is None for line in lines):
        return None
    outputs = (nodes[0].result, nodes[2].result)
    sources = list(lines[0].parts)  # type: ignore[union-attr]
    size = state.shape[1] if state.rank == 2 else None  # type: ignore[index]
    if len(sources) != 2 or not all(set(line.parts) == set(sources) for line in lines):  # type: ignore[union-attr]
        return None
    fits = type(size) is int and all(same_dims(v.shape, state.shape) for v in (*gates, *outputs))
    fitting = [v for v in sources if same_dims(v.shape, state.shape)]
    if not fits or not fitting or not cell.is_closed(outputs):
        return None
    h = _kin(fitting, state, made)
    x = next(v for v in sources if v is not h)
    if not same_dims(x.shape[:1], h.shape[:1]):  # type: ignore[index]
        return None
    return Found("lstm", cell, tuple(lines), None, x, h, (h, state), outputs, size)  # type: ignore[arg-type]


def _kin(fitting: Sequence[Value], state: Value, made: Mapping[Value, Found]) -> Value:
    """Of two values that a cell treats alike the one that comes from where its state comes from."""
    for value in fitting:
        if value in made and made[value].outputs[-1] is state:
            return value
    origin = state.node.operands[0] if state.node is not None else state.owner
    for value in fitting:
        if (value.node.operands[0] if value.node is not None else value.owner) is origin:
            return value
    return fitting[-1]


# GRU.


def _gru(last: Node) -> Found | None:
    """The cell whose h' = (1 - z) n + z h is the result of this add."""
    for fresh, kept in _pairs(last):
        if fresh.node is None or kept.node is None or not fresh.node.name == kept.node.name == "mul":
            continue
        for inverse, n in _pairs(fresh.node):
            rest = inverse.node
            if rest is None or rest.name != "sub" or number(rest.operands[0]) != 1.0:
                continue
            for z, h in _pairs(kept.node):
                if z is rest.operands[1]:
                    nodes = (last, fresh.node, kept.node, rest)
                    found = _gru_of(nodes, z, n, h) or _gru_of_reset_state(nodes, z, n, h)
                    if found is not None:
                        return found
    return None


def _gru_of_reset_state(nodes: Sequence[Node], z: Value, n: Value, h: Value) -> Found | None:
    """The cell with n = tanh(W x + R (r h))."""
    cell = Cell()
    cell.take(*nodes)
    update, fresh = _gate(cell, z, "sigmoid"), _gate(cell, n, "tanh")
    if update is None or fresh is None or h not in update.parts or len(update.parts) != 2:
        return None
    x = next(v for v in update.parts if v is not h)
    scaled = [v for v in fresh.parts if v is not x]
    times = cell.node(scaled[0], "mul") if len(scaled) == 1 and len(fresh.parts) == 2 else None
    for r, state in () if times is None else _pairs(times):
        reset = _gate(cell, r, "sigmoid") if state is h else None
        if reset is None or set(reset.parts) != {x, h}:
            continue
        cell.take(times)  # type: ignore[arg-type]
        lines = (update, reset, Line({x: fresh.parts[x], h: fresh.parts[scaled[0]]}, fresh.biases))
        fits = all(same_dims(v.shape, h.shape) for v in (z, r, n, scaled[0], nodes[0].result))
        if fits and same_dims(x.shape[:1], h.shape[:1]) and cell.is_closed((nodes[0].result,)):  # type: ignore[index]
            return Found("gru", cell, lines, None, x, h, (h,), (nodes[0].result,), h.shape[1])  # type: ignore[index,arg-type]
    return None


# Plain cells.

_FUNCTIONS = {"tanh": "Tanh", "relu": "Relu"}


def _rnn(last: Node, made: Mapping[Value, Found]) -> Found | None:
    """The cell whose h' = tanh(W x + R h) is the result of this node."""
    cell = Cell()
    cell.take(last)
    y = last.result
    line = cell.line(last.operands[0])
    if line is None or len(line.parts) != 2 or not cell.is_closed((y,)):
        return None
    fitting = [v for v in line.parts if same_dims(v.shape, y.shape)]
    if not fitting:
        return None
    h = next((v for v in fitting if v in made), fitting[-1])
    x = next(v for v in line.parts if v is not h)
    if not same_dims(x.shape[:1], h.shape[:1]):  # type: ignore[index]
        return None
    return Found("rnn", cell, (line,), None, x, h, (h,), (y,), y.shape[1], _FUNCTIONS[last.name])  # type: ignore[index,arg-type]


def _gru_of(nodes: Sequence[Node], z: Value, n: Value, h: Value) -> Found | None:
    cell = Cell()
    cell.take(*nodes)
    tanh = cell.node(n, "tanh")
    total = None if tanh is None else cell.node(tanh.operands[0], "add")
    update = _gate(cell, z, "sigmoid")
    if total is None or update is None or h not in update.parts or len(update.parts) != 2:
        return None
    cell.take(tanh, total)  # type: ignore[arg-type]
    x = next(v for v in update.parts if v is not h)
    for given, recalled in _pairs(total):
        times = cell.node(recalled, "mul")
        fresh = None if times is None else cell.line(given)
        if fresh is None or list(fresh.parts) != [x]:
            continue
        for r, line in _pairs(times):  # type: ignore[arg-type]
            reset, past = _gate(cell, r, "sigmoid"), cell.line(line)
            if reset is None or past is None or set(reset.parts) != {x, h} or list(past.parts) != [h]:
                continue
            cell.take(times)  # type: ignore[arg-type]
            size = h.shape[1]  # type: ignore[index]
            outputs = (nodes[0].result,)
            fits = all(same_dims(v.shape, h.shape) for v in (z, r, n, given, line, *outputs))
            fits = fits and same_dims(x.shape[:1], h.shape[:1])  # type: ignore[index]
            if fits and cell.is_closed(outputs):
                return Found("gru", cell, (update, reset, fresh), past, x, h, (h,), outputs, size)  # type: ignore[arg-type]
    return None


# Building.


def _stacked(b: Builder, found: Found, source: Value) -> Value:
    """The weights of all gates that meet `source`, as [1, gates * size, inputs]."""
    lines = found.gates
    if found.recalled is not None and source is found.h:
        lines = (*lines[:-1], found.recalled)
    parts = [line.parts[source].build(b) for line in lines]
    return b.unsqueeze(b.concat(*parts, axis=0), (0,))


def _biases(b: Builder, found: Found) -> Value | None:
    """[1, 2 * gates * size]: what a gate adds stands on the input's side, but for the part that a reset gate scales."""
    zero = b.expand(b.const(0.0, F32), (found.size,))
    given = [line.bias(b) for line in found.gates]
    past = None if found.recalled is None else found.recalled.bias(b)
    if all(v is None for v in (*given, past)):
        return None
    own = [zero if v is None else v for v in given]
    other = [*[zero] * (len(own) - 1), zero if past is None else past]
    return b.unsqueeze(b.concat(*own, *other, axis=0), (0,))


# Chains of cells.


def _continues(last: Found, found: Found) -> bool:
    """The same cell again, on what `last` yields."""
    return (
        (last.op, last.attrs) == (found.op, found.attrs)
        and last.outputs == found.states
        and same_dims(last.x.shape, found.x.shape)
        and _weights(last) == _weights(found)
    )


def _weights(found: Found) -> list:
    """Which constants a cell reads, and where."""
    lines = found.gates if found.recalled is None else (*found.gates, found.recalled)
    return [
        ([line.parts.get(v) for v in (found.x, found.h)], sorted(line.biases, key=lambda b: b[0].hint))
        for line in lines
    ]


def _is_joinable(chain: Sequence[Found]) -> bool:
    """One op in the last cell's place can yield what these do: only what an op yields is used elsewhere, and that later."""
    inside = {node for found in chain for node in found.cell.inside}  # asked of, never walked
    anchor = _anchor(chain)
    for step, found in enumerate(chain, 1):
        for place, value in enumerate(found.outputs):
            outside = [user for user in value.users if user not in inside]
            if (place and step < len(chain) and outside) or not all(anchor.before(user) for user in outside):
                return False
    needed = (*(found.x for found in chain), *chain[0].states)
    return all(v.node is None or v.node.before(anchor) for v in needed)


def _anchor(chain: Sequence[Found]) -> Node:
    """The first of the nodes that yield what the last cell does."""
    return min((v.node for v in chain[-1].outputs), key=lambda n: n.order)  # type: ignore[union-attr,arg-type,return-value]


def _chains(cells: Sequence[Found]) -> list[list[Found]]:
    """Cells in a row, each on what the one before yields, where one op can stand for them, in order of their places."""
    ends: dict[Value, list[Found]] = {}
    for found in cells:
        chain = ends.get(found.h)
        if chain is not None and _continues(chain[-1], found):
            del ends[found.h]
            chain.append(found)
        else:
            chain = [found]
        ends[found.outputs[0]] = chain
    made: list[list[Found]] = []
    for chain in ends.values():
        made += [chain] if _is_joinable(chain) else [[found] for found in chain if _is_joinable([found])]
    return sorted(made, key=lambda c: _anchor(c).order)  # type: ignore[arg-type,return-value]


def _replace(graph: Graph, chain: Sequence[Found], moved: dict[Value, Value]) -> None:
    """Put one op in place of a chain of cells; `moved` says what became of values that other chains have yielded."""
    first, last = chain[0], chain[-1]
    inside = {node: None for found in chain for node in found.cell.inside}
    nodes = sorted(inside, key=lambda n: n.order)  # type: ignore[arg-type,return-value]
    b = Builder(graph, before=_anchor(chain), loc=Loc.fuse([n.loc for n in nodes], "fuse-recurrent"))
    states = [b.unsqueeze(moved.get(v, v), (0,)) for v in first.states]
    steps = [b.unsqueeze(moved.get(found.x, found.x), (0,)) for found in chain]
    x = b.concat(*steps, axis=0) if len(steps) > 1 else steps[0]
    w, r = _stacked(b, first, first.x), _stacked(b, first, first.h)
    made = b.call(first.op, (x, w, r, _biases(b, first), None, *states), {"hidden_size": first.size, **first.attrs})
    for step, found in enumerate(chain[:-1]):
        h = found.outputs[0]
        if any(user not in inside for user in h.users):
            moved[h] = b.squeeze(b.slice(made.results[0], (step,), (step + 1,), (0,)), (0, 1))
            h.replace_uses(moved[h], keep=inside)
    for old, new in zip(last.outputs, made.results[1:], strict=True):
        if old.n_uses:
            moved[old] = b.squeeze(new, (0,))
            old.replace_uses(moved[old])
    erase_dead(reversed(nodes))


@graph_pass("fuse-recurrent", numerics="ulp")
def fuse_recurrent(graph: Graph, ctx: Context) -> None:
    """LSTM, GRU and plain cells that were written out become one op, over as many steps as follow each other."""
    if not ctx.admits("ulp"):
        return
    cells: list[Found] = []
    made: dict[Value, Found] = {}
    for node in graph.nodes("mul", "add", *_FUNCTIONS):
        if node.result.dtype is F32 and node.result.rank == 2:
            found = _gru(node) if node.name == "add" else (_lstm if node.name == "mul" else _rnn)(node, made)
            if found is not None:
                cells.append(found)
                made[found.outputs[0]] = found
    moved: dict[Value, Value] = {}
    for chain in _chains(cells):
        if chain[0].op == "rnn" and len(chain) == 1:
            continue
        _replace(graph, chain, moved)
        ctx.stats[f"fuse_{chain[0].op}_cell"] += len(chain)
