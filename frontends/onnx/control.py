"""If, Loop and Scan as ops with closed regions. Scan of opset 8, which has a batch axis, becomes a loop over the batch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.expr import Expr
from ...ir.graph import Graph, Value
from ...ir.types import BOOL, I64, OptionalType, SequenceType, TensorType, Type, join
from .importer import Call, Importer, Scope
from .registry import handles

COUNTER, FLAG = TensorType(I64, ()), TensorType(BOOL, ())

#: A loop body is lowered again while its carried types turn out to change; below this depth they start out unknown.
_ATTEMPTS, _DEEP = 4, 3


@handles("If")
def if_(c: Importer, n: Call) -> Any:
    """With a known condition only the branch that runs is lowered: the other one need not even fit the shapes."""
    branches = (n.attrs["then_branch"], n.attrs["else_branch"])
    for branch in branches:
        if len(branch.outputs) != len(n.node.outputs) or branch.inputs:
            raise n.invalid(f"a branch has {len(branch.outputs)} outputs, the node {len(n.node.outputs)}")
    known = n.x.ints()
    if known is not None and len(known) == 1:
        return c.inline(branches[0 if known[0] else 1], n.scope)
    names = c.captures(branches, n.scope)
    regions = []
    for branch in branches:
        region, outputs = c.region(branch, n.scope, (), names)
        region.set_outputs(outputs)
        regions.append(region)
    condition = c.b.reshape(n.x, ()) if n.x.rank else n.x
    captured = [c.lookup(name, n.scope) for name in names]
    return c.b.call("if", (condition, *captured), {}, regions).results


@handles("Loop")
def loop(c: Importer, n: Call) -> Any:
    body = n.attrs["body"]
    trip, condition = n.inputs[:2]
    carried: list[Any] = list(n.inputs[2:])
    if len(body.inputs) != 2 + len(carried) or len(body.outputs) < 1 + len(carried):
        raise n.invalid(
            f"the body has {len(body.inputs)} inputs and {len(body.outputs)} outputs for {len(carried)} carried values"
        )
    if any(v is None for v in carried):
        raise n.invalid("a carried value is missing")
    trip, condition = _scalar(c, trip), _scalar(c, condition)
    names = c.captures((body,), n.scope)

    def build(types: Sequence[Type]) -> tuple[Graph, list[Value]]:
        return c.region(body, n.scope, (COUNTER, FLAG, *types), names)

    region, outputs = _settled(c, carried, build, 1)
    flag = outputs[0]
    region.set_outputs([Builder(region).reshape(flag, ()) if flag.rank else flag, *outputs[1:]])
    captured = [c.lookup(name, n.scope) for name in names]
    attrs = {"carried": len(carried)}
    return c.b.call("loop", (trip, condition, *carried, *captured), attrs, [region]).results


def _scalar(c: Importer, value: Value | None) -> Value | None:
    """The spec allows the shape [1] for counts and conditions."""
    return c.b.reshape(value, ()) if value is not None and value.rank else value


def _settled(c: Importer, carried: list[Any], build: Any, first: int) -> tuple[Graph, list[Value]]:
    """Build a loop body whose carried inputs are as general as what it yields: dims that change become unknown. Sequences
    that are empty at the start are replaced in `carried` by ones that know what will be put into them."""
    own: dict[Expr, None] = {}
    if c.depth_of_regions() <= _DEEP:
        _foresee(c, carried, build, first)
    types = [v.type for v in carried]
    for attempt in range(_ATTEMPTS + 1):
        if attempt == _ATTEMPTS or c.depth_of_regions() > _DEEP:
            types = [_shapeless(t) for t in types]
        region, outputs = build(types)
        wider = [_wider(t, y.type, own) for t, y in zip(types, outputs[first:], strict=False)]
        if wider == types:
            return region, outputs
        region.clear()
        types = wider
    return build(types)


def _foresee(c: Importer, carried: list[Any], build: Any, first: int) -> None:
    """Give the empty sequences among the carried values the type of what an iteration puts into them."""
    empty = [i for i, v in enumerate(carried) if v.node is not None and v.node.name == "sequence_empty"]
    if not empty:
        return
    region, outputs = build([v.type for v in carried])
    for i in empty:
        kinds = _inserted(region.inputs[first + 1 + i], outputs[first + i])
        elem = functools.reduce(join, kinds) if kinds else None
        if isinstance(elem, TensorType) and elem.dtype is carried[i].type.elem.dtype:
            carried[i] = _instead(carried[i], elem)
    region.clear()


def _instead(empty: Value, elem: TensorType) -> Value:
    """An empty sequence beside `empty` that knows more of its elements: others may use that one for something else."""
    node: Any = empty.node
    made = Builder(node.graph, after=node, loc=node.loc).sequence_empty(elem=elem)
    made.hint = empty.hint
    return made


def _inserted(given: Value, made: Value) -> list[Type]:
    """The types of what is put into the sequence `given` on the way to `made`; [] where nothing is, or it is not known."""
    kinds = []
    while made is not given:
        node = made.node
        if node is None or node.name not in ("sequence_insert", "sequence_erase", "identity"):
            return []
        if node.name == "sequence_insert":
            kinds.append(node.operands[1].type)  # type: ignore[union-attr]
        made = node.operands[0]  # type: ignore[assignment]
    return kinds


def _shapeless(type_: Type) -> Type:
    """The type without what it says of shapes."""
    if isinstance(type_, OptionalType | SequenceType):
        return type_.with_elem(_shapeless(type_.elem))
    return type_.with_shape(None) if isinstance(type_, TensorType) else type_


def _wider(given: Type, made: Type, own: dict[Expr, None]) -> Type:
    """What is true of a carried value before and after an iteration; `own` holds the symbols made for that. What is
    surely of another kind is left for the op to refuse."""
    if given is made:
        return given
    if isinstance(given, OptionalType | SequenceType) and given.wraps_like(made):
        return given.with_elem(_wider(given.elem, made.elem, own))  # type: ignore[attr-defined]
    if isinstance(given, OptionalType) != isinstance(made, OptionalType):
        first, second = (t.elem if isinstance(t, OptionalType) else t for t in (given, made))
        return OptionalType(_wider(first, second, own))
    if not (isinstance(given, TensorType) and isinstance(made, TensorType)):
        return given
    if given.shape is None or made.shape is None or len(given.shape) != len(made.shape):
        return given.with_shape(None)
    dims = []
    for old, new in zip(given.shape, made.shape, strict=True):
        if old != new and old not in own:
            old = Expr.fresh()
            own[old] = None
        dims.append(old)
    return given.with_shape(dims)


@handles("Scan", since=9)
def scan(c: Importer, n: Call) -> Any:
    body, count = n.attrs["body"], n.attr("num_scan_inputs")
    states, scanned = _operands(n, n.inputs)
    outputs = len(body.outputs) - len(states)
    lists = {
        name: _each(n, name, count if "input" in name else outputs)
        for name in ("scan_input_axes", "scan_input_directions", "scan_output_axes", "scan_output_directions")
    }
    return _scan(c, n, n.scope, states, scanned, lists)


def _operands(n: Call, values: Sequence[Value | None]) -> tuple[list[Value], list[Value]]:
    """The states and the scanned values. Raises InvalidModel when they do not fit the body."""
    body, count = n.attrs["body"], n.attr("num_scan_inputs")
    if not 1 <= count <= len(values) or len(body.inputs) != len(values) or None in values:
        raise n.invalid(f"the body has {len(body.inputs)} inputs for {len(values)} operands, {count} of them scanned")
    states = len(values) - count
    if len(body.outputs) != len(n.node.outputs) or len(body.outputs) < states:
        raise n.invalid(f"the body has {len(body.outputs)} outputs, the node {len(n.node.outputs)}")
    return list(values[:states]), list(values[states:])  # type: ignore[arg-type]


def _each(n: Call, name: str, count: int) -> tuple[int, ...]:
    """An attribute with an entry for each of `count` inputs or outputs; () when all are 0."""
    given = tuple(n.attr(name) or ())
    if len(given) not in (0, count):
        raise n.invalid(f"{name} has {len(given)} entries, expected {count}")
    return given if any(given) else ()


def _scan(
    c: Importer, n: Call, scope: Scope, states: list[Value], scanned: list[Value], lists: dict[str, Any]
) -> tuple[Value, ...]:
    """A scan in the graph that `c` builds now, where `scope` has the captured names."""
    body = n.attrs["body"]
    names = c.captures((body,), scope)
    axes = lists.get("scan_input_axes") or (0,) * len(scanned)
    slices = [_slice(n, x, axis) for x, axis in zip(scanned, axes, strict=True)]

    def build(types: Sequence[Type]) -> tuple[Graph, list[Value]]:
        return c.region(body, scope, (*types, *slices), names)

    region, outputs = _settled(c, states, build, 0)
    region.set_outputs(outputs)
    captured = [c.lookup(name, scope) for name in names]
    attrs = {"carried": len(states), "num_scan_inputs": len(scanned), **lists}
    return c.b.call("scan", (*states, *scanned, *captured), attrs, [region]).results


def _slice(n: Call, x: Value, axis: int) -> Type:
    """The type of one slice of a scanned value."""
    if x.shape is None:
        return TensorType(x.dtype)
    if not -len(x.shape) <= axis < len(x.shape):
        raise n.invalid(f"a value of type {x.type} cannot be scanned along axis {axis}")
    axis %= len(x.shape)
    return TensorType(x.dtype, (*x.shape[:axis], *x.shape[axis + 1 :]))


@handles("Scan")
def scan_batched(c: Importer, n: Call) -> Any:
    """Opset 8: axis 0 of everything is a batch, axis 1 of scanned values and of stacked outputs the sequence. Each entry of
    the batch is a scan of its own, over its first `sequence_lens` slices; outputs are filled up with zeros."""
    body, count = n.attrs["body"], n.attr("num_scan_inputs")
    lens, *values = n.inputs
    states, scanned = _operands(n, values)
    directions = _each(n, "directions", count)
    names = c.captures((body,), n.scope)
    length = c.b.shape(scanned[0], start=1, end=2)
    region = c.module.new_region(body.name)
    at, flag = region.add_input(COUNTER, "batch"), region.add_input(FLAG, "go_on")
    outer = [*values, length, *([] if lens is None else [lens])]
    inner = [region.add_input(v.type, v.hint) for v in outer]  # type: ignore[union-attr]
    scope = Scope(outer=n.scope, bindings=n.scope.bindings, opsets=n.scope.opsets, path=n.scope.path)
    for name in names:
        scope.values[name] = region.add_input(c.lookup(name, n.scope).type, name)
    saved, c.b = c.b, Builder(region)
    try:
        made = _one_of_batch(c, n, scope, inner, at, {"scan_input_directions": directions})
    finally:
        c.b = saved
    region.set_outputs([flag, *made])
    batch = c.b.squeeze(c.b.shape(scanned[0], start=0, end=1), (0,))
    captured = [c.lookup(name, n.scope) for name in names]
    return c.b.call("loop", (batch, c.const(np.array(True)), *outer, *captured), {"carried": 0}, [region]).results


def _one_of_batch(
    c: Importer, n: Call, scope: Scope, inner: list[Value], at: Value, lists: dict[str, Any]
) -> list[Value]:
    """The final states and filled-up outputs of entry `at`; `inner` are states, scanned values, length, lengths."""
    b, total = c.b, len(n.inputs) - 1
    states, scanned = _operands(n, [b.gather(v, at, axis=0) for v in inner[:total]])
    length = inner[total]
    if len(inner) == total + 1:
        return list(_scan(c, n, scope, states, scanned, lists))
    own = b.unsqueeze(b.cast(b.gather(inner[total + 1], at, axis=0), to=I64), (0,))
    scanned = [b.slice(x, (0,), own, (0,)) for x in scanned]
    made = _scan(c, n, scope, states, scanned, lists)
    missing = b.concat((0,), b.sub(length, own), axis=0)
    filled = [b.pad(y, missing, None, (0,), mode="constant") for y in made[len(states) :]]
    return [*made[: len(states)], *filled]
