"""`irc explain`: what an error code means, and why a rewrite rule did not match a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from ..ir.graph import Module
    from ..passes.rewrite import Rule
    from .screen import Screen


@click.command("explain")
@click.argument("what")
@click.argument("source", required=False)
@click.option(
    "--passes", metavar="PIPELINE", default="", help="Run these first, so that the model is in the form it meets."
)
@click.option("--top", type=click.IntRange(0), default=5, show_default=True, help="How many near misses.")
@shared.load_option
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Explain error code WHAT (such as U001), or why rule or pass WHAT did not match in SOURCE.

    \b
    irc explain F002
    irc explain fuse_silu model.onnx --passes canonicalize
    """
    with shared.session("explain", given) as screen:
        if given["source"] is None:
            _code(given["what"], screen)
        else:
            _rules(given, screen)


def _code(text: str, screen: Screen) -> None:
    from ..ir.errors import UsageError
    from .codes import CODES

    code = text.upper()
    if code not in CODES:
        hint = shared.near(code, list(CODES)) + "; a rule or pass needs a model too"
        raise UsageError(f"there is no error code {text!r}", hint=hint)
    page = CODES[code]
    screen.line(f"{code}: {page.title}\n\n{page.text}\n\nExample\n  {page.example}")
    screen.answer("explain", {"code": code, "title": page.title, "text": page.text, "example": page.example})


def _rules(given: dict[str, Any], screen: Screen) -> None:
    """Matches and near misses of each rule that bears the name."""
    from . import flow

    wanted = _named(given["what"])
    module = flow.load(given["source"])
    if given["passes"]:
        flow.optimize(module, passes=given["passes"])
    found = [_near_misses(rule, module, given["top"], screen) for rule in wanted]
    screen.answer("explain", {"rules": found})


def _named(name: str) -> list[Rule]:
    """The rule `name`, or all rules of the pass `name`. Raises UsageError."""
    from ..ir.errors import UsageError
    from ..passes import manager

    passes = {known: manager.find_pass(known) for known in manager.all_pass_names()}
    if name in passes:
        if not passes[name].rules:
            raise UsageError(f"the pass {name!r} is not made of rules", hint=f"irc passes {name}")
        return list(passes[name].rules)
    rules = [rule for found in passes.values() for rule in found.rules]
    wanted = [rule for rule in rules if rule.name == name]
    if not wanted:
        known = [*passes, *(rule.name for rule in rules)]
        raise UsageError(
            f"there is no rule or pass {name!r}", hint=shared.near(name, known, "irc passes NAME lists its rules")
        )
    return wanted


def _near_misses(rule: Rule, module: Module, top: int, screen: Screen) -> dict[str, Any]:
    """How often a rule matches, and where it nearly did, deepest partial match first."""
    from ..passes.rewrite import attempt, near_misses

    matches = sum(attempt(rule, n) is not None for g in module.all_graphs() for n in g.nodes(*rule.root))
    misses = sorted((t for g in module.all_graphs() for t in near_misses(g, rule)), key=lambda t: -t.depth)
    head = rule.doc.splitlines()[0] if rule.doc else ""
    screen.line(f"{rule.name}: {head}\n  {matches} matches, {len(misses)} near misses")
    for trace in misses[:top]:
        where = f"{trace.node} at {trace.node.loc}" if trace.node is not None else "nowhere"
        screen.line(f"  after {max(trace.depth, 0)} matching nodes: {trace.reason}\n    {where}")
    shown = [{"depth": t.depth, "reason": t.reason, "node": str(t.node)} for t in misses[:top]]
    return {"rule": rule.name, "matches": matches, "misses": len(misses), "near_misses": shown}
