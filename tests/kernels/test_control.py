"""if, loop and scan on the kernels: branches, carried values, captures, early ends, stacked outputs, no iteration at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import InvalidModel, TypeInferError
from anyir.ir.graph import Graph, Module
from anyir.ir.types import BOOL, F32, I64, TensorType
from anyir.ir.verify import verify
from anyir.kernels.budget import Budget, OverBudget, spending
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


def endless() -> Module:
    """A loop that nothing ends, with an empty body."""
    module = Module()
    graph = module.add_graph("main")
    body = module.new_region("body")
    _, flag, state = (body.add_input(t) for t in (SCALAR, FLAG, VECTOR))
    body.set_outputs([flag, state])
    node = Builder(graph).call("loop", [None, None, graph.add_input(VECTOR, "x")], {"carried": 1}, [body])
    graph.set_outputs(node.results)
    module.add_signature("main", graph, ["x"], ["y"])
    return module


def test_a_loop_without_end_comes_to_the_end_of_its_budget() -> None:
    with spending(Budget(10**9, 10**9)), pytest.raises(OverBudget):
        run(endless(), [np.ones(3, np.float32)])


def scanning(length: Any, other: Any, **attrs: Any) -> Module:
    """Running sums of x * y over their slices, and each slice of x."""
    module = Module()
    graph = module.add_graph("main")
    x, y = (graph.add_input(TensorType(F32, (n, 3)), h) for n, h in ((length, "x"), (other, "y")))
    body = module.new_region("body")
    state, u, v = (body.add_input(VECTOR) for _ in range(3))
    b = Builder(body)
    body.set_outputs([b.add(state, b.mul(u, v)), u])
    start = Builder(graph).const(np.zeros(3, np.float32))
    wanted = {"carried": 1, "num_scan_inputs": 2, **attrs}
    graph.set_outputs(Builder(graph).call("scan", [start, x, y], wanted, [body]).results)
    module.add_signature("main", graph, ["x", "y"], ["s", "z"])
    return module


def test_a_scan() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    module = scanning(2, 2, scan_input_directions=(0, 1), scan_output_axes=(-1,), scan_output_directions=(1,))
    verify(module)
    made = run(module, [x, x])
    assert made["s"].tolist() == (x * x[::-1]).sum(0).tolist() and made["z"].tolist() == x[::-1].T.tolist()
    assert module.main.outputs[1].type == TensorType(F32, (3, 2))


def test_a_scan_of_nothing() -> None:
    module = scanning(sym("N"), sym("N"))
    assert module.main.outputs[1].type == TensorType(F32, (sym("N"), 3))
    made = run(module, [np.zeros((0, 3), np.float32)] * 2)
    assert made["s"].tolist() == [0, 0, 0] and made["z"].shape == (0, 3)


def test_scanned_values_have_one_length() -> None:
    with pytest.raises(TypeInferError, match="2 and 3 differ"):
        scanning(2, 3)
    with pytest.raises(InvalidModel, match=r"lengths \[2, 3\]"):
        run(scanning(sym("N"), sym("M")), [np.ones((2, 3), np.float32), np.ones((3, 3), np.float32)])


@pytest.mark.parametrize(
    "attrs",
    [
        {"num_scan_inputs": 0},
        {"num_scan_inputs": 3},
        {"carried": -1},
        {"scan_input_axes": (0,)},
        {"scan_input_axes": (0, 2)},
        {"scan_input_axes": (1, 1)},
        {"scan_output_axes": (2,)},
        {"scan_output_directions": (2,)},
    ],
)
def test_attributes_of_a_scan_are_checked(attrs: dict) -> None:
    with pytest.raises(TypeInferError):
        scanning(2, 2, **attrs)
