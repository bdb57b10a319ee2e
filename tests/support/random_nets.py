"""Random networks that have something to prune: streams of channels through every op that carries them, seeded.

    net = random_net(17)
    run(net.module, net.feeds)

Where random_module (graphs.py) is for any valid IR, this draws what layers are made of: weights that make channels, ops that
move, join, cut, mix and normalise them, weights that read them. Images [N, C, H, W], sequences [N, T, C] and rows [N, C].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module, Value
from anyir.ir.types import BOOL, F32, I64, TensorType

KEEPING = ("relu", "tanh", "abs", "neg", "silu", "gelu", "leaky_relu", "softsign", "elu", "hard_swish")
MOVING = ("sigmoid", "exp", "softplus", "cos", "hard_sigmoid")


@dataclass
class Net:
    """A module under construction and inputs for it."""

    rng: np.random.Generator
    module: Module = field(default_factory=Module)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.b = Builder(self.module.add_graph("main"))
        self.batch: Any = sym("N") if self.rng.random() < 0.7 else 2

    def pick(self, items: Any) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def weight(self, *shape: int, key: str = "w", scale: float = 0.0) -> Value:
        scale = scale or 1.0 / max(1.0, np.sqrt(np.prod(shape[1:])))
        data = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        return self.b.const(data + np.float32(0.05), key=key, role="param")

    def input(self, *shape: int) -> Value:
        name = f"x{len(self.feeds)}"
        self.feeds[name] = self.rng.standard_normal((2, *shape)).astype(np.float32)
        return self.b.graph.add_input(TensorType(F32, (self.batch, *shape)), name)

    def done(self, *outputs: Value) -> Net:
        self.b.graph.set_outputs(outputs)
        self.module.add_signature("s", self.b.graph, list(self.feeds), [f"y{i}" for i in range(len(outputs))])
        return self


# ------------------------------------------------------------------------------------------------------------ images


def conv(n: Net, x: Value, to: int = 0) -> Value:
    c, to = x.shape[1], to or n.pick((4, 6, 8, 12))  # type: ignore[index]
    groups = n.pick([g for g in (1, 1, 1, 2, 3, 4) if c % g == 0 and to % g == 0])
    bias = n.weight(to, key="b") if n.rng.random() < 0.6 else None
    if n.rng.random() < 0.25:
        w = n.weight(c, to // groups, 3, 3)
        return n.b.conv_transpose(x, w, bias, pads=(1, 1, 1, 1), groups=groups)
    return n.b.conv(x, n.weight(to, c // groups, 3, 3), bias, pads=(1, 1, 1, 1), groups=groups)


def depthwise(n: Net, x: Value) -> Value:
    c, times = x.shape[1], n.pick((1, 1, 2))  # type: ignore[index]
    return n.b.conv(x, n.weight(c * times, 1, 3, 3), n.weight(c * times), pads=(1, 1, 1, 1), groups=c)


def image_norm(n: Net, x: Value) -> Value:
    c = x.shape[1]  # type: ignore[index]
    kind = n.pick(("batch", "instance", "group"))
    scale, bias = n.weight(c), n.weight(c)
    if kind == "batch":
        return n.b.batch_norm(
            x, scale, bias, n.weight(c), n.b.const(n.rng.uniform(0.5, 2, c).astype(np.float32), key="var")
        )
    if kind == "instance":
        return n.b.instance_norm(x, scale, bias)
    return n.b.group_norm(x, scale, bias, num_groups=n.pick([g for g in (1, 2, 3, 4) if c % g == 0]))


def squeeze_excite(n: Net, x: Value) -> Value:
    c = x.shape[1]  # type: ignore[index]
    y = n.b.reduce_mean(x, (2, 3)) if n.rng.random() < 0.5 else n.b.global_average_pool(x)
    y = n.b.relu(n.b.conv(y, n.weight(3, c, 1, 1)))
    return n.b.mul(x, n.b.sigmoid(n.b.conv(y, n.weight(c, 3, 1, 1), n.weight(c))))


def residual(n: Net, x: Value) -> Value:
    return n.b.add(x, n.b.relu(conv(n, x, x.shape[1])))  # type: ignore[index]


def joined(n: Net, x: Value) -> Value:
    other = n.pick((x, conv(n, x), n.b.relu(x)))
    return conv(n, n.b.concat(x, other, axis=1))


def shuffled(n: Net, x: Value) -> Value:
    c, h, w = x.shape[1:]  # type: ignore[index]
    groups = n.pick([g for g in (2, 3, 4) if c % g == 0] or [1])
    y = n.b.transpose(n.b.reshape(x, (-1, groups, c // groups, h, w)), perm=(0, 2, 1, 3, 4))
    return n.b.reshape(y, (0, c, h, w) if n.rng.random() < 0.5 else (-1, c, h, w))


def halves(n: Net, x: Value) -> Value:
    if x.shape[1] % 2:  # type: ignore[index, operator]
        return x
    a, b = n.b.split(x, axis=1, num_outputs=2)
    return n.pick((lambda: n.b.mul(a, n.b.sigmoid(b)), lambda: n.b.concat(b, conv(n, a, a.shape[1]), axis=1)))()  # type: ignore[index]


def cut(n: Net, x: Value) -> Value:
    c = x.shape[1]  # type: ignore[index]
    start, step = int(n.rng.integers(0, c // 2)), n.pick((1, 1, 2))
    if n.rng.random() < 0.3:
        return n.b.slice(x, (-1, 0), (-(2**40), 5), (1, 2), (-1, 1))
    return n.b.slice(x, (start,), (c - int(n.rng.integers(0, 2)),), (1,), (step,))


def taken(n: Net, x: Value) -> Value:
    c = x.shape[1]  # type: ignore[index]
    return n.b.gather(x, n.rng.integers(-c, c, int(n.rng.integers(2, c + 2))), axis=1)


def padded(n: Net, x: Value) -> Value:
    amounts = n.pick(((0, 1, 0, 0, 0, 2, 0, 0), (0, -1, 1, 0, 0, 0, 0, 1), (0, 2, 0, 0, 0, -1, 0, 0)))
    return n.b.pad(x, amounts, np.float32(n.pick((0.0, 0.5))))


def space(n: Net, x: Value) -> Value:
    c, h, w = x.shape[1:]  # type: ignore[index]
    if c % 4 == 0 and n.rng.random() < 0.6:
        return n.b.average_pool(
            n.b.depth_to_space(x, blocksize=2, mode=n.pick(("DCR", "CRD"))), kernel_shape=(2, 2), strides=(2, 2)
        )
    if h % 2 == 0 and w % 2 == 0:
        return n.b.resize(n.b.space_to_depth(x, blocksize=2), None, None, (2, 4 * c, h, w)) if n.batch == 2 else x
    return x


def pooled(n: Net, x: Value) -> Value:
    return n.b.max_pool(x, kernel_shape=(3, 3), pads=(1, 1, 1, 1))


def sized_up(n: Net, x: Value) -> Value:
    y = n.b.resize(x, None, np.asarray([1, 1, 2, 2], np.float32), mode="linear")
    return n.b.average_pool(y, kernel_shape=(2, 2), strides=(2, 2))


def repeated(n: Net, x: Value) -> Value:
    return conv(n, n.b.tile(x, (1, 2, 1, 1)))


def normalised(n: Net, x: Value) -> Value:
    return n.b.lp_normalization(x, axis=1) if n.rng.random() < 0.5 else n.b.div(x, n.b.add(n.b.reduce_l2(x, (1,)), 1.0))


IMAGE_STEPS = (
    conv, conv, depthwise, image_norm, squeeze_excite, residual, joined, shuffled, halves, cut, taken, padded, space,
    pooled, sized_up, repeated, normalised,
)  # fmt: skip


# --------------------------------------------------------------------------------------------------------- sequences


def linear(n: Net, x: Value, to: int = 0) -> Value:
    c, to = x.shape[-1], to or n.pick((6, 8, 12))  # type: ignore[index]
    y = n.b.matmul(x, n.weight(c, to, scale=0.4))
    return n.b.add(y, n.weight(to, key="b")) if n.rng.random() < 0.6 else y


def feed_forward(n: Net, x: Value) -> Value:
    return n.b.add(x, linear(n, n.b.gelu(linear(n, x)), x.shape[-1]))  # type: ignore[index]


def attention(n: Net, x: Value) -> Value:
    """Packed, written out, or whole; as many key heads as query heads, fewer, or one."""
    t, c = x.shape[1:]  # type: ignore[index]
    heads, kv = n.pick(((2, 2), (4, 2), (3, 1), (4, 4)))
    size = 4
    q, k, v = linear(n, x, heads * size), linear(n, x, kv * size), linear(n, x, kv * size)
    if n.rng.random() < 0.4:
        y, *_ = n.b.attention(q, k, v, q_num_heads=heads, kv_num_heads=kv, is_causal=True)
        return n.b.add(x, linear(n, y, c))
    q, k, v = (
        n.b.transpose(n.b.reshape(z, (-1, t, h, size)), perm=(0, 2, 1, 3)) for z, h in ((q, heads), (k, kv), (v, kv))
    )
    if n.rng.random() < 0.5:
        angles = n.rng.uniform(0, 3, (1, t, size // 2)).astype(np.float32)
        caches = [np.broadcast_to(f(angles), (2, t, size // 2)).copy() for f in (np.cos, np.sin)]
        if n.batch == 2:
            q, k = (n.b.rotary_embedding(z, *caches, interleaved=n.rng.random() < 0.5) for z in (q, k))
    if n.rng.random() < 0.5:
        y, *_ = n.b.attention(q, k, v)
    else:
        if 1 < kv < heads:
            k, v = (_expanded(n, z, heads // kv, kv, t, size) for z in (k, v))
        scores = n.b.softmax(n.b.mul(n.b.matmul(q, n.b.transpose(k, perm=(0, 1, 3, 2))), 0.5), axis=-1)
        y = n.b.matmul(scores, v)
    return n.b.add(x, linear(n, n.b.reshape(n.b.transpose(y, perm=(0, 2, 1, 3)), (0, 0, -1)), c))


def _expanded(n: Net, x: Value, times: int, heads: int, t: int, size: int) -> Value:
    wide = n.b.expand(n.b.unsqueeze(x, (2,)), (1, heads, times, t, size))
    return n.b.reshape(wide, (-1, heads * times, t, size))


def recurrent(n: Net, x: Value) -> Value:
    name, direction = n.pick(("lstm", "gru", "rnn")), n.pick(("forward", "reverse", "bidirectional"))
    gates, ways, h, c = {"lstm": 4, "gru": 3, "rnn": 1}[name], 1 + (direction == "bidirectional"), 5, x.shape[-1]  # type: ignore[index]
    weights = [n.weight(ways, gates * h, c), n.weight(ways, gates * h, h), n.weight(ways, 2 * gates * h)]
    states: list[Value | None] = [None] * (1 + (name == "lstm"))
    if n.batch == 2 and n.rng.random() < 0.5:
        states = [n.weight(ways, 2, h) for _ in states]
    made = n.b.call(
        name, (n.b.transpose(x, perm=(1, 0, 2)), *weights, None, *states), {"hidden_size": h, "direction": direction}
    )
    y = n.b.transpose(made.results[0], perm=(2, 0, 1, 3))
    return n.b.reshape(y, (0, 0, ways * h))


def row_norm(n: Net, x: Value) -> Value:
    c = x.shape[-1]  # type: ignore[index]
    if n.rng.random() < 0.5:
        return n.b.rms_norm(x, n.weight(c) if n.rng.random() < 0.7 else None, epsilon=1e-3)
    return n.b.layer_norm(x, n.weight(c), n.weight(c), epsilon=1e-3)


def gated(n: Net, x: Value) -> Value:
    c = x.shape[-1]  # type: ignore[index]
    a, b = n.b.split(linear(n, x, 2 * c), (c, c), axis=-1)
    return n.b.mul(a, n.b.sigmoid(b))


def convolved(n: Net, x: Value) -> Value:
    y = n.b.transpose(x, perm=(0, 2, 1))
    c = y.shape[1]  # type: ignore[index]
    y = n.b.relu(n.b.conv(y, n.weight(c, 1, 3), n.weight(c), pads=(2, 0), groups=c))
    return n.b.transpose(y, perm=(0, 2, 1))


def summed(n: Net, x: Value) -> Value:
    """An einsum that mixes positions, then one that mixes channels."""
    t, c = x.shape[1:]  # type: ignore[index]
    y = n.b.einsum(x, n.weight(t, t), equation="btc,ts->bsc")
    return n.b.einsum(y, n.weight(c, 8), equation="bsc,cd->bsd")


def looped(n: Net, x: Value) -> Value:
    """A body that runs twice over a carried stream, with a hidden layer of its own."""
    c = x.shape[-1]  # type: ignore[index]
    body = n.module.new_region("body")
    inside = Builder(body)
    body.add_input(TensorType(I64, ()), "i")
    again = body.add_input(TensorType(BOOL, ()), "again")
    state = body.add_input(x.type, "state")
    w, v = n.weight(c, 6, scale=0.4), n.weight(6, c, scale=0.4)
    body.set_outputs(
        [inside.identity(again), inside.add(state, inside.matmul(inside.relu(inside.matmul(state, w)), v))]
    )
    return n.b.loop(2, True, x, carried=1, regions=[body])


def looked_up(n: Net, x: Value) -> Value:
    """A row of a table for the largest of the channels."""
    c = x.shape[-1]  # type: ignore[index]
    places = n.b.arg_max(x, axis=2, keepdims=False)
    return n.b.add(x, n.b.gather(n.weight(c + n.pick((0, 3)), c), places, axis=0))  # type: ignore[operator]


SEQUENCE_STEPS = (linear, feed_forward, attention, recurrent, row_norm, gated, convolved, summed, looped, looked_up)


# ---------------------------------------------------------------------------------------------------------- the whole


def pointwise(n: Net, x: Value) -> Value:
    name = n.pick(KEEPING + MOVING)
    y = n.b.call(name, (x,)).result
    if n.rng.random() < 0.3:
        y = n.pick(
            (lambda: n.b.mul(y, 0.5), lambda: n.b.add(y, 0.25), lambda: n.b.clip(y, -1.0, 1.0), lambda: n.b.max(y, x))
        )()
    return y


def random_net(seed: int) -> Net:
    """One input, five to ten steps, a layer that reads the last channels."""
    n = Net(np.random.default_rng(seed))
    steps: tuple[Callable[[Net, Value], Value], ...]
    if seed % 2:
        x, steps = conv(n, n.input(3, 6, 4)), IMAGE_STEPS
    else:
        x, steps = linear(n, n.input(5, 7)), SEQUENCE_STEPS
    for _ in range(int(n.rng.integers(5, 11))):
        step = pointwise if n.rng.random() < 0.3 else n.pick(steps)
        if 2 < x.shape[1 if seed % 2 else -1] < 40:  # type: ignore[index, operator]
            x = step(n, x)
    c = x.shape[1 if seed % 2 else -1]  # type: ignore[index]
    if not seed % 2:
        return n.done(linear(n, x, 3))
    if n.rng.random() < 0.5:
        x = n.b.flatten(x)
        return n.done(n.b.gemm(x, n.weight(x.shape[1], 3), n.weight(3)))  # type: ignore[index, arg-type]
    return n.done(n.b.conv(x, n.weight(3, c, 1, 1)))  # type: ignore[arg-type]
