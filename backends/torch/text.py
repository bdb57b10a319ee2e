"""`net.py`: a Plan as readable Python. Identifiers are ours; names from the model stand in tables as escaped data.

The text is meant for people: one statement per operation, its type as an annotation (torch.export prints graphs that way)
and its origin as a comment. `frontends/torch/python.py` reads it back without running it. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ...formats.torch_source import BODY, FORMAT_LINE, HEADER, IMPORTS, SEVERAL, TAIL, helper_text
from ...ir.dims import Dim
from ...ir.expr import Atom, Expr, terms_of
from ...ir.graph import Value
from ...ir.types import DType
from .calls import DEVICE, INFIX, Call
from .names import torch_name
from .plan import Plan, SizeOf, Step, result_symbols


def text_of(plan: Plan, names: dict[Value, str], stem: str) -> str:
    """The whole file. `names`: the key of every weight of the plan in the .safetensors file."""
    printer = _Printer(plan)
    lines = printer.forward()
    helpers = helper_text(printer.helpers)
    tables = _tables(plan, names, printer)
    made = [HEADER.format(stem=stem if stem.isidentifier() else "net"), FORMAT_LINE + "\n", IMPORTS, tables]
    made += [f"\n\n{text}" for text in helpers]
    made += ["\n", BODY, "\n", *(f"    {line}\n" if line else "\n" for line in lines), TAIL]
    return "".join(made)


def _tables(plan: Plan, names: dict[Value, str], printer: _Printer) -> str:
    weights = [
        f"    ({literal(names[v])}, {literal(v.weight.role if v.weight else 'const')}),  # {v.type}"
        for v in plan.weights
    ]
    lines = ["", "# Name in the .safetensors file, and role; forward calls them w[0], w[1] ..."]
    lines += ["WEIGHTS = (", *weights, ")"] if weights else ["WEIGHTS = ()"]
    slots = plan.signature.inputs
    lines += ["# What the model calls forward's arguments, its outputs (in order of `outputs`) and its symbolic sizes."]
    lines.append(f"INPUTS = {literal(tuple(slot.name for slot in slots))}")
    lines.append(f"OUTPUTS = {literal(tuple(slot.name for slot in plan.signature.outputs))}")
    lines.append(f"SIZES = {literal(tuple(printer.sizes))}")
    return "\n".join(lines) + "\n"


def literal(value: Any) -> str:
    """A Python literal in ASCII: whatever a name holds, it stays data."""
    if isinstance(value, tuple):
        return tuple_text(map(literal, value))
    made = ascii(value)
    return f'"{made[1:-1]}"' if isinstance(value, str) and made[0] == "'" and '"' not in made else made


def tuple_text(items: Iterable[str]) -> str:
    made = list(items)
    return f"({made[0]},)" if len(made) == 1 else f"({', '.join(made)})"


# ------------------------------------------------------------------------------------------------------ forward


class _Printer:
    """Names for values, and statements."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.names: dict[Value, str] = {v: f"x{i}" for i, v in enumerate(plan.inputs)}
        self.names |= {v: f"w[{i}]" for i, v in enumerate(plan.weights)}
        self.sizes = {name: f"n{i}" for i, name in enumerate(result_symbols(plan))}
        self.helpers: dict[str, None] = {}
        self.count = 0
        self.groups = 0

    def forward(self) -> list[str]:
        """The lines of forward, without the class's indentation."""
        arguments = [f"{self.names[v]}: {self.type_of(v)}" for v in self.plan.inputs]
        lines = [f"def forward({', '.join(['self', *arguments])}):"]
        if self.plan.weights:
            lines.append("    w = self.tensors()")
        for step in self.plan.steps:
            lines += [f"    {line}" for line in (self.size(step) if isinstance(step, SizeOf) else self.step(step))]
        lines.append(f"    return {self.result()}")
        return lines

    def type_of(self, value: Value) -> str:
        dims = ", ".join(dim_text(dim, self.sizes, "Min", "Max") for dim in value.shape or ())
        return f'"{value.dtype}[{dims}]"'

    def size(self, step: SizeOf) -> list[str]:
        text = f"{self.names[step.value]}.shape[{step.axis}]"
        text = f"({text} - {step.offset})" if step.offset > 0 else f"({text} + {-step.offset})" if step.offset else text
        return [f"{self.sizes[step.symbol]} = {text}" + (f" // {step.factor}" if step.factor != 1 else "")]

    def step(self, step: Step) -> list[str]:
        call = self.call(step.call)
        note = comment_of(step)
        if step.call.fn not in SEVERAL and step.results[0] is not None:
            return [f"{self.define(step.results[0])} = {call}{note}"]
        group = f"t{self.groups}"
        self.groups += 1
        parts = [(i, value) for i, value in enumerate(step.results) if value is not None]
        return [f"{group} = {call}{note}", *(f"{self.define(value)} = {group}[{i}]" for i, value in parts)]

    def define(self, value: Value) -> str:
        self.names[value] = name = f"v{self.count}"
        self.count += 1
        return f"{name}: {self.type_of(value)}"

    def call(self, call: Call) -> str:
        args = [self.argument(arg) for arg in call.args]
        args_text = ", ".join([*args, *(f"{key}={self.argument(value)}" for key, value in call.kwargs.items())])
        if call.fn in INFIX:
            return f"{args[0]} {call.fn} {args[1]}"
        if call.fn == "[]":
            return f"{args[0]}[{self.items(call.args[1])}]"
        if call.fn.startswith("."):
            return f"{args[0]}{call.fn}({', '.join(args_text.split(', ')[1:])})"
        if call.fn.startswith("helpers."):
            self.helpers.setdefault(call.fn.removeprefix("helpers."))
        return f"{call.fn.removeprefix('helpers.')}({args_text})"

    def items(self, items: tuple[Any, ...]) -> str:
        return ", ".join(self.slice(item) if isinstance(item, slice) else self.argument(item) for item in items)

    def slice(self, item: slice) -> str:
        start, stop = ("" if part is None else self.argument(part) for part in (item.start, item.stop))
        return f"{start}:{stop}" + ("" if item.step is None else f":{item.step}")

    def argument(self, value: Any) -> str:
        if isinstance(value, Value):
            return self.names[value]
        if isinstance(value, tuple):
            return tuple_text(map(self.argument, value))
        if isinstance(value, Expr):
            return dim_text(value, self.sizes, "torch.sym_min", "torch.sym_max")
        if isinstance(value, DType):
            return f"torch.{torch_name(value)}"
        if value is DEVICE:
            return f"{self.names[self.plan.inputs[0]]}.device" if self.plan.inputs else "None"
        return number_text(value) if isinstance(value, float) else literal(value)

    def result(self) -> str:
        """The outputs nested as the user had them."""
        return nested_text(nest(self.plan, self.names))


def number_text(value: float) -> str:
    if np.isinf(value):
        return "torch.inf" if value > 0 else "-torch.inf"
    return "torch.nan" if np.isnan(value) else repr(value)


def dim_text(dim: Dim, names: dict[str, str], low: str, high: str) -> str:
    """A dim as Python over our names for its symbols."""
    if not isinstance(dim, Expr):
        return str(dim)
    text = ""
    for mono, coefficient in terms_of(dim):
        factors = [_atom_text(atom, names, low, high) for atom, power in mono for _ in range(power)]
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, str(abs(coefficient)))
        sign = "-" if coefficient < 0 else "+"
        term = " * ".join(factors)
        text = f"{text} {sign} {term}" if text else (f"-{term}" if sign == "-" else term)
    return text


def _atom_text(atom: Atom, names: dict[str, str], low: str, high: str) -> str:
    if atom.kind == "sym":
        return names[atom.args[0]]
    args = [dim_text(arg, names, low, high) for arg in atom.args]
    if atom.kind in ("min", "max"):
        fn = low if atom.kind == "min" else high
        text = args[0]
        for arg in args[1:]:
            text = f"{fn}({text}, {arg})"
        return text
    return f"(({args[0]}) {'//' if atom.kind == 'div' else '%'} ({args[1]}))"


def comment_of(step: Step) -> str:
    """The place in the source model, in printable ASCII on one line."""
    loc = step.loc
    source = f"{loc.file}:{loc.line}" if loc.file else ""
    place = " ".join(part for part in (loc.scope, source) if part) if not loc.fused else str(loc)
    shown = place.encode("ascii", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)[:100]
    return f"  # {shown}" if shown else ""


# ------------------------------------------------------------------------------------------------------ nesting


def nest(plan: Plan, leaves: dict[Value, Any]) -> Any:
    """The outputs as the user had them: by slot paths; without paths a tensor, a tuple, or a dict of named outputs.

    Also serves the live module, where `leaves` are tensors.
    """
    slots = plan.signature.outputs
    values = [leaves[v] for v in plan.outputs]
    paths = [slot.path for slot in slots]
    if not any(paths):
        if [slot.name for slot in slots] == [f"output_{i}" for i in range(len(slots))]:
            return values[0] if len(values) == 1 else tuple(values)
        return {slot.name: value for slot, value in zip(slots, values, strict=True)}
    heads = [path[0] if path else i for i, path in enumerate(paths)]
    rest = [path[1:] for path in paths]
    return _nested(heads, rest, values)


def _nested(heads: list[Any], rest: list[tuple[Any, ...]], values: list[Any]) -> Any:
    """One level: children in order of first appearance; string keys make a dict, numbers a tuple. Paths are short."""
    groups: dict[Any, list[int]] = {}
    for i, head in enumerate(heads):
        groups.setdefault(head, []).append(i)
    made = {}
    for key, members in groups.items():
        if len(members) == 1 and not rest[members[0]]:
            made[key] = values[members[0]]
        else:
            deeper = [i for i in members if rest[i]]
            made[key] = _nested(
                [rest[i][0] for i in deeper], [rest[i][1:] for i in deeper], [values[i] for i in deeper]
            )
    if all(isinstance(key, int) for key in made):
        return tuple(made.values())
    return {str(key): value for key, value in made.items()}


def nested_text(tree: Any) -> str:
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{literal(key)}: {nested_text(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, tuple):
        return tuple_text(map(nested_text, tree))
    return tree
