"""if and loop on the kernels: branches, carried values, captures, early ends, stacked outputs, no iteration at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.errors import TypeInferError
from anyir.ir.graph import Graph, Module
from anyir.ir.types import BOOL, F32, I64, TensorType
from anyir.ir.verify import verify
from anyir.kernels.run import run

SCALAR = TensorType(I64, ())
FLAG = TensorType(BOOL, ())
VECTOR = TensorType(F32, (3,))


def branching() -> Module:
    module = Module()
    graph = module.add_graph("main")
    flag, x = graph.add_input(FLAG, "flag"), graph.add_input(VECTOR, "x")
    regions = []
    for name in ("then", "else"):
        region = module.new_region(name)
        inner = region.add_input(VECTOR)
        b = Builder(region)
        region.set_outputs([b.mul(inner, 2.0) if name == "then" else b.concat(inner, inner, axis=0)])
        regions.append(region)
    (y,) = Builder(graph).call("if", [flag, x], {}, regions).results
    graph.set_outputs([y])
    module.add_signature("main", graph, ["flag", "x"], ["y"])
    return module


def test_branches() -> None:
    module = branching()
    verify(module)
    x = np.array([1, 2, 3], np.float32)
    assert run(module, [np.array(True), x])["y"].tolist() == [2, 4, 6]
    assert run(module, [np.array(False), x])["y"].tolist() == [1, 2, 3, 1, 2, 3]
    (value,) = module.main.outputs
    assert value.type.rank == 1 and not value.type.is_static  # what both branches know


def counting(trip: int | None, until: int | None) -> Module:
    """Doubles x, adds the capture, and yields each state; ends early at iteration `until`."""
    module = Module()
    graph = module.add_graph("main")
    x, c = graph.add_input(VECTOR, "x"), graph.add_input(VECTOR, "c")
    body = module.new_region("body")
    step, _, state, capture = (body.add_input(t) for t in (SCALAR, FLAG, VECTOR, VECTOR))
    b = Builder(body)
    new = b.add(b.mul(state, 2.0), capture)
    go_on = b.const(np.array(True)) if until is None else b.less(step, until)
    body.set_outputs([go_on, new, step])
    node = Builder(graph).call("loop", [trip, None, x, c], {"carried": 1}, [body])
    graph.set_outputs(node.results)
    module.add_signature("main", graph, ["x", "c"], ["last", "steps"])
    return module


def outputs(module: Module) -> Any:
    verify(module)
    return run(module, [np.ones(3, np.float32), np.full(3, 0.5, np.float32)])


def test_a_counted_loop() -> None:
    module = counting(3, None)
    made = outputs(module)
    assert made["last"].tolist() == [2 * (2 * 2.5 + 0.5) + 0.5] * 3
    assert made["steps"].tolist() == [0, 1, 2]
    assert module.main.outputs[1].type == TensorType(I64, (3,))


def test_a_loop_that_ends_itself() -> None:
    module = counting(100, 1)
    assert outputs(module)["steps"].tolist() == [0, 1]
    assert not module.main.outputs[1].type.is_static
    assert outputs(counting(None, 2))["steps"].tolist() == [0, 1, 2]


def test_no_iteration() -> None:
    made = outputs(counting(0, None))
    assert made["last"].tolist() == [1, 1, 1]
    assert made["steps"].shape == (0,) and made["steps"].dtype == np.int64


def test_regions_are_checked() -> None:
    module = Module()
    graph: Graph = module.add_graph("main")
    flag, x = graph.add_input(FLAG), graph.add_input(VECTOR)
    one, two = module.new_region("then"), module.new_region("else")
    one.set_outputs([one.add_input(VECTOR)])
    with pytest.raises(TypeInferError, match="inputs"):
        Builder(graph).call("if", [flag, x], {}, [one, two])
    two.add_input(VECTOR)
    with pytest.raises(TypeInferError, match="outputs"):
        Builder(graph).call("if", [flag, x], {}, [one, two])
    three = module.new_region("else")
    three.set_outputs([three.add_input(TensorType(F32, (4,)))])
    with pytest.raises(TypeInferError, match="input 0 of region else"):
        Builder(graph).call("if", [flag, x], {}, [one, three])
