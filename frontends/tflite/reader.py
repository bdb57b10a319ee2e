"""Turns the records of a TFLite file into a module: tensors, signatures, subgraphs as graphs and regions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence

import numpy as np

from ...formats import tflite, tflite_sparse
from ...formats.tflite import Record
from ...formats.tflite_schema import OP_NAMES, TYPE_NAMES
from ...ir import types as t
from ...ir.builder import Builder
from ...ir.dims import Dim, parse_dim, sym
from ...ir.errors import AnyIRError, InvalidModel, Unsupported, clean
from ...ir.graph import Graph, Module, bulk
from ...ir.provenance import MOST_BYTES, take
from ...ir.storage import MappedFile, check_limit, map_file
from ...ir.tensor import MappedTensor
from ...ir.types import DType, TensorType, Type
from ...ir.value import Value
from ...ir.verify import verify
from . import quant
from .registry import Call, handlers

#: Metadata under which our writer keeps the symbolic dims of the inputs.
SHAPES = "anyir.shapes"
#: The longest note of a writer that is read.
_DTYPES: dict[str, DType] = {
    "FLOAT32": t.F32, "FLOAT16": t.F16, "FLOAT64": t.F64, "BFLOAT16": t.BF16, "BOOL": t.BOOL, "INT2": t.I2,
    "INT4": t.I4, "INT8": t.I8, "INT16": t.I16, "INT32": t.I32, "INT64": t.I64, "UINT4": t.U4, "UINT8": t.U8, "UINT16": t.U16,
    "UINT32": t.U32, "UINT64": t.U64, "COMPLEX64": t.C64, "COMPLEX128": t.C128,
    "FLOAT8_E4M3FN": t.F8E4M3FN, "FLOAT8_E5M2": t.F8E5M2,
}  # fmt: skip


def read(source: str | os.PathLike[str]) -> Module:
    """See the package."""
    file = map_file(source)
    try:
        return _File(file).module()
    except AnyIRError as error:
        raise error.at(clean(os.path.basename(file.path))) from None


class _File:
    """What the subgraphs share."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.view = file.view()
        self.model = tflite.parse(self.view)
        self.subgraphs = self.model["subgraphs"] or []
        self.buffers = self.model["buffers"] or []
        self.codes = [self._code(code) for code in self.model["operator_codes"] or []]
        if not self.subgraphs:
            raise InvalidModel("the file has no subgraph", code="F232")
        operators = sum(len(graph["operators"] or ()) for graph in self.subgraphs)
        check_limit("items", operators, "operators")
        self.result = Module(os.path.basename(file.path))
        self.result.files.append(file)
        self.symbols = self._symbols()

    @staticmethod
    def _code(record: Record) -> str:
        code = max(record["builtin_code"], record["deprecated_builtin_code"])
        if code not in OP_NAMES:
            raise Unsupported(f"operator code {code} is unknown", code="U231")
        return f"CUSTOM {clean(record['custom_code'])}" if OP_NAMES[code] == "CUSTOM" else OP_NAMES[code]

    def module(self) -> Module:
        with bulk():
            for index, key, inputs, outputs in self._entries():
                graph = self.result.add_graph(key if key not in self.result.graphs else f"{key}_{index}")
                SubgraphReader(self, index, graph).run(names=inputs)
                self.result.add_signature(key, graph, inputs, outputs)
        self.result.metadata["producer"] = clean(self.model["description"] or "tflite")
        take(self.result, {name: raw.decode("utf-8", "replace") for name, raw in self._notes() if name != SHAPES})
        verify(self.result, allow_channels_last=True)
        return self.result

    def _entries(self) -> list[tuple[int, str, list[str], list[str]]]:
        """(subgraph, key, input names, output names) of every signature; subgraph 0 by tensor names without any."""
        found = []
        for signature in self.model["signature_defs"] or ():
            index = signature["subgraph_index"]
            if index >= len(self.subgraphs):
                raise InvalidModel(f"a signature of subgraph {index}, which is not there", code="F232")
            names = [
                self._ordered(signature[side] or (), self.subgraphs[index][side]) for side in ("inputs", "outputs")
            ]
            found.append((index, signature["signature_key"] or "serving_default", *names))
        if found:
            return found
        graph = self.subgraphs[0]
        inputs, outputs = (_unique([self._name(graph, i) for i in _indices(graph[s])]) for s in ("inputs", "outputs"))
        return [(0, "serving_default", inputs, outputs)]

    def _name(self, graph: Record, index: int) -> str:
        tensors = graph["tensors"] or []
        if not 0 <= index < len(tensors):
            raise InvalidModel(f"tensor {index} is not there", code="F233")
        return tensors[index]["name"] or f"tensor_{index}"

    @staticmethod
    def _ordered(entries: Sequence[Record], tensors: Sequence[int]) -> list[str]:
        """The signature's names in the order of the subgraph's tensors."""
        waiting: dict[int, list[str]] = {}
        for entry in entries:
            waiting.setdefault(entry["tensor_index"], []).append(entry["name"] or "")
        names = [waiting.get(index, [""]).pop(0) if waiting.get(index) else "" for index in _indices(tensors)]
        if len(entries) != len(names) or "" in names:
            raise InvalidModel("a signature does not name the tensors of its subgraph", code="F234")
        return names

    def _symbols(self) -> dict[str, list[str]]:
        """Dims of the inputs by name as our writer noted them, so that equal symbols stay equal."""
        for name, raw in self._notes():
            if name == SHAPES:
                try:
                    found = json.loads(raw)
                except (ValueError, RecursionError):
                    return {}
                return found if _is_shapes(found) else {}
        return {}

    def _notes(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of the metadata entries that are there and below MOST_BYTES."""
        for entry in self.model["metadata"] or ():
            if entry["buffer"] < len(self.buffers):
                raw = tflite.buffer_bytes(self.view, self.buffers[entry["buffer"]])
                if len(raw) < MOST_BYTES:
                    yield entry["name"] or "", bytes(raw)


def _is_shapes(found: object) -> bool:
    rows = found.values() if isinstance(found, dict) else [None]
    return all(isinstance(row, list) and all(isinstance(d, str) for d in row) for row in rows)


def _indices(raw: object) -> list[int]:
    return [] if raw is None else [int(i) for i in raw]  # type: ignore[attr-defined]


def _unique(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]


def _fits(declared: tuple[int, ...], value: Value) -> bool:
    """The declared shape says the same as the inferred one, or more."""
    if value.shape is None or len(declared) != len(value.shape):
        return False
    return all(type(d) is not int or d == n for d, n in zip(value.shape, declared, strict=True))


class SubgraphReader:
    """Fills one graph from one subgraph. Regions are read by the handlers of IF and WHILE through `region`."""

    def __init__(self, file: _File, index: int, graph: Graph, depth: int = 0) -> None:
        check_limit("nesting", depth, "subgraphs within subgraphs")
        self.file = file
        self.depth = depth
        self.graph = graph
        self.record = file.subgraphs[index]
        self.tensors = self.record["tensors"] or []
        self.values: dict[int, Value] = {}
        self.floats: dict[int, Value] = {}
        self.where = clean(self.record["name"] or f"subgraph {index}")

    def run(self, names: Sequence[str] = (), given: Sequence[Type] = ()) -> None:
        """Read everything. `given` are better types of the inputs, known where a region is entered."""
        for position, index in enumerate(_indices(self.record["inputs"])):
            name = names[position] if position < len(names) else ""
            type_ = given[position] if given else self._input_type(index, name)
            self.values[index] = self.graph.add_input(type_, name or self._tensor(index)["name"] or "")
        for number, operator in enumerate(self.record["operators"] or ()):
            try:
                self._operator(operator)
            except AnyIRError as error:
                raise error.at(f"{self.where}: operator {number}") from None
        self.graph.set_outputs([self.value(index) for index in _indices(self.record["outputs"])])

    def region(self, index: int, given: Sequence[Type]) -> Graph:
        """Another subgraph as a region. Raises InvalidModel when it is not there."""
        if not 0 < index < len(self.file.subgraphs):
            raise InvalidModel(f"subgraph {index} is not there", code="F232")
        made = self.graph.module.new_region(clean(self.file.subgraphs[index]["name"] or ""))
        SubgraphReader(self.file, index, made, self.depth + 1).run(given=given)
        return made

    def _tensor(self, index: int) -> Record:
        if not 0 <= index < len(self.tensors):
            raise InvalidModel(f"tensor {index} is not there", code="F233", where=self.where)
        return self.tensors[index]

    def dtype(self, index: int) -> DType:
        name = TYPE_NAMES.get(self._tensor(index)["type"], "?")
        if name not in _DTYPES:
            raise Unsupported(f"tensors of type {name}", code="U232", where=self.where)
        return _DTYPES[name]

    def types(self, indices: Sequence[int]) -> list[TensorType]:
        """The declared types; dynamic dims are unknown."""
        return [TensorType(self.dtype(i), self._declared(i)) for i in _indices(indices)]

    def _declared(self, index: int) -> tuple[int, ...] | None:
        """The static shape, None where a dim is dynamic or nothing is said."""
        tensor = self._tensor(index)
        signature = tensor["shape_signature"]
        dims = signature if signature is not None and len(signature) else tensor["shape"]
        if dims is None or not len(dims):
            return () if tensor["has_rank"] else None
        return None if min(dims) < 0 else tuple(int(d) for d in dims)

    def _input_type(self, index: int, name: str) -> TensorType:
        tensor = self._tensor(index)
        signature, shape = tensor["shape_signature"], tensor["shape"]
        dims = signature if signature is not None and len(signature) else shape
        if dims is None or not len(dims):
            return TensorType(self.dtype(index), ())
        noted = self.file.symbols.get(name, ())
        made: list[Dim] = []
        for axis, dim in enumerate(dims):
            if dim >= 0:
                made.append(int(dim))
            else:
                made.append(parse_dim(noted[axis]) if len(noted) == len(dims) else sym(f"d{index}_{axis}"))
        return TensorType(self.dtype(index), tuple(made))

    def value(self, index: int) -> Value:
        """The value of a tensor; constants are made on first use."""
        found = self.values.get(index)
        if found is None:
            found = self.values[index] = self._constant(index)
        return found

    def is_variable(self, index: int) -> bool:
        return bool(self._tensor(index)["is_variable"])

    def _constant(self, index: int) -> Value:
        tensor = self._tensor(index)
        number, dtype = tensor["buffer"], self.dtype(index)
        if number >= len(self.file.buffers):
            raise InvalidModel(f"buffer {number} is not there", code="F233", where=self.where)
        shape = tuple(int(d) for d in (tensor["shape"] if tensor["shape"] is not None else ()))
        start, length = tflite.buffer_range(self.file.view, self.file.buffers[number])
        if min(shape, default=0) < 0 or (not length and 0 not in shape):
            raise InvalidModel(f"tensor {clean(tensor['name'] or index)!r} is used but never computed", code="F235")
        key = tensor["name"] or f"tensor_{index}"
        b = Builder(self.graph)
        if tensor["sparsity"] is not None:
            if dtype.is_packed or length % dtype.numpy.itemsize:
                raise InvalidModel(f"{length} bytes of sparse {dtype}", code="F239", where=clean(key))
            values = np.frombuffer(self.file.view[start : start + length], dtype.numpy)
            return b.const(tflite_sparse.decode(tensor["sparsity"], values, shape, clean(key)), key=key, role="param")
        if not length:
            return b.const(np.zeros(shape, dtype.numpy))
        mapped = MappedTensor(self.file.file, start, length, dtype, shape)
        return b.const(mapped if length > 1 << 12 else mapped.numpy().copy(), key=key, role="param")

    def _operator(self, record: Record) -> None:
        code = record["opcode_index"]
        if code >= len(self.file.codes):
            raise InvalidModel(f"operator code {code} is not there", code="F233")
        builtin = self.file.codes[code]
        handler = handlers().get(builtin)
        if handler is None:
            raise Unsupported(f"operator {builtin} is not read", code="U234", hint="irc ops lists what is")
        operands = quant.operands(self, builtin, _indices(record["inputs"]))
        options = record["builtin_options"] or record["builtin_options_2"]
        made = handler(Call(builtin, Builder(self.graph), operands, options, self, record))
        results = [made] if isinstance(made, Value) else list(made)
        outputs = _indices(record["outputs"])
        if len(results) != len(outputs):
            raise InvalidModel(f"{builtin} has {len(outputs)} results, it makes {len(results)}", code="F236")
        for index, value in zip(outputs, results, strict=True):
            if value.dtype is t.F32 and builtin not in quant.PLAIN and quant.is_quantised(self, index):
                value = quant.integers(self, index, value)
            self._define(builtin, index, value)

    def _define(self, builtin: str, index: int, value: Value) -> None:
        dtype = self.dtype(index)
        if value.dtype is not dtype:
            raise InvalidModel(f"{builtin} makes {value.dtype}, the file declares {dtype}", code="F236")
        if index in self.values:
            raise InvalidModel(f"tensor {index} is computed twice", code="F236")
        declared = self._declared(index)
        if declared is not None and not value.is_const and _fits(declared, value):
            value.refine(TensorType(dtype, declared))
        value.hint = value.hint or (self._tensor(index)["name"] or "")
        self.values[index] = value
