"""The optimiser on long models: CPU seconds of loading, of each pass, of all of -O2 and of writing, at 1,000 to 100,000 nodes.

    pytest benchmarks/test_optimizer_scale.py -m slow -s

Three models: the residual chain with removable nodes on which the peers are measured too; what exporters write (blocks of
convolutions and of attention); and regions in a row, each with a branch and a loop. Time must grow as the model does.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anyir.api import load, save
from anyir.passes.manager import Context, Instrument, run_pipeline
from anyir.passes.presets import preset

from .onnx_models import Writer, large_model
from .test_core import slowness

onnx = pytest.importorskip("onnx")

#: CPU seconds for load, -O2 and save together.
BUDGETS = {10_000: 4.0, 100_000: 40.0}
GROWTH = 13
#: Steps faster than this on the smaller model say nothing about growth: seconds.
MEASURABLE = 0.05


def residual_chain(nodes: int) -> Any:
    """Blocks of ten nodes on [N, 8], seven of which do nothing, each added to what went in."""
    w = Writer()
    w.initializers += [w.from_array(np.array(value, np.float32), name) for name, value in (("one", 1.0), ("zero", 0.0))]
    w.initializers.append(w.from_array(np.array([0, 1, 8], np.int64), "shape"))
    w.initializers.append(w.from_array(np.array([1], np.int64), "axis"))
    x = "x"
    while len(w.nodes) < nodes:
        y = w.op("Identity", w.op("Relu", x))
        y = w.op("Transpose", w.op("Transpose", y, perm=[1, 0]), perm=[1, 0])
        y = w.op("Squeeze", w.op("Unsqueeze", y, "axis"), "axis")
        y = w.op("Neg", w.op("Neg", w.op("Mul", y, "one")))
        x = w.op("Add", x, y)
    return finished(w, x)


def regions(nodes: int) -> Any:
    """Blocks of ten nodes: a branch on the input's size with equal beginnings, and a loop with work that never changes."""
    from onnx import helper

    w = Writer()
    w.initializers += [
        w.from_array(np.array(value, np.int64), name) for name, value in (("four", 4), ("zero", 0), ("first", 0))
    ]
    w.initializers.append(w.from_array(np.array(0.5, np.float32), "half"))
    w.initializers.append(w.from_array(np.array(True), "yes"))
    x, number = "x", 0

    def graph(name: str, inputs: list[Any], rows: list[tuple], outputs: list[tuple]) -> Any:
        made = [helper.make_node(op, list(ins), [out]) for op, ins, out in rows]
        infos = [helper.make_tensor_value_info(*row) for row in outputs]
        return helper.make_graph(made, name, inputs, infos)

    while 10 * number < nodes:
        p, number = f"b{number}.", number + 1
        size = w.op("Gather", w.op("Shape", x), "zero", axis=0)
        cond = w.op("Greater", size, "four")
        then = graph("then", [], [("Exp", (x,), f"{p}e"), ("Tanh", (f"{p}e",), f"{p}t")], [(f"{p}t", 1, None)])
        other = graph("else", [], [("Exp", (x,), f"{p}f"), ("Neg", (f"{p}f",), f"{p}n")], [(f"{p}n", 1, None)])
        y = w.op("If", cond, then_branch=then, else_branch=other)
        info = helper.make_tensor_value_info
        inputs = [info(f"{p}i", 7, []), info(f"{p}c", 9, []), info(f"{p}v", 1, None)]
        rows = [("Sigmoid", (x,), f"{p}s"), ("Mul", (f"{p}v", f"{p}s"), f"{p}w"), ("Identity", (f"{p}c",), f"{p}d")]
        body = graph("body", inputs, rows, [(f"{p}d", 9, []), (f"{p}w", 1, None)])
        x = w.op("Loop", "four", "yes", y, body=body)
    return finished(w, x)


def finished(w: Writer, output: str) -> Any:
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 8]) for name in ("x", output)]
    graph = helper.make_graph(w.nodes, "chain", ends[:1], ends[1:], w.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


MODELS: dict[str, Callable[[int], Any]] = {"chain": residual_chain, "exported": large_model, "regions": regions}


class Clock(Instrument):
    """CPU seconds by pass, all its runs together; once what it changed has been collected."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.began = 0.0

    def before(self, step: Any, module: Any, ctx: Context) -> None:
        self.began = time.process_time()

    def after(self, step: Any, module: Any, ctx: Context, changed: bool) -> None:
        self.seconds[step.name] = self.seconds.get(step.name, 0.0) + time.process_time() - self.began


def measured(path: Path, level: int = 2) -> dict[str, float]:
    """CPU seconds of each step, and of all of them under "total"."""
    gc.collect()
    clock = Clock()
    start = time.process_time()
    module = load(path)
    loaded = time.process_time()
    run_pipeline(module, preset(level), Context(level=level), [clock])
    optimised = time.process_time()
    save(module, path.with_suffix(".out.onnx"))
    end = time.process_time()
    parts = {"load": loaded - start, "-O2": optimised - loaded, "save": end - optimised, "total": end - start}
    return {**clock.seconds, **parts}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    folder = tmp_path_factory.mktemp("scale")

    def made(kind: str, nodes: int) -> Path:
        path = folder / f"{kind}{nodes}.onnx"
        if not path.exists():
            path.write_bytes(MODELS[kind](nodes).SerializeToString())
        return path

    return made


def show(capsys: pytest.CaptureFixture, title: str, rows: dict[str, Any]) -> None:
    with capsys.disabled():
        print(f"\n{title}", *(f"  {name:18}{text}" for name, text in rows.items()), sep="\n")


@pytest.mark.parametrize("kind", MODELS)
def test_a_thousand_nodes(benchmark: Any, kind: str, file: Callable[[str, int], Path]) -> None:
    path = file(kind, 1000)
    benchmark.pedantic(lambda: measured(path), rounds=3)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", BUDGETS)
@pytest.mark.parametrize("kind", MODELS)
def test_budgets(kind: str, nodes: int, file: Callable[[str, int], Path], capsys: pytest.CaptureFixture) -> None:
    slow = slowness()
    found = measured(file(kind, nodes))
    show(
        capsys, f"{kind}, {nodes} nodes, machine {slow:.1f} times slower", {k: f"{v:8.2f} s" for k, v in found.items()}
    )
    assert found["total"] / slow <= BUDGETS[nodes]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_time_grows_linearly(kind: str, file: Callable[[str, int], Path], capsys: pytest.CaptureFixture) -> None:
    """Every step of ten times the model takes less than thirteen times the time: the best of two runs of each."""
    ratios: dict[str, float] = {}
    small, large = file(kind, 10_000), file(kind, 100_000)
    pairs = [(measured(small), measured(large)) for _ in range(2)]
    for name in pairs[0][0]:
        one = min(pair[0][name] for pair in pairs)
        ratios[name] = min(pair[1][name] for pair in pairs) / max(one, MEASURABLE)
    show(capsys, f"{kind}: time(100k) / time(10k)", {k: f"{v:6.1f}" for k, v in ratios.items()})
    assert not {name: ratio for name, ratio in ratios.items() if ratio >= GROWTH}
