"""Graphs under edits: links, order labels, use lists, iteration, listeners, versions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.errors import InternalError, InvalidModel
from anyir.ir.graph import Graph, Module, Node, Value
from anyir.ir.types import BOOL, F32, TensorType
from anyir.ir.value import Use
from anyir.ir.verify import verify
from anyir.tests.support.graphs import random_module
from hypothesis import given, settings
from hypothesis import strategies as st

T = TensorType(F32, (2,))


def chain(length: int = 4) -> tuple[Module, Graph, list[Node]]:
    """x -> neg -> neg ... -> return"""
    module = Module()
    graph = module.add_graph("main")
    value = graph.add_input(T, "x")
    builder, nodes = Builder(graph), []
    for _ in range(length):
        value = builder.neg(value)
        nodes.append(value.node)
    graph.set_outputs([value])
    return module, graph, nodes


def recount(module: Module) -> None:
    """The use list of every value is what the operands say, each use once."""
    counted: dict[Value, Counter[Use]] = {}
    for graph in module.all_graphs():
        for node in (*graph.nodes(), graph.return_node):
            for index, value in enumerate(node.operands):
                if value is not None:
                    counted.setdefault(value, Counter())[Use(node, index)] += 1
    values = [v for g in module.all_graphs() for v in (*g.inputs, *(r for n in g.nodes() for r in n.results))]
    for value in (*values, *module.constants()):
        assert Counter(value.uses) == counted.get(value, Counter())
        assert value.n_uses == len(value.uses)


# ------------------------------------------------------------------------------------------------ use lists


def test_uses_of_none_one_and_many() -> None:
    module, graph, (a, *_) = chain(1)
    x = graph.inputs[0]
    assert a.result.uses == (Use(graph.return_node, 0),)
    y = Builder(graph).add(x, x)
    assert [(u.node.name, u.index) for u in x.uses] == [("neg", 0), ("add", 0), ("add", 1)]
    assert x.users == [a, y.node] and x.single_user() is None and y.n_uses == 0
    recount(module)


def test_replace_uses_keeps_some_and_hands_on_the_hint() -> None:
    module, graph, (a, b) = chain(2)
    new = Builder(graph, after=a).exp(a.result)
    a.result.hint = "kept"
    a.result.replace_uses(new, keep=[new.node])
    assert b.operands == (new,) and new.node.operands == (a.result,) and new.hint == "kept"
    verify(module)


def test_set_operands_at_once_and_one_by_one() -> None:
    module, graph, nodes = chain(2)
    x = graph.inputs[0]
    total = Builder(graph).add(nodes[1].result, nodes[1].result).node
    version = graph.version
    total.set_operands((x, x))
    assert graph.version == version + 1
    total.set_operands((x, x))
    total.set_operand(0, x)
    assert graph.version == version + 1, "no change, no new version"
    total.set_operand(1, nodes[0].result)
    recount(module)


def test_erase_refuses_what_is_used() -> None:
    _, _, (a, b) = chain(2)
    with pytest.raises(InternalError, match="used by neg"):
        a.erase()
    with pytest.raises(InternalError, match="1 results, 2 replacements"):
        b.replace(a.result, a.result)


def test_return_stays() -> None:
    _, graph, nodes = chain(2)
    with pytest.raises(InternalError):
        graph._unlink(graph.return_node)
    with pytest.raises(InternalError):
        graph.return_node.move_before(nodes[0])
    with pytest.raises(InternalError):
        nodes[0].move_after(graph.return_node)


def test_insert_refuses_foreign_places() -> None:
    _, graph, nodes = chain(1)
    _, other, (foreign,) = chain(1)
    with pytest.raises(InternalError, match="already in a graph"):
        graph.insert(nodes[0])
    loose = Node(foreign.op, (graph.inputs[0],), foreign.attrs)
    with pytest.raises(InternalError, match="another graph"):
        graph.insert(loose, foreign)
    assert len(graph) == len(other) == 1


# ----------------------------------------------------------------------------------------- order and iteration


def test_order_labels_survive_many_insertions_at_one_place() -> None:
    module, graph, (a, b) = chain(2)
    for _ in range(200):
        Builder(graph, before=b).exp(a.result)
    nodes = list(graph.nodes())
    assert nodes[0] is a and nodes[-1] is b and len(nodes) == 202
    assert all(m.order < n.order for m, n in zip(nodes, nodes[1:], strict=False))
    assert all(m.before(n) for m, n in zip(nodes, nodes[1:], strict=False))
    verify(module)


def test_moves() -> None:
    module, graph, nodes = chain(1)
    x = graph.inputs[0]
    b = Builder(graph)
    free = [b.exp(x).node, b.log(x).node, b.abs(x).node]
    free[2].move_before(nodes[0])
    free[0].move_after(free[2])
    free[1].move_before(free[1])
    assert [n.name for n in graph.nodes()] == ["abs", "exp", "neg", "log"]
    verify(module)


def test_erasing_the_current_node_while_iterating() -> None:
    _, graph, nodes = chain(1)
    b = Builder(graph)
    for _ in range(5):
        b.exp(graph.inputs[0])
    for node in graph.nodes("exp"):
        node.erase()
    assert list(graph.nodes()) == nodes


def test_iteration_sees_what_the_docstring_says() -> None:
    _, graph, (a, b, c) = chain(3)
    x, seen = graph.inputs[0], []
    for node in graph.nodes():
        seen.append(node)
        if node is a:
            behind = Builder(graph, after=a).exp(x).node
            in_front = Builder(graph, before=a).log(x).node
            c.result.replace_uses(b.result)
            c.erase()
    assert seen == [a, behind, b] and in_front not in seen


def test_iteration_goes_on_after_erasing_a_run_of_nodes() -> None:
    _, graph, _ = chain(1)
    b = Builder(graph)
    extra = [b.exp(graph.inputs[0]).node for _ in range(6)]
    seen = []
    for node in graph.nodes("exp"):
        seen.append(extra.index(node))
        if node is extra[1]:
            for other in extra[1:5]:
                other.erase()
    assert seen == [0, 1, 5]


def test_reversed_may_erase_the_current_and_later_nodes() -> None:
    _, graph, _ = chain(5)
    graph.set_outputs([graph.inputs[0]])
    for node in graph.reversed():
        node.erase()
    assert len(graph) == 0 and graph.first is graph.return_node


# -------------------------------------------------------------------------------------------- listeners, versions


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, int]] = []

    def inserted(self, node: Node) -> None:
        self.events.append(("inserted", node.name, len(node.operands)))

    def changed(self, node: Node) -> None:
        self.events.append(("changed", node.name, len(node.operands)))

    def erased(self, node: Node) -> None:
        self.events.append(("erased", node.name, len(node.operands)))


def test_listeners_hear_every_change_once() -> None:
    _, graph, (a, b) = chain(2)
    log = Log()
    graph.listeners.append(log)
    new = Builder(graph, after=a).leaky_relu(a.result, alpha=0.5)
    b.set_operand(0, new)
    new.node.set_attr("alpha", 0.5)
    new.node.set_attr("alpha", 0.25)
    b.replace(new)
    assert log.events == [
        ("inserted", "leaky_relu", 1),
        ("changed", "neg", 1),
        ("changed", "leaky_relu", 1),
        ("changed", "return", 1),
        ("erased", "neg", 1),
    ], "operands are still there when `erased` is told"


def test_versions_grow_with_real_changes_only() -> None:
    module, graph, (a, _) = chain(2)
    before = module.version
    list(graph.nodes())
    a.set_operand(0, graph.inputs[0])
    assert module.version == before
    graph.add_input(T)
    graph.remove_input(1)
    assert module.version > before
    with pytest.raises(InternalError):
        graph.remove_input(0)


def test_the_modules_version_does_not_fall_when_regions_go() -> None:
    """A sum over graphs must not cancel out: erasing an `if` takes its regions' versions along."""
    module = Module()
    graph = module.add_graph("main")
    flag, x = graph.add_input(TensorType(BOOL, ())), graph.add_input(T)
    regions = []
    for name in ("then", "else"):
        region = module.new_region(name)
        inner = region.add_input(T)
        for _ in range(10):
            inner = Builder(region).neg(inner)
        region.set_outputs([inner])
        regions.append(region)
    node = Builder(graph).call("if", (flag, x), {}, regions)
    graph.set_outputs([x])
    before = module.version
    node.erase()
    assert module.version > before and not list(graph.nodes())


# ------------------------------------------------------------------------------------------------------- modules


def test_literals_are_shared_and_weights_are_not() -> None:
    module = Module()
    assert module.literal(np.float32(0)) is module.literal(np.float32(0))
    assert module.literal(np.float32(0)) is not module.literal(np.float32(-0.0))
    assert module.literal(np.int32(0)) is not module.literal(np.float32(0))
    one, two = (module.add_weight("bias", np.zeros(3, np.float32), "param") for _ in range(2))
    assert one is not two and (one.weight.key, two.weight.key) == ("bias", "bias_1")


def test_a_changed_literal_is_not_handed_out_again() -> None:
    module = Module()
    two = module.literal(np.float32(2))
    module.set_weight(two.weight, np.float32(3))
    assert module.literal(np.float32(2)).array() == 2 and two.array() == 3


def test_unused_weights_go_and_their_keys_come_free() -> None:
    module, graph, _ = chain(1)
    first = module.add_weight("w", np.zeros(2, np.float32), "param")
    second = module.add_weight("w", np.ones(2, np.float32), "param")
    graph.set_outputs([Builder(graph).add(graph.inputs[0], second)])
    assert first.n_uses == 0 and module.drop_unused_weights() == 1
    assert [w.key for w in module.weights] == ["w"] and module.weights["w"] is second.weight


def test_two_graphs_cannot_have_one_name() -> None:
    module, *_ = chain(1)
    with pytest.raises(InvalidModel, match="two graphs called 'main'"):
        module.add_graph("main")


def test_an_empty_module_says_what_it_lacks() -> None:
    with pytest.raises(InvalidModel, match="no graph"):
        _ = Module().main
    with pytest.raises(InvalidModel, match="no signature"):
        _ = Module().signature


# ------------------------------------------------------------------------------------------------- random edits


@settings(max_examples=60)
@given(st.integers(0, 300), st.data())
def test_use_lists_are_exact_after_random_edits(seed: int, data: st.DataObject) -> None:
    module = random_module(seed).module
    graph = module.main
    for _ in range(12):
        nodes = list(graph.nodes())
        if not nodes:
            break
        edit = data.draw(st.sampled_from(EDITS))
        edit(graph, nodes[data.draw(st.integers(0, len(nodes) - 1))])
        labels = [n.order for n in (*graph.nodes(), graph.return_node)]
        assert labels == sorted(set(labels))
    recount(module)
    verify(module)


def _duplicate(graph: Graph, node: Node) -> None:
    if node.regions:
        return
    made = Node(node.op, node.operands, node.attrs, (), node.loc)
    made.make_results(node.op.infer_results(node.operands, node.attrs))
    graph.insert(made, node.next)
    for old, new in zip(node.results, made.results, strict=True):
        if new.type is old.type:
            old.replace_uses(new)


def _erase_if_dead(graph: Graph, node: Node) -> None:
    if not any(v.n_uses for v in node.results):
        node.erase()


def _identity_behind(graph: Graph, node: Node) -> None:
    for value in node.results:
        copy = Builder(graph, after=node).identity(value)
        value.replace_uses(copy, keep=[copy.node])


def _move_to_its_last_operand(graph: Graph, node: Node) -> None:
    producers = [v.node for v in node.inputs() if v.node is not None]
    if producers:
        node.move_after(max(producers, key=lambda n: n.order))


def _return_it_twice(graph: Graph, node: Node) -> None:
    outputs = graph.outputs
    if node.results:
        graph.return_node.set_operand(0, node.results[0])
        graph.return_node.set_operands(outputs)


EDITS = (_duplicate, _erase_if_dead, _identity_behind, _move_to_its_last_operand, _return_it_twice)
