"""Each invariant of the IR, broken on purpose, is reported with a window of IR around it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from anyir.ir.dims import sym
from anyir.ir.errors import VerifyError
from anyir.ir.graph import Graph, Module, Node, Value
from anyir.ir.signature import Slot
from anyir.ir.tensor import ArrayTensor
from anyir.ir.types import F32, I32, TensorType
from anyir.ir.value import Use
from anyir.ir.verify import ERROR_LIMIT, verify
from anyir.tests.support.text import module

TEXT = """
weight "w" param : f32[2] = [1.0, 2.0]
graph @main(%x: f32[N, 2], %flag: bool[]) {
  const %w = @weights["w"] : f32[2]
  %a = mul(%x, %w) : f32[N, 2]
  %b = relu(%a) : f32[N, 2]
  %c = if(%flag, %b) : f32[N, 2] {
    then(%t: f32[N, 2]) {
      %t2 = neg(%t) : f32[N, 2]
      return(%t2)
    }
    else(%e: f32[N, 2]) {
      return(%e)
    }
  }
  %d = exp(%c) : f32[N, 2]
  return(%d)
}
"""


def nodes(made: Module) -> dict[str, Node]:
    return {node.results[0].hint: node for node in made.all_nodes()}


def _order(m: Module) -> None:
    nodes(m)["a"].order = nodes(m)["b"].order


def _prev(m: Module) -> None:
    nodes(m)["b"].prev = None


def _stolen(m: Module) -> None:
    nodes(m)["b"].graph = nodes(m)["t2"].graph


def _no_return(m: Module) -> None:
    nodes(m)["d"].next = None


def _use_before_definition(m: Module) -> None:
    nodes(m)["a"].set_operand(1, nodes(m)["b"].result)


def _open_region(m: Module) -> None:
    nodes(m)["t2"].set_operand(0, nodes(m)["a"].result)


def _foreign_constant(m: Module) -> None:
    nodes(m)["a"].set_operand(1, Module().add_weight("w", np.ones(2, np.float32)))


def _use_list_too_long(m: Module) -> None:
    nodes(m)["a"].result._add_use(Use(nodes(m)["d"], 0))


def _use_list_lacks_one(m: Module) -> None:
    nodes(m)["a"].result._uses = None


def _use_list_has_another(m: Module) -> None:
    nodes(m)["a"].result._uses = Use(nodes(m)["d"], 0)


def _result_type(m: Module) -> None:
    nodes(m)["b"].result.type = TensorType(F32, (sym("N"), 3))


def _off_by_one(m: Module) -> None:
    nodes(m)["b"].result.type = TensorType(F32, (sym("N") + 1, 2))


def _operand_type(m: Module) -> None:
    m.main.inputs[0].type = TensorType(I32, (sym("N"), 2))


def _results_count(m: Module) -> None:
    node = nodes(m)["b"]
    node.results = (*node.results, Value(node.result.type, node, 1))


def _result_index(m: Module) -> None:
    nodes(m)["b"].result.index = 3


def _region_parent(m: Module) -> None:
    nodes(m)["c"].regions[0].parent = nodes(m)["a"]


def _region_outputs(m: Module) -> None:
    nodes(m)["c"].regions[0].set_outputs([])


def _input_owner(m: Module) -> None:
    m.main.inputs[1].index = 0


def _graph_name(m: Module) -> None:
    m.main.name = "other"


def _weight_type(m: Module) -> None:
    m.weights["w"].tensor = ArrayTensor(np.ones(3, np.float32))


def _weight_lost(m: Module) -> None:
    m.weights.remove(m.weights["w"])


def _signature_slots(m: Module) -> None:
    m.signature.inputs.append(Slot("third"))


def _signature_names(m: Module) -> None:
    m.signature.inputs[1] = Slot("x")


def _signature_graph(m: Module) -> None:
    m.signature.graph = Graph(m, "main")
    m.signature.inputs, m.signature.outputs = [], []


BROKEN: dict[str, Callable[[Module], None]] = {
    "the order label of relu is not above": _order,
    "relu is linked wrongly": _prev,
    "relu is linked wrongly ": _stolen,
    "does not end in return": _no_return,
    "operand 1 of mul is not defined before its use": _use_before_definition,
    "operand 0 of neg is of another graph (regions are closed": _open_region,
    "operand 1 of mul is a constant of another module": _foreign_constant,
    "%a lists 2 uses, a recount finds 1": _use_list_too_long,
    "operand 0 of relu is not in the use list of %a": _use_list_lacks_one,
    "operand 0 of relu is not in the use list of %a ": _use_list_has_another,
    "result 0 of relu is f32[N, 3], inference says f32[N, 2]": _result_type,
    "result 0 of relu is f32[N + 1, 2], inference says f32[N, 2]": _off_by_one,
    "operands a and b of mul have dtypes i32 and f32": _operand_type,
    "relu has 2 results, inference says 1": _results_count,
    "result 0 of relu is not the node's own value": _result_index,
    "a region of if belongs to another node": _region_parent,
    "then has 0 outputs, else has 1": _region_outputs,
    "input 1 of @main is not the graph's own value": _input_owner,
    "graph @main is not the module's own graph": _graph_name,
    "constant 'w' is f32[2], its tensor is not": _weight_type,
    "does not own the weight 'w'": _weight_lost,
    "names 3 inputs, the graph has 2": _signature_slots,
    "two inputs called 'x'": _signature_names,
    "is of a graph that the module does not have": _signature_graph,
}


@pytest.mark.parametrize("message", BROKEN)
def test_each_broken_invariant_is_named(message: str) -> None:
    made = module(TEXT)
    verify(made)
    BROKEN[message](made)
    with pytest.raises(VerifyError) as caught:
        verify(made)
    assert message.strip() in str(caught.value)


def test_the_window_shows_the_node_among_its_neighbours() -> None:
    made = module(TEXT)
    _result_type(made)
    with pytest.raises(VerifyError) as caught:
        verify(made)
    shown = str(caught.value).splitlines()
    assert any(line.startswith("> %b = relu(%a)") for line in shown)
    assert any(line.startswith("  %a = mul(%x, %w)") for line in shown)
    assert any("exp(%c)" in line for line in shown)


def test_channels_last_is_refused_before_layout_assignment() -> None:
    made = module(
        "(%x: f32[1, 2, 4, 4]) { %y = global_average_pool(%x) {channels_last = true} : f32[1, 1, 1, 4] return(%y) }"
    )
    with pytest.raises(VerifyError, match="channels_last before layout assignment"):
        verify(made)
    verify(made, allow_channels_last=True)


def test_at_most_twenty_problems_are_listed() -> None:
    lines = "\n".join(f"%y{i} = relu(%x) : f32[2]" for i in range(50))
    made = module(f"(%x: f32[2]) {{ {lines}\n return(%x) }}")
    for node in made.main.nodes():
        node.result.type = TensorType(F32, (3,))
    with pytest.raises(VerifyError) as caught:
        verify(made)
    assert str(caught.value).count("inference says") == ERROR_LIMIT


def test_types_that_only_know_less_or_differently_are_no_problem() -> None:
    made = module("(%x: f32[N, 2]) { %y = relu(%x) : f32[*] %z = relu(%y) : f32[M, 2] return(%z) }")
    verify(made)
    made.main.first.result.type = TensorType(F32, (4, sym("K")))
    verify(made)
