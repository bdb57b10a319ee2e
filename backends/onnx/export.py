"""A legalised module as a ModelProto without its weights' bytes, and the tensors those bytes come from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...formats.onnx.tensors import fill_header, fill_strings, tensor_proto
from ...formats.onnx.types import proto_of
from ...ir.errors import InternalError, Unsupported, clean
from ...ir.graph import Graph, Module, Node, Value
from ...ir.signature import Signature
from ...ir.tensor import Tensor, as_tensor
from ...ir.types import STRING
from .emitter import Draft, Emitter, Literal, Refusal, Subgraph, Temp
from .names import Names, sanitise

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

PRODUCER = "anyir"


class Export:
    """Builds the skeleton. After `build`, `tensors[i]` is the data of initializer i (None where the proto holds it)."""

    def __init__(self, module: Module, signature: Signature, opset: int) -> None:
        import onnx

        self.module = module
        self.signature = signature
        self.opset = opset
        self.emitter = Emitter(opset)
        self.names = Names()
        self.node_names = Names()
        self.by_value: dict[Value | Temp, str] = {}
        self.literals: dict[tuple, str] = {}
        self.stored: dict[Value, None] = {}
        self.plans: dict[Graph, list[Draft]] = {}
        self.used: set[Any] = set()
        self.tensors: list[Tensor | None] = []
        self.domains: dict[str, int] = {"": opset}
        self.model: ModelProto = onnx.ModelProto()

    def build(self) -> ModelProto:
        graph, proto = self.signature.graph, self.model.graph
        self._plan(graph)
        proto.name = sanitise(self.module.name) or "main"
        self._reserve_interface(graph)
        for value in self.module.constants():
            if value in self.used and value not in self.by_value:
                self.by_value[value] = self.names.unique(value.weight.key, "weight")  # type: ignore[union-attr]
        self._interface(proto.input, graph.inputs, self.signature.input_names())
        self._nodes(graph, proto)
        self._outputs(graph, proto)
        self._header()
        return self.model

    # Names.

    def _reserve_interface(self, graph: Graph) -> None:
        """The signature's names are the user's: they are taken before any hint."""
        inputs, outputs = self.signature.input_names(), self.signature.output_names()
        for value, name in zip(graph.inputs, inputs, strict=True):
            self.by_value[value] = self.names.reserve(name)
        for value, name in zip(graph.outputs, outputs, strict=True):
            holder = self.by_value.get(value)
            if holder == name:
                continue  # an input that is returned under its own name
            if name in self.names:
                raise Unsupported(
                    f"an input and another output are both called '{clean(name)}'", hint="rename one of them"
                )
            self.names.reserve(name)
            if (holder is None and (value.node is not None and value.node.graph is graph)) or (
                holder is None and value.weight is not None and value.weight.key == name
            ):
                self.by_value[value] = name

    def name(self, ref: Any) -> str:
        """The ONNX name of a reference; literals become initializers when first named."""
        if ref is None:
            return ""
        if isinstance(ref, Literal):
            return self._literal(ref)
        if isinstance(ref, Value) and ref.weight is not None and ref not in self.stored:
            self.stored[ref] = None
            self._tensor(self.by_value[ref], ref.weight.tensor)
        found = self.by_value.get(ref)
        if found is None:
            hint = ref.hint
            node = ref.node if isinstance(ref, Value) else None
            found = self.by_value[ref] = self.names.unique(hint, node.op.name if node is not None else "value")
        return found

    # Weights.

    def _literal(self, literal: Literal) -> str:
        key = (literal.dtype, literal.array.shape, literal.array.tobytes())
        name = self.literals.get(key)
        if name is None:
            name = self.literals[key] = self.names.unique(literal.hint, "const")
            self._tensor(name, as_tensor(literal.array, literal.dtype))
        return name

    def _tensor(self, name: str, tensor: Tensor) -> None:
        proto = self.model.graph.initializer.add()
        fill_header(proto, name, tensor)
        if tensor.dtype is STRING:
            fill_strings(proto, tensor)
        self.tensors.append(None if tensor.dtype is STRING else tensor)

    # Graphs.

    def _interface(self, slots: Any, values: Any, names: Any) -> None:
        for value, name in zip(values, names, strict=True):
            info = slots.add()
            info.name = name
            info.type.CopyFrom(proto_of(value.type))

    def _plan(self, graph: Graph) -> set[Any]:
        """Emit the nodes of a graph and of its regions; keep the drafts that are needed. Returns what they and the
        graph's outputs refer to (an operand that became an attribute is not among them)."""
        drafts = [draft for node in graph.nodes() for draft in self._emitted(node)]
        needed: set[Any] = set(graph.outputs)
        kept: list[Draft] = []
        for draft in reversed(drafts):
            if not draft.foreign and not any(ref in needed for ref in draft.outputs):
                continue
            kept.append(draft)
            needed.update(ref for ref in draft.inputs if isinstance(ref, Value | Temp))
            for subgraph in draft.graphs.values():
                inner = self._plan(subgraph.region)
                needed.update(outer for value, outer in subgraph.aliases.items() if value in inner)
                needed.update(ref for ref in inner if isinstance(ref, Value) and ref.is_const)
        self.plans[graph] = kept[::-1]
        self.used |= needed
        return needed

    def _emitted(self, node: Node) -> list[Draft]:
        try:
            return self.emitter.emit(node)
        except Refusal as refusal:
            raise InternalError(f"{node.name} is not legal ONNX: {refusal.reason}") from None

    def _nodes(self, graph: Graph, proto: GraphProto) -> None:
        for draft in self.plans[graph]:
            self._node(draft, proto.node.add(), draft.source, proto.value_info)  # type: ignore[arg-type]

    def _node(self, draft: Draft, proto: NodeProto, node: Node, infos: Any) -> None:
        inputs = [self.name(ref) for ref in draft.inputs]
        while inputs and not inputs[-1]:
            inputs.pop()
        proto.input.extend(inputs)
        outputs = [self._result(ref) for ref in draft.outputs]
        while len(outputs) > 1 and not outputs[-1]:
            outputs.pop()
        proto.output.extend(outputs)
        scope = node.loc.fused[0].scope if node.loc.fused else node.loc.scope
        if scope:
            proto.name = self.node_names.unique(scope)
        proto.op_type = draft.op_type
        if draft.foreign:  # nobody else can infer these
            self._declare(infos, draft.outputs)
        if draft.domain:
            proto.domain = draft.domain
            self.domains.setdefault(draft.domain, draft.version)
        for name in sorted((*draft.attrs, *draft.graphs)):
            made = proto.attribute.add()
            if name in draft.graphs:
                self._subgraph(made, name, draft.graphs[name])
            else:
                fill_attribute(made, name, draft.attrs[name])

    def _declare(self, infos: Any, outputs: Iterable[Any]) -> None:
        for value in outputs:
            named = isinstance(value, Value) and value in self.used and value not in self.signature.graph.outputs
            if named and value.dtype is not None:
                self._interface(infos, [value], [self.name(value)])

    def _result(self, ref: Any) -> str:
        """The name of an output; a result that nobody uses (beyond the first) is left out."""
        if ref is None or (isinstance(ref, Value) and ref.index and ref not in self.used):
            return ""
        return self.name(ref)

    def _subgraph(self, attribute: Any, name: str, given: Subgraph) -> None:
        import onnx

        region = given.region
        for inner, outer in given.aliases.items():
            self.by_value[inner] = self.name(outer)
        attribute.name, attribute.type = name, onnx.AttributeProto.GRAPH
        proto = attribute.g
        proto.name = sanitise(region.name) or name
        self._interface(proto.input, given.inputs, [self.name(v) for v in given.inputs])
        self._nodes(region, proto)
        seen: dict[str, None] = {}
        for value in region.outputs:
            label = self.name(value)
            if value.node is None or value.node.graph is not region or label in seen:
                label = self._identity(proto, label)
            seen[label] = None
            self._interface(proto.output, [value], [label])

    def _outputs(self, graph: Graph, proto: GraphProto) -> None:
        for value, name in zip(graph.outputs, self.signature.output_names(), strict=True):
            if self.name(value) != name:
                self._identity(proto, self.name(value), name)
            self._interface(proto.output, [value], [name])

    def _identity(self, proto: GraphProto, source: str, name: str | None = None) -> str:
        """A second name for a value."""
        made = proto.node.add()
        made.op_type = "Identity"
        made.input.append(source)
        made.output.append(name or self.names.unique(f"{source}_out"))
        return made.output[0]

    def _header(self) -> None:
        from onnx import helper

        model, metadata = self.model, self.module.metadata
        for domain, version in sorted(self.domains.items()):
            entry = model.opset_import.add()
            entry.domain, entry.version = domain, version
        model.ir_version = helper.find_min_ir_version_for(
            [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx.ml")]
        )
        model.producer_name = PRODUCER
        for key in ("domain", "doc_string"):
            if metadata.get(f"onnx.{key}"):
                setattr(model, key, metadata[f"onnx.{key}"])
        if metadata.get("onnx.graph_doc_string"):
            model.graph.doc_string = metadata["onnx.graph_doc_string"]
        if metadata.get("onnx.model_version", "").lstrip("-").isdigit():
            model.model_version = int(metadata["onnx.model_version"])
        for key, value in metadata.items():
            if key.startswith("user."):
                entry = model.metadata_props.add()
                entry.key, entry.value = key.removeprefix("user."), value


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
