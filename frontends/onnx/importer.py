"""Walks the checked records of a model and lowers each node by its handler. No file access, no operator knowledge here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...formats.onnx import dtypes, external, notes, schemas, tensors, views
from ...formats.onnx.types import Dims, type_of
from ...ir.builder import Builder
from ...ir.errors import AnyIRError, InternalError, InvalidModel, Unsupported, clean
from ...ir.graph import Graph, Module, Value
from ...ir.loc import Loc
from ...ir.types import DType, TensorType, Type, refines
from . import functions, registry

if TYPE_CHECKING:
    from onnx import TensorProto

    from ...ir.tensor import Tensor


@dataclass(slots=True)
class Scope:
    """Names of one graph (or inlined function) and where they lead. `lazy` initializers become weights when first used."""

    values: dict[str, Value] = field(default_factory=dict)
    lazy: dict[str, Any] = field(default_factory=dict)
    outer: Scope | None = None
    bindings: dict[str, object] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)
    path: str = ""
    graph: views.Graph | None = None
    _infos: dict[str, Any] | None = None

    def child(self, graph: views.Graph) -> Scope:
        """The scope of a subgraph: it sees this one."""
        lazy = {**graph.initializers, **graph.sparse}
        return Scope(lazy=lazy, outer=self, bindings=self.bindings, opsets=self.opsets, path=self.path, graph=graph)

    def declared(self, name: str) -> Any:
        """The ValueInfoProto of a value of this graph or of one around it; None when there is none."""
        at: Scope | None = self
        while at is not None:
            if at._infos is None:
                proto: Any = None if at.graph is None else at.graph.proto
                outputs = getattr(proto, "output", ()) if hasattr(proto, "initializer") else ()
                at._infos = {info.name: info for info in (*getattr(proto, "value_info", ()), *outputs)}
            if name in at._infos:
                return at._infos[name]
            at = at.outer
        return None


@dataclass(slots=True)
class Call:
    """One operator call as a handler sees it: operands as values, attributes with the schema's defaults filled in."""

    node: views.Node
    inputs: tuple[Value | None, ...]
    opset: int
    attrs: dict[str, Any]
    scope: Scope

    @property
    def op_type(self) -> str:
        return self.node.op_type

    @property
    def label(self) -> str:
        return self.node.label

    def take(self, count: int) -> tuple[Any, ...]:
        """The first `count` operands, None for those that are absent."""
        return (*self.inputs[:count], *([None] * (count - len(self.inputs))))

    @property
    def x(self) -> Value:
        """The first operand."""
        return self.inputs[0]  # type: ignore[return-value]

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute, else the schema's default, else `default`."""
        return self.attrs.get(name, default)

    def wants(self, index: int) -> bool:
        """Output `index` is used by name."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index])

    def refuse(self, reason: str, hint: str = "") -> Unsupported:
        return Unsupported(reason, where=self.label, hint=hint)

    def invalid(self, reason: str, hint: str = "") -> InvalidModel:
        return InvalidModel(reason, where=self.label, hint=hint)


class Importer:
    """Lowers one model into one module. `b` is the builder at the place where nodes go now."""

    def __init__(self, model: views.Model, path: Path | None, module: Module, *, keep_functions: bool) -> None:
        self.model = model
        self.path = path
        self.keep_functions = keep_functions
        self.dims = Dims(model.proto.graph.input)
        self.module = module
        self.b: Builder = None  # type: ignore[assignment]
        self.depth = 0
        self.derived = 0
        self._regions = 0
        self._salt = 0
        self._stored: dict[int, tuple[Any, Value]] = {}

    # What handlers use.

    def tensor(self, proto: TensorProto, where: str) -> Tensor:
        """The tensor of a proto, its external data mapped."""
        made, mapped = tensors.read(proto, self.path, where)
        if mapped is not None and mapped not in self.module.files:
            external.check_header(self.model.proto, mapped, where)
            self.module.files.append(mapped)
        return made

    def weight(self, name: str, tensor: Tensor) -> Value:
        """A weight of the module; ONNX does not say what is trained, so floats of rank 1 and more count as parameters."""
        role = "param" if tensor.dtype.is_float and tuple(tensor.shape) else "const"
        return self.module.add_weight(name, tensor, role)

    def stored(self, name: str, proto: Any, tensor: Tensor) -> Value:
        """The weight of a tensor that is an attribute: one, however often the function or body around it is lowered."""
        found = self._stored.get(id(proto))
        if found is None:
            found = self._stored[id(proto)] = proto, self.weight(name, tensor)  # held, or its id could come again
        return found[1]

    def const(self, value: Any) -> Value:
        """A literal."""
        return self.b.const(value)

    def scalar(self, number: float, like: Value) -> Value:
        """A number in the dtype of `like`. Raises Unsupported when that is not known."""
        return self.b.const(np.asarray(number, known_dtype(like).numpy))

    def declared(self, name: str, scope: Scope) -> Type | None:
        """What the file says of a value's type: looked at only where nothing can be inferred."""
        info = scope.declared(name) if name else None
        return None if info is None else type_of(info.type, self.dims.apart(name), f"'{clean(name)}'")

    def next_salt(self) -> int:
        """A number for each random node."""
        self._salt += 1
        return self._salt

    def note(self, n: Call, message: str) -> None:
        """A remark for the user that changes nothing."""
        self.module.diagnostics.append(f"{n.label}: {message}")

    def region(
        self, graph: views.Graph, scope: Scope, types: Sequence[Type], captured: Sequence[str]
    ) -> tuple[Graph, list[Value]]:
        """A closed region made from a subgraph, and its outputs, which the caller sets: inputs get `types`, then comes
        one input for each captured name."""
        region = self.module.new_region(clean(graph.name))
        given = {name: region.add_input(t, clean(name)) for name, t in zip(graph.inputs, types, strict=True)}
        return region, self.fill(region, graph, scope, given, captured)

    def fill(
        self, region: Graph, graph: views.Graph, scope: Scope, given: dict[str, Value], captured: Sequence[str]
    ) -> list[Value]:
        """Lower a subgraph into `region`, its inputs `given`; captured names become further inputs. Returns its outputs."""
        inner = scope.child(graph)
        inner.values.update(given)
        for name in captured:
            outer = self.lookup(name, scope)
            inner.values[name] = region.add_input(outer.type, clean(name))
            inner.values[name].refine(outer.type, outer.elems)  # a capture has the same elements in every iteration
        saved, self.b = self.b, Builder(region)
        self._regions += 1
        try:
            self._nodes(graph, inner)
            return [self.lookup(name, inner) for name in graph.outputs]
        finally:
            self.b = saved
            self._regions -= 1

    def inline(self, graph: views.Graph, scope: Scope) -> list[Value]:
        """Lower a subgraph without inputs in place, as part of the graph around it."""
        inner = scope.child(graph)
        loc = self.b.loc
        self._nodes(graph, inner)
        self.b.at(loc)
        return [self.lookup(name, inner) for name in graph.outputs]

    def depth_of_regions(self) -> int:
        """How many subgraphs the walk is inside of now."""
        return self._regions

    def captures(self, graphs: Sequence[views.Graph], scope: Scope) -> list[str]:
        """Names that the subgraphs take from outside and that are computed there (constants need no capture)."""
        names = dict.fromkeys(name for graph in graphs for name in graph.captures)
        return [name for name in names if not self.lookup(name, scope).is_const]

    def lookup(self, name: str, scope: Scope) -> Value:
        """The value called `name`, in this scope or an outer one."""
        at: Scope | None = scope
        while at is not None:
            found = at.values.get(name)
            if found is not None:
                return found
            if name in at.lazy:
                found = at.values[name] = self.initializer(name, at.lazy[name])
                return found
            at = at.outer
        raise InternalError(f"ONNX value '{clean(name)}' was not lowered")

    # The walk.

    def run(self, inputs: dict[str, Value], scope: Scope) -> list[Value]:
        """Lower the main graph; returns its outputs. All operators that cannot be lowered are named in one error."""
        graph = self.model.graph
        scope.values.update(inputs)
        scope.graph, scope.lazy = graph, {**graph.initializers, **graph.sparse}
        self._precheck()
        used = dict.fromkeys((*(n for node in graph.nodes for n in (*node.inputs, *node.captures)), *graph.outputs))
        for name in scope.lazy:
            if name in used and name not in inputs:  # before any literal can take the name
                self.lookup(name, scope)
        self._nodes(graph, scope)
        return [self.lookup(name, scope) for name in graph.outputs]

    def _precheck(self) -> None:
        """Refuse before any work is done when an operator has neither a handler nor a body."""
        refused: dict[str, None] = {}
        pending = [(self.model.graph, self.model.opsets)]
        pending += [(f.body, f.opsets) for f in self.model.functions.values()]
        for graph, opsets in pending:
            for node in graph.nodes:
                pending.extend((inner, opsets) for inner in node.graphs())
                if node.schema is None or node.schema.has_body:
                    continue
                if registry.handler(node.domain, node.op_type, opsets[node.domain]) is None:
                    refused.setdefault(f"{node.schema.label} (first at {node.label})")
        if refused:
            raise Unsupported(
                f"ONNX operators that cannot be read: {', '.join(list(refused)[:20])}",
                hint="`irc ops` lists what can",
            )

    def _nodes(self, graph: views.Graph, scope: Scope) -> None:
        for node in graph.nodes:
            self._node(node, scope)

    def _node(self, node: views.Node, scope: Scope) -> None:
        known = scope.values
        operands = tuple([known.get(name) or self.lookup(name, scope) if name else None for name in node.inputs])
        place = f"{scope.path}{node.name}" if node.name else scope.path.rstrip("/")
        self.b.at(Loc("onnx", place, notes=_notes(node)))
        try:
            made = self._lower(node, operands, scope)
        except AnyIRError as error:
            if not error.where.startswith(node.label):
                error.at(node.label)
            raise
        results = made if isinstance(made, (tuple, list)) else (made,)
        for name, value in zip(node.outputs, results, strict=False):
            if not name:
                continue
            if value is None:
                raise Unsupported(f"output '{clean(name)}' of {node.op_type} is not computed", where=node.label)
            scope.values[name] = value
            if value.dtype is None and isinstance(value.type, TensorType):
                self._take_declared(value, name, scope)
            if not value.is_const and value.node is not None and not value.hint:
                value.hint = name
        missing = [name for name in node.outputs[len(results) :] if name]
        if missing:
            raise Unsupported(f"output '{clean(missing[0])}' of {node.op_type} is not computed", where=node.label)

    def _take_declared(self, value: Value, name: str, scope: Scope) -> None:
        """Of a value of which inference knows nothing (an operator of an unknown domain made it), the declaration counts."""
        declared = self.declared(name, scope)
        if isinstance(declared, TensorType) and refines(declared, value.type):
            value.refine(declared)

    def _lower(self, node: views.Node, operands: tuple[Value | None, ...], scope: Scope) -> Any:
        function = self.model.functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            return self._call(function, node, operands, scope)
        opset = scope.opsets.get(node.domain, 1)
        call = Call(node, operands, opset, self._attributes(node, scope), scope)
        found = registry.handler(node.domain, node.op_type, opset)
        if found is not None:
            return found(self, call) if node.domain in schemas.KNOWN_DOMAINS else self._lower_vendor(found, call)
        if node.schema is None:
            return self._opaque(call)
        return self.expand(call)

    def _lower_vendor(self, handler: registry.Handler, call: Call) -> Any:
        """An operator that is no standard one: in a form that has no lowering it is carried through like an unknown one."""
        graph = self.b.graph
        before = next(iter(graph.reversed()), None)
        try:
            return handler(self, call)
        except Unsupported as error:
            for node in graph.reversed():
                if node is before:
                    break
                node.erase()
            self.note(call, f"{call.op_type} is carried through as it is: {error.message}")
            given = {name: call.attrs[name] for name in call.node.attrs if name in call.attrs}
            return self._opaque(replace(call, attrs=given))

    def _attributes(self, node: views.Node, scope: Scope) -> dict[str, Any]:
        attrs = dict(node.schema.defaults) if node.schema else {}
        if len(node.codes) == len(node.attrs):  # no attribute is taken from a function's caller
            attrs.update(node.attrs)
            return attrs
        for name, value in node.attrs.items():
            if isinstance(value, views.Ref):
                value = scope.bindings.get(value.name)
            if value is not None:
                attrs[name] = value
        for name in node.schema.required if node.schema else ():
            if name not in attrs:
                raise InvalidModel(f"required attribute '{name}' has no value in this call", where=node.label)
        return attrs

    def _call(self, function: views.Function, node: views.Node, operands: tuple, scope: Scope) -> list[Value | None]:
        """A function's body in place of the call: formal names lead to the caller's values. With `keep_functions` the
        body of a local function stays one."""
        if len(operands) > len(function.body.inputs) or len(node.outputs) > len(function.body.outputs):
            raise InvalidModel("more inputs or outputs than the function has", where=node.label)
        given = self._attributes(node, scope)
        bindings = {name: given.get(name, default) for name, default in function.attributes.items()}
        functions.check_graphs(bindings, node.label)
        path = f"{scope.path}{node.name or node.op_type}/"
        inner = Scope(bindings=bindings, opsets=function.opsets, path=path, graph=function.body)
        if self.keep_functions and functions.can_stay(function, self.model):
            made = functions.call(self, function, operands, replace(inner, path="", values={}))
            if made is not None:
                return made
        for name, value in zip(function.body.inputs, operands, strict=False):
            if value is not None:
                inner.values[name] = value
        absent = set(function.body.inputs) - set(inner.values)
        return self.lower_body(function.body, inner, absent)

    def lower_body(self, body: views.Graph, scope: Scope, absent: set[str]) -> list[Value | None]:
        """Lower a function body; formal inputs that the call leaves out stay out in the body's calls."""
        loc = self.b.loc
        for node in body.nodes:
            if absent & set(node.inputs):
                node = views.without_inputs(node, absent)
            self._node(node, scope)
        self.b.at(loc)
        return [None if not name or name in absent else self.lookup(name, scope) for name in body.outputs]

    def expand(self, call: Call) -> list[Value | None]:
        """An operator without a handler by the function body that its schema carries."""
        from . import bodies

        function = bodies.body(call)
        if function is None:
            raise Unsupported(f"{call.node.schema.label} cannot be read in this form", where=call.label)  # type: ignore[union-attr]
        self.depth += 1
        try:
            if self.depth > 8:
                raise InternalError(f"the schema bodies of {call.op_type} do not come to an end")
            return self._call(function, call.node, call.inputs, Scope(bindings={}, opsets={}, path=call.scope.path))
        finally:
            self.depth -= 1

    def _opaque(self, call: Call) -> Any:
        """An operator of a domain that we don't know, carried through untouched."""
        from . import opaque

        return opaque.lower(self, call)

    def initializer(self, name: str, proto: Any) -> Value:
        """The weight of an initializer, dense or sparse."""
        where = f"initializer '{clean(name)}'"
        if hasattr(proto, "indices"):
            tensor: Any = tensors.densify(proto, self.path, where)
        else:
            tensor = self.tensor(proto, where)
        return self.weight(name, tensor)


def _notes(node: views.Node) -> notes.Pairs:
    """What the file says beside a node; nearly always nothing."""
    proto = node.proto
    graphs = (
        [(name, value) for name, value in node.attrs.items() if isinstance(value, views.Graph)] if node.attrs else ()
    )
    if proto.doc_string or proto.metadata_props or proto.device_configurations or graphs:
        return notes.of_node(proto, [(name, graph.proto) for name, graph in graphs])  # type: ignore[misc]
    return ()


def static_int(value: Value | None, n: Call, what: str) -> int:
    """The single known integer of a value, for what the IR has as an attribute."""
    known = None if value is None else value.ints()
    if known is None or len(known) != 1:
        raise n.refuse(f"{what} must be a known constant")
    return known[0]


def known_dtype(value: Value) -> DType:
    """The dtype, where a lowering depends on it. Raises Unsupported when it is not known."""
    if value.dtype is None:
        raise Unsupported(f"the dtype of '{clean(value.hint)}' is not known")
    return value.dtype


def rank_of(value: Value, n: Call) -> int:
    """The rank, where a lowering depends on it."""
    if value.rank is None:
        raise n.refuse(f"the rank of '{clean(value.hint)}' is not known")
    return value.rank


def check_declared(value: Value, proto: Any, module: Module) -> None:
    """Compare what the file declares of a value with what inference found; a contradiction is a note, never acted on."""
    if _agrees(proto.type, value.type):
        return
    declared, found = type_of(proto.type, None, clean(proto.name)), value.type
    if not isinstance(declared, TensorType) or not isinstance(found, TensorType):
        return
    clash = declared.dtype is not None and found.dtype is not None and declared.dtype is not found.dtype
    if declared.shape is not None and found.shape is not None:
        clash = clash or len(declared.shape) != len(found.shape)
        pairs = zip(declared.shape, found.shape, strict=False)
        clash = clash or any(type(d) is int and type(f) is int and d != f for d, f in pairs)
    if clash:
        module.diagnostics.append(
            f"'{clean(proto.name)}' is declared as {declared}, but it is {found}; the declaration is ignored"
        )


def _agrees(declared: Any, found: Type) -> bool:
    """The declaration surely says nothing but what was found: most do, and need not be read as types."""
    if not isinstance(found, TensorType) or not declared.HasField("tensor_type"):
        return False
    tensor = declared.tensor_type
    if dtypes.FROM_CODE.get(tensor.elem_type) is not found.dtype or found.shape is None or not tensor.HasField("shape"):
        return False
    dims = tensor.shape.dim
    return len(dims) == len(found.shape) and all(
        type(f) is not int or d.dim_value == f or not d.HasField("dim_value")
        for d, f in zip(dims, found.shape, strict=True)
    )


__all__ = ["Call", "Importer", "Scope", "check_declared", "known_dtype", "rank_of", "static_int"]
