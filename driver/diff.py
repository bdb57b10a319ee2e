"""`irc diff A B`: what changed between two models: interface, ops, weights, sizes and costs."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from ..ir.graph import Module
    from .screen import Screen


@click.command("diff")
@click.argument("a")
@click.argument("b")
@click.option("--weights", "weight_rows", type=int, default=10, show_default=True, help="How many changed weights.")
@shared.source_options
@shared.limit_options
@shared.screen_options
def command(**given: Any) -> None:
    """Show what changed from model A to model B, of any two formats; exit code 1 when their interfaces differ.

    Interfaces are the inputs and outputs with names, types and shapes; what an open dim is called does not count. Ops
    are counted in the IR, those of branches and loop bodies included, so that two formats compare. Whether the numbers
    are the same is what `irc verify` tells.
    """
    with shared.session("diff", given) as screen:
        _diff(given, screen)


@dataclass(frozen=True)
class Side:
    """What is told of one of the two models."""

    module: Module
    totals: dict[str, int | None]
    ops: Counter[str]
    interface: dict[str, str]
    weights: dict[str, tuple[str, int, bytes]]


def _diff(given: dict[str, Any], screen: Screen) -> None:
    from ..ir.errors import NumericsError
    from . import flow
    from .shapes import parse_shapes

    shapes = parse_shapes(given["shape_texts"])
    sides = [
        _side(given[key], flow.load(given[key], format=given["source_format"], shapes=shapes)) for key in ("a", "b")
    ]
    a, b = sides
    changed = [(name, a.interface.get(name), b.interface.get(name)) for name in {**a.interface, **b.interface}]
    changed = [(name, old, new) for name, old, new in changed if _differ(name, old, new)]
    weights = _changed_weights(a, b)
    _show(a, b, changed, weights, given["weight_rows"], screen)
    screen.answer("diff", _data(a, b, changed, weights))
    if changed:
        raise NumericsError(
            f"the interfaces of {given['a']} and {given['b']} differ: {', '.join(name for name, *_ in changed[:5])}",
            code="N003",
        )


def _side(source: str, module: Module) -> Side:
    from ..ir.analysis import op_counts, weight_bytes
    from . import costs
    from .load import source_files

    measured = costs.measure(module)
    files = dict.fromkeys(map(os.path.realpath, source_files(source, module)))
    totals = {
        "ops": op_counts(module).total(),
        "file bytes": sum(map(os.path.getsize, files)) if files else None,
        "weight bytes": weight_bytes(module),
        "FLOP": measured.flops if not measured.unknown else None,
        "bytes moved": measured.moved if not measured.unknown else None,
        "activation bytes": measured.peak,
    }
    named = [v.weight for v in module.constants() if v.n_uses and v.weight is not None and v.weight.role != "const"]
    weights = {w.key: (str(w.type), w.nbytes, w.tensor.digest()) for w in named}
    return Side(module, totals, op_counts(module), _interface(module), weights)


def _interface(module: Module) -> dict[str, str]:
    """ "signature: in name" -> type, in order."""
    from .inspect import interface

    several = len(module.signatures) > 1
    return {
        f"{key}: {kind} {name}" if several else f"{kind} {name}": type_
        for key, signature in module.signatures.items()
        for kind, name, type_ in interface(signature)
    }


def _differ(name: str, old: str | None, new: str | None) -> bool:
    """Whether users notice: what an open dim is called does not count, and of an output one model may know less."""
    if old is None or new is None:
        return True
    (kind, dims), (other_kind, others) = _parts(old), _parts(new)
    if kind != other_kind or len(dims) != len(others):
        return True
    is_output = name.rpartition(": ")[2].startswith("out ")
    return any(x != y and not (is_output and "?" in (x, y)) for x, y in zip(dims, others, strict=True))


def _parts(type_: str) -> tuple[str, list[str]]:
    """The dtype and the dims of a type's text, each open one as `?`."""
    head, bracket, shape = type_.partition("[")
    if not bracket or not shape.endswith("]"):
        return type_, []
    dims = re.split(r",\s*(?![^()]*\))", shape[:-1])
    return head, [dim if dim.isdigit() else "?" for dim in dims if dim]


def _changed_weights(a: Side, b: Side) -> list[tuple[str, str | None, str | None, int]]:
    """(key, type in A, type in B, bytes gained) of named weights that are not the same in both, the largest change first."""
    rows = []
    for key in {**a.weights, **b.weights}:
        old, new = a.weights.get(key), b.weights.get(key)
        if old != new:
            gained = (new[1] if new else 0) - (old[1] if old else 0)
            rows.append((key, old[0] if old else None, new[0] if new else None, gained))
    return sorted(rows, key=lambda row: (-abs(row[3]), row[0]))


def _show(a: Side, b: Side, changed: list[Any], weights: list[Any], most: int, screen: Screen) -> None:
    if changed:
        screen.table(("interface", "A", "B"), [(name, old or "-", new or "-") for name, old, new in changed])
    else:
        screen.line("  interface  the same")
    screen.table(("", "A", "B", "change"), [_total_row(key, a.totals[key], b.totals[key]) for key in a.totals])
    ops = [(name, a.ops[name], b.ops[name], f"{b.ops[name] - a.ops[name]:+d}") for name in sorted(a.ops | b.ops)]
    ops = [row for row in ops if row[1] != row[2]]
    if ops:
        ops.sort(key=lambda row: (-abs(int(row[3])), row[0]))
        screen.table(("op", "A", "B", "change"), ops)
    else:
        screen.line("  ops        the same counts")
    if weights:
        rows = [
            (key, old or "-", "other values" if new == old else new or "-", f"{gained:+d}")
            for key, old, new, gained in weights
        ]
        screen.table(("weight", "A", "B", "bytes"), rows[:most])
        if len(weights) > most:
            screen.line(f"  and {len(weights) - most} more weights; --weights {len(weights)} shows all")


def _total_row(key: str, old: int | None, new: int | None) -> tuple[str, str, str, str]:
    from .costs import flops
    from .screen import size

    spell = flops if key == "FLOP" else str if key == "ops" else size
    share = f"{100 * (new / old - 1):+.1f} %" if old and new is not None and old != new else ""
    return (key, "?" if old is None else spell(old), "?" if new is None else spell(new), share)


def _data(a: Side, b: Side, changed: list[Any], weights: list[Any]) -> dict[str, Any]:
    return {
        "interface": [{"name": name, "a": old, "b": new} for name, old, new in changed],
        "totals": {key: {"a": a.totals[key], "b": b.totals[key]} for key in a.totals},
        "ops": {name: {"a": a.ops[name], "b": b.ops[name]} for name in sorted(a.ops | b.ops)},
        "weights": [{"key": key, "a": old, "b": new, "bytes": gained} for key, old, new, gained in weights],
    }
