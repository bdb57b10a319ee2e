"""Symbols of a module: other dims in their place, facts that move along, and names of anonymous ones."""

from __future__ import annotations

import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import Expr, sym
from anyir.ir.errors import UsageError
from anyir.ir.graph import Module
from anyir.ir.parser import parse_module
from anyir.ir.symbols import anonymous, replace_symbols, settle_symbols
from anyir.ir.types import F32, TensorType


def module(*dims: object) -> Module:
    made = Module("m")
    graph = made.add_graph("main")
    x = graph.add_input(TensorType(F32, (*dims, 3)), "x")  # type: ignore[arg-type]
    b = Builder(graph)
    graph.set_outputs([b.concat(x, b.relu(x), axis=0)])
    made.add_signature("serving_default", graph, inputs=["x"], outputs=["y"])
    return made


def test_a_fresh_symbol_is_above_all_that_were_seen() -> None:
    high = sym("_123456")
    assert int(str(Expr.fresh())[1:]) > 123456
    assert str(sym("_9") * sym("_10") + high) == "_9*_10 + _123456"


def test_anonymous_symbols_are_named_by_first_appearance() -> None:
    first, second = Expr.fresh(), Expr.fresh()
    one, two = module(second, first), module(Expr.fresh(), Expr.fresh())
    assert "%x: f32[_0, _1, 3]" in str(one)
    assert str(one) == str(two)
    assert one == two
    assert parse_module(str(one)) == one
    assert module(first, first) != one
    assert module(sym("N"), first) != one


def test_names_of_the_user_stay() -> None:
    assert "%x: f32[N, _0, 3]" in str(module(sym("N"), Expr.fresh()))
    assert anonymous(module(sym("N"), sym("_x"))).mapping == {}


def test_symbols_that_may_be_negative_keep_saying_so() -> None:
    made = module(sym("_z0123456789abcdef"), sym("_n0123456789abcdef"))
    assert "%x: f32[_z0000000000000000, _1, 3]" in str(made)


def test_settling_renames_for_good() -> None:
    made = module(Expr.fresh(), sym("N"))
    settle_symbols(made)
    assert [str(d) for d in made.main.inputs[0].shape or ()] == ["_0", "N", "3"]
    assert [str(d) for d in made.main.outputs[0].shape or ()] == ["2*_0", "N", "3"]


def test_replacing_takes_facts_along() -> None:
    made = module(sym("N"), sym("M"))
    made.facts.add_range("N", 2, 8)
    made.facts.add_divisor("M", 4)
    replace_symbols(made, {"N": sym("batch"), "M": 8})
    assert made.facts.range_of("batch") == (2, 8)
    assert str(made.main.outputs[0].type) == "f32[2*batch, 8, 3]"
    for name, size in (("batch", 9), ("batch", 1)):
        with pytest.raises(UsageError, match="2 to 8"):
            replace_symbols(made, {name: size})
    other = module(sym("M"), 4)
    other.facts.add_divisor("M", 4)
    with pytest.raises(UsageError, match="multiple of 4"):
        replace_symbols(other, {"M": 6})
