"""Speed of reading ONNX: loading and type inference of a model of 100,000 nodes, against what else one would do with it.

    pytest benchmarks/test_onnx_load.py --benchmark-enable -s

The yardstick is `onnx.load`, `onnx.shape_inference.infer_shapes` and onnx_ir's deserialisation of the loaded model, one
after another: CPU seconds of one process, the best of a few rounds that take turns, so that a busy machine slows all alike.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anyir.frontends.onnx import read

from .onnx_models import large_model

onnx = pytest.importorskip("onnx")

NODES = 100_000
ROUNDS = 3


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The file of a model with that many nodes."""
    folder = tmp_path_factory.mktemp("large")

    def made(nodes: int) -> Path:
        path = folder / f"{nodes}.onnx"
        if not path.exists():
            onnx.save(large_model(nodes), path)
        return path

    return made


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of `work`, the collector's first look at what it made included, its destruction not."""
    gc.collect()
    began = time.process_time()
    made = work()
    gc.collect(0)
    seconds = time.process_time() - began
    del made
    return seconds


def peers(path: Path) -> dict[str, Callable[[], Any]]:
    import onnx_ir

    model = onnx.load(path)
    return {
        "onnx.load": lambda: onnx.load(path),
        "onnx.shape_inference": lambda: onnx.shape_inference.infer_shapes(model),
        "onnx_ir": lambda: onnx_ir.serde.deserialize_model(model),
    }


def best(works: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Each one's best of a few rounds in which they take turns."""
    found = dict.fromkeys(works, float("inf"))
    for _ in range(ROUNDS):
        for name, work in works.items():
            found[name] = min(found[name], cpu_seconds(work))
    return found


def test_small(benchmark: Any, file: Callable[[int], Path]) -> None:
    """A thousand nodes: quick enough for every run."""
    path = file(1000)
    module = benchmark.pedantic(lambda: read(path), rounds=5)
    assert 700 < sum(1 for _ in module.main.nodes()) <= 1100, "constants are values, the other nodes come one for one"
    assert [str(v.type) for v in module.main.outputs] == ["f32[N, 8, H, W]", "f32[B, S, 8]"]


@pytest.mark.slow
def test_reading_and_inferring_takes_less_than_the_peers(
    file: Callable[[int], Path], capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("onnx_ir")
    path = file(NODES)
    found = best({"anyir": lambda: read(path), **peers(path)})
    ours = found.pop("anyir")
    ratio = ours / sum(found.values())
    with capsys.disabled():
        shown = " + ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items())
        print(f"\n{NODES} nodes: read in {ours:.2f} s, {ratio:.2f} of {shown}")
    assert ratio < 1


@pytest.mark.slow
def test_time_grows_linearly(file: Callable[[int], Path], capsys: pytest.CaptureFixture) -> None:
    """time(10 n) < 13 time(n): one large model against ten small ones, right after each other, the best of a few pairs."""
    large, small = file(NODES), file(NODES // 10)
    pairs = [
        (cpu_seconds(lambda: read(large)), sum(cpu_seconds(lambda: read(small)) for _ in range(10)))
        for _ in range(ROUNDS)
    ]
    ratio = min(10 * one / ten for one, ten in pairs)
    with capsys.disabled():
        print(f"\ntime(10n) = {ratio:.1f} time(n)")
    assert ratio < 13
