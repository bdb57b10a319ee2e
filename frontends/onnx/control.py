"""If, Loop and Scan as ops with closed regions. Scan becomes a loop over slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...formats.onnx import views
from ...ir.builder import Builder
from ...ir.expr import Expr
from ...ir.graph import Graph, Value
from ...ir.types import BOOL, I64, TensorType, Type
from .importer import Call, Importer, rank_of
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
    trip, condition, *carried = n.inputs
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
    while flag.node is not None and flag.node.name == "identity":  # `cond_out = Identity(cond_in)`: it never ends early
        flag = flag.node.operands[0]  # type: ignore[assignment]
    region.set_outputs([Builder(region).reshape(flag, ()) if flag.rank else flag, *outputs[1:]])
    captured = [c.lookup(name, n.scope) for name in names]
    attrs = {"carried": len(carried)}
    return c.b.call("loop", (trip, condition, *carried, *captured), attrs, [region]).results


def _scalar(c: Importer, value: Value | None) -> Value | None:
    """The spec allows the shape [1] for counts and conditions."""
    return c.b.reshape(value, ()) if value is not None and value.rank else value


def _settled(c: Importer, carried: Sequence[Any], build: Any, first: int) -> tuple[Graph, list[Value]]:
    """Build a loop body whose carried inputs are as general as what it yields: dims that change become unknown."""
    own: dict[Expr, None] = {}
    types = [v.type for v in carried]
    for attempt in range(_ATTEMPTS + 1):
        if attempt == _ATTEMPTS or c.depth_of_regions() > _DEEP:
            types = [t.with_shape(None) if isinstance(t, TensorType) else t for t in types]
        region, outputs = build(types)
        wider = [_wider(t, y.type, own) for t, y in zip(types, outputs[first:], strict=False)]
        if wider == types:
            return region, outputs
        region.clear()
        types = wider
    return build(types)


def _wider(given: Type, made: Type, own: dict[Expr, None]) -> Type:
    """What is true of a carried value before and after an iteration; `own` holds the symbols made for that."""
    if not (isinstance(given, TensorType) and isinstance(made, TensorType)) or given is made:
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


@handles("Scan")
def scan_batched(c: Importer, n: Call) -> Any:
    raise n.refuse("Scan of opset 8, which has a batch axis, is not supported", hint="convert the model to opset 9")


@handles("Scan", since=9)
def scan(c: Importer, n: Call) -> Any:
    """A loop: iteration i sees slice i of each scanned input; stacked outputs are put in order afterwards."""
    body, count = n.attrs["body"], n.attr("num_scan_inputs")
    states, scanned = n.inputs[: len(n.inputs) - count], n.inputs[len(n.inputs) - count :]
    if not scanned or len(body.inputs) != len(n.inputs) or any(v is None for v in n.inputs):
        raise n.invalid(f"the body has {len(body.inputs)} inputs for {len(n.inputs)} operands")
    if len(body.outputs) != len(n.node.outputs):
        raise n.invalid(f"the body has {len(body.outputs)} outputs, the node {len(n.node.outputs)}")
    if any(rank_of(x, n) == 0 for x in scanned):  # type: ignore[arg-type]
        raise n.invalid("a scanned input is a scalar")
    axes = [a % rank_of(x, n) for a, x in zip(_each(n, "scan_input_axes", count), scanned, strict=True)]  # type: ignore[arg-type]
    backwards = _each(n, "scan_input_directions", count)
    length = c.b.squeeze(c.b.shape(scanned[0], start=axes[0], end=axes[0] + 1), (0,))
    names = c.captures((body,), n.scope)

    def build(types: Sequence[Type]) -> tuple[Graph, list[Value]]:
        return _scan_body(c, n, body, types, (scanned, axes, backwards), names)

    region, outputs = _settled(c, states, build, 0)
    region.set_outputs([region.inputs[1], *outputs])
    captured = [c.lookup(name, n.scope) for name in names]
    made = c.b.call("loop", (length, None, *states, *scanned, *captured), {"carried": len(states)}, [region]).results
    return _ordered(c, n, list(made), len(states))


def _each(n: Call, name: str, count: int) -> tuple[int, ...]:
    """An attribute with an entry for each of `count` inputs or outputs; all 0 when it is not given."""
    given = tuple(n.attr(name) or (0,) * count)
    if len(given) != count:
        raise n.invalid(f"{name} has {len(given)} entries, expected {count}")
    return given


def _scan_body(
    c: Importer, n: Call, body: views.Graph, types: Sequence[Type], scanned: tuple, names: list[str]
) -> tuple[Graph, list[Value]]:
    """The loop region: counter, flag, states, whole scanned inputs, captures; slices are taken at its start."""
    values, axes, backwards = scanned
    region = c.module.new_region(body.name)
    counter, _ = region.add_input(COUNTER, "i"), region.add_input(FLAG, "go_on")
    given = [region.add_input(t, name) for t, name in zip(types, body.inputs, strict=False)]
    whole = [region.add_input(v.type, f"{name}_all") for v, name in zip(values, body.inputs[len(types) :], strict=True)]
    b = Builder(region)
    for x, axis, backward in zip(whole, axes, backwards, strict=True):
        at = counter
        if backward:
            last = b.sub(b.squeeze(b.shape(x, start=axis, end=axis + 1), (0,)), 1)
            at = b.sub(last, counter)
        given.append(b.gather(x, at, axis=axis))
    return region, c.fill(region, body, n.scope, dict(zip(body.inputs, given, strict=True)), names)


def _ordered(c: Importer, n: Call, made: list[Value], states: int) -> list[Value]:
    """Stacked outputs with the new axis where `scan_output_axes` wants it, in the wanted direction."""
    count = len(made) - states
    axes, backwards = _each(n, "scan_output_axes", count), _each(n, "scan_output_directions", count)
    for i, (axis, backward) in enumerate(zip(axes, backwards, strict=True), states):
        if backward:
            made[i] = c.b.reverse(made[i], axes=(0,))
        if axis:
            rank = rank_of(made[i], n)
            rest = list(range(1, rank))
            rest.insert(axis % rank, 0)
            made[i] = c.b.transpose(made[i], perm=tuple(rest))
    return made
