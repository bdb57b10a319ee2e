"""`irc inspect MODEL`: what is inside, what it costs, and what each backend would refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from ..ir.graph import Module
    from ..ir.signature import Signature
    from .screen import Screen

BACKENDS = ("onnx", "tflite", "mindir", "torch")


@click.command("inspect")
@click.argument("source")
@click.option(
    "--weights",
    "weight_rows",
    type=int,
    default=10,
    show_default=True,
    help="How many of the largest weights, or of the costliest nodes.",
)
@click.option("--cost", is_flag=True, help="Arithmetic, bytes moved and peak memory instead, by op and node.")
@click.option("--ir", is_flag=True, help="Print the IR as text instead.")
@click.option("--no-backends", is_flag=True, help="Skip the question what each backend would refuse.")
@shared.source_options
@shared.bind_option
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Show SOURCE's inputs, outputs, op counts, weights by size, and what each backend would refuse."""
    with shared.session("inspect", given) as screen:
        _inspect(given, screen)


def _inspect(given: dict[str, Any], screen: Screen) -> None:
    from . import flow
    from .bind import parse_binds
    from .shapes import parse_shapes

    module = flow.load(
        given["source"],
        format=given["source_format"],
        shapes=parse_shapes(given["shape_texts"]),
        bind=parse_binds(given["bind_texts"]),
    )
    if given["ir"]:
        text = str(module)
        screen.always(text.rstrip("\n"))
        screen.answer("inspect", {"ir": text})
        return
    if given["cost"]:
        from . import costs

        measured = costs.measure(module)
        costs.show(measured, given["weight_rows"], screen)
        screen.answer("inspect", {"cost": costs.data(measured)})
        return
    refused = {} if given["no_backends"] else {name: refusals(module, name) for name in BACKENDS}
    _show(given["source"], module, refused, given["weight_rows"], screen)
    screen.answer("inspect", _data(module, refused))
    for text in module.diagnostics if not screen.json else []:
        screen.note(text)


def _show(source: str, module: Module, refused: dict[str, list[str]], weight_rows: int, screen: Screen) -> None:
    from ..ir.analysis import op_counts, weight_bytes
    from .screen import size

    counts = op_counts(module)
    screen.line(f"{source}: {counts.total()} ops, {size(weight_bytes(module))} of weights")
    screen.table(("", "name", "type"), [row for sig in module.signatures.values() for row in interface(sig)])
    screen.table(("op", "count"), sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    largest = sorted(_weights(module), key=lambda w: (-w.nbytes, w.key))[:weight_rows]
    if largest:
        rows = [(w.key, str(w.type), size(w.nbytes), w.role) for w in largest]
        screen.table(("weight", "type", "bytes", "role"), rows)
    if refused:
        screen.table(("backend", "refuses"), [(name, "; ".join(why) or "nothing") for name, why in refused.items()])
    if module.metadata and screen.verbosity >= 1:
        screen.table(("metadata", "value"), list(module.metadata.items()))


def _data(module: Module, refused: dict[str, list[str]]) -> dict[str, Any]:
    from ..ir.analysis import op_counts, weight_bytes

    return {
        "signatures": {
            key: [{"kind": kind, "name": name, "type": type_} for kind, name, type_ in interface(sig)]
            for key, sig in module.signatures.items()
        },
        "ops": dict(sorted(op_counts(module).items())),
        "weight_bytes": weight_bytes(module),
        "weights": [{"key": w.key, "type": str(w.type), "bytes": w.nbytes, "role": w.role} for w in _weights(module)],
        "refused": refused,
        "metadata": module.metadata,
        "diagnostics": module.diagnostics,
    }


def _weights(module: Module) -> list[Any]:
    return [v.weight for v in module.constants() if v.n_uses]


def interface(sig: Signature) -> list[tuple[str, str, str]]:
    """("in" or "out", name, type) of each, in order."""
    inputs = [("in", s.name, str(v.type)) for s, v in zip(sig.inputs, sig.graph.inputs, strict=True)]
    return inputs + [("out", s.name, str(v.type)) for s, v in zip(sig.outputs, sig.graph.outputs, strict=True)]


def refusals(module: Module, backend: str) -> list[str]:
    """Each reason why a backend would refuse the module, as text; empty when it would write it."""
    from ..ir.errors import AnyIRError
    from . import formats

    try:
        found = formats.by_name(backend).writer().offenders(module)
    except AnyIRError as error:
        return [str(error)]
    return list(dict.fromkeys(map(str, found)))
