"""Our kernels of TFLite's quantised operators equal LiteRT's reference kernels in every bit, on generated cases.

Many cases share one file, since starting an interpreter costs more than running it. 100 cases of each operator run always,
5,000 where slow tests are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from anyir.backends.tflite.ops.integer_unary import fixed_parameters
from anyir.backends.tflite.writer import write_legal
from anyir.ir.builder import Builder
from anyir.ir.errors import AnyIRError
from anyir.ir.graph import Module
from anyir.ir.types import I8, I16, U8, DType, TensorType
from anyir.kernels.run import run
from anyir.runtimes import litert

pytest.importorskip("ai_edge_litert")
FEW, MANY, PER_FILE = 100, 5000, 100


class Case(NamedTuple):
    """One node: data (graph inputs), then constants, in the order of its operands; attributes."""

    op: str
    data: list[np.ndarray]
    constants: list[np.ndarray] = []
    attrs: dict = {}
    place: int = 0  # of the data among the operands


Maker = Callable[[np.random.Generator, type], Case]
MAKERS: dict[str, Maker] = {}


def makes(*names: str):
    def register(maker):
        for name in names:
            MAKERS[name] = lambda rng, kind, name=name: maker(rng, kind, f"tfl.q_{name}")
        return maker

    return register


def values(rng, kind, shape) -> np.ndarray:
    """All values, and now and then few of them, so that sums are small or saturate."""
    info = np.iinfo(kind)
    low, high = (info.min, info.max) if rng.random() < 0.7 else sorted(rng.integers(info.min, info.max + 1, 2))
    return rng.integers(low, int(high) + 1, shape).astype(kind)


def scale(rng, low=-9.0, high=1.0) -> float:
    """Any magnitude; powers of two often enough."""
    made = 2.0 ** rng.uniform(low, high)
    return float(np.float32(2.0 ** round(np.log2(made)) if rng.random() < 0.1 else made))


def zero(rng, kind) -> int:
    return 0 if kind is np.int16 else int(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))


def near(rng, wanted: float) -> float:
    """A scale of the result for which most values do not saturate."""
    return float(np.float32(wanted * 2.0 ** rng.uniform(-1, 1.5)))


def shape(rng, most=4, largest=5) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(1, largest + 1, rng.integers(1, most + 1)))


@makes("relu", "relu6", "relu_n1_to_1", "relu_0_to_1", "abs", "elu", "exp", "log", "gelu", "leaky_relu", "hard_swish")
def unary(rng, kind, name):
    x_scale = scale(rng, -16, -9) if kind is np.int16 else scale(rng, -8, -3)
    span = x_scale * (32768 if kind is np.int16 else 128)
    if name == "tfl.q_exp":
        x_scale *= 3 / span if span > 3 else 1
        span = np.exp(min(span, 3))
    wanted = near(rng, span / (32768 if kind is np.int16 else 128))
    extra = {"approximate": bool(rng.random() < 0.5)} if name == "tfl.q_gelu" else {}
    extra |= {"alpha": float(np.float32(rng.uniform(-0.5, 1.5)))} if name == "tfl.q_leaky_relu" else {}
    attrs = {"scales": (float(np.float32(x_scale)), wanted), "zeros": (zero(rng, kind), zero(rng, kind)), **extra}
    return Case(name, [values(rng, kind, shape(rng, 3, 8))], attrs=attrs)


@makes("logistic", "tanh", "softmax", "log_softmax")
def fixed(rng, kind, name):
    x_scale = scale(rng, -16, -10) if kind is np.int16 else scale(rng, -7, 0)
    if kind is np.int16 and rng.random() < 0.3:  # about where a scale begins to count as a power of two
        x_scale = float(np.float32(2.0 ** (rng.integers(-12, -10) + rng.uniform(-2e-3, 2e-3))))
    y_scale, y_zero = fixed_parameters(name, I16 if kind is np.int16 else I8)
    attrs = {"scales": (x_scale, y_scale), "zeros": (zero(rng, kind), y_zero)}
    return Case(name, [values(rng, kind, (int(rng.integers(1, 4)), int(rng.integers(1, 40))))], attrs=attrs)


@makes("add", "sub", "mul", "squared_difference")
def binary(rng, kind, name):
    a, b = scale(rng, -9, 0), scale(rng, -9, 0)
    full = 32768 if kind is np.int16 else 128
    largest = {"tfl.q_mul": a * b * full, "tfl.q_squared_difference": max(a, b) ** 2 * full}.get(name, max(a, b))
    whole = shape(rng)
    other = tuple(d if rng.random() < 0.7 else 1 for d in whole)[rng.integers(0, len(whole)) :]
    attrs = {"scales": (a, b, near(rng, largest)), "zeros": tuple(zero(rng, kind) for _ in range(3))}
    if name != "tfl.q_squared_difference":
        attrs["fused_activation_function"] = str(rng.choice(["NONE", "RELU", "RELU6", "RELU_N1_TO_1"]))
    return Case(name, [values(rng, kind, whole), values(rng, kind, other)], attrs=attrs)


@makes("prelu")
def prelu(rng, kind, name):
    whole = (1, int(rng.integers(1, 6)), int(rng.integers(1, 6)), 3)
    attrs = {"scales": (a := scale(rng, -9, 0), scale(rng, -9, -6), near(rng, a))}
    attrs["zeros"] = (zero(rng, kind), 0 if kind is np.int16 else zero(rng, np.int8), zero(rng, kind))
    return Case(name, [values(rng, kind, whole)], [values(rng, np.int8, (1, 1, 3))], attrs)


@makes("mean", "sum")
def reduction(rng, kind, name):
    whole = shape(rng, 4, 7)
    axes = tuple(sorted(rng.choice(len(whole), rng.integers(1, len(whole) + 1), replace=False).tolist()))
    a = scale(rng)
    count = np.prod([whole[i] for i in axes]) if name == "tfl.q_sum" else 1
    attrs = {"scales": (a, near(rng, a * count)), "zeros": (zero(rng, kind), zero(rng, kind))}
    return Case(name, [values(rng, kind, whole)], attrs=attrs | {"reduced": axes, "keepdims": bool(rng.random() < 0.5)})


def weights(rng, kind, dims, outs, depth, x_scale):
    """Symmetric weights, their scales (one, or one per output), a bias, and a scale for the result."""
    w = rng.integers(-127, 128, dims).astype(np.int8)
    many = np.asarray([scale(rng, -10, -5) for _ in range(outs if rng.random() < 0.7 else 1)], np.float32)
    full = 32768 if kind is np.int16 else 128
    b = rng.integers(-full * 60, full * 60, outs).astype(np.int64 if kind is np.int16 else np.int32)
    return w, many, b, near(rng, x_scale * float(many.max()) * 70 * depth**0.5)


def activation(rng) -> dict:
    return {"fused_activation_function": str(rng.choice(["NONE", "RELU", "RELU6", "RELU_N1_TO_1"]))}


@makes("conv_2d", "depthwise_conv_2d")
def convolution(rng, kind, name):
    depthwise = "depthwise" in name
    n, h, w_, c = (int(v) for v in rng.integers(1, (3, 8, 8, 5)))
    kh, kw = int(rng.integers(1, min(h, 3) + 1)), int(rng.integers(1, min(w_, 3) + 1))
    outs = c * int(rng.integers(1, 3)) if depthwise else int(rng.integers(1, 6))
    x_scale = scale(rng)
    dims = (1, kh, kw, outs) if depthwise else (outs, kh, kw, c)
    w, w_scale, b, y_scale = weights(rng, kind, dims, outs, kh * kw * (1 if depthwise else c), x_scale)
    steps = {key: int(rng.integers(1, 3)) for key in ("stride_w", "stride_h")}
    attrs = {"scales": (x_scale, y_scale), "zeros": (zero(rng, kind), zero(rng, kind)), **activation(rng), **steps}
    attrs |= {"padding": str(rng.choice(["SAME", "VALID"]))} | ({"depth_multiplier": outs // c} if depthwise else {})
    return Case(name, [values(rng, kind, (n, h, w_, c))], [w, b, w_scale], attrs)


@makes("transpose_conv")
def transposed(rng, kind, name):
    n, h, w_, c = (int(v) for v in rng.integers(1, (3, 5, 5, 5)))
    kh, kw, outs = (int(v) for v in rng.integers(1, (4, 4, 6)))
    sh, sw = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    x_scale = scale(rng)
    w, w_scale, b, y_scale = weights(rng, kind, (outs, kh, kw, c), outs, kh * kw * c, x_scale)
    made = np.asarray([n, (h - 1) * sh + kh, (w_ - 1) * sw + kw, outs], np.int32)
    attrs = {"scales": (x_scale, y_scale), "zeros": (zero(rng, kind), zero(rng, kind)), "stride_h": sh, "stride_w": sw}
    return Case(name, [values(rng, kind, (n, h, w_, c))], [made, w, b, w_scale], attrs | activation(rng), place=2)


@makes("fully_connected")
def fully_connected(rng, kind, name):
    *lead, depth = shape(rng, 3, 30) if rng.random() < 0.3 else (int(rng.integers(1, 5)), int(rng.integers(1, 200)))
    outs, x_scale = int(rng.integers(1, 12)), scale(rng)
    w, w_scale, b, y_scale = weights(rng, kind, (outs, depth), outs, depth, x_scale)
    attrs = {"scales": (x_scale, y_scale), "zeros": (zero(rng, kind), zero(rng, kind)), **activation(rng)}
    return Case(name, [values(rng, kind, (*lead, depth))], [w, b, w_scale], attrs | {"keep_num_dims": len(lead) != 1})


@makes("batch_matmul")
def batch_matmul(rng, kind, name):
    m, k, n = (int(v) for v in rng.integers(1, 9, 3))
    flips, batch = [bool(rng.random() < 0.5) for _ in range(2)], int(rng.integers(1, 4))
    a = (batch, k, m) if flips[0] else (batch, m, k)
    b = (batch if rng.random() < 0.5 else 1, *((n, k) if flips[1] else (k, n)))
    scales = scale(rng), scale(rng)
    attrs = {"scales": (*scales, near(rng, scales[0] * scales[1] * (20000 if kind is np.int16 else 70) * k**0.5))}
    attrs |= {"zeros": tuple(zero(rng, kind) for _ in range(3)), "adj_x": flips[0], "adj_y": flips[1]}
    return Case(name, [values(rng, kind, a), values(rng, kind, b)], attrs=attrs)


def pooled(rng, kind, name):
    x = values(rng, kind, tuple(int(v) for v in rng.integers(1, (3, 8, 8, 5))))
    size = [int(rng.integers(1, min(d, 4) + 1)) for d in x.shape[1:3]]
    attrs = {"filter_height": size[0], "filter_width": size[1], "padding": str(rng.choice(["SAME", "VALID"]))}
    return Case(name, [x], attrs=attrs | {key: int(rng.integers(1, 3)) for key in ("stride_w", "stride_h")})


def resized(rng, kind, name):
    x = values(rng, kind, tuple(int(v) for v in rng.integers(1, (3, 8, 8, 5))))
    mode = {0: {}, 1: {"align_corners": True}, 2: {"half_pixel_centers": True}}[int(rng.integers(3))]
    return Case(name, [x], [rng.integers(1, 15, 2).astype(np.int32)], mode)


def requantised(rng, kind, name):
    a = scale(rng)
    to = I16 if kind is np.int16 else (I8, U8)[int(rng.integers(2))]
    same = rng.random() < 0.2
    zeros = (zero(rng, kind), (0 if to is I16 else int(rng.integers(0, 128))))
    zeros = (zeros[0], zeros[0] + 128) if same and to is U8 else zeros
    attrs = {"scales": (a, a if same else near(rng, a)), "zeros": zeros, "to": to}
    return Case(name, [values(rng, kind, shape(rng))], attrs=attrs)


def quantised(rng, kind, name):
    step, to = scale(rng), I16 if kind is np.int16 else (I8, U8)[int(rng.integers(2))]
    x = rng.normal(size=shape(rng)) * step * np.iinfo(to.numpy).max / 2
    x = np.where(rng.random(x.shape) < 0.3, np.round(x / step * 2) * step / 2, x).astype(np.float32)  # ties
    offset = 0 if to is I16 else int(rng.integers(0, 128))
    return Case(name, [x], attrs={"scale": step, "zero": offset, "to": to})


MAKERS |= {
    name: lambda rng, kind, maker=maker, name=name: maker(rng, kind, f"tfl.{name}")
    for name, maker in (
        ("max_pool_2d", pooled),
        ("average_pool_2d", pooled),
        ("resize_bilinear", resized),
        ("resize_nearest_neighbor", resized),
        ("q_quantize", requantised),
        ("quantize", quantised),
    )
}
#: The reference resolver has no ELU, and sums signed values as if they were unsigned: judged by the builtin kernels.
NO_REFERENCE = ("elu", "sum")
ONLY_BYTES = ("exp", "gelu", "relu_n1_to_1", "relu_0_to_1", "elu", "hard_swish", "log_softmax", "squared_difference")
CASES = [
    (name, kind) for name in sorted(MAKERS) for kind in (np.int8, np.int16) if kind is np.int8 or name not in ONLY_BYTES
]


def built(cases: list[Case]) -> tuple[Module, dict[str, np.ndarray]]:
    """A module with a node for each case."""
    module = Module("cases")
    graph = module.add_graph("main")
    b, inputs, results = Builder(graph), {}, []
    for number, case in enumerate(cases):
        data = []
        for place, array in enumerate(case.data):
            inputs[f"x{number}_{place}"] = array
            data.append(graph.add_input(TensorType(DType.of(array.dtype), array.shape), f"x{number}_{place}"))
        named = enumerate(case.constants)  # equal ones are tensors of their own, as their scales differ
        constants = [b.const(array, key=f"c{number}_{i}", role="param") for i, array in named]
        operands = [*constants[: case.place], *data, *constants[case.place :]]
        made = b.call(case.op, operands, case.attrs).result
        results.append(made)
        if case.op in ("tfl.max_pool_2d", "tfl.average_pool_2d", "tfl.resize_bilinear", "tfl.resize_nearest_neighbor"):
            kept = {"scales": (0.5, 0.5), "zeros": (0, 0), "to": data[0].dtype}  # gives the tensors their scale
            results[-1] = b.call("tfl.q_quantize", (made,), kept).result
    graph.set_outputs(results)
    module.add_signature("main", graph, list(inputs), [f"y{i}" for i in range(len(results))])
    return module, inputs


class Batch(NamedTuple):
    """Cases of one file, and what we expect of them."""

    cases: list[Case]
    wanted: dict[str, np.ndarray]
    job: litert.Job


def batches(name: str, kind: type, count: int, folder) -> list[Batch]:
    rng, made = np.random.default_rng([count, sorted(MAKERS).index(name), np.dtype(kind).itemsize]), []
    for number in range(0, count, PER_FILE):
        cases = [MAKERS[name](rng, kind) for _ in range(min(PER_FILE, count - number))]
        module, inputs = built(cases)
        path = folder / f"{name}_{np.dtype(kind)}_{number}.tflite"
        write_legal(module, path)
        job = litert.Job(str(path), inputs, xnnpack=False, reference=name not in NO_REFERENCE)
        made.append(Batch(cases, run(module, inputs), job))
    return made


def judge(batch: Batch, made) -> None:
    assert not isinstance(made, AnyIRError), made
    wrong = [i for i in range(len(batch.cases)) if not np.array_equal(batch.wanted[f"y{i}"], made[f"y{i}"])]
    if wrong:
        ours, theirs = (v[f"y{wrong[0]}"].astype(int) for v in (batch.wanted, made))
        what = f"{len(wrong)} of {len(batch.cases)} cases differ, the first by up to {np.abs(ours - theirs).max()}"
        pytest.fail(f"{what}\n{batch.cases[wrong[0]]}\n{theirs}")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The few cases of all operators, run in one process."""
    folder = tmp_path_factory.mktemp("integer")
    made = {case: batches(*case, FEW, folder) for case in CASES}
    flat = [batch for rows in made.values() for batch in rows]
    return made, dict(zip(map(id, flat), litert.run_many([batch.job for batch in flat]), strict=True))


@pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_equal_to_the_reference_kernels(few, name, kind):
    made, found = few
    for batch in made[name, kind]:
        judge(batch, found[id(batch)])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_equal_to_the_reference_kernels_on_many_cases(name, kind, tmp_path):
    rows = batches(name, kind, MANY, tmp_path)
    for batch, made in zip(rows, litert.run_many([batch.job for batch in rows]), strict=True):
        judge(batch, made)
