"""Random operators from files: deterministic by seed, and right by distribution (Kolmogorov-Smirnov, chi-square, binomial).

Seeds are fixed, so each test either always passes or never; limits are those that a right sampler misses once in 10**6.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from anyir.frontends import onnx as frontend
from anyir.kernels.run import run
from anyir.tests.support import onnx_suite as suite
from onnx import TensorProto, helper

N = 20_000
#: Of the Kolmogorov statistic sqrt(n) D: 2 exp(-2 x**2) = 1e-6.
KOLMOGOROV = math.sqrt(math.log(2e6) / 2)
#: Standard deviations that a normal number exceeds once in 10**6.
SIGMAS = 4.9
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def called(op: str, opset: int, inputs: dict[str, np.ndarray], count: int = 1, **attrs: Any) -> Any:
    """A model of one node."""
    node = helper.make_node(op, list(inputs), [f"y{i}" for i in range(count)], **attrs)
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()
    ]
    outputs = [onnx.ValueInfoProto(name=f"y{i}") for i in range(count)]
    graph = helper.make_graph([node], "random", infos, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def drawn(op: str, opset: int, inputs: dict[str, np.ndarray] | None = None, **attrs: Any) -> np.ndarray:
    return next(iter(run(frontend.read(called(op, opset, inputs or {}, **attrs)), inputs or {}).values()))


def distance(sample: np.ndarray, cdf: Any, step: float) -> float:
    """sqrt(n) times the distance of two distribution functions, less what rounding to `step` may add."""
    points = np.sort(sample.astype(np.float64).ravel())
    wanted = np.vectorize(cdf)(points)
    rank = np.arange(points.size) / points.size
    gap = max(np.abs(wanted - rank).max(), np.abs(wanted - rank - 1 / points.size).max())
    return (gap - step) * math.sqrt(points.size)


def normal_cdf(x: float) -> float:
    return (1 + math.erf((x - 1.5) / (2 * math.sqrt(2)))) / 2


@pytest.mark.parametrize("opset", [1, 22])
@pytest.mark.parametrize("code", FLOATS)
@pytest.mark.parametrize("like", [False, True])
def test_uniform_and_normal(opset: int, code: int, like: bool) -> None:
    if opset == 1 and code == TensorProto.BFLOAT16:
        return  # came with opset 22
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(code))
    inputs = {"x": np.zeros((N // 100, 100), np.int32)} if like else None
    shape: dict[str, Any] = {} if like else {"shape": [N // 100, 100]}
    suffix = "Like" if like else ""
    flat = drawn(f"RandomUniform{suffix}", opset, inputs, dtype=code, low=-1.0, high=3.0, seed=7.0, **shape)
    bell = drawn(f"RandomNormal{suffix}", opset, inputs, dtype=code, mean=1.5, scale=2.0, seed=8.0, **shape)
    step = float(ml_dtypes.finfo(dtype).eps)
    for made, cdf in ((flat, lambda v: min(max((v + 1) / 4, 0.0), 1.0)), (bell, normal_cdf)):
        assert made.dtype == dtype and made.shape == (N // 100, 100)
        assert distance(made, cdf, step) < KOLMOGOROV
    assert flat.astype(float).min() >= -1 and flat.astype(float).max() < 3


@pytest.mark.parametrize("opset", [7, 22])
@pytest.mark.parametrize("code", [TensorProto.INT32, TensorProto.INT64])
def test_multinomial(opset: int, code: int) -> None:
    chances = np.array([[1, 2, 3, 4], [5, 0, 5, 0]]) / 10
    with np.errstate(divide="ignore"):
        made = drawn(
            "Multinomial", opset, {"x": np.log(chances).astype(np.float32)}, sample_size=N, dtype=code, seed=3.0
        )
    assert made.dtype == helper.tensor_dtype_to_np_dtype(code) and made.shape == (2, N)
    for row, chance in zip(made, chances, strict=True):
        counts = np.bincount(row, minlength=4)
        assert not counts[chance == 0].any()
        held = chance > 0
        squares = ((counts - N * chance)[held] ** 2 / (N * chance)[held]).sum()
        freedom = held.sum() - 1
        assert squares < freedom + SIGMAS * math.sqrt(2 * freedom) + SIGMAS**2  # Laurent and Massart (2000), lemma 1


def within(count: int, trials: int, chance: float) -> bool:
    """A binomial count is no farther from its mean than SIGMAS standard deviations."""
    return abs(count - trials * chance) <= SIGMAS * math.sqrt(trials * chance * (1 - chance)) + 1


@pytest.mark.parametrize("opset", [15, 22])
def test_bernoulli(opset: int) -> None:
    for p in (0.0, 0.25, 1.0):
        made = drawn("Bernoulli", opset, {"x": np.full(N, p)}, dtype=TensorProto.BOOL, seed=1.0)
        assert made.dtype == bool and within(int(made.sum()), N, p) and (0 < p < 1 or made.mean() == p)


def test_seeds_decide() -> None:
    def uniform(**attrs: Any) -> list[float]:
        return drawn("RandomUniform", 22, shape=[8], **attrs).tolist()

    assert uniform(seed=4.0) == uniform(seed=4.0) != uniform(seed=5.0)
    assert uniform(seed=0.5) != uniform(seed=0.25)
    assert uniform() == uniform(), "a file without a seed gives the same numbers on every run"
    nodes = [helper.make_node("RandomNormal", [], [name], shape=[4]) for name in "ab"]
    outputs = [onnx.ValueInfoProto(name=name) for name in "ab"]
    module = frontend.read(helper.make_model(helper.make_graph(nodes, "two", [], outputs)))
    first, second = run(module, {}).values()
    assert not np.array_equal(first, second), "two nodes without seeds draw on their own"


# The suite's random cases, on inputs large enough to judge.


def enlarged(case: suite.Case) -> tuple[Any, dict[str, np.ndarray]]:
    """A case with each tensor of its interface repeated along its first axis, inference left to find the rest."""
    model = onnx.ModelProto()
    model.CopyFrom(case.load())
    del model.graph.value_info[:]
    feeds = suite.fed(model, case.sets()[0][0])
    times = N // next(iter(feeds.values())).size
    for info in (*model.graph.input, *model.graph.output):
        dims = info.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_value *= times
    return model, {n: np.concatenate([np.asarray(a)] * times) if np.ndim(a) else a for n, a in feeds.items()}


@pytest.mark.parametrize("name", sorted(n for n in suite.RANDOM if "bernoulli" in n))
def test_bernoulli_of_the_suite(name: str) -> None:
    """The expanded cases hold the schema's body, which compares the wrong way round: it draws 1 with chance 1 - x."""
    case = suite.cases()[name]
    model, feeds = enlarged(case)
    (chances,) = feeds.values()
    (made,) = run(frontend.read(model), feeds).values()
    assert made.dtype == case.sets()[0][1][0].dtype and made.shape == chances.shape
    assert np.isin(made.astype(float), (0, 1)).all()
    for chance in np.unique(chances):
        rows = made[chances == chance]
        assert within(int(rows.sum()), rows.size, float(1 - chance if name.endswith("_expanded") else chance))


@pytest.mark.parametrize("name", sorted(n for n in suite.RANDOM if "dropout" in n))
def test_training_dropout_of_the_suite(name: str) -> None:
    model, feeds = enlarged(suite.cases()[name])
    x, *rest = feeds.values()
    ratio = float(rest[0]) if len(rest) > 1 else 0.5
    check_dropped(x, list(run(frontend.read(model), feeds).values()), ratio)


def check_dropped(x: np.ndarray, made: list[np.ndarray], ratio: float) -> None:
    """Elements are dropped with chance `ratio`, independently of their neighbours, the others scaled up; so says a mask."""
    y, kept = made[0], np.asarray(made[0]) != 0
    np.testing.assert_allclose(
        y[kept], (x / np.float32(1 - ratio))[kept], rtol=2 * np.finfo(y.dtype).eps
    )  # two roundings
    assert within(int((~kept).sum()), kept.size, ratio)
    pairs = (~kept).reshape(-1)[: kept.size // 2 * 2].reshape(-1, 2).all(axis=1)
    assert within(int(pairs.sum()), pairs.size, ratio * ratio)
    if len(made) > 1:
        np.testing.assert_array_equal(made[1].astype(bool), kept)


@pytest.mark.parametrize("opset", [1, 6])
def test_old_dropout_trains_where_it_says_so(opset: int) -> None:
    x = np.random.default_rng(2).uniform(1, 2, (N,)).astype(np.float32)
    model = called("Dropout", opset, {"x": x}, 2, is_test=0, ratio=0.3)
    made = list(run(frontend.read(model), {"x": x}).values())
    check_dropped(x, made, 0.3)
    assert made[1].dtype == np.float32, "below opset 10 the mask has the dtype of the data"


def test_dropout_of_eight_bit_floats() -> None:
    x = np.ones(N, ml_dtypes.float8_e4m3fn)
    feeds = {"x": x, "ratio": np.array(0.5, np.float32), "training": np.array(True)}
    made = list(run(frontend.read(called("Dropout", 22, feeds, 2)), feeds).values())
    assert made[0].dtype == x.dtype and set(made[0].astype(float)) == {0.0, 2.0}
    assert within(int(made[1].sum()), N, 0.5)
