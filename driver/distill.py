"""`irc distill --teacher T --student S --data D -o OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from ..compress.distill import DistillReport
    from .screen import Screen

#: Fields of `compress.distill.Options` that flags of the same name set.
FIELDS = (
    "epochs", "batch", "optimizer", "rate", "weight_decay", "momentum", "schedule", "warmup", "clip_norm", "norms", "metric",
    "seed", "device",
)  # fmt: skip


@click.command("distill")
@click.option("--teacher", required=True, metavar="MODEL", help="The model to learn from.")
@click.option("--student", required=True, metavar="MODEL", help="The model to train: pruned, quantised, or any other.")
@click.option("--data", required=True, metavar="SOURCE", help="Samples: .npz, a folder, or pkg.module:function.")
@click.option("--eval-data", metavar="SOURCE", help="What the best weights are chosen on; or how many of --data.")
@click.option("--preprocess", metavar="STEPS", help="How images become inputs: 'resize=224,scale=1/127.5,shift=-1'.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option(
    "--loss", "losses", multiple=True, metavar="LOSS", help="'kd{temperature=4}', dkd, labels, mse, hint{...}."
)
@click.option("--epochs", type=int, help="Passes over the data.  [default: 10]")
@click.option("--batch", type=int, help="Samples per step.  [default: 64]")
@click.option("--optimizer", metavar="NAME", help="adam, adamw or sgd.  [default: adam]")
@click.option("--rate", type=float, help="The (highest) learning rate.  [default: 0.001]")
@click.option("--schedule", metavar="NAME", help="constant, cosine or one-cycle.  [default: cosine]")
@click.option("--warmup", type=float, metavar="SHARE", help="Share of the run in which the rate rises.")
@click.option("--weight-decay", type=float, help="Of the optimiser.  [default: 0]")
@click.option("--momentum", type=float, help="Of sgd.  [default: 0.9]")
@click.option("--clip-norm", type=float, metavar="N", help="Largest norm of the gradient.")
@click.option("--norms", metavar="HOW", help="Batch norms: update their statistics, or freeze.  [default: update]")
@click.option("--metric", metavar="NAME", help="accuracy, agreement (with the teacher) or loss.")
@click.option("--seed", type=int, help="Of the order of samples and all else.  [default: 0]")
@click.option("--device", metavar="NAME", help="cpu, cuda or auto.  [default: cpu]")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Where the state is kept.  [default: beside OUT]")
@click.option("--checkpoint-seconds", type=float, default=60, show_default=True, help="How often it is written.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of a run that was interrupted.")
@click.option("-O", "level", type=click.IntRange(0, 3), help="Optimisation level of the file.  [default: 2]")
@click.option("--report", "report_file", type=click.Path(path_type=Path), help="Write curves and figures as JSON.")
@click.option("--opset", type=int, help="ONNX opset to write.")
@click.option("--external-data/--no-external-data", default=None, help="Keep weights beside the model file, or inside.")
@shared.load_option
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Train STUDENT to say what TEACHER says, and write it.

    \b
    irc distill --teacher net.onnx --student pruned.anyir --data train.npz --eval-data test.npz -o tuned.onnx
    irc distill --teacher net.keras --student int8.onnx --data train.npz --epochs 3 --rate 1e-4 -o tuned.tflite
    irc distill ... --loss 'kd{temperature=4,weight=0.9}' --loss "hint{teacher='layer3',student='layer2'}"

    Training runs in torch. Run the same command with --resume after a kill: the result is the same.
    """
    with shared.session("distill", given) as screen:
        _distill(given, screen)


def _distill(given: dict[str, Any], screen: Screen) -> None:
    from ..ir.errors import NumericsError
    from . import distillation, flow, report
    from .compress import save_report

    output = given["output"]
    checkpoint = given["checkpoint"] or output.with_name(f"{output.name}.checkpoint")
    try:
        done = distillation.distill(
            given["teacher"],
            given["student"],
            given["data"],
            output,
            progress=screen.progress,
            level=given["level"],
            eval_data=_evaluation(given["eval_data"]),
            losses=given["losses"],
            preprocess=given["preprocess"],
            checkpoint=checkpoint,
            checkpoint_seconds=given["checkpoint_seconds"],
            resume=given["resume"],
            write={key: given[key] for key in ("opset", "external_data") if given[key] is not None},
            **{name: given[name] for name in FIELDS if given[name] is not None},
        )
    except flow.CheckFailed as failed:
        screen.answer("distill", report.compile_json(failed.report))
        raise
    made = {**done.as_dict(), "file": report.compile_json(done.written)}
    save_report(given["report_file"], "distill", made)
    _told(done, screen)
    screen.answer("distill", made)
    if done.stopped:
        raise NumericsError(
            f"training went out of bounds at {done.stopped}; the best weights before that were written",
            code="N020",
            where=str(output),
            hint="a smaller --rate, or --clip-norm 1",
        )


def _evaluation(text: str | None) -> str | int | None:
    return int(text) if text is not None and text.isdigit() else text


def _told(done: DistillReport, screen: Screen) -> None:
    """The epochs as a table, then curves and figures, then the file."""
    from ..compress.distill.report import epoch_table, lines
    from .report import compile_block

    columns, rows = epoch_table(done)
    screen.table(columns, rows)
    screen.line("")
    for text in lines(done):
        screen.line(text)
    screen.line("")
    screen.line(compile_block(done.written))
