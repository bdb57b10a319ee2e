"""Small models with dynamic dims, computed shapes, recurrence and control flow: `models()` names them with their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Graph, Module
from anyir.ir.types import BF16, BOOL, F32, I64, TensorType
from anyir.ir.value import Value

Inputs = dict[str, np.ndarray]
Case = tuple[Module, list[Inputs]]
N, S, H = sym("N"), sym("S"), sym("H")


class Net:
    """A module being built: graph inputs x0, x1 ... and seeded weights."""

    def __init__(self, *types: TensorType, seed: int = 0) -> None:
        self.module = Module("net")
        self.graph = self.module.add_graph("main")
        self.b = Builder(self.graph)
        self.x = [self.graph.add_input(t, f"x{i}") for i, t in enumerate(types)]
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def weight(self, key: str, *shape: int) -> Value:
        return self.b.const(self.normal(*shape, scale=0.3), key=key, role="param")

    def region(self, make: Callable[[Builder, Value], list[Value]], type_: TensorType) -> Graph:
        region = self.module.new_region()
        value = region.add_input(type_, "a")
        region.set_outputs(make(Builder(region), value))
        return region

    def done(self, *outputs: Value) -> Module:
        self.graph.set_outputs(outputs)
        names = [f"out:{i}" for i in range(len(outputs))]
        self.module.add_signature("serving_default", self.graph, [f"x{i}" for i in range(len(self.x))], names)
        return self.module


def cnn() -> Case:
    net = Net(TensorType(F32, (N, 3, 16, 16)))
    b, w = net.b, net.weight
    y = b.conv(net.x[0], w("c1", 8, 3, 3, 3), w("c1.bias", 8), pads=(1, 1, 1, 1))
    var = b.const(np.abs(net.normal(8)) + 0.5, key="bn.var", role="buffer")
    y = b.relu(b.batch_norm(y, w("bn.scale", 8), w("bn.bias", 8), w("bn.mean", 8), var))
    y = b.add(y, b.conv(y, w("dw", 8, 1, 3, 3), pads=(1, 1, 1, 1), groups=8))
    y = b.max_pool(y, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    y = b.average_pool(y, kernel_shape=(2, 2), strides=(2, 2))
    y = b.flatten(b.global_average_pool(y), axis=1)
    y = b.softmax(b.gemm(y, w("fc", 10, 8), w("fc.bias", 10), transB=True), axis=1)
    return net.done(y), [{"x0": net.normal(n, 3, 16, 16)} for n in (1, 5)]


def transformer() -> Case:
    net = Net(TensorType(F32, (N, S, 16)))
    b, w, x = net.b, net.weight, net.x[0]
    h = b.layer_norm(x, w("ln1", 16), w("ln1.bias", 16), axis=-1)
    q, k, v = (b.add(b.matmul(h, w(c, 16, 16)), w(f"{c}.bias", 16)) for c in "qkv")
    y = b.add(x, b.matmul(b.attention(q, k, v, q_num_heads=4, kv_num_heads=4)[0], w("out", 16, 16)))
    h = b.layer_norm(y, w("ln2", 16), w("ln2.bias", 16), axis=-1)
    y = b.add(y, b.matmul(b.gelu(b.matmul(h, w("up", 16, 32))), w("down", 32, 16)))
    return net.done(b.reduce_mean(y, (1,), keepdims=False)), [{"x0": net.normal(n, s, 16)} for n, s in ((1, 4), (3, 7))]


def causal() -> Case:
    net = Net(TensorType(F32, (N, S, 16)))
    x = net.x[0]
    y = net.b.attention(x, x, x, q_num_heads=2, kv_num_heads=2, is_causal=True)[0]
    return net.done(y), [{"x0": net.normal(n, s, 16)} for n, s in ((1, 4), (3, 7))]


def shape_arithmetic() -> Case:
    net = Net(TensorType(F32, (N, S, 12)))
    b, x = net.b, net.x[0]
    whole = b.shape(x)
    batch, steps = b.slice(whole, (0,), (1,)), b.slice(whole, (1,), (2,))
    y = b.reshape(x, b.concat(batch, steps, b.const([3, 4]), axis=0))
    merged = b.reshape(
        b.transpose(y, perm=(0, 2, 1, 3)), b.concat(b.mul(batch, b.const([3])), steps, b.const([4]), axis=0)
    )
    spread = b.expand(b.const(np.float32([[1], [2]])), b.concat(b.const([2]), steps, axis=0))
    line = b.range(0, b.squeeze(batch, (0,)), 1)
    filled = b.constant_of_shape(b.slice(whole, (0,), (2,)), value=2.5, to=F32)
    head = b.slice(x, (0,), batch, (0,))
    made = net.done(y, merged, spread, line, filled, b.tile(x, (1, 2, 1)), head)
    return made, [{"x0": net.normal(n, s, 12)} for n, s in ((1, 4), (3, 7))]


def shape_from_data() -> Case:
    net = Net(TensorType(F32, (N, 12)), TensorType(I64, (3,)))
    y = net.b.reshape(*net.x)
    targets = ((2, [4, 3, -1]), (4, [0, 2, 6]))
    return net.done(y, net.b.reduce_sum(y, (0,), keepdims=False)), [
        {"x0": net.normal(n, 12), "x1": np.array(t)} for n, t in targets
    ]


def upsampling() -> Case:
    net = Net(TensorType(F32, (N, 3, H, sym("W"))))
    b, x = net.b, net.x[0]
    y = b.conv_transpose(x, net.weight("w", 3, 4, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1), output_padding=(1, 1))
    scales = np.float32([1, 1, 2, 2])
    plain = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    u, v = b.resize(x, None, scales, None, **plain), b.resize(x, None, scales, None, mode="linear")
    return net.done(y, u, v), [{"x0": net.normal(n, 3, h, 6)} for n, h in ((1, 4), (2, 5))]


def recurrent() -> Case:
    net = Net(TensorType(F32, (6, N, 4)))
    b, x = net.b, net.x[0]
    weights = [b.const(net.normal(*shape)) for shape in ((2, 20, 4), (2, 20, 5), (2, 40))]
    lstm = b.lstm(x, *weights, hidden_size=5, direction="bidirectional")
    weights = [b.const(net.normal(*shape)) for shape in ((1, 15, 4), (1, 15, 5), (1, 30))]
    gru = b.gru(x, *weights, hidden_size=5, linear_before_reset=True)
    return net.done(*lstm, *gru), [{"x0": net.normal(6, n, 4)} for n in (1, 3)]


def data_dependent() -> Case:
    net = Net(TensorType(F32, (N, 9)), TensorType(I64, (1,)))
    b, x = net.b, net.x[0]
    places = b.transpose(b.non_zero(b.greater(x, np.float32(0))), perm=(1, 0))
    values, indices = b.topk(x, net.x[1], axis=1)
    made = net.done(b.gather_nd(x, places), values, indices)
    return made, [{"x0": net.normal(n, 9), "x1": np.array([k])} for n, k in ((2, 3), (3, 5))]


def outputs_of_every_kind() -> Case:
    """A value twice, an input, a weight."""
    net = Net(TensorType(F32, (N, 4)), TensorType(F32, (N, 4)))
    z = net.b.add(*net.x)
    return net.done(z, z, net.x[0], net.weight("w", 2)), [{"x0": net.normal(2, 4), "x1": net.normal(2, 4)}]


def branches() -> Case:
    net = Net(TensorType(F32, (N, 4)), TensorType(BOOL, ()))
    (x, flag), w = net.x, net.weight("w", 4, 3)
    then = net.region(lambda b, a: [b.matmul(a, w), b.relu(a)], x.type)
    other = net.region(lambda b, a: [b.neg(b.matmul(b.mul(a, np.float32(2)), w)), a], x.type)
    y, z = net.b.if_(flag, x, regions=[then, other])
    curves = [net.region(lambda b, a: [b.exp(a)], x.type), net.region(lambda b, a: [b.sigmoid(a)], x.type)]
    one = net.b.if_(flag, x, regions=curves)
    return net.done(y, z, one), [{"x0": net.normal(2, 4), "x1": np.array(t)} for t in (True, False)]


def loop(counted: bool, conditional: bool) -> Case:
    """h = tanh(h w + x), n = n + 1; up to x1 times, or until n is 4."""
    types = [TensorType(F32, (N, 4))] + ([TensorType(I64, ())] if counted else [])
    net = Net(*types)
    x, w, region = net.x[0], net.weight("w", 4, 4), net.module.new_region()
    kinds = [
        ("i", TensorType(I64, ())),
        ("go", TensorType(BOOL, ())),
        ("h", x.type),
        ("n", TensorType(F32, ())),
        ("x", x.type),
    ]
    _, go, h, count, captured = (region.add_input(t, hint) for hint, t in kinds)
    b = Builder(region)
    more = b.add(count, np.float32(1))
    again = b.less(more, np.float32(4)) if conditional else go
    region.set_outputs([again, b.tanh(b.add(b.matmul(h, w), captured)), more])
    start = (net.x[1] if counted else None, net.b.const(np.asarray(True)), x, net.b.const(np.float32(0)), x)
    made = net.done(*net.b.loop(*start, carried=2, regions=[region]))
    inputs = [{"x0": net.normal(2, 4)} | ({"x1": np.array(k)} if counted else {}) for k in (3, 6)]
    return made, inputs


def collecting(conditional: bool) -> Case:
    """Rows h = tanh(h w) of every iteration: x1 of them, or until the count of iterations is 4."""
    net = Net(TensorType(F32, (2, 4)), TensorType(I64, ()))
    x, w, region = net.x[0], net.weight("w", 4, 4), net.module.new_region()
    step = region.add_input(TensorType(I64, ()), "i")
    go, h = region.add_input(TensorType(BOOL, ()), "go"), region.add_input(x.type, "h")
    b = Builder(region)
    new = b.tanh(b.matmul(h, w))
    region.set_outputs([b.less(step, np.asarray(3)) if conditional else go, new, new, step])
    made = net.b.loop(net.x[1], None, x, carried=1, regions=[region])
    return net.done(*made), [{"x0": net.normal(2, 4), "x1": np.array(k)} for k in (3, 6)]


def half() -> Case:
    net = Net(TensorType(BF16, (N, 4)))
    b = net.b
    w = b.const(net.normal(4, 3).astype(ml_dtypes.bfloat16), key="w", role="param")
    y = b.relu(b.add(b.matmul(net.x[0], w), b.const(np.ones(3, ml_dtypes.bfloat16))))
    return net.done(y), [{"x0": net.normal(2, 4).astype(ml_dtypes.bfloat16)}]


def four_bits() -> Case:
    net = Net(TensorType(F32, (N, 4)))
    b = net.b
    w = b.const(net.rng.integers(-8, 8, (4, 6)).astype(ml_dtypes.int4), key="w", role="param")
    return net.done(b.matmul(net.x[0], b.dequantize(w, np.float32(0.1), None, to=F32))), [{"x0": net.normal(2, 4)}]


MODELS: dict[str, Callable[[], Case]] = {
    f.__name__: f
    for f in (cnn, transformer, causal, shape_arithmetic, shape_from_data, upsampling, recurrent, data_dependent,
              outputs_of_every_kind, branches, half, four_bits)
} | {
    "loop_counted": lambda: loop(True, False),
    "loop_both": lambda: loop(True, True),
    "loop_while": lambda: loop(False, True),
    "collecting": lambda: collecting(False),
    "collecting_until": lambda: collecting(True),
}  # fmt: skip


def models() -> Iterator[tuple[str, Case]]:
    for name, make in MODELS.items():
        yield name, make()
