"""`irc ops`: the support matrix, from the tables that the code itself uses."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import click

from . import options as shared

TARGETS = ("onnx", "tflite", "mindir", "torch")


@click.command("ops")
@click.argument("source", required=False)
@click.option("--to", "target", default="all", show_default=True, help="onnx, tflite, mindir, torch or all.")
@click.option(
    "--from", "frontend", type=click.Choice(["onnx"]), help="Every operator of a format instead of our own ops."
)
@click.option("--markdown", is_flag=True, help="Print the page docs/matrix.md, with --from docs/onnx.md.")
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Which ops have a kernel and which backend writes them; with SOURCE only the ops of that model.

    direct: the target has the op; decomposed: it is written as smaller ops; -: it is refused. With `--from onnx`: every
    operator over every opset, the ops that it becomes, and which targets can write those.
    """
    with shared.session("ops", given) as screen:
        from ..ir.errors import UsageError

        if given["target"] not in (*TARGETS, "all"):
            hint = shared.near(given["target"], [*TARGETS, "all"])
            raise UsageError(f"there is no target {given['target']!r}", where="--to", hint=hint)
        targets = TARGETS if given["target"] == "all" else (given["target"],)
        if given["frontend"]:
            columns, page = (*OPERATOR, "kernel", *targets), ONNX_PAGE
            rows = operators(targets, _names(given["source"]))
        else:
            columns, page = ("family", "op", "kernel", *targets), PAGE
            rows = matrix(targets, _names(given["source"]))
        if given["markdown"]:
            screen.always(markdown(columns, rows, page))
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
    """One row per core op: its family, its name, whether it has a kernel, and how each target takes it."""
    from ..ir.ops import core_ops, get_op

    if names is None:
        names = [op.name for op in core_ops()]
    supports = _supports(targets)
    return [
        (
            type(get_op(name)).__module__.rpartition(".")[2],
            name,
            _kernel(name),
            *(support(name) for support in supports),
        )
        for name in names
    ]


def operators(targets: tuple[str, ...] = TARGETS, names: list[str] | None = None) -> list[tuple[str, ...]]:
    """One row per ONNX operator and range of opsets that is read alike: domain, name, opsets, the ops that it becomes,
    whether they have kernels, and whether each target writes them; with `names` only those that become one of these ops."""
    from ..frontends.onnx.coverage import operators as known

    supports = _supports(targets)
    rows = []
    for operator in known():
        seen = dict.fromkeys(name for form in operator.forms for name in form)
        if names is not None and not set(names) & set(seen):
            continue
        becomes = ", ".join(seen) if seen else "a constant" if operator.forms else ""
        if operator.how == "-":
            cells = ["-"] * (1 + len(targets))
        else:
            tests = [lambda name: _kernel(name) != "-", *(lambda name, s=s: s(name) != "-" for s in supports)]
            cells = [_share(operator.forms, test) for test in tests]
        read = (
            becomes
            if operator.how == "handler"
            else f"{becomes} (its function body)"
            if operator.how == "body"
            else "-"
        )
        rows.append((operator.domain or "ai.onnx", operator.op_type, operator.opsets, read, *cells))
    return rows


def _share(forms: tuple[tuple[str, ...], ...], takes: Callable[[str], bool]) -> str:
    """yes: every form consists of ops that are taken; some: at least one does; -: none does."""
    whole = [all(map(takes, form)) for form in forms]
    return "yes" if all(whole) else "some" if any(whole) else "-"


def _kernel(name: str) -> str:
    from ..kernels.registry import find_kernel

    return "yes" if find_kernel(name) is not None else "-"


def _supports(targets: tuple[str, ...]) -> list[Callable[[str], str]]:
    return [importlib.import_module(f"..backends.{target}", __package__).support for target in targets]


PAGE = """# The support matrix

Which ops the IR has, and how each target takes them: `direct`, the target has the op; `decomposed`, it is written as smaller
ops; `-`, it is refused with a reason and a remedy. Made by `irc ops --markdown > docs/matrix.md`; a test tries every cell.
"""

OPERATOR = ("domain", "operator", "opsets", "read as")
ONNX_PAGE = """# ONNX operators

Every operator of every opset of the installed onnx package, and those of com.microsoft that are known: the opsets that are
read alike, the ops of the IR that it becomes (one after the other or one of them, as its attributes and types say), whether
these run on the reference kernels, and whether each target writes them: `yes`, in all forms that the conformance models
show; `some`, in some of them; `-`, it is refused by name. Dtypes and ranks that a target lacks are told by
`irc inspect`. Operators of any other domain are carried through to ONNX untouched.
Made by `irc ops --from onnx --markdown > docs/onnx.md` from the tables that the code itself uses and from what reading the
models of onnx's backend suite gave (`python tests/support/onnx_lowerings.py`).
"""


def markdown(columns: tuple[str, ...], rows: list[tuple[str, ...]], page: str) -> str:
    """The rows as a page for docs/, a table for each value of the first column."""
    parts = [page]
    for group in dict.fromkeys(sorted(row[0] for row in rows)):
        table = [columns, ("---",) * len(columns), *(row for row in rows if row[0] == group)]
        lines = ["| " + " | ".join(row[1:]) + " |" for row in table]
        parts.append("\n".join([f"## {group}", "", *lines]) + "\n")
    return "\n".join(parts).rstrip("\n")
