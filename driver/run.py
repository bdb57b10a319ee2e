"""`irc run MODEL`: outputs for given or sampled inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options as shared


@click.command("run")
@click.argument("source")
@click.option("--inputs", "inputs_file", type=click.Path(path_type=Path), help="Arrays by input name (.npz).")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the outputs here (.npz).")
@click.option("--with", "runtime", metavar="RUNTIME", help="onnxruntime, litert, mindspore, torch, keras or kernels.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample inputs.")
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Run SOURCE and show its outputs; without --inputs on seeded samples."""
    with shared.limits_from(given.pop("limit_pairs")):
        _run(given)


def _run(given: dict[str, Any]) -> None:
    import numpy as np

    from ..ir.storage import atomic_write
    from . import check

    screen = shared.screen_of(given["as_json"], given["quiet"], given["verbose"])
    made = check.side(given["source"], given["runtime"])
    inputs = check.read_inputs(given["inputs_file"]) if given["inputs_file"] else None
    arrays = check.sample_sets(made.module, inputs, given["seed"])[0]
    outputs = {name: np.asarray(value) for name, value in made.run(arrays).items()}
    if given["output"]:
        with atomic_write(given["output"], protect=[given["source"], *filter(None, [given["inputs_file"]])]) as file:
            np.savez(file, **outputs)
    rows = [(name, "x".join(map(str, a.shape)) or "scalar", a.dtype, _summary(a)) for name, a in outputs.items()]
    screen.table(("output", "shape", "dtype", "first values"), rows, f"{given['source']} on {made.judge}")
    answer = {n: {"shape": list(a.shape), "dtype": str(a.dtype), "values": _summary(a)} for n, a in outputs.items()}
    screen.answer("run", {"judge": made.judge, "outputs": answer})


def _summary(array: Any) -> str:
    flat = array.reshape(-1)[:6]
    text = ", ".join(f"{x:.5g}" if array.dtype.kind == "f" else str(x) for x in flat)
    return text + (", ..." if array.size > 6 else "")
