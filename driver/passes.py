"""`irc passes`: what can stand in --passes, and what the -O levels run."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from ..passes.manager import Pass
    from .screen import Screen

#: Of a step in the table of a level.
STEP_WIDTH = 30
COLUMNS = ("pass", "options", "numerics", "from", "what")


@click.command("passes")
@click.argument("name", required=False)
@click.argument("made", required=False, metavar="")
@click.option("--level", metavar="O0..O3", help="Print this level's pipeline, a line of reason for each pass.")
@shared.load_option
@shared.screen_options
def command(**given: Any) -> None:
    """List all passes, or show the options and the documentation of pass NAME.

    `irc passes new NAME` writes a pass with a rule and a test into this folder, to start from.
    """
    with shared.session("passes", given) as screen:
        if given["name"] == "new" or given["made"]:
            _new(given["name"], given["made"], screen)
        elif given["level"]:
            _level(given["level"], screen)
        elif given["name"]:
            _one(given["name"], screen)
        else:
            _all(screen)


def _all(screen: Screen) -> None:
    from ..passes import manager

    found = [manager.find_pass(name) for name in manager.all_pass_names()]
    rows = [(p.name, _options(p), p.numerics, _origin(p), p.doc.split("\n")[0]) for p in found]
    screen.table(COLUMNS, rows)
    screen.answer("passes", {"passes": [dict(zip(COLUMNS, row, strict=True)) for row in rows]})


def _origin(found: Pass) -> str:
    """The distribution or file that a pass comes from."""
    return found.package.partition(".")[0].removeprefix("anyir_plugin_")


def _options(found: Pass) -> str:
    shown = []
    for name, parameter in found.options.items():
        shown.append(name if parameter.default is parameter.empty else f"{name}={parameter.default}")
    return ", ".join(shown)


def _level(text: str, screen: Screen) -> None:
    from ..ir.errors import UsageError
    from ..passes.presets import LEVELS, preset

    digits = text.lstrip("-O")
    if not digits.isdigit() or int(digits) not in LEVELS:
        raise UsageError(f"there is no level {text!r}", where="--level", hint="O0 to O3")
    level = int(digits)
    screen.line(f"-O{level}: {preset(level) or '(only what the target needs)'}")
    if LEVELS[level]:
        screen.table(("pass", "why"), [row for step, why in LEVELS[level] for row in _wrapped(step, why)])
    steps = [{"pass": step, "why": why} for step, why in LEVELS[level]]
    screen.answer("passes", {"level": level, "pipeline": preset(level), "steps": steps})


def _wrapped(step: str, why: str) -> list[tuple[str, str]]:
    """A step as rows of the table: `fix(...)` may hold more passes than a line does."""
    parts = textwrap.wrap(step.replace(",", ", "), STEP_WIDTH, break_on_hyphens=False)
    return [(part.replace(", ", ","), "" if index else why) for index, part in enumerate(parts)]


def _new(verb: str, name: str | None, screen: Screen) -> None:
    from pathlib import Path

    from ..ir.errors import UsageError
    from .scaffold import new_pass

    if verb != "new" or not name:
        raise UsageError("one name of a pass is wanted", hint="irc passes NAME, or irc passes new NAME")
    files = [path.name for path in new_pass(name, Path.cwd())]
    screen.line(f"wrote {files[0]} and {files[1]}\n  pytest {files[1]}")
    screen.line(f"  irc opt model.onnx --load {files[0]} --passes {name} --check-numerics")
    screen.answer("passes", {"new": name, "files": files})


def _one(name: str, screen: Screen) -> None:
    from ..passes.manager import find_pass

    found = find_pass(name)
    screen.line(f"{found.name} ({found.package}, numerics: {found.numerics})\n\n{found.doc}\n")
    if found.options:
        screen.line(f"options: {_options(found)}\n")
    if found.rules:
        screen.table(("rule", "numerics", "what"), [(r.name, r.numerics, r.doc.split("\n")[0]) for r in found.rules])
    rules = [{"rule": r.name, "numerics": r.numerics, "what": r.doc} for r in found.rules]
    about = {"name": found.name, "package": found.package, "numerics": found.numerics, "options": _options(found)}
    screen.answer("passes", {**about, "doc": found.doc, "rules": rules})
