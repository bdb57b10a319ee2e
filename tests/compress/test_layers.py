"""Errors of layers against numpy on a net whose every number is known; matching, bits, bytes and arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from anyir.compress.layers import (
    Noise,
    arithmetic,
    bits,
    errors,
    facts,
    pair_layers,
    stored_bytes,
    zeros,
)
from anyir.ir.builder import Builder
from anyir.ir.expr import sym
from anyir.ir.graph import Graph, Module, Value
from anyir.ir.types import F16, F32, I4, I8, TensorType
from anyir.kernels.run import run

RNG = np.random.default_rng(3)
W1, W2 = RNG.standard_normal((6, 5)).astype(np.float32), RNG.standard_normal((5, 4)).astype(np.float32)
B1 = RNG.standard_normal(5).astype(np.float32)
X = RNG.standard_normal((8, 6)).astype(np.float32)
SX, SH, S1, S2 = np.float32(0.03), np.float32(0.05), np.float32(0.025), np.float32(0.1)


@dataclass
class Net:
    """x -> matmul w1 + b1 -> relu -> matmul w2, with a function for each weight and each activation."""

    weight: Callable[[Builder, Value, np.float32], Value] = lambda b, w, s: w
    value: Callable[[Builder, Value, np.float32, bool], Value] = lambda b, v, s, signed: v
    relu: bool = True

    def module(self, w1: np.ndarray = W1, w2: np.ndarray = W2, b1: np.ndarray = B1) -> Module:
        module = Module()
        graph = module.add_graph("main")
        x = graph.add_input(TensorType(F32, (sym("N"), 6)), "x")
        b = Builder(graph)
        first = b.matmul(self.value(b, x, SX, True), self.weight(b, module.add_weight("w1", w1), S1))
        offset = b.add(first, module.add_weight("b1", b1))
        hidden = self.value(b, b.relu(offset) if self.relu else offset, SH, False)
        graph.set_outputs([b.matmul(hidden, self.weight(b, module.add_weight("w2", w2), S2))])
        module.add_signature("main", graph, ["x"], ["y"])
        return module


def integers(w: np.ndarray, scale: np.float32) -> np.ndarray:
    return np.clip(np.round(w / scale), -127, 127).astype(np.int8)


def dequantized(b: Builder, w: Value, scale: np.float32) -> Value:
    return b.dequantize(w, scale, np.int8(0), to=F32)


def rounded(b: Builder, v: Value, scale: np.float32, signed: bool) -> Value:
    zero = np.int8(0) if signed else np.int8(-128)
    return b.dequantize(b.quantize(v, scale, zero, to=I8), scale, zero, to=F32)


def static() -> Module:
    return Net(dequantized, rounded).module(integers(W1, S1), integers(W2, S2))


def round_to(x: np.ndarray, scale: float, low: int = -128, high: int = 127) -> np.ndarray:
    return np.clip(np.round(x.astype(np.float64) / scale), low, high) * scale


def db(wanted: np.ndarray, found: np.ndarray) -> float:
    return 10 * math.log10(np.square(wanted).sum() / np.square(wanted - found).sum())


def measured(compressed: Module, batches: Any = None) -> dict[str, Any]:
    dense = Net().module()
    found = errors(dense, compressed, pair_layers(dense, compressed), batches or [{"x": X}])
    return {name: (probe.own.db, probe.total.db) for name, probe in found.items()}


def test_own_and_total_errors_of_a_static_net_are_numpys() -> None:
    w1, w2 = round_to(W1, S1, -127), round_to(W2, S2, -127)
    h = np.maximum(X.astype(np.float64) @ W1 + B1, 0)
    y = h @ W2
    h_own = round_to(np.maximum(round_to(X, SX) @ w1 + B1, 0), SH, 0, 255)
    y_own, y_total = round_to(h, SH, 0, 255) @ w2, h_own @ w2
    found = measured(static())
    assert found["w1"] == pytest.approx((db(h, h_own), db(h, h_own)), abs=1e-3)
    assert found["w2"] == pytest.approx((db(y, y_own), db(y, y_total)), abs=1e-3)
    assert found["w2"][0] != pytest.approx(found["w2"][1], abs=0.1)


def test_batches_are_put_together() -> None:
    whole, parts = measured(static()), measured(static(), [{"x": X[:3]}, {"x": X[3:]}])
    assert parts == {name: pytest.approx(pair) for name, pair in whole.items()}


def test_an_absorbed_relu_is_looked_at_behind_the_rounding() -> None:
    """Rounding to 0..255 clips as relu does, so a net without the relu node passes on the same."""
    absorbed = Net(dequantized, rounded, relu=False).module(integers(W1, S1), integers(W2, S2))
    assert measured(absorbed) == measured(static())


def test_weights_alone_err_by_their_rounding() -> None:
    h = np.maximum(X @ W1.astype(np.float64) + B1, 0)
    own = np.maximum(X @ round_to(W1, S1, -127) + B1, 0)
    only = Net(dequantized).module(integers(W1, S1), integers(W2, S2))
    assert measured(only)["w1"][0] == pytest.approx(db(h, own), abs=1e-3)


def test_dynamic_inputs_are_rounded_as_they_come() -> None:
    def dynamic(b: Builder, v: Value, scale: np.float32, signed: bool) -> Value:
        y, s, z = b.dynamic_quantize(v)
        return b.dequantize(y, s, z, to=F32)

    module = Net(dequantized, dynamic).module(integers(W1, S1), integers(W2, S2))
    found = measured(module)
    assert found["w1"][0] == found["w1"][1] and 20 < found["w1"][0] < 60
    taps: dict[str, np.ndarray] = {}
    dense = Net().module()
    relu = next(dense.all_nodes("relu")).result
    run(dense, {"x": X}, taps={relu: lambda a: taps.setdefault("h", a)})
    h = taps["h"].astype(np.float64)
    scale = h.max() / 255
    assert found["w2"][0] == pytest.approx(db(h @ W2, round_to(h, scale, 0, 255) @ round_to(W2, S2, -127)), abs=0.05)


def test_equal_modules_are_exact_and_pruned_inputs_are_not_measured() -> None:
    assert measured(Net().module()) == {"w1": (math.inf, math.inf), "w2": (math.inf, math.inf)}
    pruned = Net().module(W1[:, 1:], W2[1:], B1[1:])
    found = measured(pruned)
    assert found["w1"] == (None, None)  # its output is narrower
    assert found["w2"][0] is None and found["w2"][1] is not None


def test_pruned_layers_are_compared_in_the_channels_that_they_have() -> None:
    """own: the kept inputs as they were; total: the pruned net's. The lost unit is what is missing."""
    kept = [0, 2, 3, 4]
    pruned = Net().module(W1[:, kept], W2[kept], B1[kept])
    dense = Net().module()
    probes = errors(dense, pruned, pair_layers(dense, pruned), [{"x": X}], {"w1": kept})
    h = np.maximum(X @ W1.astype(np.float64) + B1, 0)
    lost = db(h @ W2, h[:, kept] @ W2[kept])
    assert (probes["w1"].own.db, probes["w1"].total.db) == (math.inf, math.inf)
    assert (probes["w2"].own.db, probes["w2"].total.db) == pytest.approx((lost, lost), abs=1e-3)


def test_layers_are_matched_by_weight_and_the_gone_are_told() -> None:
    dense, compressed = Net().module(), static()
    pairs = pair_layers(dense, compressed)
    assert [(p.name, p.before is not None, p.after is not None) for p in pairs] == [
        ("w1", True, True),
        ("w2", True, True),
    ]
    last = next(reversed(list(compressed.all_nodes("matmul"))))
    last.replace(compressed.signature.graph.outputs[0].node.operands[0])
    gone = pair_layers(dense, compressed)[-1]
    assert gone.name == "w2" and gone.after is None
    assert facts(gone, {"N": 1}).arithmetic == "removed" and facts(gone, {"N": 1}).macs == (20, 0)


def test_bits_bytes_zeros_and_work() -> None:
    dense, compressed = Net().module(), static()
    first, second = (next(m.all_nodes("matmul")) for m in (dense, compressed))
    assert (bits(first), bits(second)) == (32, 8)
    assert (stored_bytes(first), stored_bytes(second)) == (6 * 5 * 4, 6 * 5 + 4 + 1)
    row = facts(pair_layers(dense, compressed)[0], {"N": 2})
    assert row.macs == (60, 60) and row.bytes == (120, 35) and row.bits == (32, 8)
    half = W1.copy()
    half[:3] = 0
    assert zeros(next(Net().module(half).all_nodes("matmul"))) == 0.5
    assert zeros(next(Net(dequantized).module(integers(half, S1), integers(W2, S2)).all_nodes("matmul"))) >= 0.5


def first_layer(**net: Any) -> str:
    weights = net.pop("weights", integers(W1, S1))
    return arithmetic(next(Net(**net).module(weights, W2 if weights is W1 else integers(W2, S2)).all_nodes("matmul")))


def test_what_a_layer_computes_in() -> None:
    assert first_layer(weights=W1) == "float"
    assert first_layer(weight=dequantized) == "float (i8 weights)"
    assert first_layer(weight=dequantized, value=rounded) == "int8"
    last = list(static().all_nodes("matmul"))[-1]
    assert arithmetic(last) == "int8, float result"
    assert first_layer(weights=W1, value=rounded) == "float"
    half = Net(lambda b, w, s: b.cast(w, to=F32)).module(W1.astype(np.float16), W2.astype(np.float16))
    node = next(half.all_nodes("matmul"))
    assert bits(node) == 16 and arithmetic(node) == f"float ({F16} weights)"


def test_four_bit_weights_are_unpacked() -> None:
    module = Module()
    graph: Graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, (2, 6)), "x")
    b = Builder(graph)
    w = module.add_weight("w", np.zeros((6, 5), I4.numpy))
    product = b.matmul(rounded(b, x, SX, True), b.dequantize(w, np.float32(1), None, to=F32))
    graph.set_outputs([product])
    assert arithmetic(product.node) == "float (i4 weights)" and bits(product.node) == 4


def test_noise_in_decibels() -> None:
    noise = Noise()
    assert noise.db is None
    noise.add(np.array([3.0, 4.0]), np.array([3.0, 4.0]))
    assert noise.db == math.inf
    noise.add(np.array([0.0]), np.array([0.5]))
    assert noise.db == pytest.approx(20)
    dead = Noise()
    dead.add(np.zeros(2), np.ones(2))
    assert dead.db == -math.inf
