"""A legal module as a straight list of torch calls: what is needed, in order, with sizes as expressions of input sizes.

Shape arithmetic of the IR does not become tensors: a value whose elements are known as expressions of sizes is written
as those expressions. Both the text of `net.py` and the live module are made from a Plan. Must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...formats.torch_source import SEVERAL
from ...ir.dims import symbols
from ...ir.errors import Unsupported, clean
from ...ir.expr import Expr, terms_of
from ...ir.graph import Graph, Module, Node, Value
from ...ir.loc import UNKNOWN_LOC, Loc
from ...ir.signature import Signature
from ...ir.types import TensorType
from .calls import DEVICE, ROWS, Call, Refusal


@dataclass(frozen=True)
class Step:
    """`results = call`. A result that nobody needs is None."""

    results: tuple[Value | None, ...]
    call: Call
    loc: Loc = UNKNOWN_LOC


@dataclass(frozen=True)
class SizeOf:
    """`symbol = (size of value along axis - offset) // factor`."""

    symbol: str
    value: Value
    axis: int
    factor: int = 1
    offset: int = 0


@dataclass
class Plan:
    """Steps in order of execution. `weights` are the constants that calls use as tensors, in order of first use."""

    signature: Signature
    inputs: list[Value]
    outputs: list[Value]
    steps: list[Step | SizeOf] = field(default_factory=list)
    weights: list[Value] = field(default_factory=list)


def is_host(node: Node) -> bool:
    """All results are integers whose elements are known from sizes: shape arithmetic, done outside of tensors."""
    if any(value.elems is None or any(e is None for e in value.elems) for value in node.results):
        return False
    if any(not isinstance(value.type, TensorType) for value in node.results):  # a sequence known to be empty
        return False
    symbolic = any(isinstance(e, Expr) for value in node.results for e in value.elems or ())
    return bool(node.results) and (symbolic or node.name not in ROWS)


def host_call(value: Value) -> Call:
    """The tensor of a value that is known from sizes."""
    assert isinstance(value.type, TensorType) and value.shape is not None and value.elems is not None
    if not value.elems:
        return Call("torch.full", value.shape, 0, dtype=value.dtype, device=DEVICE)
    return Call("helpers.int_tensor", value.elems, value.shape, dtype=value.dtype, device=DEVICE)


def plan(module: Module, signature: Signature | None = None) -> Plan:
    """The plan of a legal module. Raises Unsupported for a size that no input shows."""
    chosen = signature or module.signature
    graph = chosen.graph
    made = Plan(chosen, list(graph.inputs), list(graph.outputs))
    steps = _needed_steps(graph)
    _collect_weights(made, steps)
    _place(made, steps)
    return made


def _needed_steps(graph: Graph) -> list[Step]:
    """Steps of the nodes that the outputs depend on, in order."""
    needed: dict[Value, None] = dict.fromkeys(graph.outputs)
    steps: list[Step] = []
    for node in graph.reversed():
        wanted = [value for value in node.results if value in needed]
        if not wanted:
            continue
        made = (
            [Step((value,), host_call(value), node.loc) for value in wanted] if is_host(node) else [_step(node, needed)]
        )
        for step in made:
            needed.update(dict.fromkeys(step.call.values()))
        steps.extend(made)
    return steps[::-1]


def _step(node: Node, needed: dict[Value, None]) -> Step:
    try:
        call = ROWS[node.name](node)
    except (Refusal, KeyError) as error:
        raise Unsupported(f"{node.name} is no torch call: {error}", where=str(node.loc)) from None
    results = node.results if call.fn in SEVERAL else node.results[:1]
    every = call.fn == "torch.split"
    return Step(tuple(value if every or value in needed else None for value in results), call, node.loc)


def _collect_weights(made: Plan, steps: list[Step]) -> None:
    used = [value for step in steps for value in step.call.values() if value.is_const]
    used += [value for value in made.outputs if value.is_const]
    made.weights = list(dict.fromkeys(used))


def _place(made: Plan, steps: list[Step]) -> None:
    """Put definitions of size symbols where their values appear first."""
    wanted = {name for step in steps for leaf in step.call.leaves() if isinstance(leaf, Expr) for name in symbols(leaf)}
    for value in made.inputs:
        _define_sizes(made, value, wanted)
    for step in steps:
        for leaf in step.call.leaves():
            missing = [name for name in symbols(leaf) if name in wanted] if isinstance(leaf, Expr) else []
            if missing:
                raise Unsupported(f"the size {clean(missing[0])} is no dim of an input", where=str(step.loc))
        made.steps.append(step)
        for value in step.results:
            if value is not None:
                _define_sizes(made, value, wanted)


def _define_sizes(made: Plan, value: Value, wanted: set[str]) -> None:
    for axis, dim in enumerate(value.shape or ()):
        names = symbols(dim)
        if len(names) != 1 or names[0] not in wanted or not isinstance(dim, Expr):
            continue
        affine = affine_of(dim)
        if affine is not None:
            wanted.discard(names[0])
            made.steps.append(SizeOf(names[0], value, axis, *affine))


def affine_of(dim: Expr) -> tuple[int, int] | None:
    """(factor, offset) when the dim is `factor * symbol + offset`."""
    factor = offset = 0
    for mono, coefficient in terms_of(dim):
        if not mono:
            offset = coefficient
        elif len(mono) == 1 and mono[0][1] == 1 and mono[0][0].kind == "sym":
            factor = coefficient
        else:
            return None
    return (factor, offset) if factor > 0 else None


def result_symbols(made: Plan) -> dict[str, None]:
    """Symbols in the types of inputs, steps and outputs, in order of appearance."""
    values = [*made.inputs, *(v for s in made.steps if isinstance(s, Step) for v in s.results if v is not None)]
    found: dict[str, None] = {}
    for value in values:
        for dim in value.shape or ():
            found.update(dict.fromkeys(symbols(dim)))
    return found
