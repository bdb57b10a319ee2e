"""Left sides: what they match, what they bind, and why they stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from anyir.ir.errors import Unsupported, UsageError
from anyir.ir.graph import Module, Node
from anyir.passes.pattern import Match, Pattern, Trace, literal_equals, match, parse_rule, show
from anyir.tests.support.text import module


def last(text: str) -> Node:
    """The last node of a graph's body."""
    made = module(text)
    node = made.main.return_node.prev
    assert node is not None
    return node


def tried(pattern: Callable[..., Any], text: str) -> Match | None:
    return match(Pattern.trace(pattern), last(text))


def why(pattern: Callable[..., Any], text: str) -> str:
    trace = Trace()
    assert match(Pattern.trace(pattern), last(text), trace) is None
    return trace.reason


SILU = """(%x: f32[2]) {
  %s = sigmoid(%x) : f32[2]
  %y = mul(OPERANDS) : f32[2]
  return(%y)
}"""


def test_names_bind_values() -> None:
    found = tried(lambda p, x: p.mul(x, p.sigmoid(x)), SILU.replace("OPERANDS", "%x, %s"))
    assert found is not None
    assert found.bound["x"].hint == "x" and [n.name for n in found.nodes] == ["mul", "sigmoid"]
    assert found.root.name == "mul"


def test_commutative_ops_match_both_ways() -> None:
    for operands in ("%x, %s", "%s, %x"):
        assert tried(lambda p, x: p.mul(x, p.sigmoid(x)), SILU.replace("OPERANDS", operands))
    text = SILU.replace("mul", "sub")
    assert tried(lambda p, x: p.sub(x, p.sigmoid(x)), text.replace("OPERANDS", "%x, %s"))
    assert not tried(lambda p, x: p.sub(x, p.sigmoid(x)), text.replace("OPERANDS", "%s, %x"))


def test_commutative_ops_below_the_root_are_tried_both_ways_too() -> None:
    for inner in ("%x, %c", "%c, %x"):
        for outer in ("%a, %x", "%x, %a"):
            text = f"(%x: f32[]) {{ const %c = 2.0 : f32[] %a = add({inner}) : f32[] %y = mul({outer}) : f32[] return(%y) }}"
            found = tried(lambda p, x, c: p.mul(x, p.add(p.const(c), x)), text)
            assert found is not None and found.bound["c"].is_const


def test_a_name_used_twice_is_one_value() -> None:
    text = "(%x: f32[2], %z: f32[2]) { %s = sigmoid(%z) : f32[2] %y = mul(%x, %s) : f32[2] return(%y) }"
    assert why(lambda p, x: p.mul(x, p.sigmoid(x)), text) == "x is two different values"


def test_constants_and_literals() -> None:
    text = "(%x: f32[2]) { const %c = C : f32[] %y = add(%x, %c) : f32[2] return(%y) }"
    assert tried(lambda p, x, c: p.add(x, p.const(c)), text.replace("C", "1.0"))
    assert tried(lambda p, x: p.add(x, 1), text.replace("C", "1.0"))
    assert tried(lambda p, x: p.add(x, 1.0), text.replace("C", "1.0"))
    assert why(lambda p, x: p.add(x, 1.0), text.replace("C", "2.0")) == "%c is not the constant 1.0"
    assert why(lambda p, x: p.add(x, 0.0), text.replace("C", "0x80000000")) == "%c is not the constant 0.0"
    assert tried(lambda p, x: p.add(x, -0.0), text.replace("C", "0x80000000"))
    two = "(%x: f32[2], %c: f32[]) { %y = add(%x, %c) : f32[2] return(%y) }"
    assert why(lambda p, x, c: p.add(x, p.const(c)), two) == "%c must be a constant"


@pytest.mark.parametrize(
    ("contents", "type_", "wanted", "answer"),
    [
        ("9007199254740993", "i64[]", 9007199254740992, False), ("9007199254740993", "i64[]", 9007199254740993, True),
        ("(1.0, 2.0)", "c64[]", 1.0, False), ("0x7fc00000", "f32[]", float("nan"), False), ("[]", "f32[0]", 1.0, False),
        ("[1.0, 1.0]", "f32[2]", 1, True), ("[1.0, 2.0]", "f32[2]", (1, 2), True), ("[1.0, 2.0]", "f32[2]", (2, 1), False),
        ("[1.0, 2.0]", "f32[2]", (1, 2, 3), False), ('"1"', "str[]", 1, False), ("true", "bool[]", True, True),
        ("0x7f800000", "f32[]", float("inf"), True), ("3", "u8[]", 3.0, True), ("-0.5", "f16[]", -0.5, True),
    ],
)  # fmt: skip
def test_literal_equality_is_exact(contents: str, type_: str, wanted: Any, answer: bool) -> None:
    made = module(f"() {{ const %c = {contents} : {type_} return(%c) }}")
    assert literal_equals(made.main.outputs[0], wanted) is answer


def test_attributes_are_free_fixed_or_bound() -> None:
    text = "(%x: f32[2, 3]) { %y = softmax(%x) {axis = 0} : f32[2, 3] return(%y) }"
    assert tried(lambda p, x: p.softmax(x), text)
    assert tried(lambda p, x: p.softmax(x, axis=0), text)
    found = tried(lambda p, x, a: p.softmax(x, axis=a), text)
    assert found is not None and found.bound["a"] == 0
    assert why(lambda p, x: p.softmax(x, axis=1), text) == "attribute axis is 0, expected 1"


def test_an_attribute_bound_twice_must_agree() -> None:
    text = (
        "(%x: f32[2, 3]) { %a = softmax(%x) {axis = 0} : f32[2, 3] %y = softmax(%a) {axis = B} : f32[2, 3] return(%y) }"
    )
    assert tried(lambda p, x, a: p.softmax(p.softmax(x, axis=a), axis=a), text.replace("B", "0"))
    assert "elsewhere" in why(lambda p, x, a: p.softmax(p.softmax(x, axis=a), axis=a), text.replace("B", "1"))


CONV = """(%x: f32[1, 1, 3, 3], %w: f32[1, 1, 1, 1], %b: f32[1]) {
  %y = conv(OPERANDS) : f32[1, 1, 3, 3]
  return(%y)
}"""


def test_optional_operands() -> None:
    with_bias, without = CONV.replace("OPERANDS", "%x, %w, %b"), CONV.replace("OPERANDS", "%x, %w")
    found = tried(lambda p, x, w, b: p.conv(x, w, b), without)
    assert found is not None and found.bound["b"] is None, "a name also binds an absent operand"
    assert tried(lambda p, x, w: p.conv(x, w, None), without)
    assert "absent on one side" in why(lambda p, x, w: p.conv(x, w, None), with_bias)
    assert "has 3 operands" in why(lambda p, x, w: p.conv(x, w), with_bias)


def test_the_rest_of_a_variadic() -> None:
    text = "(%a: f32[1], %b: f32[1], %c: f32[1]) { %y = concat(%a, %b, %c) {axis = 0} : f32[3] return(%y) }"
    found = tried(lambda p, first: p.concat(first, p.rest("others")), text)
    assert found is not None and [v.hint for v in found.bound["others"]] == ["b", "c"]
    found = tried(lambda p: p.concat(p.rest("all")), text)
    assert found is not None and len(found.bound["all"]) == 3


def test_maybe_looks_through_one_op() -> None:
    for cast in (True, False):
        inner = "%a = exp(%x) : f32[2] %c = cast(%a) {to = f32} : f32[2]" if cast else "%c = exp(%x) : f32[2]"
        found = tried(
            lambda p, x: p.log(p.maybe("cast", p.exp(x))),
            f"(%x: f32[2]) {{ {inner} %y = log(%c) : f32[2] return(%y) }}",
        )
        assert found is not None and len(found.nodes) == 2 + cast


def test_any_of_takes_the_first_that_fits() -> None:
    def pattern(p: Any, x: Any) -> Any:
        return p.neg(p.any_of(p.exp(x), p.log(x)))

    for name in ("exp", "log"):
        assert tried(pattern, f"(%x: f32[2]) {{ %a = {name}(%x) : f32[2] %y = neg(%a) : f32[2] return(%y) }}")
    assert tried(pattern, "(%x: f32[2]) { %a = abs(%x) : f32[2] %y = neg(%a) : f32[2] return(%y) }") is None


def test_several_roots_share_values() -> None:
    text = """(%x: f32[2], %z: f32[2]) {
      %s = sin(%x) : f32[2]
      %other = cos(%z) : f32[2]
      %c = cos(%x) : f32[2]
      return(%s, %c, %other)
    }"""
    made = module(text)
    found = match(Pattern.trace(lambda p, x: (p.sin(x), p.cos(x))), made.main.first)
    assert found is not None and [n.result.hint for n in found.roots] == ["s", "c"]


def test_backtracking_undoes_bindings() -> None:
    """The first order binds x to the wrong operand; the second must start afresh."""
    text = """(%a: f32[2], %b: f32[2]) {
      %s = sigmoid(%a) : f32[2]
      %m = mul(%b, %s) : f32[2]
      %y = add(%a, %m) : f32[2]
      return(%y)
    }"""
    found = tried(lambda p, x, z: p.add(p.mul(z, p.sigmoid(x)), x), text)
    assert found is not None and (found.bound["x"].hint, found.bound["z"].hint) == ("a", "b")


def test_patterns_do_not_cross_regions() -> None:
    made = module("""(%c: bool[], %x: f32[2]) {
      %s = sigmoid(%x) : f32[2]
      %y = if(%c, %x, %s) : f32[2] {
        then(%x2: f32[2], %s2: f32[2]) { %m = mul(%x2, %s2) : f32[2] return(%m) }
        else(%x3: f32[2], %s3: f32[2]) { return(%x3) }
      }
      return(%y)
    }""")
    (mul,) = made.all_nodes("mul")
    assert match(Pattern.trace(lambda p, x: p.mul(x, p.sigmoid(x))), mul) is None


def test_the_trace_keeps_the_deepest_partial_match() -> None:
    text = """(%x: f32[2]) {
      %e = exp(%x) : f32[2]
      const %two = 2.0 : f32[]
      %a = add(%e, %two) : f32[2]
      %y = log(%a) : f32[2]
      return(%y)
    }"""
    trace = Trace()
    assert match(Pattern.trace(lambda p, x: p.log(p.add(p.exp(x), 1.0))), last(text), trace) is None
    assert trace.depth == 3 and trace.node.name == "add" and trace.reason == "%two is not the constant 1.0"


def test_wrong_patterns_are_refused_where_they_are_written() -> None:
    with pytest.raises(Unsupported, match="did you mean"):
        Pattern.trace(lambda p, x: p.sigmoidd(x))
    with pytest.raises(UsageError, match="the root of a pattern is an op call"):
        Pattern.trace(lambda p, x: x)


@pytest.mark.parametrize(
    ("text", "left", "right"),
    [
        ("neg(neg(x)) -> x", "neg(neg(x))", "x"),
        ("mul(x, 2) -> add(x, x)", "mul(x, 2)", "add(x, x)"),
        ("softmax(x, axis=a) -> log_softmax(x, axis=a)", "softmax(x, axis=a)", "log_softmax(x, axis=a)"),
        (
            "reduce_sum(x, a, keepdims=true) -> reduce_mean(x, a)",
            "reduce_sum(x, a, keepdims=True)",
            "reduce_mean(x, a)",
        ),
        ("mul(x, -1.5)->neg(x)", "mul(x, -1.5)", "neg(x)"),
    ],
)
def test_rules_as_text(text: str, left: str, right: str) -> None:
    pattern, made = parse_rule(text)
    assert (pattern.text, show(made)) == (left, right)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("neg(neg(x))", "ends too early"), ("neg(x) -> y", "y does not stand on the left"), ("x -> x", "is `op"),
        ("neg(x -> x", "expected '\\)'"), ("neg(x) => x", "unexpected '>'"), ("add(x y) -> x", "expected"),
        ("neg(x) -> x x", "is `op"), ("", "ends too early"),
    ],
)  # fmt: skip
def test_wrong_rules_as_text(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_rule(text)


def test_a_match_knows_what_escapes() -> None:
    text = "(%x: f32[2]) { %s = sigmoid(%x) : f32[2] %y = mul(%x, %s) : f32[2] return(OUT) }"
    pattern = Pattern.trace(lambda p, x: p.mul(x, p.sigmoid(x)))
    for outputs, name in (("%y", None), ("%y, %s", "s")):
        made: Module = module(text.replace("OUT", outputs))
        found = match(pattern, made.main.return_node.prev)
        value = found.escaping()
        assert (value.hint if value is not None else None) == name
