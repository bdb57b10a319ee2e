"""Derivatives on the graph against PyTorch's, in float64; every rule of the table has a case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import Unsupported
from anyir.ir.graph import Module, Value
from anyir.ir.types import F32, F64, I64, TensorType
from anyir.ir.verify import verify
from anyir.kernels.run import run
from anyir.passes.autodiff import gradients, recomputed
from anyir.passes.vjp import RULES

torch = pytest.importorskip("torch")
functional = torch.nn.functional

A, B, ROW, CUBE = (3, 4), (4, 2), (4,), (2, 3, 4)

#: Per case: the shapes of the operands, the graph, and the same in PyTorch.
CASES: dict[str, tuple[tuple[tuple[int, ...], ...], Callable, Callable]] = {
    "add": ((A, ROW), lambda b, x, y: b.add(x, y), torch.add),
    "sub": ((ROW, A), lambda b, x, y: b.sub(x, y), torch.sub),
    "mul": ((A, (3, 1)), lambda b, x, y: b.mul(x, y), torch.mul),
    "div": ((A, (1, 4)), lambda b, x, y: b.div(x, y), torch.div),
    "pow": ((A, A), lambda b, x, y: b.pow(b.exp(x), y), lambda x, y: torch.exp(x) ** y),
    "pow by a number": ((A,), lambda b, x: b.pow(x, 3.0), lambda x: x**3),
    "pow by an integer": ((A,), lambda b, x: b.pow(x, np.array(2, np.int64)), lambda x: x**2),
    "max": ((A, ROW), lambda b, x, y: b.max(x, y), torch.maximum),
    "min": ((A, ROW), lambda b, x, y: b.min(x, y), torch.minimum),
    "where": ((A, A), lambda b, x, y: b.where(b.greater(x, y), x, b.mul(y, y)), lambda x, y: torch.where(x > y, x, y * y)),
    "clip": ((A,), lambda b, x: b.clip(x, -0.5, 0.5), lambda x: torch.clip(x, -0.5, 0.5)),
    "floor": ((A,), lambda b, x: b.mul(b.floor(x), x), lambda x: torch.floor(x) * x),
    "ceil": ((A,), lambda b, x: b.mul(b.ceil(x), x), lambda x: torch.ceil(x) * x),
    "round": ((A,), lambda b, x: b.mul(b.round(x), x), lambda x: torch.round(x) * x),
    "trunc": ((A,), lambda b, x: b.mul(b.trunc(x), x), lambda x: torch.trunc(x) * x),
    "sign": ((A,), lambda b, x: b.mul(b.sign(x), x), lambda x: torch.sign(x) * x),
    "neg": ((A,), lambda b, x: b.neg(x), torch.neg),
    "identity": ((A,), lambda b, x: b.identity(x), lambda x: x * 1),
    "cast": ((A,), lambda b, x: b.cast(b.cast(x, to=F32), to=F64), lambda x: x.float().double()),
    "exp": ((A,), lambda b, x: b.exp(x), torch.exp),
    "log": ((A,), lambda b, x: b.log(b.square(x)), lambda x: torch.log(x * x)),
    "square": ((A,), lambda b, x: b.square(x), torch.square),
    "sqrt": ((A,), lambda b, x: b.sqrt(b.exp(x)), lambda x: torch.sqrt(torch.exp(x))),
    "rsqrt": ((A,), lambda b, x: b.rsqrt(b.exp(x)), lambda x: torch.rsqrt(torch.exp(x))),
    "reciprocal": ((A,), lambda b, x: b.reciprocal(x), torch.reciprocal),
    "abs": ((A,), lambda b, x: b.abs(x), torch.abs),
    "sin": ((A,), lambda b, x: b.sin(x), torch.sin),
    "cos": ((A,), lambda b, x: b.cos(x), torch.cos),
    "log1p": ((A,), lambda b, x: b.log1p(b.square(x)), lambda x: torch.log1p(x * x)),
    "expm1": ((A,), lambda b, x: b.expm1(x), torch.expm1),
    "tanh": ((A,), lambda b, x: b.tanh(x), torch.tanh),
    "sigmoid": ((A,), lambda b, x: b.sigmoid(x), torch.sigmoid),
    "softplus": ((A,), lambda b, x: b.softplus(x), functional.softplus),
    "relu": ((A,), lambda b, x: b.relu(x), torch.relu),
    "relu6": ((A,), lambda b, x: b.relu6(b.mul(x, b.const(np.asarray(5, x.dtype.numpy)))), lambda x: functional.relu6(5 * x)),
    "silu": ((A,), lambda b, x: b.silu(x), functional.silu),
    "erf": ((A,), lambda b, x: b.erf(x), torch.erf),
    "leaky_relu": ((A,), lambda b, x: b.leaky_relu(x, alpha=0.25), lambda x: functional.leaky_relu(x, 0.25)),
    "elu": ((A,), lambda b, x: b.elu(x, alpha=0.5), lambda x: functional.elu(x, 0.5)),
    "matmul": ((A, B), lambda b, x, y: b.matmul(x, y), torch.matmul),
    "matmul of a batch": ((CUBE, B), lambda b, x, y: b.matmul(x, y), torch.matmul),
    "matmul of batches": (((5, 1, 3, 4), (2, 4, 3)), lambda b, x, y: b.matmul(x, y), torch.matmul),
    "matmul of vectors": ((ROW, ROW), lambda b, x, y: b.matmul(x, y), torch.matmul),
    "matmul by a vector": ((CUBE, ROW), lambda b, x, y: b.matmul(x, y), torch.matmul),
    "matmul of a vector": ((ROW, (5, 4, 2)), lambda b, x, y: b.matmul(x, y), torch.matmul),
    "reduce_sum": ((CUBE,), lambda b, x: b.reduce_sum(b.square(x), (1,), keepdims=False), lambda x: (x * x).sum(1)),
    "reduce_mean": ((CUBE,), lambda b, x: b.reduce_mean(b.square(x), (0, -1), keepdims=True), lambda x: (x * x).mean((0, 2))),
    "mean of all": ((CUBE,), lambda b, x: b.reduce_mean(b.square(x), keepdims=False), lambda x: (x * x).mean()),
    "global_average_pool": (((2, 3, 4),), lambda b, x: b.global_average_pool(b.square(x)), lambda x: (x**2).mean(2, True)),
    "reduce_sum_square": ((CUBE,), lambda b, x: b.reduce_sum_square(x, (2,), keepdims=False), lambda x: (x * x).sum(2)),
    "softmax": ((CUBE,), lambda b, x: b.square(b.softmax(x, axis=1)), lambda x: torch.softmax(x, 1) ** 2),
    "log_softmax": ((CUBE,), lambda b, x: b.square(b.log_softmax(x, axis=-1)), lambda x: torch.log_softmax(x, 2) ** 2),
    "reshape": ((CUBE,), lambda b, x: b.square(b.reshape(x, (4, -1))), lambda x: x.reshape(4, -1) ** 2),
    "flatten": ((CUBE,), lambda b, x: b.square(b.flatten(x, axis=1)), lambda x: x.flatten(1) ** 2),
    "squeeze": (((3, 1, 4),), lambda b, x: b.square(b.squeeze(x, (1,))), lambda x: x.squeeze(1) ** 2),
    "unsqueeze": ((A,), lambda b, x: b.square(b.unsqueeze(x, (0, -1))), lambda x: x[None, :, :, None] ** 2),
    "transpose": ((CUBE,), lambda b, x: b.matmul(b.transpose(x, perm=(1, 2, 0)), np.eye(2)), lambda x: x.permute(1, 2, 0)),
    "expand": (((3, 1),), lambda b, x: b.square(b.expand(x, (2, 3, 4))), lambda x: x.expand(2, 3, 4) ** 2),
    "concat": ((A, (3, 2)), lambda b, x, y: b.square(b.concat(x, y, axis=1)), lambda x, y: torch.cat([x, y], 1) ** 2),
    "slice": ((CUBE,), lambda b, x: b.square(b.slice(x, (1, -1), (3, -4), (1, 2), (1, -2))), lambda x: x[:, 1:3, [3, 1]] ** 2),
    "split": ((A,), lambda b, x: b.square(b.split(x, (1, 3), axis=1)[1]), lambda x: x[:, 1:] ** 2),
    "pad": ((A,), lambda b, x: b.square(b.pad(x, (1, 0, 2, 3))), lambda x: functional.pad(x, (0, 3, 1, 2)) ** 2),
    "gather": ((CUBE,), lambda b, x: b.square(b.gather(x, np.array([[0, 2], [2, 1]]), axis=1)),
               lambda x: x[:, [[0, 2], [2, 1]]] ** 2),
    "gather of rows": ((A,), lambda b, x: b.square(b.gather(x, np.array([2, 2, -3]))), lambda x: x[[2, 2, 0]] ** 2),
    "used twice": ((A,), lambda b, x: b.mul(b.sin(x), b.add(x, x)), lambda x: torch.sin(x) * (x + x)),
}  # fmt: skip


def gemm_case(left: bool, right: bool) -> tuple:
    shapes = ((4, 3) if left else (3, 4), (2, 4) if right else (4, 2), (2,))

    def build(b: Builder, x: Value, y: Value, z: Value) -> Value:
        return b.square(b.gemm(x, y, z, alpha=0.5, beta=2.0, transA=left, transB=right))

    def peer(x: Any, y: Any, z: Any) -> Any:
        return (0.5 * (x.T if left else x) @ (y.T if right else y) + 2 * z) ** 2

    return shapes, build, peer


CASES |= {f"gemm {a} {b}": gemm_case(a, b) for a in (False, True) for b in (False, True)}

#: strides, pads (begins, ends), dilations, groups, input and filter
CONVS = {
    "plain": ((1, 1), (0, 0, 0, 0), (1, 1), 1, (2, 3, 6, 5), (4, 3, 3, 2)),
    "padded": ((1, 1), (1, 0, 1, 2), (1, 1), 1, (2, 3, 6, 5), (4, 3, 3, 2)),
    "strided": ((2, 3), (1, 1, 1, 1), (1, 1), 1, (2, 3, 8, 7), (4, 3, 3, 3)),
    "dilated": ((1, 1), (2, 0, 2, 0), (2, 1), 1, (1, 3, 7, 5), (2, 3, 3, 2)),
    "groups": ((2, 1), (1, 1, 1, 1), (1, 1), 2, (2, 4, 6, 5), (6, 2, 3, 3)),
    "1-d": ((3,), (0, 0), (1,), 1, (2, 3, 9), (2, 3, 2)),
}


def conv_case(name: str) -> tuple:
    strides, pads, dilations, groups, image, weight = CONVS[name]
    count = len(strides)

    def build(b: Builder, x: Value, w: Value, z: Value) -> Value:
        return b.square(b.conv(x, w, z, strides=strides, pads=pads, dilations=dilations, groups=groups))

    def peer(x: Any, w: Any, z: Any) -> Any:
        wide = [(pads[i], pads[count + i]) for i in reversed(range(count))]
        x = functional.pad(x, [p for pair in wide for p in pair])
        run_conv = functional.conv1d if count == 1 else functional.conv2d
        return run_conv(x, w, z, stride=strides, dilation=dilations, groups=groups) ** 2

    return (image, weight, (weight[0],)), build, peer


CASES |= {f"conv {name}": conv_case(name) for name in CONVS}
CASES["conv same"] = (
    ((2, 3, 7, 8), (4, 3, 3, 3)),
    lambda b, x, w: b.square(b.conv(x, w, strides=(2, 2), auto_pad="same_upper")),
    lambda x, w: functional.conv2d(functional.pad(x, (0, 1, 1, 1)), w, stride=2) ** 2,
)


def module_of(shapes: Any, build: Callable, *, dtype: Any = F64) -> tuple[Module, Value, list[Value]]:
    module = Module("case")
    graph = module.add_graph("main")
    xs = [graph.add_input(TensorType(dtype, shape), f"x{i}") for i, shape in enumerate(shapes)]
    return module, build(Builder(graph), *xs), xs


def finished(module: Module, xs: list[Value], outputs: list[Value]) -> Module:
    module.main.set_outputs(outputs)
    names = [f"y{i}" for i in range(len(outputs))]
    module.add_signature("serving_default", module.main, [v.hint for v in xs], names)
    verify(module)
    return module


def values(shapes: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(17)
    return [rng.uniform(-2, 2, shape) for shape in shapes]


@pytest.mark.parametrize("name", CASES)
def test_as_torch(name: str) -> None:
    shapes, build, peer = CASES[name]
    module, y, xs = module_of(shapes, build)
    finished(module, xs, [y, *gradients(Builder(module.main), y, xs)])
    arrays = values(shapes)
    made = list(run(module, arrays).values())
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    wanted = peer(*leaves)
    wanted.sum().backward()
    limit = 1e-5 if name == "cast" else 1e-11  # the derivative of what was rounded to float32
    np.testing.assert_allclose(made[0].reshape(-1), wanted.detach().numpy().reshape(-1), rtol=limit)
    for leaf, found in zip(leaves, made[1:], strict=True):
        assert found.dtype == np.float64
        gradient = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
        np.testing.assert_allclose(found, gradient, rtol=limit, atol=limit)


def test_every_rule_has_a_case() -> None:
    seen = set()
    for shapes, build, _ in CASES.values():
        module, _, _ = module_of(shapes, build)
        seen |= {node.name for node in module.main.nodes()}
    assert set(RULES) <= seen


def test_open_dims() -> None:
    """The batch is not known when the graph is differentiated."""
    n = sym("N")

    def build(b: Builder, x: Value, w: Value) -> Value:
        hidden = b.tanh(b.matmul(x, w))
        return b.reduce_mean(b.mul(hidden, b.reshape(b.reshape(hidden, (-1,)), (-1, 2))), keepdims=False)

    module, y, xs = module_of(((n, 4), (4, 2)), build)
    finished(module, xs, gradients(Builder(module.main), y, xs))
    for rows in (1, 5):
        arrays = values(((rows, 4), (4, 2)))
        leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
        (torch.tanh(leaves[0] @ leaves[1]) ** 2).mean().backward()
        for leaf, found in zip(leaves, run(module, arrays).values(), strict=True):
            np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-11)


def test_what_y_does_not_depend_on() -> None:
    module, y, xs = module_of((A, A), lambda b, x, _: b.mul(x, x))
    finished(module, xs, gradients(Builder(module.main), y, xs))
    arrays = values((A, A))
    first, second = run(module, arrays).values()
    np.testing.assert_allclose(first, 2 * arrays[0])
    np.testing.assert_array_equal(second, np.zeros(A))


def test_the_derivative_by_a_value_in_between() -> None:
    """Free values do not depend on each other, though the graph computes one from another."""
    kept: list[Value] = []

    def build(b: Builder, x: Value) -> Value:
        kept.append(b.mul(x, x))
        return b.mul(kept[0], x)

    module, y, xs = module_of((A,), build)
    by_both = gradients(Builder(module.main), y, [kept[0], xs[0]])
    by_x = gradients(Builder(module.main), y, xs)
    finished(module, xs, [*by_both, *by_x])
    (x,) = arrays = values((A,))
    made = list(run(module, arrays).values())
    for found, wanted in zip(made, (x, x * x, 3 * x * x), strict=True):
        np.testing.assert_allclose(found, wanted)


def test_second_derivatives() -> None:
    module, y, xs = module_of((A,), lambda b, x: b.tanh(x))
    b = Builder(module.main)
    (once,) = gradients(b, y, xs)
    finished(module, xs, gradients(b, once, xs))
    (x,) = arrays = values((A,))
    t = np.tanh(x)
    np.testing.assert_allclose(next(iter(run(module, arrays).values())), -2 * t * (1 - t * t), rtol=1e-10)


def test_recomputed() -> None:
    module, y, xs = module_of((A, A), lambda b, x, z: b.mul(b.sin(x), b.exp(z)))
    b = Builder(module.main)
    other = b.mul(xs[1], 2.0)
    moved = recomputed(b, y, xs, {xs[0]: other})
    sines = [node for node in module.main.nodes() if node.name in ("sin", "exp")]
    assert [node.name for node in sines] == ["sin", "exp", "sin"]
    finished(module, xs, [moved])
    x, z = arrays = values((A, A))
    np.testing.assert_allclose(next(iter(run(module, arrays).values())), np.sin(2 * z) * np.exp(z))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda b, x: b.lrn(x, size=3), "the derivative of lrn is not known"),
        (lambda b, x: b.clip(x, b.reduce_max(x, keepdims=False)), "clip with computed bounds"),
        (lambda b, x: b.pad(x, (1,) * 8, mode="reflect"), "constant padding"),
        (lambda b, x: b.cast(x, to=I64), "the derivative of a value of type i64"),
    ],
)
def test_what_is_refused(build: Callable, message: str) -> None:
    module, y, xs = module_of(((2, 3, 4, 5),), build, dtype=F32)
    with pytest.raises(Unsupported, match=message):
        gradients(Builder(module.main), y, xs)
