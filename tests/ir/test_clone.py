"""A clone is equal, shares nothing but tensors, and keeps what names cannot say."""

from __future__ import annotations

import numpy as np
from anyir.ir.clone import copy_nodes
from anyir.ir.graph import Module
from anyir.ir.verify import verify
from anyir.tests.support.graphs import random_module
from anyir.tests.support.text import assert_equal_modules, module


def test_clones_are_equal_and_valid() -> None:
    for seed in range(60):
        made = random_module(seed).module
        copy = made.clone()
        verify(copy)
        assert_equal_modules(made, copy)
        assert str(made) == str(copy), "names, order of weights, locations and metadata too"


def test_editing_a_clone_leaves_the_original_alone() -> None:
    for seed in range(20):
        made = random_module(seed).module
        before, version = str(made), made.version
        copy = made.clone()
        for graph in list(copy.all_graphs()):
            graph.set_outputs(list(graph.outputs[:1]))
        for weight in list(copy.weights):
            weight.aliases, weight.origin = ("changed",), "changed"
        copy.facts.add_range("N", 2, 3, "guard")
        copy.metadata["changed"] = "yes"
        copy.signature.inputs.clear()
        copy.add_weight("new", np.zeros(1, np.float32))
        copy.literal(np.float32(12345))
        assert str(made) == before and made.version == version


def test_tensors_are_shared_and_everything_else_is_not() -> None:
    made = random_module(3).module
    copy = made.clone()
    assert not {id(n) for n in made.all_nodes()} & {id(n) for n in copy.all_nodes()}
    for weight in made.weights:
        assert copy.weights[weight.key] is not weight
        assert copy.weights[weight.key].tensor is weight.tensor


def test_literals_of_the_clone_are_its_own() -> None:
    made = Module()
    made.add_graph("main")
    value = made.literal(np.float32(7))
    copy = made.clone()
    assert copy.literal(np.float32(7)) is not value
    assert len(copy.weights) == 1


def test_a_weight_remembers_the_key_that_it_wanted() -> None:
    made = Module()
    graph = made.add_graph("main")
    made.add_weight("w", np.zeros(2, np.float32), "param")
    graph.set_outputs([made.add_weight("w", np.ones(2, np.float32), "param")])
    copy = made.clone()
    copy.drop_unused_weights()
    assert [w.key for w in copy.weights] == ["w"]


def test_known_elements_travel() -> None:
    made = module("(%x: f32[N, 3]) { %s = shape(%x) : i64[2] return(%s) }")
    assert made.clone().main.first.result.elems == made.main.first.result.elems


def test_copy_nodes_in_front_of_a_node() -> None:
    made = module("(%x: f32[2]) { %a = neg(%x) : f32[2] %b = exp(%a) : f32[2] return(%b) }")
    exp = made.main.first.next
    mapping = {made.main.inputs[0]: made.main.first.result}
    source = module("(%x: f32[2]) { %r = relu(%x) : f32[2] return(%r) }").main
    mapping = {source.inputs[0]: made.main.first.result}
    copy_nodes(source, made.main, mapping, exp)
    assert [n.name for n in made.main.nodes()] == ["neg", "relu", "exp"]
    verify(made)
