"""`irc opt IN`: run passes and look at the IR."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from ..ir.graph import Module
    from .screen import Screen

STDOUT = "-"


@click.command("opt")
@click.argument("source")
@click.option("-o", "--output", default=STDOUT, show_default=True, help="IR text (.anyir), any format, or stdout.")
@click.option("--bisect", is_flag=True, help="Find the first pass that changes the numbers.")
@click.option("--run-reproducer", is_flag=True, help="SOURCE is a folder that --reproducer left: run its pass again.")
@shared.input_options
@shared.source_options
@shared.bind_option
@shared.pass_options
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Run passes on SOURCE and print the IR, or save it. SOURCE may be - (IR text on stdin)."""
    with shared.session("opt", given) as screen:
        _opt(given, screen)


def _opt(given: dict[str, Any], screen: Screen) -> None:
    from ..kernels.budget import Budget, spending
    from ..passes.manager import Context
    from . import flow, npz
    from .bind import parse_binds
    from .load import source_files
    from .shapes import parse_shapes
    from .watch import pipeline_of, watch

    if given["run_reproducer"]:
        given["source"], given["passes"] = _reproducer(given["source"])
        given["verify_each"] = given["check_numerics"] = True
    pipeline = pipeline_of(given)
    inputs = npz.read_inputs(given["inputs_file"]) if given["inputs_file"] else None
    watched, ctx = watch(given, inputs), Context(level=given["level"])
    module = flow.load(
        given["source"],
        format=given["source_format"],
        shapes=parse_shapes(given["shape_texts"]),
        bind=parse_binds(given["bind_texts"]),
    )
    if screen.verbosity >= 1:
        screen.progress("passes", pipeline)
    with spending(Budget.for_models(module)):
        if given["bisect"]:
            _bisect(module, pipeline, given, inputs, screen)
            return
        flow.optimize(module, given["level"], pipeline, instruments=watched.instruments, ctx=ctx)
    watched.show(ctx.stats, screen)
    if given["run_reproducer"]:
        screen.note("the pass runs through: the failure is gone")
    answer: dict[str, Any] = {"pipeline": pipeline, "rules": dict(ctx.stats), "notes": ctx.notes}
    if given["output"] == STDOUT:
        answer["ir"] = _text(module, given["elide_weights"])
        screen.always(answer["ir"].rstrip("\n"))
    else:
        answer["files"] = flow.save(module, given["output"], protect=source_files(given["source"], module))
    screen.answer("opt", answer)


def _text(module: Module, elide: int) -> str:
    from ..ir.printer import Printer

    return Printer(elide=elide).module(module)


def _reproducer(folder: str) -> tuple[str, str]:
    """The case and the pipeline of a folder that a failing pass left."""
    from ..ir.storage import read_bytes

    base = Path(folder)
    pipeline = read_bytes(base / "pipeline.txt", "name_bytes").decode("utf-8", "replace").strip()
    return str(base / "case.anyir"), pipeline


def _bisect(module: Module, pipeline: str, given: dict[str, Any], inputs: Any, screen: Screen) -> None:
    from ..ir.errors import NumericsError
    from ..kernels.compare import compare, limits_for
    from ..kernels.run import run
    from ..passes.instrument import bisect
    from . import check

    samples = check.sample_sets(module, inputs, given["seed"])[0]
    reference = run(module, samples)
    limits = limits_for(module, samples, exact=reference)
    culprit = bisect(
        module, pipeline, lambda copy: compare(reference, run(copy, samples), limits).passed, given["level"]
    )
    screen.answer("opt", {"pipeline": pipeline, "culprit": culprit})
    if culprit is not None:
        raise NumericsError(f"{culprit} is the first pass after which the results differ", code="N010")
    screen.line("no pass changes the results")
