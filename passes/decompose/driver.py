"""Applies decompositions until every node is legal for a target, or no rule helps. Knows no target and no op."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...ir.builder import Builder
from ...ir.errors import AnyIRError, InternalError, LimitExceeded, PassError
from ...ir.graph import Graph, Module
from ...ir.opdef import PURE
from ...ir.types import TensorType
from ...ir.value import Node
from .rules import Declined, Rule, load

#: How deep one node may be taken apart before a cycle among the rules is certain.
_DEPTH = 40

Legal = Callable[[Node], str | None]


def decompose(module: Module, is_legal: Legal, extra: Mapping[str, Rule] | None = None) -> dict[Node, str]:
    """Take apart every node that `is_legal` gives a reason against, in all graphs and regions.

    `extra` are rules of one target, tried before the shared ones. Returns the nodes that stay illegal with the reason of
    the last rule that declined (the target's reason where there is no rule). Dead pure nodes on the way are erased.
    Raises PassError when a rule raises, InternalError when rules go in circles.
    """
    shared = load()
    tables = (extra or {}, shared)
    left: dict[Node, str] = {}
    graphs = list(module.all_graphs())
    while graphs:
        graphs += _one_graph(graphs.pop(0), is_legal, tables, left)
    return {node: reason for node, reason in left.items() if node.graph is not None}


def _one_graph(
    graph: Graph, is_legal: Legal, tables: tuple[Mapping[str, Rule], ...], left: dict[Node, str]
) -> list[Graph]:
    """Work through one graph; returns the regions that rules made on the way."""
    regions: list[Graph] = []
    pending = [(node, 0) for node in graph.reversed()]
    while pending:
        node, depth = pending.pop()
        if node.graph is not graph or _erased_as_dead(node):
            continue
        reason = is_legal(node)
        if reason is None:
            continue
        if depth > _DEPTH:
            raise InternalError(f"decomposition of {node.name} does not end")
        made = _apply(node, tables)
        if isinstance(made, Declined):
            left[node] = made.reason or reason
            continue
        pending += [(new, depth + 1) for new in reversed(made)]
        regions += [inner for new in made for region in new.regions for inner in (region, *_below(region))]
    return regions


def _below(region: Graph) -> list[Graph]:
    """The regions inside a region, outer before inner."""
    found, pending = [], [region]
    while pending:
        inner = [r for node in pending.pop().nodes() for r in node.regions]
        found += inner
        pending += inner
    return found


def _erased_as_dead(node: Node) -> bool:
    if node.has(PURE) and not node.regions and not any(value.n_uses for value in node.results):
        node.erase()
        return True
    return False


def _apply(node: Node, tables: tuple[Mapping[str, Rule], ...]) -> list[Node] | Declined:
    """The nodes that took the place of `node`, in order, or why none did."""
    if any(isinstance(v.type, TensorType) and v.type.dtype is None for v in node.inputs()):
        return Declined("an operand's dtype is not known")
    declined = Declined("")
    for table in tables:
        rule = table.get(node.name)
        if rule is None:
            continue
        mark = node.prev
        try:
            outcome = rule(Builder(node.graph, before=node, loc=node.loc), node)
        except LimitExceeded as error:
            outcome = Declined(error.message)
        except AnyIRError as error:
            if any(isinstance(v.type, TensorType) and v.type.shape and 0 in v.type.shape for v in node.inputs()):
                outcome = Declined(f"a dim of an operand is 0: {error.message}")
            else:
                where = str(node.loc)
                raise PassError(f"the decomposition of {node.name} failed: {error}", where=where) from error
        except TypeError:  # rules count dims
            if all(not isinstance(v.type, TensorType) or v.rank is not None for v in node.inputs()):
                raise
            outcome = Declined("an operand's rank is not known")
        made = _between(mark, node)
        if isinstance(outcome, Declined):
            for new in reversed(made):
                new.erase()
            declined = outcome
            if outcome.final:
                break
            continue
        values = outcome if isinstance(outcome, tuple) else (outcome,)
        _replace(node, values)
        return [new for new in made if new.graph is not None]
    return declined


def _between(mark: Node | None, node: Node) -> list[Node]:
    made, at = [], node.prev
    while at is not mark:
        made.append(at)
        at = at.prev
    return made[::-1]


def _replace(node: Node, values: tuple) -> None:
    if len(values) != len(node.results):
        raise InternalError(f"decomposing {node.name} gives {len(values)} values for {len(node.results)} results")
    for old, new in zip(node.results, values, strict=True):
        if new is None:
            if old.n_uses:
                raise InternalError(f"decomposing {node.name} leaves out {node.op.result_name(old.index)}")
            continue
        _check_types(node, old.type, new.type)
        known, made = old.type, new.type
        if isinstance(known, TensorType) and isinstance(made, TensorType) and made is not known and not new.is_const:
            new.refine(_finer(known, made))
        old.replace_uses(new)
    node.erase()


def _check_types(node: Node, old: object, new: object) -> None:
    if not (isinstance(old, TensorType) and isinstance(new, TensorType)):
        return
    fits = old.dtype in (None, new.dtype) and (None in (old.rank, new.rank) or old.rank == new.rank)
    if fits and old.shape is not None and new.shape is not None:
        pairs = zip(old.shape, new.shape, strict=True)
        fits = all(type(a) is not int or type(b) is not int or a == b for a, b in pairs)
    if not fits:
        raise InternalError(f"the decomposition of {node.name} gives {new}, expected {old}")


def _finer(old: TensorType, new: TensorType) -> TensorType:
    """What both types know together: dims of `old` where `new` has only a symbol for them."""
    if new.shape is None:
        return TensorType(new.dtype, old.shape)
    if old.shape is None:
        return new
    dims = [a if type(a) is int or type(b) is not int else b for a, b in zip(old.shape, new.shape, strict=True)]
    return TensorType(new.dtype, tuple(dims))
