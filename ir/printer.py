"""IR text. `parse(print(m))` equals `m`: names are made unique here, defaults are left out, types always stand there.

Tensors of up to INLINE elements (and all strings) stand in the text; others are named by offset, size and digest in a
weight file (`ir/weightfile.py`), or by digest alone when the text is only looked at. The grammar is in docs/ir.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .dims import Facts
from .errors import clean
from .graph import Graph, Module, Node, Value
from .loc import UNKNOWN_LOC, Loc
from .opdef import Attrs
from .signature import Signature, Slot
from .symbols import Renaming, anonymous
from .types import BOOL, F16, F32, F64, STRING, DType, Type
from .weights import Weight

FORMAT = 1
INLINE = 16

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.]+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}

#: Where the writer of the weight file put a tensor: (offset, bytes).
Placement = Callable[[Weight], "tuple[int, int] | None"]


def quoted(text: str) -> str:
    """`text` as a string token; everything but printable characters is escaped."""
    parts = []
    for char in text:
        if char in _ESCAPES:
            parts.append(_ESCAPES[char])
        elif char.isprintable():
            parts.append(char)
        else:
            parts.append(f"\\u{{{ord(char):x}}}")
    return f'"{"".join(parts)}"'


def number(value: Any, dtype: DType) -> str:
    """One element, exact: bits in hex for NaN, infinities and -0.0, the shortest decimal for the rest."""
    if dtype is BOOL:
        return "true" if value else "false"
    if dtype is STRING:
        return _string(value)
    if dtype.is_int:
        return str(int(value))
    if dtype.kind == "complex":
        half = F32 if dtype.bits == 64 else F64
        return f"({number(half.numpy.type(value.real), half)}, {number(half.numpy.type(value.imag), half)})"
    as_float = float(value)
    if not np.isfinite(as_float) or (as_float == 0 and np.signbit(as_float)):
        bits = int.from_bytes(np.asarray(value, dtype.numpy).tobytes(), "little")
        return f"0x{bits:0{max(dtype.bits // 4, 2)}x}"
    text = str(dtype.numpy.type(value)) if dtype in (F16, F32, F64) else repr(as_float)
    return text if any(c in text for c in ".einx") else f"{text}.0"


def _string(value: str | bytes) -> str:
    """A string element; bytes that are no UTF-8 in hex."""
    if isinstance(value, bytes):
        try:
            return quoted(value.decode("utf-8"))
        except UnicodeDecodeError:
            return f'bytes "{value.hex()}"'
    return quoted(value)


def elements(array: np.ndarray, dtype: DType) -> str:
    """A tensor literal: a bare number for rank 0, else one flat list in row-major order."""
    flat = [number(x, dtype) for x in array.reshape(-1)]
    return flat[0] if array.ndim == 0 else f"[{', '.join(flat)}]"


def attribute(value: Any) -> str:
    """One attribute value."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return number(value, F64)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bytes):
        return f'bytes "{value.hex()}"'
    if isinstance(value, DType):
        return value.name
    if isinstance(value, Type):
        return f"type({value})"
    if isinstance(value, tuple):
        return f"[{', '.join(map(attribute, value))}]"
    return f"tensor({value.dtype}[{', '.join(map(str, value.shape))}] = {elements(value.numpy(), value.dtype)})"


def attributes(node_attrs: Mapping[str, Any], defaults: dict[str, Any]) -> str:
    shown = [
        f"{name if _PLAIN.match(name) else quoted(name)} = {attribute(value)}"
        for name, value in node_attrs.items()
        if not (name in defaults and _same(defaults[name], value))
    ]
    return f" {{{', '.join(shown)}}}" if shown else ""


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and attribute(a) == attribute(b)


def location(loc: Loc) -> str:
    """` loc(...)`, or nothing when the origin is unknown."""
    if loc is UNKNOWN_LOC:
        return ""
    leaves = loc.fused or ((loc,) if loc.frontend or loc.scope or loc.file else ())
    parts = [" + ".join(map(_one_location, leaves)), f"by {quoted(loc.tag)}" if loc.tag else ""]
    return f"  loc({' '.join(filter(None, parts))})"


def _one_location(loc: Loc) -> str:
    source = f" at {quoted(loc.file)}:{loc.line}" if loc.file else ""
    notes = f" notes {attribute(loc.notes)}" if loc.notes else ""
    return f"{quoted(loc.frontend)}: {quoted(loc.scope)}{source}{notes}"


class Names:
    """Unique printed names for values: the hint where it is free, else the hint with a number, else a number."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}
        self.of: dict[Value, str] = {}
        self.counter = 0

    def __call__(self, value: Value | None) -> str:
        if value is None:
            return "none"
        return self.of.get(value) or self.define(value)

    def define(self, value: Value) -> str:
        base = _UNSAFE.sub("_", value.hint)[:80].strip("_.")
        if base and base[0].isdigit():
            base = f"v{base}"
        if not base:
            name = str(self.counter)
            self.counter += 1
        elif base not in self.taken:
            self.taken[base] = 0
            name = base
        else:
            count = self.taken[base] + 1
            while f"{base}_{count}" in self.taken:
                count += 1
            self.taken[base] = count
            name = f"{base}_{count}"
            self.taken[name] = 0
        made = self.of[value] = f"%{name}"
        return made


class Printer:
    """Prints one module; `elide` shortens inline tensors for reading (then the text does not parse back).

    Attribute sets, types and locations are interned, so the text of each is made once.
    """

    def __init__(self, place: Placement | None = None, *, elide: int = INLINE, locations: bool = True) -> None:
        self.place = place or (lambda weight: None)
        self.inline = elide
        self.locations = locations
        self.lines: list[str] = []
        self.symbols = Renaming({})
        self._attributes: dict[Attrs, str] = {}
        self._types: dict[Type, str] = {}
        self._locations: dict[Loc, str] = {}

    def module(self, module: Module, weights_file: str = "") -> str:
        self.symbols = anonymous(module)
        link = f" {{ weights = {quoted(weights_file)} }}" if weights_file else ""
        self.lines = [f"anyir {FORMAT}", f"module {quoted(module.name)}{link}"]
        self.lines += [f"meta {quoted(k)} = {quoted(v)}" for k, v in module.metadata.items()]
        self.lines += facts(self.symbols.facts(module.facts))
        defaults = module.defaults()
        self.lines += [self.weight(w) for w in module.used_weights() if w in defaults or not is_literal(w, self.inline)]
        for graph in module.graphs.values():
            self.graph(graph, Names(), f"graph {graph_name(graph)}", "")
        self.lines += [signature(s) for s in module.signatures.values()]
        return "\n".join(self.lines) + "\n"

    def weight(self, weight: Weight) -> str:
        alias = "".join(f" alias {quoted(a)}" for a in weight.aliases)
        origin = f" from {quoted(weight.origin)}" if weight.origin else ""
        return f"weight {quoted(weight.key)} {weight.role} : {weight.type} = {self.contents(weight)}{alias}{origin}"

    def contents(self, weight: Weight) -> str:
        tensor = weight.tensor
        count = weight.type.numel
        if count <= self.inline or tensor.dtype is STRING:  # type: ignore[operator]
            return elements(tensor.numpy(), tensor.dtype)
        placed = self.place(weight)
        where = f"{placed[0]}, {placed[1]}, " if placed else ""
        return f'data({where}"{tensor.digest().hex()}")'

    def graph(self, graph: Graph, names: Names, head: str, indent: str) -> None:
        inputs = ", ".join(f"{names.define(v)}: {self.type_of(v.type)}" for v in graph.inputs)
        self.lines.append(f"{indent}{head}({inputs}) {{")
        inner = indent + "  "
        for node in graph.nodes():
            self.node(node, names, inner)
        self.constants_of(graph.return_node, names, inner)
        self.lines.append(f"{inner}return({', '.join(map(names, graph.outputs))})")
        self.lines.append(f"{indent}}}")

    def constants_of(self, node: Node, names: Names, indent: str) -> None:
        """Declare the constants that appear for the first time; also those of inner regions, so that both branches see them."""
        if not node.regions and not any(v is not None and v.weight is not None for v in node.operands):
            return
        pending = [node]
        while pending:
            current = pending.pop()
            for value in current.operands:
                if value is not None and value.is_const and value not in names.of:
                    name = names.define(value)
                    weight: Weight = value.weight  # type: ignore[assignment]
                    text = (
                        self.contents(weight) if is_literal(weight, self.inline) else f"@weights[{quoted(weight.key)}]"
                    )
                    self.lines.append(f"{indent}const {name} = {text} : {value.type}")
            for region in current.regions:
                pending.extend(region.nodes())
                pending.append(region.return_node)

    def node(self, node: Node, names: Names, indent: str) -> None:
        self.constants_of(node, names, indent)
        operands = ", ".join(map(names, node.operands))
        attrs = self.attributes_of(node)
        where = self.location_of(node.loc) if self.locations else ""
        left = ", ".join(map(names.define, node.results))
        types = ", ".join([self.type_of(v.type) for v in node.results])
        head = f"{indent}{left + ' = ' if left else ''}{node.name}({operands}){attrs}{' : ' + types if types else ''}{where}"
        if not node.regions:
            self.lines.append(head)
            return
        self.lines.append(head + " {")
        for name, region in zip(node.op.region_names(node.attrs), node.regions, strict=True):
            self.graph(region, names, name, indent + "  ")
        self.lines.append(f"{indent}}}")

    def attributes_of(self, node: Node) -> str:
        text = self._attributes.get(node.attrs)
        if text is None:
            defaults = {a.name: a.default for a in node.op.attributes.values()}
            text = self._attributes[node.attrs] = attributes(self.symbols.attrs(node.attrs), defaults)
        return text

    def type_of(self, type_: Type) -> str:
        text = self._types.get(type_)
        if text is None:
            text = self._types[type_] = str(self.symbols.type(type_))
        return text

    def location_of(self, loc: Loc) -> str:
        text = self._locations.get(loc)
        if text is None:
            text = self._locations[loc] = location(loc)
        return text


def graph_name(graph: Graph) -> str:
    """`@main`, or `@"an odd name"`."""
    return f"@{graph.name if _PLAIN.match(graph.name) else quoted(graph.name)}"


def is_literal(weight: Weight, inline: int) -> bool:
    """Printed where it is used: an unnamed constant short enough to stand in the text."""
    if weight.role != "const" or weight.aliases or weight.origin or not weight.key.startswith("const"):
        return False
    return weight.type.numel <= inline or weight.tensor.dtype is STRING  # type: ignore[operator]


def facts(known: Facts) -> list[str]:
    """What is known about symbols, one fact a line."""
    lines = []
    for name, rows in known.ranges.items():
        lines += [
            f"fact range {quoted(name)} {low} {'none' if high is None else high} {origin}" for low, high, origin in rows
        ]
    for name, rows in known.divisors.items():  # type: ignore[assignment]
        lines += [f"fact divisor {quoted(name)} {divisor} {origin}" for divisor, origin in rows]  # type: ignore[misc]
    return lines + [f"fact equal [{a}, {b}] {origin}" for a, b, origin in known.equalities]


def slot(item: Slot) -> str:
    text = quoted(item.name)
    if item.path:
        text += f" path {attribute(item.path)}"
    if item.quant:
        text += f" quant {attribute((float(item.quant[0]), int(item.quant[1])))}"
    if item.default is not None:
        text += f" default {quoted(item.default.key)}"
    return text + (f" layout {quoted(item.layout)}" if item.layout else "")


def signature(sig: Signature) -> str:
    inputs = ", ".join(f"{slot(s)} = {i}" for i, s in enumerate(sig.inputs))
    outputs = ", ".join(f"{slot(s)} = {i}" for i, s in enumerate(sig.outputs))
    state = f" state {attribute(tuple(sig.state))}" if sig.state else ""
    return f"signature {quoted(sig.key)} = {graph_name(sig.graph)}({inputs}) -> ({outputs}){state}"


def print_module(module: Module) -> str:
    """The text of a module for reading: large weights by digest only."""
    return Printer().module(module)


def print_node(node: Node) -> str:
    """One line for one node, names by hint; for messages."""
    operands = ", ".join("none" if v is None else f"%{v.hint or '?'}" for v in node.operands)
    results = ", ".join(f"%{v.hint or '?'}" for v in node.results)
    types = ", ".join(str(v.type) for v in node.results)
    return clean(f"{results + ' = ' if results else ''}{node.name}({operands}) : {types}", 400)


def window(node: Node, radius: int = 4) -> str:
    """The IR around `node`, an arrow at it: what error messages show."""
    before: list[Node] = []
    at = node.prev
    while at is not None and len(before) < radius:
        before.append(at)
        at = at.prev
    after: list[Node] = []
    at = node.next
    while at is not None and len(after) < radius:
        after.append(at)
        at = at.next
    names = Names()
    lines = []
    for item in [*reversed(before), node, *after]:
        printer = Printer(elide=4)
        printer.node(item, names, "") if item.next is not None else printer.lines.append(
            f"return({', '.join(map(names, item.operands))})"
        )
        mark = "> " if item is node else "  "
        lines += [clean(("  " if line.startswith("const ") else mark) + line, 160) for line in printer.lines[:6]]
    return "\n".join(lines)
