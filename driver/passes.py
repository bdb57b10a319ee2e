"""`irc passes`: what can stand in --passes, and what the -O levels run."""

from __future__ import annotations

from typing import Any

import click

from . import options as shared


@click.command("passes")
@click.argument("name", required=False)
@click.option("--level", metavar="O0..O3", help="Print this level's pipeline, a line of reason for each pass.")
@click.option("--load", "plugins", multiple=True, metavar="MODULE", help="Import a file or module with passes.")
@shared.screen_options
def command(**given: Any) -> None:
    """List all passes, or show the options and the documentation of pass NAME."""
    from ..passes import manager

    screen = shared.screen_of(given["as_json"], given["quiet"], given["verbose"])
    shared.load_plugins(given["plugins"])
    if given["level"]:
        _level(given["level"], screen)
        return
    if given["name"]:
        _one(manager.find_pass(given["name"]), screen)
        return
    rows = []
    for name in manager.all_pass_names():
        found = manager.find_pass(name)
        rows.append((name, _options(found), found.numerics, found.package, found.doc.split("\n")[0]))
    screen.table(("pass", "options", "numerics", "from", "what"), rows)
    screen.answer(
        "passes", {"passes": [dict(zip(("name", "options", "numerics", "from", "what"), r, strict=True)) for r in rows]}
    )


def _options(found: Any) -> str:
    return ", ".join(f"{name}={p.default}" for name, p in found.options.items())


def _level(text: str, screen: Any) -> None:
    from ..ir.errors import UsageError
    from ..passes.presets import LEVELS, preset

    digits = text.lstrip("-O")
    if not digits.isdigit() or int(digits) not in LEVELS:
        raise UsageError(f"there is no level {text!r}", hint="O0 to O3")
    level = int(digits)
    screen.line(f"-O{level}: {preset(level) or '(only what the target needs)'}")
    screen.table(("pass", "why"), LEVELS[level])
    screen.answer("passes", {"level": level, "pipeline": preset(level)})


def _one(found: Any, screen: Any) -> None:
    screen.line(f"{found.name} ({found.package}, numerics: {found.numerics})\n\n{found.doc}\n")
    for name, parameter in found.options.items():
        screen.line(f"  {name} = {parameter.default}")
    screen.table(("rule", "numerics", "what"), [(r.name, r.numerics, r.doc.split("\n")[0]) for r in found.rules])
    screen.answer("passes", {"name": found.name, "doc": found.doc, "rules": [r.name for r in found.rules]})
