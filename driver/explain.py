"""`irc explain`: what an error code means, and why a rewrite rule did not match a model."""

from __future__ import annotations

from typing import Any

import click

from ..ir.errors import UsageError
from . import options as shared
from .codes import CODES


@click.command("explain")
@click.argument("what")
@click.argument("source", required=False)
@click.option("--load", "plugins", multiple=True, metavar="MODULE", help="Import a file or module with passes.")
@click.option(
    "--passes", metavar="PIPELINE", default="", help="Run these first, so that the model is in the form it meets."
)
@click.option("--top", type=int, default=5, show_default=True, help="How many near misses.")
@shared.screen_options
def command(**given: Any) -> None:
    """Explain error code WHAT (such as U012), or why rule or pass WHAT did not match in SOURCE.

    \b
    irc explain F002
    irc explain fuse_silu model.onnx --passes canonicalize
    """
    screen = shared.screen_of(given["as_json"], given["quiet"], given["verbose"])
    if given["source"] is None:
        _code(given["what"].upper(), screen)
        return
    shared.load_plugins(given["plugins"])
    _rule(given, screen)


def _code(code: str, screen: Any) -> None:
    if code not in CODES:
        raise UsageError(f"there is no code {code!r}", hint=f"known: {', '.join(CODES)}; a rule name needs a model too")
    page = CODES[code]
    screen.line(f"{code}: {page.title}\n\n{page.text}\n\nExample\n  {page.example}")
    screen.answer("explain", {"code": code, "title": page.title, "text": page.text, "example": page.example})


def _rule(given: dict[str, Any], screen: Any) -> None:
    """Near misses of each rule that bears the name, deepest partial match first."""
    from ..passes import manager
    from ..passes.rewrite import attempt, near_misses
    from . import flow

    module = flow.load(given["source"])
    if given["passes"]:
        flow.optimize(module, passes=given["passes"])
    rules = [r for name in manager.all_pass_names() for r in manager.find_pass(name).rules]
    wanted = [r for r in rules if r.name == given["what"]]
    if given["what"] in manager.all_pass_names():
        wanted = list(manager.find_pass(given["what"]).rules)
    if not wanted:
        raise UsageError(
            f"there is no rule or pass {given['what']!r}", hint="irc passes NAME lists the rules of a pass"
        )
    found = []
    for item in wanted:
        matches = sum(attempt(item, n) is not None for g in module.all_graphs() for n in g.nodes(*item.root))
        misses = sorted((t for g in module.all_graphs() for t in near_misses(g, item)), key=lambda t: -t.depth)
        screen.line(
            f"{item.name}: {item.doc.splitlines()[0] if item.doc else ''}\n  {matches} matches, {len(misses)} near misses"
        )
        for trace in misses[: given["top"]]:
            where = f"{trace.node} at {trace.node.loc}" if trace.node is not None else "nowhere"
            screen.line(f"  after {max(trace.depth, 0)} matching nodes: {trace.reason}\n    {where}")
        top = [{"depth": t.depth, "reason": t.reason, "node": str(t.node)} for t in misses[: given["top"]]]
        found.append({"rule": item.name, "matches": matches, "near_misses": top})
    screen.answer("explain", {"rules": found})
