"""Passes: how one is written, found by name and run, and what it may ask of its context.

    @graph_pass("drop-identity")
    def drop_identity(graph, ctx, *, keep_named: bool = False):
        \"\"\"Given ... Result ...\"\"\"

Keyword-only parameters are the pass's options: on the command line `drop-identity{keep_named=true}`. A graph pass is called
for every graph and region, a module pass once. Whether it changed anything is read off the graphs' versions.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args, get_type_hints

import numpy as np

from ..ir.errors import AnyIRError, PassError, UsageError
from ..ir.graph import Graph, Module, bulk
from .pipeline import Fix, Step, parse_pipeline
from .rewrite import NUMERICS, Rule, RuleSet, as_rules, rewrite_graph

#: The highest numerics class that each level admits.
LEVEL_NUMERICS = {0: "exact", 1: "exact", 2: "ulp", 3: "approx"}

#: Passes that come with anyir: name -> module below anyir that registers it.
CORE = {
    "canonicalize": "passes.simplify.canonicalize",
    "cse": "passes.optimize.cse",
    "dce": "passes.optimize.dce",
    "fold": "passes.optimize.fold",
    "fold-batch-norm": "passes.affine.batch_norm",
    "fuse-activations": "passes.fuse.activations",
    "fuse-norms": "passes.fuse.norms",
    "fuse-recurrent": "passes.fuse.recurrent",
    "fuse-attention": "passes.fuse.attention",
    "fuse-shuffle": "passes.fuse.shuffle",
    "merge-parallel": "passes.affine.parallel",
    "merge-heads": "passes.affine.heads",
    "dead-weights": "passes.dead.dead_weights",
    "share-weights": "passes.optimize.share",
    "fix-defaults": "passes.optimize.defaults",
    "inline": "passes.optimize.inline",
    "regions": "passes.control.regions",
    "move-data": "passes.motion.move_data",
    "assign-layout": "passes.layout.named",
    "cancel-transposes": "passes.layout.named",
    "fold-quantize": "passes.quantize.fold",
    "reassociate": "passes.simplify.reassociate",
    "prune": "compress.prune",
    "clip": "passes.prune.clip",
    "integer-ops": "passes.quantize.integer",
    "quantize": "compress.quantize",
    "equalize": "passes.quantize.equalize",
    "correct-bias": "compress.correct",
}

ENTRY_POINTS = "anyir.passes"


class Feeds(Protocol):
    """Calibration samples: `batches()` yields arrays by input name, streaming, the same in the same order every time."""

    count: int
    digest: str

    def batches(self) -> Iterator[Mapping[str, np.ndarray]]: ...


@dataclass
class Context:
    """What a pass may use: options of the run, counters, notes for the user, and what compression works from.

    `data` are calibration samples, `reference` the module before any lossy pass, `records` the report's rows (plain JSON
    values, "pass" among them). `shuffle` is the seed of a random order of the rules of equal benefit, for tests that it
    makes no difference.
    """

    level: int = 2
    stats: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    fold_bytes: int = 64 << 20
    data: Feeds | None = None
    reference: Module | None = None
    seed: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    shuffle: int | None = None

    def admits(self, numerics: str) -> bool:
        """Whether rules of this class may run at this level."""
        return NUMERICS.index(numerics) <= NUMERICS.index(LEVEL_NUMERICS[self.level])


@dataclass(frozen=True)
class Pass:
    """A registered pass. `run(module, ctx, **options)` edits the module in place; `check(options)` raises UsageError for
    values, of all options, that are out of range or contradict each other."""

    name: str
    run: Callable[..., None]
    options: dict[str, inspect.Parameter]
    numerics: str
    doc: str
    package: str
    rules: tuple[Rule, ...] = ()
    check: Callable[[dict[str, Any]], object] | None = None

    def choices(self, option: str) -> tuple[Any, ...]:
        """The values that an option may have, where its annotation is a Literal; else none are listed."""
        if not str(self.options[option].annotation).startswith("Literal["):
            return ()
        return get_args(get_type_hints(self.run)[option])

    def check_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """`given` converted to the declared types. Raises UsageError for unknown and ill-typed options and values that make
        no sense."""
        made = {}
        for name, value in given.items():
            declared = self.options.get(name)
            if declared is None:
                near = difflib.get_close_matches(name, self.options, 1)
                raise UsageError(
                    f"pass {self.name!r} has no option {name!r}",
                    hint=f"did you mean {near[0]}?" if near else f"it has: {', '.join(self.options) or 'none'}",
                )
            made[name] = _converted(self.name, name, value, declared)
            allowed = self.choices(name)
            if allowed and made[name] not in allowed:
                hint = f"{name} is one of: {', '.join(map(str, allowed))}"
                raise UsageError(f"{self.name}: {name}={value!r}", code="R023", hint=hint)
        for name, declared in self.options.items():
            if declared.default is inspect.Parameter.empty and name not in made:
                raise UsageError(f"pass {self.name!r} needs the option {name}", hint=f"{self.name}{{{name}=...}}")
        if self.check is not None:
            self.check({name: made.get(name, declared.default) for name, declared in self.options.items()})
        return made


def _converted(pass_name: str, name: str, value: Any, declared: inspect.Parameter) -> Any:
    kind = type(declared.default) if declared.default is not None else None
    if kind is float and type(value) is int:
        return float(value)
    if kind is not None and declared.default is not inspect.Parameter.empty and type(value) is not kind:
        raise UsageError(f"option {name} of pass {pass_name!r} is {value!r}, expected {kind.__name__}")
    return value


_PASSES: dict[str, Pass] = {}


def _register(made: Pass) -> Pass:
    old = _PASSES.get(made.name)
    if old is not None and old.package != made.package:
        raise UsageError(f"two passes are called {made.name!r}: {old.package} and {made.package}")
    _PASSES[made.name] = made
    return made


def _describe(function: Callable[..., None]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def module_pass(
    name: str,
    *,
    numerics: str = "exact",
    rules: tuple[Rule, ...] = (),
    check: Callable[[dict[str, Any]], object] | None = None,
) -> Callable[[Callable[..., None]], Pass]:
    """Register `function(module, ctx, *, options)`; `rules` are those that it applies, for `irc passes` and `irc explain`,
    `check` that of `Pass`."""
    return lambda f: _register(
        Pass(name, f, _describe(f), numerics, inspect.getdoc(f) or "", f.__module__, rules, check)
    )


def graph_pass(name: str, *, numerics: str = "exact") -> Callable[[Callable[..., None]], Pass]:
    """Register `function(graph, ctx, *, options)`, called for every graph and region, inner regions first."""

    def decorate(function: Callable[..., None]) -> Pass:
        def run(module: Module, ctx: Context, **options: Any) -> None:
            for graph in reversed(list(module.all_graphs())):
                function(graph, ctx, **options)

        doc = inspect.getdoc(function) or ""
        return _register(Pass(name, run, _describe(function), numerics, doc, function.__module__))

    return decorate


def pattern_pass(name: str, rules: Iterable[Rule | str], *, doc: str = "") -> Pass:
    """Register a pass that applies rules to a fixpoint; at each level only those whose numerics it admits."""
    made = tuple(as_rules(rules))
    package = inspect.currentframe().f_back.f_globals["__name__"]  # type: ignore[union-attr]

    def run(module: Module, ctx: Context) -> None:
        admitted = RuleSet((r for r in made if ctx.admits(r.numerics)), ctx.shuffle)
        for graph in reversed(list(module.all_graphs())):
            rewrite_graph(graph, admitted, ctx)

    widest = max((r.numerics for r in made), key=NUMERICS.index, default="exact")
    return _register(Pass(name, run, {}, widest, doc or "\n".join(r.doc for r in made), package, made))


def find_pass(name: str) -> Pass:
    """The pass called `name`: loaded, built in, or from an installed package. Raises UsageError with near matches."""
    if name not in _PASSES and name in CORE:
        importlib.import_module(f"anyir.{CORE[name]}")
    if name not in _PASSES:
        for point in _entry_points():
            if point.name == name:
                _load(point)
    if name not in _PASSES:
        near = difflib.get_close_matches(name, all_pass_names(), 1)
        raise UsageError(
            f"there is no pass {name!r}",
            code="R010",
            hint=f"did you mean {near[0]}?" if near else "irc passes lists them",
        )
    return _PASSES[name]


def _load(point: Any) -> None:
    """Import an installed package's pass. Raises UsageError naming the package when that fails."""
    try:
        point.load()
    except Exception as error:  # others' code may raise anything
        package = point.dist.name if point.dist else point.value
        raise UsageError(
            f"pass {point.name!r} of {package} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def all_pass_names() -> list[str]:
    """Every pass that can be named, sorted; nothing is loaded for it."""
    return sorted({*CORE, *_PASSES, *(p.name for p in _entry_points())})


def _entry_points() -> Sequence[Any]:
    from importlib.metadata import entry_points

    return tuple(entry_points(group=ENTRY_POINTS))


class Instrument:
    """Hooks around passes; each does nothing unless overridden. `should_run` may skip a pass."""

    def should_run(self, step: Step, module: Module) -> bool:
        return True

    def before(self, step: Step, module: Module, ctx: Context) -> None: ...

    def after(self, step: Step, module: Module, ctx: Context, changed: bool) -> None: ...

    def failed(self, step: Step, module: Module, ctx: Context, error: AnyIRError) -> None: ...


class StopPipeline(Exception):
    """Raised by an instrument after a pass to end the run there, in good order."""


def run_pipeline(
    module: Module,
    pipeline: str | Sequence[Step | Fix],
    ctx: Context | None = None,
    instruments: Sequence[Instrument] = (),
) -> Context:
    """Run passes in order on `module`, in place. Raises what a pass raises, with the pass named; UsageError for unknown
    passes and options before anything is run."""
    steps = check_pipeline(pipeline)
    context = ctx or Context()
    with contextlib.suppress(StopPipeline), bulk():
        _Run(module, context, instruments).steps(steps)
    return context


def check_pipeline(pipeline: str | Sequence[Step | Fix]) -> list[Step | Fix]:
    """The steps of a pipeline whose passes all exist and take their options. Raises UsageError."""
    steps = parse_pipeline(pipeline) if isinstance(pipeline, str) else list(pipeline)
    for step in _flat(steps):
        find_pass(step.name).check_options(step.options)
    return steps


def pass_names(pipeline: str | Sequence[Step | Fix]) -> list[str]:
    """The passes of a pipeline, each once, in order. Raises UsageError."""
    return list(dict.fromkeys(step.name for step in _flat(check_pipeline(pipeline))))


def _flat(steps: Iterable[Step | Fix]) -> Iterable[Step]:
    for step in steps:
        if isinstance(step, Fix):
            yield from _flat(step.steps)
        else:
            yield step


class _Run:
    """One run of a pipeline. A step that changed nothing would again change nothing: it is left out until another one has
    changed the module."""

    def __init__(self, module: Module, ctx: Context, instruments: Sequence[Instrument]) -> None:
        self.module = module
        self.ctx = ctx
        self.instruments = instruments
        self.version = module.version
        self.idle: dict[str, int] = {}

    def steps(self, steps: Iterable[Step | Fix]) -> None:
        for step in steps:
            if isinstance(step, Fix):
                self.fix(step)
            elif self.idle.get(str(step)) != self.version:
                self.step(step)

    def step(self, step: Step) -> None:
        if run_step(self.module, step, self.ctx, self.instruments):
            self.version = self.module.version
        else:
            self.idle[str(step)] = self.version

    def fix(self, fix: Fix) -> None:
        """Repeat until a round changes nothing, at most `limit` times; a round too many is a bug of its passes."""
        for _ in range(fix.limit):
            before = self.version
            self.steps(fix.steps)
            if self.version == before:
                return
        self.ctx.notes.append(f"{fix} still changed something after {fix.limit} rounds")


def run_step(module: Module, step: Step, ctx: Context, instruments: Sequence[Instrument] = ()) -> bool:
    """Run one pass with its instruments; True when it changed the module."""
    found = find_pass(step.name)
    options = found.check_options(step.options)
    if not all(i.should_run(step, module) for i in instruments):
        return False
    for instrument in instruments:
        instrument.before(step, module, ctx)
    version = module.version
    try:
        found.run(module, ctx, **options)
        changed = module.version != version
        _tell_done(instruments, step, module, ctx, changed)
    except StopPipeline:
        raise
    except AnyIRError as error:
        _tell_failed(instruments, step, module, ctx, error)
        raise error.at(f"pass {step.name!r} ({found.package})") from None
    except Exception as error:
        wrapped = PassError(f"raised {type(error).__name__}: {error}", where=f"pass {step.name!r} ({found.package})")
        _tell_failed(instruments, step, module, ctx, wrapped)
        raise wrapped from error
    return changed


def _tell_done(instruments: Sequence[Instrument], step: Step, module: Module, ctx: Context, changed: bool) -> None:
    """Every instrument hears of the pass, also where one of them ends the pipeline here."""
    stop: StopPipeline | None = None
    for instrument in instruments:
        try:
            instrument.after(step, module, ctx, changed)
        except StopPipeline as asked:
            stop = asked
    if stop is not None:
        raise stop


def _tell_failed(
    instruments: Sequence[Instrument], step: Step, module: Module, ctx: Context, error: AnyIRError
) -> None:
    for instrument in instruments:
        instrument.failed(step, module, ctx, error)


__all__ = ["Context", "Graph", "Instrument", "Pass", "graph_pass", "module_pass", "pattern_pass", "run_pipeline"]
