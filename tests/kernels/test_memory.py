"""A run holds no value after its last use, and kernels make no widened copy of a large tensor."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.graph import Module
from anyir.ir.types import F32, I8, TensorType
from anyir.kernels.run import run

LARGE = (512, 1024)
LARGE_BYTES = 4 * LARGE[0] * LARGE[1]


def chain(length: int, step) -> tuple[Module, list]:
    """`length` ops one after another on one large tensor."""
    module = Module("chain")
    graph = module.add_graph("main")
    value = graph.add_input(TensorType(F32, LARGE), "x")
    b, made = Builder(graph), []
    for _ in range(length):
        value = step(b, value)
        made.append(value)
    graph.set_outputs([value])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    return module, made


def test_values_die_with_their_last_use():
    """When a node runs, only its operand is alive: what came before is gone although the run goes on."""
    module, values = chain(6, lambda b, x: b.neg(x))
    alive: list[weakref.ref] = []
    seen = []

    def observe(array: np.ndarray) -> None:
        seen.append(sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(array))

    run(module, {"x": np.zeros(LARGE, np.float32)}, taps=dict.fromkeys(values, observe))
    assert seen == [0, 0, 0, 0, 0, 0]


def test_a_value_with_two_uses_lives_until_the_second():
    module, values = chain(1, lambda b, x: b.neg(x))
    graph = module.main
    b = Builder(graph)
    late = b.add(b.exp(values[0]), values[0])
    graph.set_outputs([late])
    alive: list[weakref.ref] = []
    counts = []
    taps = {
        values[0]: lambda array: alive.append(weakref.ref(array)),
        late.node.operands[0]: lambda array: counts.append(alive[0]() is not None),
        late: lambda array: counts.append(alive[0]() is not None),
    }
    run(module, {"x": np.ones(LARGE, np.float32)}, taps=taps)
    assert counts == [True, False]


STEPS = {
    "relu": lambda b, x: b.relu(x),
    "sigmoid": lambda b, x: b.sigmoid(x),
    "softmax": lambda b, x: b.softmax(x, axis=-1),
    "layer_norm": lambda b, x: b.layer_norm(x, np.ones(LARGE[1], np.float32), axis=-1),
    "matmul": lambda b, x: b.matmul(x, np.full((LARGE[1], LARGE[1]), 1e-3, np.float32)),
    "quantised": lambda b, x: b.dequantize(b.quantize(x, np.float32(0.1), np.int8(3), to=I8), np.float32(0.1), to=F32),
}


@pytest.mark.parametrize("name", STEPS)
def test_peak_is_operand_and_result(name):
    """Operand, result and buffers; a float64 copy of either would take two tensors more. matmul widens one operand."""
    module, _ = chain(8, STEPS[name])
    x = np.random.default_rng(0).standard_normal(LARGE).astype(np.float32)
    run(module, {"x": x})
    gc.collect()
    tracemalloc.start()
    run(module, {"x": x})
    peak = tracemalloc.get_traced_memory()[1] / LARGE_BYTES
    tracemalloc.stop()
    assert peak < (4.6 if name == "matmul" else 2.6), f"{peak:.1f} tensors at a time"
