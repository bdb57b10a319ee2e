"""if and loop as functions of the model, called through Partial and Switch. Must not import MindSpore.

    then = Partial(f_then, captures...); other = Partial(f_else, captures...); Switch(cond, then, other)()

A loop is a function `head` that calls itself at the end of `body`; carried values keep their types. Every value that a
function needs is an argument; weights are parameters of the main graph, which functions may name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats import mindir
from ...ir.graph import Graph
from ...ir.types import TensorType
from ...ir.value import Node, Value
from .emit import GraphEmission, Ref, abstract, abstract_tuple
from .registry import Call, regional

_KINDS = mindir.ATTRIBUTE_TYPES


def _same_types(node: Node) -> str | None:
    """Both branches give the same dtypes and ranks."""
    for region in node.regions:
        for value, result in zip(region.outputs, node.results, strict=True):
            if not isinstance(result.type, TensorType) or result.dtype is None or result.rank is None:
                return "its branches give different types"
            if value.dtype is not result.dtype or value.rank != result.rank:
                return "its branches give different types"
    return None


regional("if", _same_types)


def _carries_only(node: Node) -> str | None:
    if len(node.results) != node.attr("carried"):
        return "a loop that collects an output of every iteration"
    body = node.regions[0]
    for value, result in zip(body.outputs[1:], node.operands[2:], strict=False):
        if value.type is not result.type:
            return "a carried value changes its type"
    return None


regional("loop", _carries_only)


def emit_control(graph: GraphEmission, node: Node) -> None:
    """Append the calls that stand for an `if` or `loop`."""
    if node.name == "if":
        _emit_if(graph, node)
    else:
        _emit_loop(graph, node)


def _closure(name: str) -> dict[str, Any]:
    return {"type": _KINDS["FUNCGRAPHCLOSURE"], "s": name.encode()}


def _partial(graph: GraphEmission, function: str, arguments: list[Any]) -> Ref:
    return Ref(graph.call(Call("Partial", (Ref(function), *arguments)), _closure(function)))


def _switch(graph: GraphEmission, cond: Any, branches: tuple[Ref, ...], functions: tuple[str, ...], shape: dict) -> str:
    """Choose and call; the name of the result."""
    both = {"type": _KINDS["UNIONFUNCCLOSURE"], "values": [_closure(f) for f in functions]}
    chosen = graph.call(Call("Switch", (cond, *branches)), both)
    name = graph.model.names.unique(f"{graph.prefix}:result")
    graph.append(f"REF::{chosen}", [], name, shape, "call")
    return name


def _bind(graph: GraphEmission, node: Node, result: str) -> None:
    """Names for the results: the call itself, or the elements of its tuple."""
    for place, value in enumerate(node.results):
        if len(node.results) == 1:
            graph.call(Call("Identity", (Ref(result),)), abstract(value), graph.take_name(value, "Identity"))
        elif value.n_uses:
            get = Call("TupleGetItem", (Ref(result), place))
            graph.call(get, abstract(value), graph.take_name(value, "TupleGetItem"))


def _shape_of_results(node: Node) -> dict[str, Any]:
    items = [abstract(value) for value in node.results]
    return items[0] if len(items) == 1 else abstract_tuple(items)


def _function(model: Any, name: str) -> GraphEmission:
    return GraphEmission(model, name)


def _finish(body: GraphEmission, inputs: list[tuple[Value, str]], outputs: list[str]) -> None:
    body.model.functions.append(
        {
            "name": body.prefix,
            "node": body.nodes,
            "input": [{"name": n, "tensor": [_input_tensor(v)]} for v, n in inputs],
            "output": [{"name": n} for n in outputs],
        }
    )


def _input_tensor(value: Value) -> dict[str, Any]:
    return abstract(value)["tensors"][0]


def _inputs(body: GraphEmission, values: list[Value]) -> list[tuple[Value, str]]:
    made = []
    for value in values:
        name = body.model.names.unique(f"{body.prefix}:{value.hint or 'x'}")
        body.by_value[value] = name
        made.append((value, name))
    return made


def _output_names(body: GraphEmission, values: tuple[Value, ...]) -> list[str]:
    """Every output of a function is the result of a node."""
    return [body.call(Call("Identity", (value,)), abstract(value)) for value in values]


def _region(graph: GraphEmission, region: Graph, label: str) -> str:
    name = graph.model.names.unique(label)
    body = _function(graph.model, name)
    inputs = _inputs(body, list(region.inputs))
    body.nodes_of(region)
    _finish(body, inputs, _output_names(body, region.outputs))
    return name


def _emit_if(graph: GraphEmission, node: Node) -> None:
    cond, captures = node.operands[0], list(node.operands[1:])
    functions = tuple(
        _region(graph, region, label) for region, label in zip(node.regions, ("then", "else"), strict=True)
    )
    branches = tuple(_partial(graph, function, captures) for function in functions)
    _bind(graph, node, _switch(graph, cond, branches, functions, _shape_of_results(node)))


def _emit_loop(graph: GraphEmission, node: Node) -> None:
    """head(i, go, values): go and i < trip ? step(i, go, values) : done(values), step calling head again."""
    trip, cond, values, carried = node.operands[0], node.operands[1], list(node.operands[2:]), node.attr("carried")
    region = node.regions[0]
    head, step, done = (graph.model.names.unique(label) for label in ("loop_head", "loop_body", "loop_done"))
    types = list(region.inputs)
    _emit_head(graph, (head, step, done), types, trip, carried)
    _emit_step(graph, node, (head, step), _shape_of_results(node), trip is not None)
    _emit_done(graph, done, types[2 : 2 + carried])
    start = [np.asarray(0, np.int64), np.asarray(True) if cond is None else cond, *values]
    start += [] if trip is None else [trip]
    name = graph.model.names.unique(f"{graph.prefix}:result")
    graph.append(f"REF::{head}", [graph.argument(a) for a in start], name, _shape_of_results(node), "call")
    _bind(graph, node, name)


def _fresh_inputs(body: GraphEmission, types: list[Value], trip: Value | None) -> list[tuple[Value, str]]:
    made = [(value, body.model.names.unique(f"{body.prefix}:{value.hint or 'x'}")) for value in types]
    if trip is not None:
        made.append((trip, body.model.names.unique(f"{body.prefix}:trip")))
    return made


def _emit_head(
    graph: GraphEmission, names: tuple[str, str, str], types: list[Value], trip: Value | None, carried: int
) -> None:
    head, step, done = names
    body = _function(graph.model, head)
    inputs = _fresh_inputs(body, types, trip)
    arguments = [Ref(name) for _, name in inputs]
    go: Any = arguments[1]
    if trip is not None:
        flag = {"type": _KINDS["TENSORS"], "tensors": [{"dims": [], "data_type": mindir.TENSOR_CODES["bool"]}]}
        below = Ref(body.call(Call("Less", (arguments[0], arguments[-1])), flag))
        go = Ref(body.call(Call("LogicalAnd", (go, below)), flag))
    branches = (_partial(body, step, arguments), _partial(body, done, arguments[2 : 2 + carried]))
    items = [abstract(v) for v in types[2 : 2 + carried]]
    shape = items[0] if len(items) == 1 else abstract_tuple(items)
    _finish(body, inputs, [_switch(body, go, branches, (step, done), shape)])


def _emit_step(graph: GraphEmission, node: Node, names: tuple[str, str], shape: dict, counted: bool) -> None:
    head, step = names
    region, carried = node.regions[0], node.attr("carried")
    body = _function(graph.model, step)
    inputs = _inputs(body, list(region.inputs))
    if counted:
        inputs.append((node.operands[0], body.model.names.unique(f"{step}:trip")))
    body.nodes_of(region)
    index = abstract(region.inputs[0])
    following = Ref(body.call(Call("Add", (region.inputs[0], np.asarray(1, np.int64))), index))
    arguments = [following, *region.outputs[: 1 + carried], *region.inputs[2 + carried :]]
    arguments += [Ref(inputs[-1][1])] if counted else []
    name = body.model.names.unique(f"{step}:again")
    body.append(f"REF::{head}", [body.argument(a) for a in arguments], name, shape, "call")
    _finish(body, inputs, [name])


def _emit_done(graph: GraphEmission, done: str, types: list[Value]) -> None:
    body = _function(graph.model, done)
    inputs = _fresh_inputs(body, types, None)
    _finish(body, inputs, [body.call(Call("Identity", (Ref(n),)), abstract(v)) for v, n in inputs])
