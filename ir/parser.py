"""Reads IR text. Each error carries line, column, caret and a near match; nothing is executed, nothing recurses deeper
than the limit on nesting. Result types are checked against inference as the nodes are built."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import opdef, weightfile
from .builder import Builder
from .dims import Dim, parse_dim
from .errors import AnyIRError, InvalidModel, LimitExceeded, TypeInferError, UsageError
from .graph import Graph, Module, Node, Value, bulk
from .lexer import Lexer
from .loc import UNKNOWN_LOC, Loc
from .ops import get_op
from .printer import FORMAT
from .signature import Slot
from .storage import MappedFile, limit, open_beside, read_bytes
from .tensor import Tensor, as_tensor
from .types import BOOL, F32, F64, STRING, DType, NoneType, OptionalType, SequenceType, TensorType, Type, dtype, refines
from .weights import ROLES, Weight


def parse_module(text: str, name: str = "<text>", *, weights: MappedFile | dict[bytes, Tensor] | None = None) -> Module:
    """The module that `text` describes.

    `weights`: the mapped weight file, or tensors by digest (for text that was printed without a file). Raises InvalidModel
    with line and column, and LimitExceeded for text nested too deeply.
    """
    from .upgrade import upgrade

    parser = Parser(upgrade(text, name), name, weights)
    with bulk():
        return parser.module_text()


def parse_file(path: str | os.PathLike[str]) -> Module:
    """Read a .anyir file and the weight file that it names, which must lie beside it."""
    data = read_bytes(path, "file_bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidModel(f"not UTF-8 at byte {error.start}", where=str(path)) from None
    parser = Parser.for_path(text, os.fspath(path))
    with bulk():
        return parser.module_text()


class Parser:
    """One text being read into one module."""

    def __init__(
        self, text: str, name: str, weights: MappedFile | dict[bytes, Tensor] | None = None, path: str | None = None
    ) -> None:
        self.lex = Lexer(text, name)
        self.weights = weights
        self.path = path
        self.module = Module()
        self.depth = 0

    @staticmethod
    def for_path(text: str, path: str) -> Parser:
        from .upgrade import upgrade

        return Parser(upgrade(text, path), path, None, path)

    @contextmanager
    def nested(self) -> Iterator[None]:
        self.depth += 1
        if self.depth > limit("nesting"):
            raise LimitExceeded(f"nested more than {limit('nesting')} deep", where=self.lex.name, hint="--limit-nesting raises it")
        yield
        self.depth -= 1

    # Module level.

    def module_text(self) -> Module:
        lex = self.lex
        lex.expect("anyir")
        if lex.integer() != FORMAT:
            lex.fail(f"this version reads format {FORMAT}")
        lex.expect("module")
        self.module.name = lex.string()
        if lex.take("{"):
            lex.expect("weights")
            lex.expect("=")
            self.open_weights(lex.string())
            lex.expect("}")
        sections = {
            "meta": self.meta,
            "fact": self.fact,
            "weight": self.weight,
            "graph": self.graph_section,
            "signature": self.signature,
        }
        while lex.token.kind != "end":
            section = sections.get(lex.token.text)
            if section is None:
                lex.fail(f"expected {', '.join(sections)}, found {lex.token.text!r}")
            lex.advance()
            section()
        return self.module

    def open_weights(self, name: str) -> None:
        if self.path is None:
            return
        file = open_beside(self.path, name)
        weightfile.check_header(file, self.lex.name)
        self.module.files.append(file)
        self.weights = file

    def meta(self) -> None:
        key = self.lex.string()
        self.lex.expect("=")
        self.module.metadata[key] = self.lex.string()

    def fact(self) -> None:
        lex, facts = self.lex, self.module.facts
        at, kind = lex.token.offset, lex.kind("word", "a kind of fact")
        try:
            if kind == "range":
                name, low = lex.string(), lex.integer()
                high = None if lex.take("none") else lex.integer()
                facts.add_range(name, low, high, lex.kind("word", "an origin"))
            elif kind == "divisor":
                facts.add_divisor(lex.string(), lex.integer(), lex.kind("word", "an origin"))
            elif kind == "equal":
                lex.expect("[")
                left = self.dim()
                lex.expect(",")
                right = self.dim()
                lex.expect("]")
                facts.add_equal(left, right, lex.kind("word", "an origin"))
            else:
                lex.fail("a fact is a range, a divisor or equal", at)
        except (InvalidModel, UsageError) as error:
            if error.where:
                raise
            lex.fail(error.message, at)

    def weight(self) -> None:
        lex = self.lex
        key = lex.string()
        if key in self.module.weights:
            lex.fail(f"weight {key!r} is declared twice")
        role = lex.kind("word", "a role")
        if role not in ROLES:
            lex.fail(f"expected one of {', '.join(ROLES)}, found {role!r}")
        lex.expect(":")
        type_ = self.tensor_type()
        lex.expect("=")
        tensor = self.contents(type_)
        aliases, origin = [], ""
        while lex.take("alias"):
            aliases.append(lex.string())
        if lex.take("from"):
            origin = lex.string()
        self.module.weights.add(Weight(key, tensor, role, tuple(aliases), origin))

    def contents(self, type_: TensorType) -> Tensor:
        """`data(...)`, or the elements themselves."""
        lex = self.lex
        if not lex.at("data"):
            return self.literal(type_)
        lex.advance()
        lex.expect("(")
        where: tuple[int, int] | None = None
        if lex.token.kind == "number":
            offset = lex.integer()
            lex.expect(",")
            where = (offset, lex.integer())
            lex.expect(",")
        at = lex.token.offset
        digest = self.hex_bytes()
        lex.expect(")")
        if isinstance(self.weights, MappedFile) and where is not None:
            wanted = type_.dtype.nbytes(type_.numel)  # type: ignore[union-attr, arg-type]
            if where[1] != wanted:
                lex.fail(f"{type_} has {wanted} bytes, the text says {where[1]}", at)
            return weightfile.open_tensor(self.weights, *where, (type_.dtype, type_.shape), digest, lex.name)
        found = self.weights.get(digest) if isinstance(self.weights, dict) else None
        if found is None:
            lex.fail("the contents of this weight are not at hand", at, hint="give the weight file, or the tensors by digest")
        return found

    def hex_bytes(self) -> bytes:
        at, text = self.lex.token.offset, self.lex.string()
        try:
            return bytes.fromhex(text)
        except ValueError:
            self.lex.fail("expected hexadecimal digits", at)

    def signature(self) -> None:
        lex = self.lex
        key, at = lex.string(), lex.token.offset
        lex.expect("=")
        graph = self.module.graphs.get(lex.kind("at", "a graph name")[1:])
        if graph is None:
            lex.fail("no such graph", at)
        if key in self.module.signatures:
            lex.fail(f"signature {key!r} is declared twice", at)
        inputs = self.slots()
        lex.expect("->")
        outputs = self.slots()
        try:
            made = self.module.add_signature(key, graph, inputs, outputs)
        except InvalidModel as error:
            lex.fail(error.message, at)
        if lex.take("state"):
            made.state = [tuple(pair) for pair in self.attribute()]  # type: ignore[misc]

    def slots(self) -> list[Slot]:
        lex, made = self.lex, []
        lex.expect("(")
        while not lex.at(")"):
            name = lex.string()
            path = self.attribute() if lex.take("path") else ()
            quant = self.attribute() if lex.take("quant") else None
            layout = lex.string() if lex.take("layout") else None
            lex.expect("=")
            if lex.integer() != len(made):
                lex.fail("slots stand in order")
            made.append(Slot(name, path, quant, layout))
            if not lex.take(","):
                break
        lex.expect(")")
        return made

    # Types and literals.

    def type(self) -> Type:
        lex = self.lex
        if lex.at("seq") or lex.at("optional"):
            made = SequenceType if lex.advance().text == "seq" else OptionalType
            lex.expect("<")
            with self.nested():
                inner = self.type()
            lex.expect(">")
            return made(inner)
        if lex.take("none"):
            return NoneType()
        return self.tensor_type(static=False)

    def tensor_type(self, static: bool = True) -> TensorType:
        lex = self.lex
        at, name = lex.token.offset, lex.kind("word", "a type")
        element = None if name == "?" else self.dtype_named(name, at)
        lex.expect("[")
        if lex.take("*"):
            lex.expect("]")
            return TensorType(element, None)
        dims = []
        while not lex.at("]"):
            dims.append(self.dim())
            if not lex.take(","):
                break
        lex.expect("]")
        try:
            made = TensorType(element, dims)
        except InvalidModel as error:
            lex.fail(error.message, at)
        if static and (element is None or not made.is_static):
            lex.fail(f"a constant has a known type, not {made}", at)
        return made

    def dtype_named(self, name: str, at: int) -> DType:
        try:
            return dtype(name)
        except InvalidModel as error:
            self.lex.fail(error.message, at, error.hint)

    def dim(self) -> Dim:
        """A number, or the text up to the next comma or bracket outside parentheses."""
        lex, start, depth = self.lex, self.lex.token, 0
        if start.kind == "number" and start.text.isdigit():
            lex.advance()
            if lex.at(",") or lex.at("]"):
                return int(start.text)
        end = lex.token.offset
        while lex.token.kind != "end" and (depth or not (lex.at(",") or lex.at("]"))):
            depth += (lex.token.text == "(") - (lex.token.text == ")")
            end = lex.token.offset + len(lex.token.text)
            lex.advance()
        try:
            return parse_dim(lex.text[start.offset : end])
        except AnyIRError as error:
            lex.fail(error.message, start.offset)

    def literal(self, type_: TensorType) -> Tensor:
        """The elements of a constant: one for rank 0, else a flat list."""
        lex, at = self.lex, self.lex.token.offset
        element: DType = type_.dtype  # type: ignore[assignment]
        if type_.rank == 0:
            flat = [self.element(element)]
        else:
            flat = []
            lex.expect("[")
            while not lex.at("]"):
                flat.append(self.element(element))
                if not lex.take(","):
                    break
            lex.expect("]")
        if len(flat) != type_.numel:
            lex.fail(f"{type_} has {type_.numel} elements, the list has {len(flat)}", at)
        if element is STRING:
            array = np.empty(len(flat), object)
            array[:] = flat
        else:
            array = np.array(flat, element.numpy) if flat else np.empty(0, element.numpy)
        return as_tensor(array.reshape(type_.shape), element)

    def element(self, element: DType) -> Any:
        lex = self.lex
        token = lex.token
        if element is STRING:
            return lex.string().encode("utf-8", "surrogateescape")
        if element is BOOL:
            return lex.kind("word", "true or false") == "true"
        if element.kind == "complex":
            half = F32 if element.bits == 64 else F64
            lex.expect("(")
            real = self.element(half)
            lex.expect(",")
            imaginary = self.element(half)
            lex.expect(")")
            return complex(real, imaginary)
        if token.kind == "bits" and not element.is_int:
            raw = int(lex.advance().text, 16)
            width = element.numpy.itemsize
            if raw >= 1 << (8 * width):
                lex.fail(f"too many bits for {element}", token.offset)
            return np.frombuffer(raw.to_bytes(width, "little"), element.numpy)[0]
        if element.is_int:
            return self.integer_element(element)
        return element.numpy.type(float(lex.kind("number", "a number")))

    def integer_element(self, element: DType) -> int:
        at, value = self.lex.token.offset, self.lex.integer()
        low = -(1 << (element.bits - 1)) if element.is_signed else 0
        if not low <= value < low + (1 << element.bits):
            self.lex.fail(f"{value} does not fit {element}", at)
        return value

    def attribute(self) -> Any:
        lex = self.lex
        token = lex.token
        if token.kind == "string":
            return lex.string()
        if token.kind == "bits":
            return float(self.element(F64))
        if token.kind == "number":
            if token.text.lstrip("-").isdigit():
                return lex.integer()
            return float(lex.advance().text)
        if lex.take("["):
            items = []
            with self.nested():
                while not lex.at("]"):
                    items.append(self.attribute())
                    if not lex.take(","):
                        break
            lex.expect("]")
            return tuple(items)
        return self.named_attribute(lex.kind("word", "an attribute value"), token.offset)

    def named_attribute(self, word: str, at: int) -> Any:
        lex = self.lex
        simple = {"none": None, "true": True, "false": False}
        if word in simple:
            return simple[word]
        if word == "bytes":
            return self.hex_bytes()
        if word == "type":
            lex.expect("(")
            type_ = self.type()
            lex.expect(")")
            return type_
        if word == "tensor":
            lex.expect("(")
            type_ = self.tensor_type()
            lex.expect("=")
            tensor = self.literal(type_)
            lex.expect(")")
            return tensor
        return self.dtype_named(word, at)

    # Graphs.

    def graph_section(self) -> None:
        at = self.lex.token.offset
        name = self.lex.kind("at", "a graph name")[1:]
        if name in self.module.graphs:
            self.lex.fail(f"graph @{name} is declared twice", at)
        self.body(self.module.add_graph(name), {})

    def body(self, graph: Graph, outer: dict[str, Value]) -> None:
        """`(inputs) { nodes return(...) }`. Constants of outer bodies are visible; other values are not."""
        lex = self.lex
        names = {k: v for k, v in outer.items() if v.is_const}
        lex.expect("(")
        while not lex.at(")"):
            at, name = lex.token.offset, lex.kind("value", "an input name")
            lex.expect(":")
            self.define(names, name, graph.add_input(self.type(), _hint(name)), at)
            if not lex.take(","):
                break
        lex.expect(")")
        lex.expect("{")
        builder = Builder(graph)
        while not lex.take("return"):
            if lex.take("const"):
                self.constant(names)
            else:
                self.node(builder, names)
        graph.set_outputs(self.operands(names))  # type: ignore[arg-type]
        lex.expect("}")

    def define(self, names: dict[str, Value], name: str, value: Value, at: int) -> None:
        if name in names:
            self.lex.fail(f"{name} is defined twice", at)
        names[name] = value

    def constant(self, names: dict[str, Value]) -> None:
        lex = self.lex
        at, name = lex.token.offset, lex.kind("value", "a value name")
        lex.expect("=")
        if lex.take("@weights"):
            lex.expect("[")
            place, key = lex.token.offset, lex.string()
            weight = self.module.weights.get(key)
            if weight is None:
                self.unknown(f"weight {key!r}", key, [w.key for w in self.module.weights], place)
            lex.expect("]")
            value = self.module.constant(weight)  # type: ignore[arg-type]
            lex.expect(":")
            if self.tensor_type() is not value.type:
                lex.fail(f"weight {key!r} is {value.type}", at)
        else:
            value = self.typed_literal()
        if not value.hint or value.hint == value.weight.key:  # type: ignore[union-attr]
            value.hint = _hint(name) or value.hint
        self.define(names, name, value, at)

    def typed_literal(self) -> Value:
        """`elements : type`; the elements can only be read once the type is known, so they are skipped first."""
        lex = self.lex
        start = (lex.token, lex._next)
        depth = 0
        while lex.token.kind != "end" and (depth or not lex.at(":")):
            depth += (lex.token.text in "([") - (lex.token.text in ")]") if lex.token.kind == "punct" else 0
            lex.advance()
        lex.expect(":")
        type_ = self.tensor_type()
        after = (lex.token, lex._next)
        lex.token, lex._next = start
        tensor = self.contents(type_)
        lex.expect(":")
        lex.token, lex._next = after
        return self.module.literal(tensor)

    def node(self, builder: Builder, names: dict[str, Value]) -> None:
        lex = self.lex
        targets, at = [], lex.token.offset
        while lex.token.kind == "value":
            targets.append((lex.token.offset, lex.advance().text))
            if not lex.take(","):
                break
        if targets:
            lex.expect("=")
        op_at, name = lex.token.offset, lex.kind("word", "an op name")
        try:
            op = get_op(name)
        except AnyIRError as error:
            lex.fail(error.message, op_at, error.hint)
        operands = self.operands(names)
        attrs = self.attributes() if lex.at("{") else {}
        types = self.types() if lex.take(":") else []
        loc = self.location() if lex.take("loc") else UNKNOWN_LOC
        regions = self.regions(op, names) if op.regions else ()
        made = self.build(op, operands, attrs, regions, types, loc, at)
        if len(made.results) != len(targets):
            lex.fail(f"{name} has {len(made.results)} results, {len(targets)} are named", at)
        builder.place(made)
        for (place, target), value in zip(targets, made.results, strict=True):
            value.hint = _hint(target)
            self.define(names, target, value, place)

    def build(
        self, op: opdef.OpDef, operands: list, attrs: dict, regions: tuple, types: list[Type], loc: Loc, at: int
    ) -> Node:
        """A node whose declared result types agree with inference; the declared ones may know more."""
        try:
            interned = op.make_attrs(attrs)
            known = op.infer_results(tuple(operands), interned, regions)
        except TypeInferError as error:
            self.lex.fail(error.message, at, error.hint)
        node = Node(op, tuple(operands), interned, regions, loc)
        node.make_results(known)
        if len(types) != len(known):
            self.lex.fail(f"{op.name} has {len(known)} results, {len(types)} types are written", at)
        for value, declared in zip(node.results, types, strict=True):
            if refines(declared, value.type):
                value.type = declared
            elif not refines(value.type, declared):
                self.lex.fail(f"result {value.index} of {op.name} is {value.type}, the text says {declared}", at)
            else:
                value.type = declared
        return node

    def operands(self, names: dict[str, Value]) -> list[Value | None]:
        lex, made = self.lex, []
        lex.expect("(")
        while not lex.at(")"):
            if lex.take("none"):
                made.append(None)
            else:
                at, name = lex.token.offset, lex.kind("value", "a value")
                value = names.get(name)
                if value is None:
                    self.unknown(name, name, list(names), at)
                made.append(value)
            if not lex.take(","):
                break
        lex.expect(")")
        return made

    def unknown(self, what: str, name: str, known: list[str], at: int) -> None:
        near = difflib.get_close_matches(name, known, 1)
        self.lex.fail(f"{what} is not defined here", at, f"did you mean {near[0]}?" if near else "")

    def attributes(self) -> dict[str, Any]:
        lex, made = self.lex, {}
        lex.expect("{")
        while not lex.at("}"):
            at = lex.token.offset
            name = lex.string() if lex.token.kind == "string" else lex.kind("word", "an attribute name")
            if name in made:
                lex.fail(f"attribute {name} is given twice", at)
            lex.expect("=")
            made[name] = self.attribute()
            if not lex.take(","):
                break
        lex.expect("}")
        return made

    def types(self) -> list[Type]:
        made = [self.type()]
        while self.lex.take(","):
            made.append(self.type())
        return made

    def location(self) -> Loc:
        lex = self.lex
        lex.expect("(")
        leaves = []
        while True:
            frontend = lex.string()
            lex.expect(":")
            scope, file, line = lex.string(), "", 0
            if lex.take("at"):
                file = lex.string()
                lex.expect(":")
                line = lex.integer()
            leaves.append((frontend, scope, file, line))
            if not lex.take("+"):
                break
        tag = lex.string() if lex.take("by") else ""
        lex.expect(")")
        if len(leaves) == 1:
            frontend, scope, file, line = leaves[0]
            return Loc(frontend, scope, file=file, line=line, tag=tag)
        return Loc(fused=tuple(Loc(f, s, file=p, line=n) for f, s, p, n in leaves), tag=tag)

    def regions(self, op: opdef.OpDef, names: dict[str, Value]) -> tuple[Graph, ...]:
        self.lex.expect("{")
        made = []
        for name in op.regions:
            self.lex.expect(name)
            region = self.module.new_region(name)
            with self.nested():
                self.body(region, names)
            made.append(region)
        self.lex.expect("}")
        return tuple(made)


def _hint(name: str) -> str:
    """The hint behind a printed name; numbers are the printer's own."""
    return "" if name[1:].isdigit() else name[1:]
