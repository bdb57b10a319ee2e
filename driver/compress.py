"""`irc compress IN -o OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from .compression import CompressReport
    from .screen import Screen

#: Layers shown without -v: those that do most wrong.
SHOWN = 12


@click.command("compress")
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write.")
@click.option("--recipe", metavar="NAME|FILE", help="A built-in recipe (irc recipes) or a .yaml, .toml or .json file.")
@click.option("--quantize", metavar="KIND", help="int8, int8x16 (16x8), dynamic, int8-weights, int4 or float16.")
@click.option("--prune", type=float, metavar="RATIO", help="Remove this share of every layer.")
@click.option("--importance", metavar="NAME", help="What pruning goes by: l2, l1, wanda, bn, random ...")
@click.option("--structure", metavar="NAME", help="What pruning takes: channel, none (single weights), 2:4, block:4x1.")
@click.option("--clip", type=float, metavar="T", help="Weights below T become zero, and what is zero then goes.")
@click.option("--where", default="", metavar="EXPR", help="""Only these layers: 'op=conv & scope~"head"'.""")
@click.option("--keep-worst", type=click.IntRange(0), metavar="N", help="Leave the N most sensitive layers in float.")
@click.option("--data", metavar="SOURCE", help="Samples: .npz, a folder of .npy or images, or pkg.module:function.")
@click.option("--preprocess", metavar="STEPS", help="How images become inputs: 'resize=224,scale=1/127.5,shift=-1'.")
@click.option("--samples", type=click.IntRange(1), metavar="N", help="How many to calibrate with (200).")
@click.option("--eval-data", metavar="SOURCE", help="What to measure on, instead of a part of --data; or how many.")
@click.option("--max-drop", type=click.FloatRange(0, 100), metavar="POINTS", help="Fail when more accuracy is lost.")
@click.option("--seed", type=int, default=None, help="Of every random choice.  [default: 0]")
@click.option("-O", "level", type=click.IntRange(0, 3), help="Optimisation level that runs first.  [default: 2]")
@click.option("--dry-run", is_flag=True, help="Show the steps and the layers that they would take; write nothing.")
@click.option("--report", "report_file", type=click.Path(path_type=Path), help="Write everything measured as JSON.")
@click.option("--to", "target_format", metavar="FORMAT", help="The output's format, whatever its name.")
@click.option("--opset", type=int, help="ONNX opset to write.")
@click.option("--quant-form", type=click.Choice(["qdq", "qoperator", "matmulnbits"]), help="Quantised layers in ONNX.")
@click.option("--external-data/--no-external-data", default=None, help="Keep weights beside the model file, or inside.")
@click.option(
    "--sparse", is_flag=True, default=None, help="TFLite: leave out the zeros of weights that are mostly zero."
)
@click.option("--no-verify", is_flag=True, help="Do not run the written file.")
@click.option("--keep-unverified", is_flag=True, help="Keep the output even if its check fails.")
@shared.source_options
@shared.bind_option
@shared.load_option
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Make SOURCE smaller or faster: quantise, prune, clip, or what a recipe says.

    \b
    irc compress net.h5 -o net.tflite --quantize int8 --data ./images
    irc compress net.onnx -o small.onnx --prune 0.5 --data calib.npz
    irc compress net.onnx -o small.onnx --recipe mine.yaml --max-drop 0.5

    The written file is checked against the compressed model; what compression itself loses is measured on samples that
    it has not seen, and told apart.
    """
    with shared.session("compress", given) as screen:
        if given["dry_run"]:
            _dry_run(given, screen)
        else:
            _compress(given, screen)


def _compress(given: dict[str, Any], screen: Screen) -> None:
    from ..compress.flow import LimitsExceeded
    from ..compress.report import as_json
    from ..ir.errors import NumericsError, UsageError
    from . import compression, flow, report

    if given["output"] is None:
        raise UsageError("there is no output", hint="give -o FILE, or --dry-run")
    try:
        done = compression.compress(given["source"], given["output"], progress=screen.progress, **_options(given))
    except flow.CheckFailed as failed:
        screen.answer("compress", report.compile_json(failed.report))
        raise
    except LimitsExceeded as failed:
        save_report(given["report_file"], "compress", as_json(failed.result))
        _tables(failed.result, screen)
        screen.answer("compress", {"source": str(given["source"]), "compression": as_json(failed.result)})
        raise
    assert done.result is not None
    made = {
        **report.compile_json(done),
        "zipped": done.zipped,
        "fused": done.fused,
        "compression": as_json(done.result),
    }
    save_report(given["report_file"], "compress", made)
    for text in done.notes if screen.verbosity >= 1 else done.result.notes:
        screen.note(text)
    _told(done, screen)
    screen.answer("compress", made)
    if done.verified is False:
        raise NumericsError("the output was kept although it failed the check", where=str(given["output"]))


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """The options of `anyir.compress` that the flags stand for."""
    from .bind import parse_binds
    from .shapes import parse_shapes

    made = {key: given[key] for key in ("recipe", "quantize", "clip", "where", "data", "preprocess", "samples", "seed")}
    made |= {"prune": _prune(given), "keep": given["keep_worst"], "eval_data": _evaluation(given["eval_data"])}
    made |= {"limits": {"drop": given["max_drop"]}, "level": given["level"], "verify": not given["no_verify"]}
    made |= {"format": given["target_format"], "source_format": given["source_format"]}
    made |= {"keep_unverified": given["keep_unverified"], "shapes": parse_shapes(given["shape_texts"])}
    made["bind"] = parse_binds(given["bind_texts"])
    made["write"] = {
        key: given[key] for key in ("opset", "quant_form", "external_data", "sparse") if given[key] is not None
    }
    return made


def _prune(given: dict[str, Any]) -> dict[str, Any] | None:
    """--prune and what goes with it. Raises UsageError where these stand alone."""
    from ..ir.errors import UsageError

    made = {key: given[key] for key in ("importance", "structure") if given[key] is not None}
    if given["prune"] is None:
        if made and given["recipe"] is None:
            raise UsageError(
                f"--{next(iter(made))} goes with --prune", hint="irc compress net.onnx -o out.onnx --prune 0.5"
            )
        return made or None
    return {"ratio": given["prune"], **made}


def _evaluation(text: str | None) -> str | int | None:
    return int(text) if text is not None and text.isdigit() else text


def save_report(path: Path | None, verb: str, made: dict[str, Any]) -> None:
    """The report file, whole or not at all."""
    if path is None:
        return
    import json

    from ..ir.outputs import atomic_write

    with atomic_write(path) as file:
        file.write(json.dumps({"schema": 1, "verb": verb, **made}, indent=1, default=str).encode())


def _told(done: CompressReport, screen: Screen) -> None:
    from ..compress.report import remarks
    from .report import compress_block

    assert done.result is not None
    _tables(done.result, screen)
    screen.line(compress_block(done))
    for text in remarks(done.result):
        screen.note(text)


def _tables(result: Any, screen: Screen) -> None:
    """Layers (the worst ones, or with -v all in order) and outputs."""
    from ..compress import report as tables

    layers = result.layers if screen.verbosity >= 1 else tables.worst_layers(result.layers, SHOWN)
    if layers:
        screen.table(*tables.layer_table(layers))
        left = len(result.layers) - len(layers)
        screen.line(f"  and {left} layers that do less wrong; -v shows all\n" if left else "")
    if result.loss is not None and result.loss.outputs:
        screen.table(tables.OUTPUT_COLUMNS, tables.output_rows(result.loss.outputs))
        screen.line("")


def _dry_run(given: dict[str, Any], screen: Screen) -> None:
    """The plan: steps with the layers that each would take, and the groups that pruning ties together."""
    from . import compression

    plan = compression.plan(given["source"], **_options(given))
    screen.line(f"{plan.recipe.name}: {plan.recipe.pipeline}  (after -O{plan.recipe.level})\n")
    screen.table(("layer", "op", "bytes", "MACs", "steps"), plan.layers)
    if plan.groups:
        screen.line("")
        screen.table(("group", "units", "kind", "layers", "why not"), plan.groups)
    screen.answer("compress", plan.as_json())
