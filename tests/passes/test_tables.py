"""Products with flags and what follows a lookup, judged by numpy on every index that an integer type has or nearly has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module, Value
from anyir.ir.types import F32, I8, I16, I32, I64, U8, U16, U32, DType, TensorType
from anyir.kernels.run import run
from anyir.passes.presets import preset
from anyir.tests.support.text import assert_same_numbers, ops, optimised, same_bits

ROWS = 3


def compared(b: Builder, x: Value) -> Value:
    """As JAX writes one_hot: zeros for all that is no place."""
    count = b.const(np.arange(ROWS).astype(x.dtype.numpy))
    return b.cast(b.equal(b.unsqueeze(x, (-1,)), b.reshape(count, (1, 1, ROWS))), to=F32)


def counted(b: Builder, x: Value) -> Value:
    """As ONNX does: negative places count from the end."""
    low, high = (b.const(np.asarray(n, x.dtype.numpy)) for n in (-ROWS, ROWS - 1))
    return b.one_hot(b.clip(x, low, high), b.const(np.asarray(ROWS)), b.const(np.asarray([0, 1], np.float32)))


def embedding(
    dtype: DType, flags: Callable[[Builder, Value], Value] = compared, columns: int = 4
) -> tuple[Module, np.ndarray]:
    """A product with flags, and its matrix."""
    module = Module("embedding")
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(dtype, (sym("B"), sym("S"))), "x")
    b = Builder(graph)
    table = np.random.default_rng(0).normal(size=(ROWS, columns)).astype(np.float32)
    graph.set_outputs([b.matmul(flags(b, x), b.const(table, key="table", role="param"))])
    module.add_signature("main", graph, ["x"], ["y"])
    return module, table


def places(dtype: DType) -> np.ndarray:
    info = np.iinfo(dtype.numpy)
    near = [n for n in range(-ROWS - 2, ROWS + 3) if info.min <= n]
    return np.asarray([[info.min, info.min + 1, *near, info.max - 1, info.max]], dtype.numpy)


@pytest.mark.parametrize("dtype", [I8, I16, I32, I64, U8, U16, U32], ids=str)
def test_places_behind_both_ends_give_zeros(dtype: DType) -> None:
    module, table = embedding(dtype)
    made = optimised(module, preset(1), 1)
    assert set(ops(made)) <= {"cast", "clip", "gather"} and ops(made)[-1] == "gather"
    x = places(dtype)
    inside = (x >= 0) & (x < ROWS)
    wanted = np.where(inside[..., None], table[np.where(inside, x, 0).astype(np.int64)], np.float32(0))
    assert same_bits(run(made, {"x": x})["y"], wanted)
    assert_same_numbers(module, made, exact=True, inputs={"x": x})


def test_places_that_count_from_the_end_keep_doing_so() -> None:
    module, table = embedding(I64, counted)
    made = optimised(module, preset(1), 1)
    assert ops(made) == ["clip", "gather"]
    x = places(I64)
    assert same_bits(run(made, {"x": x})["y"], table[np.clip(x, -ROWS, ROWS - 1)])


def test_what_follows_goes_into_the_table() -> None:
    """Flags, a product, a bias and GELU in its tanh form, written out as flax does: a lookup in GELU(table + bias)."""
    module, _ = embedding(I32)
    graph = module.main
    b = Builder(graph, before=graph.return_node)
    x = b.add(graph.outputs[0], b.const(np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 1, 4)))
    cubic = b.mul(b.add(x, b.mul(b.pow(x, np.float32(3)), np.float32(0.044715))), np.float32(0.7978845834732056))
    graph.set_outputs([b.mul(x, b.mul(b.add(b.tanh(cubic), np.float32(1)), np.float32(0.5)))])
    made = optimised(module, preset(2))
    assert ops(made) == ["clip", "gather"]
    assert_same_numbers(module, made, inputs={"x": places(I32)})


def test_a_row_of_zeros_is_not_bought_at_any_price() -> None:
    """Three rows of ten thousand numbers would become four."""
    module, _ = embedding(I32, columns=10_000)
    assert ops(optimised(module, preset(2)))[-1] == "matmul"
