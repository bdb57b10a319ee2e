"""Rewrites a clone of a module until every node is one that MindSpore has. Must not import MindSpore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir.builder import Builder
from ...ir.errors import Unsupported, UsageError, clean
from ...ir.graph import Graph, Module
from ...ir.opdef import PURE
from ...ir.signature import Signature
from ...ir.symbols import settle_symbols
from ...ir.types import TensorType
from ...ir.value import Node, Value
from ...kernels.run import run_node
from ...passes.decompose import DECOMPOSITIONS, Declined, decomposable, decompose
from ...passes.decompose.rules import Outcome, Rule, in_channels_first
from . import registry
from .quantise import prepare


@dataclass(frozen=True)
class Offender:
    """A node that cannot be written: the op, where it stands, and why."""

    op: str
    where: str
    reason: str

    def __str__(self) -> str:
        place = f" at {clean(self.where)}" if self.where else ""
        return f"{self.op}{place}: {self.reason}"


def legalize(module: Module, *, signature: str | None = None) -> Module:
    """A clone with one signature in which every node is one primitive. Raises Unsupported naming all offenders."""
    return legalize_quantised(module, signature=signature)[0]


def legalize_quantised(module: Module, *, signature: str | None = None) -> tuple[Module, dict[str, dict[str, Any]]]:
    """What `legalize` makes, and the quantisation record of each weight that is stored as integers, by its key."""
    clone, found, records = _attempt(module, signature)
    if found:
        shown = "; ".join(map(str, found[:20])) + (f"; and {len(found) - 20} more" if len(found) > 20 else "")
        raise Unsupported(f"MindIR cannot hold this model: {shown}", code="U030", hint="write ONNX instead")
    settle_symbols(clone)
    return clone, records


def offenders(module: Module, *, signature: str | None = None) -> list[Offender]:
    """What cannot be written, in graph order; empty when `legalize` would succeed."""
    return _attempt(module, signature)[1]


def support(name: str) -> str:
    """direct: MindSpore has it; decomposed: it is written as smaller ops; -: it is refused."""
    registry.load()
    if name in registry.ROWS:
        return "direct"
    return "decomposed" if name in registry.RULES or decomposable(name, _writes) else "-"


def _writes(name: str) -> bool:
    return support(name) != "-"


def chosen_signature(module: Module, key: str | None) -> Signature:
    """MindIR has one entry point. Raises Unsupported or UsageError when it is not clear which."""
    if key is not None and key not in module.signatures:
        raise UsageError(f"no signature is called {clean(key)!r}", hint=f"there are: {', '.join(module.signatures)}")
    if key is None and len(module.signatures) != 1:
        names = ", ".join(module.signatures) or "none"
        raise Unsupported(f"MindIR has one entry point, the module has {names}", hint="choose a signature")
    return module.signature if key is None else module.signatures[key]


def _attempt(module: Module, key: str | None) -> tuple[Module, list[Offender], dict[str, dict[str, Any]]]:
    registry.load()
    name = chosen_signature(module, key).key
    clone = module.clone()
    kept = clone.signatures[name]
    clone.signatures = {name: kept}
    for graph_name in [n for n, graph in clone.graphs.items() if graph is not kept.graph]:
        del clone.graphs[graph_name]
    records = prepare(clone)
    left = decompose(clone, registry.legal, _rules())
    for graph in clone.all_graphs():
        drop_dead(graph)
    found = [
        Offender(node.name, str(node.loc), left.get(node) or reason)
        for node in clone.all_nodes()
        if (reason := registry.legal(node)) is not None
    ]
    _name_outputs(kept.graph)
    clone.drop_unused_weights()
    return clone, found + _interface(kept), records


def _interface(signature: Signature) -> list[Offender]:
    """Inputs and outputs that MindIR has no tensor for."""
    values = [(slot.name, v) for slot, v in zip(signature.inputs, signature.graph.inputs, strict=True)]
    values += [(slot.name, v) for slot, v in zip(signature.outputs, signature.graph.outputs, strict=True)]
    reasons = [(name, registry.type_reason(value)) for name, value in values]
    return [Offender("interface", name, reason) for name, reason in reasons if reason and "rank" not in reason]


def drop_dead(graph: Graph) -> None:
    """Erase pure nodes whose results nothing uses."""
    for node in graph.reversed():
        if node.has(PURE) and not any(value.n_uses for value in node.results):
            node.erase()


def _name_outputs(graph: Graph) -> None:
    """Each output is the result of a node of its own, which can carry its name."""
    b, outputs, seen = Builder(graph), list(graph.outputs), set()
    for place, value in enumerate(outputs):
        if value.node is None or value in seen or value.node.name in ("ms.tensor_to_tuple", "ms.make_tuple", "ms.dim"):
            outputs[place] = b.identity(value)
        seen.add(value)
    graph.set_outputs(outputs)


# -------------------------------------------------------------------------------------------------------- rules


def _rules() -> dict[str, Rule]:
    """MindIR's own rules; before them, layouts and dtypes without a kernel go through those that have one."""
    names = dict.fromkeys([*registry.ROWS, *registry.RULES, *DECOMPOSITIONS])
    return {name: _widening(registry.RULES.get(name)) for name in names}


def _widening(rule: Rule | None) -> Rule:
    def widen_or(b: Builder, node: Node) -> Outcome:
        hopeless = registry.untyped(node)
        if hopeless:
            return _folded(b, node) or Declined(hopeless, final=True)
        if node.attrs.get("channels_last"):
            return in_channels_first(b, node)
        made = _through_wider(b, node)
        if made is not None:
            return made
        return Declined("") if rule is None else rule(b, node)

    return widen_or


def _folded(b: Builder, node: Node) -> tuple[Value, ...] | None:
    """The results of a node on constants alone (weights of a dtype that MindIR has not), where they can be written."""
    if not all(value.is_const for value in node.inputs()) or any(registry.type_reason(v) for v in node.results):
        return None
    made = run_node(node, [None if v is None else v.array() for v in node.operands])
    key = next((v.weight.key for v in node.inputs()), "const")
    return tuple(b.const(array, key=key, role="param", origin=node.name) for array in made)


def _through_wider(b: Builder, node: Node) -> Outcome | None:
    """The same node in the first wider dtype that MindSpore has a kernel for; None where that is not the trouble."""
    row = registry.ROWS.get(node.name)
    if row is None or not row.dtypes or node.name == "cast" or len(node.operands) <= row.data:
        return None
    kind = node.operands[row.data].dtype
    if kind is None or kind in row.dtypes:
        return None
    wide = next((w for w in registry.WIDER.get(kind, ()) if w in row.dtypes), None)
    if wide is None:
        return None
    declared = node.op.operands
    shared = declared[min(row.data, len(declared) - 1)].constraint
    operands: list[Value | None] = []
    for index, value in enumerate(node.operands):
        same = declared[min(index, len(declared) - 1)].constraint is shared
        operands.append(b.cast(value, to=wide) if value is not None and value.dtype is kind and same else value)
    made = b.call(node.name, operands, dict(node.attrs)).results
    return tuple(_narrowed(b, new, old) for new, old in zip(made, node.results, strict=True))


def _narrowed(b: Builder, new: Value, old: Value) -> Value | None:
    if not old.n_uses:
        return None
    wanted = old.type.dtype if isinstance(old.type, TensorType) else None
    return new if wanted in (None, new.dtype) else b.cast(new, to=wanted)
