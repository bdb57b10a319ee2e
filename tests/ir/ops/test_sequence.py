"""Types of sequences and optionals: what meets, what is refused, and which sizes are one."""

from __future__ import annotations

from typing import Any

import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import Expr, sym
from anyir.ir.errors import InvalidModel, TypeInferError
from anyir.ir.graph import Module
from anyir.ir.ops.sequence import renewed
from anyir.ir.parser import parse_module
from anyir.ir.types import BOOL, F32, I64, STRING, OptionalType, SequenceType, TensorType, Type, join, meet, refines

N = sym("N")


def f32(*dims: Any) -> TensorType:
    return TensorType(F32, dims)


def seq(elem: Type) -> SequenceType:
    return SequenceType(elem)


def build(name: str, *types: Type | None, **attrs: Any) -> Any:
    """The result types of one op."""
    graph = Module().add_graph("main")
    values = [None if t is None else graph.add_input(t) for t in types]
    made = [v.type for v in Builder(graph).call(name, values, attrs).results]
    return made[0] if len(made) == 1 else made


def test_join() -> None:
    a, b = seq(f32(2, 3)), seq(f32(4, 3))
    assert (
        str(join(a, b)).endswith(", 3]>") and join(a, a) is a and not refines(join(a, b), a) and refines(a, join(a, b))
    )
    assert join(OptionalType(f32(2)), f32(2)) is OptionalType(f32(2)) and join(a, OptionalType(a)) is OptionalType(a)
    assert join(OptionalType(seq(f32(2, 2))), seq(f32(2))) is OptionalType(seq(TensorType(F32)))
    for x, y in ((a, f32(2)), (OptionalType(a), f32(2)), (OptionalType(f32(2)), a)):
        with pytest.raises(InvalidModel):
            join(x, y)
    assert meet(OptionalType(f32(N)), OptionalType(f32(2))) is OptionalType(f32(2)) and meet(a, b) is None


def test_a_size_of_each_element_s_own_is_new_whenever_one_is_taken_out() -> None:
    own = Expr.fresh()
    first, second = renewed(f32(own, own, N, 3)), renewed(f32(own, own, N, 3))
    assert first.shape[0] == first.shape[1] != own and first.shape[2:] == (N, 3)
    assert first.shape[0] != second.shape[0] and renewed(f32(own + N)).shape[0] not in (own + N, N)
    assert renewed(f32(2)) is f32(2) and renewed(TensorType(F32)) is TensorType(F32)


def test_construct_and_insert() -> None:
    assert build("sequence_construct", f32(2, N), f32(2, N)) is seq(f32(2, N))
    mixed = build("sequence_construct", f32(2, 3), f32(4, 3))
    assert mixed.elem.shape[1] == 3 and isinstance(mixed.elem.shape[0], Expr)
    assert build("sequence_construct", f32(2), f32()) is seq(TensorType(F32))
    assert build("sequence_insert", seq(f32(2)), f32(2), TensorType(I64, ())) is seq(f32(2))
    for wrong in ((), (f32(2), TensorType(I64, (2,))), (seq(f32(2)),)):
        with pytest.raises(TypeInferError):
            build("sequence_construct", *wrong)
    for operands in ((f32(2), f32(2)), (seq(f32(2)), TensorType(STRING, ())), (seq(f32(2)), seq(f32(2)))):
        with pytest.raises(TypeInferError):
            build("sequence_insert", *operands)


def test_split_and_concat() -> None:
    x = f32(6, N)
    assert build("split_to_sequence", x) is seq(f32(1, N)) and build("split_to_sequence", x, keepdims=False) is seq(
        f32(N)
    )
    assert build("split_to_sequence", f32(N, 4), axis=-1) is seq(f32(N, 1))
    graph = Module().add_graph("main")
    b, value = Builder(graph), graph.add_input(x)
    for split, size in ((2, 2), (9, 6), ((3, 3), 3)):
        assert b.split_to_sequence(value, b.const(split)).type is seq(f32(size, N))
    for split in (4, (1, 5)):
        assert isinstance(b.split_to_sequence(value, b.const(split)).type.elem.shape[0], Expr)
    with pytest.raises(TypeInferError, match="length 0"):
        b.split_to_sequence(value, b.const(0))
    joined = build("concat_from_sequence", seq(f32(2, N)), axis=-1)
    assert joined.shape[0] == 2 and joined.shape[1] != N
    stacked = build("concat_from_sequence", seq(f32(2, N)), axis=1, new_axis=True)
    assert (stacked.shape[0], stacked.shape[2]) == (2, N)
    for wrong in (seq(OptionalType(f32(2))), f32(2)):
        with pytest.raises(TypeInferError):
            build("concat_from_sequence", wrong, axis=0)
    with pytest.raises(TypeInferError, match="axis 2"):
        build("concat_from_sequence", seq(f32(2)), axis=2, new_axis=True)


def test_optionals() -> None:
    assert build("optional", f32(2)) is OptionalType(f32(2)) and build("optional", type=seq(f32(2))) is OptionalType(
        seq(f32(2))
    )
    assert build("optional_get_element", OptionalType(f32(2))) is f32(2) and build(
        "optional_get_element", f32(2)
    ) is f32(2)
    for operands, attrs in (((), {}), ((f32(2),), {"type": f32(2)}), ((OptionalType(f32(2)),), {})):
        with pytest.raises(TypeInferError):
            build("optional", *operands, **attrs)


@pytest.mark.parametrize(
    ("type_", "known"), [(f32(2), (1,)), (seq(f32(2)), (1,)), (None, (0,)), (OptionalType(f32(2)), None)]
)
def test_whether_there_is_an_element_is_known_of_what_is_no_optional(type_: Type | None, known: tuple | None) -> None:
    graph = Module().add_graph("main")
    made = Builder(graph).optional_has_element(None if type_ is None else graph.add_input(type_))
    assert made.type is TensorType(BOOL, ()) and made.ints() == known


def test_the_text_carries_them() -> None:
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    s = b.sequence_empty(elem=f32(Expr.fresh(), N))
    o = b.optional(type=seq(TensorType(STRING)))
    t = b.sequence_insert(s, graph.add_input(f32(2, N)), b.const(0))
    graph.set_outputs([t, o, b.sequence_at(t, b.const(-1)), b.const("é")])
    module.add_signature("main", graph, ["x"], ["t", "o", "e", "c"])
    again = parse_module(str(module))
    assert again == module and str(again) == str(module) == str(module.clone())
