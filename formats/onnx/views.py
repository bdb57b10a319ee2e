"""A model file as plain Python records, every structural rule checked on the way (no type or shape inference here).

`view(proto)` walks all graphs with an explicit stack and returns nodes in an order where definitions come before uses,
subgraph captures resolved. What it refuses: unknown versions, undeclared domains, names defined twice or never, cycles,
wrong arity, attributes of the wrong type. The rules: onnx/docs/IR.md and the operators' schemas.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...ir.errors import InvalidModel, Unsupported, clean
from ...ir.storage import check_limit, limit
from . import schemas
from .container import text
from .schemas import Schema

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto


@dataclass(frozen=True, slots=True)
class Ref:
    """An attribute value that a function takes from its caller."""

    name: str


@dataclass(slots=True, eq=False)
class Node:
    """One operator call. `attrs` hold Python numbers, strings, tuples of them, protos of tensors and types, and `Graph`s;
    `codes` are their AttributeProto types (none for a `Ref`), `inner` the graphs among them."""

    op_type: str
    domain: str
    overload: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any]
    proto: NodeProto
    schema: Schema | None = None
    captures: tuple[str, ...] = ()
    codes: dict[str, int] = field(default_factory=dict)
    inner: tuple[Graph, ...] = ()

    @property
    def label(self) -> str:
        """For messages: what it is and how the file calls it."""
        named = self.name or next((o for o in self.outputs if o), "")
        return f"{self.op_type} node '{clean(named)}'"

    def graphs(self) -> Iterator[Graph]:
        return iter(self.inner)


@dataclass(slots=True, eq=False)
class Graph:
    """One graph or function body. `captures`: names of outer scopes that it uses, in order of first use."""

    name: str
    nodes: list[Node]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: dict[str, TensorProto]
    sparse: dict[str, Any]
    proto: GraphProto | FunctionProto
    captures: tuple[str, ...] = ()
    parent: tuple[Graph, int] | None = None
    depth: int = 0
    defined: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Function:
    """A local function: `attributes` maps each formal attribute to its default or None."""

    key: tuple[str, str, str]
    body: Graph
    attributes: dict[str, object]
    opsets: dict[str, int]


@dataclass(slots=True, eq=False)
class Model:
    proto: ModelProto
    graph: Graph
    opsets: dict[str, int]
    functions: dict[tuple[str, str, str], Function]


def view(proto: ModelProto) -> Model:
    """The checked records of a model. Raises InvalidModel, Unsupported (operators nobody knows) and LimitExceeded."""
    _check_header(proto)
    opsets = read_opsets(proto.opset_import, "opset_import")
    if proto.ir_version < 3:  # before opset_import there was one version of each operator
        opsets.setdefault(schemas.DEFAULT_DOMAIN, 1)
    budget = _Budget()
    functions: dict[tuple[str, str, str], Function] = {}
    for f in proto.functions:
        made = function_view(f, opsets, budget)
        if made.key in functions:
            raise InvalidModel(f"function {clean('::'.join(made.key[:2]))} is defined twice")
        functions[made.key] = made
    graph = _build(proto.graph, budget, in_function=False)
    model = Model(proto, graph, opsets, functions)
    _resolve_all(graph, opsets, functions)
    for f in functions.values():
        _resolve_all(f.body, f.opsets, functions)
    _check_calls(model)
    return model


def function_view(proto: FunctionProto, opsets: dict[str, int], budget: _Budget | None = None) -> Function:
    """A function's records; its own opset imports win over the model's."""
    own = {**opsets, **read_opsets(proto.opset_import, f"function {clean(proto.name)}")}
    body = _build(proto, budget or _Budget(), in_function=True)
    attributes: dict[str, object] = dict.fromkeys(text(name) for name in proto.attribute)
    for a in proto.attribute_proto:
        attributes[text(a.name)] = _attribute(a, attribute_type(a), None, proto.name)
    key = (schemas.domain_of(text(proto.domain)), text(proto.name), text(proto.overload))
    return Function(key, body, attributes, own)


def without_inputs(node: Node, absent: set[str]) -> Node:
    """The node as it is when the formal inputs `absent` of its function are not given."""
    made = replace(node, inputs=tuple("" if name in absent else name for name in node.inputs))
    for formal, name in zip(made.schema.inputs if made.schema else (), made.inputs, strict=False):
        if not name and not (formal.optional or formal.variadic):
            raise InvalidModel(f"input {formal.name} is missing", where=node.label)
    return made


def resolve(function: Function, functions: dict) -> None:
    """Give each node of a function made elsewhere (a schema's body) its schema."""
    _resolve_all(function.body, function.opsets, functions)


def read_opsets(imports: Iterable, where: str) -> dict[str, int]:
    """Domain -> version. A known domain's version must be one that the installed onnx knows."""
    found: dict[str, int] = {}
    for item in imports:
        domain = schemas.domain_of(text(item.domain, where))
        if domain in found and found[domain] != item.version:
            raise InvalidModel(
                f"domain '{clean(domain)}' is imported twice, as {found[domain]} and {item.version}", where=where
            )
        newest = schemas.newest(domain) if domain in schemas.KNOWN_DOMAINS else None
        if item.version < (0 if newest is None else 1) or (newest and item.version > newest):
            raise Unsupported(
                f"opset {item.version} of domain '{clean(domain) or 'ai.onnx'}' is not known (1 to {newest or 'any'})",
                where=where,
                hint="install a newer onnx package" if item.version > 0 else "",
            )
        found[domain] = item.version
    return found


class _Budget:
    """Counts nodes, values and initializers of all graphs together."""

    def __init__(self) -> None:
        self.items = 0
        self.limit = limit("items")

    def take(self, count: int) -> None:
        self.items += count
        if self.items > self.limit:
            check_limit("items", self.items, "nodes, values and initializers in all")


def _check_header(proto: ModelProto) -> None:
    import onnx

    if not proto.HasField("graph"):
        raise InvalidModel("the model has no graph")
    if not 1 <= proto.ir_version <= onnx.IR_VERSION:
        hint = "install a newer onnx package" if proto.ir_version > onnx.IR_VERSION else ""
        raise InvalidModel(f"ir_version {proto.ir_version} is not known (1 to {onnx.IR_VERSION})", hint=hint)
    if not proto.opset_import and proto.ir_version >= 3:
        raise InvalidModel("no opset_import: the operators' versions are not stated")
    if not proto.graph.name:
        raise InvalidModel("the graph has no name")


def _build(root: GraphProto | FunctionProto, budget: _Budget, *, in_function: bool) -> Graph:
    """Records of a graph and all graphs inside it, scopes checked, nodes in dependency order."""
    top = _graph_record(root, None, 0, budget)
    everything = [top]
    for graph in everything:  # grows while it is walked: parents first
        for item in root.node if graph is top else graph.proto.node:
            graph.nodes.append(_node_record(item, graph, everything, budget, in_function))
    for graph in reversed(everything):
        graph.captures = _captures(graph)
    if top.captures:
        raise _dangling(top)
    for graph in everything:
        _order(graph)
        _check_scope(graph)
    return top


def _graph_record(proto: Any, parent: Graph | None, depth: int, budget: _Budget) -> Graph:
    is_function = not hasattr(proto, "initializer")
    inputs, outputs = (
        tuple(text(v if is_function else v.name, "an interface") for v in slots)
        for slots in (proto.input, proto.output)
    )
    if not is_function and "" in (*inputs, *outputs):
        raise InvalidModel("an input or output has no name", where=f"graph '{clean(proto.name)}'")
    dense = () if is_function else proto.initializer
    sparse = () if is_function else proto.sparse_initializer
    budget.take(len(proto.node) + len(inputs) + len(outputs) + len(dense) + len(sparse))
    graph = Graph(text(proto.name, "a graph"), [], inputs, outputs, {}, {}, proto, depth=depth)
    check_limit("nesting", depth, "nesting of subgraphs", f"graph '{clean(proto.name)}'")
    for name, tensor, table in [(i.name, i, graph.initializers) for i in dense] + [
        (i.values.name, i, graph.sparse) for i in sparse
    ]:
        if not text(name, "an initializer"):
            raise InvalidModel("an initializer has no name", where=f"graph '{clean(proto.name)}'")
        if name in graph.initializers or name in graph.sparse:
            raise InvalidModel(f"initializer '{clean(name)}' is defined twice", where=f"graph '{clean(proto.name)}'")
        table[name] = tensor
    return graph


def _node_record(p: NodeProto, graph: Graph, everything: list[Graph], budget: _Budget, in_function: bool) -> Node:
    inputs, outputs = tuple(p.input), tuple(p.output)
    op_type, name = p.op_type, p.name
    node = Node(op_type, schemas.domain_of(p.domain), p.overload, name, inputs, outputs, {}, p)
    for item in (op_type, node.domain, node.overload, name, *inputs, *outputs):
        if type(item) is not str:
            text(item, f"a node of graph '{clean(graph.name)}'")
    budget.take(len(outputs))
    if p.attribute:
        _attributes(node, graph, budget, in_function)
        everything.extend(node.inner)
    return node


def _attributes(node: Node, graph: Graph, budget: _Budget, in_function: bool) -> None:
    """Fill the node's attributes, their codes, and the graphs among them."""
    subgraphs: list[Graph] = []

    def child(proto: GraphProto) -> Graph:
        made = _graph_record(proto, graph, graph.depth + 1, budget)
        made.parent = (graph, len(graph.nodes))
        subgraphs.append(made)
        return made

    for a in node.proto.attribute:
        name = a.name
        if type(name) is not str:
            text(name, node.label)
        if name in node.attrs:
            raise InvalidModel(f"attribute '{clean(name)}' is given twice", where=node.label)
        if a.ref_attr_name:
            if not in_function:
                raise InvalidModel(f"attribute '{clean(name)}' refers to a function's attribute", where=node.label)
            node.attrs[name] = Ref(text(a.ref_attr_name, node.label))
            continue
        node.codes[name] = attribute_type(a)
        node.attrs[name] = _attribute(a, node.codes[name], child, node)
    node.inner = tuple(subgraphs)


# AttributeProto.AttributeType -> the field that holds the value
_ATTRIBUTE_FIELDS = {
    1: "f",
    2: "i",
    3: "s",
    4: "t",
    5: "g",
    11: "sparse_tensor",
    13: "tp",
    6: "floats",
    7: "ints",
    8: "strings",
    9: "tensors",
    10: "graphs",
    12: "sparse_tensors",
    14: "type_protos",
}
_OF_FIELD = {field: code for code, field in _ATTRIBUTE_FIELDS.items()}


def attribute_type(a: AttributeProto) -> int:
    """The attribute's type code; files of IR version 1 do not state it, so the one field that is set tells."""
    if a.type:
        return a.type
    set_fields = [f.name for f, _ in a.ListFields() if f.name in _OF_FIELD]
    return _OF_FIELD[set_fields[0]] if len(set_fields) == 1 else 0


def _attribute(a: AttributeProto, code: int, child: Any, owner: Node | str) -> object:
    """The value of an attribute of type `code`; `child` makes records of graphs (None: they stay protos)."""
    field_name = _ATTRIBUTE_FIELDS.get(code)
    if not a.name or field_name is None:
        raise InvalidModel(f"attribute '{clean(a.name)}' has no valid type ({code})", where=_label(owner))
    for f, _ in a.ListFields():
        stray = f.name
        if stray != field_name and stray in _OF_FIELD:
            what = f"attribute '{clean(a.name)}' of type {field_name!r} also holds {stray!r}"
            raise InvalidModel(what, where=_label(owner))
    value = getattr(a, field_name)
    if code == 5:
        return child(value) if child else value
    if code == 10:
        return tuple(child(g) if child else g for g in value)
    if code == 3:
        return _text(value)
    if code == 8:
        return tuple(_text(v) for v in value)
    return tuple(value) if code in (6, 7, 9, 12, 14) else value


def _label(owner: Node | str) -> str:
    return owner if isinstance(owner, str) else owner.label


def _text(raw: bytes) -> str | bytes:
    check_limit("name_bytes", len(raw), "length of an attribute string")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _captures(graph: Graph) -> tuple[str, ...]:
    """Names used in `graph` or below that it does not define. Children come first, so theirs are known."""
    local = {"", *graph.inputs, *graph.initializers, *graph.sparse}
    local.update(*(node.outputs for node in graph.nodes))
    used: dict[str, None] = {}
    for node in graph.nodes:
        if node.inner:
            node.captures = tuple(dict.fromkeys(name for inner in node.inner for name in inner.captures))
        for name in (*node.inputs, *node.captures):
            if name not in local:
                used[name] = None
    used.update(dict.fromkeys(name for name in graph.outputs if name not in local))
    return tuple(used)


def _dangling(graph: Graph) -> InvalidModel:
    missing = set(graph.captures)
    for node in graph.nodes:
        for name in (*node.inputs, *node.captures):
            if name in missing:
                return InvalidModel(f"input '{clean(name)}' is defined nowhere", where=node.label)
    return InvalidModel(f"output '{clean(graph.captures[0])}' is defined nowhere", where=f"graph '{clean(graph.name)}'")


def _order(graph: Graph) -> None:
    """Sort `graph.nodes` so that definitions come first (the file's order where it already does) and fill `defined`:
    the position of each name, -1 for inputs and initializers."""
    inputs = set(graph.inputs)
    defined = graph.defined
    for name in (*graph.inputs, *(n for n in (*graph.initializers, *graph.sparse) if n not in inputs)):
        if name in defined:
            raise InvalidModel(f"'{clean(name)}' is defined twice", where=f"graph '{clean(graph.name)}'")
        defined[name] = -1
    for at, node in enumerate(graph.nodes):
        for name in node.outputs:
            if name:
                if name in defined:
                    raise InvalidModel(f"'{clean(name)}' is defined twice", where=node.label)
                defined[name] = at
    if any(defined.get(n, -1) >= at for at, node in enumerate(graph.nodes) for n in (*node.inputs, *node.captures)):
        needs = [
            [at for at in dict.fromkeys(defined.get(n, -1) for n in (*node.inputs, *node.captures)) if at >= 0]
            for node in graph.nodes
        ]
        _sort(graph, needs)
        for at, node in enumerate(graph.nodes):
            defined.update((name, at) for name in node.outputs if name)


def _sort(graph: Graph, needs: list[list[int]]) -> None:
    """Depth-first topological order, stable: a node comes as early as the file's order allows."""
    state = [0] * len(needs)  # 0 new, 1 on the stack, 2 done
    result: list[int] = []
    for root in range(len(needs)):
        stack = [root] if not state[root] else []
        while stack:
            at = stack[-1]
            if state[at] == 0:
                state[at] = 1
                for n in reversed(needs[at]):
                    if state[n] == 1:
                        raise InvalidModel("the nodes form a cycle", where=graph.nodes[n].label)
                    if state[n] == 0:
                        stack.append(n)
            else:
                stack.pop()
                if state[at] == 1:
                    state[at] = 2
                    result.append(at)
    position = {old: new for new, old in enumerate(result)}
    for at, node in enumerate(graph.nodes):
        for inner in node.inner:
            inner.parent = (graph, position[at])
    graph.nodes = [graph.nodes[at] for at in result]


def _check_scope(graph: Graph) -> None:
    """No name of an outer scope that is visible here may be defined again."""
    parent = graph.parent
    while parent:
        outer, at = parent
        for name in graph.defined:
            if name and outer.defined.get(name, at) < at:
                raise InvalidModel(
                    f"'{clean(name)}' is defined in a subgraph and outside of it", where=f"graph '{clean(graph.name)}'"
                )
        parent = outer.parent


def _resolve_all(top: Graph, opsets: dict[str, int], functions: dict) -> None:
    """Find each node's schema and check arity and attributes against it. All unknown operators are named at once."""
    unknown: dict[str, None] = {}
    found: dict[tuple[str, str], Schema] = {}
    stack = [top]
    while stack:
        graph = stack.pop()
        for node in graph.nodes:
            stack.extend(node.inner)
            if functions and (node.domain, node.op_type, node.overload) in functions:
                continue
            node.schema = found.get((node.domain, node.op_type))
            if node.schema is not None:
                _check_node(node, node.schema)
                continue
            if node.domain not in opsets:
                raise InvalidModel(
                    f"domain '{clean(node.domain) or 'ai.onnx'}' is not in opset_import", where=node.label
                )
            if node.domain not in schemas.KNOWN_DOMAINS and not schemas.listed(node.op_type, node.domain):
                continue
            node.schema = schemas.schema(node.op_type, node.domain, opsets[node.domain])
            if node.schema is None or node.schema.deprecated:
                what = "removed from" if node.schema else "not in"
                place = f"{what} {node.domain or 'ai.onnx'} opset {opsets[node.domain]}"
                unknown.setdefault(f"{clean(node.op_type)} ({place}; first at {node.label})")
            else:
                found[node.domain, node.op_type] = node.schema
                _check_node(node, node.schema)
    if unknown:
        shown = ", ".join(list(dict.fromkeys(unknown))[:20])
        raise Unsupported(f"unknown operators: {shown}", hint="check the model's opset_import, or update onnx")


def _check_node(node: Node, schema: Schema) -> None:
    low, high = schema.arity
    while node.inputs and not node.inputs[-1] and len(node.inputs) > low:
        node.inputs = node.inputs[:-1]
    if not low <= len(node.inputs) <= high:
        raise InvalidModel(f"{len(node.inputs)} inputs ({schema.label} takes {low} to {high})", where=node.label)
    low, high = schema.results
    if not low <= len(node.outputs) <= high:
        raise InvalidModel(f"{len(node.outputs)} outputs ({schema.label} gives {low} to {high})", where=node.label)
    for index, name in enumerate(node.inputs) if "" in node.inputs else ():
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        if not name and not formal.optional:
            raise InvalidModel(f"input {formal.name} is missing", where=node.label)
    for name in node.attrs:
        if name not in schema.attributes:
            raise InvalidModel(f"{schema.label} has no attribute '{clean(name)}'", where=node.label)
    for name in schema.required:
        if name not in node.attrs:
            raise InvalidModel(f"required attribute '{name}' is missing", where=node.label)
    for name, code in node.codes.items():
        wanted = schema.attributes[name].type
        if code != wanted:
            raise InvalidModel(
                f"attribute '{name}' is of type {_ATTRIBUTE_FIELDS.get(code)!r}, expected {_ATTRIBUTE_FIELDS.get(wanted)!r}",
                where=node.label,
            )


def _check_calls(model: Model) -> None:
    """The call graph of local functions: acyclic, at most 32 deep, at most a million nodes once inlined."""
    from .calls import check

    check(model)
