"""`irc verify A B`: two models, the same inputs, a verdict per output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from .screen import Screen


@click.command("verify")
@click.argument("a")
@click.argument("b")
@click.option("--with", "runtimes", multiple=True, metavar="RUNTIME", help="Run B there; given twice: A, then B.")
@click.option("--atol", type=click.FloatRange(0), help="Absolute limit instead of the computed one.")
@click.option("--rtol", type=click.FloatRange(0), help="Limit as a share of each element of A, on top of --atol.")
@click.option("--cos", "cosine", type=click.FloatRange(-1, 1), help="The least cosine of each output.")
@click.option("--junit", "junit_file", type=click.Path(path_type=Path), help="Write the verdicts as JUnit XML, for CI.")
@shared.input_options
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Compare model B with model A, of any two formats; exit code 1 when they differ.

    Limits are computed from A's dtypes and operations unless --atol, --rtol or --cos say otherwise; all that are given
    must hold, and --cos alone lets elements differ by any amount. With one --with only B runs in
    that runtime, with two A and B do; `kernels` names the reference kernels.
    """
    with shared.session("verify", given) as screen:
        _verify(given, screen)


def _verify(given: dict[str, Any], screen: Screen) -> None:
    from ..ir.errors import NumericsError, UsageError
    from . import check, junit, npz, report

    named = given["runtimes"]
    if len(named) > 2:
        raise UsageError("--with is given once or twice")
    first, second = (named[0], named[1]) if len(named) == 2 else (None, named[0] if named else None)
    found = check.verify(
        given["a"],
        given["b"],
        inputs=npz.read_inputs(given["inputs_file"]) if given["inputs_file"] else None,
        with_a=first,
        with_b=second,
        atol=given["atol"],
        rtol=given["rtol"],
        cosine=given["cosine"],
        seed=given["seed"],
    )
    if given["junit_file"] is not None:
        junit.write(given["junit_file"], f"irc verify {given['a']} {given['b']}", found)
    screen.table(report.CHECK_COLUMNS, report.check_rows(found.checks))
    for line in report.failures(found.checks):
        screen.line(line)
    if given["inputs_file"] is None and not screen.json:
        screen.note(f"checked with seeded samples (seed {given['seed']}); real data with --inputs says more")
    screen.answer("verify", {"passed": found.passed, "checks": report.checks_json(found.checks)})
    if any(not one.passed for one in found.checks):
        raise NumericsError(f"{given['b']} differs from {given['a']}", code="N002")
    if not found.passed:
        raise NumericsError(
            f"not verified: {check.unproven(found.checks)}",
            code="N004",
            hint="give inputs that it has numbers for: --inputs",
        )
