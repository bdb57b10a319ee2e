"""`irc compile IN -o OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options as shared


@click.command("compile")
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option("--to", "target_format", metavar="FORMAT", help="The output's format, whatever its name.")
@click.option("--opset", type=int, help="ONNX opset to write.")
@click.option("--external-data/--no-external-data", default=None, help="Keep weights beside the model file, or inside.")
@click.option(
    "--inputs", "inputs_file", type=click.Path(path_type=Path), help="Check with these arrays (.npz by name)."
)
@click.option("--no-verify", is_flag=True, help="Do not run the result.")
@click.option("--keep-unverified", is_flag=True, help="Keep the output even if the check fails.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample inputs.")
@shared.source_options
@shared.pass_options
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Convert SOURCE into OUTPUT, optimise it, and check that the numbers held.

    Formats come from the suffixes: .onnx .keras .h5 .hdf5 .tflite .mindir .pt2 .py .anyir. The written file is read back
    and run on the reference kernels, and in its real runtime where that is installed; when the check fails nothing is
    written and the exit code is 1.
    """
    with shared.limits_from(given.pop("limit_pairs")):
        _compile(given)


def _compile(given: dict[str, Any]) -> None:
    from ..ir.errors import NumericsError
    from . import check, flow, report
    from .shapes import parse_shape

    screen = shared.screen_of(given["as_json"], given["quiet"], given["verbose"])
    shared.load_plugins(given["plugins"])
    watched = shared.watch(given)
    write = {key: given[key] for key in ("opset", "external_data") if given[key] is not None}
    done = flow.compile(
        given["source"],
        given["output"],
        progress=screen.progress,
        level=given["level"],
        passes=given["passes"],
        format=given["target_format"],
        source_format=given["source_format"],
        shapes=dict(map(parse_shape, given["shape_texts"])),
        verify=not given["no_verify"],
        keep_unverified=given["keep_unverified"],
        inputs=check.read_inputs(given["inputs_file"]) if given["inputs_file"] else None,
        seed=given["seed"],
        write=write,
        instruments=watched.instruments,
    )
    shared.show_watch(watched, done.stats, screen)
    for text in done.notes if screen.verbosity >= 1 else []:
        screen.note(text)
    if screen.verbosity >= 0:
        screen.line(report.compile_block(done))
    screen.answer("compile", report.compile_json(done))
    if done.verified is False:
        raise NumericsError("the output was kept although it failed the check", where=str(given["output"]))
