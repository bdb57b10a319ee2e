"""`irc verify A B`: two models, the same inputs, a verdict per output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options as shared


@click.command("verify")
@click.argument("a")
@click.argument("b")
@click.option("--inputs", "inputs_file", type=click.Path(path_type=Path), help="Arrays by input name (.npz).")
@click.option("--with", "runtimes", multiple=True, metavar="RUNTIME", help="Run A (first --with) and B (second) there.")
@click.option("--atol", type=float, help="Absolute limit instead of the computed one.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample inputs.")
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Compare model B with model A, of any two formats; exit code 1 when they differ.

    Limits are computed from A's dtypes and operations unless --atol says otherwise. With one --with only B runs in
    that runtime, with two A and B do; `kernels` names the reference kernels.
    """
    with shared.limits_from(given.pop("limit_pairs")):
        _verify(given)


def _verify(given: dict[str, Any]) -> None:
    from ..ir.errors import NumericsError, UsageError
    from . import check, report

    screen = shared.screen_of(given["as_json"], given["quiet"], given["verbose"])
    named = given["runtimes"]
    if len(named) > 2:
        raise UsageError("--with is given once or twice")
    first, second = (named[0], named[1]) if len(named) == 2 else (None, named[0] if named else None)
    checks = check.verify(
        given["a"],
        given["b"],
        inputs=check.read_inputs(given["inputs_file"]) if given["inputs_file"] else None,
        with_a=first,
        with_b=second,
        atol=given["atol"],
        seed=given["seed"],
    )
    screen.table(report.CHECK_COLUMNS, report.check_rows(checks))
    if given["inputs_file"] is None and screen.verbosity >= 0:
        screen.note("checked with random samples; real data with --inputs says more")
    passed = check.all_passed(checks)
    screen.answer("verify", {"passed": passed, "checks": report.checks_json(checks)})
    if not passed:
        raise NumericsError(f"{given['b']} differs from {given['a']}", code="N002")
