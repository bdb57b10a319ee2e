"""What emission rows talk to: it records ONNX nodes, knows what the opset allows, and makes helper values.

Records only; protobufs are made in `protos`. The same rows answer `legal`: a row that refuses, or whose nodes the schemas
of the chosen opset do not accept, makes the op illegal.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...formats.onnx import dtypes, schemas
from ...ir.graph import Graph, Node, Value
from ...ir.types import F64, I64, DType, MapType, OptionalType, SequenceType, TensorType, Type
from . import registry


class Refusal(Exception):
    """Why a node cannot be written at this opset; `opset` is the lowest one that could work, None when none does."""

    def __init__(self, reason: str, opset: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.opset = opset


@dataclass(frozen=True, slots=True)
class Literal:
    """A small constant that emission itself needs."""

    array: Any
    dtype: DType
    hint: str = "const"


@dataclass(eq=False, slots=True)
class Temp:
    """A value between two nodes of one row."""

    dtype: DType | None
    hint: str


Ref = Value | Literal | Temp | None


@dataclass(slots=True)
class Subgraph:
    """A region as an attribute: `aliases` leads its captured inputs to outer values, `inputs` stay inputs."""

    region: Graph
    aliases: dict[Value, Value | None]
    inputs: list[Value]


@dataclass(slots=True)
class Draft:
    """One ONNX node to be. `graphs` are attributes whose value is a region or a list of regions; `version` is that of a
    domain other than the default one. A `foreign` node is not checked and stays even where nobody uses it; `gives` says
    which of its results it names, `protos` are attributes as the source's bytes. With a `body` the node is a call of the
    function that this region becomes."""

    op_type: str
    inputs: list[Ref]
    outputs: list[Value | Temp | None]
    attrs: dict[str, Any]
    domain: str = ""
    version: int = 0
    foreign: bool = False
    source: Node | None = None
    graphs: dict[str, Subgraph | list[Subgraph]] = field(default_factory=dict)
    overload: str = ""
    gives: tuple[bool, ...] | None = None
    protos: tuple[bytes, ...] = ()
    body: Graph | None = None

    def subgraphs(self) -> Iterator[Subgraph]:
        for value in self.graphs.values():
            yield from value if isinstance(value, list) else (value,)


class Emitter:
    """Collects the drafts of one node at a time, for one opset."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.drafts: list[Draft] = []
        self._source: Node | None = None

    def emit(self, node: Node) -> list[Draft]:
        """The drafts of one IR node, checked against the schemas. Raises Refusal."""
        self.drafts, self._source = [], node
        row = registry.row_for(node.op.name, self.opset)
        if row is None:
            first = registry.first_opset(node.op.name)
            raise Refusal(
                f"ONNX has no operator for {node.op.name}" + (f" before opset {first}" if first else ""), first
            )
        row(self, node)
        for draft in self.drafts:
            check(draft, self.opset)
        return self.drafts

    # What rows use.

    def node(
        self,
        op_type: str,
        inputs: Iterable[Ref],
        *,
        outputs: Sequence[Value | Temp | None] | None = None,
        graphs: dict[str, Subgraph] | None = None,
        domain: str = "",
        version: int = 0,
        **attrs: Any,
    ) -> None:
        """An ONNX node that yields the IR node's results (or `outputs`), in another domain at its newest version unless
        one is given. Attributes that are None are left out."""
        made = list(self._source.results if outputs is None else outputs)  # type: ignore[union-attr]
        given = {name: value for name, value in attrs.items() if value is not None}
        self._check_floats(given)
        if domain and not version:
            version = max(schemas.newest(domain), 1)
        self._add(op_type, inputs, made, given, domain=domain, version=version, graphs=graphs or {})

    def _add(self, op_type: str, inputs: Iterable[Ref], outputs: list, attrs: dict, **more: Any) -> None:
        self.drafts.append(Draft(op_type, list(inputs), outputs, attrs, source=self._source, **more))

    def _check_floats(self, attrs: dict[str, Any]) -> None:
        """ONNX keeps float attributes in 32 bits: too few for some that belong to float64 data."""
        wide = any(v.dtype is F64 for v in self._source.results)  # type: ignore[union-attr]
        for name, value in attrs.items():
            if wide and isinstance(value, float) and float(np.float32(value)) != value:
                raise Refusal(f"{name} = {value} is not exact in an attribute")

    def foreign(
        self, op_type: str, domain: str, version: int, inputs: Iterable[Ref], attrs: dict[str, Any], **more: Any
    ) -> None:
        """A node of a domain that we don't know; its attributes are written as they are."""
        made: list[Value | Temp | None] = list(self._source.results)  # type: ignore[union-attr]
        self._add(op_type, inputs, made, attrs, domain=domain, version=version, foreign=True, **more)

    def call(self, name: str, domain: str, overload: str, inputs: Iterable[Ref], body: Graph) -> None:
        """A call of a function."""
        self._add(name, inputs, list(self._source.results), {}, domain=domain, overload=overload, body=body)  # type: ignore[union-attr]

    def temp(self, op_type: str, inputs: Iterable[Ref], dtype: DType | None, **attrs: Any) -> Temp:
        """An ONNX node with one result for the row's own use."""
        made = Temp(dtype, op_type.lower())
        self.node(op_type, inputs, outputs=[made], **attrs)
        return made

    def ints(self, values: Iterable[int]) -> Literal:
        """A vector of i64."""
        return Literal(np.asarray(tuple(values), np.int64), I64)

    def literal(self, array: Any, dtype: DType | None) -> Literal:
        """A constant of this dtype. Raises Refusal where the dtype is not known."""
        if dtype is None:
            raise Refusal("the dtype of an operand is not known")
        return Literal(np.asarray(array, dtype.numpy), dtype)

    def refuse(self, reason: str) -> Refusal:
        return Refusal(reason)

    def needs(self, opset: int, reason: str) -> None:
        """Refuse below `opset`."""
        if self.opset < opset:
            raise Refusal(f"{reason} needs opset {opset}", opset)

    def known(self, value: Value | None, what: str, since: int) -> tuple[int, ...] | None:
        """An operand that is an attribute before opset `since`: its elements, which must be known then."""
        if value is None:
            return None
        elements = value.ints()
        if elements is None:
            raise Refusal(f"{what} must be constant before opset {since}", since)
        return elements


class Form(NamedTuple):
    """What schemas look at: the spelled types of inputs and outputs (None: absent or not known), attribute names."""

    op_type: str
    domain: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str | None, ...]
    attributes: tuple[str, ...]


def check(draft: Draft, opset: int) -> None:
    """The operator exists at `opset` and takes these element types. Raises Refusal with the lowest opset that does."""
    if draft.foreign or draft.body is not None:
        return
    inputs, outputs = (tuple(map(spell, refs)) for refs in (draft.inputs, draft.outputs))
    form = Form(draft.op_type, draft.domain, inputs, outputs, (*draft.attrs, *draft.graphs))
    verdict = judge(form, draft.version if draft.domain else opset)
    if verdict is not None:
        raise Refusal(verdict[0], None if draft.domain else verdict[1])


@functools.cache
def judge(form: Form, opset: int) -> tuple[str, int | None] | None:
    """None when the schemas of `opset` accept the form, else the reason and the lowest later opset that accepts it."""
    problem = _misfit(form, opset)
    if problem is None:
        return None
    for newer in range(opset + 1, schemas.newest(form.domain) + 1):
        if _misfit(form, newer) is None:
            return f"{problem} in opset {opset}", newer
    return f"{problem} in opset {opset}", None


def _misfit(form: Form, opset: int) -> str | None:
    """What the schema of `opset` does not accept; None when it accepts all."""
    schema = schemas.schema(form.op_type, form.domain, opset)
    if schema is None or schema.deprecated:
        return f"there is no {form.op_type}"
    bound: dict[str, str] = {}
    for given, formals, kind in ((form.inputs, schema.inputs, "input"), (form.outputs, schema.outputs, "output")):
        if len(given) > len(formals) and not (formals and formals[-1].variadic):
            return f"{form.op_type} has no {kind} number {len(given)}"
        for index, spelled in enumerate(given):
            formal = formals[min(index, len(formals) - 1)]
            if spelled is not None and spelled not in formal.types:
                return f"{form.op_type} does not take {spelled} as {kind} {formal.name}"
            if spelled is None or not formal.homogeneous:
                continue
            first = bound.setdefault(formal.variable, spelled)
            if first != spelled:
                return f"{form.op_type} takes one type for {formal.variable}, not {first} and {spelled}"
    unknown = [name for name in form.attributes if name not in schema.attributes]
    return f"{form.op_type} has no attribute {unknown[0]}" if unknown else None


def spell(ref: Ref) -> str | None:
    """The type of a value as schemas write it, such as `tensor(float)`; None when it is not known."""
    if ref is None:
        return None
    if isinstance(ref, Value):
        return spell_type(ref.type)
    return f"tensor({dtypes.SCHEMA_NAMES[ref.dtype]})" if ref.dtype is not None else None


def spell_type(type_: Type) -> str | None:
    if isinstance(type_, TensorType):
        return f"tensor({dtypes.SCHEMA_NAMES[type_.dtype]})" if type_.dtype is not None else None
    if isinstance(type_, MapType):
        inner = spell_type(type_.elem)
        return f"map({dtypes.SCHEMA_NAMES[type_.key]},{inner})" if inner else None
    if isinstance(type_, SequenceType | OptionalType):
        inner = spell_type(type_.elem)
        word = "seq" if isinstance(type_, SequenceType) else "optional"
        return f"{word}({inner})" if inner else None
    return None


__all__ = ["Draft", "Emitter", "Graph", "Literal", "Refusal", "Subgraph", "Temp", "check", "spell"]
