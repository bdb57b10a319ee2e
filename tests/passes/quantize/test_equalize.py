"""Equalisation moves ranges between layers and changes no float result: powers of two are exact."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.compress.data import open_data
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module, Value
from anyir.ir.types import F32, TensorType
from anyir.ir.verify import verify
from anyir.kernels.run import run
from anyir.passes.manager import Context, run_pipeline

WIDTH = 6


class Net:
    """A graph under construction with weights whose channels differ by orders of magnitude."""

    def __init__(self, *shape: int) -> None:
        self.rng = np.random.default_rng(5)
        self.module = Module()
        self.graph = self.module.add_graph("main")
        self.b = Builder(self.graph)
        self.x = self.graph.add_input(TensorType(F32, (sym("N"), *shape)), "x")

    def weight(self, key: str, *shape: int, axis: int | None = None) -> Value:
        data = self.rng.standard_normal(shape)
        if axis is not None:
            wide = np.geomspace(0.01, 30, shape[axis])
            data *= wide.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return self.b.const(data.astype(np.float32), key=key, role="param")

    def conv(self, x: Value, key: str, inputs: int, outputs: int, *, groups: int = 1, wide: bool = True) -> Value:
        w = self.weight(key, outputs, inputs // groups, 3, 3, axis=0 if wide else None)
        return self.b.conv(x, w, self.weight(f"{key}.bias", outputs), pads=(1, 1, 1, 1), groups=groups)

    def finish(self, *outputs: Value) -> Module:
        self.graph.set_outputs(outputs)
        self.module.add_signature("s", self.graph, ["x"], [f"y{i}" for i in range(len(outputs))])
        verify(self.module)
        return self.module


def activation(name: str, net: Net, x: Value) -> Value:
    if name == "prelu":
        return net.b.prelu(x, net.weight("slope", WIDTH, 1, 1))
    if name == "leaky_relu":
        return net.b.leaky_relu(x, alpha=0.1)
    if name == "max_pool":
        return net.b.max_pool(net.b.relu(x), kernel_shape=(2, 2), strides=(2, 2))
    return net.b.relu(x) if name == "relu" else x


def image(count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32)


def equalised(module: Module, data: np.ndarray | None = None) -> tuple[Module, Context]:
    made = module.clone()
    ctx = Context(data=None if data is None else open_data({"x": data}, made))
    run_pipeline(made, "equalize", ctx)
    verify(made)
    return made, ctx


def same(module: Module, made: Module) -> None:
    before, after = run(module, {"x": image()}), run(made, {"x": image()})
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])


def spread(module: Module, key: str, axis: int) -> float:
    """How much wider the widest channel of a weight is than its narrowest."""
    array = module.weights[key].tensor.numpy()
    size = np.abs(array).max(axis=tuple(i for i in range(array.ndim) if i != axis))
    return float(size.max() / size.min())


@pytest.mark.parametrize("name", ["none", "relu", "leaky_relu", "prelu", "max_pool"])
def test_a_pair_of_convolutions_keeps_every_bit(name: str) -> None:
    net = Net(3, 8, 8)
    hidden = activation(name, net, net.conv(net.x, "first", 3, WIDTH))
    module = net.finish(net.conv(hidden, "second", WIDTH, 4, wide=False))
    made, ctx = equalised(module)
    assert ctx.stats["equalize"] == 3
    same(module, made)
    assert spread(made, "first", 0) < spread(module, "first", 0) / 10


def test_a_depthwise_layer_is_both_sides_of_a_pair() -> None:
    net = Net(3, 8, 8)
    hidden = net.b.relu(net.conv(net.x, "first", 3, WIDTH))
    hidden = net.b.relu(net.conv(hidden, "depthwise", WIDTH, WIDTH, groups=WIDTH, wide=False))
    module = net.finish(net.conv(hidden, "last", WIDTH, 4, wide=False))
    made, ctx = equalised(module)
    assert ctx.records == [{"pass": "equalize", "pairs": 2, "weights": 5}]
    same(module, made)
    assert spread(made, "first", 0) < spread(module, "first", 0) / 10


def test_a_pool_a_reshape_and_a_dense_layer_stand_between() -> None:
    net = Net(3, 8, 8)
    hidden = net.b.relu(net.conv(net.x, "first", 3, WIDTH))
    flat = net.b.reshape(net.b.reduce_mean(hidden, (2, 3)), (0, WIDTH))
    module = net.finish(net.b.gemm(flat, net.weight("dense", 5, WIDTH), net.weight("dense.bias", 5), transB=True))
    made, ctx = equalised(module)
    assert ctx.stats["equalize"] == 3
    same(module, made)


def test_all_that_take_a_value_share_the_factor() -> None:
    net = Net(3, 8, 8)
    hidden = net.b.relu(net.conv(net.x, "first", 3, WIDTH))
    module = net.finish(net.conv(hidden, "left", WIDTH, 4), net.conv(hidden, "right", WIDTH, 2))
    made, ctx = equalised(module)
    assert ctx.stats["equalize"] == 4
    same(module, made)


@pytest.mark.parametrize("case", ["output", "add", "sigmoid", "shared"])
def test_what_cannot_take_a_factor_stays(case: str) -> None:
    net = Net(WIDTH, 8, 8)
    hidden = net.conv(net.x, "first", WIDTH, WIDTH)
    if case == "add":
        hidden = net.b.add(hidden, net.x)
    if case == "sigmoid":
        hidden = net.b.sigmoid(hidden)
    second = net.conv(net.b.relu(hidden), "second", WIDTH, WIDTH, wide=False)
    if case == "shared":
        second = net.b.conv(second, net.graph.first.operands[1], pads=(1, 1, 1, 1))
    module = net.finish(second, *([hidden] if case == "output" else []))
    first = module.weights["first"].tensor.digest()
    made, _ = equalised(module)
    assert made.weights["first"].tensor.digest() == first


def test_dead_channels_keep_their_zeros() -> None:
    net = Net(3, 8, 8)
    zero = net.rng.standard_normal((WIDTH, 3, 1, 1)).astype(np.float32)
    zero[2] = 0
    hidden = net.b.relu(net.b.conv(net.x, net.b.const(zero * 50, key="first", role="param")))
    second = net.rng.standard_normal((4, WIDTH, 1, 1)).astype(np.float32)
    second[:, 4] = 0
    module = net.finish(net.b.conv(hidden, net.b.const(second, key="second", role="param")))
    made, _ = equalised(module)
    assert np.isfinite(made.weights["second"].tensor.numpy()).all()
    same(module, made)


def test_a_clamp_at_six_stays_until_data_shows_that_it_is_idle() -> None:
    net = Net(3, 8, 8)
    hidden = net.b.relu6(net.conv(net.x, "first", 3, WIDTH))
    module = net.finish(net.conv(hidden, "second", WIDTH, 4, wide=False))
    made, ctx = equalised(module)
    assert [n.name for n in made.main.nodes()] == ["conv", "relu6", "conv"]
    assert ctx.notes == ["equalize: 1 layers stay as they are behind a clamp: no data shows that it never acts"]
    made, ctx = equalised(module, image())
    assert [n.name for n in made.main.nodes()] == ["conv", "relu6", "conv"]
    assert "it acts" in ctx.notes[0]
    made, ctx = equalised(module, image() * np.float32(1e-4))
    assert [n.name for n in made.main.nodes()] == ["conv", "relu", "conv"]
    assert "cut nothing off" in ctx.notes[0]


def test_a_bias_that_would_leave_the_normal_numbers_keeps_its_channel() -> None:
    net = Net(3, 8, 8)
    first = net.b.const(net.rng.uniform(1e5, 2e5, (WIDTH, 3, 1, 1)).astype(np.float32), key="first", role="param")
    bias = net.b.const(np.array([1e-37] * 3 + [1.0] * 3, np.float32), key="bias", role="param")
    hidden = net.b.relu(net.b.conv(net.x, first, bias))
    module = net.finish(net.conv(hidden, "second", WIDTH, 4, wide=False))
    made, _ = equalised(module)
    same(module, made)
    kept = made.weights["bias"].tensor.numpy()
    assert (kept[:3] == np.float32(1e-37)).all()
    assert (kept[3:] < 1).all()
