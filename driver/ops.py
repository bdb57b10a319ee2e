"""`irc ops`: the support matrix, from the tables that the code itself uses."""

from __future__ import annotations

import importlib
from typing import Any

import click

from ..ir.errors import UsageError
from . import options as shared

TARGETS = ("onnx", "tflite", "mindir", "torch")


@click.command("ops")
@click.argument("source", required=False)
@click.option("--to", "target", default="all", show_default=True, help="onnx, tflite, mindir, torch or all.")
@shared.screen_options
def command(**given: Any) -> None:
    """Which ops have a kernel and which backend writes them; with SOURCE only the ops of that model.

    direct: the target has the op; decomposed: it is written as smaller ops; -: it is refused.
    """
    screen = shared.screen_of(given["as_json"], given["quiet"], given["verbose"])
    if given["target"] != "all" and given["target"] not in TARGETS:
        raise UsageError(f"--to {given['target']!r}", hint=f"one of {', '.join(TARGETS)}, all")
    targets = TARGETS if given["target"] == "all" else (given["target"],)
    names = None
    if given["source"]:
        from ..ir.analysis import op_counts
        from .flow import load

        names = sorted(op_counts(load(given["source"])))
    rows = matrix(targets, names)
    screen.table(("op", "family", "kernel", *targets), rows)
    screen.answer("ops", {"rows": [dict(zip(("op", "family", "kernel", *targets), row, strict=True)) for row in rows]})


def matrix(targets: tuple[str, ...] = TARGETS, names: list[str] | None = None) -> list[tuple[str, ...]]:
    """One row per core op: its family, whether it has a kernel, and how each target takes it."""
    from ..ir.ops import FAMILIES, get_op, load_families
    from ..kernels.registry import find_kernel

    if names is None:
        core = [op for op in load_families().values() if type(op).__module__.rpartition(".")[2] in FAMILIES]
        names = sorted(op.name for op in core if op.name not in ("return", "opaque"))
    supports = {target: importlib.import_module(f"..backends.{target}", __package__).support for target in targets}
    rows = []
    for name in names:
        family = type(get_op(name)).__module__.rpartition(".")[2]
        kernel = "yes" if find_kernel(name) is not None else "-"
        rows.append((name, family, kernel, *(supports[target](name) for target in targets)))
    return rows
