"""Multiply-accumulates of a node, against torch's own flop counter and by hand."""

from __future__ import annotations

from typing import Any

import anyir
import numpy as np
import pytest
from anyir.ir.analysis import LAYERS, macs
from anyir.ir.builder import Builder
from anyir.ir.expr import sym
from anyir.ir.graph import Module
from anyir.ir.types import F32, TensorType
from anyir.kernels.budget import DENSE
from anyir.tests.support.ops import call, samples_of


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
