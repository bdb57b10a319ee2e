"""Measured sensitivity: the layer that was made bad on purpose is found, and a layer's noise is that of a real model."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.compress.data import open_data
from anyir.compress.quantize import calibrated, check_settings
from anyir.compress.sensitivity import SAMPLES, few, sensitivities
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.graph import Module, Node, Value
from anyir.ir.types import F32, TensorType
from anyir.kernels.run import run
from anyir.passes.manager import find_pass
from anyir.passes.quantize.insert import Inserter


def net(bad: str = "") -> Module:
    """Four dense layers; the rows of `bad` have sizes from 1 to 1,000, and the next layer takes that back."""
    rng = np.random.default_rng(3)
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    y: Value = graph.add_input(TensorType(F32, (sym("N"), 12)), "x")
    spread = np.geomspace(1, 1000, 12)
    undo = np.ones(12)
    for key in "abcd":
        w = rng.standard_normal((12, 12)) / 3 / undo[:, None]
        undo = spread if key == bad else np.ones(12)
        y = b.gemm(y, b.const((w * undo).astype(np.float32), key=key, role="param"))
        y = b.relu(y) if key != "d" else y
    graph.set_outputs((y,))
    module.add_signature("s", graph, ["x"], ["y"])
    return module


def data(module: Module, count: int = 32):
    return open_data({"x": np.random.default_rng(0).standard_normal((count, 12)).astype(np.float32)}, module)


def settings(**options):
    defaults = {name: p.default for name, p in find_pass("quantize").options.items()}
    return check_settings({**defaults, "observer": "minmax", **options})


def ranked(module: Module):
    made = settings()
    plan, layout = calibrated(module, module.main, data(module), made, lambda node: "int8")
    return sensitivities(module, plan, layout, made.style, data(module)), plan, layout, made


@pytest.mark.parametrize("bad", ["a", "b", "c"])
def test_the_worst_layer_comes_first(bad: str) -> None:
    rows, *_ = ranked(net(bad))
    following = chr(ord(bad) + 1)
    assert {row.layer for row in rows[:2]} == {bad, following}  # the value between them has the bad grid
    assert sorted(row.layer for row in rows) == list("abcd")
    assert [row.sqnr for row in rows] == sorted(row.sqnr for row in rows)


def test_a_layers_noise_is_what_that_layer_alone_makes() -> None:
    module = net("b")
    rows, *_ = ranked(module)
    for row in rows:
        made = module.clone()
        key = row.layer
        wanted = lambda node, key=key: "int8" if _key(node) == key else "float"  # noqa: E731
        options = settings(correct=False)
        plan, layout = calibrated(made, made.main, data(made), options, wanted)
        Inserter(plan, layout, options.style).run()
        feeds = next(iter(few(data(made), SAMPLES)))
        a, b = (run(m, feeds)["y"].astype(np.float64) for m in (module, made))
        assert row.sqnr == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()), abs=0.3)


def _key(node: Node) -> str:
    weight = node.operands[1] if len(node.operands) > 1 else None
    source = weight if weight is None or weight.is_const else weight.node.operands[0]
    if source is not None and source.is_const:
        return source.weight.wanted
    producer = node.operands[0].node
    return _key(producer) if producer is not None else ""


def test_few_cuts_the_last_batch() -> None:
    module = net()
    whole = np.concatenate([batch["x"] for batch in data(module).batches()])
    taken = np.concatenate([batch["x"] for batch in few(data(module), 21)])
    np.testing.assert_array_equal(taken, whole[:21])
    assert sum(len(batch["x"]) for batch in few(data(module), 1000)) == 32
