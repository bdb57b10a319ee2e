"""The golden files of rewrite rules and what is made of them: tests/golden/rules/<pass>/<rule>.anyir.

A file holds IR text with several graphs and no signatures. In graphs whose name begins with `hit` the rule fires when its
pass runs; in those whose name begins with `near` it must not. The header lines `# near:` (what is nearly there, and why that
is not enough) and `# finite:` (why NaN and infinities are not tried) speak to the reader.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anyir.ir.errors import AnyIRError
from anyir.ir.graph import Graph, Module
from anyir.ir.infer import infer_module
from anyir.ir.parser import parse_module
from anyir.ir.symbols import replace_symbols
from anyir.ir.types import TensorType
from anyir.ir.verify import verify
from anyir.passes.manager import CORE, Context, Pass, find_pass
from anyir.passes.rewrite import NUMERICS, Rule, RuleSet, rewrite_graph
from anyir.tests.conftest import GOLDEN

FOLDER = GOLDEN / "rules"
SEPARATOR = "# ------------------------------------------------------------------------- becomes\n"
#: The lowest level that admits a class of rules.
LEVEL = dict(zip(NUMERICS, (1, 2, 3), strict=True))
#: What the symbols of a graph are bound to, in turn: nothing, one, more, all different.
SIZES = ((0, 3, 2), (1, 1, 1), (2, 5, 4), (3, 0, 1), (5, 2, 3))
#: What stands in place of f32.
DTYPES = ("f16", "bf16", "f64")


def slug(rule_name: str) -> str:
    """The file name of a rule: that of a text rule is made of its words."""
    return re.sub(r"[^a-z0-9_]+", "-", rule_name.lower()).strip("-")


def core_passes() -> dict[str, Pass]:
    return {name: find_pass(name) for name in CORE}


def rules_of_passes() -> dict[tuple[str, str], Rule]:
    """All rules of the pattern passes by (pass, slug)."""
    return {(name, slug(rule.name)): rule for name, found in core_passes().items() for rule in found.rules}


@dataclass(frozen=True)
class RuleFile:
    """One golden file; `key` is its pass and the name under which `ctx.stats` counts the rule, as far as the file name says."""

    path: Path

    @property
    def pass_name(self) -> str:
        return self.path.parent.name

    @property
    def key(self) -> tuple[str, str]:
        return self.pass_name, self.path.stem

    @property
    def rule(self) -> Rule | None:
        """The rule, or None for what a procedural pass counts under this name."""
        return rules_of_passes().get(self.key)

    @property
    def source(self) -> str:
        return self.path.read_text(encoding="utf-8").partition(SEPARATOR)[0]

    def header(self, name: str) -> str:
        found = re.search(rf"^# {name}: (.*)$", self.source, re.MULTILINE)
        return found[1] if found else ""

    @property
    def numerics(self) -> str:
        return (
            self.rule.numerics
            if self.rule is not None
            else self.header("numerics") or find_pass(self.pass_name).numerics
        )

    @property
    def level(self) -> int:
        return LEVEL[self.numerics]

    def run_pass(self, module: Module) -> Context:
        """The whole pass on `module`, with the options of the `# options:` line."""
        from anyir.passes.manager import run_pipeline

        options = self.header("options")
        ctx = Context(level=self.level)
        run_pipeline(module, f"{self.pass_name}{{{options}}}" if options else self.pass_name, ctx)
        return ctx

    def fires(self, module: Module) -> int:
        """How often the rule alone fires on a copy of `module`, for a procedural pass what the whole pass counts."""
        copy, rule = module.clone(), self.rule
        if rule is None:
            stats = self.run_pass(copy).stats
        else:
            ctx = Context(level=self.level)
            for graph in reversed(list(copy.all_graphs())):
                rewrite_graph(graph, RuleSet([rule]), ctx)
            stats = ctx.stats
        return sum(count for name, count in stats.items() if slug(name) == self.path.stem)

    def counted(self, ctx: Context) -> int:
        return sum(count for name, count in ctx.stats.items() if slug(name) == self.path.stem)


def rule_files() -> list[RuleFile]:
    return [RuleFile(path) for path in sorted(FOLDER.glob("*/*.anyir"))]


def parse_graphs(text: str) -> Module:
    """A verified module whose every graph has a signature of its own name."""
    made = parse_module(text)
    for name, graph in made.graphs.items():
        if not any(sig.graph is graph for sig in made.signatures.values()):
            made.add_signature(name, graph, input_names(graph), [f"out{i}" for i in range(len(graph.outputs))])
    verify(made)
    return made


def input_names(graph: Graph) -> list[str]:
    return [value.hint or f"in{value.index}" for value in graph.inputs]


def single(module: Module, name: str) -> Module:
    """A copy with the graph of this signature alone."""
    copy = module.clone()
    for other in [key for key in copy.signatures if key != name]:
        graph = copy.signatures.pop(other).graph
        copy.graphs.pop(graph.name)
    copy.drop_unused_weights()
    return copy


def symbols_of(module: Module) -> list[str]:
    """The symbols of the inputs' shapes, in order of appearance."""
    from anyir.ir.dims import symbols

    shapes = [v.type.shape or () for v in module.signature.graph.inputs if isinstance(v.type, TensorType)]
    return list(dict.fromkeys(name for shape in shapes for dim in shape for name in symbols(dim)))


def bindings(module: Module) -> Iterator[dict[str, int]]:
    """Sizes for the symbols, as SIZES has them and the module's facts allow; one empty binding where there are none."""
    names = symbols_of(module)
    made = [dict(zip(names, itertools.cycle(sizes), strict=False)) for sizes in SIZES] if names else [{}]
    for sizes in made:
        ranges = {name: module.facts.range_of(name) for name in names}
        if all(low <= sizes[name] and (high is None or sizes[name] <= high) for name, (low, high) in ranges.items()):
            yield sizes


def bound(module: Module, sizes: dict[str, int]) -> Module | None:
    """A copy with numbers in place of the symbols, inferred anew; None where the ops refuse them."""
    copy = module.clone()
    try:
        replace_symbols(copy, sizes)
        infer_module(copy)
        verify(copy)
    except AnyIRError:
        return None
    return copy


def forgotten(module: Module, dtypes: bool, shapes: bool) -> Module:
    """A copy whose inputs and results have lost their dtypes, their shapes or both, but for what inference finds again: what
    is behind an operator that nobody knows has no more."""
    copy = module.clone()
    for graph in copy.all_graphs():
        for value in (*graph.inputs, *(result for node in graph.nodes() for result in node.results)):
            if isinstance(value.type, TensorType):
                kept = None if dtypes else value.type.dtype, None if shapes else value.type.shape
                value.type, value._elems = TensorType(*kept), None
    infer_module(copy)
    verify(copy)
    return copy


def in_dtype(text: str, dtype: str) -> Module | None:
    """The graphs with another float type; None where the text or an op does not take it."""
    try:
        return parse_graphs(re.sub(r"\bf32\b", dtype, text))
    except AnyIRError:
        return None
