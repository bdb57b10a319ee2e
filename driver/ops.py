"""`irc ops`: the support matrix, from the tables that the code itself uses."""

from __future__ import annotations

import importlib
from typing import Any

import click

from . import options as shared

TARGETS = ("onnx", "tflite", "mindir", "torch")


@click.command("ops")
@click.argument("source", required=False)
@click.option("--to", "target", default="all", show_default=True, help="onnx, tflite, mindir, torch or all.")
@click.option("--markdown", is_flag=True, help="Print the page docs/matrix.md.")
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Which ops have a kernel and which backend writes them; with SOURCE only the ops of that model.

    direct: the target has the op; decomposed: it is written as smaller ops; -: it is refused.
    """
    with shared.session("ops", given) as screen:
        from ..ir.errors import UsageError

        if given["target"] not in (*TARGETS, "all"):
            hint = shared.near(given["target"], [*TARGETS, "all"])
            raise UsageError(f"there is no target {given['target']!r}", where="--to", hint=hint)
        targets = TARGETS if given["target"] == "all" else (given["target"],)
        columns = ("op", "family", "kernel", *targets)
        rows = matrix(targets, _names(given["source"]))
        if given["markdown"]:
            screen.always(markdown(columns, rows))
        else:
            screen.table(columns, rows)
        screen.answer("ops", {"rows": [dict(zip(columns, row, strict=True)) for row in rows]})


def _names(source: str | None) -> list[str] | None:
    """The ops of one model, None for all."""
    if source is None:
        return None
    from ..ir.analysis import op_counts
    from .load import load

    return sorted(op_counts(load(source)))


def matrix(targets: tuple[str, ...] = TARGETS, names: list[str] | None = None) -> list[tuple[str, ...]]:
    """One row per core op: its family, whether it has a kernel, and how each target takes it."""
    from ..ir.ops import core_ops, get_op
    from ..kernels.registry import find_kernel

    if names is None:
        names = [op.name for op in core_ops()]
    supports = {target: importlib.import_module(f"..backends.{target}", __package__).support for target in targets}
    rows = []
    for name in names:
        family = type(get_op(name)).__module__.rpartition(".")[2]
        kernel = "yes" if find_kernel(name) is not None else "-"
        rows.append((name, family, kernel, *(supports[target](name) for target in targets)))
    return rows


PAGE = """# The support matrix

Which ops the IR has, and how each target takes them: `direct`, the target has the op; `decomposed`, it is written as smaller
ops; `-`, it is refused with a reason and a remedy. Made by `irc ops --markdown > docs/matrix.md`; a test tries every cell.
"""


def markdown(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """The matrix as a page for docs/, a table per family."""
    at, parts = columns.index("family"), [PAGE]
    kept = [i for i in range(len(columns)) if i != at]
    for family in dict.fromkeys(sorted(row[at] for row in rows)):
        table = [columns, ("---",) * len(columns), *(row for row in rows if row[at] == family)]
        lines = ["| " + " | ".join(row[i] for i in kept) + " |" for row in table]
        parts.append("\n".join([f"## {family}", "", *lines]) + "\n")
    return "\n".join(parts).rstrip("\n")
