"""Large modules for the benchmarks: as many nodes as asked for, in the mix of a real network."""

from __future__ import annotations

import numpy as np
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module, Value, bulk
from anyir.ir.loc import Loc
from anyir.ir.types import F32, TensorType

CHANNELS = 8
BLOCK_NODES = 10


def residual_block(b: Builder, x: Value, weights: list[Value], number: int) -> Value:
    """Ten nodes: two convolutions with norm and activation, written-out silu, a residual add."""
    w1, w2, scale, shift, mean, var = weights
    b.at(Loc("torch", f"features.{number}.conv1"))
    y = b.conv(x, w1, strides=(1, 1), pads=(1, 1, 1, 1))
    y = b.batch_norm(y, scale, shift, mean, var)
    y = b.relu(y)
    b.at(Loc("torch", f"features.{number}.conv2"))
    y = b.conv(y, w2, strides=(1, 1), pads=(0, 0, 0, 0), groups=CHANNELS)
    y = b.mul(y, b.sigmoid(y))
    y = b.add(y, x)
    b.at(Loc("torch", f"features.{number}.norm"))
    y = b.transpose(y, perm=(0, 2, 3, 1))
    return b.transpose(y, perm=(0, 3, 1, 2)) if number % 2 else b.neg(b.neg(b.transpose(y, perm=(0, 3, 1, 2))))


def large_module(nodes: int) -> Module:
    """About `nodes` nodes in blocks; every hundredth block has weights of its own."""
    rng = np.random.default_rng(0)
    module = Module("large")
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, (sym("N"), CHANNELS, 4, 4)), "image")
    builder = Builder(graph)
    weights: list[Value] = []
    with bulk():
        y, made, number = x, 0, 0
        while made < nodes:
            if number % 100 == 0:
                weights = _weights(builder, rng, number)
            y = residual_block(builder, y, weights, number)
            made += BLOCK_NODES + (1 if number % 2 == 0 else -1)
            number += 1
        graph.set_outputs([y])
    module.add_signature("serving_default", graph, ["image"], ["features"])
    return module


def _weights(b: Builder, rng: np.random.Generator, number: int) -> list[Value]:
    shapes = {
        "conv1.weight": (CHANNELS, CHANNELS, 3, 3), "conv2.weight": (CHANNELS, 1, 1, 1), "norm.weight": (CHANNELS,),
        "norm.bias": (CHANNELS,), "norm.running_mean": (CHANNELS,), "norm.running_var": (CHANNELS,),
    }  # fmt: skip
    made = []
    for name, shape in shapes.items():
        data = np.abs(rng.standard_normal(shape)).astype(np.float32)
        made.append(b.const(data, key=f"features.{number}.{name}", role="param"))
    return made
