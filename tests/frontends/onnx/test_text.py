"""Operators on strings, against onnxruntime and ONNX's reference evaluator, on the original and on what we write."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from anyir.frontends import onnx as frontend
from anyir.ir.parser import parse_module
from anyir.kernels.run import run
from anyir.tests.support.onnx_peers import agrees, in_reference, in_runtime, model, refused, same, written
from onnx import TensorProto, helper


def words(*items: Any) -> np.ndarray:
    return np.array(items, object)


TEXTS = words("a b  c", "a", "b,c", "x@y.org", "1é", " ", "a b")


def one(op: str, x: np.ndarray, outputs: int = 1, opset: int = 20, **attrs: Any) -> Any:
    """A model of one node."""
    of = TensorProto.STRING if x.dtype == object else helper.np_dtype_to_tensor_dtype(x.dtype)
    names = [f"y{i}" for i in range(outputs)]
    kinds = {"RegexFullMatch": [TensorProto.BOOL], "TfIdfVectorizer": [TensorProto.FLOAT]}.get(op)
    kinds = kinds or [TensorProto.STRING, TensorProto.INT64]
    shapes = {"StringSplit": [("A", "B"), ("A",)], "TfIdfVectorizer": [tuple("AB"[: x.ndim])]}.get(op, [("A",)] * 2)
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], names, **attrs)],
        "g",
        [helper.make_tensor_value_info("x", of, [f"N{i}" for i in range(x.ndim)])],
        [helper.make_tensor_value_info(*row) for row in zip(names, kinds, shapes, strict=False)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.mark.parametrize("attrs", [{}, {"maxsplit": 1}, {"delimiter": ","}, {"delimiter": "b", "maxsplit": 0}])
def test_split(attrs: dict[str, Any]) -> None:
    agrees(one("StringSplit", TEXTS, 2, **attrs), {"x": words("a b  c", "a", "b,c")})


@pytest.mark.parametrize("pattern", [".*", "[a-z]", r"[\w.]+@\w+\.org", "(a|b) *.*", "", r"\pN.", "a{1,3}?.*"])
def test_regex(pattern: str) -> None:
    agrees(one("RegexFullMatch", TEXTS, pattern=pattern), {"x": TEXTS})


def test_a_pattern_that_is_none_is_refused() -> None:
    assert "no RE2 pattern" in str(refused(one("RegexFullMatch", TEXTS, pattern="(?<=a)b"), {"x": TEXTS}))
    assert "RegexFullMatch has no pattern" in str(refused(one("RegexFullMatch", TEXTS), {"x": TEXTS}))


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"case_change_action": "UPPER"},
        {"case_change_action": "LOWER", "stopwords": ["MON"], "is_case_sensitive": 1},
    ],
)
def test_normalizer(attrs: dict[str, Any]) -> None:
    """onnxruntime needs locales of the system; ONNX's evaluator splits words at blanks and drops accents: none here."""
    agrees(
        one("StringNormalizer", TEXTS, opset=10, **attrs), {"x": words("Mon", "tue", "MON", "wed")}, peer="reference"
    )


@pytest.mark.parametrize("kind", ["strings", "int64s"])
@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_tf_idf(mode: str, kind: str) -> None:
    tokens = ["a", "b", "é"] if kind == "strings" else [4, 5, 6]
    rng = np.random.default_rng(2)
    rows = rng.integers(0, 3, (4, 12))
    x = np.array(tokens, object if kind == "strings" else np.int64)[rows]
    pool = [tokens[i] for i in (0, 2, 0, 1, 1, 1, 2, 0, 0, 1, 2)]
    attrs = {"ngram_counts": [0, 2, 8], "ngram_indexes": [5, 0, 3, 1, 2, 4], f"pool_{kind}": pool, "mode": mode}
    weights = {} if mode == "TF" else {"weights": [0.5, 2.0, 3.0, 1.5, 4.0, 0.25]}
    for low, high, skips in ((1, 3, 0), (2, 2, 3), (1, 2, 5)):
        lengths = {"min_gram_length": low, "max_gram_length": high, "max_skip_count": skips}
        proto = one("TfIdfVectorizer", x, opset=9, **attrs, **weights, **lengths)
        module = agrees(proto, {"x": x})
        assert str(module.main.outputs[0].type) == "f32[N0, 6]"


MANY = """g (string[2] a, string[2,1] b, bool[2] c, int64[1] i) =>
  (string[A,B] y, bool[C,D] e, string[E] w, string[G] k, string[1] t, string[2] same,
   string[1,2] r, string[2,2] x, seq(string[]) s) {
  y = StringConcat (a, b)
  e = Equal (a, b)
  lit = Constant <value_strings = ["K", "b"]> ()
  w = Where (c, a, lit)
  k = Concat <axis = 0> (a, lit)
  t = Gather (lit, i)
  same = Identity (a)
  shape = Constant <value_ints = [1, -1]> ()
  r = Reshape (a, shape)
  two = Constant <value_ints = [2, 2]> ()
  x = Expand (b, two)
  s = SequenceConstruct (a, lit, b)
}"""


def test_strings_wherever_they_may_be() -> None:
    feeds = {"a": words("x", "b"), "b": words("x", "é").reshape(2, 1), "c": np.array([True, False]), "i": np.array([1])}
    agrees(model(MANY, opset=20, ir_version=9), feeds)


CASTS = """g (string[N] s, int64[K] i, float[M] f) => (float[N] a, int64[N] b, double[N] d, string[K] t, string[M] u) {
  a = Cast <to = 1> (s)
  b = Cast <to = 7> (s)
  d = Cast <to = 11> (s)
  t = Cast <to = 8> (i)
  u = Cast <to = 8> (f)
}"""


def test_casts() -> None:
    f = np.array([1.5, 100, -0.25, 1e-3, 12345678, np.nan, np.inf, -np.inf, 3.1415927], np.float32)
    feeds = {"s": words("1", "-7", "100.5", "+3"), "i": np.array([-5, 2**62]), "f": f}
    agrees(model(CASTS), feeds)


def test_bytes_that_are_no_text_go_through_everything() -> None:
    """A file may hold them: they are read, kept by the text and by what is written, and concatenated."""
    tensor = TensorProto(name="c", data_type=TensorProto.STRING, dims=[2], string_data=[b"\xff\xfe", "é".encode()])
    proto = model(
        "g (string[2] x) => (string[2] y, bool[2] e, string[2] z) { y = StringConcat (x, c) e = Equal (x, c) z = Identity (c) }",
        opset=20,
        ir_version=9,
    )
    proto.graph.initializer.append(tensor)
    module = frontend.read(proto)
    wanted = [words(b"a\xff\xfe", "éé"), np.array([False, True]), words(b"\xff\xfe", "é")]
    feeds = {"x": words("a", "é")}
    for made in (module, parse_module(str(module)), frontend.read(written(module)), frontend.read(written(module, 2))):
        assert [y.tolist() for y in run(made, feeds).values()] == [w.tolist() for w in wanted]


def test_spelling_depends_on_the_type() -> None:
    """Two casts, the first of which loses nothing, are one, but not on the way to a string."""
    proto = model("g (float[2] x) => (string[2] y) { d = Cast <to = 11> (x) y = Cast <to = 8> (d) }")
    x = np.array([0.1, 1.25], np.float32)
    module = frontend.read(proto)
    truth = [words("0.10000000149011612", "1.25")]
    for level in (0, 2):
        file = written(module, level)
        same(truth, list(run(frontend.read(file), {"x": x}).values()))
        same(in_reference(proto, {"x": x}), in_reference(file, {"x": x}))
        same(in_runtime(proto, {"x": x}), in_runtime(file, {"x": x}))
