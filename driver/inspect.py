"""`irc inspect MODEL`: what is inside, and what each backend would refuse."""

from __future__ import annotations

from typing import Any

import click

from . import options as shared

BACKENDS = ("onnx", "tflite", "mindir", "torch")


@click.command("inspect")
@click.argument("source")
@click.option(
    "--weights", "weight_rows", type=int, default=10, show_default=True, help="How many of the largest weights."
)
@click.option("--ir", is_flag=True, help="Print the IR as text instead.")
@click.option("--no-backends", is_flag=True, help="Skip the question what each backend would refuse.")
@shared.source_options
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Show SOURCE's inputs, outputs, op counts, weights by size, and what each backend would refuse."""
    with shared.limits_from(given.pop("limit_pairs")):
        _inspect(given)


def _inspect(given: dict[str, Any]) -> None:
    from ..ir.analysis import op_counts, weight_bytes
    from . import flow
    from .screen import size
    from .shapes import parse_shape

    screen = shared.screen_of(given["as_json"], given["quiet"], given["verbose"])
    module = flow.load(
        given["source"], format=given["source_format"], shapes=dict(map(parse_shape, given["shape_texts"]))
    )
    if given["ir"]:
        screen.line(str(module).rstrip("\n"))
        screen.answer("inspect", {"ir": str(module)})
        return
    counts, total = op_counts(module), weight_bytes(module)
    interface = [row for sig in module.signatures.values() for row in _interface(sig)]
    largest = sorted((v for v in module.constants() if v.n_uses), key=lambda v: (-v.weight.nbytes, v.weight.key))  # type: ignore
    refused = {} if given["no_backends"] else {name: refusals(module, name) for name in BACKENDS}
    screen.line(f"{given['source']}: {counts.total()} ops, {size(total)} of weights")
    screen.table(("", "name", "type"), interface)
    screen.table(("op", "count"), sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    rows = [(v.weight.key, str(v.type), size(v.weight.nbytes), v.weight.role) for v in largest[: given["weight_rows"]]]  # type: ignore
    screen.table(("weight", "type", "bytes", "role"), rows)
    if refused:
        screen.table(("backend", "refuses"), [(name, "; ".join(why) or "nothing") for name, why in refused.items()])
    for key, value in module.metadata.items():
        if screen.verbosity >= 1:
            screen.line(f"  {key}: {value}")
    for text in module.diagnostics:
        screen.note(text)
    answer = {"interface": interface, "ops": dict(counts), "weight_bytes": total, "refused": refused}
    screen.answer("inspect", {**answer, "metadata": module.metadata, "diagnostics": module.diagnostics})


def _interface(sig: Any) -> list[tuple[str, str, str]]:
    inputs = [("in", s.name, str(v.type)) for s, v in zip(sig.inputs, sig.graph.inputs, strict=True)]
    return inputs + [("out", s.name, str(v.type)) for s, v in zip(sig.outputs, sig.graph.outputs, strict=True)]


def refusals(module: Any, backend: str) -> list[str]:
    """Each reason why a backend would refuse the module, as text; empty when it would write it."""
    from ..ir.errors import AnyIRError
    from . import formats

    try:
        found = formats.by_name(backend).writer().offenders(module)
    except AnyIRError as error:
        return [str(error)]
    return list(dict.fromkeys(map(str, found)))
