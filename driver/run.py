"""`irc run MODEL`: outputs for given or sampled inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from .screen import Screen


@click.command("run")
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the outputs here (.npz).")
@click.option("--with", "runtime", metavar="RUNTIME", help="onnxruntime, litert, mindspore, torch, keras or kernels.")
@shared.input_options
@shared.source_options
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Run SOURCE and show its outputs; without --inputs on seeded samples."""
    with shared.session("run", given) as screen:
        _run(given, screen)


def _run(given: dict[str, Any], screen: Screen) -> None:
    from ..ir.outputs import atomic_write
    from ..kernels.budget import Budget, spending
    from . import check, npz
    from .load import source_files
    from .shapes import parse_shapes

    made = check.side(
        given["source"], given["runtime"], format=given["source_format"], shapes=parse_shapes(given["shape_texts"])
    )
    inputs = npz.read_inputs(given["inputs_file"]) if given["inputs_file"] else None
    with spending(Budget.for_models(made.module)):
        arrays = check.sample_sets(made.module, inputs, given["seed"])[0]
        outputs = npz.flat(made.run(arrays))
    if given["output"]:
        protect = [*source_files(given["source"], made.module), *filter(None, [given["inputs_file"]])]
        with atomic_write(given["output"], protect=protect) as file:
            for name, other in npz.write_outputs(file, outputs).items():
                screen.note(f"output {name!r} is {other} in {given['output']}")
    rows = [(name, "x".join(map(str, a.shape)) or "scalar", a.dtype, _summary(a)) for name, a in outputs.items()]
    screen.line(f"{given['source']} on {made.judge}, inputs {check.describe(arrays)}")
    screen.table(("output", "shape", "dtype", "first values"), rows)
    answer = {n: {"shape": list(a.shape), "dtype": str(a.dtype), "values": _summary(a)} for n, a in outputs.items()}
    screen.answer("run", {"judge": made.judge, "inputs": check.describe(arrays), "outputs": answer})


def _summary(array: Any) -> str:
    flat = array.reshape(-1)[:6]
    text = ", ".join(f"{x:.5g}" if array.dtype.kind == "f" else str(x) for x in flat)
    return text + (", ..." if array.size > 6 else "")
