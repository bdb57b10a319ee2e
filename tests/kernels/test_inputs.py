"""Sample inputs: sizes that suit a model's arithmetic, integers that mean something to it."""

from __future__ import annotations

from typing import Any

import numpy as np
from anyir.driver.check import sample_sets
from anyir.frontends import onnx as frontend
from anyir.ir.graph import Module
from anyir.kernels.inputs import candidate_sizes, sample_inputs


def module_of(text: str) -> Module:
    import onnx

    return frontend.read(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'))


def sizes(module: Module) -> list[tuple[int, ...]]:
    return [next(iter(arrays.values())).shape for arrays in sample_sets(module)]


def test_a_skip_connection_gets_sides_that_it_can_halve() -> None:
    module = module_of("""
        skip (float[N, 1, H, W] x) => (float[N, 1, P, Q] y)
        <float[4] twice = {1.0, 1.0, 2.0, 2.0}, float[0] none = {}>
        {
            a = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
            b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
            c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
            d = Resize (c, none, twice)
            y = Add (b, d)
        }""")
    first, second = sizes(module)
    assert all(side // 4 == 2 * (side // 8) for shape in (first, second) for side in shape[2:])
    assert all(a != b for a, b in zip(first[:1] + first[2:], second[:1] + second[2:], strict=True))


def test_one_batch_under_two_names() -> None:
    module = module_of("""
        states (float[N, 8] x, float[1, M, 8] h) => (float[1, P, 8] y)
        <int64[3] shape = {1, -1, 8}>
        { a = Reshape (x, shape)  b = Concat <axis = 0> (a, h)  y = ReduceSum <keepdims = 1> (b) }""")
    for arrays in sample_sets(module):
        assert arrays["x"].shape[0] == arrays["h"].shape[1]


def test_small_different_sizes_come_first() -> None:
    module = module_of("plain (float[N, L] x) => (float[N, L] y) { y = Relu (x) }")
    base = next(iter(candidate_sizes(module)))
    assert len(set(base.values())) == len(base) == 2
    assert sizes(module)[0] == tuple(base.values())


def test_a_compared_integer_is_one_of_the_constants() -> None:
    module = module_of("""
        rates (float[4] x, int64 rate) => (float[4] y) <int64 high = {16000}, int64 low = {8000}>
        {
            is_high = Equal (rate, high)  is_low = Equal (rate, low)  either = Or (is_high, is_low)
            zero = Sub (x, x)  y = Where (either, x, zero)
        }""")
    assert {int(sample_inputs(module, seed=seed)["rate"]) for seed in range(20)} == {8000, 16000}


def test_masks_are_zero_and_one() -> None:
    module = module_of("""
        masked (float[B, L] x, int64[B, L] attention_mask) => (float[B, L] y)
        { keep = Cast <to = 1> (attention_mask)  y = Mul (x, keep) }""")
    made: dict[str, Any] = sample_inputs(module, sizes={"B": 8, "L": 32})
    assert set(np.unique(made["attention_mask"])) == {0, 1}
