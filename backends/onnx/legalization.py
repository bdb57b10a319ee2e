"""Decomposes a clone of a module until every node has an ONNX operator, and chooses the opset for that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...formats.onnx import schemas
from ...ir.errors import Unsupported, UsageError, clean
from ...ir.graph import Module, Node
from ...ir.opdef import PURE
from ...ir.symbols import settle_symbols
from . import registry
from .emitter import Emitter, Refusal

OLDEST = 13
DEFAULT = 21


@dataclass(frozen=True)
class Offender:
    """A node that cannot be written: the op, where it stands, why, and the lowest opset that would do (None: none)."""

    op: str
    where: str
    reason: str
    opset: int | None

    def __str__(self) -> str:
        place = f" at {clean(self.where)}" if self.where else ""
        return f"{self.op}{place}: {self.reason}" + (f" (opset {self.opset} has it)" if self.opset else "")


def newest_opset() -> int:
    return schemas.newest("")


def check_opset(opset: int) -> int:
    """A requested opset, in the range that is written. Raises UsageError."""
    if not OLDEST <= opset <= newest_opset():
        raise UsageError(f"ONNX opset {opset} cannot be written (expected {OLDEST} to {newest_opset()})")
    return opset


def starting_opset(module: Module) -> int:
    """The opset of the ONNX file that the module came from, at least 13; else 21."""
    own = module.metadata.get("opset.", "")
    return min(max(int(own), OLDEST), newest_opset()) if own.isdigit() else DEFAULT


def legal(node: Node, opset: int) -> str | None:
    """Why `node` is not ONNX of this opset; None when it is."""
    refusal = refused(node, opset)
    return None if refusal is None else refusal.reason


def refused(node: Node, opset: int) -> Refusal | None:
    try:
        Emitter(opset).emit(node)
    except Refusal as refusal:
        return refusal
    return None


def legalize(module: Module, *, opset: int | None = None) -> Module:
    """A clone in which every node is one ONNX operator (with helpers); its opset stands in `metadata["opset."]`.

    Without `opset` the starting one is raised where an op needs it and no decomposition helps. Raises Unsupported naming
    all offenders at once.
    """
    made, left, chosen = _attempt(module, opset)
    if left:
        raise refusal_of(left, opset)
    made.metadata["opset."] = str(chosen)
    settle_symbols(made)
    return made


def offenders(module: Module, *, opset: int | None = None) -> list[Offender]:
    """What cannot be written, in graph order; empty when `legalize` would succeed."""
    return _attempt(module, opset)[1]


def _attempt(module: Module, opset: int | None) -> tuple[Module, list[Offender], int]:
    chosen = starting_opset(module) if opset is None else check_opset(opset)
    while True:
        clone = module.clone()
        _drop_dead(clone)
        left = list(_decomposed(clone, chosen))
        _drop_dead(clone)
        newer = [o.opset for o in left if o.opset is not None and o.opset > chosen]
        if opset is not None or not newer or len(newer) < len(left):
            return clone, left, chosen
        chosen = max(newer)


def _drop_dead(module: Module) -> None:
    """Nodes whose results nobody uses are not written: a file that is read and written again stays as it is."""
    for graph in list(module.all_graphs()):
        for node in graph.reversed():
            if node.has(PURE) and not any(value.n_uses for value in node.results):
                node.erase()


def _decomposed(clone: Module, opset: int) -> Iterator[Offender]:
    from ...passes.decompose import decompose

    left = decompose(clone, lambda node: legal(node, opset))
    for node in clone.all_nodes():
        if node in left:
            refusal = refused(node, opset)
            if refusal is not None:
                yield Offender(node.op.name, str(node.loc), refusal.reason, refusal.opset)


def support(name: str) -> str:
    """direct: ONNX has it at some opset; decomposed: it is written as smaller ops; -: it is refused."""
    from ...passes.decompose import load

    if name in registry.table():
        return "direct"
    return "decomposed" if name in load() else "-"


def refusal_of(left: list[Offender], opset: int | None) -> Unsupported:
    shown = "; ".join(map(str, left[:20])) + (f"; and {len(left) - 20} more" if len(left) > 20 else "")
    known = [o.opset for o in left]
    hint = f"--opset {max(known)} works" if all(known) and opset is not None else ""  # type: ignore[type-var]
    return Unsupported(f"cannot be written as ONNX: {shown}", hint=hint)
