"""From the record of a file to a module: names, constants, tuples, functions; one handler per primitive.

Nodes must come in order, names must be unique, arguments are counted before a handler sees them. Nothing here recurses
on the input: control flow nests as deep as functions call each other, which is bounded. Must not import MindSpore.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ...formats import mindir
from ...ir.builder import Builder
from ...ir.dims import parse_dim
from ...ir.errors import AnyIRError, InvalidModel, Unsupported, clean
from ...ir.expr import Expr
from ...ir.graph import Graph, Module
from ...ir.loc import Loc
from ...ir.provenance import take
from ...ir.storage import check_limit, limit
from ...ir.types import TensorType
from ...ir.value import Value
from .registry import Call, load

_REF = "REF::"


def read_model(path: str | os.PathLike) -> Module:
    """The module of a file; see the package."""
    model = mindir.read(path)
    record = model.record
    if record.mind_ir_version not in mindir.MODERN_VERSIONS:
        raise Unsupported(
            f"mind_ir_version {record.mind_ir_version} keeps arguments as attributes, which is not read",
            hint="export again with MindSpore 2.7 or later",
        )
    module = Module("mindir")
    module.metadata["producer"] = clean(record.producer_name)
    take(module, {entry.key: entry.value for entry in record.user_info})
    reader = Reader(model, module)
    graph = reader.main()
    names = [mindir.short_name(slot.name) for slot in record.graph.input]
    outputs = [mindir.short_name(slot.name) for slot in record.graph.output]
    module.add_signature("serving_default", graph, names, outputs)
    module.drop_unused_weights()
    return module


class Reader:
    """The tables of one file, and the module that is made of it."""

    def __init__(self, model: mindir.MindirModel, module: Module) -> None:
        self.model = model
        self.record = model.record
        self.module = module
        self.handlers = load()
        self.primitives = _unique(self.record.primitives, "primitive")
        self.functions = _unique(self.record.functions, "function")
        self.parameters: dict[str, Value] = {}
        count = len(self.record.graph.node) + sum(len(f.node) for f in self.record.functions)
        check_limit("items", count + len(self.record.graph.parameter), "nodes and parameters")

    def main(self) -> Graph:
        record = self.record.graph
        self._refuse_unknown()
        graph = self.module.add_graph("main")
        for parameter in record.parameter:
            tensor = self.model.tensor(parameter)
            name = _name(parameter.name, self.parameters, "parameter")
            self.parameters[name] = self.module.add_weight(mindir.short_name(name), tensor)
        body = Body(self, graph, 0)
        body.inputs(record.input)
        body.nodes(record.node)
        graph.set_outputs(body.outputs(record.output))
        return graph

    def _refuse_unknown(self) -> None:
        """All primitives that no handler reads, in one message."""
        known = {*self.handlers, "TupleGetItem", "Partial", "Switch"}
        unknown = sorted({p.op_type for p in self.record.primitives if p.op_type not in known})
        if unknown:
            shown = ", ".join(clean(name) for name in unknown[:20])
            raise Unsupported(f"primitives that are not read: {shown}", code="U031")


def _unique(records: Iterable[Any], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records:
        found[_name(record.name, found, what)] = record
    return found


def _name(name: str, known: dict[str, Any], what: str) -> str:
    check_limit("name_bytes", len(name), f"name of a {what}")
    if not name or name in known:
        raise InvalidModel(f"{what} {clean(name)!r} {'comes twice' if name else 'has no name'}")
    return name


class Body:
    """One graph that is being read: every name with what it stands for."""

    def __init__(self, reader: Reader, graph: Graph, depth: int) -> None:
        check_limit("nesting", depth, "functions within functions")
        self.reader = reader
        self.graph = graph
        self.depth = depth
        self.builder = Builder(graph)
        self.known: dict[str, Any] = {}

    def inputs(self, records: Iterable[Any]) -> None:
        for record in records:
            name = _name(record.name, self.known, "input")
            self.known[name] = self.graph.add_input(_input_type(record), hint=mindir.short_name(name))

    def nodes(self, records: Iterable[Any]) -> None:
        for record in records:
            self.node(record)

    def outputs(self, records: Iterable[Any]) -> list[Value]:
        made = []
        for record in records:
            value = self.look(record.name)
            if not isinstance(value, Value):
                raise InvalidModel(f"output {clean(record.name)!r} is no tensor")
            made.append(value)
        return made

    def look(self, name: str) -> Any:
        """What a name stands for: made before, or a parameter."""
        if name in self.known:
            return self.known[name]
        if name in self.reader.parameters:
            return self.reader.parameters[name]
        if name in self.reader.functions:
            return Function(name)
        raise InvalidModel(f"{clean(name)!r} is used before it is made")

    def node(self, record: Any) -> None:
        name = record.output[0] if record.output else ""
        where = f"node {clean(name)!r}"
        _name(name, self.known, "node")
        if name in self.reader.parameters:
            raise InvalidModel(f"{where} has the name of a parameter")
        try:
            self.known[name] = self._value(record, where)
        except AnyIRError as error:
            raise error if error.where.startswith("node ") else error.at(where) from None

    def _value(self, record: Any, where: str) -> Any:
        if record.op_type == "Constant":
            return _constant(record, where)
        target = record.op_type.removeprefix(_REF)
        arguments = [self.look(name) for name in record.input]
        if target in self.reader.primitives:
            primitive = self.reader.primitives[target]
            attrs = {a.name: mindir.decode_value(a, where) for a in primitive.attribute}
            return self._call(primitive.op_type, arguments, attrs, record, where)
        if target in self.known or target in self.reader.functions:
            from .control import call_function

            return call_function(self, target, arguments, where)
        raise InvalidModel(f"no primitive or function is called {clean(target)!r}", where=where)

    def _call(self, primitive: str, arguments: list[Any], attrs: dict[str, Any], record: Any, where: str) -> Any:
        if primitive == "TupleGetItem":
            return _element(arguments, where)
        if primitive in ("Partial", "Switch"):
            from .control import closure

            return closure(primitive, arguments, where)
        entry = self.reader.handlers[primitive]
        if entry.arity is not None and entry.arity != len(arguments):
            raise InvalidModel(f"{primitive} has {len(arguments)} arguments, it takes {entry.arity}", where=where)
        self.builder.at(Loc("mindir", mindir.short_name(record.output[0])[: limit("nesting")]))
        made = entry.handler(self.builder, Call(self.builder, primitive, arguments, attrs, where))
        if isinstance(made, Value) and not made.is_const and not made.hint:
            made.hint = mindir.short_name(record.output[0])
        return made


class Function:
    """A function that is named as an argument."""

    def __init__(self, name: str) -> None:
        self.name = name


def _constant(record: Any, where: str) -> Any:
    if record.input or len(record.attribute) != 1 or record.attribute[0].name != "value":
        raise InvalidModel("a constant has one attribute, its value", where=where)
    return mindir.decode_value(record.attribute[0], where)


def _element(arguments: list[Any], where: str) -> Any:
    if len(arguments) != 2 or not isinstance(arguments[0], (tuple, list)) or type(arguments[1]) is not int:
        raise InvalidModel("TupleGetItem takes a tuple and a number", where=where)
    items, index = arguments
    if not 0 <= index < len(items):
        raise InvalidModel(f"element {index} of a tuple of {len(items)}", where=where)
    return items[index]


def _input_type(record: Any) -> TensorType:
    """The declared type; where a dim is -1, the symbol in the comment if it fits, else a fresh one."""
    where = f"input {clean(record.name)!r}"
    if len(record.tensor) != 1:
        raise InvalidModel("an input has one type", where=where)
    tensor = record.tensor[0]
    kind = mindir.dtype_of_code(tensor.data_type, where)
    dims = [int(d) for d in tensor.dims]
    if dims == [-2]:
        return TensorType(kind, None)
    check_limit("rank", len(dims), "rank", where)
    if any(d < -1 for d in dims):
        raise InvalidModel(f"dims {dims}", where=where)
    noted = _noted_dims(record.doc_string, f"{kind.name}[", len(dims))
    made = [
        d if d >= 0 else noted[i] if noted and isinstance(noted[i], Expr) else Expr.fresh() for i, d in enumerate(dims)
    ]
    return TensorType(kind, tuple(made))


def _noted_dims(text: str, head: str, rank: int) -> list[Any] | None:
    """The dims of a type's text such as `f32[N, 3, 8]`; None when it is anything else."""
    if not text.startswith(head) or not text.endswith("]") or len(text) > 4096:
        return None
    parts = text[len(head) : -1].split(", ")
    if len(parts) != rank:
        return None
    try:
        return [parse_dim(part) for part in parts]
    except AnyIRError:
        return None
