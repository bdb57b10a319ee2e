"""Writes a legal module as a TFLite file, one operator per node, regions as subgraphs, equal weights stored once.

On request weights that are mostly zero are stored sparse, each behind a DENSIFY: LiteRT unpacks it once. Its kernels do not read
sparse operands themselves: they take the stored elements for the dense ones, without an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ...formats import tflite, tflite_sparse
from ...formats.tflite import Record
from ...formats.tflite_schema import ENUMS, OPTIONS_OF, SCHEMA_VERSION
from ...formats.tflite_versions import OpFacts, TensorFacts, version_of
from ...ir import storage
from ...ir.errors import InternalError
from ...ir.graph import Graph, Module
from ...ir.opdef import SAME_QUANT
from ...ir.provenance import notes_of
from ...ir.tensor import Tensor, as_tensor
from ...ir.types import F16, F32, I8, TensorType
from ...ir.value import Node, Value
from .emit.integer import Parameters, parameters
from .selfcheck import check
from .table import TENSOR_TYPES, rows

# Option slots that hold members of an enum, which the IR spells by name.
_SLOT_ENUMS = {
    "padding": "Padding",
    "fused_activation_function": "ActivationFunctionType",
    "mode": "MirrorPadMode",
    **dict.fromkeys(("in_data_type", "out_data_type", "output_type", "out_type"), "TensorType"),
}
#: Which weights may come out of a DENSIFY, by the operator that reads them. XNNPACK takes integers as the weights of
#: FULLY_CONNECTED, and of any product of float data, only as constants, and fails.
_UNPACKED = {
    "FULLY_CONNECTED": (F32,),
    "DEQUANTIZE": (F16, I8),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), (F32, I8)),
}
#: Metadata under which the symbolic dims of the inputs are kept.
SHAPES = "anyir.shapes"
_REGION_SLOTS = {
    "if": ("then_subgraph_index", "else_subgraph_index"),
    "tfl.while": ("cond_subgraph_index", "body_subgraph_index"),
}


def write_legal(
    module: Module,
    path: str | os.PathLike[str],
    external_data: bool | None = None,
    protect: Iterable[str | os.PathLike[str]] = (),
    sparse: bool = False,
) -> list[str]:
    """Check the records of a legal module and write the file, whole or not at all; returns the files."""
    model, payloads = emit(module, sparse)
    check(model, [0 if p is None else p.nbytes for p in payloads])
    guarded = [*protect, *(file.path for file in module.files)]
    with storage.atomic_write(path, protect=guarded) as file:
        tflite.write(model, payloads, file, outside=external_data)
    return [os.fspath(path)]


def emit(module: Module, sparse: bool = False) -> tuple[Record, list[Tensor | None]]:
    """The `Model` record of a legal module, and the contents of its buffers."""
    return _Model(module, sparse).build()


class _Model:
    """What the subgraphs share: buffers, operator codes, the numbering of regions."""

    def __init__(self, module: Module, sparse: bool) -> None:
        self.module = module
        self.sparse = sparse
        self.payloads: list[Tensor | None] = [None]
        self.buffer_of: dict[bytes, int] = {}
        self.codes: dict[tuple[str, int], int] = {}
        self.graphs: list[Graph] = []
        for signature in module.signatures.values():
            if signature.graph not in self.graphs:
                self.graphs.append(signature.graph)
        if not self.graphs:
            self.graphs.append(module.main)

    def build(self) -> tuple[Record, list[Tensor | None]]:
        subgraphs: list[_Subgraph] = []
        while len(subgraphs) < len(self.graphs):  # regions are appended while their nodes are emitted
            graph = self.graphs[len(subgraphs)]
            subgraphs.append(_Subgraph(self, graph))
            subgraphs[-1].emit()
        model = Record(
            "Model",
            version=SCHEMA_VERSION,
            operator_codes=[self._code(name, version) for name, version in self.codes],
            subgraphs=[s.record for s in subgraphs],
            description="anyir",
            buffers=[Record("Buffer") for _ in self.payloads],
            signature_defs=[self._signature(key, subgraphs) for key in self.module.signatures],
        )
        for name, noted in self._notes():
            model["metadata"] = [*model.get("metadata", ()), Record("Metadata", name=name, buffer=len(self.payloads))]
            self.payloads.append(as_tensor(np.frombuffer(noted, np.uint8)))
            model["buffers"].append(Record("Buffer"))
        return model, self.payloads

    def _notes(self) -> Iterator[tuple[str, bytes]]:
        """What the format has no place for: dims of the inputs, and where a compressed model comes from."""
        if dims := self._input_dims():
            yield SHAPES, dims
        for key, text in notes_of(self.module).items():
            yield key, text.encode()

    def _input_dims(self) -> bytes:
        """Symbolic dims of the inputs by name: the format itself cannot say which of them are equal."""
        dims: dict[str, list[str]] = {}
        for signature in self.module.signatures.values():
            for slot, value in zip(signature.inputs, signature.graph.inputs, strict=True):
                if isinstance(value.type, TensorType) and not value.type.is_static:
                    dims[slot.name] = [str(d) for d in value.shape or ()]
        return json.dumps(dims, sort_keys=True).encode() if dims else b""

    @staticmethod
    def _code(name: str, version: int) -> Record:
        code = ENUMS["BuiltinOperator"][name]
        return Record("OperatorCode", builtin_code=code, deprecated_builtin_code=min(code, 127), version=version)

    def _signature(self, key: str, subgraphs: list[_Subgraph]) -> Record:
        signature = self.module.signatures[key]
        index = self.graphs.index(signature.graph)
        record = subgraphs[index].record

        def maps(slots: list, tensors: list[int]) -> list[Record]:
            return [Record("TensorMap", name=s.name, tensor_index=t) for s, t in zip(slots, tensors, strict=True)]

        return Record(
            "SignatureDef",
            inputs=maps(signature.inputs, record["inputs"]),
            outputs=maps(signature.outputs, record["outputs"]),
            signature_key=key,
            subgraph_index=index,
        )

    def buffer(self, tensor: Tensor) -> int:
        """The buffer with these contents; equal contents are stored once."""
        if not tensor.nbytes:
            return 0
        digest = tensor.digest()
        found = self.buffer_of.get(digest)
        if found is None:
            found = self.buffer_of[digest] = len(self.payloads)
            self.payloads.append(tensor)
        return found

    def region(self, graph: Graph) -> int:
        self.graphs.append(graph)
        return len(self.graphs) - 1

    def code(self, builtin: str, version: int) -> int:
        return self.codes.setdefault((builtin, version), len(self.codes))


class _Subgraph:
    """One graph: its tensors and operators."""

    def __init__(self, model: _Model, graph: Graph) -> None:
        self.model = model
        self.graph = graph
        self.tensors: list[Record] = []
        self.facts: list[TensorFacts] = []
        self.index: dict[Value, int] = {}
        self.literals: dict[bytes, int] = {}
        self.names: dict[str, int] = {}
        self.quant = _quantisation(graph)
        self.record = Record("SubGraph", tensors=self.tensors, operators=[], name=graph.name or "main")

    def emit(self) -> None:
        names = self._interface_names()
        self.names = dict.fromkeys(names.values(), 0)
        for value in self.graph.inputs:
            self._tensor(value, names.get(value))
        self.record["inputs"] = [self.index[v] for v in self.graph.inputs]
        for node in self.graph.nodes():
            self._node(node, names)
        self.record["outputs"] = [self._operand(v) for v in self.graph.outputs]

    def _interface_names(self) -> dict[Value, str]:
        """The user's names for inputs and outputs; a name that both sides have belongs to the input."""
        names: dict[Value, str] = {}
        for signature in self.model.module.signatures.values():
            if signature.graph is self.graph:
                pairs = [*zip(self.graph.inputs, signature.inputs, strict=True)]
                pairs += zip(self.graph.outputs, signature.outputs, strict=True)
                for value, slot in pairs:
                    if slot.name not in names.values():
                        names.setdefault(value, slot.name)
        return names

    def _unique(self, wanted: str) -> str:
        name, count = wanted, self.names.get(wanted)
        while name in self.names:
            count = (count or 0) + 1
            name = f"{wanted}_{count}"
        self.names[wanted] = count or 0
        self.names[name] = 0
        return name

    def _add(self, record: Record, dtype: str, quant: Record | None) -> int:
        scales = [] if quant is None else quant["scale"]
        shape = tuple(record["shape"])
        self.facts.append(TensorFacts(dtype, shape, len(scales), float(scales[0]) if len(scales) else 0.0))
        self.tensors.append(record)
        return len(self.tensors) - 1

    def _tensor(self, value: Value, name: str | None = None, buffer: int = 0) -> int:
        type_ = value.type
        assert isinstance(type_, TensorType) and type_.dtype is not None  # the table refuses everything else
        dims = type_.shape or ()
        quant = self.quant.get(value)
        record = Record(
            "Tensor",
            shape=[d if type(d) is int else 1 for d in dims],
            type=ENUMS["TensorType"][TENSOR_TYPES[type_.dtype]],
            buffer=buffer,
            name=name or self._unique(value.hint or "value"),
            has_rank=type_.shape is not None,
        )
        if any(type(d) is not int for d in dims):
            record["shape_signature"] = [d if type(d) is int else -1 for d in dims]
        if quant is not None:
            record["quantization"] = quant
        self.index[value] = self._add(record, TENSOR_TYPES[type_.dtype], quant)
        return self.index[value]

    def _operand(self, value: Value | np.ndarray | None) -> int:
        if value is None:
            return -1
        if isinstance(value, np.ndarray):
            return self._literal(value)
        if value not in self.index and value.is_const:
            weight = value.weight
            return self._tensor(value, self._unique(weight.key), self.model.buffer(weight.tensor))
        return self.index[value]

    def _packed(self, value: Value) -> None:
        """Store a weight that only one operator reads sparse and unpack it, where that makes the file smaller."""
        if value in self.index or not value.is_const or value.n_uses > 1:
            return
        found = tflite_sparse.encode(value.array())
        if found is None:
            return
        elements, sparsity = found
        packed = self._tensor(value, self._unique(value.weight.key), self.model.buffer(as_tensor(elements)))
        self.tensors[packed]["sparsity"] = sparsity
        unpacked = self._tensor(value, self._unique(f"{value.weight.key}_unpacked"))
        code = self.model.code("DENSIFY", 1)
        options = Record("DensifyOptions")
        made = Record("Operator", opcode_index=code, inputs=[packed], outputs=[unpacked], builtin_options=options)
        self.record["operators"].append(made)

    def _literal(self, array: np.ndarray) -> int:
        """A constant that exists in the file only (shapes, axes, paddings)."""
        tensor = as_tensor(array)
        key = tensor.digest()
        if key not in self.literals:
            dtype = TENSOR_TYPES[tensor.dtype]
            record = Record(
                "Tensor",
                shape=list(array.shape),
                type=ENUMS["TensorType"][dtype],
                buffer=self.model.buffer(tensor),
                name=self._unique("const"),
                has_rank=True,
            )
            self.literals[key] = self._add(record, dtype, None)
        return self.literals[key]

    def _node(self, node: Node, names: Mapping[Value, str]) -> None:
        row = rows()[node.name]
        emitted = row.emit(node)
        builtin = emitted.builtin or row.builtin
        if self.model.sparse:
            for value in emitted.inputs:
                if (
                    isinstance(value, Value)
                    and value.dtype in _UNPACKED.get(builtin, ())
                    and not _is_hybrid(node, value)
                ):
                    self._packed(value)
        inputs = [self._operand(v) for v in emitted.inputs]
        mutating: list[int] = []
        if builtin == "UNIDIRECTIONAL_SEQUENCE_LSTM":
            mutating = [18, 19]
            inputs[18], inputs[19] = (self._state(node, kind) for kind in ("output_state", "cell_state"))
        outputs = [self._tensor(v, names.get(v)) for v in node.results]
        options = self._options(builtin, emitted.options, node)
        facts = OpFacts(
            tuple(None if i < 0 else self.facts[i] for i in inputs),
            tuple(self.facts[i] for i in outputs),
            emitted.options,
        )
        record = Record(
            "Operator",
            opcode_index=self.model.code(builtin, version_of(builtin, facts)),
            inputs=inputs,
            outputs=outputs,
        )
        if options is not None:
            record["builtin_options"] = options
        if mutating:
            record["mutating_variable_inputs"] = [i in mutating for i in range(len(inputs))]
        self.record["operators"].append(record)

    def _options(self, builtin: str, given: Mapping[str, Any], node: Node) -> Record | None:
        table = OPTIONS_OF.get(builtin)
        if table is None:
            return None
        slots = {k: ENUMS[_SLOT_ENUMS[k]][v] if isinstance(v, str) else v for k, v in given.items()}
        if node.regions:
            slots |= {s: self.model.region(r) for s, r in zip(_REGION_SLOTS[node.name], node.regions, strict=True)}
        return Record(table, slots)

    def _state(self, node: Node, kind: str) -> int:
        """A variable of an LSTM: [batch, hidden], zero at first."""
        batch, hidden = node.result.shape[1:]
        shape = [d if type(d) is int else 1 for d in (batch, hidden)]
        record = Record(
            "Tensor",
            shape=shape,
            type=ENUMS["TensorType"]["FLOAT32"],
            name=self._unique(kind),
            is_variable=True,
            has_rank=True,
        )
        return self._add(record, "FLOAT32", None)


def _is_hybrid(node: Node, value: Value) -> bool:
    """A product of float data with integer weights."""
    data = node.operands[0]
    return value.dtype is I8 and data is not value and data is not None and data.dtype is F32


def _quantisation(graph: Graph) -> dict[Value, Record]:
    """Scales and zero points of integer values: what their makers and readers say, and of what moves them.

    Raises InternalError where two of them disagree.
    """
    found: dict[Value, Parameters] = {}
    pending: list[Value] = []

    def note(value: Value, made: Parameters) -> None:
        known = found.get(value)
        if known is None:
            found[value] = made
            pending.append(value)
        elif not known.same(made):
            raise InternalError(f"%{value.hint} is quantised by {made.scales[:3]} and by {known.scales[:3]}")

    for node in graph.nodes():
        for value, made in parameters(node):
            note(value, made)
    while pending:
        value = pending.pop()
        made = found[value]
        if len(made.scales) == 1:
            for moved in _same_scale(value):
                note(moved, made)
    return {value: _record(made) for value, made in found.items()}


def _same_scale(value: Value) -> Iterator[Value]:
    """What shares scale and zero point with `value`: it goes into, or comes out of, an op that keeps them."""
    for node in (*([value.node] if value.node is not None else ()), *value.users):
        if node.has(SAME_QUANT):
            for other in (*node.inputs(), *node.results):
                if other is not value and other.dtype is value.dtype:
                    yield other


def _record(made: Parameters) -> Record:
    return Record("QuantizationParameters", scale=made.scales, zero_point=made.zeros, quantized_dimension=made.axis)
