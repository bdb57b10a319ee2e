"""Right sides and the driver: nothing half done, nothing endless, types and locations kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anyir.ir.errors import PassError, UsageError
from anyir.ir.graph import Module, Node, Value
from anyir.ir.types import F32, TensorType
from anyir.ir.verify import verify
from anyir.passes import rewrites, rule
from anyir.passes.manager import Context
from anyir.passes.rewrite import Rule, RuleSet, StagingBuilder, near_misses, rewrite_graph, text_rule
from anyir.tests.support.text import assert_same_numbers, main_text, module, ops


def apply(made: Module | str, *rules: Rule | str) -> Module:
    """A copy of the module on which the rules ran to their end."""
    copy = (module(made) if isinstance(made, str) else made).clone()
    ctx = Context()
    made_rules = RuleSet([text_rule(r) if isinstance(r, str) else r for r in rules])
    for graph in list(copy.all_graphs()):
        rewrite_graph(graph, made_rules, ctx)
    verify(copy)
    return copy


SILU = "(%x: f32[2]) { %s = sigmoid(%x) : f32[2] %y = mul(%x, %s) : f32[2] return(%y) }"


@rewrites(lambda p, x: p.mul(x, p.sigmoid(x)))
def fuse_silu(b: StagingBuilder, x: Value) -> Any:
    """mul(x, sigmoid(x)) -> silu(x)"""
    return b.silu(x)


def test_a_match_is_replaced_and_the_dead_go() -> None:
    made = apply(SILU, fuse_silu)
    assert main_text(made) == "%y = silu(%x) : f32[2]\nreturn(%y)"
    assert_same_numbers(module(SILU), made)


def test_declining_leaves_the_graph_untouched_and_says_why() -> None:
    @rewrites(lambda p, x: p.mul(x, p.sigmoid(x)))
    def picky(b: StagingBuilder, x: Value) -> Any:
        b.exp(b.log(x))
        return b.decline("not today")

    made = module(SILU)
    version = made.version
    rewrite_graph(made.main, RuleSet([picky]), Context())
    assert made.version == version and ops(made) == ["sigmoid", "mul"]
    (trace,) = near_misses(made.main, picky)
    assert trace.reason == "not today"


def test_returning_none_declines_too() -> None:
    @rule("mul")
    def never(b: StagingBuilder, node: Node) -> Any:
        return None

    assert ops(apply(SILU, never)) == ["sigmoid", "mul"]
    assert near_misses(module(SILU).main, never)[0].reason == "the rule does not apply"


ESCAPING = "(%x: f32[2]) { %s = sigmoid(%x) : f32[2] %y = mul(%x, %s) : f32[2] return(%y, %s) }"


def test_interior_values_may_not_escape_unless_the_rule_says_so() -> None:
    assert ops(apply(ESCAPING, fuse_silu)) == ["sigmoid", "mul"]
    assert near_misses(module(ESCAPING).main, fuse_silu)[0].reason == "%s is also used outside the match"

    @rewrites(lambda p, x: p.mul(x, p.sigmoid(x)), escape=True)
    def fuse_anyway(b: StagingBuilder, x: Value) -> Any:
        return b.silu(x)

    made = apply(ESCAPING, fuse_anyway)
    assert sorted(ops(made)) == ["sigmoid", "silu"]
    assert_same_numbers(module(ESCAPING), made)


def test_a_match_that_stops_escaping_is_found() -> None:
    """The second use of the sigmoid disappears by another rule; its remaining user must be looked at again."""
    text = """(%x: f32[2]) {
      %s = sigmoid(%x) : f32[2]
      %n = neg(%s) : f32[2]
      %y = mul(%x, %s) : f32[2]
      %m = neg(%n) : f32[2]
      %z = sub(%m, %m) : f32[2]
      return(%y, %z)
    }"""
    made = module(text)
    made.main.return_node.set_operand(1, made.main.inputs[0])
    made.main.return_node.prev.erase()
    assert ops(apply(made, fuse_silu, "neg(neg(x)) -> x")) == ["silu"]


def test_several_roots() -> None:
    @rewrites(lambda p, x: (p.reduce_max(x, None), p.reduce_min(x, None)))
    def through_sort(b: StagingBuilder, x: Value) -> Any:
        return b.reduce_sum(x), b.reduce_mean(x)

    text = """(%x: f32[2, 2]) {
      %a = reduce_max(%x) : f32[1, 1]
      %c = exp(%a) : f32[1, 1]
      %b = reduce_min(%x) : f32[1, 1]
      return(%c, %b)
    }"""
    made = apply(text, through_sort)
    assert ops(made) == ["reduce_sum", "reduce_mean", "exp"], "new nodes stand before the first root"


def test_several_roots_whose_operands_come_late_are_refused() -> None:
    @rewrites(lambda p, x, y: (p.sin(x), p.add(x, y)))
    def late(b: StagingBuilder, x: Value, y: Value) -> Any:
        return b.cos(x), b.sub(x, y)

    text = """(%x: f32[2]) {
      %a = sin(%x) : f32[2]
      %l = log(%x) : f32[2]
      %b = add(%x, %l) : f32[2]
      return(%a, %b)
    }"""
    with pytest.raises(PassError, match="uses %l before it is defined"):
        apply(text, late)


def test_values_from_behind_the_root_are_refused() -> None:
    @rule("neg")
    def from_the_future(b: StagingBuilder, node: Node) -> Any:
        return node.next.result if node.next.results else None

    with pytest.raises(PassError, match="not defined before its root"):
        apply("(%x: f32[2]) { %a = neg(%x) : f32[2] %b = exp(%x) : f32[2] return(%a, %b) }", from_the_future)


def test_several_results() -> None:
    @rule("topk")
    def swapped(b: StagingBuilder, node: Node) -> Any:
        if node.attr("largest"):
            values, indices = b.topk(b.neg(node.operands[0]), node.operands[1], axis=node.attr("axis"), largest=False)
            return b.neg(values), indices
        return None

    text = """(%x: f32[4]) {
      const %k = [2] : i64[1]
      %v, %i = topk(%x, %k) {axis = 0} : f32[2], i64[2]
      return(%v, %i)
    }"""
    assert_same_numbers(module(text), apply(text, swapped), exact=True)

    @rule("topk")
    def too_few(b: StagingBuilder, node: Node) -> Any:
        return node.operands[0]

    with pytest.raises(PassError, match="returns a wrong number of values"):
        apply(text, too_few)


def test_wrong_types_and_non_values_are_refused() -> None:
    @rule("neg")
    def other_shape(b: StagingBuilder, node: Node) -> Any:
        return b.reshape(node.operands[0], (1, 2))

    with pytest.raises(PassError, match="replaces f32\\[2\\] by f32\\[1, 2\\]"):
        apply("(%x: f32[2]) { %a = neg(%x) : f32[2] return(%a) }", other_shape)

    @rule("neg")
    def off_by_one(b: StagingBuilder, node: Node) -> Any:
        x = node.operands[0]
        return b.concat(x, b.const(np.zeros(1, np.float32)), axis=0)

    with pytest.raises(PassError, match="the type is another one"):
        apply("(%x: f32[N]) { %a = neg(%x) : f32[N] return(%a) }", off_by_one)

    @rule("neg")
    def number(b: StagingBuilder, node: Node) -> Any:
        return 1.0

    with pytest.raises(PassError, match=r"returned 1\.0, not a value"):
        apply("(%x: f32[2]) { %a = neg(%x) : f32[2] return(%a) }", number)


def test_types_refine_and_travel_on() -> None:
    """The new value knows its shape; what stands behind learns it."""
    text = """(%x: f32[2, 3]) {
      %a = identity(%x) : f32[*]
      %b = relu(%a) : f32[*]
      %c = exp(%b) : f32[*]
      return(%c)
    }"""
    made = apply(text, "identity(x) -> x")
    assert made.main.outputs[0].type is TensorType(F32, (2, 3))


def test_what_was_known_before_is_kept() -> None:
    """The new value knows less than the old one did."""

    @rule("neg")
    def forgetful(b: StagingBuilder, node: Node) -> Any:
        return b.call(
            "opaque", (node.operands[0],), {"domain": "d", "op_type": "t", "types": (TensorType(F32, None),)}
        ).result

    made = apply("(%x: f32[2]) { %a = neg(%x) : f32[2] return(%a) }", forgetful)
    assert made.main.outputs[0].type is TensorType(F32, (2,))


def test_the_type_of_an_input_is_never_narrowed() -> None:
    made = apply("(%x: f32[N]) { %a = identity(%x) : f32[4] %b = neg(%a) : f32[4] return(%b) }", "identity(x) -> x")
    assert str(made.main.inputs[0].type) == "f32[N]" and str(made.main.outputs[0].type) == "f32[4]"


def test_locations_are_fused_and_tagged() -> None:
    made = module("""(%x: f32[2]) {
      %s = sigmoid(%x) : f32[2]  loc("torch": "act.sigmoid" at "net.py":7)
      %y = mul(%x, %s) : f32[2]  loc("torch": "act.mul")
      return(%y)
    }""")
    loc = apply(made, fuse_silu).main.first.loc
    assert str(loc) == "torch:act.sigmoid net.py:7 + torch:act.mul (fuse_silu)"


def test_hints_stay_with_the_value() -> None:
    assert apply(SILU, fuse_silu).main.outputs[0].hint == "y"


def test_a_rule_without_end_is_named() -> None:
    with pytest.raises(PassError, match=r"does not come to an end: rule 'neg\(x\) -> neg\(neg\(neg\(x\)\)\)' fired"):
        apply("(%x: f32[2]) { %y = neg(%x) : f32[2] return(%y) }", "neg(x) -> neg(neg(neg(x)))")
    with pytest.raises(
        PassError, match=r"exp\(x\) -> log\(x\).*log\(x\) -> exp\(x\)|log\(x\) -> exp\(x\).*exp\(x\) -> log\(x\)"
    ):
        apply("(%x: f32[2]) { %y = exp(%x) : f32[2] return(%y) }", "exp(x) -> log(x)", "log(x) -> exp(x)")


def test_benefit_then_name_decides() -> None:
    def made(name: str, op: str, benefit: int) -> Rule:
        @rule("neg", name=name, benefit=benefit)
        def replace(b: StagingBuilder, node: Node) -> Any:
            return b.call(op, (node.operands[0],)).result

        return replace

    text = "(%x: f32[2]) { %y = neg(%x) : f32[2] return(%y) }"
    assert ops(apply(text, made("b", "exp", 1), made("a", "log", 1), made("z", "abs", 2))) == ["abs"]
    assert ops(apply(text, made("b", "exp", 1), made("a", "log", 1))) == ["log"]


def test_parts_that_did_not_match_bind_none() -> None:
    @rewrites(lambda p, x, c: p.neg(p.any_of(p.add(x, p.const(c)), p.exp(x))))
    def either(b: StagingBuilder, x: Value, c: Value | None) -> Any:
        return b.sin(x) if c is None else b.cos(x)

    assert ops(apply("(%x: f32[2]) { %e = exp(%x) : f32[2] %y = neg(%e) : f32[2] return(%y) }", either)) == ["sin"]


def test_impure_nodes_are_never_erased() -> None:
    text = """(%x: f32[2]) {
      %o = opaque(%x) {domain = "d", op_type = "t", types = [type(f32[2])]} : f32[2]
      %y = neg(%o) : f32[2]
      return(%y)
    }"""

    @rule("neg")
    def to_constant(b: StagingBuilder, node: Node) -> Any:
        return b.const(np.zeros(2, np.float32))

    assert ops(apply(text, to_constant)) == ["opaque"]


def test_rules_run_in_regions() -> None:
    text = (
        f"""(%c: bool[], %x: f32[2]) {{
      %y = if(%c, %x) : f32[2] {{
        then{SILU.replace("%y", "%z")}
        else(%e: f32[2]) {{ return(%e) }}
      }}
      return(%y)
    }}""".replace("then(%x", "then(%t")
        .replace("sigmoid(%x)", "sigmoid(%t)")
        .replace("mul(%x", "mul(%t")
    )
    assert ops(apply(text, fuse_silu)) == ["if", "silu"]


def test_rules_with_wrong_numerics_are_refused() -> None:
    with pytest.raises(UsageError, match="numerics is one of exact, ulp, approx"):
        rewrites(lambda p, x: p.neg(x), numerics="close")
    with pytest.raises(UsageError, match="numerics is one of"):
        rule("neg", numerics="close")


def test_known_elements_are_handed_on() -> None:
    @rule("identity")
    def renamed(b: StagingBuilder, node: Node) -> Any:
        return b.call("opaque", node.operands, {"domain": "d", "op_type": "t", "types": (node.result.type,)}).result

    text = "(%x: f32[N, 3]) { %s = shape(%x) : i64[2] %i = identity(%s) : i64[2] %y = reshape(%x, %i) : f32[N, 3] return(%y) }"
    made = apply(text, renamed)
    (opaque,) = made.all_nodes("opaque")
    assert str(opaque.result.elems) == "(N, 3)"


def test_a_rule_may_replace_results_of_several_nodes() -> None:
    @rule("split")
    def negated_before(b: StagingBuilder, node: Node) -> Any:
        users = [value.single_user() for value in node.results]
        if not all(user is not None and user.name == "neg" for user in users):
            return None
        parts = b.call("split", (b.neg(node.operands[0]), *node.operands[1:]), dict(node.attrs)).results
        return b.instead({user.result: part for user, part in zip(users, parts, strict=True)}, [*users, node])

    text = """(%x: f32[4]) { const %n = [1, 3] : i64[2] %a, %b = split(%x, %n) {num_outputs = 2} : f32[1], f32[3]
        %c = neg(%a) : f32[1] %d = neg(%b) : f32[3] return(%d, %c) }"""
    made = apply(text, negated_before)
    assert ops(made) == ["neg", "split"]
    assert_same_numbers(module(text), made, exact=True)


def test_a_rule_may_leave_unused_results_alone() -> None:
    @rule("split")
    def first_only(b: StagingBuilder, node: Node) -> Any:
        if node.results[1].n_uses:
            return None
        return b.instead({node.results[0]: b.slice(node.operands[0], (0,), (1,), (0,))}, [node])

    text = """(%x: f32[4]) { const %n = [1, 3] : i64[2] %a, %b = split(%x, %n) {num_outputs = 2} : f32[1], f32[3]
        return(%a) }"""
    made = apply(text, first_only)
    assert ops(made) == ["slice"]
    assert_same_numbers(module(text), made, exact=True)


def test_values_of_another_type_are_refused_in_place_of_several_results() -> None:
    @rule("split")
    def swapped(b: StagingBuilder, node: Node) -> Any:
        first, second = node.results
        return b.instead({second: b.neg(first)}, [node]) if second.n_uses else None

    text = """(%x: f32[4]) { const %n = [1, 3] : i64[2] %a, %b = split(%x, %n) {num_outputs = 2} : f32[1], f32[3]
        return(%b) }"""
    with pytest.raises(PassError, match=r"'swapped' (replaces|uses)"):
        apply(text, swapped)
