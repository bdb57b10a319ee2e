"""Options that several verbs share, as click decorators, and the session that every verb runs in."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..ir.errors import AnyIRError, UsageError
from .screen import Screen

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _stack(*decorators: Decorator) -> Decorator:
    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorate in reversed(decorators):
            function = decorate(function)
        return function

    return apply


_LIMITS = click.option(
    "--limit", "limit_pairs", multiple=True, metavar="NAME=N", help="Change a safety limit, such as nesting=128."
)
_LOAD = click.option("--load", "plugins", multiple=True, metavar="MODULE", help="Import a file or module with passes.")

#: Of every verb.
screen_options = _stack(
    click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout."),
    click.option("-q", "--quiet", is_flag=True, help="Only errors."),
    click.option("-v", "--verbose", count=True, help="Say which passes ran; -vv: which rules fired."),
)

#: Of verbs that read models.
limit_options = _LIMITS
source_options = _stack(
    click.option("--from", "source_format", metavar="FORMAT", help="The input's format, whatever its name."),
    click.option("--shape", "shape_texts", multiple=True, metavar="NAME=DIMS", help="Fix or name dims: x=1,3,H,W."),
)
bind_option = click.option(
    "--bind", "bind_texts", multiple=True, metavar="NAME=VALUE", help="Make an input a constant: sr=16000."
)
input_options = _stack(
    click.option("--inputs", "inputs_file", type=click.Path(path_type=Path), help="Arrays by input name (.npz)."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the sample inputs."),
)
load_option = _LOAD

#: Of verbs that run passes; `watch` turns them into instruments.
pass_options = _stack(
    click.option("-O", "level", type=click.IntRange(0, 3), default=2, show_default=True, help="Optimisation level."),
    click.option("--passes", metavar="PIPELINE", help="Run these passes instead: 'fold,fix(cse,dce)'."),
    _LOAD,
    click.option("--print-ir-before", multiple=True, metavar="PASS", help="Print the IR before a pass, or all."),
    click.option("--print-ir-after", multiple=True, metavar="PASS", help="... after a pass, all, or changed."),
    click.option("--ir-scope", metavar="REGEX", default="", help="Print only matching lines of IR."),
    click.option("--elide-weights", type=int, default=16, show_default=True, help="Longest tensor printed in full."),
    click.option("--dump-dir", type=click.Path(path_type=Path), help="One numbered IR file per pass."),
    click.option("--verify-each", is_flag=True, help="Check the IR's structure after each pass."),
    click.option("--check-numerics", is_flag=True, help="Check the numbers after each pass."),
    click.option("--time-passes", is_flag=True, help="CPU seconds per pass."),
    click.option("--stats", is_flag=True, help="How often each rule fired."),
    click.option("--stop-after", metavar="PASS", help="End the pipeline there."),
    click.option("--bisect-limit", type=click.IntRange(0), metavar="N", help="Run only the first N passes."),
    click.option("--reproducer", type=click.Path(path_type=Path), help="Where a failing pass leaves its input."),
)


@contextmanager
def session(verb: str, given: dict[str, Any]) -> Iterator[Screen]:
    """What every verb runs in: its screen, its limits, its plug-ins. With --json an error is an answer too."""
    screen = Screen(given["as_json"], -1 if given["quiet"] else given["verbose"])
    try:
        with limits_from(given.get("limit_pairs", ())):
            load_plugins(given.get("plugins", ()))
            yield screen
    except AnyIRError as error:
        screen.failed(verb, error)
        raise


def near(name: str, known: Sequence[str], otherwise: str = "") -> str:
    """A hint for a name that does not exist: the nearest one, else `otherwise`, else all."""
    import difflib

    found = difflib.get_close_matches(name, known, 1)
    return f"did you mean {found[0]}?" if found else otherwise or f"known: {', '.join(known)}"


def load_plugins(names: Sequence[str]) -> None:
    """Import the user's own files or modules, whose passes and ops register themselves. Raises UsageError."""
    for name in names:
        try:
            if name.endswith(".py"):
                _import_file(Path(name))
            else:
                import_module(name)
        except UsageError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise UsageError(f"{type(error).__name__}: {error}", where=f"--load {name}") from error


def import_module(name: str) -> Any:
    """A module that the user named, found in the current folder too."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def _import_file(path: Path) -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    if not path.is_file():
        raise UsageError("there is no such file", where=f"--load {path}")
    spec = spec_from_file_location(f"anyir_plugin_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}", path)
    module = module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]


@contextmanager
def limits_from(pairs: Sequence[str]) -> Iterator[None]:
    """Apply `--limit NAME=N`. Raises UsageError for an unknown name or a bad number."""
    from ..ir.storage import LIMITS, limits

    made = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        key = name.replace("-", "_")
        if key not in LIMITS:
            raise UsageError(f"there is no limit {name!r}", where="--limit", hint=near(key, list(LIMITS)))
        if not re.fullmatch(r"[0-9]{1,19}", number):
            raise UsageError(f"{pair!r} is not NAME=N", where="--limit", hint=f"--limit {name}={LIMITS[key]}")
        made[key] = int(number)
    with limits(**made):
        yield
