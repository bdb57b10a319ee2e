"""Reads IR text. Each error carries line, column, caret and a near match; nothing is executed, nothing recurses deeper
than the limit on nesting. Result types are checked against inference as the nodes are built.

A node that stands on one line as the printer writes it is cut up by one regular expression, and its parts are looked up
by their text; everything else, and everything that is wrong, is read token by token.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Hashable
from typing import NoReturn

from . import opdef, weightfile
from .builder import Builder
from .errors import InvalidModel, TypeInferError, Unsupported, UsageError
from .graph import Graph, Module, Node, Value, bulk
from .lexer import Lexer
from .literals import LiteralReader
from .loc import UNKNOWN_LOC, Loc
from .ops import get_op
from .printer import FORMAT
from .signature import Slot
from .storage import MappedFile, open_beside, read_bytes
from .tensor import Tensor
from .types import TensorType, Type, meet
from .weights import ROLES, Weight

_NAME = r"%[A-Za-z0-9_.]+"
_LINE = re.compile(
    rf"""({_NAME}(?:,\ {_NAME})*)\ =\ ([A-Za-z0-9_.]+)   # results and op
         \(((?:(?:{_NAME}|none)(?:,\ (?:{_NAME}|none))*)?)\)          # operands
         (?:\ (\{{[^{{}}"\n]*\}}))?(?:\ :\ ([^"\n]*?))?   # attributes and types
         (?:\ \ loc(\((?:by\ )?"[^\n]*\)))?\n""",
    re.VERBOSE,
)


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
    from .upgrade import upgrade

    data, name = read_bytes(path, "file_bytes"), os.fspath(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidModel(f"not UTF-8 at byte {error.start}", where=str(path)) from None
    parser = Parser(upgrade(text, name), name, None, name)
    with bulk():
        return parser.module_text()


class Scope(dict[str, Value]):
    """The names of one body. What it does not define itself are the constants of the bodies around it, nothing else."""

    __slots__ = ("outer",)

    def __init__(self, outer: Scope | None) -> None:
        self.outer = outer

    def __missing__(self, name: str) -> Value:
        value = self.find(name)
        if value is None:
            raise KeyError(name)
        return value

    def find(self, name: str) -> Value | None:
        """The value called `name` here, or None."""
        value = self.get(name)
        scope = self.outer
        while value is None and scope is not None:
            value = scope.get(name)
            if value is not None and not value.is_const:
                value = None
            scope = scope.outer
        return value


class Parser(LiteralReader):
    """One text being read into one module."""

    def __init__(
        self, text: str, name: str, weights: MappedFile | dict[bytes, Tensor] | None = None, path: str | None = None
    ) -> None:
        super().__init__(Lexer(text, name))
        self.weights = weights
        self.path = path
        self.module = Module()
        self._attrs: dict[Hashable, opdef.Attrs] = {}
        self._types: dict[Hashable, tuple[Type, ...]] = {}
        self._locs: dict[Hashable, Loc] = {}

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
            section = sections.get(lex.token.text) if lex.token.kind == "word" else None
            if section is None:
                lex.fail(f"expected {', '.join(sections)}, found {lex.found()}")
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
        at, key = lex.token.offset, lex.string()
        if key in self.module.weights:
            lex.fail(f"weight {key!r} is declared twice", at)
        at, role = lex.token.offset, lex.kind("word", "a role")
        if role not in ROLES:
            lex.fail(f"expected one of {', '.join(ROLES)}, found {role!r}", at)
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
            return self.mapped(self.weights, type_, where, digest, at)
        found = self.weights.get(digest) if isinstance(self.weights, dict) else None
        if found is None:
            lex.fail(
                "the contents of this weight are not at hand", at, hint="give the weight file, or the tensors by digest"
            )
        if found.dtype is not type_.dtype or tuple(found.shape) != type_.shape:
            lex.fail(f"the tensor with this digest is {found.dtype}{list(found.shape)}", at)
        return found

    def mapped(self, file: MappedFile, type_: TensorType, where: tuple[int, int], digest: bytes, at: int) -> Tensor:
        wanted = type_.dtype.nbytes(type_.numel)  # type: ignore[union-attr, arg-type]
        if where[1] != wanted:
            self.lex.fail(f"{type_} has {wanted} bytes, the text says {where[1]}", at)
        try:
            return weightfile.open_tensor(file, *where, (type_.dtype, type_.shape), digest)
        except InvalidModel as error:
            self.lex.fail(error.message, at, error.hint)

    def signature(self) -> None:
        lex = self.lex
        at, key = lex.token.offset, lex.string()
        if key in self.module.signatures:
            lex.fail(f"signature {key!r} is declared twice", at)
        lex.expect("=")
        at, name = lex.token.offset, lex.graph_name()
        graph = self.module.graphs.get(name)
        if graph is None:
            self.unknown(f"graph @{name}", name, list(self.module.graphs), at)
        inputs = self.slots()
        lex.expect("->")
        outputs = self.slots()
        try:
            made = self.module.add_signature(key, graph, inputs, outputs)
        except InvalidModel as error:
            lex.fail(error.message, at)
        if lex.take("state"):
            made.state = self.state(len(outputs), len(inputs))

    def state(self, outputs: int, inputs: int) -> list[tuple[int, int]]:
        """Pairs (output, input)."""
        at, pairs = self.lex.token.offset, self.attribute()
        fits = isinstance(pairs, tuple) and all(
            isinstance(p, tuple) and len(p) == 2 and all(type(i) is int for i in p) for p in pairs
        )
        if not fits or any(not (0 <= y < outputs and 0 <= x < inputs) for y, x in pairs):
            self.lex.fail("state is a list of pairs [output, input] by number", at)
        return list(pairs)

    def slots(self) -> list[Slot]:
        lex = self.lex
        made: list[Slot] = []
        lex.expect("(")
        while not lex.at(")"):
            at, name = lex.token.offset, lex.string()
            path = self.attribute() if lex.take("path") else ()
            if not isinstance(path, tuple) or not all(type(step) in (str, int) for step in path):
                lex.fail("a path is a list of names and numbers", at)
            quant = self.attribute() if lex.take("quant") else None
            if quant is not None and [type(q) for q in quant if isinstance(quant, tuple)] != [float, int]:
                lex.fail("quant is a list of scale and zero point", at)
            default = self.default() if lex.take("default") else None
            layout = lex.string() if lex.take("layout") else None
            lex.expect("=")
            if lex.integer() != len(made):
                lex.fail(f"slots stand in order: this is number {len(made)}", at)
            made.append(Slot(name, path, quant, layout, default))
            if not lex.take(","):
                break
        lex.expect(")")
        return made

    def default(self) -> Weight:
        """The weight that an input has where it is not fed."""
        at, key = self.lex.token.offset, self.lex.string()
        weight = self.module.weights.get(key)
        if weight is None:
            self.unknown(f"weight {key!r}", key, [w.key for w in self.module.weights], at)
        return weight

    # Graphs.

    def graph_section(self) -> None:
        at, name = self.lex.token.offset, self.lex.graph_name()
        if name in self.module.graphs:
            self.lex.fail(f"graph @{name} is declared twice", at)
        self.body(self.module.add_graph(name), None)

    def body(self, graph: Graph, outer: Scope | None) -> None:
        """`(inputs) { nodes return(...) }`."""
        lex = self.lex
        names = Scope(outer)
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
            elif not self.quick_node(builder, names):
                self.node(builder, names)
        graph.set_outputs(self.operands(names))  # type: ignore[arg-type]
        lex.expect("}")

    def define(self, names: Scope, name: str, value: Value, at: int) -> None:
        if names.find(name) is not None:
            self.lex.fail(f"{name} is defined twice", at)
        names[name] = value

    def constant(self, names: Scope) -> None:
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
            value = self.module.constant(weight)
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
        start, depth = lex.token.offset, 0
        while lex.token.kind != "end" and (depth or not lex.at(":")):
            if lex.token.kind == "punct":
                depth += (lex.token.text in "([") - (lex.token.text in ")]")
            lex.advance()
        colon = lex.expect(":").offset
        type_ = self.tensor_type()
        after = lex.token.offset
        lex.seek(start)
        tensor = self.contents(type_)
        if lex.token.offset != colon:
            lex.fail(f"expected ':', found {lex.found()}")
        lex.seek(after)
        return self.module.literal(tensor)

    # Nodes.

    def quick_node(self, builder: Builder, names: Scope) -> bool:
        """Read one line in the printer's own form; False, with nothing consumed, when it is not one or is wrong."""
        lex = self.lex
        begin = lex.token.offset
        found = _LINE.match(lex.text, begin)
        op = None if found is None else opdef.OPS.get(found[2])
        if found is None or op is None or op.regions:
            return False
        listed = found[3].split(", ") if found[3] else ()
        try:
            operands = tuple([None if name == "none" else names[name] for name in listed])
        except KeyError:
            return False
        parts = self.quick_parts(op, found)
        if parts is None:
            lex.seek(begin)
            return False
        lex.seek(found.end())
        attrs, types, loc = parts
        made = self.build(op, operands, attrs, (), types, loc, begin)  # type: ignore[arg-type]
        self.place(builder, names, made, [(begin, name) for name in found[1].split(", ")])
        return True

    def quick_parts(self, op: opdef.OpDef, line: re.Match[str]) -> tuple[opdef.Attrs, tuple[Type, ...], Loc] | None:
        """Attributes, types and location of a line, read once for each text."""
        attrs, types, loc = op.defaults, (), UNKNOWN_LOC
        if line[4]:
            attrs = self.remembered(self._attrs, (op, line[4]), *line.span(4), lambda: self.attrs_of(op))
        if line[5]:
            types = self.remembered(self._types, line[5], *line.span(5), self.types)  # type: ignore[assignment]
        if line[6]:
            loc = self.remembered(self._locs, line[6], *line.span(6), self.location)  # type: ignore[assignment]
        return None if attrs is None or types is None or loc is None else (attrs, types, loc)

    def attrs_of(self, op: opdef.OpDef) -> opdef.Attrs:
        """`{...}` as the attributes of `op`."""
        lex, at = self.lex, self.lex.token.offset
        given = self.attributes() if lex.at("{") else {}
        try:
            return op.make_attrs(given)
        except TypeInferError as error:
            lex.fail(error.message, at, error.hint)

    def node(self, builder: Builder, names: Scope) -> None:
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
        except Unsupported as error:
            lex.fail(error.message, op_at, error.hint)
        operands = self.operands(names)
        attrs = self.attrs_of(op)
        types = self.types() if lex.take(":") else ()
        loc = self.location() if lex.take("loc") else UNKNOWN_LOC
        regions = self.regions(op.region_names(attrs), names)
        made = self.build(op, tuple(operands), attrs, regions, types, loc, at)
        self.place(builder, names, made, targets)

    def place(self, builder: Builder, names: Scope, node: Node, targets: list[tuple[int, str]]) -> None:
        """Name the results of a finished node and put it at the end of its graph."""
        if len(node.results) != len(targets):
            self.lex.fail(
                f"{node.name} has {len(node.results)} results, {len(targets)} are named",
                targets[0][0] if targets else None,
            )
        builder.place(node)
        for (at, target), value in zip(targets, node.results, strict=True):
            value.hint = _hint(target)
            self.define(names, target, value, at)

    def build(
        self,
        op: opdef.OpDef,
        operands: tuple[Value | None, ...],
        attrs: opdef.Attrs,
        regions: tuple[Graph, ...],
        types: tuple[Type, ...],
        loc: Loc,
        at: int,
    ) -> Node:
        """A node whose declared result types agree with inference; the declared ones are taken."""
        try:
            known = op.infer_results(operands, attrs, regions)
        except TypeInferError as error:
            self.lex.fail(error.message, at, error.hint)
        node = Node(op, operands, attrs, regions, loc)
        node.make_results(known)
        if len(types) != len(known):
            self.lex.fail(f"{op.name} has {len(known)} results, {len(types)} types are written", at)
        for value, declared in zip(node.results, types, strict=True):
            if declared is not value.type and meet(declared, value.type) is None:
                self.lex.fail(f"result {value.index} of {op.name} is {value.type}, the text says {declared}", at)
            value.type = declared
        return node

    def operands(self, names: Scope) -> list[Value | None]:
        lex = self.lex
        made: list[Value | None] = []
        lex.expect("(")
        while not lex.at(")"):
            if lex.take("none"):
                made.append(None)
            else:
                at, name = lex.token.offset, lex.kind("value", "a value")
                value = names.find(name)
                if value is None:
                    self.unknown(name, name, list(names), at)
                made.append(value)
            if not lex.take(","):
                break
        lex.expect(")")
        return made

    def unknown(self, what: str, name: str, known: list[str], at: int) -> NoReturn:
        near = difflib.get_close_matches(name, known, 1)
        self.lex.fail(f"{what} is not defined here", at, f"did you mean {near[0]}?" if near else "")

    def regions(self, labels: tuple[str, ...], names: Scope) -> tuple[Graph, ...]:
        if not labels:
            return ()
        self.lex.expect("{")
        made = []
        for name in labels:
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
