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
CASES |= {
    "tan": ((A,), lambda b, x: b.tan(x), torch.tan),
    "asin": ((A,), lambda b, x: b.asin(b.sin(x)), lambda x: torch.asin(torch.sin(x))),
    "acos": ((A,), lambda b, x: b.acos(b.sin(x)), lambda x: torch.acos(torch.sin(x))),
    "atan": ((A,), lambda b, x: b.atan(x), torch.atan),
    "sinh": ((A,), lambda b, x: b.sinh(x), torch.sinh),
    "cosh": ((A,), lambda b, x: b.cosh(x), torch.cosh),
    "asinh": ((A,), lambda b, x: b.asinh(x), torch.asinh),
    "acosh": ((A,), lambda b, x: b.acosh(b.add(b.exp(x), 1.0)), lambda x: torch.acosh(torch.exp(x) + 1)),
    "atanh": ((A,), lambda b, x: b.atanh(b.tanh(x)), lambda x: torch.atanh(torch.tanh(x))),
    "reduce_max": ((CUBE,), lambda b, x: b.square(b.reduce_max(x, (1,), keepdims=False)), lambda x: x.amax(1) ** 2),
    "reduce_min": ((CUBE,), lambda b, x: b.square(b.reduce_min(x, (0, 2), keepdims=True)), lambda x: x.amin((0, 2)) ** 2),
    "reduce_max of equals": ((A,), lambda b, x: b.reduce_max(b.floor(b.mul(x, 0.0)), (1,), keepdims=False),
                             lambda x: torch.amax(torch.floor(x * 0), 1)),
    "reduce_l1": ((CUBE,), lambda b, x: b.square(b.reduce_l1(x, (1,), keepdims=False)), lambda x: x.abs().sum(1) ** 2),
    "reduce_l2": ((CUBE,), lambda b, x: b.reduce_l2(x, (0, 1), keepdims=False), lambda x: x.norm(dim=(0, 1))),
    "reduce_l2 of zeros": ((CUBE,), lambda b, x: b.reduce_l2(b.mul(x, 0.0), (1,), keepdims=False), lambda x: (x * 0).norm(dim=1)),
    "conv_transpose": (((2, 3, 5, 4), (3, 2, 3, 2), (2,)), lambda b, x, w, z: b.square(b.conv_transpose(x, w, z)),
                       lambda x, w, z: functional.conv_transpose2d(x, w, z) ** 2),
    "conv_transpose in groups": (((2, 4, 5, 4), (4, 3, 3, 3)),
        lambda b, x, w: b.square(b.conv_transpose(x, w, strides=(2, 3), pads=(1, 0, 1, 0), output_padding=(1, 2), groups=2)),
        lambda x, w: functional.conv_transpose2d(x, w, stride=(2, 3), padding=(1, 0), output_padding=(1, 2), groups=2) ** 2),
    "conv_transpose dilated": (((1, 2, 6), (2, 3, 3)),
        lambda b, x, w: b.square(b.conv_transpose(x, w, dilations=(2,), pads=(2, 2))),
        lambda x, w: functional.conv_transpose1d(x, w, dilation=2, padding=2) ** 2),
}  # fmt: skip

IMAGE = (2, 3, 7, 6)

#: Pools; padding that does not count differs from window to window.
CASES |= {
    "average_pool": ((IMAGE,), lambda b, x: b.square(b.average_pool(x, kernel_shape=(3, 2), strides=(2, 3))),
                     lambda x: functional.avg_pool2d(x, (3, 2), (2, 3)) ** 2),
    "average_pool padded": ((IMAGE,), lambda b, x: b.square(b.average_pool(x, kernel_shape=(3, 3), pads=(1,) * 4)),
                            lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False) ** 2),
    "average_pool counting pads": ((IMAGE,),
        lambda b, x: b.square(b.average_pool(x, kernel_shape=(3, 3), strides=(2, 2), pads=(1,) * 4, count_include_pad=True)),
        lambda x: functional.avg_pool2d(x, 3, 2, 1) ** 2),
    "average_pool overhanging": ((IMAGE,),
        lambda b, x: b.square(b.average_pool(x, kernel_shape=(3, 3), strides=(2, 2), pads=(1,) * 4, ceil_mode=True)),
        lambda x: functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False) ** 2),
    "average_pool dilated": ((IMAGE,), lambda b, x: b.square(b.average_pool(x, kernel_shape=(2, 2), dilations=(3, 2))),
        lambda x: functional.conv2d(x, torch.eye(3).double()[:, :, None, None].tile(2, 2) / 4, dilation=(3, 2)) ** 2),
    "average_pool same": (((1, 2, 5),),
        lambda b, x: b.square(b.average_pool(x, kernel_shape=(2,), strides=(2,), auto_pad="same_upper")),
        lambda x: functional.avg_pool1d(x, 2, 2, ceil_mode=True, count_include_pad=False) ** 2),
    "max_pool": ((IMAGE,), lambda b, x: b.square(b.max_pool(x, kernel_shape=(3, 2), strides=(2, 1))),
                 lambda x: functional.max_pool2d(x, (3, 2), (2, 1)) ** 2),
    "max_pool padded": ((IMAGE,),
        lambda b, x: b.square(b.max_pool(x, kernel_shape=(3, 3), strides=(2, 2), pads=(1,) * 4, ceil_mode=True)),
        lambda x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=True) ** 2),
    "max_pool of equals": ((IMAGE,),
        lambda b, x: b.mul(b.max_pool(b.relu(b.sub(x, 1.0)), kernel_shape=(2, 2), strides=(2, 2)), 3.0),
        lambda x: functional.max_pool2d(torch.relu(x - 1), 2) * 3),
    "max_pool dilated": (((2, 3, 9),), lambda b, x: b.square(b.max_pool(x, kernel_shape=(3,), dilations=(2,))),
                         lambda x: functional.max_pool1d(x, 3, 1, dilation=2) ** 2),
    "global_max_pool": ((IMAGE,), lambda b, x: b.square(b.global_max_pool(x)), lambda x: x.amax((2, 3)) ** 2),
    "adaptive_average_pool": ((IMAGE,), lambda b, x: b.square(b.adaptive_average_pool(x, output_size=(3, 2))),
                              lambda x: functional.adaptive_avg_pool2d(x, (3, 2)) ** 2),
    "adaptive_max_pool": ((IMAGE,), lambda b, x: b.square(b.adaptive_max_pool(x, output_size=(3, 2))),
                          lambda x: functional.adaptive_max_pool2d(x, (3, 2)) ** 2),
}  # fmt: skip

HEADS = (2, 2, 3, 4)

#: Ops without a rule: their decompositions have one.
CASES |= {
    "gelu": ((A,), lambda b, x: b.gelu(x), functional.gelu),
    "gelu by tanh": ((A,), lambda b, x: b.gelu(x, approximate="tanh"), lambda x: functional.gelu(x, approximate="tanh")),
    "hard_sigmoid": ((A,), lambda b, x: b.hard_sigmoid(x, alpha=0.5), lambda x: torch.clip(x / 2 + 0.5, 0, 1)),
    "hard_swish": ((A,), lambda b, x: b.hard_swish(b.mul(x, 3.0)), lambda x: functional.hardswish(3 * x)),
    "swish": ((A,), lambda b, x: b.swish(x, alpha=1.5), lambda x: x * torch.sigmoid(1.5 * x)),
    "mish": ((A,), lambda b, x: b.mish(x), functional.mish),
    "selu": ((A,), lambda b, x: b.selu(b.mul(x, 600.0), alpha=1.5, gamma=1.25), lambda x: 1.25 * functional.elu(600 * x, 1.5)),
    "celu": ((A,), lambda b, x: b.celu(b.mul(x, 600.0), alpha=0.5), lambda x: functional.celu(600 * x, 0.5)),
    "thresholded_relu": ((A,), lambda b, x: b.thresholded_relu(x, alpha=0.5), lambda x: functional.threshold(x, 0.5, 0.0)),
    "softsign": ((A,), lambda b, x: b.softsign(x), functional.softsign),
    "prelu": ((A, ROW), lambda b, x, s: b.prelu(x, s), lambda x, s: torch.where(x >= 0, x, s * x)),
    "shrink": ((A,), lambda b, x: b.shrink(x, bias=0.5, lambd=0.5), lambda x: functional.softshrink(x, 0.5)),
    "batch_norm": ((IMAGE, (3,), (3,), (3,), (3,)), lambda b, x, s, z, m, v: b.batch_norm(x, s, z, m, b.exp(v)),
                   lambda x, s, z, m, v: ((x.transpose(1, -1) - m) * s / (v.exp() + 1e-5).sqrt() + z).transpose(1, -1)),
    "layer_norm": ((CUBE, ROW, ROW), lambda b, x, s, z: b.square(b.layer_norm(x, s, z, axis=-1)),
                   lambda x, s, z: functional.layer_norm(x, (4,), s, z) ** 2),
    "rms_norm": ((CUBE, ROW), lambda b, x, s: b.square(b.rms_norm(x, s, axis=-1, epsilon=1e-5)),
                 lambda x, s: functional.rms_norm(x, (4,), s, 1e-5) ** 2),
    "instance_norm": ((IMAGE, (3,), (3,)), lambda b, x, s, z: b.square(b.instance_norm(x, s, z)),
                      lambda x, s, z: functional.instance_norm(x, weight=s, bias=z) ** 2),
    "group_norm": (((2, 4, 5), ROW, ROW), lambda b, x, s, z: b.square(b.group_norm(x, s, z, num_groups=2)),
                   lambda x, s, z: functional.group_norm(x, 2, s, z) ** 2),
    "lp_normalization": ((CUBE,), lambda b, x: b.exp(b.lp_normalization(x, axis=1)),
                         lambda x: functional.normalize(x, dim=1).exp()),
    "lrn": ((IMAGE,), lambda b, x: b.lrn(x, size=3, alpha=0.5), lambda x: functional.local_response_norm(x, 3, 0.5)),
    "reduce_log_sum_exp": ((CUBE,), lambda b, x: b.reduce_log_sum_exp(x, (1,)), lambda x: x.logsumexp(1)),
    "reduce_prod": ((CUBE,), lambda b, x: b.reduce_prod(x, (1,)), lambda x: x.prod(1)),
    "einsum": ((CUBE, (4, 5)), lambda b, x, y: b.square(b.einsum(x, y, equation="abc,cd->bad")),
               lambda x, y: torch.einsum("abc,cd->bad", x, y) ** 2),
    "tile": ((A,), lambda b, x: b.square(b.mul(b.tile(x, (2, 3)), np.arange(12.0))),
             lambda x: (x.tile(2, 3) * torch.arange(12)) ** 2),
    "depth_to_space": (((1, 8, 2, 3),), lambda b, x: b.mul(b.depth_to_space(x, blocksize=2, mode="CRD"), np.arange(6.0)),
                       lambda x: functional.pixel_shuffle(x, 2) * torch.arange(6)),
    "nearest resize": (((1, 2, 3, 3),), lambda b, x: b.mul(b.resize(x, None, (1.0, 1.0, 2.0, 2.0), mode="nearest",
                       coordinate_transformation_mode="asymmetric", nearest_mode="floor"), np.arange(6.0)),
                       lambda x: functional.interpolate(x, scale_factor=2) * torch.arange(6)),
    "linear resize": (((1, 2, 3, 3),), lambda b, x: b.square(b.resize(x, None, (1.0, 1.0, 2.0, 2.0), mode="linear")),
                      lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear") ** 2),
    "attention": ((HEADS, HEADS, HEADS), lambda b, q, k, v: b.square(b.attention(q, k, v, is_causal=True)[0]),
                  lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True) ** 2),
}  # fmt: skip


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
        (lambda b, x: b.global_lp_pool(b.cumprod(x, 1), p=3), "the derivative of cumprod is not known"),
        (
            lambda b, x: b.rnn(
                b.reshape(x, (24, 1, 5)), np.ones((1, 2, 5), np.float32), np.ones((1, 2, 2), np.float32), hidden_size=2
            )[0],
            "the derivative of rnn is not known",
        ),
        (lambda b, x: b.clip(x, b.reduce_max(x, keepdims=False)), "clip with computed bounds"),
        (lambda b, x: b.pad(x, (1,) * 8, mode="reflect"), "constant padding"),
        (lambda b, x: b.cast(x, to=I64), "the derivative of a value of type i64"),
    ],
)
def test_what_is_refused(build: Callable, message: str) -> None:
    module, y, xs = module_of(((2, 3, 4, 5),), build, dtype=F32)
    with pytest.raises(Unsupported, match=message):
        gradients(Builder(module.main), y, xs)
