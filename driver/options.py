"""Options that several verbs share, as click decorators, and what they stand for."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..ir.errors import UsageError
from .screen import Screen

if TYPE_CHECKING:
    from ..passes.manager import Instrument

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _stack(*decorators: Decorator) -> Decorator:
    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorate in reversed(decorators):
            function = decorate(function)
        return function

    return apply


def screen_options(function: Callable[..., Any]) -> Callable[..., Any]:
    return _stack(
        click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout."),
        click.option("-q", "--quiet", is_flag=True, help="Only errors."),
        click.option("-v", "--verbose", count=True, help="Say which passes ran; -vv: which rules fired."),
    )(function)


def limit_options(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--limit", "limit_pairs", multiple=True, metavar="NAME=N", help="Raise a safety limit, such as nesting=128."
    )(function)


def source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    return _stack(
        click.option("--from", "source_format", metavar="FORMAT", help="The input's format, whatever its name."),
        click.option("--shape", "shape_texts", multiple=True, metavar="NAME=DIMS", help="Fix or name dims: x=1,3,H,W."),
    )(function)


def pass_options(function: Callable[..., Any]) -> Callable[..., Any]:
    return _stack(
        click.option(
            "-O", "level", type=click.IntRange(0, 3), default=2, show_default=True, help="Optimisation level."
        ),
        click.option("--passes", metavar="PIPELINE", help="Run these passes instead: 'fold,fix(cse,dce)'."),
        click.option("--load", "plugins", multiple=True, metavar="MODULE", help="Import a file or module with passes."),
        click.option("--print-ir-before", multiple=True, metavar="PASS", help="Print the IR before a pass, or all."),
        click.option("--print-ir-after", multiple=True, metavar="PASS", help="... after a pass, all, or changed."),
        click.option("--ir-scope", metavar="REGEX", default="", help="Print only matching lines of IR."),
        click.option(
            "--elide-weights", type=int, default=16, show_default=True, help="Longest tensor printed in full."
        ),
        click.option("--dump-dir", type=click.Path(path_type=Path), help="One numbered IR file per pass."),
        click.option("--verify-each", is_flag=True, help="Check the IR's structure after each pass."),
        click.option("--check-numerics", is_flag=True, help="Check the numbers after each pass."),
        click.option("--time-passes", is_flag=True, help="CPU seconds per pass."),
        click.option("--stats", is_flag=True, help="How often each rule fired."),
        click.option("--stop-after", metavar="PASS", help="End the pipeline there."),
        click.option("--bisect-limit", type=int, metavar="N", help="Run only the first N passes."),
        click.option("--reproducer", type=click.Path(path_type=Path), help="Where a failing pass leaves its input."),
    )(function)


@dataclass
class Watch:
    """The instruments that the options ask for, and what they have to say at the end."""

    instruments: list[Instrument] = field(default_factory=list)
    timer: Any = None
    stats: bool = False


def watch(options: dict[str, Any]) -> Watch:
    """Build instruments from the values of `pass_options`. Imports only what is asked for."""
    made = Watch(stats=options["stats"])
    asked = (
        "print_ir_before",
        "print_ir_after",
        "dump_dir",
        "verify_each",
        "check_numerics",
        "time_passes",
        "stop_after",
    )
    if not any(options[name] for name in asked) and options["bisect_limit"] is None and not options["reproducer"]:
        return made
    from ..passes import instrument as kinds

    add = made.instruments.append
    if options["bisect_limit"] is not None:
        add(kinds.BisectLimit(options["bisect_limit"]))
    if options["reproducer"]:
        add(kinds.Reproducer(options["reproducer"]))
    if options["print_ir_before"] or options["print_ir_after"]:
        before, after = frozenset(options["print_ir_before"]), frozenset(options["print_ir_after"])
        add(kinds.PrintIR(before, after, options["elide_weights"], options["ir_scope"]))
    if options["dump_dir"]:
        add(kinds.DumpDir(options["dump_dir"], options["elide_weights"]))
    if options["time_passes"]:
        made.timer = kinds.TimePasses()
        add(made.timer)
    if options["verify_each"]:
        add(kinds.VerifyEach())
    if options["check_numerics"]:
        add(kinds.CheckNumerics())
    if options["stop_after"]:
        add(kinds.StopAfter(options["stop_after"]))
    return made


def show_watch(made: Watch, counts: Any, screen: Screen) -> None:
    """Tables of times and counts, where they were asked for."""
    if made.timer is not None:
        rows = [(n, f"{s:.3f}", made.timer.runs[n], made.timer.changes[n]) for n, s in made.timer.seconds.items()]
        screen.table(("pass", "CPU s", "runs", "changed"), rows)
    if made.stats or screen.verbosity >= 2:
        screen.table(("rule", "fired"), sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def load_plugins(names: tuple[str, ...]) -> None:
    """Import the user's own files or modules, whose passes and ops register themselves. Raises UsageError."""
    for name in names:
        path = Path(name)
        try:
            if path.suffix == ".py":
                _import_file(path)
            else:
                importlib.import_module(name)
        except (ImportError, OSError, SyntaxError) as error:
            raise UsageError(f"--load {name}: {error}") from None


def _import_file(path: Path) -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    if not path.is_file():
        raise UsageError("no such file", where=f"--load {path}")
    spec = spec_from_file_location(f"anyir_plugin_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}", path)
    module = module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]


@contextmanager
def limits_from(pairs: tuple[str, ...]) -> Iterator[None]:
    """Apply `--limit NAME=N`. Raises UsageError for an unknown name or a bad number."""
    from ..ir.storage import LIMITS, limits

    made = {}
    for pair in pairs:
        name, equals, number = pair.partition("=")
        key = name.replace("-", "_")
        if not equals or key not in LIMITS or not number.isdigit():
            raise UsageError(f"--limit {pair!r} is not NAME=N", hint=f"limits: {', '.join(LIMITS)}")
        made[key] = int(number)
    with ExitStack() as stack:
        stack.enter_context(limits(**made))
        yield


def screen_of(as_json: bool, quiet: bool, verbose: int) -> Screen:
    return Screen(as_json, -1 if quiet else verbose)
