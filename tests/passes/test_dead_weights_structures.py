"""Dead weights planted in every structure that models are made of, in both directions: what is planted is found and goes with
all its partners, and the same network with one element of it changed keeps every channel.

Each structure is built with random sizes and places. What the rest of the network computes is compared on the reference kernels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module, Value
from anyir.ir.tensor import LazyTensor
from anyir.ir.types import F32, I64, U8, TensorType
from anyir.ir.verify import verify
from anyir.passes.manager import Context, run_pipeline
from anyir.passes.prune import remove
from anyir.tests.support.text import assert_same_numbers

ZERO, CONSTANT, TWIN, SCALED = "zero", "constant", "twin", "scaled"
REMOVED = {
    ZERO: {"zero-channel", "unread-channel"},
    CONSTANT: {"constant-channel", "merged-constant"},
    TWIN: {"duplicate-channel"},
    SCALED: {"scaled-channel"},
}


class Plant:
    """A network in which slices of some weights are zero, or a number times others; `missed` is the one of these weights of
    which an element is changed."""

    def __init__(self, seed: int, kind: str, missed: int = -1) -> None:
        self.rng = np.random.default_rng([seed, 11])
        self.kind, self.missed = kind, missed
        self.module = Module()
        self.b = Builder(self.module.add_graph("main"))
        self.cut: dict[str, tuple[int, int, int]] = {}  # weight: axis, lines that go, lines there were
        self.sizes = {name: int(self.rng.integers(4, 8)) for name in ("in", "hidden", "out")}
        self.hidden = self.sizes["hidden"]
        first, second = self.rng.permutation(self.hidden)[:2]
        self.base, self.place = int(first), int(second)
        self.number = float(self.rng.choice([2.0, -0.5, 4.0] if kind == SCALED else [1.0]))

    def input(self, *shape: int) -> Value:
        return self.b.graph.add_input(TensorType(F32, (sym("N"), *shape)), "x")

    def const(self, array: np.ndarray, key: str) -> Value:
        return self.b.const(array.astype(np.float32), key=key, role="param")

    def weight(self, key: str, *shape: int) -> Value:
        return self.const(self.rng.standard_normal(shape), key)

    def planted(
        self,
        key: str,
        *shape: int,
        axis: int,
        number: float | None = None,
        lines: int = 1,
        block: int = 0,
        fill: float = 0.0,
    ) -> Value:
        """A weight with `lines` slices along an axis that are `fill`, or a number times others, `block` times repeated there."""
        array = self.rng.standard_normal(shape)
        self.cut[key] = axis, lines * max(1, block), shape[axis]
        slices = np.moveaxis(array, axis, 0)
        slices = slices.reshape(max(1, block), -1, lines, *slices.shape[1:])
        number = self.number if number is None else number
        slices[:, self.place] = fill if self.kind in (ZERO, CONSTANT) else number * slices[:, self.base]
        if len(self.cut) - 1 == self.missed:
            slices[-1, self.place].flat[-1] += 0.375
        moved = slices.reshape(-1, *slices.shape[3:])
        return self.const(np.moveaxis(moved, 0, axis), key)

    def read_with_bias(self, h: Value) -> Value:
        """A layer that can take constants."""
        w = self.weight("reader", self.hidden, self.sizes["out"])
        return self.b.gemm(h, w, self.weight("shift", self.sizes["out"]))

    def done(self, y: Value) -> Module:
        self.b.graph.set_outputs([y])
        self.module.add_signature("s", self.b.graph, ["x"], ["y"])
        verify(self.module)
        return self.module

    def read(self, h: Value) -> Value:
        """The layer behind it."""
        return self.b.matmul(h, self.weight("reader", self.hidden, self.sizes["out"]))


Structure = Callable[[Plant], Value]


def neuron(p: Plant, act: str = "relu") -> Value:
    x = p.input(p.sizes["in"])
    h = p.b.gemm(x, p.planted("w", p.sizes["in"], p.hidden, axis=1), p.planted("bias", p.hidden, axis=0))
    return p.read(p.b.neg(h) if act == "neg" else p.b.call(act, (h,)).result)


def convolution(p: Plant) -> Value:
    h = p.b.conv(p.input(3, 5, 5), p.planted("w", p.hidden, 3, 3, 3, axis=0), pads=(1, 1, 1, 1))
    h = p.b.average_pool(h, kernel_shape=(2, 2))
    return p.b.conv(h, p.weight("reader", p.sizes["out"], p.hidden, 3, 3), pads=(1, 1, 1, 1))


def transposed(p: Plant) -> Value:
    h = p.b.conv_transpose(p.input(3, 4, 4), p.planted("w", 3, p.hidden, 2, 2, axis=1), strides=(2, 2))
    return p.b.conv(h, p.weight("reader", p.sizes["out"], p.hidden, 1, 1))


def depthwise(p: Plant) -> Value:
    h = p.b.conv(p.input(3, 5, 5), p.planted("w", p.hidden, 3, 1, 1, axis=0))
    k = p.planted("kernel", p.hidden, 1, 3, 3, axis=0, number=1.0)
    return p.b.conv(p.b.conv(h, k, groups=p.hidden), p.weight("reader", p.sizes["out"], p.hidden, 1, 1))


def gated(p: Plant) -> Value:
    """The gate curves: its part must be equal, the other may be a number times the other's."""
    x = p.input(p.sizes["in"])
    gate = p.b.silu(p.b.matmul(x, p.planted("gate", p.sizes["in"], p.hidden, axis=1, number=1.0)))
    return p.read(p.b.mul(gate, p.b.matmul(x, p.planted("up", p.sizes["in"], p.hidden, axis=1))))


def zero_gate(p: Plant) -> Value:
    x = p.input(p.sizes["in"])
    gate = p.b.gelu(p.b.matmul(x, p.planted("gate", p.sizes["in"], p.hidden, axis=1)))
    return p.read(p.b.mul(gate, p.b.matmul(x, p.weight("up", p.sizes["in"], p.hidden))))


def embedding(p: Plant) -> Value:
    ids = p.b.arg_max(p.input(3, 9), axis=2, keepdims=False)
    return p.read(p.b.gather(p.planted("table", 9, p.hidden, axis=1), ids, axis=0))


def joined_tables(p: Plant) -> Value:
    """Pairs of twins in each, none of one in the other."""
    ids = p.b.arg_max(p.input(3, 9), axis=2, keepdims=False)
    parts = [
        p.b.gather(p.planted(key, 9, p.hidden * 2, axis=1, block=2), ids, axis=0) for key in ("one", "two", "three")
    ]
    return p.b.matmul(p.b.concat(*parts, axis=2), p.weight("reader", 6 * p.hidden, p.sizes["out"]))


def heads(p: Plant, spelled: bool, kv: bool = False, turned: bool = False) -> Value:
    """Queries and keys must be equal, values may be a number times the other's."""
    size, times = 4, 2 if kv else 1
    x, h = p.input(5, p.sizes["in"]), p.hidden
    own = {"q": times, "k": 1, "v": 1}
    q, k, v = (
        p.b.matmul(
            x,
            p.planted(key, p.sizes["in"], n * h * size, axis=1, lines=n * size, number=None if key == "v" else 1.0)
            if key == "v" or p.kind != ZERO
            else p.weight(key, p.sizes["in"], n * h * size),
        )
        for key, n in own.items()
    )
    if turned:
        half = p.rng.uniform(0, 3, (1, 5, size // 2)).astype(np.float32)
        q, k = (p.b.rotary_embedding(z, np.cos(half), np.sin(half), num_heads=n) for z, n in ((q, times * h), (k, h)))
    if spelled:
        q, k, v = (p.b.transpose(p.b.reshape(z, (-1, 5, h, size)), perm=(0, 2, 1, 3)) for z in (q, k, v))
        scores = p.b.softmax(p.b.mul(p.b.matmul(q, p.b.transpose(k, perm=(0, 1, 3, 2))), np.float32(0.5)), axis=-1)
        y = p.b.reshape(p.b.transpose(p.b.matmul(scores, v), perm=(0, 2, 1, 3)), (-1, 5, h * size))
    else:
        y, *_ = p.b.attention(q, k, v, q_num_heads=times * h, kv_num_heads=h, is_causal=True)
    return p.b.matmul(y, p.weight("reader", times * h * size, p.sizes["out"]))


def packed_heads(p: Plant, way: str) -> Value:
    """Queries, keys and values of one matrix, taken apart as exporters do it."""
    h, size = p.hidden, 4
    w = p.planted("qkv", p.sizes["in"], 3 * h * size, axis=1, lines=size, block=3, number=1.0)
    y = p.b.reshape(p.b.matmul(p.input(5, p.sizes["in"]), w), (-1, 5, 3, h, size))
    if way == "gather":
        y = p.b.transpose(y, perm=(2, 0, 3, 1, 4))
        q, k, v = (p.b.gather(y, np.int64(i), axis=0) for i in range(3))
    else:
        parts = p.b.split(p.b.transpose(y, perm=(0, 2, 3, 1, 4)), (1, 1, 1), axis=1)
        q, k, v = (p.b.squeeze(part, (1,)) for part in parts)
    scores = p.b.softmax(p.b.matmul(p.b.mul(q, np.float32(0.5)), p.b.transpose(k, perm=(0, 1, 3, 2))), axis=-1)
    y = p.b.reshape(p.b.transpose(p.b.matmul(scores, v), perm=(0, 2, 1, 3)), (-1, 5, h * size))
    return p.b.matmul(y, p.weight("reader", h * size, p.sizes["out"]))


def repeated_heads(p: Plant) -> Value:
    """Key heads that two query heads share, repeated by an expand."""
    x, h, size = p.input(5, p.sizes["in"]), p.hidden, 4

    def part(key: str, n: int, number: float | None) -> Value:
        shape = (p.sizes["in"], n * h * size)
        plain = p.kind == ZERO and key != "v"
        w = p.weight(key, *shape) if plain else p.planted(key, *shape, axis=1, lines=n * size, number=number)
        return p.b.transpose(p.b.reshape(p.b.matmul(x, w), (-1, 5, n * h, size)), perm=(0, 2, 1, 3))

    def wide(value: Value) -> Value:
        each = p.b.expand(p.b.unsqueeze(value, (2,)), (1, h, 2, 5, size))
        return p.b.reshape(each, (-1, 2 * h, 5, size))

    q, k, v = part("q", 2, 1.0), wide(part("k", 1, 1.0)), wide(part("v", 1, None))
    scores = p.b.softmax(p.b.matmul(q, p.b.transpose(k, perm=(0, 1, 3, 2))), axis=-1)
    y = p.b.reshape(p.b.transpose(p.b.matmul(scores, v), perm=(0, 2, 1, 3)), (-1, 5, 2 * h * size))
    return p.b.matmul(y, p.weight("reader", 2 * h * size, p.sizes["out"]))


def unread_head(p: Plant) -> Value:
    x, h, size = p.input(5, p.sizes["in"]), p.hidden, 4
    q, k, v = (p.b.matmul(x, p.weight(key, p.sizes["in"], h * size)) for key in "qkv")
    y, *_ = p.b.attention(q, k, v, q_num_heads=h, kv_num_heads=h)
    return p.b.matmul(y, p.planted("out", h * size, p.sizes["out"], axis=0, lines=size))


def units(p: Plant, name: str) -> Value:
    gates, c, h = {"lstm": 4, "gru": 3, "rnn": 1}[name], p.sizes["in"], p.hidden
    x = p.b.transpose(p.input(5, c), perm=(1, 0, 2))
    weights = [
        p.planted("w", 1, gates * h, c, axis=1, block=gates),
        p.planted("r", 1, gates * h, h, axis=1, block=gates),
        p.planted("b", 1, 2 * gates * h, axis=1, block=2 * gates),
    ]
    y = p.b.call(name, (x, *weights), {"hidden_size": h}).results[0]
    return p.read(p.b.squeeze(y, (1,)))


def unit_inputs(p: Plant) -> Value:
    x = p.b.transpose(p.input(5, 4), perm=(1, 0, 2))
    h = p.b.matmul(x, p.planted("w", 4, p.hidden, axis=1))
    weights = [p.weight("wide", 1, 12, p.hidden), p.weight("r", 1, 12, 3)]
    return p.b.call("lstm", (h, *weights), {"hidden_size": 3}).results[0]


def grouped_norm(p: Plant) -> Value:
    """Whole groups; those of a number times the data are not equal: the norm has an epsilon."""
    h = p.b.conv(p.input(3, 4, 4), p.planted("w", 2 * p.hidden, 3, 1, 1, axis=0, lines=2))
    scale = p.planted("scale", 2 * p.hidden, axis=0, lines=2, number=1.0)
    bias = p.planted("bias", 2 * p.hidden, axis=0, lines=2, number=1.0)
    h = p.b.group_norm(h, scale, bias, num_groups=p.hidden)
    return p.b.conv(h, p.weight("reader", p.sizes["out"], 2 * p.hidden, 1, 1))


def scaled_norm(p: Plant) -> Value:
    """Data that is equal, scale and bias that are a number times the other's."""
    h = p.b.conv(p.input(3, 4, 4), p.planted("w", p.hidden, 3, 1, 1, axis=0, number=1.0))
    h = p.b.instance_norm(h, p.planted("scale", p.hidden, axis=0), p.planted("bias", p.hidden, axis=0))
    return p.b.conv(h, p.weight("reader", p.sizes["out"], p.hidden, 1, 1))


def batch_norm(p: Plant) -> Value:
    """Statistics are equal, scale and bias a number times the other's."""
    h = p.b.conv(p.input(3, 4, 4), p.planted("w", p.hidden, 3, 1, 1, axis=0, number=1.0))
    scale, bias = (p.planted(key, p.hidden, axis=0) for key in ("scale", "bias"))
    mean, var = p.planted("mean", p.hidden, axis=0, number=1.0), p.planted("var", p.hidden, axis=0, number=1.0)
    h = p.b.batch_norm(h, scale, bias, mean, p.b.const(np.abs(var.array()) + 1, key="var", role="param"))
    return p.b.conv(h, p.weight("reader", p.sizes["out"], p.hidden, 1, 1))


def scaled_groups(p: Plant) -> Value:
    """Groups of equal data."""
    h = p.b.conv(p.input(3, 4, 4), p.planted("w", 2 * p.hidden, 3, 1, 1, axis=0, lines=2, number=1.0))
    scale, bias = (p.planted(key, 2 * p.hidden, axis=0, lines=2) for key in ("scale", "bias"))
    h = p.b.group_norm(h, scale, bias, num_groups=p.hidden)
    return p.b.conv(h, p.weight("reader", p.sizes["out"], 2 * p.hidden, 1, 1))


def under_norm(p: Plant, name: str) -> Value:
    h = p.b.matmul(p.input(p.sizes["in"]), p.planted("w", p.sizes["in"], p.hidden, axis=1))
    scale = p.weight("scale", p.hidden)
    return p.read(
        p.b.rms_norm(h, scale) if name == "rms_norm" else p.b.layer_norm(h, scale, p.weight("bias", p.hidden))
    )


def residual(p: Plant) -> Value:
    """Both sides of an add."""
    x = p.input(p.sizes["in"])
    one, two = (p.b.relu(p.b.matmul(x, p.planted(key, p.sizes["in"], p.hidden, axis=1))) for key in ("one", "two"))
    return p.read(p.b.add(one, two))


def turned(p: Plant) -> Value:
    """Through a concat, a transpose, a reverse and a squeeze."""
    h = p.b.matmul(p.input(p.sizes["in"]), p.planted("w", p.sizes["in"], p.hidden, axis=1))
    h = p.b.concat(p.b.transpose(p.b.relu(h), perm=(1, 0)), p.b.abs(p.b.transpose(h, perm=(1, 0))), axis=0)
    h = p.b.reverse(p.b.squeeze(p.b.unsqueeze(p.b.transpose(h, perm=(1, 0)), (1,)), (1,)), axes=(1,))
    return p.b.matmul(h, p.weight("reader", 2 * p.hidden, p.sizes["out"]))


def parted(p: Plant) -> Value:
    """Through a split and a concat in another order."""
    h = p.b.neg(p.b.matmul(p.input(p.sizes["in"]), p.planted("w", p.sizes["in"], p.hidden, axis=1)))
    parts = p.b.split(p.b.mul(h, np.float32(3.0)), (2, p.hidden - 2), axis=1)
    return p.read(p.b.concat(*parts[::-1], axis=1))


def flattened(p: Plant) -> Value:
    h = p.b.conv(p.input(3, 2, 2), p.planted("w", p.hidden, 3, 1, 1, axis=0))
    return p.b.matmul(p.b.flatten(h), p.weight("reader", 4 * p.hidden, p.sizes["out"]))


def constant_neuron(p: Plant) -> Value:
    x = p.input(p.sizes["in"])
    h = p.b.gemm(x, p.planted("w", p.sizes["in"], p.hidden, axis=1), p.weight("bias", p.hidden))
    return p.read_with_bias(p.b.sigmoid(h))


def constant_convolution(p: Plant) -> Value:
    h = p.b.conv(p.input(3, 5, 5), p.planted("w", p.hidden, 3, 3, 3, axis=0), p.weight("bias", p.hidden))
    return p.b.conv(p.b.silu(h), p.weight("reader", p.sizes["out"], p.hidden, 2, 2))


def constant_depthwise(p: Plant) -> Value:
    h = p.b.conv(p.input(3, 5, 5), p.weight("w", p.hidden, 3, 1, 1))
    h = p.b.conv(h, p.planted("kernel", p.hidden, 1, 3, 3, axis=0), p.weight("bias", p.hidden), groups=p.hidden)
    return p.b.conv(h, p.weight("reader", p.sizes["out"], p.hidden, 1, 1))


def constant_column(p: Plant) -> Value:
    ids = p.b.arg_max(p.input(9), axis=1, keepdims=False)
    return p.read_with_bias(p.b.gather(p.planted("table", 9, p.hidden, axis=1, fill=0.5), ids, axis=0))


def constant_groups(p: Plant) -> Value:
    h = p.b.conv(p.input(3, 4, 4), p.weight("w", 2 * p.hidden, 3, 1, 1))
    scale = p.planted("scale", 2 * p.hidden, axis=0, lines=2)
    h = p.b.group_norm(h, scale, p.weight("bias", 2 * p.hidden), num_groups=p.hidden)
    return p.b.conv(h, p.weight("reader", p.sizes["out"], 2 * p.hidden, 1, 1))


def constant_inputs(p: Plant) -> Value:
    """Two constants: one of them stays for both."""
    x = p.b.transpose(p.input(5, 4), perm=(1, 0, 2))
    w = p.planted("w", 4, 2 * p.hidden, axis=1, lines=2)
    p.cut["w"] = 1, 1, 2 * p.hidden
    h = p.b.sigmoid(p.b.add(p.b.matmul(x, w), p.weight("bias", 2 * p.hidden)))
    weights = [p.weight("wide", 1, 9, 2 * p.hidden), p.weight("r", 1, 9, 3)]
    return p.b.call("gru", (h, *weights), {"hidden_size": 3}).results[0]


def constant_norm(p: Plant) -> Value:
    h = p.b.conv(p.input(3, 4, 4), p.weight("w", p.hidden, 3, 1, 1))
    h = p.b.instance_norm(h, p.planted("scale", p.hidden, axis=0), p.weight("bias", p.hidden))
    return p.b.conv(h, p.weight("reader", p.sizes["out"], p.hidden, 1, 1))


#: What is found, and how many of the planted weights may each lack an element so that nothing is.
FOUND: dict[str, tuple[Structure, tuple[str, ...], int]] = {
    "neuron": (lambda p: neuron(p, "neg"), (ZERO, TWIN, SCALED), 2),
    "curved neuron": (lambda p: neuron(p, "silu"), (ZERO, TWIN), 1),
    "constant neuron": (constant_neuron, (CONSTANT,), 1),
    "constant convolution": (constant_convolution, (CONSTANT,), 1),
    "constant depthwise": (constant_depthwise, (CONSTANT,), 1),
    "constant column of a table": (constant_column, (CONSTANT,), 1),
    "constant inputs of a recurrence": (constant_inputs, (CONSTANT,), 1),
    "constant groups of a norm": (constant_groups, (CONSTANT,), 1),
    "constant channel of a norm": (constant_norm, (CONSTANT,), 1),
    "convolution": (convolution, (ZERO, TWIN, SCALED), 1),
    "transposed convolution": (transposed, (ZERO, TWIN, SCALED), 1),
    "depthwise": (depthwise, (TWIN, SCALED), 2),
    "gate and data": (gated, (TWIN, SCALED), 2),
    "gate without weights": (zero_gate, (ZERO,), 1),
    "embedding": (embedding, (ZERO, TWIN, SCALED), 1),
    "heads": (lambda p: heads(p, False), (TWIN, SCALED), 3),
    "heads spelled out": (lambda p: heads(p, True), (TWIN, SCALED), 3),
    "heads without values": (lambda p: heads(p, False), (ZERO,), 1),
    "heads without values, spelled out": (lambda p: heads(p, True), (ZERO,), 1),
    "joined tables": (joined_tables, (ZERO, TWIN, SCALED), 0),
    "turned heads": (lambda p: heads(p, False, turned=True), (TWIN, SCALED), 3),
    "packed heads": (lambda p: packed_heads(p, "gather"), (ZERO, TWIN), 1),
    "packed heads, split": (lambda p: packed_heads(p, "split"), (ZERO, TWIN), 1),
    "repeated key heads": (repeated_heads, (TWIN, SCALED), 3),
    "repeated key heads without values": (repeated_heads, (ZERO,), 1),
    "key heads": (lambda p: heads(p, False, kv=True), (TWIN, SCALED), 3),
    "key heads without values": (lambda p: heads(p, False, kv=True), (ZERO,), 1),
    "unread head": (unread_head, (ZERO,), 1),
    "lstm": (lambda p: units(p, "lstm"), (ZERO, TWIN), 3),
    "gru": (lambda p: units(p, "gru"), (ZERO, TWIN), 3),
    "rnn": (lambda p: units(p, "rnn"), (ZERO, TWIN), 3),
    "inputs of a recurrence": (unit_inputs, (ZERO, TWIN, SCALED), 1),
    "groups of a norm": (grouped_norm, (TWIN,), 3),
    "batch norm": (batch_norm, (TWIN, SCALED), 4),
    "scale of groups": (scaled_groups, (TWIN, SCALED), 3),
    "scale of a norm": (scaled_norm, (TWIN, SCALED), 3),
    "rms norm": (lambda p: under_norm(p, "rms_norm"), (ZERO,), 1),
    "residual": (residual, (ZERO, TWIN), 2),
    "turned": (turned, (ZERO,), 1),
    "parted": (parted, (ZERO, TWIN, SCALED), 1),
    "flattened": (flattened, (ZERO, TWIN, SCALED), 1),
}
#: What has to stay, though it looks like these.
STAYS: dict[str, tuple[Structure, tuple[str, ...]]] = {
    "a function that is not homogeneous": (lambda p: neuron(p, "silu"), (SCALED,)),
    "a recurrence": (lambda p: units(p, "lstm"), (SCALED,)),
    "a norm with an epsilon": (grouped_norm, (SCALED,)),
    "a mean over channels": (lambda p: under_norm(p, "layer_norm"), (ZERO, TWIN, SCALED)),
    "a mean of squares": (lambda p: under_norm(p, "rms_norm"), (TWIN, SCALED)),
    "another gate": (zero_gate, (TWIN, SCALED)),
}


def built(structure: Structure, kind: str, seed: int, missed: int = -1) -> Plant:
    made = Plant(seed, kind, missed)
    made.done(structure(made))
    return made


def emptied(plant: Plant, kind: str) -> tuple[Module, Context]:
    """The module behind the pass, checked against what it was."""
    made, ctx = plant.module.clone(), Context()
    run_pipeline(made, "dead-weights", ctx)
    verify(made)
    for n in (1, 2):
        x = plant.module.main.inputs[0]
        given = plant.rng.standard_normal((n, *x.shape[1:])).astype(np.float32)  # type: ignore[index]
        assert_same_numbers(plant.module, made, inputs={"x": given})
    again = made.version
    run_pipeline(made, "dead-weights", Context())
    assert made.version == again
    return made, ctx


def widths(module: Module) -> dict[str, tuple[int, ...]]:
    return {w.wanted: w.type.shape for w in module.weights}  # type: ignore[misc]


HITS = [(name, kind, seed) for name, (_, kinds, _) in FOUND.items() for kind in kinds for seed in range(2)]
MISSES = [(name, kind, i) for name, (_, kinds, count) in FOUND.items() for kind in kinds for i in range(count)]


@pytest.mark.parametrize(("name", "kind", "seed"), HITS)
def test_what_is_planted_is_found(name: str, kind: str, seed: int) -> None:
    plant = built(FOUND[name][0], kind, seed)
    made, ctx = emptied(plant, kind)
    found = widths(made)
    for key, (axis, lines, whole) in plant.cut.items():
        assert found[key][axis] == whole - lines, key
    assert set(ctx.stats) <= REMOVED[kind] and all(row["proof"] for row in ctx.records)


@pytest.mark.parametrize(("name", "kind"), [(name, FOUND[name][1][0]) for name in ("lstm", "neuron", "convolution")])
def test_large_weights_are_cut_when_they_are_read(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant = built(FOUND[name][0], kind, 0)
    whole, _ = emptied(plant, kind)
    monkeypatch.setattr(remove, "LARGE", 0)
    made, _ = emptied(plant, kind)
    assert any(isinstance(weight.tensor, LazyTensor) for weight in made.weights)
    for one, other in zip(made.weights, whole.weights, strict=True):
        assert one.key == other.key and np.array_equal(one.tensor.numpy(), other.tensor.numpy())


@pytest.mark.parametrize(("name", "kind", "missed"), MISSES)
def test_a_near_miss_stays(name: str, kind: str, missed: int) -> None:
    plant = built(FOUND[name][0], kind, 5, missed)
    made, ctx = emptied(plant, kind)
    assert not ctx.stats and widths(made) == widths(plant.module)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, (_, kinds) in STAYS.items() for kind in kinds])
def test_what_only_looks_like_it_stays(name: str, kind: str) -> None:
    plant = built(STAYS[name][0], kind, 3)
    made, ctx = emptied(plant, kind)
    assert not ctx.stats and widths(made) == widths(plant.module)


# -------------------------------------------------------------------------------------------------- rows of embeddings


Indices = Callable[[Builder, Value], Value]
ROWS: dict[str, tuple[Indices, int]] = {
    "a clip": (lambda b, x: b.clip(b.cast(x, to=I64), 0, 4), 5),
    "a clip of a sum": (lambda b, x: b.add(b.clip(b.cast(x, to=I64), 0, 4), 2), 7),
    "arg_max": (lambda b, x: b.arg_max(x, axis=1), 6),
    "topk": (lambda b, x: b.topk(x, (2,), axis=1)[1], 6),
    "a remainder": (lambda b, x: b.mod(b.cast(x, to=I64), 3), 3),
    "a flag": (lambda b, x: b.cast(b.greater(x, 0.0), to=I64), 2),
    "a choice": (lambda b, x: b.where(b.greater(x, 0.0), b.arg_max(x, axis=1), 8), 9),
    "the lesser": (lambda b, x: b.min(b.max(b.cast(x, to=I64), 0), 7), 8),
    "a table of indices": (
        lambda b, x: b.gather(b.const(np.array([1, 5, 2, 2, 0, 3])), b.arg_max(x, axis=1), axis=0),
        6,
    ),
    "moved": (lambda b, x: b.reshape(b.transpose(b.clip(b.cast(x, to=I64), 0, 1), perm=(1, 0)), (-1,)), 2),
    "a clip that begins below zero": (lambda b, x: b.clip(b.cast(x, to=I64), -1, 4), 12),
    "a remainder with the dividend's sign": (lambda b, x: b.mod(b.cast(x, to=I64), 3, fmod=True), 12),
    "a difference": (lambda b, x: b.sub(3, b.clip(b.cast(x, to=I64), 0, 4)), 12),
    "all": (lambda b, x: b.clip(b.cast(x, to=I64), 0, 11), 12),
    "clips that cross": (lambda b, x: b.clip(b.cast(x, to=I64), 9, 4), 5),
    "what wraps around": (lambda b, x: b.cast(b.cast(b.cast(x, to=I64), to=U8), to=I64), 12),
    "the values of topk": (lambda b, x: b.topk(b.cast(x, to=I64), (2,), axis=1)[0], 12),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_no_index_reaches_go(name: str) -> None:
    indices, left = ROWS[name]
    plant = Plant(1, ZERO)
    x = plant.input(6)
    module = plant.done(plant.b.gather(plant.weight("table", 12, 3), indices(plant.b, x), axis=0))
    made, ctx = module.clone(), Context()
    run_pipeline(made, "dead-weights", ctx)
    verify(made)
    assert widths(made)["table"] == (left, 3) and ctx.stats["unreached-row"] == 12 - left
    assert_same_numbers(module, made, inputs={"x": np.abs(plant.rng.standard_normal((4, 6))).astype(np.float32)})


def test_a_table_that_something_else_reads_keeps_its_rows() -> None:
    plant = Plant(1, ZERO)
    table = plant.weight("table", 12, 3)
    h = plant.b.gather(table, plant.b.arg_max(plant.input(6), axis=1), axis=0)
    made = plant.done(plant.b.matmul(h, plant.b.transpose(table, perm=(1, 0)))).clone()
    run_pipeline(made, "dead-weights", Context())
    assert widths(made)["table"] == (12, 3)
