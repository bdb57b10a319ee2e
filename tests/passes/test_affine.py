"""Scale and shift on random ways: through data movement, activations and pools, from and to layers of every kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.graph import Module, Value
from anyir.ir.tensor import ArrayTensor, LazyTensor
from anyir.ir.types import BF16, F16, F32, F64, DType, TensorType
from anyir.ir.verify import verify
from anyir.ir.weights import Weight
from anyir.kernels.inputs import sample_inputs
from anyir.passes.affine.affine import affine, rounded, scaled
from anyir.passes.affine.moves import groups
from anyir.tests.support.text import assert_same_numbers, ops, optimised

Step = Callable[[Builder, Value, np.random.Generator], Value]


def array(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType, *, positive: bool = False) -> np.ndarray:
    made = rng.uniform(0.5, 2.0, shape) * (1 if positive else rng.choice([-1.0, 1.0], shape))
    return made.astype(dtype.numpy)


def dims(x: Value) -> tuple[int, ...]:
    return tuple(d for d in x.shape or () if isinstance(d, int))


def layer(b: Builder, x: Value, rng: np.random.Generator) -> Value:
    """A layer that takes data of this rank."""
    shape, dtype = dims(x), x.dtype or F32
    if len(shape) == 2 and rng.random() < 0.5:
        bias = array(rng, (3,), dtype) if rng.random() < 0.5 else None
        turned = bool(rng.random() < 0.5)
        return b.gemm(x, array(rng, (3, shape[1]) if turned else (shape[1], 3), dtype), bias, transB=turned)
    if len(shape) >= 3 and rng.random() < 0.6:
        kernel = (1,) * (len(shape) - 2) if rng.random() < 0.5 else tuple(min(2, d) for d in shape[2:])
        groups = 2 if shape[1] % 2 == 0 and rng.random() < 0.4 else 1
        bias = array(rng, (4,), dtype) if rng.random() < 0.5 else None
        if rng.random() < 0.3:
            return b.conv_transpose(x, array(rng, (shape[1], 4 // groups, *kernel), dtype), bias, groups=groups)
        pads = (1, *[0] * (2 * len(kernel) - 1)) if rng.random() < 0.4 else ()
        return b.conv(x, array(rng, (4, shape[1] // groups, *kernel), dtype), bias, groups=groups, pads=pads)
    if rng.random() < 0.3:
        return norm(b, x, rng)
    y = b.matmul(x, array(rng, (shape[-1], 3), dtype))
    return b.add(y, array(rng, (3,), dtype)) if rng.random() < 0.5 else y


def norm(b: Builder, x: Value, rng: np.random.Generator) -> Value:
    """A norm with scale and bias of its own."""
    shape, dtype = dims(x), x.dtype or F32
    kind = rng.choice(["layer_norm", "rms_norm", "instance_norm", "group_norm"])
    if kind == "rms_norm":
        return b.rms_norm(x, array(rng, shape[-1:], dtype))
    if kind == "layer_norm" or len(shape) < 3:
        return b.layer_norm(x, array(rng, shape[-1:], dtype), array(rng, shape[-1:], dtype))
    more = {"num_groups": 1} if kind == "group_norm" else {}
    vectors = [array(rng, (shape[1],), dtype) for _ in range(2)]
    return b.call(str(kind), (x, *vectors), more).result


def scale(b: Builder, x: Value, rng: np.random.Generator) -> Value:
    """mul, div, add, sub or neg with a constant along one axis, or a batch norm."""
    shape, dtype = dims(x), x.dtype or F32
    axis = int(rng.integers(len(shape)))
    own = tuple(d if i == axis else 1 for i, d in enumerate(shape)) if rng.random() < 0.6 else (1,)
    c = array(rng, own, dtype, positive=bool(rng.random() < 0.7))
    kind = rng.choice(["mul", "mul", "div", "add", "sub", "from", "neg", "batch_norm"])
    if kind == "neg":
        return b.neg(x)
    if kind == "from":
        return b.sub(b.const(c), x)
    if kind == "batch_norm" and len(shape) >= 2:
        vectors = [array(rng, (shape[1],), dtype, positive=i in (0, 3)) for i in range(4)]
        return b.batch_norm(x, *vectors)
    return b.call("mul" if kind == "batch_norm" else str(kind), (x, b.const(c))).result


def _transpose(b: Builder, x: Value, rng: np.random.Generator) -> Value:
    return b.transpose(x, perm=tuple(int(i) for i in rng.permutation(x.rank or 0)))


def _reshape(b: Builder, x: Value, rng: np.random.Generator) -> Value:
    shape = list(dims(x))
    at = int(rng.integers(len(shape)))
    if shape[at] % 2 == 0 and len(shape) < 4:
        return b.reshape(x, (*shape[:at], 2, shape[at] // 2, *shape[at + 1 :]))
    if len(shape) > 2 and at + 1 < len(shape):
        return b.reshape(x, (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]))
    return b.reshape(x, (*shape, 1)) if len(shape) < 4 else x


def _pool(b: Builder, x: Value, rng: np.random.Generator) -> Value:
    if x.rank is None or x.rank < 3:
        return b.relu(x)
    kind = rng.choice(["max_pool", "average_pool", "global_average_pool"])
    if kind == "global_average_pool":
        return b.global_average_pool(x)
    padded = bool(rng.random() < 0.5)
    more = {"count_include_pad": bool(rng.random() < 0.5)} if kind == "average_pool" else {}
    kernel = tuple(min(2, d) for d in dims(x)[2:])
    pads = tuple(int(padded and k > 1) for k in kernel) * 2
    return b.call(str(kind), (x,), {"kernel_shape": kernel, "pads": pads, **more}).result


def _reduce(b: Builder, x: Value, rng: np.random.Generator) -> Value:
    kind = rng.choice(["reduce_mean", "reduce_sum", "reduce_max"])
    axes = ((x.rank or 1) - 1,)
    return b.call(str(kind), (x, axes), {"keepdims": bool(rng.random() < 0.5) or (x.rank or 0) < 3}).result


def _joined(b: Builder, x: Value, rng: np.random.Generator) -> Value:
    axis = int(rng.integers(x.rank or 1))
    return b.concat(x, b.const(array(rng, dims(x), x.dtype or F32)), axis=axis)


def _cut(b: Builder, x: Value, rng: np.random.Generator) -> Value:
    axis = int(rng.integers(x.rank or 1))
    if dims(x)[axis] < 2:
        return x
    first, _ = b.split(x, (1, dims(x)[axis] - 1), axis=axis)
    return first


def _resized(b: Builder, x: Value, rng: np.random.Generator) -> Value:
    if x.rank is None or x.rank < 3:
        return b.abs(x)
    mode = rng.choice(["nearest", "linear", "cubic"] if x.rank == 4 else ["nearest", "linear"])
    return b.resize(x, None, np.array([1.0] * (x.rank - 1) + [1.5], np.float32), mode=str(mode))


def _halved(b: Builder, x: Value, rng: np.random.Generator) -> Value:
    """Two slices that do not overlap; the other one is joined again."""
    axis = int(rng.integers(x.rank or 1))
    size = dims(x)[axis]
    if size < 2:
        return b.prelu(x, b.const(array(rng, (1,), x.dtype or F32)))
    first, second = (b.slice(x, (a,), (e,), (axis,)) for a, e in ((0, 1), (size - 1, size)))
    return b.max(first, b.tanh(second)) if rng.random() < 0.5 else b.concat(b.tanh(second), first, axis=axis)


STEPS: tuple[Step, ...] = (
    _resized,
    _halved,
    _transpose,
    _reshape,
    _pool,
    _reduce,
    _joined,
    _cut,
    lambda b, x, rng: b.relu(x),
    lambda b, x, rng: b.tile(x, (1,) * ((x.rank or 1) - 1) + (2,)) if dims(x)[-1] < 4 else x,
    lambda b, x, rng: b.mul(x, b.reduce_max(b.abs(x), ((x.rank or 1) - 1,), keepdims=True)),
    lambda b, x, rng: b.matmul(x, b.transpose(x, perm=(1, 0))) if x.rank == 2 else b.neg(x),
    lambda b, x, rng: b.leaky_relu(x, alpha=0.25),
    lambda b, x, rng: b.slice(x, (0,), (max(dims(x)[0] - 1, 1),), (0,)),
    lambda b, x, rng: b.expand(x, (2, *dims(x))) if (x.rank or 0) < 4 else x,
    lambda b, x, rng: b.gather(x, 0, axis=0) if (x.rank or 0) > 2 else x,
    lambda b, x, rng: b.add(x, b.const(array(rng, (dims(x)[-1],), x.dtype or F32))),
    lambda b, x, rng: b.pad(x, (0,) * ((x.rank or 1) - 1) + (1,) + (0,) * (x.rank or 1)),
)


def network(seed: int, dtype: DType) -> Module:
    """layer, ways and affines, layer: which affine can go where is left to chance."""
    rng = np.random.default_rng(seed)
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    shape = [(4, 6), (2, 4, 6), (2, 4, 3, 2)][int(rng.integers(3))]
    x = layer(b, graph.add_input(TensorType(dtype, shape), "x"), rng)
    for _ in range(int(rng.integers(1, 4))):
        for _ in range(int(rng.integers(0, 3))):
            x = STEPS[int(rng.integers(len(STEPS)))](b, x, rng)
        x = scale(b, x, rng)
    for _ in range(int(rng.integers(0, 3))):
        x = STEPS[int(rng.integers(len(STEPS)))](b, x, rng)
    outputs = [layer(b, x, rng)] if (x.rank or 0) >= 2 else [x]
    graph.set_outputs(outputs)
    module.add_signature("s", graph, ["x"], ["y"])
    verify(module)
    return module


@pytest.mark.parametrize("seed", range(90))
def test_any_way_keeps_the_numbers(seed: int) -> None:
    dtype = (F32, F64, F32, F16, F32, BF16)[seed % 6]
    module = network(seed, dtype)
    made = optimised(module, "fix(fold-batch-norm,dce)")
    assert_same_numbers(module, made, inputs=sample_inputs(module))
    again = optimised(made, "fold-batch-norm,dce")
    assert str(again) == str(made), "a second run goes on"
    assert len(ops(made)) <= len(ops(module))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 2500))
def test_many_more_ways(seed: int) -> None:
    test_any_way_keeps_the_numbers(seed)


def test_most_of_what_is_there_goes() -> None:
    """On the ways above: a rule set that declines all of it would pass them."""
    kinds = {"mul", "div", "add", "sub", "neg", "batch_norm"}
    before = after = 0
    for seed in range(90):
        module = network(seed, F32)
        before += sum(name in kinds for name in ops(module))
        after += sum(name in kinds for name in ops(optimised(module, "fold-batch-norm,dce")))
    assert after <= 0.55 * before, (before, after)


def test_runs_of_axes_that_hold_the_same_elements() -> None:
    assert groups((2, 12, 5), (2, 3, 4, 5)) == [([0], [0]), ([1], [1, 2]), ([2], [3])]
    assert groups((6, 4), (2, 3, 4, 1)) == [([0], [0, 1]), ([1], [2]), ([], [3])]
    assert groups((3, 1, 4), (3, 4)) == [([0], [0]), ([1, 2], [1])]


def weight_of(values: list[float], dtype: DType = F32) -> Weight:
    return Weight("w", ArrayTensor(np.array(values).astype(dtype.numpy), dtype))


def test_a_slice_that_would_lose_its_digits_is_not_scaled() -> None:
    assert scaled(weight_of([1.0, 2.0]), np.array([1e-30, 1.0])) is not None
    assert scaled(weight_of([1.0, 2.0]), np.array([1e-35, 1.0])) is None
    assert scaled(weight_of([1.0, 2.0]), np.array([3e38, 1.0])) is not None
    assert scaled(weight_of([1.0, 2.0]), np.array([1.0, 3e38])) is None
    assert scaled(weight_of([1.0, 2.0]), np.array([0.0, 1.0])) is not None
    assert scaled(weight_of([1.0, 2.0], F16), np.array([1e-3, 1.0])) is None
    assert scaled(weight_of([1.0, 2.0], F16), np.array([0.25, 4.0])) is not None
    assert scaled(weight_of([1.0, float("nan")]), np.array([1.0, 2.0])) is None


def test_large_weights_that_nobody_has_computed_yet_stay_so() -> None:
    rows = ArrayTensor(np.ones((600, 600), np.float32))
    once = scaled(Weight("w", rows), np.full((1, 600), 2.0))
    assert isinstance(once, LazyTensor)
    twice = scaled(Weight("w", once), np.full((1, 600), 2.0))
    assert isinstance(twice, LazyTensor)
    assert scaled(Weight("w", once), np.full((1, 600), 1e-9)) is None
    np.testing.assert_array_equal(twice.numpy(), np.full((600, 600), 4.0, np.float32))


def test_rounding_tells_what_does_not_fit() -> None:
    assert rounded(np.array([1e-45]), F32) is None
    assert rounded(np.array([1e39]), F32) is None
    assert rounded(np.array([0.1, 0.0]), BF16) is not None


def test_an_affine_forgets_the_axes_along_which_it_is_one_number() -> None:
    assert affine(3, np.full((4, 5), 2.0)).factor.shape == (1, 1, 1)
    assert affine(3, np.arange(1.0, 5.0).reshape(4, 1)).factor.shape == (1, 4, 1)
