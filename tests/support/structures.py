"""Random models made of what exporters write: the structures that an optimiser is for, seeded, with the sizes that it meets.

    made = structured_module(17)          # Generated, as graphs.random_module gives it

A model is a chain of blocks on images or sequences, each written out in one of the ways that frameworks have for it: norms,
activations and attention in small ops, convolutions before batch norms, shape arithmetic around reshapes, pairs of transposes,
slices that are joined again, branches and loops, the same thing computed twice, weights with zero and duplicate rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Graph, Module, Value
from anyir.ir.types import BOOL, F32, F64, I64, TensorType
from anyir.tests.support.graphs import Generated

Block = Callable[[Any, Value], Value]


class Blocks:
    """Builds blocks at the end of one graph; every choice is the generator's."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 5])
        self.module = Module("structures")
        self.b = Builder(self.module.add_graph("main"))
        self.count = 0

    def pick(self, items: Any) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def weight(self, *shape: int, scale: float = 0.5, dead: bool = True) -> Value:
        """A parameter, often with a row or column that is zero, or a number times another."""
        array = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        axis = int(self.chance(0.4))
        if dead and len(shape) > 1 and shape[axis] > 1 and self.chance(0.3):
            rows = np.moveaxis(array, axis, 0)
            rows[int(self.rng.integers(1, shape[axis]))] = np.float32(self.pick((0.0, 1.0, 2.0, -0.25))) * rows[0]
        self.count += 1
        return self.b.const(array, key=f"w{self.count}", role="param")

    def scalar(self, value: float) -> Value:
        shape = self.pick(((), (), (1,)))
        return self.b.const(np.full(shape, value, np.float32))

    def both(self, op: str, x: Value, y: Value) -> Value:
        """A commutative op in either order."""
        pair = (x, y) if self.chance(0.6) else (y, x)
        return self.b.call(op, pair).result

    # On anything.

    def noise(self, x: Value) -> Value:
        """What does nothing, in the many ways of doing nothing."""
        b = self.b
        ways: list[Callable[[], Value]] = [
            lambda: b.identity(x),
            lambda: b.cast(b.cast(x, to=F64), to=F32),
            lambda: b.neg(b.neg(x)),
            lambda: b.mul(x, self.scalar(1.0)),
            lambda: b.add(x, self.scalar(-0.0)),
            lambda: b.reshape(x, b.shape(x)),
            lambda: b.expand(x, b.shape(x)),
            lambda: b.pad(x, (0,) * (2 * x.rank)),
            lambda: b.concat(x, axis=0),
            lambda: b.slice(x, (0,), (2**63 - 1,), (0,)),
            lambda: b.squeeze(b.unsqueeze(x, (1,)), (1,)),
            lambda: b.transpose(b.transpose(x, perm=self.turned(x)), perm=self.turned(x, back=True)),
        ]
        return self.pick(ways)()

    def turned(self, x: Value, back: bool = False) -> tuple[int, ...]:
        perm = (*range(1, x.rank), 0)
        return tuple(int(i) for i in np.argsort(perm)) if back else perm

    def scaled(self, x: Value) -> Value:
        """A chain of multiplications and additions with constants."""
        for _ in range(int(self.rng.integers(1, 4))):
            op = self.pick(("mul", "add", "sub", "div"))
            y = self.scalar(float(self.pick((0.5, 2.0, 3.0, -1.5))))
            x = self.both(op, x, y) if op in ("mul", "add") else self.b.call(op, (x, y)).result
        return x

    def activation(self, x: Value) -> Value:
        b, s = self.b, self.scalar
        ways: list[Callable[[], Value]] = [
            lambda: b.relu(x),
            lambda: self.both("mul", x, b.sigmoid(x)),
            lambda: b.div(self.both("mul", x, b.clip(b.add(x, s(3.0)), 0.0, 6.0)), s(6.0)),
            lambda: b.clip(b.add(b.mul(x, s(0.2)), s(0.5)), 0.0, 1.0),
            lambda: self.both("mul", x, b.hard_sigmoid(x, alpha=1 / 6, beta=0.5)),
            lambda: b.mul(self.both("mul", x, b.add(b.erf(b.div(x, s(2**0.5))), s(1.0))), s(0.5)),
            lambda: self.tanh_gelu(x),
            lambda: b.log(b.add(b.exp(x), s(1.0))),
            lambda: self.both("mul", x, b.tanh(b.softplus(x))),
            lambda: b.where(b.greater(x, s(0.0)), x, b.mul(x, s(0.1))),
            lambda: b.max(x, s(0.0)),
            lambda: b.add(b.relu(x), b.mul(s(-0.25), b.relu(b.neg(x)))),
            lambda: b.div(s(1.0), b.add(s(1.0), b.exp(b.neg(x)))),
        ]
        return self.pick(ways)()

    def tanh_gelu(self, x: Value) -> Value:
        b, s = self.b, self.scalar
        cube = self.pick((lambda: b.pow(x, s(3.0)), lambda: b.mul(x, b.mul(x, x))))()
        inner = b.mul(b.add(x, b.mul(cube, s(0.044715))), s(0.7978845608028654))
        return b.mul(b.mul(x, s(0.5)), b.add(b.tanh(inner), s(1.0)))

    def twice(self, x: Value) -> Value:
        """The same thing computed twice."""
        state = self.rng.bit_generator.state
        first = self.activation(x)
        self.rng.bit_generator.state = state
        return self.both("add", first, self.activation(x))

    def residual(self, x: Value) -> Value:
        return self.both("add", x, self.activation(self.noise(x)))

    # Branches and loops.

    def region(self, name: str, inputs: list[Value], build: Callable[[list[Value]], list[Value]]) -> Graph:
        """A region that takes these values; `build` writes it."""
        graph = self.module.new_region(name)
        taken = [graph.add_input(v.type, v.hint) for v in inputs]
        outer, self.b = self.b, Builder(graph)
        graph.set_outputs(build(taken))
        self.b = outer
        return graph

    def branch(self, x: Value) -> Value:
        """An `if`: of a constant, of a size, or of the data; branches share work."""
        b = self.b
        size = b.squeeze(b.shape(x, start=0, end=1), (0,))
        cond = self.pick(
            (
                lambda: b.const(self.chance(0.5), BOOL),
                lambda: b.equal(size, int(self.rng.integers(1, 4))),
                lambda: b.not_(b.greater(b.reduce_sum(x, None, keepdims=False), 0.0)),
            )
        )()
        state = self.rng.bit_generator.state

        def one(inner: list[Value]) -> list[Value]:
            self.rng.bit_generator.state = state
            return [self.scaled(self.activation(inner[0])), inner[1]]

        def other(inner: list[Value]) -> list[Value]:
            self.rng.bit_generator.state = state
            y = self.activation(inner[0])
            return [self.b.neg(y) if self.chance(0.7) else y, inner[1]]

        outer = self.activation(x) if self.chance(0.5) else x
        regions = [self.region(n, [x, outer, x], f) for n, f in (("then", one), ("else", other))]
        first, second = b.call("if", (cond, x, outer, x), {}, regions).results
        return self.both("add", first, second) if self.chance(0.5) else first

    def loop(self, x: Value) -> Value:
        """A loop of few or none iterations, with what never changes, what nobody needs, what need not be in it."""
        b = self.b
        trip = b.const(int(self.pick((0, 1, 2, 3, 9))), I64)
        kinds = [TensorType(I64, ()), TensorType(BOOL, ()), x.type, x.type, x.type]
        graph = self.module.new_region("body")
        taken = [graph.add_input(t) for t in kinds]
        outer, self.b = self.b, Builder(graph)
        fixed = self.b.tanh(taken[4])
        made = self.b.add(self.b.mul(taken[2], self.scalar(0.5)), fixed)
        stop = taken[1] if self.chance(0.7) else self.b.less(taken[0], 1)
        unused = self.b.exp(taken[3]) if self.chance(0.5) else taken[3]
        graph.set_outputs([stop, made, unused])
        self.b = outer
        return b.call("loop", (trip, None, x, x, x), {"carried": 2}, [graph]).results[0]

    def scan(self, x: Value) -> Value:
        """A running sum along some axis, as a scan in some direction."""
        axis = int(self.rng.integers(x.rank))
        dims = tuple(d for i, d in enumerate(x.shape) if i != axis)
        row = TensorType(F32, dims)
        start = self.b.reduce_sum(x, (axis,), keepdims=False)
        graph = self.module.new_region("body")
        state, item = graph.add_input(row), graph.add_input(row)
        at = Builder(graph)
        total = at.add(state, item)
        graph.set_outputs([total, at.mul(total, at.const(0.125))])
        turn = (int(self.chance(0.3)),)
        attrs = {"carried": 1, "num_scan_inputs": 1, "scan_input_axes": (axis,), "scan_output_axes": (axis,)}
        attrs |= {"scan_input_directions": turn, "scan_output_directions": turn}
        return self.b.call("scan", (start, x), attrs, [graph]).results[1]

    # On images [N, C, H, W].

    def conv(self, x: Value) -> Value:
        b, c = self.b, x.shape[1]
        out, k, groups = int(self.pick((c, c, 6))), int(self.pick((1, 3))), 1
        if self.chance(0.25):
            out, groups = c, c
        y, pad = x, k // 2
        if self.chance(0.3) and pad:
            y, pad = b.pad(x, (0, 0, pad, pad, 0, 0, pad, pad)), 0
        bias = self.weight(out, dead=False) if self.chance(0.5) else None
        w = self.weight(out, c // groups, k, k)
        y = b.conv(y, w, bias, strides=(1, 1), pads=(pad,) * 4, dilations=(1, 1), groups=groups)
        if self.chance(0.6):
            stats = [self.weight(out, dead=False) for _ in range(3)]
            var = self.b.const(
                (np.abs(self.rng.standard_normal(out)) + 0.5).astype(np.float32), key="var", role="param"
            )
            y = b.batch_norm(y, *stats, var, epsilon=1e-5)
        elif self.chance(0.5):
            y = self.both("mul", y, b.const(self.rng.standard_normal((out, 1, 1)).astype(np.float32)))
        return self.activation(y) if self.chance(0.7) else y

    def squeeze_excite(self, x: Value) -> Value:
        b, c = self.b, x.shape[1]
        mean = b.global_average_pool(x) if self.chance(0.5) else b.reduce_mean(x, (2, 3), keepdims=True)
        plain = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
        y = b.relu(b.conv(mean, self.weight(4, c, 1, 1), self.weight(4, dead=False), **plain))
        y = b.conv(y, self.weight(c, 4, 1, 1), self.weight(c, dead=False), **plain)
        return self.both("mul", x, b.hard_sigmoid(y, alpha=0.2, beta=0.5))

    def other_layout(self, x: Value) -> Value:
        b = self.b
        y = self.activation(self.scaled(b.transpose(x, perm=(0, 2, 3, 1))))
        if self.chance(0.4):
            y = b.concat(y, self.activation(y), axis=3)
            y = b.slice(y, (0,), (x.shape[1],), (3,))
        return b.transpose(y, perm=(0, 3, 1, 2))

    def parts(self, x: Value) -> Value:
        """Channels taken apart and joined again."""
        b, c = self.b, x.shape[1]
        at = int(self.rng.integers(1, c))
        if self.chance(0.5):
            low, high = b.split(x, (at, c - at), axis=1, num_outputs=2)
        else:
            low, high = b.slice(x, (0,), (at,), (1,)), b.slice(x, (at,), (2**63 - 1,), (1,))
        if self.chance(0.4):
            low = self.activation(low)
        return b.concat(low, high, axis=1)

    def shuffled(self, x: Value) -> Value:
        """Channels shuffled, or regrouped and back, through reshapes of computed shapes."""
        b, (_, c, h, w) = self.b, x.shape
        batch = b.shape(x, start=0, end=1)
        if c % 2:
            flat = b.reshape(x, b.concat(batch, (c,), (-1,), axis=0))
            return b.reshape(self.activation(flat), b.concat(batch, (c, h, w), axis=0))
        y = b.reshape(x, b.concat(batch, (2, c // 2, h, w), axis=0))
        return b.reshape(b.transpose(y, perm=(0, 2, 1, 3, 4)), (-1, c, h, w))

    # On sequences [N, S, D].

    def norm(self, x: Value) -> Value:
        b, d = self.b, x.shape[-1]
        axes = self.pick(((-1,), (x.rank - 1,)))
        if self.chance(0.3):
            square = b.reduce_mean(b.pow(x, self.scalar(2.0)), axes, keepdims=True)
            y = b.mul(x, b.reciprocal(b.sqrt(b.add(square, self.scalar(1e-5)))))
            return self.both("mul", y, self.weight(d, dead=False))
        away = b.sub(x, b.reduce_mean(x, axes, keepdims=True))
        square = self.pick((lambda: b.pow(away, self.scalar(2.0)), lambda: b.mul(away, away)))()
        y = b.div(away, b.sqrt(b.add(b.reduce_mean(square, axes, keepdims=True), self.scalar(1e-5))))
        return self.both("add", self.both("mul", y, self.weight(d, dead=False)), self.weight(d, dead=False))

    def linear(self, x: Value, out: int = 0) -> Value:
        b, d = self.b, x.shape[-1]
        out = out or d
        if self.chance(0.3):
            flat = b.reshape(x, (-1, d))
            y = b.gemm(flat, self.weight(out, d), self.weight(out, dead=False), transB=True)
            return b.reshape(y, b.concat(b.shape(x, start=0, end=2), (out,), axis=0))
        y = b.matmul(x, self.weight(d, out))
        return self.both("add", y, self.weight(out, dead=False)) if self.chance(0.8) else y

    def mlp(self, x: Value) -> Value:
        y = self.linear(self.activation(self.linear(x, 6)), x.shape[-1])
        return self.both("add", x, y) if self.chance(0.7) else y

    def attention(self, x: Value) -> Value:
        b, d, heads = self.b, x.shape[-1], 2
        size = d // heads
        lead = b.shape(x, start=0, end=2)

        def split(v: Value) -> Value:
            target = (0, 0, heads, size) if self.chance(0.5) else b.concat(lead, (heads, size), axis=0)
            return b.transpose(b.reshape(v, target), perm=(0, 2, 1, 3))

        q, k, v = (split(self.linear(x)) for _ in range(3))
        k = b.transpose(k, perm=(0, 1, 3, 2))
        scores = (
            b.div(b.matmul(q, k), self.scalar(size**0.5))
            if self.chance(0.5)
            else b.matmul(b.mul(q, self.scalar(size**-0.25)), b.mul(k, self.scalar(size**-0.25)))
        )
        if self.chance(0.4):
            bias = b.where(b.greater(b.reduce_max(x, (2,), keepdims=False), 5.0), self.scalar(-1e9), self.scalar(0.0))
            scores = b.add(scores, b.unsqueeze(bias, (1, 2)))
        y = b.transpose(b.matmul(b.softmax(scores, axis=-1), v), perm=(0, 2, 1, 3))
        y = b.reshape(y, b.concat(lead, (d,), axis=0))
        return b.add(x, self.linear(y))

    def glu(self, x: Value) -> Value:
        """A gate beside what it gates."""
        gate, data = self.activation(self.linear(x, 6)), self.linear(x, 6)
        return self.both("add", x, self.linear(self.both("mul", gate, data), x.shape[-1]))

    def looked_up(self, x: Value) -> Value:
        """Rows of a table, some of which no index reaches."""
        b, d = self.b, x.shape[-1]
        places = b.arg_max(x, axis=2, keepdims=False)
        places = self.pick((lambda: places, lambda: b.clip(places, 0, d - 2), lambda: b.mod(places, 2)))()
        return b.add(x, b.gather(self.weight(d + 3, d), places, axis=0))

    def recurrent(self, x: Value) -> Value:
        """A layer of gates over the sequence, with a projection behind it."""
        b, d, size = self.b, x.shape[-1], 5
        name, gates = self.pick((("lstm", 4), ("gru", 3), ("rnn", 1)))
        weights = [self.weight(1, gates * size, n) for n in (d, size)]
        y = b.call(name, (b.transpose(x, perm=(1, 0, 2)), *weights), {"hidden_size": size}).results[0]
        return self.linear(b.transpose(b.squeeze(y, (1,)), perm=(1, 0, 2)), d)

    def rotated(self, x: Value) -> Value:
        """Half of the features negated and swapped, as rotary embeddings do it."""
        b, d = self.b, x.shape[-1]
        half = d // 2
        one, two = b.slice(x, (0,), (half,), (2,)), b.slice(x, (half,), (2**63 - 1,), (2,))
        turned = b.concat(b.neg(two), one, axis=2)
        angle = np.linspace(0, 1, d, dtype=np.float32)
        return b.add(b.mul(x, b.const(np.cos(angle))), b.mul(turned, b.const(np.sin(angle))))


ANY = (
    Blocks.noise, Blocks.noise, Blocks.scaled, Blocks.activation, Blocks.twice, Blocks.residual,
    Blocks.branch, Blocks.loop, Blocks.scan,
)  # fmt: skip
IMAGE = (
    Blocks.conv, Blocks.conv, Blocks.conv, Blocks.squeeze_excite, Blocks.other_layout, Blocks.parts, Blocks.shuffled,
)  # fmt: skip
SEQUENCE = (
    Blocks.norm, Blocks.norm, Blocks.linear, Blocks.mlp, Blocks.attention, Blocks.rotated, Blocks.glu, Blocks.looked_up,
    Blocks.recurrent,
)  # fmt: skip


def structured_module(seed: int, blocks: int = 5) -> Generated:
    """The model of this seed: open batch, and length of sequences, in two of three."""
    made = Blocks(seed)
    is_image = made.chance(0.5)
    open_ = seed % 3 != 0
    shape = (2, 4, 4, 4) if is_image else (2, 3, 4)
    names = ("N",) if is_image else ("N", "S")
    dims = (*map(sym, names), *shape[len(names) :]) if open_ else shape
    x = made.b.graph.add_input(TensorType(F32, dims), "x")
    values = [x]
    for _ in range(blocks):
        pool = (ANY, IMAGE if is_image else SEQUENCE, IMAGE if is_image else SEQUENCE)
        values.append(made.pick(made.pick(pool))(made, values[-1]))
    outputs = [values[-1]]
    if made.chance(0.3):
        outputs.append(values[int(made.rng.integers(1, len(values)))])
    graph = made.b.graph
    graph.set_outputs(outputs)
    made.module.add_signature("serving_default", graph, ["x"], [f"out{i}" for i in range(len(outputs))])
    inputs = {"x": (made.rng.standard_normal(shape) * 1.5).astype(np.float32)}
    return Generated(made.module, inputs, dict(zip(names, shape, strict=False)) if open_ else {})


__all__ = ["structured_module"]
