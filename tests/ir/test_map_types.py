"""Maps as types: interned, refined, printed, parsed, copied, and in ONNX's form."""

from __future__ import annotations

import copy

import pytest
from anyir.formats.onnx.types import proto_of, type_of
from anyir.ir.builder import Builder
from anyir.ir.dims import Expr, sym
from anyir.ir.errors import InvalidModel, LimitExceeded
from anyir.ir.graph import Module
from anyir.ir.parser import parse_module
from anyir.ir.printer import print_module
from anyir.ir.symbols import replace_symbols
from anyir.ir.types import F32, I64, STRING, MapType, SequenceType, TensorType, join, meet, refines

SCALAR = TensorType(F32, ())
ROW = MapType(STRING, TensorType(F32, (sym("N"),)))


def test_equal_types_are_one() -> None:
    assert MapType(I64, SCALAR) is MapType(I64, SCALAR)
    assert MapType(I64, SCALAR) is not MapType(STRING, SCALAR)
    assert copy.deepcopy(SequenceType(ROW)) is SequenceType(ROW)
    assert str(SequenceType(MapType(I64, SCALAR))) == "seq<map<i64, f32[]>>"


def test_keys_are_integers_or_strings() -> None:
    with pytest.raises(InvalidModel, match="the keys of a map are f32"):
        MapType(F32, SCALAR)


def test_what_two_maps_say_together() -> None:
    known, open_ = MapType(STRING, TensorType(F32, (3,))), MapType(STRING, TensorType(F32, None))
    assert refines(known, open_) and refines(known, ROW) and not refines(open_, known)
    assert meet(open_, known) is known and join(known, open_) is open_
    other = MapType(I64, TensorType(F32, (3,)))
    assert meet(known, other) is None and not refines(known, other) and not refines(other, SCALAR)
    with pytest.raises(InvalidModel, match="cannot meet"):
        join(known, other)


def module() -> Module:
    made = Module("maps")
    graph = made.add_graph("main")
    x = graph.add_input(MapType(STRING, SCALAR), "x")
    y = graph.add_input(TensorType(F32, (sym("N"), 2)), "y")
    b = Builder(graph)
    words = b.const(["a", "b"], STRING)
    graph.set_outputs([b.dict_vectorizer(x, words, to=F32), b.zip_map(y, words)])
    made.add_signature("serving_default", graph, ["x", "y"], ["row", "maps"])
    return made


def test_text_and_back() -> None:
    text = print_module(module())
    assert "map<str, f32[]>" in text and "seq<map<str, f32[]>>" in text
    again = parse_module(text)
    assert again == module() and print_module(again) == text


@pytest.mark.parametrize("wrong", ["map<f32, f32[]>", "map<str f32[]>", "map<str, f32[]", "map<str>"])
def test_wrong_text(wrong: str) -> None:
    with pytest.raises(InvalidModel):
        parse_module(print_module(module()).replace("map<str, f32[]>", wrong))


def test_deep_nesting_is_refused() -> None:
    deep = "map<str, " * 5000 + "f32[]" + ">" * 5000
    with pytest.raises(LimitExceeded, match="nested more than"):
        parse_module(print_module(module()).replace("map<str, f32[]>", deep))


def test_symbols_inside() -> None:
    made = Module()
    graph = made.add_graph("main")
    graph.add_input(SequenceType(ROW), "x")
    graph.set_outputs([])
    made.add_signature("serving_default", graph, ["x"], [])
    replace_symbols(made, {"N": 4})
    assert made.main.inputs[0].type is SequenceType(MapType(STRING, TensorType(F32, (4,))))


def test_as_onnx() -> None:
    pytest.importorskip("onnx")
    for type_ in (MapType(I64, SCALAR), SequenceType(MapType(STRING, TensorType(F32, (2, 3))))):
        assert type_of(proto_of(type_), None, "x") is type_
    open_ = type_of(proto_of(ROW), None, "x")
    assert isinstance(open_, MapType) and isinstance(open_.elem.shape[0], Expr)  # type: ignore[attr-defined, index]
