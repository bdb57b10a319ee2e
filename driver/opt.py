"""`irc opt IN`: run passes and look at the IR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options as shared


@click.command("opt")
@click.argument("source")
@click.option("-o", "--output", default="-", show_default=True, help="IR text (.anyir), any format, or - for stdout.")
@click.option("--bisect", is_flag=True, help="Find the first pass that changes the numbers.")
@click.option("--run-reproducer", is_flag=True, help="SOURCE is a folder that --reproducer left: run its pass again.")
@shared.source_options
@shared.pass_options
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Run passes on SOURCE and print the IR, or save it."""
    with shared.limits_from(given.pop("limit_pairs")):
        _opt(given)


def _opt(given: dict[str, Any]) -> None:
    from ..passes.manager import Context
    from ..passes.presets import preset
    from . import flow
    from .shapes import parse_shape

    screen = shared.screen_of(given["as_json"], given["quiet"], given["verbose"])
    shared.load_plugins(given["plugins"])
    source, pipeline = given["source"], given["passes"]
    if given["run_reproducer"]:
        source, pipeline = _reproducer(source)
    module = flow.load(source, format=given["source_format"], shapes=dict(map(parse_shape, given["shape_texts"])))
    pipeline = preset(given["level"]) if pipeline is None else pipeline
    if given["bisect"]:
        _bisect(module, pipeline, given["level"], screen)
        return
    watched, ctx = shared.watch(given), Context(level=given["level"])
    if screen.verbosity >= 1:
        screen.progress("passes", pipeline)
    flow.optimize(module, given["level"], pipeline, instruments=watched.instruments, ctx=ctx)
    shared.show_watch(watched, ctx.stats, screen)
    if given["output"] == "-":
        from ..ir.printer import Printer

        screen.line(Printer(elide=given["elide_weights"]).module(module).rstrip("\n"))
    else:
        flow.save(module, given["output"], protect=flow.source_files(source, module))
    screen.answer(
        "opt", {"rules": dict(ctx.stats), "notes": ctx.notes, "ir": str(module) if given["output"] == "-" else None}
    )


def _reproducer(folder: str) -> tuple[str, str]:
    """The case and the pipeline of a folder that a failing pass left."""
    from ..ir.storage import read_bytes

    base = Path(folder)
    return str(base / "case.anyir"), read_bytes(base / "pipeline.txt", "file_bytes").decode("utf-8", "replace").strip()


def _bisect(module: Any, pipeline: str, level: int, screen: Any) -> None:
    from ..ir.errors import NumericsError
    from ..kernels.compare import compare, limits_for
    from ..kernels.inputs import sample_inputs
    from ..kernels.run import run
    from ..passes.instrument import bisect

    inputs = sample_inputs(module)
    reference = run(module, inputs)
    limits = limits_for(module, inputs)
    culprit = bisect(module, pipeline, lambda copy: compare(reference, run(copy, inputs), limits).passed, level)
    screen.answer("opt", {"culprit": culprit})
    if culprit is not None:
        raise NumericsError(f"{culprit} is the first pass after which the results differ", code="N010")
    screen.line("no pass changes the results")
