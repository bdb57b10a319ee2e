"""Copies of graphs and modules. Weights' tensors are shared (they are immutable), everything else is new; O(nodes)."""

from __future__ import annotations

from dataclasses import replace

from .graph import Graph, Module, Node, Value, bulk
from .opdef import Known
from .signature import Signature
from .weights import Weight


def clone_module(module: Module) -> Module:
    """A module that can be edited without touching `module`; weights keep their keys and share their tensors."""
    copy = Module(module.name)
    copy.facts = module.facts.copy()
    copy.metadata = dict(module.metadata)
    copy.diagnostics = list(module.diagnostics)
    copy.files = list(module.files)
    mapping: dict[Value, Value] = {}
    weights = {w: copy.weights.add(_copy_weight(w)) for w in module.weights}
    for value in module.constants():
        mapping[value] = copy.constant(weights[value.weight])  # type: ignore[index]
        mapping[value].hint = value.hint
    copy._literals = {key: mapping[value] for key, value in module._literals.items() if value in mapping}
    with bulk():
        for name, graph in module.graphs.items():
            copy_graph(graph, copy.add_graph(name), mapping)
    for key, sig in module.signatures.items():
        target = copy.graphs[sig.graph.name]
        inputs = [s if s.default is None else replace(s, default=weights[s.default]) for s in sig.inputs]
        copy.signatures[key] = Signature(key, target, inputs, list(sig.outputs), list(sig.state))
    return copy


def _copy_weight(weight: Weight) -> Weight:
    made = Weight(weight.key, weight.tensor, weight.role, weight.aliases, weight.origin)
    made.wanted = weight.wanted
    return made


def copy_graph(source: Graph, target: Graph, mapping: dict[Value, Value]) -> None:
    """Copy inputs, nodes and outputs of `source` into the empty `target`; `mapping` takes old values to new ones and is
    extended. Constants must be in it already or belong to the target's module. Regions are copied too."""
    for value in source.inputs:
        new = mapping[value] = target.add_input(value.type, value.hint)
        new._elems = value._elems
    copy_nodes(source, target, mapping)
    target.set_outputs([mapping.get(v, v) for v in source.outputs])


def copy_nodes(source: Graph, target: Graph, mapping: dict[Value, Value], before: Node | None = None) -> list[Node]:
    """Copy the nodes (not the inputs or outputs) of `source` in front of `before`; returns the copies in order."""
    return [copy_into(node, target, mapping, before) for node in source.nodes()]


def copy_into(node: Node, target: Graph, mapping: dict[Value, Value], before: Node | None = None) -> Node:
    """Copy one node, with its regions, in front of `before`; operands as `mapping` has them."""
    regions = []
    for region in node.regions:
        made = target.module.new_region(region.name)
        copy_graph(region, made, mapping)
        regions.append(made)
    operands = tuple(None if v is None else mapping.get(v, v) for v in node.operands)
    new = Node(node.op, operands, node.attrs, tuple(regions), node.loc)
    new.make_results(tuple(Known(v.type, v._elems) for v in node.results))
    for old, fresh in zip(node.results, new.results, strict=True):
        fresh.hint = old.hint
        mapping[old] = fresh
    return target.insert(new, before)
