"""Sequences and optionals, alone and through control flow, against onnxruntime and ONNX's reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

import onnx
from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.dims import symbols
from anyir.ir.errors import InvalidModel, Unsupported, UsageError
from anyir.ir.types import F32, OptionalType, SequenceType, TensorType
from anyir.kernels.inputs import sample_inputs
from anyir.kernels.run import run
from anyir.tests.support.onnx_peers import (
    agrees,
    in_reference,
    in_runtime,
    model,
    on_kernels,
    refused,
    same,
    valid,
    written,
)
from onnx import TensorProto, helper

F = np.float32
X = np.arange(24, dtype=F).reshape(6, 4)


def number(n: int) -> np.ndarray:
    return np.array(n, np.int64)


def rows(*sizes: int) -> list[np.ndarray]:
    return [np.full((n, 2), n, F) for n in sizes]


@pytest.mark.parametrize("at", [-3, -1, 0, 1, 2])
def test_taking_out_and_putting_in(at: int) -> None:
    agrees(
        model("""g (seq(float[N,2]) s, float[M,2] x, int64 at) => (seq(float[]) put, seq(float[]) cut, float[A,2] one, int64 n) {
          put = SequenceInsert (s, x, at)
          more = SequenceInsert (put, x)
          cut = SequenceErase (more, at)
          less = SequenceErase (cut)
          one = SequenceAt (less, at)
          n = SequenceLength (put)
        }"""),
        {"s": rows(1, 2, 3), "x": rows(4)[0], "at": number(at)},
    )


@pytest.mark.parametrize(
    ("op", "at"), [("SequenceAt", 2), ("SequenceAt", -3), ("SequenceErase", 2), ("SequenceInsert", 3)]
)
def test_positions_out_of_range_are_refused(op: str, at: int) -> None:
    extra = "x, " if op == "SequenceInsert" else ""
    proto = model(
        f"g (seq(float[N,2]) s, float[1,2] x, int64 at) => (int64 n) {{ t = {op} (s, {extra}at) n = Size (x) k = Identity (t) }}"
    )
    proto.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="k"))
    feeds = {"s": rows(1, 2), "x": rows(1)[0], "at": number(at)}
    assert f"position {at} in a sequence of 2" in str(refused(proto, feeds))


def test_splitting() -> None:
    agrees(
        model("""g (float[N,4] x, int64 k, int64[3] v) =>
          (seq(float[]) a, seq(float[]) b, seq(float[]) c, seq(float[]) d, float[Z,4] all) {
          a = SplitToSequence (x)
          b = SplitToSequence <axis = -1, keepdims = 0> (x)
          c = SplitToSequence <axis = 1> (x, k)
          d = SplitToSequence (x, v)
          all = ConcatFromSequence <axis = 0, new_axis = 0> (d)
        }""", opset=13),
        {"x": X, "k": number(3), "v": np.array([1, 2, 3])},
        {"x": X, "k": number(5), "v": np.array([0, 6, 0])},
        {"x": X[:0], "k": number(1), "v": np.array([0, 0, 0])},
    )  # fmt: skip


def test_lengths_keep_the_axis() -> None:
    """`keepdims` counts only where no lengths are given; onnxruntime fails there."""
    text = "g (float[6,4] x, int64 k) => (seq(float[]) s) { s = SplitToSequence <axis = 1, keepdims = 0> (x, k) }"
    agrees(model(text), {"x": X, "k": number(1)}, peer="reference")


@pytest.mark.parametrize(
    ("split", "said"), [(number(0), "pieces of length 0"), (np.array([1, 2]), "do not add up to 6")]
)
def test_splits_that_do_not_work_out_are_refused(split: np.ndarray, said: str) -> None:
    shape = "" if split.ndim == 0 else "[2]"
    text = f"g (float[6,4] x, int64{shape} k) => (int64 n) {{ s = SplitToSequence (x, k) n = SequenceLength (s) }}"
    assert said in str(refused(model(text), {"x": X, "k": split}))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_joining_and_stacking(axis: int) -> None:
    stacked = model(
        f"g (seq(float[N,2]) s) => (float[A,B,C] y) {{ y = ConcatFromSequence <axis = {axis}, new_axis = 1> (s) }}"
    )
    agrees(stacked, {"s": rows(3, 3, 3)}, expected=[[np.stack(rows(3, 3, 3), axis)]])
    if axis < 2:
        joined = model(
            f"g (seq(float[N,2]) s) => (float[A,B] y) {{ y = ConcatFromSequence <axis = {axis}, new_axis = 0> (s) }}"
        )
        agrees(joined, {"s": rows(3, 3)})
    assert "empty" in str(refused(stacked, {"s": []}))


COLLECT = """g (int64 n, float[N,3] x) => (float[A,3] y, float[B,C,D] all, seq(float[]) s) {
  e = SequenceEmpty ()
  go = Constant <value = bool {1}> ()
  s = Loop (n, go, e) <body = b (int64 i, bool ci, seq(float[]) si) => (bool co, seq(float[]) so) {
    co = Identity (ci)
    f = Cast <to = 1> (i)
    p = Add (x, f)
    so = SequenceInsert (si, p)
  }>
  last = Constant <value = int64 {-1}> ()
  y = SequenceAt (s, last)
  all = ConcatFromSequence <axis = 1, new_axis = 1> (s)
}"""


def test_a_loop_that_fills_an_empty_sequence_knows_what_is_in_it() -> None:
    x = np.ones((2, 3), F)
    module = agrees(model(COLLECT), {"n": number(1), "x": x}, {"n": number(3), "x": x})
    y, stacked, s = (v.type for v in module.main.outputs)
    assert str(y) == "f32[N, 3]" and stacked.shape[0] == y.shape[0] and s is SequenceType(y)
    assert run(module, {"n": number(2), "x": x})["s"][1].tolist() == (x + 1).tolist()


def test_each_element_has_sizes_of_its_own() -> None:
    """What is taken out twice need not have one shape, however alike the types look."""
    module = frontend.read(
        model("""g (seq(float[N,2]) s, float[K,2] k) => (float[A,2] a, float[B,2] b, float[C,2] c) {
          zero = Constant <value = int64 {0}> ()
          one = Constant <value = int64 {1}> ()
          a = SequenceAt (s, zero)
          b = SequenceAt (s, one)
          t = SequenceConstruct (k, k)
          c = SequenceAt (t, one)
        }""")
    )
    a, b, c = (v.type for v in module.main.outputs)
    assert a.shape[0] != b.shape[0] and not set(symbols(a.shape[0])) & set(symbols(b.shape[0])) and a.shape[1] == 2
    assert str(c) == "f32[K, 2]"  # a size with a name is one size
    made = run(module, {"s": rows(1, 2), "k": rows(3)[0]})
    assert [y.shape for y in made.values()] == [(1, 2), (2, 2), (3, 2)]


@pytest.mark.parametrize("front", [True, False])
def test_branches_in_a_loop_on_a_sequence(front: bool) -> None:
    agrees(
        model("""g (int64 n, float[3] x, bool c) => (seq(float[]) s, float[A] all, int64 len) {
          e = SequenceConstruct (x)
          go = Constant <value = bool {1}> ()
          s = Loop (n, go, e) <body = b (int64 i, bool ci, seq(float[]) si) => (bool co, seq(float[]) so) {
            co = Identity (ci)
            one = Constant <value = int64 {1}> ()
            zero = Constant <value_ints = [0]> ()
            ii = Add (i, one)
            ie = Unsqueeze (ii, zero)
            p = Slice (x, zero, ie)
            so = If (c) <
              then_branch = t () => (seq(float[]) st) { z = Constant <value = int64 {0}> () st = SequenceInsert (si, p, z) },
              else_branch = f () => (seq(float[]) sf) { sf = SequenceInsert (si, p) }>
          }>
          all = ConcatFromSequence <axis = 0, new_axis = 0> (s)
          len = SequenceLength (s)
        }"""),
        *({"n": number(n), "x": np.array([1, 2, 3], F), "c": np.array(front)} for n in (0, 3)),
    )


PASSING = """g (seq(float[]) a, int64 n) => (seq(float[]) y, seq(float[]) z, seq(float[]) again) {
  go = Constant <value = bool {1}> ()
  y, z = Loop (n, go, a, a) <body = b (int64 i, bool ci, seq(float[]) s, seq(float[]) t)
    => (bool co, seq(float[]) s, seq(float[]) so) { co = Identity (ci) so = SequenceErase (t) }>
  again = Identity (a)
}"""


def test_sequences_that_only_pass_through() -> None:
    feeds = {"a": rows(1, 2), "n": number(1)}
    proto = model(PASSING, opset=14)
    module = agrees(proto, feeds, expected=[[rows(1, 2), rows(1), rows(1, 2)]])
    proto.opset_import[0].version = 13
    with pytest.raises(Unsupported, match=r"return.*opset 14 has it"):
        backend.to_model_proto(module, opset=13)
    raised = backend.to_model_proto(
        frontend.read(model(PASSING.replace("again = Identity", "again = SequenceErase"), opset=13))
    )
    assert raised.opset_import[0].version == 14 and valid(raised)


MAP = """g (seq(float[N]) a, float[1] b, seq(float[M]) c) => (seq(float[]) y, seq(int64[]) z, int64 l) {
  k = Neg (b)
  y, z = SequenceMap (a, b, c) <body = bb (float[N] p, float[1] q, float[M] r) => (float[P] yo, int64[Q] zo) {
    t = Add (p, q)
    u = Add (t, r)
    yo = Mul (u, k)
    zo = Shape (yo)
  }>
  l = SequenceLength (y)
}"""


@pytest.mark.parametrize("opset", [17, 23])
def test_sequence_map_is_a_loop(opset: int) -> None:
    full = {"a": [np.ones(2, F), np.ones(3, F)], "b": np.array([5], F), "c": [np.ones(1, F), np.ones(3, F)]}
    empty: dict[str, Any] = {"a": [], "b": np.array([5], F), "c": []}
    module = agrees(model(MAP, opset=opset), full, empty)
    assert [node.name for node in module.main.nodes()][-2:] == ["loop", "sequence_length"]
    file = written(module)
    assert backend.to_model_proto(frontend.read(file)).SerializeToString() == file.SerializeToString()


def test_a_body_with_the_wrong_arity_is_refused() -> None:
    assert "takes 3 and yields 2" in str(refused(model(MAP.replace("(a, b, c) <", "(a, b) <")), {}))


OPTIONAL = """g (bool c, float[2] x) => (bool h, {0} o) {{
  o = If (c) <
    then_branch = t () => ({0} a) {{ {1} }},
    else_branch = e () => ({0} b) {{ b = Optional <type: type_proto = {2}> () }}>
  h = OptionalHasElement (o)
}}"""


@pytest.mark.parametrize("opset", [16, 18])
def test_an_optional_tensor_or_sequence(opset: int) -> None:
    x = np.array([1, 2], F)
    for type_, made, inner in (
        ("optional(float[2])", "a = Optional (x)", "float[2]"),
        ("optional(seq(float[2]))", "s = SequenceConstruct (x) a = Optional (s)", "seq(float[2])"),
    ):
        proto = model(OPTIONAL.format(type_, made, inner), opset=opset)
        module = frontend.read(proto)
        assert isinstance(module.main.outputs[1].type, OptionalType)
        for flag in (True, False):
            feeds = {"c": np.array(flag), "x": x}
            there = x if "seq" not in type_ else [x]
            wanted = [np.array(flag), there if flag else None]
            agrees(proto, feeds, expected=[wanted], runs=False)
            for level in (0, 2):
                file = written(module, level)
                assert valid(file)
                same(in_runtime(proto, feeds), in_runtime(file, feeds))
    assert (
        written(frontend.read(proto)).SerializeToString() == written(frontend.read(written(module))).SerializeToString()
    )


def test_the_element_of_an_optional() -> None:
    proto = model(
        "g (optional(float[N]) o) => (float[N] y, bool h) { y = OptionalGetElement (o) h = OptionalHasElement (o) }"
    )
    agrees(proto, {"o": np.ones(3, F)}, peer="reference")
    assert "the value is absent" in str(refused(proto, {"o": None}))


def test_what_is_no_optional_has_its_element() -> None:
    """Since opset 18; the answer is a constant, which older files can hold too."""
    proto = model("""g (float[2] x, seq(float[2]) s) => (float[2] y, seq(float[]) t, bool a, bool b, bool c) {
      y = OptionalGetElement (x)
      t = OptionalGetElement (s)
      a = OptionalHasElement (x)
      b = OptionalHasElement (s)
      c = OptionalHasElement ()
    }""")
    feeds = {"x": np.ones(2, F), "s": [np.ones(2, F)]}
    module = agrees(proto, feeds, peer="reference")
    older = written(module, opset=15)
    assert {n.op_type for n in older.graph.node} == {"Identity"} and valid(older)
    same(on_kernels(proto, feeds), in_reference(older, feeds))


def test_a_loop_over_an_optional_that_its_body_fills() -> None:
    proto = model(
        """g (int64 n, optional(seq(float[])) o) => (seq(float[]) y) {
      go = Constant <value = bool {1}> ()
      y = Loop (n, go, o) <body = b (int64 i, bool ci, optional(seq(float[])) v) => (bool co, seq(float[]) vo) {
        co = Identity (ci)
        h = OptionalHasElement (v)
        x = Constant <value_floats = [1.0, 2.0]> ()
        s = If (h) <
          then_branch = t () => (seq(float[]) st) { st = OptionalGetElement (v) },
          else_branch = e () => (seq(float[]) se) { se = SequenceConstruct (x) }>
        vo = SequenceInsert (s, x)
      }>
    }""",
        opset=16,
    )
    x = np.array([1, 2], F)
    agrees(proto, {"n": number(2), "o": None}, {"n": number(1), "o": [x]}, expected=[[[x] * 3], [[x] * 2]], runs=False)


ASKED = """g (seq(float[N,2]) s, optional({0}) o) => (int64 n, bool h) {{
  n = SequenceLength (s)
  h = OptionalHasElement (o)
}}"""


def test_inputs_are_checked() -> None:
    module = frontend.read(model(ASKED.format("float[2]")))
    assert [y.tolist() for y in run(module, {"s": rows(1, 5), "o": None}).values()] == [2, False]
    for s, o, said in (
        (np.ones((3, 2), F), None, "wants a list"),
        ([np.ones(2, F)], None, r"'s\[0\]' has shape \[2\]"),
        ([np.ones((1, 2), F), np.ones((1, 2), complex)], None, r"'s\[1\]' is complex128"),
        ([], np.ones(3, F), "'o' has shape"),
    ):
        with pytest.raises(UsageError, match=said):
            run(module, {"s": s, "o": o})


def test_samples_for_sequences_and_optionals() -> None:
    module = frontend.read(model(ASKED.format("seq(int64[3])")))
    made = sample_inputs(module)
    assert [a.shape[1] for a in made["s"]] == [2, 2, 2] and [a.shape for a in made["o"]] == [(3,)] * 3
    assert [y.tolist() for y in run(module, made).values()] == [3, True]


def test_elements_of_different_dtypes_are_refused() -> None:
    proto = model("g (float[2] x, int64[2] y) => (int64 n) { s = SequenceConstruct (x, y) n = SequenceLength (s) }")
    with pytest.raises(InvalidModel, match="f32 and i64"):
        frontend.read(proto)
    proto = model("g (float[2] x, seq(int64[2]) y) => (int64 n) { s = SequenceInsert (y, x) n = SequenceLength (s) }")
    with pytest.raises(InvalidModel, match="f32 and i64"):
        frontend.read(proto)


@pytest.mark.parametrize("code", [TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL])
def test_an_empty_sequence_has_its_dtype(code: int) -> None:
    node = helper.make_node("SequenceEmpty", [], ["s"], dtype=code)
    output = helper.make_value_info("s", helper.make_sequence_type_proto(helper.make_tensor_type_proto(code, None)))
    proto = helper.make_model(helper.make_graph([node], "g", [], [output]), opset_imports=[helper.make_opsetid("", 18)])
    assert (
        agrees(proto, {}, peer="reference").main.outputs[0].type.elem == frontend.read(proto).main.outputs[0].type.elem
    )
    plain = frontend.read(model("g () => (int64 n) { s = SequenceEmpty () n = SequenceLength (s) }"))
    assert next(plain.main.nodes("sequence_empty")).attr("elem") is TensorType(F32)


@pytest.mark.parametrize("target", ["tflite", "mindir", "torch"])
def test_other_targets_refuse_by_name(target: str) -> None:
    import importlib

    other = importlib.import_module(f"anyir.backends.{target}")
    left = str(other.offenders(frontend.read(model(COLLECT))))
    assert "sequence_at" in left and "concat_from_sequence" in left
