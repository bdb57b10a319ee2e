"""A legalised module as a ModelProto in plain dicts: one node per call, constants and tuples spelled out.

Knows the rules of the file (unique names, `shape` and `domain` on every node, arguments counted) and no operator.
Must not import MindSpore.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...formats import mindir
from ...ir.errors import InternalError, Unsupported, clean
from ...ir.graph import Graph, Module
from ...ir.provenance import notes_of
from ...ir.signature import Signature
from ...ir.tensor import Tensor, as_tensor
from ...ir.types import TensorType
from ...ir.value import Node, Value
from . import registry
from .arity import ARITY
from .registry import Call, Shape, Tensors

PRODUCER = "anyir"
#: Constants up to this size are Constant nodes, which MindSpore folds; larger ones and all weights are parameters.
INLINE_BYTES = 4096


class Names:
    """Names that are unique in the whole model."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def unique(self, wanted: str) -> str:
        """`wanted`, or with the first free number behind it; amortised O(1)."""
        name, count = wanted, self._used.get(wanted, 0)
        while name in self._used:
            count += 1
            name = f"{wanted}_{count}"
        self._used[wanted] = count
        self._used.setdefault(name, 0)
        return name


class Emission:
    """Builds the model. After `build`, `record` is the ModelProto and `parameters` the weights in file order."""

    def __init__(self, module: Module, signature: Signature, version: str) -> None:
        self.module = module
        self.signature = signature
        self.version = version
        self.names = Names()
        self.parameters: list[tuple[str, Tensor]] = []
        self.primitives: dict[tuple, dict[str, Any]] = {}
        self.functions: list[dict[str, Any]] = []
        self.by_weight: dict[Value, str] = {}
        self.ops = 0

    def build(self) -> dict[str, Any]:
        """The ModelProto without its parameters."""
        graph = self.signature.graph
        inputs = self._reserve(self.signature.input_names(), "input")
        outputs = self._reserve(self.signature.output_names(), "output")
        body = GraphEmission(self, "main")
        for value, name in zip(graph.inputs, inputs, strict=True):
            body.by_value[value] = name
        body.wanted = dict(zip(graph.outputs, outputs, strict=True))
        body.nodes_of(graph)
        record = {
            "name": "main",
            "node": body.nodes,
            "input": [self._interface(v, n) for v, n in zip(graph.inputs, inputs, strict=True)],
            "output": [self._interface(v, n) for v, n in zip(graph.outputs, outputs, strict=True)],
        }
        return {
            "ir_version": "1.1",
            "producer_name": PRODUCER,
            "producer_version": self.version,
            "model_version": f"{PRODUCER}-{self.version}",
            "little_endian": True,
            "graph": record,
            "functions": self.functions,
            "primitives": list(self.primitives.values()),
            "mind_ir_version": mindir.MODERN_VERSION,
            "user_info": [{"key": key, "value": text} for key, text in notes_of(self.module).items()],
        }

    def _reserve(self, names: list[str], kind: str) -> list[str]:
        """The user's names as they are. Raises Unsupported when an output has the name of an input."""
        made = []
        for name in names:
            full = f"main:{name}"
            if self.names.unique(full) != full:
                raise Unsupported(f"two inputs or outputs are called '{clean(name)}'", hint=f"rename the {kind}")
            made.append(full)
        return made

    def _interface(self, value: Value, name: str) -> dict[str, Any]:
        """A ValueInfoProto; the type with its symbols stands in the comment, for -1 forgets them."""
        return {"name": name, "tensor": [{**abstract_tensor(value), "name": name}], "doc_string": str(value.type)}

    def parameter(self, value: Value) -> str:
        """The name of a weight, which becomes a parameter of the main graph."""
        name = self.by_weight.get(value)
        if name is None:
            name = self.by_weight[value] = self.names.unique(f"main:{value.weight.key}")
            self.parameters.append((name, value.weight.tensor))
        return name

    def primitive(self, op_type: str, attrs: dict[str, Any]) -> str:
        """The name of the PrimitiveProto of this op with these attributes; equal ones are shared."""
        key = (op_type, *((name, repr(value)) for name, value in attrs.items()))
        found = self.primitives.get(key)
        if found is None:
            number = len(self.primitives)
            attributes = [mindir.encode_value(name, value) for name, value in attrs.items()]
            found = {"name": f"{op_type}:{number}", "op_type": op_type, "attribute": attributes}
            found |= {"instance_name": "", "prim_type": 1}
            self.primitives[key] = found
        return found["name"]


class GraphEmission:
    """The nodes of one graph or function."""

    def __init__(self, model: Emission, prefix: str) -> None:
        self.model = model
        self.prefix = prefix
        self.nodes: list[dict[str, Any]] = []
        self.by_value: dict[Value, str] = {}
        self.wanted: dict[Value, str] = {}
        self.literals: dict[tuple, str] = {}
        self.shapes: dict[tuple, str] = {}

    def nodes_of(self, graph: Graph) -> None:
        for node in graph.nodes():
            if node.regions:
                from .control import emit_control

                emit_control(self, node)
            else:
                self._node(node)

    def _node(self, node: Node) -> None:
        emit = registry.ROWS[node.name].emit
        if emit is None:
            raise InternalError(f"{node.name} has no primitive")
        call = emit(node)
        if call.picks is None:
            self.call(call, abstract(node.result), self.take_name(node.result, call.primitive))
            return
        self._pick(node, call)

    def _pick(self, node: Node, call: Call) -> None:
        """A primitive with a tuple as result, and the elements that are used."""
        known = {place: abstract(value) for place, value in zip(call.picks or (), node.results, strict=True)}
        holder = abstract_tuple([known.get(i, next(iter(known.values()))) for i in range(max(known) + 1)])
        source = self._shared_shape(call) if call.primitive == "Shape" else self.call(call, holder)
        for place, value in zip(call.picks or (), node.results, strict=True):
            if value.n_uses:
                get = Call("TupleGetItem", (Ref(source), place))
                self.call(get, abstract(value), self.take_name(value, call.primitive))

    def _shared_shape(self, call: Call) -> str:
        """Shape(x) as a tuple, once per x."""
        x = call.args[0]
        if (x,) not in self.shapes:
            holder = abstract_tuple([_SCALAR] * x.rank)
            self.shapes[x,] = self.call(call, holder)
        return self.shapes[x,]

    def take_name(self, value: Value, primitive: str) -> str:
        """The output name that the user gave, else one from the hint; binds it to the value."""
        name = self.wanted.get(value) or self.model.names.unique(f"{self.prefix}:{value.hint or primitive}")
        self.by_value[value] = name
        return name

    def call(self, call: Call, shape: dict[str, Any], name: str | None = None) -> str:
        """Append one operator node. Raises InternalError for a primitive that is called wrongly."""
        expected = ARITY.get(call.primitive, -1)
        if expected is not None and expected != len(call.args):
            raise InternalError(f"{call.primitive} is called with {len(call.args)} arguments, it takes {expected}")
        inputs = [self.argument(arg) for arg in call.args]
        name = name or self.model.names.unique(f"{self.prefix}:{call.primitive}")
        self.append(
            f"REF::{self.model.primitive(call.primitive, dict(call.attrs))}", inputs, name, shape, call.primitive
        )
        return name

    def append(self, op_type: str, inputs: list[str], name: str, shape: dict[str, Any] | None, label: str) -> None:
        record: dict[str, Any] = {"input": inputs, "output": [name], "name": name, "op_type": op_type}
        if shape is not None:
            record["attribute"] = [{"name": "shape", **shape}]
        record["domain"] = f"Default/{label}-op{self.model.ops}"
        self.model.ops += 1
        self.nodes.append(record)

    def argument(self, arg: Any) -> str:
        """The name of an argument: a value's, or that of a constant node made for it."""
        if isinstance(arg, Ref):
            return arg.name
        if isinstance(arg, Value):
            return self.by_value[arg] if arg in self.by_value else self._constant(arg)
        if isinstance(arg, Tensors):
            return self.call(Call("MakeTuple", arg.values), abstract_tuple([abstract(v) for v in arg.values]))
        if isinstance(arg, Shape):
            known = arg.value.ints()
            return self.literal(tuple(known)) if known is not None else self.argument(arg.value)
        return self.literal(arg)

    def _constant(self, value: Value) -> str:
        weight = value.weight
        if weight is None:
            raise InternalError(f"%{value.hint} is used before it is made")
        if weight.role == "const" and weight.tensor.nbytes <= INLINE_BYTES:
            return self.literal(weight.tensor)
        return self.model.parameter(value)

    def literal(self, value: Any) -> str:
        """A Constant node; equal ones of a graph are one node."""
        tensor = isinstance(value, (np.ndarray, np.generic, Tensor))
        made = as_tensor(np.asarray(value)) if tensor and not isinstance(value, Tensor) else value
        key = (made.dtype, tuple(made.shape), made.digest()) if tensor else (type(value), repr(value))
        name = self.literals.get(key)
        if name is None:
            name = self.literals[key] = self.model.names.unique(f"{self.prefix}:const")
            attribute = mindir.encode_value("value", made)
            self.nodes.append({"op_type": "Constant", "output": [name], "name": name, "attribute": [attribute]})
        return name


class Ref:
    """An argument that is known by name."""

    def __init__(self, name: str) -> None:
        self.name = name


# ----------------------------------------------------------------------------------------- abstracts (`shape`)

_KINDS = mindir.ATTRIBUTE_TYPES


def _scalar(kind: str) -> dict[str, Any]:
    return {"type": _KINDS["SCALAR"], "tensors": [{"data_type": mindir.TENSOR_CODES[kind]}]}


_SCALAR = _scalar("i64")


def abstract_tensor(value: Value) -> dict[str, Any]:
    """Dims and data type: -1 for a dim that is not a number, [-2] for an unknown rank."""
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.dtype is None:
        raise InternalError(f"%{value.hint} is {type_}")
    dims = [-2] if type_.shape is None else [d if type(d) is int else -1 for d in type_.shape]
    return {"dims": dims, "data_type": mindir.tensor_code(type_.dtype)}


_TUPLES = ("ms.make_tuple", "ms.tensor_to_tuple")


def abstract(value: Value) -> dict[str, Any]:
    """What a node's `shape` attribute says of one value."""
    maker = value.node.name if value.node is not None else ""
    if maker in ("ms.dim", "ms.scalar", "ms.item"):
        return _scalar(value.dtype.name)
    if maker in _TUPLES and value.shape is not None and type(value.shape[0]) is int:
        return abstract_tuple([_SCALAR] * value.shape[0])
    return {"type": _KINDS["TENSORS"], "tensors": [abstract_tensor(value)]}


def abstract_tuple(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": _KINDS["TUPLE"], "values": items, "seq_info": {"is_dyn_len": False}}
