"""Constant folding: right, and bounded in time and bytes whatever the graph says."""

from __future__ import annotations

import time

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.errors import TypeInferError
from anyir.ir.graph import Module, Value
from anyir.ir.opdef import Trait
from anyir.ir.storage import limits
from anyir.ir.types import F32, STRING, U64, TensorType
from anyir.ir.verify import verify
from anyir.passes.manager import run_pipeline
from anyir.tests.support.graphs import pool
from anyir.tests.support.ops import call
from anyir.tests.support.text import assert_same_numbers, module, ops, optimised, same_bits


def start() -> tuple[Module, Builder]:
    made = Module()
    return made, Builder(made.add_graph("main"))


def folded(b: Builder, *outputs: Value, options: str = "") -> list[str]:
    b.graph.set_outputs(outputs)
    run_pipeline(b.module, f"fold{options}")
    verify(b.module)
    return [n.name for n in b.graph.nodes() if any(v.n_uses for v in n.results)]


def test_every_op_folds_to_what_its_kernel_gives() -> None:
    """All samples with constant operands: folded or left, the numbers are the kernel's."""
    stayed = set()
    for name, sample in pool():
        node, _ = call(name, sample, const=True)
        graph = node.graph
        graph.set_outputs(node.results)
        graph.module.add_signature("s", graph, [], [f"y{i}" for i in range(len(node.results))])
        with limits(fold_spare=1 << 20):
            made = optimised(graph.module, "fold,dce")
        assert_same_numbers(graph.module, made, exact=True, inputs={})
        if ops(made) and not (node.has(Trait.RANDOM) or any(map(holds_no_constant, (*node.inputs(), *node.results)))):
            stayed.add(name)
    say_more, sized_by_elements = (
        {"dequantize", "quantize", "requantize"},
        {"image_decoder", "non_max_suppression", "unique"},
    )
    assert stayed <= say_more | sized_by_elements, sorted(stayed)


def holds_no_constant(value: Value) -> bool:
    """Strings, sequences, optionals and maps are not folded."""
    return not isinstance(value.type, TensorType) or value.dtype is STRING


def test_one_bomb_is_not_folded() -> None:
    for build in (
        lambda b: b.expand(b.const(1.0), (1 << 20, 1 << 10)),
        lambda b: b.tile(b.const(np.ones(100, np.float32)), (1 << 24,)),
        lambda b: b.constant_of_shape((1 << 30,), value=0.0, to=F32),
        lambda b: b.range(0, 1 << 40, 1),
        lambda b: b.one_hot(
            b.const(np.zeros(1000, np.int64)), 1 << 20, b.const(np.array([0.0, 1.0], np.float32)), axis=-1
        ),
        lambda b: b.pad(b.const(np.ones(2, np.float32)), (1 << 30, 1 << 30)),
        lambda b: b.resize(b.const(np.ones((1, 1, 2, 2), np.float32)), None, None, (1, 1, 1 << 14, 1 << 14)),
    ):
        _, b = start()
        began = time.process_time()
        assert len(folded(b, build(b))) == 1
        assert time.process_time() - began < 2


def test_many_small_bombs_stay_within_the_total() -> None:
    """Each doubles within its own limit; together they must not outgrow the total."""
    made, b = start()
    value, outputs = b.const(np.ones(1 << 16, np.float32)), []
    for _ in range(36):
        value = b.concat(value, value, axis=0)
        outputs.append(value)
    with limits(fold_total_bytes=4 << 20):
        left = folded(b, *outputs)
    assert left and sum(w.nbytes for w in made.weights) < 8 << 20


def test_a_chain_of_products_does_not_hold_up_the_compiler() -> None:
    _, b = start()
    value = b.const(np.ones((700, 700), np.float32))
    began = time.process_time()
    with limits(fold_work=1_000_000):
        left = folded(b, b.matmul(b.matmul(value, value), value))
    assert left == ["matmul", "matmul"] and time.process_time() - began < 1


def test_growth_is_limited_by_what_went_in() -> None:
    _, b = start()
    with limits(fold_growth=2, fold_spare=1 << 30):
        small, large = b.expand(b.const(1.0), (1 << 10,)), b.expand(b.const(2.0), (1 << 20,))
        assert folded(b, small, large) == ["expand"]


def test_a_file_does_not_grow() -> None:
    """What makes much of little stays, and what makes little of that is computed: sizes are those that a node leaves."""
    made, b = start()
    w = b.const(np.arange(4096, dtype=np.float32), key="w", role="param")
    filled = b.constant_of_shape((64, 1024), value=1.0, to=F32)
    mask = b.trilu(b.expand(b.const(2.0), (512, 512)), upper=False)
    row = b.gather(b.range(0, 100_000, 1), 99_999)
    total = b.reduce_sum(b.tile(b.const(np.ones(8, np.float32)), (1000,)), (0,))
    twice = b.concat(w, w, axis=0)
    left = folded(b, filled, mask, row, total, twice, b.neg(w))
    assert left == ["constant_of_shape", "expand", "trilu", "concat", "neg"]
    run_pipeline(made, "dce")
    assert sum(weight.nbytes for weight in made.weights) < 3 * 16_384


@pytest.mark.parametrize("limit", ["fold_work", "fold_total_bytes"])
def test_a_file_does_not_grow_where_a_budget_ends(limit: str) -> None:
    """Thirty steps would leave 4 bytes; with means for a few of them the large start of them all is not made either."""
    made, b = start()
    large = b.expand(b.const(np.ones((1, 256), np.float32)), (1024, 256))
    total = b.const(np.zeros((), np.float32))
    for _ in range(30):
        total = b.reduce_sum(b.add(large, total), (0, 1))
    with limits(**{limit: {"fold_work": 600_000, "fold_total_bytes": 8 << 20}[limit]}):
        left = folded(b, total)
    assert left[0] == "expand" and left.count("add") == 30
    run_pipeline(made, "dce")
    assert sum(weight.nbytes for weight in made.weights) < 4096


def test_what_a_node_that_stays_needs_is_not_made() -> None:
    """The sum would be small, but one of its operands is too large to be stored, so the other one stays written out."""
    made, b = start()
    x = b.graph.add_input(TensorType(F32, (512, 512)))
    kept, large = b.expand(b.const(2.0), (512, 512)), b.expand(b.const(3.0), (512, 512))
    total = b.reduce_sum(b.mul(kept, large), (0, 1))
    assert folded(b, b.add(x, kept), total) == ["expand", "expand", "mul", "reduce_sum", "add"]
    assert sum(weight.nbytes for weight in made.weights) < 4096


def test_sources_that_others_need_are_not_freed() -> None:
    """Three ways to write a large constant: one may replace it, further ones would be copies."""
    made, b = start()
    large = b.const(np.arange(1 << 16, dtype=np.float32).reshape(256, 256), key="large", role="param")
    x = b.graph.add_input(TensorType(F32, (256, 256)))
    values = [b.neg(large), b.transpose(large, perm=(1, 0)), b.exp(large)]
    assert sorted(folded(b, b.matmul(x, large), *values)) == ["exp", "matmul", "neg", "transpose"]
    made, b = start()
    large = b.const(np.arange(1 << 16, dtype=np.float32).reshape(256, 256), key="large", role="param")
    assert folded(b, b.neg(large)) == []


def test_regions_fold_too() -> None:
    made = optimised("""(%c: bool[], %x: f32[N]) {
      %y = if(%c, %x) : f32[N] {
        then(%a: f32[N]) {
          const %two = 2.0 : f32[]
          %four = mul(%two, %two) : f32[]
          %m = mul(%a, %four) : f32[N]
          return(%m)
        }
        else(%b: f32[N]) {
          return(%b)
        }
      }
      return(%y)
    }""", "fold,dce")  # fmt: skip
    assert ops(made) == ["if", "mul"]


def test_the_option_bounds_one_constant() -> None:
    _, b = start()
    values = [b.neg(b.const(np.ones(n, np.float32))) for n in (10, 1000)]
    assert folded(b, *values, options="{max_bytes=400}") == ["neg"]


def test_limits_of_the_context_hold() -> None:
    _, b = start()
    with limits(fold_bytes=100):
        assert folded(b, b.neg(b.const(np.ones(1000, np.float32)))) == ["neg"]


def test_roles_keys_and_origins_survive() -> None:
    made, b = start()
    w = b.const(np.ones((2, 2), np.float32), key="w", role="param")
    steps = b.const(np.array([3]), key="steps", role="buffer")
    outputs = [b.transpose(w, perm=(1, 0)), b.add(steps, 1), b.add(b.const(1.0), b.const(2.0))]
    assert folded(b, *outputs) == []
    run_pipeline(made, "dce")
    assert [(w.key, w.role, w.origin) for w in made.weights] == [
        ("w", "param", "transpose(w)"), ("steps", "buffer", "add(steps)"), ("const", "const", ""),
    ]  # fmt: skip


def test_known_elements_fold_without_constants() -> None:
    made = optimised("""(%x: f32[N, 3, 4]) {
      %s = shape(%x) : i64[3]
      const %one = [1] : i64[1]
      const %three = [3] : i64[1]
      %t = slice(%s, %one, %three) : i64[2]
      return(%t, %s)
    }""", "fold,dce")  # fmt: skip
    assert ops(made) == ["shape"] and made.main.outputs[0].array().tolist() == [3, 4]


def test_a_range_of_computed_floats_has_a_length() -> None:
    """Its type is known as soon as the floats are; what is computed from it folds then."""
    made, b = start()
    ends = [b.cast(np.asarray(n, np.int64), to=F32) for n in (0, 4, 1)]
    steps = b.range(*ends)
    b.graph.set_outputs([b.mul(steps, np.float32(0.5))])
    run_pipeline(made, "fix(fold,dce)")
    verify(made)
    assert made.main.outputs[0].array().tolist() == [0, 0.5, 1, 1.5]


def test_a_range_that_turns_out_to_have_no_length_is_refused() -> None:
    _, b = start()
    with pytest.raises(TypeInferError, match=r"range at .*: a range from 0.0 to 4.0 by 0.0 has no length"):
        folded(b, b.range(*(b.cast(np.asarray(n, np.int64), to=F32) for n in (0, 4, 0))))


def test_large_unsigned_elements() -> None:
    _, b = start()
    value = b.identity(b.const(np.array([2**64 - 1, 0], np.uint64)))
    assert folded(b, value) == [] and b.graph.outputs[0].type is TensorType(U64, (2,))
    assert b.graph.outputs[0].array().tolist() == [2**64 - 1, 0]


def test_special_numbers_fold_bit_for_bit() -> None:
    made = module("""() {
      const %c = [0x7fc00001, 0x80000000, 0x7f800000, 1e-45] : f32[4]
      const %z = [0.0, 0x80000000, 1.0, 2.0] : f32[4]
      %a = mul(%c, %z) : f32[4]
      %b = add(%c, %z) : f32[4]
      %d = div(%z, %c) : f32[4]
      return(%a, %b, %d)
    }""")
    assert_same_numbers(made, optimised(made, "fold"), exact=True)


def test_kernels_that_refuse_leave_the_node() -> None:
    text = "() { const %a = [1, 2] : i32[2] const %b = [0, 1] : i32[2] %y = div(%a, %b) : i32[2] return(%y) }"
    assert ops(optimised(text, "fold")) == ["div"], "division by zero is found when it runs, not when it is compiled"


def test_random_nodes_and_regions_stay() -> None:
    text = """() {
      const %c = true : bool[]
      const %x = 1.0 : f32[]
      %y = if(%c, %x) : f32[] {
        then(%t: f32[]) { return(%t) }
        else(%e: f32[]) { return(%e) }
      }
      const %s = [2] : i64[1]
      %r = random_normal(%s) {seed = 1, salt = 1} : f32[2]
      return(%y, %r)
    }"""
    assert ops(optimised(text, "fold")) == ["if", "random_normal"]


def test_folding_does_not_wait_for_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from anyir.kernels import jit

    def compiled(function: object) -> None:
        raise AssertionError("a small fold compiles nothing")

    monkeypatch.setattr(jit, "_compile", compiled)
    text = """() {
      const %w = [1.0, 2.0, 3.0, 4.0] : f32[1, 1, 2, 2]
      %y = max_pool(%w) {kernel_shape = [2, 2]} : f32[1, 1, 1, 1]
      return(%y)
    }"""
    assert ops(optimised(text, "fold")) == []


def test_the_result_does_not_depend_on_how_often_it_runs() -> None:
    made = module("() { const %c = [1.5] : f32[1] %a = exp(%c) : f32[1] %b = log(%a) : f32[1] return(%b) }")
    once, twice = optimised(made, "fold,dce"), optimised(optimised(made, "fold,dce"), "fold,dce")
    assert same_bits(once.main.outputs[0].array(), twice.main.outputs[0].array())
