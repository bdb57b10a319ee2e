"""if and loop: functions called through Partial and Switch, as our backend writes them. Must not import MindSpore."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...formats import mindir
from ...ir.errors import InvalidModel, Unsupported
from ...ir.graph import Graph
from ...ir.value import Value
from .reader import Body, Function


class Closure(NamedTuple):
    """Partial: a function with its arguments."""

    function: str
    arguments: tuple[Any, ...]


class Choice(NamedTuple):
    """Switch: one of two closures."""

    cond: Value
    then: Closure
    other: Closure


def closure(primitive: str, arguments: list[Any], where: str) -> Closure | Choice:
    if primitive == "Partial":
        if not arguments or not isinstance(arguments[0], Function):
            raise InvalidModel("Partial takes a function", where=where)
        return Closure(arguments[0].name, tuple(arguments[1:]))
    if len(arguments) != 3 or not all(isinstance(a, Closure) for a in arguments[1:]):
        raise InvalidModel("Switch takes a condition and two closures", where=where)
    return Choice(*arguments)


def call_function(body: Body, target: str, arguments: list[Any], where: str) -> Any:
    """The result of a call: of a chosen closure (an if), or of a loop's head."""
    chosen = body.known.get(target)
    if isinstance(chosen, Choice) and not arguments:
        return _if(body, chosen, where)
    if target in body.reader.functions:
        return _loop(body, target, arguments, where)
    raise InvalidModel("a call of what is no function", where=where)


def _tensor(body: Body, arg: Any, where: str) -> Value:
    if isinstance(arg, Value):
        return arg
    if hasattr(arg, "digest"):
        return body.builder.const(arg)
    raise InvalidModel("a function takes tensors", where=where)


def _region(body: Body, function: str, values: list[Value], where: str) -> tuple[Graph, Body]:
    """A region whose inputs have the types of `values`, with the function's names bound to them."""
    record = body.reader.functions[function]
    graph = body.reader.module.new_region()
    inner = Body(body.reader, graph, body.depth + 1)
    if len(record.input) != len(values):
        raise InvalidModel(f"a function of {len(record.input)} inputs is called with {len(values)}", where=where)
    for slot, value in zip(record.input, values, strict=True):
        inner.known[slot.name] = graph.add_input(value.type, hint=mindir.short_name(slot.name))
    return graph, inner


def _if(body: Body, chosen: Choice, where: str) -> Any:
    values = [_tensor(body, a, where) for a in chosen.then.arguments]
    if [*values] != [_tensor(body, a, where) for a in chosen.other.arguments]:
        raise Unsupported("branches with different arguments are not read", where=where)
    regions = []
    for branch in (chosen.then, chosen.other):
        graph, inner = _region(body, branch.function, values, where)
        record = body.reader.functions[branch.function]
        inner.nodes(record.node)
        graph.set_outputs(inner.outputs(record.output))
        regions.append(graph)
    made = body.builder.call("if", [chosen.cond, *values], {}, regions).results
    return made[0] if len(made) == 1 else tuple(made)


def _loop(body: Body, head: str, arguments: list[Any], where: str) -> Any:
    """head(i, go, values, trip?) switches between step and done; the step ends by calling head again."""
    values = [_tensor(body, a, where) for a in arguments]
    step, carried, counted = _loop_parts(body, head, where)
    record = body.reader.functions[step]
    again = record.node[-1] if record.node else None
    if again is None or again.op_type != f"REF::{head}":
        raise Unsupported("this use of functions is not read", where=where)
    inside = values[:-1] if counted else values
    graph = body.reader.module.new_region()
    inner = Body(body.reader, graph, body.depth + 1)
    for slot, value in zip(record.input, inside, strict=False):
        inner.known[slot.name] = graph.add_input(value.type, hint=mindir.short_name(slot.name))
    trip = values[-1] if counted else None
    if counted:
        inner.known[record.input[-1].name] = trip if trip.is_const else inner.known[record.input[0].name]
    inner.nodes(record.node[:-1])
    following = [inner.look(name) for name in again.input]
    graph.set_outputs([_tensor(inner, v, where) for v in following[1 : 2 + carried]])
    made = body.builder.call("loop", [trip, values[1], *inside[2:]], {"carried": carried}, [graph]).results
    return made[0] if len(made) == 1 else tuple(made)


def _loop_parts(body: Body, head: str, where: str) -> tuple[str, int, bool]:
    """The step function, the number of carried values, and whether iterations are counted."""
    record = body.reader.functions[head]
    primitives = body.reader.primitives
    kinds = [
        primitives[n.op_type.removeprefix("REF::")].op_type for n in record.node[:-1] if n.op_type.startswith("REF::")
    ]
    counted = kinds == ["Less", "LogicalAnd", "Partial", "Partial", "Switch"]
    if not counted and kinds != ["Partial", "Partial", "Switch"]:
        raise Unsupported("this use of functions is not read", where=where)
    partials = [n for n in record.node[:-1] if primitives[n.op_type.removeprefix("REF::")].op_type == "Partial"]
    return partials[0].input[0], len(partials[1].input) - 1, counted
