"""One space of names in the written model, the main graph or a function, each with all graphs inside: nodes and values.

`hold` says where constants go: the main graph has initializers, a function Constant nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...formats.onnx import notes, schemas
from ...formats.onnx.tensors import tensor_proto
from ...formats.onnx.types import proto_of
from ...ir.errors import InternalError, InvalidModel
from ...ir.graph import Graph, Node, Value
from ...ir.loc import Loc
from ...ir.opdef import RANDOM
from ...ir.tensor import Tensor, as_tensor
from ...ir.types import TensorType, Type
from .emitter import Draft, Literal, Refusal, Subgraph, Temp
from .names import Names, sanitise

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

    from .export import Export

#: The IR version that brought properties on nodes, graphs and values; that of device configurations.
PROPERTIES_IR, DEVICES_IR = 10, 11
#: Constants up to this many bytes are joined: read from Constant nodes they have no names that could tell them apart.
JOINED = 1024


#: Operators that take so many inputs at least, absent ones among them; all others do without absent ones at the end.
_LEAST_INPUTS = {"Loop": 2}


class Space:
    """Names are unique in here. `beside` is what the source says of values: notes by name, and the names that it declares;
    with `joins` equal small constants are one."""

    def __init__(
        self, export: Export, hold: Callable[[str, Tensor], None], beside: dict[str, Any], *, joins: bool
    ) -> None:
        self.export = export
        self.hold = hold
        self.joins = joins
        self.noted: dict[str, Any] = notes.member(beside, "values", dict)
        self.declared = dict.fromkeys(notes.member(beside, "value_info", list))
        self.names = Names()
        self.node_names = Names()
        self.by_value: dict[Value | Temp, str] = {}
        self.literals: dict[tuple, str] = {}
        self.stored: dict[Value, None] = {}
        #: Region inputs that stand for constants, which are stored where they are first used, not where they are captured;
        #: constants that stand for equal ones.
        self.captured: dict[Value, Value] = {}
        self.plans: dict[Graph, list[Draft]] = {}
        self.used: set[Any] = set()
        self.outputs: set[Value] = set()
        self.domains: dict[str, int] = {"": export.opset}

    # Names.

    def name(self, ref: Any) -> str:
        """The ONNX name of a reference; constants are stored when first named."""
        if ref is None:
            return ""
        if isinstance(ref, Literal):
            return self._literal(as_tensor(ref.array, ref.dtype), ref.hint)
        ref = self.captured.get(ref, ref)
        constant = isinstance(ref, Value) and ref.weight is not None
        if constant and self.joins and ref.weight.nbytes <= JOINED:
            return self._literal(ref.weight.tensor, ref.weight.wanted)
        found = self.by_value.get(ref)
        if found is None:
            node = ref.node if isinstance(ref, Value) else None
            hint = ref.weight.wanted if constant else ref.hint
            fallback = "weight" if constant else node.op.name if node is not None else "value"
            found = self.by_value[ref] = self.names.unique(hint, fallback)
        if constant and ref not in self.stored:
            self.stored[ref] = None
            self.hold(found, ref.weight.tensor)
        return found

    def _literal(self, tensor: Tensor, hint: str) -> str:
        key = (tensor.dtype, tuple(tensor.shape), tensor.digest())
        name = self.literals.get(key)
        if name is None:
            name = self.literals[key] = self.names.unique(hint, "const")
            self.hold(name, tensor)
        return name

    # What is needed.

    def plan(self, graph: Graph) -> set[Any]:
        """Emit the nodes of a graph and of its regions; keep the drafts that are needed. Returns what they and the
        graph's outputs refer to (an operand that became an attribute is not among them)."""
        drafts = shared([draft for node in graph.nodes() for draft in self._emitted(node)])
        needed: set[Any] = set(graph.outputs)
        self.outputs.update(graph.outputs)
        kept: list[Draft] = []
        for draft in reversed(drafts):
            if not draft.foreign and not any(ref in needed for ref in draft.outputs):
                continue
            kept.append(draft)
            needed.update(ref for ref in draft.inputs if isinstance(ref, Value | Temp))
            for subgraph in draft.subgraphs():
                inner = self.plan(subgraph.region)
                needed.update(outer for value, outer in subgraph.aliases.items() if value in inner)
                needed.update(ref for ref in inner if isinstance(ref, Value) and ref.is_const)
        self.plans[graph] = kept[::-1]
        self.used |= needed
        return needed

    def _emitted(self, node: Node) -> list[Draft]:
        try:
            return self.export.emitter.emit(node)
        except Refusal as refusal:
            raise InternalError(f"{node.name} is not legal ONNX: {refusal.reason}") from None

    # Graphs and nodes.

    def nodes(self, graph: Graph, proto: Any) -> None:
        """The nodes of a planned graph into a GraphProto or FunctionProto."""
        for draft in self.plans[graph]:
            self._node(draft, proto.node.add(), proto.value_info)

    def _node(self, draft: Draft, proto: NodeProto, infos: Any) -> None:
        loc = origin(draft.source)
        inputs = [self.name(ref) for ref in draft.inputs]
        least = _LEAST_INPUTS.get(draft.op_type, 0)
        while len(inputs) > least and not inputs[-1] and not draft.foreign:
            inputs.pop()
        proto.input.extend(inputs)
        proto.output.extend(self._results(draft))
        if loc.scope:
            proto.name = self.node_names.unique(loc.scope)
        proto.op_type, overload = draft.op_type, draft.overload
        domain, version = draft.domain, draft.version
        if draft.body is not None:
            domain, proto.op_type, overload, version = self.export.functions.made_of(draft)
        if domain:
            proto.domain = domain
        if overload:
            proto.overload = overload
            self.export.needs_ir(PROPERTIES_IR)
        self._import(domain, version)
        for name in sorted((*draft.attrs, *draft.graphs)):
            if name in draft.graphs:
                self._graphs(proto.attribute.add(), name, draft.graphs[name], loc.notes)
            else:
                fill_attribute(proto.attribute.add(), name, draft.attrs[name])
        for written in draft.protos:
            try:
                proto.attribute.add().ParseFromString(written)
            except Exception as error:  # protobuf's own class depends on its implementation
                raise InvalidModel(f"an attribute of {draft.op_type} cannot be read: {error}") from None
        if loc.notes:
            self._annotate(proto, loc.notes)
        self.declare(infos, draft.outputs, everything=draft.foreign)

    def _import(self, domain: str, version: int) -> None:
        if domain and self.domains.setdefault(domain, version) != version:
            raise InvalidModel(
                f"operators of domain '{domain}' are of versions {self.domains[domain]} and {version}",
                hint="keep the functions that import them (functions='keep')",
            )

    def _annotate(self, proto: NodeProto, pairs: notes.Pairs) -> None:
        notes.fill(proto, pairs)
        notes.fill_devices(proto, pairs)
        if proto.metadata_props:
            self.export.needs_ir(PROPERTIES_IR)
        if proto.device_configurations:
            self.export.needs_ir(DEVICES_IR)

    def _results(self, draft: Draft) -> list[str]:
        """The names of a node's outputs. One that nobody uses is left out where its formal is optional: how many parts a
        Split has means something, and a TopK has two results."""
        if draft.gives is not None:
            return [self.name(ref) if there else "" for ref, there in zip(draft.outputs, draft.gives, strict=True)]
        if draft.body is not None:  # the checker's inference wants all outputs of a function named
            return [self.name(ref) for ref in draft.outputs]
        schema = schemas.schema(draft.op_type, draft.domain, draft.version or self.export.opset)
        formals = [] if schema is None else [formal.optional for formal in schema.outputs]
        names = []
        for index, ref in enumerate(draft.outputs):
            unused = isinstance(ref, Value) and ref.index > 0 and ref not in self.used
            optional = schema is None or (index < len(formals) and formals[index])
            names.append("" if ref is None or (unused and optional) else self.name(ref))
        while len(names) > 1 and not names[-1]:
            names.pop()
        return names

    def _graphs(self, attribute: Any, name: str, given: Subgraph | list[Subgraph], pairs: notes.Pairs) -> None:
        import onnx

        attribute.name = name
        if isinstance(given, list):
            attribute.type = onnx.AttributeProto.GRAPHS
            for subgraph in given:
                self._subgraph(attribute.graphs.add(), name, subgraph)
            return
        attribute.type = onnx.AttributeProto.GRAPH
        self._subgraph(attribute.g, name, given)
        notes.fill(attribute.g, pairs, f"{name}:")
        if attribute.g.metadata_props:
            self.export.needs_ir(PROPERTIES_IR)

    def _subgraph(self, proto: GraphProto, name: str, given: Subgraph) -> None:
        region = given.region
        for inner, outer in given.aliases.items():
            outer = self.captured.get(outer, outer)
            if outer is not None and outer.is_const:
                self.captured[inner] = outer
            elif inner in self.used:
                self.by_value[inner] = self.name(outer)
        proto.name = sanitise(region.name) or name
        self.interface(proto.input, given.inputs, [self.name(v) for v in given.inputs])
        self.nodes(region, proto)
        for value, label in zip(region.outputs, self.own_outputs(region, proto), strict=True):
            self.interface(proto.output, [value], [label])

    def own_outputs(self, region: Graph, proto: Any) -> list[str]:
        """A name for each output of a region, each defined by a node of its own."""
        labels: dict[str, None] = {}
        for value in region.outputs:
            label = self.name(value)
            if value.node is None or value.node.graph is not region or label in labels:
                label = self.identity(proto, label)
            labels[label] = None
        return list(labels)

    def identity(self, proto: Any, source: str, name: str | None = None) -> str:
        """A second name for a value."""
        made = proto.node.add()
        made.op_type = "Identity"
        made.input.append(source)
        made.output.append(name or self.names.unique(f"{source}_out"))
        return made.output[0]

    # Values.

    def interface(self, slots: Any, values: Iterable[Value], names: Iterable[str]) -> None:
        """Types of values, with what the source says of them."""
        for value, name in zip(values, names, strict=True):
            self._info(slots.add(), name, value.type)

    def _info(self, info: Any, name: str, type_: Type) -> None:
        info.name = name
        if _is_known(type_):
            info.type.CopyFrom(proto_of(type_))
        if name in self.noted:
            notes.restore(info, self.noted[name])
            if info.metadata_props:
                self.export.needs_ir(PROPERTIES_IR)

    def settle_declared(self) -> None:
        """What the source says of inner values, which inference finds as well, stays while it is said of all of them:
        onnxruntime compares every shape that a file states in every run."""
        drafts = [draft for planned in self.plans.values() for draft in planned] if self.declared else []
        made = {ref.hint for draft in drafts for ref in draft.outputs if isinstance(ref, Value)}
        if any(name not in made and name not in self.names for name in self.declared):
            self.declared = {}

    def declare_as(self, infos: Any, name: str, type_: Type) -> None:
        """The type of an inner value that the source declares or has notes on."""
        if name in self.declared or name in self.noted:
            self._info(infos.add(), name, type_)

    def declare(self, infos: Any, outputs: Iterable[Any], *, everything: bool) -> None:
        """Types of inner values: those that the source declares or has notes on; all where nobody else can infer them."""
        if not everything and not self.declared and not self.noted:
            return
        for value in outputs:
            inner = isinstance(value, Value) and value in self.used and value not in self.outputs
            if not inner or not _is_known(value.type):
                continue
            name = self.name(value)
            if everything:
                self._info(infos.add(), name, value.type)
            else:
                self.declare_as(infos, name, value.type)


def shared(drafts: list[Draft]) -> list[Draft]:
    """The drafts without helpers that say what another node has said: rows know nothing of each other. Values stay."""
    helpers = {draft.op_type for draft in drafts if any(isinstance(ref, Temp) for ref in draft.outputs)}
    if not helpers:
        return drafts
    said: dict[tuple, Value | Temp | None] = {}
    same: dict[Temp, Any] = {}
    kept = []
    for draft in drafts:
        if same:
            draft.inputs = [same.get(ref, ref) if isinstance(ref, Temp) else ref for ref in draft.inputs]
        if draft.op_type in helpers and (key := _meaning(draft)) is not None:
            first, own = said.setdefault(key, draft.outputs[0]), draft.outputs[0]
            if first is not own and isinstance(own, Temp):
                same[own] = first
                continue
        kept.append(draft)
    return kept


def _meaning(draft: Draft) -> tuple | None:
    """Equal for nodes that yield the same; None where nothing is said of that."""
    plain = len(draft.outputs) == 1 and not (draft.foreign or draft.graphs or draft.body or draft.protos)
    if not plain or draft.source is None or draft.source.has(RANDOM):
        return None
    attrs = sorted(draft.attrs.items())
    if any(isinstance(value, Tensor | Type) for _, value in attrs):
        return None
    fixed = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in attrs)
    return draft.op_type, draft.domain, fixed, *map(_same_input, draft.inputs)


def _same_input(ref: Any) -> Any:
    if not isinstance(ref, Literal):
        return ref
    return ref.dtype, ref.array.shape, ref.array.tobytes()


def _is_known(type_: Type) -> bool:
    """A TypeProto can say it: every tensor in it has a dtype."""
    while not isinstance(type_, TensorType) and hasattr(type_, "elem"):
        type_ = type_.elem
    return isinstance(type_, TensorType) and type_.dtype is not None


def origin(node: Node | None) -> Loc:
    """The first place that a node comes from."""
    loc = node.loc  # type: ignore[union-attr]
    return loc.fused[0] if loc.fused else loc


def fill_attribute(proto: Any, name: str, value: Any) -> None:
    """One attribute; the AttributeProto type follows from the Python type (an empty sequence is one of ints)."""
    import onnx

    kinds = onnx.AttributeProto
    proto.name = name
    if isinstance(value, Tensor):
        proto.type = kinds.TENSOR
        proto.t.CopyFrom(tensor_proto("", value))
    elif isinstance(value, str | bytes):
        proto.type, proto.s = kinds.STRING, value.encode() if isinstance(value, str) else value
    elif isinstance(value, Type):
        proto.type = kinds.TYPE_PROTO
        proto.tp.CopyFrom(proto_of(value))
    elif isinstance(value, bool | int | np.integer):
        proto.type, proto.i = kinds.INT, int(value)
    elif isinstance(value, float | np.floating):
        proto.type, proto.f = kinds.FLOAT, float(value)
    elif all(isinstance(v, Tensor) for v in value) and len(value):
        proto.type = kinds.TENSORS
        proto.tensors.extend(tensor_proto("", v) for v in value)
    elif all(isinstance(v, str | bytes) for v in value) and len(value):
        proto.type = kinds.STRINGS
        proto.strings.extend(v.encode() if isinstance(v, str) else v for v in value)
    elif any(isinstance(v, float) for v in value):
        proto.type = kinds.FLOATS
        proto.floats.extend(map(float, value))
    else:
        proto.type = kinds.INTS
        proto.ints.extend(map(int, value))
