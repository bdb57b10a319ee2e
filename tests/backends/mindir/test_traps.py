"""Where MindSpore's own kernels give other numbers, or none: what is written instead is judged by MindSpore."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anyir.backends import mindir as backend
from anyir.ir.builder import Builder
from anyir.ir.errors import AnyIRError
from anyir.ir.graph import Module
from anyir.ir.types import DType, TensorType
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.runtimes import mindspore as runtime

pytestmark = pytest.mark.skipif(runtime.available() is None, reason="MindSpore is not installed")

WIDE = np.linspace(-12, 12, 1001, dtype=np.float32)
TINY = np.float32([1e-9, -3e-8, 1e-6, 2e-5, -1e-3, 0.4])
MASKED = np.float32([[1, 2, 3], [-np.inf] * 3, [1, 1, 1], [-np.inf, 0, 1]])
TIES = np.random.default_rng(0).integers(0, 4, (3, 60)).astype(np.float32)
BIG = np.array([2**50 + 1, -(2**50) - 1, 2**51 - 3, -7], np.int64)
THREE = np.array([3, 3, 5, 3], np.int64)
CORNERS = np.array([[0, -1], [-2, 1]], np.int64)

CASES = {
    "tanh keeps its digits": (lambda b, x: b.tanh(x), WIDE),
    "exp keeps its digits": (lambda b, x: b.exp(x), WIDE),
    "sigmoid keeps its digits": (lambda b, x: b.sigmoid(x), WIDE),
    "expm1 near zero": (lambda b, x: b.expm1(x), TINY),
    "log1p near zero": (lambda b, x: b.log1p(x), TINY),
    "mish of large numbers": (lambda b, x: b.mish(x), np.float32([-90, -1, 40, 50, 90])),
    "softmax of a masked row": (lambda b, x: b.softmax(x, axis=-1), MASKED),
    "log_softmax of a masked row": (lambda b, x: b.log_softmax(x, axis=-1), MASKED),
    "softmax over another axis": (lambda b, x: b.softmax(x, axis=0), MASKED),
    "topk of equal elements": (lambda b, x: b.topk(x, (7,), axis=-1)[1], TIES),
    "smallest of equal elements": (lambda b, x: b.topk(x, (7,), axis=-1, largest=False)[1], TIES),
    "64-bit floor_div": (lambda b, x, y: b.floor_div(x, y), BIG, THREE),
    "64-bit mod": (lambda b, x, y: b.mod(x, y), BIG, THREE),
    "64-bit fmod": (lambda b, x, y: b.mod(x, y, fmod=True), BIG, THREE),
    "integer division": (lambda b, x, y: b.div(x, y), BIG, THREE),
    "negative coordinates": (lambda b, x: b.gather_nd(x, CORNERS), TIES),
    "negative places": (lambda b, x: b.scatter_nd(x, CORNERS, np.float32([5, 6]), reduction="add"), TIES),
    "shifts beyond the width": (
        lambda b, x, y: b.bit_shift(x, y, direction="RIGHT"), np.int32([-8, 8, 8]), np.int32([40, 33, 1])
    ),
    "two backward steps": (lambda b, x: b.slice(x, (-1, -1), (-99, -99), (0, 1), (-1, -1)), TIES),
    "lrn of even size": (lambda b, x: b.lrn(x, size=4), np.ones((1, 6, 2, 2), np.float32)),
    "average without the padding": (
        lambda b, x: b.average_pool(x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 0, 1, 2), ceil_mode=True),
        np.arange(49, dtype=np.float32).reshape(1, 1, 7, 7),
    ),
    "grouped volumes": (
        lambda b, x: b.conv(x, np.ones((4, 1, 2, 2, 2), np.float32), groups=2, pads=(1, 0, 0, 0, 1, 0)),
        np.arange(2 * 27, dtype=np.float32).reshape(1, 2, 3, 3, 3),
    ),
}  # fmt: skip


def module_of(make, arrays: tuple[np.ndarray, ...]) -> tuple[Module, dict[str, np.ndarray]]:
    module = Module()
    graph = module.add_graph("main")
    values = [graph.add_input(TensorType(DType.of(a.dtype), a.shape), f"x{i}") for i, a in enumerate(arrays)]
    graph.set_outputs([make(Builder(graph), *values)])
    module.add_signature("serving_default", graph, [f"x{i}" for i in range(len(arrays))], ["y"])
    return module, {f"x{i}": a for i, a in enumerate(arrays)}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder: Path = tmp_path_factory.mktemp("traps")
    jobs, wanted = [], []
    for number, (make, *arrays) in enumerate(CASES.values()):
        module, inputs = module_of(make, tuple(arrays))
        path = folder / f"{number}.mindir"
        backend.write(module, path)
        jobs.append(runtime.Job(str(path), inputs))
        wanted.append((run(module, inputs), limits_for(module, inputs)))
    return dict(zip(CASES, zip(wanted, runtime.run_many(jobs), strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_mindspore_gives_the_reference(outcomes: dict, name: str) -> None:
    (wanted, limits), found = outcomes[name]
    assert not isinstance(found, AnyIRError), str(found)
    report = compare(wanted, found, limits)
    assert report.passed, str(report)
