"""Costs of nodes and graphs, against torch's own flop counter, by hand, and against plain recounts."""

from __future__ import annotations

import math
from typing import Any

import anyir
import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.cost import LAYERS, VIEWS, cost, is_cheaper, macs, peak_memory
from anyir.ir.dims import evaluate
from anyir.ir.expr import sym
from anyir.ir.graph import Graph, Module, Value
from anyir.ir.ops import core_ops
from anyir.ir.types import F32, TensorType
from anyir.kernels.budget import DENSE
from anyir.tests.support.graphs import random_module
from anyir.tests.support.ops import call, samples_of
from anyir.tests.support.text import module as text_module


def counted(module: Module, **sizes: int) -> int:
    return sum(macs(node, sizes) or 0 for node in module.all_nodes())


def torch_macs(net: Any, *inputs: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        net(*inputs)
    return counter.get_total_flops() // 2


def test_convolutions_and_products_cost_what_torch_counts() -> None:
    import torch
    from torch import nn

    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(8, 8, 3, groups=8, dilation=2, bias=False),
        nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1, bias=False),
        nn.Conv2d(6, 4, (1, 5), groups=2, bias=False),
        nn.Flatten(2),
        nn.Linear(16 * 12, 10, bias=False),
    ).eval()
    x = torch.randn(2, 3, 23, 23)
    module = anyir.load(net, inputs=(x,), dynamic_shapes=None)
    names = {s for value in module.signature.graph.inputs for s in map(str, value.shape) if not s.isdigit()}
    assert counted(module, **dict.fromkeys(names, 2)) == torch_macs(net, x)


def test_attention_costs_what_torch_counts() -> None:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    q, k, v = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 9, 6), torch.randn(2, 4, 9, 3)
    module = Module()
    graph = module.add_graph("main")
    values = [graph.add_input(TensorType(F32, tuple(t.shape))) for t in (q, k, v)]
    b = Builder(graph)
    graph.set_outputs([b.attention(*values)[0]])
    flops = torch_macs(lambda *xs: scaled_dot_product_attention(*xs), q, k, v)
    assert counted(module) == flops == 2 * 4 * 5 * 9 * (6 + 3)


@pytest.mark.parametrize(("op", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
def test_a_recurrent_layer_is_its_products_at_every_step(op: str, gates: int) -> None:
    module = Module()
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, (7, 2, 5)))
    b = Builder(graph)
    w, r = (np.ones((2, gates * 3, width), np.float32) for width in (5, 3))
    made = getattr(b, op)(x, w, r, hidden_size=3, direction="bidirectional")
    graph.set_outputs([made[0]])
    assert counted(module) == 2 * 7 * 2 * gates * (3 * 5 + 3 * 3)


def test_open_dims_are_bound_and_unknown_ones_said() -> None:
    module = Module()
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, (sym("N"), 3)))
    b = Builder(graph)
    product = b.matmul(x, np.ones((3, 4), np.float32))
    graph.set_outputs([b.relu(product)])
    assert macs(product.node, {"N": 5}) == 5 * 3 * 4
    assert macs(product.node, {}) is None
    assert macs(graph.outputs[0].node, {}) == 0


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_every_sample_of_a_layer_is_counted(name: str) -> None:
    """A whole number above 0 for each sample of the op that has elements at all."""
    for sample in samples_of(name):
        node, _ = call(name, sample)
        found = macs(node, {})
        empty = any(v.shape is not None and 0 in v.shape for v in (*node.inputs(), *node.results))
        assert found is not None and (found > 0 or empty)


def test_layers_are_what_a_run_is_charged_for() -> None:
    """Ops whose results are sums of products: those of the budget, but for three that no network is made of."""
    assert {"deform_conv", "einsum", "dynamic_quantize_lstm"} == DENSE - LAYERS


def test_costs_are_expressions_of_the_open_dims() -> None:
    made = text_module("""(%x: f32[N, S, 8]) {
      const %w = [1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2] : f32[8, 2]
      %p = matmul(%x, %w) : f32[N, S, 2]
      %r = relu(%p) : f32[N, S, 2]
      const %to = [0, -1] : i64[2]
      %f = reshape(%r, %to) : f32[N, 2*S]
      return(%f)
    }""")
    product, relu, view = (cost(node) for node in made.main.nodes())
    assert [str(dim) for dim in product[:3]] == ["32*N*S", "32*N*S + 64", "8*N*S"]
    assert product.weights == 64
    assert product.numbers({"N": 2, "S": 5}) == (320, 384, 80) and product.numbers({"N": 2}) is None
    assert [str(dim) for dim in relu] == ["2*N*S", "8*N*S", "8*N*S", "0"]
    assert view[:3] == (0, 0, 0), "a view moves nothing"


def test_what_picks_reads_what_it_writes() -> None:
    made = text_module("""(%x: f32[1000, 8], %i: i64[N]) {
      %y = gather(%x, %i) : f32[N, 8]
      %s = shape(%x) : i64[2]
      return(%y, %s)
    }""")
    gather, shape = (cost(node) for node in made.main.nodes())
    assert [str(dim) for dim in gather[:3]] == ["0", "40*N", "32*N"]
    assert shape[:3] == (0, 0, 16)


def test_a_node_with_regions_costs_what_its_regions_do() -> None:
    made = text_module("""(%c: bool[], %x: f32[N]) {
      %y = if(%c, %x) : f32[N] {
        then(%a: f32[N]) { %t = exp(%a) : f32[N] return(%t) }
        else(%b: f32[N]) { %e = neg(%b) : f32[N] return(%e) }
      }
      return(%y)
    }""")
    assert str(cost(next(made.main.nodes())).flops) == "2*N"


def test_every_op_has_a_cost_on_its_samples() -> None:
    for op in core_ops():
        for sample in samples_of(op.name):
            node, _ = call(op.name, sample)
            found = cost(node)
            if all(isinstance(v.type, TensorType) and v.type.is_static for v in (*node.inputs(), *node.results)):
                numbers = found.numbers({})
                assert numbers is not None and min(numbers) >= 0, op.name


def recounted_peak(graph: Graph, sizes: dict[str, int]) -> int:
    """Each moment by itself: the tensors that are made by then and used then or later, views counted as what they view."""
    nodes = [*graph.nodes(), graph.return_node]
    owner = {value: value for value in graph.inputs}
    for node in nodes[:-1]:
        for value in node.results:
            viewed = node.operands[0] if node.name in VIEWS else None
            owner[value] = owner.get(viewed, value) if viewed is not None else value
    made = dict.fromkeys(graph.inputs, -1)
    made |= {value: i for i, node in enumerate(nodes) for value in node.results}
    last: dict[Value, int] = {}
    for i, node in enumerate(nodes):
        for value in node.inputs():
            if value in owner:
                last[owner[value]] = i
    for value, born in made.items():
        last.setdefault(value, born if value.node is not None else -2)

    def nbytes(value: Value) -> int:
        bits = value.dtype.bits  # type: ignore[union-attr]
        if not bits or 0 in value.shape:  # type: ignore[operator]
            return 0
        return (math.prod(evaluate(dim, sizes) for dim in value.shape) * bits + 7) // 8  # type: ignore[union-attr]

    moments = range(-1, len(nodes) - 1)
    return max(sum(nbytes(v) for v in made if owner[v] is v and made[v] <= i <= last[v]) for i in moments)


def test_the_peak_is_that_of_a_plain_recount() -> None:
    compared = 0
    for seed in range(150):
        generated = random_module(seed, nodes=12)
        graph = generated.module.main
        peak = peak_memory(graph, generated.sizes)
        if peak is not None and not any(node.regions for node in graph.nodes()):
            assert peak.nbytes == recounted_peak(graph, generated.sizes), f"seed {seed}"
            compared += 1
    assert compared > 50


def products(body: str) -> list[Any]:
    """The products of a graph."""
    operands = "(%x: f32[1, 4], %v: f32[4, N], %w: f32[N, 4])"
    return list(text_module(f"{operands} {{\n{body}\n}}").graphs["main"].nodes("matmul"))


def test_three_matrices_are_cheaper_in_one_order() -> None:
    """From the left 8 N multiplications, from the right 16 N + 16, however large N is."""
    left = products("%0 = matmul(%x, %v) : f32[1, N]\n%1 = matmul(%0, %w) : f32[1, 4]\nreturn(%1)")
    right = products("%0 = matmul(%v, %w) : f32[4, 4]\n%1 = matmul(%x, %0) : f32[1, 4]\nreturn(%1)")
    assert is_cheaper(right, left) and not is_cheaper(left, right) and not is_cheaper(left, left)


def test_what_folds_costs_its_bytes_alone() -> None:
    """A product of constants is a constant: no arithmetic, but 25 weights in place of 10, or 4 in place of 20."""

    def both(inner: int, outer: int) -> tuple[list[Any], list[Any]]:
        b = Builder(Module("net").add_graph("main"))
        x = b.graph.add_input(TensorType(F32, (sym("N"), outer)), "x")
        v, w = (b.const(np.ones(shape, np.float32)) for shape in ((outer, inner), (inner, outer)))
        apart: Any = b.matmul(b.matmul(x, v), w)
        whole: Any = b.matmul(x, b.matmul(v, w))
        return [apart.node.operands[0].node, apart.node], [whole.node.operands[1].node, whole.node]

    apart, whole = both(1, 5)
    assert is_cheaper(whole, apart) and not is_cheaper(apart, whole)
    apart, whole = both(5, 2)
    assert is_cheaper(apart, whole) and not is_cheaper(whole, apart)
