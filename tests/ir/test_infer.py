"""Types only refine, travel forward, and a contradiction is kept out."""

from __future__ import annotations

import pytest
from anyir.ir import infer
from anyir.ir.dims import sym
from anyir.ir.errors import TypeInferError, VerifyError
from anyir.ir.graph import Module
from anyir.ir.infer import infer_module, infer_node, propagate, retype
from anyir.ir.types import F16, F32, I64, UNKNOWN, SequenceType, TensorType, meet, refines
from anyir.ir.verify import verify
from anyir.tests.support.text import module

N, M = sym("N"), sym("M")


def f32(*dims: object) -> TensorType:
    return TensorType(F32, dims)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("new", "old", "answer"),
    [
        (f32(2), f32(2), True), (f32(2), UNKNOWN, True), (UNKNOWN, f32(2), False), (f32(2), f32(N), True),
        (f32(N), f32(2), False), (f32(M), f32(N), True), (f32(N + 1), f32(N), False), (f32(3), f32(2 * N), False),
        (f32(4), f32(2 * N), True), (TensorType(F16, (2,)), f32(2), False), (f32(2), TensorType(None, (2,)), True),
        (f32(2, 2), f32(2), False), (f32(2), TensorType(F32, None), True),
        (SequenceType(f32(2)), SequenceType(f32(N)), True), (SequenceType(f32(2)), f32(2), False),
    ],
)  # fmt: skip
def test_refines(new: TensorType, old: TensorType, answer: bool) -> None:
    assert refines(new, old) is answer


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (f32(N, 4), f32(3, M), f32(3, 4)), (f32(N), f32(M), f32(N)), (f32(sym("_7")), f32(M), f32(M)),
        (f32(2), f32(3), None), (f32(N), f32(N + 1), None), (f32(2 * N), f32(3), None),
        (UNKNOWN, f32(2), f32(2)), (TensorType(None, (2,)), TensorType(F32, None), f32(2)),
        (f32(2), TensorType(F16, (2,)), None), (f32(2), f32(2, 2), None), (f32(2), SequenceType(f32(2)), None),
        (SequenceType(f32(N)), SequenceType(f32(2)), SequenceType(f32(2))),
    ],
)  # fmt: skip
def test_meet(a: TensorType, b: TensorType, both: TensorType | None) -> None:
    assert meet(a, b) is both


def chain(*types: str) -> Module:
    lines = "\n".join(f"%{i + 1} = relu(%{i}) : {t}" for i, t in enumerate(types[1:]))
    return module(f"(%0: {types[0]}) {{ {lines}\n return(%{len(types) - 1}) }}")


def test_refinements_travel_as_far_as_they_reach() -> None:
    made = chain("f32[*]", "f32[*]", "f32[*]", "f32[*]")
    made.main.inputs[0].refine(f32(N, 2))
    propagate([made.main.first])
    assert all(v.type is f32(N, 2) for n in made.main.nodes() for v in n.results)
    verify(made)


def test_propagation_stops_where_nothing_changes() -> None:
    made = chain("f32[2]", "f32[2]", "f32[*]")
    propagate([made.main.first])
    assert made.main.first.next.result.shape is None, "the first node did not change, so the second was not asked"


def test_two_half_known_types_make_a_known_one() -> None:
    made = chain("f32[3, M]", "f32[N, 4]")
    assert infer_node(made.main.first) and made.main.first.result.type is f32(3, 4)
    assert not infer_node(made.main.first)
    verify(made)


def test_a_made_up_symbol_does_not_replace_a_name() -> None:
    made = module("(%c: i64[4]) { %i = non_zero(%c) : i64[1, found] %s = reduce_sum(%i) : i64[1, 1] return(%i) }")
    infer_module(made)
    assert made.main.first.result.type is TensorType(I64, (1, sym("found")))


def test_contradictions_are_left_to_the_verifier() -> None:
    made = chain("f32[2]", "f32[2]")
    made.main.inputs[0].type = f32(3)
    assert not infer_node(made.main.first)
    with pytest.raises(VerifyError, match="inference says f32\\[3\\]"):
        verify(made)


def test_retype_takes_what_inference_says_and_goes_on() -> None:
    made = chain("f32[4]", "f32[4]", "f32[4]")
    made.main.inputs[0].type = f32(2)
    retype([made.main.first])
    assert [n.result.type for n in made.main.nodes()] == [f32(2), f32(2)]
    verify(made)


def test_refine_refuses_less_and_other() -> None:
    value = chain("f32[2, 3]").main.inputs[0]
    for worse in (f32(2, 4), f32(2, N), TensorType(F16, (2, 3)), UNKNOWN):
        with pytest.raises(VerifyError, match="does not refine"):
            value.refine(worse)
    assert not value.refine(f32(2, 3))


def test_known_elements_resolve_shape_arithmetic() -> None:
    made = module("""(%x: f32[N, 6]) {
      %s = shape(%x) : i64[2]
      const %zero = [0] : i64[1]
      const %one = [1] : i64[1]
      const %rest = [2, 3] : i64[2]
      %n = slice(%s, %zero, %one) : i64[1]
      %t = concat(%n, %rest) {axis = 0} : i64[3]
      %y = reshape(%x, %t) : f32[*]
      return(%y)
    }""")
    infer_module(made)
    assert made.main.outputs[0].type is f32(N, 2, 3)


def test_inference_is_remembered_by_elements_too() -> None:
    """Two reshapes with the same types and other constants must not share a result."""
    made = module("(%x: f32[6]) { const %a = [2, 3] : i64[2] const %b = [3, 2] : i64[2] "
                  "%y = reshape(%x, %a) : f32[*] %z = reshape(%x, %b) : f32[*] return(%y, %z) }")  # fmt: skip
    infer_module(made)
    assert [v.type for v in made.main.outputs] == [f32(2, 3), f32(3, 2)]


def test_errors_name_the_node() -> None:
    made = chain("f32[2]", "f32[2]")
    node = made.main.first
    node.attrs = node.op.make_attrs({})
    made.main.inputs[0].type = TensorType(I64, None)
    node.op.infer_results(node.operands, node.attrs)
    add = module("(%a: f32[2], %b: f32[2]) { %y = add(%a, %b) : f32[2] return(%y) }")
    add.main.inputs[1].type = f32(3)
    with pytest.raises(TypeInferError, match="add at"):
        infer_node(add.main.first)


def test_what_depends_on_data_has_one_symbol() -> None:
    """A made-up symbol stays what it is when its node is inferred again, alone, by propagation or by retyping."""
    made = module("""(%c: i64[4], %b: bool[2]) {
      %i = non_zero(%c) : i64[1, _0]
      %s = shape(%i) : i64[2]
      %n = compress(%s, %b) : i64[_1]
      %t = concat(%i, %i) {axis = 1} : i64[1, 2*_0]
      return(%t, %n)
    }""")
    infer_module(made)
    before = [v.type for node in made.main.nodes() for v in node.results]
    for again in (lambda: infer_module(made), lambda: propagate(made.main.nodes()), lambda: retype(made.main.nodes())):
        again()
        assert all(a is v.type for a, v in zip(before, (v for n in made.main.nodes() for v in n.results), strict=True))
    found, doubled = (node.result.shape[1] for node in (*made.main.nodes("non_zero"), *made.main.nodes("concat")))
    assert doubled is found + found


def test_results_that_share_a_made_up_symbol_go_on_sharing_it() -> None:
    made = module("(%x: f32[N], %k: i64[1]) { %v, %i = topk(%x, %k) : f32[_0], i64[_0] return(%v, %i) }")
    infer_module(made)
    values, indices = made.main.outputs
    assert values.shape is not None and values.shape == indices.shape
    old = values.type
    infer_module(made)
    assert values.type is old and indices.shape == values.shape


def test_better_knowledge_replaces_a_made_up_symbol() -> None:
    made = module("(%x: f32[N, 2], %t: i64[2]) { %y = reshape(%x, %t) : f32[_0, _1] return(%y) }")
    node = made.main.first
    assert not infer_node(node)
    made.main.inputs[1].refine(made.main.inputs[1].type, (N, None))
    assert infer_node(node)
    assert node.result.type is f32(N, 2)


def test_a_long_chain_is_propagated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node is inferred once, however the seeds are ordered."""
    made = chain("f32[*]", *["f32[*]"] * 2000)
    made.main.inputs[0].refine(f32(N))
    nodes = list(made.main.nodes())
    asked: list[object] = []
    monkeypatch.setattr(infer, "infer_node", lambda node: (asked.append(node), infer_node(node))[1])
    propagate(reversed(nodes))
    assert nodes[-1].result.type is f32(N)
    assert asked == nodes
