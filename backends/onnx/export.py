"""A legalised module as a ModelProto without its weights' bytes, and the tensors those bytes come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...formats.onnx import dtypes, notes
from ...formats.onnx.tensors import fill_header, fill_strings
from ...ir.errors import InvalidModel, Unsupported, clean
from ...ir.graph import Graph, Module
from ...ir.signature import Signature
from ...ir.tensor import Tensor
from ...ir.types import STRING, TensorType
from ...ir.value import Value
from .emitter import Emitter
from .functions import Functions
from .names import sanitise
from .space import DEVICES_IR, PROPERTIES_IR, Space

if TYPE_CHECKING:
    from onnx import ModelProto

PRODUCER = "anyir"


class Export:
    """Builds the skeleton. After `build`, `tensors[i]` is the data of initializer i (None where the proto holds it)."""

    def __init__(self, module: Module, signature: Signature, opset: int) -> None:
        import onnx

        self.module = module
        self.signature = signature
        self.opset = opset
        self.emitter = Emitter(opset)
        self.inputs = dict.fromkeys(signature.input_names())
        self.tensors: list[Tensor | None] = []
        self.model: ModelProto = onnx.ModelProto()
        metadata = module.metadata
        self.tensor_notes = notes.parse(metadata, "onnx.tensors", dict)
        beside = {
            "values": notes.parse(metadata, "onnx.values", dict),
            "value_info": notes.parse(metadata, "onnx.value_info", list),
        }
        self.space = Space(self, self._initializer, beside, joins=False)
        opaque = {(n.attr("domain"), n.attr("op_type"), n.attr("overload")) for n in module.all_nodes("opaque")}
        self.functions = Functions(self, opaque)
        self._ir = 0

    def build(self) -> ModelProto:
        graph, proto, space = self.signature.graph, self.model.graph, self.space
        space.plan(graph)
        proto.name = sanitise(self.module.name) or "main"
        self._reserve_interface(graph)
        self._constants([v for v in self.module.constants() if v in space.used and v not in space.by_value])
        space.settle_declared()
        space.interface(proto.input, graph.inputs, self.signature.input_names())
        for slot in self.signature.inputs:
            if slot.default is not None:
                self._initializer(slot.name, slot.default.tensor)
        space.nodes(graph, proto)
        self._outputs(graph)
        self._quantization()
        self._header()
        return self.model

    def _constants(self, values: list[Value]) -> None:
        """Names for constants. What passes made of one weight bears its name: of those, equal ones are stored once, and so is
        a tensor that several weights hold (see the pass share-weights)."""
        space = self.space
        alike: dict[tuple, list[Value]] = {}
        for value in values:
            alike.setdefault((value.weight.wanted, value.type), []).append(value)  # type: ignore[union-attr]
        for group in alike.values():
            first: dict[bytes, Value] = {}
            for value in group if len(group) > 1 else ():
                one = first.setdefault(value.weight.tensor.structure(), value)  # type: ignore[union-attr]
                if one is not value:
                    space.captured[value] = one
        holders: dict[Tensor, Value] = {}
        for value in values:
            one = holders.setdefault(value.weight.tensor, value)  # type: ignore[union-attr]
            if one is not value and value not in space.captured and value.weight is not one.weight:
                space.captured[value] = one
        for value in values:
            if value not in space.captured:
                space.by_value[value] = space.names.unique(value.weight.key, "weight")  # type: ignore[union-attr]

    # IR versions.

    def needs_ir(self, version: int) -> None:
        """Something is written that came with this IR version."""
        self._ir = max(self._ir, version)

    def ir_version(self) -> int:
        """The lowest that has the operator sets and all that is written so far."""
        from onnx import helper

        known = [helper.make_opsetid("", self.opset)]
        if "ai.onnx.ml" in self.space.domains:
            known.append(helper.make_opsetid("ai.onnx.ml", self.space.domains["ai.onnx.ml"]))
        return max(helper.find_min_ir_version_for(known), self._ir)

    # The interface.

    def _reserve_interface(self, graph: Graph) -> None:
        """The signature's names are the user's: they are taken before any hint."""
        by_value, names = self.space.by_value, self.space.names
        inputs, outputs = self.signature.input_names(), self.signature.output_names()
        for value, name in zip(graph.inputs, inputs, strict=True):
            by_value[value] = names.reserve(name)
        for value, name in zip(graph.outputs, outputs, strict=True):
            holder = by_value.get(value)
            if holder == name:
                continue  # an input that is returned under its own name
            if name in names:
                raise Unsupported(
                    f"an input and another output are both called '{clean(name)}'", hint="rename one of them"
                )
            names.reserve(name)
            if (holder is None and (value.node is not None and value.node.graph is graph)) or (
                holder is None and value.weight is not None and value.weight.key == name
            ):
                by_value[value] = name

    def _outputs(self, graph: Graph) -> None:
        space, proto = self.space, self.model.graph
        for value, name in zip(graph.outputs, self.signature.output_names(), strict=True):
            if space.name(value) != name:
                space.identity(proto, space.name(value), name)
            space.interface(proto.output, [value], [name])

    # Weights.

    def _initializer(self, name: str, tensor: Tensor) -> None:
        proto = self.model.graph.initializer.add()
        fill_header(proto, name, tensor)
        if name in self.tensor_notes:
            notes.restore(proto, self.tensor_notes[name])
            self.needs_ir(PROPERTIES_IR if proto.metadata_props else 0)
        if tensor.dtype is STRING:
            fill_strings(proto, tensor)
        self.needs_ir(dtypes.IR_VERSIONS.get(tensor.dtype, 0))
        self.tensors.append(None if tensor.dtype is STRING else tensor)
        if name not in self.inputs:
            self.space.declare_as(self.model.graph.value_info, name, TensorType(tensor.dtype, tuple(tensor.shape)))

    def _quantization(self) -> None:
        """Annotations of values that are still there; the tensors with their parameters come back where no node uses them."""
        annotations = notes.parse(self.module.metadata, "onnx.quantization", dict)
        graph = self.model.graph
        for name, parameters in annotations.items():
            if name not in self.space.names:
                continue
            made = graph.quantization_annotation.add()
            made.tensor_name = name
            for key, parameter, data in notes.parameters(parameters):
                if parameter not in self.space.names and data:
                    self.space.names.reserve(parameter)
                    self._stored_tensor(parameter, data)
                if parameter in self.space.names:
                    notes.fill_properties(made.quant_parameter_tensor_names, [(key, parameter)])

    def _stored_tensor(self, name: str, data: bytes) -> None:
        proto = self.model.graph.initializer.add()
        try:
            proto.ParseFromString(data)
        except Exception as error:  # protobuf's own class depends on its implementation
            raise InvalidModel(f"the quantisation parameter '{clean(name)}' cannot be read: {clean(error)}") from None
        proto.name = name
        self.tensors.append(None)

    # The header.

    def _header(self) -> None:
        model, metadata = self.model, self.module.metadata
        for function in model.functions:
            for used in function.opset_import:
                self.space.domains.setdefault(used.domain, used.version)
        for domain, version in sorted(self.space.domains.items()):
            entry = model.opset_import.add()
            entry.domain, entry.version = domain, version
        model.producer_name = metadata.get("onnx.producer_name", PRODUCER)
        for key in ("producer_version", "domain", "doc_string"):
            if metadata.get(f"onnx.{key}"):
                setattr(model, key, metadata[f"onnx.{key}"])
        if metadata.get("onnx.model_version", "").lstrip("-").isdigit():
            model.model_version = int(metadata["onnx.model_version"])
        for key, value in metadata.items():
            if key.startswith("user."):
                notes.fill_properties(model.metadata_props, [(key.removeprefix("user."), value)])
        notes.restore(model.graph, notes.parse(metadata, "onnx.graph", dict))
        self.needs_ir(PROPERTIES_IR if model.graph.metadata_props else 0)
        notes.fill_configurations(model, notes.parse(metadata, "onnx.configuration", list))
        self.needs_ir(DEVICES_IR if model.configuration else 0)
        model.ir_version = self.ir_version()
