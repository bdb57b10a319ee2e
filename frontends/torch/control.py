"""torch's higher-order operators: cond, while_loop, and wrappers that only carry a setting. Must not import torch."""

from __future__ import annotations

from typing import Any

from ...formats.exported import ExportedGraph, Ref
from ...ir.builder import Builder
from ...ir.errors import InvalidModel, Unsupported
from ...ir.graph import Graph
from ...ir.types import BOOL, I64, TensorType
from ...ir.value import Value
from .context import Context
from .registry import handles
from .symbols import Symbols


def _inner(c: Context, graph: ExportedGraph, region: Graph, symbols: Symbols, args: tuple[Any, ...]) -> list[Any]:
    """Lower `graph` into `region` with `args` for its inputs; its outputs."""
    from .lower import lower_graph, resolve, used_names

    if len(args) != len(graph.inputs):
        raise InvalidModel(f"a subgraph with {len(graph.inputs)} inputs is given {len(args)}")
    inner = Context(Builder(region, loc=c.b.loc), graph, symbols)
    inner.used = used_names(graph)
    inner.derived = c.derived
    for ref, value in zip(graph.inputs, args, strict=True):
        if isinstance(ref, Ref):
            inner.env[ref.name] = value
    lower_graph(inner)
    return [resolve(inner, output) for output in graph.outputs]


def _subgraph(value: Any) -> ExportedGraph:
    if not isinstance(value, ExportedGraph):
        raise InvalidModel("a subgraph is expected")
    return value


def _values(value: Any) -> tuple[Value, ...]:
    if not isinstance(value, tuple) or not all(isinstance(item, Value) for item in value):
        raise Unsupported("a subgraph with other operands than tensors")
    return value


def _region(
    c: Context, graph: ExportedGraph, operands: tuple[Value, ...], lead: tuple[TensorType, ...] = ()
) -> tuple[Graph, list[Value]]:
    """A closed region for `graph`: `lead` inputs that it does not see, then one for each operand."""
    region = c.b.module.new_region()
    for type_ in lead:
        region.add_input(type_)
    inputs = tuple(region.add_input(value.type, value.hint) for value in operands)
    symbols = Symbols(c.symbols.names)
    for value in inputs:
        symbols.learn(value)
    outputs = _inner(c, graph, region, symbols, inputs)
    if not all(isinstance(output, Value) for output in outputs):
        raise Unsupported("a subgraph with other results than tensors")
    return region, outputs


@handles("higher_order.cond")
def cond(c: Context, **args: Any) -> tuple[Value, ...]:
    """torch.cond(predicate, true branch, false branch, operands)."""
    predicate, then, other, operands = _positional(args, 4)
    if not isinstance(predicate, Value):
        raise Unsupported("a condition on sizes")
    values = _values(operands)
    regions = []
    for graph in (then, other):
        region, outputs = _region(c, _subgraph(graph), values)
        region.set_outputs(outputs)
        regions.append(region)
    flag = c.cast(c.b.reshape(predicate, c.ints(())), BOOL)
    return c.b.call("if", (flag, *values), regions=regions).results


@handles("higher_order.while_loop")
def while_loop(c: Context, **args: Any) -> tuple[Value, ...]:
    """torch's while_loop(condition, body, carried, captures): the condition is evaluated before each iteration."""
    test, body, carried, captures = _positional(args, 4)
    values = (*_values(carried), *_values(captures))
    first = _inner(c, _subgraph(test), c.b.graph, c.symbols, values)
    lead = (TensorType(I64, ()), TensorType(BOOL, ()))
    region, outputs = _region(c, _subgraph(body), values, lead)
    symbols = Symbols(c.symbols.names)
    for value in outputs:
        symbols.learn(value)
    again = _inner(c, _subgraph(test), region, symbols, (*outputs, *region.inputs[2 + len(outputs) :]))
    region.set_outputs([_flag(again), *outputs])
    return c.b.call("loop", (None, _flag(first), *values), {"carried": len(outputs)}, [region]).results


def _flag(outputs: list[Any]) -> Value:
    if len(outputs) != 1 or not isinstance(outputs[0], Value) or outputs[0].dtype is not BOOL or outputs[0].rank != 0:
        raise Unsupported("a loop condition that is no scalar bool")
    return outputs[0]


@handles("higher_order.wrap_with_set_grad_enabled")
def set_grad_enabled(c: Context, **args: Any) -> Any:
    """Gradients do not matter here: the subgraph is part of this graph."""
    _, graph, *operands = _positional(args, None)
    return tuple(_inner(c, _subgraph(graph), c.b.graph, c.symbols, tuple(operands)))


@handles("higher_order.wrap_with_autocast")
def autocast(c: Context, **args: Any) -> Any:
    """Disabled autocast changes nothing; enabled, it would change dtypes behind the graph's back."""
    if len(args) < 5:
        raise InvalidModel("autocast without a subgraph")
    _, _, enabled, _, graph, *operands = _positional(args, None)
    if enabled:
        raise Unsupported("autocast", hint="export without autocast, or in the dtypes that you want")
    return tuple(_inner(c, _subgraph(graph), c.b.graph, c.symbols, tuple(operands)))


def _positional(args: dict[str, Any], count: int | None) -> tuple[Any, ...]:
    if (
        list(args) != [str(i) for i in range(len(args))]
        or len(args) != (count if count is not None else len(args))
        or len(args) < 2
    ):
        raise InvalidModel(f"unexpected arguments {list(args)}")
    return tuple(args.values())
