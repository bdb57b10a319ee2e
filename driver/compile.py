"""`irc compile IN -o OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from .screen import Screen


#: Options that go to the backend.
WRITE = ("opset", "raise_opset", "ort", "quant_form", "external_data", "sparse")


@click.command("compile")
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option("--to", "target_format", metavar="FORMAT", help="The output's format, whatever its name.")
@click.option("--opset", type=int, help="ONNX opset to write.")
@click.option(
    "--raise-opset/--keep-opset",
    default=None,
    help="ONNX: the lowest opset with the fewest nodes, as -O3 does; or its own.",
)
@click.option(
    "--ort", is_flag=True, default=None, help="ONNX: onnxruntime's fused operators; the file runs there only."
)
@click.option("--quant-form", type=click.Choice(["qdq", "qoperator", "matmulnbits"]), help="Quantised layers in ONNX.")
@click.option("--external-data/--no-external-data", default=None, help="Keep weights beside the model file, or inside.")
@click.option(
    "--sparse", is_flag=True, default=None, help="TFLite: leave out the zeros of weights that are mostly zero."
)
@click.option("--functions", type=click.Choice(["keep", "inline"]), help="Local functions of an ONNX model.")
@click.option("--defaults", type=click.Choice(["keep", "fix"]), help="ONNX inputs that are initializers too.")
@click.option("--no-verify", is_flag=True, help="Do not run the result.")
@click.option("--keep-unverified", is_flag=True, help="Keep the output even if the check fails.")
@shared.input_options
@shared.source_options
@shared.bind_option
@shared.pass_options
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Convert SOURCE into OUTPUT, optimise it, and check that the numbers held.

    Formats come from the suffixes: .onnx .keras .h5 .hdf5 .tflite .mindir .pt2 .py .anyir. SOURCE may also be
    pkg.module:factory (a function that returns a live model) or - (IR text on stdin). The written file is read back and
    run on the reference kernels, and in its real runtime where that is installed; when the check fails nothing is
    written and the exit code is 1.
    """
    with shared.session("compile", given) as screen:
        _compile(given, screen)


def _compile(given: dict[str, Any], screen: Screen) -> None:
    from ..ir.errors import NumericsError
    from . import flow, npz, report
    from .bind import parse_binds
    from .shapes import parse_shapes
    from .watch import pipeline_of, watch

    inputs = npz.read_inputs(given["inputs_file"]) if given["inputs_file"] else None
    watched = watch(given, inputs)
    if screen.verbosity >= 1:
        screen.progress("passes", pipeline_of(given))
    try:
        done = flow.compile(
            given["source"],
            given["output"],
            progress=screen.progress,
            level=given["level"],
            passes=given["passes"],
            format=given["target_format"],
            source_format=given["source_format"],
            shapes=parse_shapes(given["shape_texts"]),
            bind=parse_binds(given["bind_texts"]),
            functions=given["functions"],
            defaults=given["defaults"],
            verify=not given["no_verify"],
            keep_unverified=given["keep_unverified"],
            inputs=inputs,
            seed=given["seed"],
            write={key: given[key] for key in WRITE if given[key] is not None},
            instruments=watched.instruments,
        )
    except flow.CheckFailed as failed:
        screen.answer("compile", report.compile_json(failed.report))
        raise
    watched.show(done.stats, screen)
    for text in done.notes if screen.verbosity >= 1 else []:
        screen.note(text)
    for row in done.proofs if screen.verbosity >= 2 else []:
        screen.note(report.proof_line(row))
    screen.line(report.compile_block(done))
    screen.answer("compile", report.compile_json(done))
    if done.verified is False:
        raise NumericsError("the output was kept although it failed the check", where=str(given["output"]))
