"""Decomposes a clone of a module until every node has an ONNX operator, and chooses the opset for that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...formats.onnx import schemas
from ...formats.onnx.microsoft import DOMAIN as MICROSOFT
from ...ir.errors import Unsupported, UsageError, clean
from ...ir.graph import Graph, Module, Node, bulk
from ...ir.opdef import PURE
from ...ir.symbols import settle_symbols
from ...ir.types import TensorType
from . import registry
from .emitter import Emitter, Form, Refusal, judge, spell
from .ml import settle_version

OLDEST = 13
DEFAULT = 21
#: The opset that brought Attention and RotaryEmbedding.
ATTENTION = 23
#: Operators that no opset is raised for, by their first: onnxruntime 1.32 has no kernel for them and takes them apart as it
#: loads, which is slower than their parts (Swish 1.2 to 1.8 times, GroupNormalization 2.1 times).
TAKEN_APART = {"silu": 24, "swish": 24, "group_norm": 21}
#: How quantised layers are written: see quant_forms.py.
QUANT_FORMS = ("qdq", "qoperator", "matmulnbits")


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


def check_options(*, opset: int | None = None, raise_opset: bool = False, **_: Any) -> None:
    """What can be said of a request before there is a module. Raises UsageError."""
    if raise_opset and opset is not None:
        raise UsageError(f"opset {opset} is asked for, and to raise it", hint="leave one of both out")
    if opset is not None:
        check_opset(opset)


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


@bulk()
def legalize(
    module: Module,
    *,
    opset: int | None = None,
    quant_form: str = "qdq",
    raise_opset: bool = False,
    ort: bool = False,
) -> Module:
    """A clone in which every node is one ONNX operator (with helpers); its opset stands in `metadata["opset."]`.

    Without `opset` the starting one is raised where an op needs it and no decomposition helps; with `raise_opset` also where
    that makes the file shorter and no slower. `ort` allows what onnxruntime alone has. Raises Unsupported naming all
    offenders at once, UsageError.
    """
    check_options(opset=opset, raise_opset=raise_opset)
    shaped = _formed(module, quant_form, ort)
    made, left, chosen = _attempt(shaped, opset)
    if left:
        raise refusal_of(left, None if opset is None else _search(shaped, opset + 1, left))
    if raise_opset:
        made, chosen = _shortest(shaped, made, chosen)
    made.metadata["opset."] = str(chosen)
    settle_symbols(made)
    return made


def offenders(
    module: Module,
    *,
    opset: int | None = None,
    quant_form: str = "qdq",
    raise_opset: bool = False,
    ort: bool = False,
) -> list[Offender]:
    """What cannot be written, in graph order; empty when `legalize` would succeed."""
    return _attempt(_formed(module, quant_form, ort), opset)[1]


def _formed(module: Module, quant_form: str, ort: bool) -> Module:
    """A clone whose layers have the form; the module itself where there is nothing to bring into it."""
    if quant_form not in QUANT_FORMS:
        raise UsageError(
            f"quantised layers cannot be written as {quant_form!r}", hint=f"one of {', '.join(QUANT_FORMS)}"
        )
    plain = quant_form == "qdq" and next(module.all_nodes("dequantize"), None) is None
    theirs = (
        f"opset.{MICROSOFT}" in module.metadata and next(module.all_nodes("dynamic_quantize_lstm"), None) is not None
    )
    if plain and not theirs and not ort:
        return module
    clone = module.clone()
    if not plain or theirs:
        from . import quant_forms

        if not plain:
            quant_forms.rewrite(clone, quant_form)
        if theirs:
            quant_forms.keep_lstm(clone)
    if ort:
        from . import ort_forms

        whole = attending(clone)
        if whole is not None and ort_forms.rewrite(whole):
            return whole
        ort_forms.rewrite(clone)
    return clone


class _Attempt(NamedTuple):
    """A clone taken apart for an opset, and what could not be."""

    module: Module
    left: list[Offender]
    opset: int


def _attempt(module: Module, opset: int | None) -> _Attempt:
    """At the opset asked for; without one, at the starting opset or the next one that works."""
    made = _at(module, starting_opset(module) if opset is None else check_opset(opset))
    if opset is not None or not made.left:
        return made
    return _search(module, made.opset + 1, made.left) or made


def _at(module: Module, opset: int, apart: frozenset[str] = frozenset()) -> _Attempt:
    """At this opset; nodes of the ops `apart` are decomposed also where they are legal."""
    clone = module.clone()
    _drop_dead(clone)
    settle_version(clone)
    left = list(_decomposed(clone, opset, apart))
    _drop_dead(clone)
    left += [offender for graph in clone.all_graphs() for offender in _passed_on(graph, opset)]
    return _Attempt(clone, left, opset)


def _search(module: Module, opset: int, left: list[Offender]) -> _Attempt | None:
    """The lowest opset from `opset` on that works, tried out; None when none does. `left` is what the one before lacks."""
    while True:
        newer = [o.opset for o in left if o.opset is not None]
        if len(newer) == len(left):
            opset = max(opset, *newer)
        if not newer or opset > newest_opset():
            return None
        made = _at(module, opset)
        if not made.left:
            return made
        left, opset = made.left, opset + 1


def _shortest(module: Module, made: Module, opset: int) -> tuple[Module, int]:
    """The lowest opset from `opset` on at which the file has the fewest nodes, and the clone for it. Only those are tried
    that brought an operator for an op of the module, and Attention for what is written out: the rest gets no shorter. An
    operator of `TAKEN_APART` that the opset does not have yet is not taken."""
    brought: dict[int, None] = {}
    for node in module.all_nodes():
        if node.has(PURE) and opset >= TAKEN_APART.get(node.name, 0):
            brought.update(dict.fromkeys(registry.starts(node.name)))
            refusal = refused(node, opset)
            if refusal is not None and refusal.opset is not None:
                brought[refusal.opset] = None
    newest = attending(module)
    tried = {v for v in brought if v > opset} | ({max(opset, ATTENTION)} if newest is not None else set())
    best, fewest = (made, opset), written_nodes(made, opset)
    for newer in sorted(tried):
        apart = frozenset(op for op, start in TAKEN_APART.items() if opset < start <= newer)
        attempt = _at(newest if newest is not None and newer >= ATTENTION else module, newer, apart)
        if not attempt.left and (count := written_nodes(attempt.module, newer)) < fewest:
            best, fewest = (attempt.module, newer), count
    return best


def attending(module: Module) -> Module | None:
    """A clone whose attention is one op where it was written out; None when there is nothing of that."""
    if next(module.all_nodes("softmax"), None) is None:
        return None
    from ...passes.manager import run_pipeline
    from .attention import whole_masks

    clone = module.clone()
    before = clone.version
    run_pipeline(clone, "fuse-attention")
    if clone.version == before:
        return None
    run_pipeline(clone, "canonicalize,fold,move-data,cse,dce")  # angles and masks that layers share were made for each
    whole_masks(clone)
    return clone


def written_nodes(module: Module, opset: int) -> int:
    """How many ONNX nodes a legalised module becomes."""
    emitter = Emitter(opset)
    return sum(len(emitter.emit(node)) for node in module.all_nodes())


def _drop_dead(module: Module) -> None:
    """Nodes whose results nobody uses are not written: a file that is read and written again stays as it is."""
    for graph in list(module.all_graphs()):
        for node in graph.reversed():
            if node.has(PURE) and not any(value.n_uses for value in node.results):
                node.erase()


def _passed_on(graph: Graph, opset: int) -> Iterator[Offender]:
    """Sequences and optionals that a graph returns as they came in, or twice: each is written as an Identity, which takes
    them in newer opsets only. An input that is returned under its own name needs none."""
    kept = {
        (value, index)
        for s in graph.module.signatures.values()
        if s.graph is graph
        for index, name in enumerate(s.output_names())
        for value, own in zip(graph.inputs, s.input_names(), strict=True)
        if own == name
    }
    for index, value in enumerate(graph.outputs):
        made_here = value.node is not None and value.node.graph is graph and value not in graph.outputs[:index]
        if made_here or isinstance(value.type, TensorType) or (value, index) in kept:
            continue
        spelled = spell(value)
        verdict = judge(Form("Identity", "", (spelled,), (spelled,), ()), opset)
        if verdict is not None:
            yield Offender("return", "" if graph.parent is None else str(graph.parent.loc), *verdict)


def _decomposed(clone: Module, opset: int, apart: frozenset[str]) -> Iterator[Offender]:
    if all(refused(node, opset) is None and node.name not in apart for node in clone.all_nodes()):
        return  # the usual case: no rules are loaded
    from ...passes.decompose import decompose

    left = decompose(clone, lambda node: "slower in one" if node.name in apart else legal(node, opset))
    for node in clone.all_nodes():
        if node in left:
            refusal = refused(node, opset)
            if refusal is not None:
                yield Offender(node.op.name, str(node.loc), refusal.reason, refusal.opset)


def support(name: str) -> str:
    """direct: ONNX has it at some opset; decomposed: it is written as smaller ops; -: it is refused."""
    from ...passes.decompose import decomposable

    if name in registry.table():
        return "direct"
    return "decomposed" if decomposable(name, lambda needed: support(needed) != "-") else "-"


def refusal_of(left: list[Offender], working: _Attempt | None) -> Unsupported:
    """All offenders in one message, and the opset that would do."""
    shown = "; ".join(map(str, left[:20])) + (f"; and {len(left) - 20} more" if len(left) > 20 else "")
    hint = f"--opset {working.opset} works" if working is not None else ""
    return Unsupported(f"cannot be written as ONNX: {shown}", hint=hint)
