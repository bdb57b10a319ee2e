"""Kernels on strings: formulas and Python's own string methods as judges; what is not UTF-8, hostile sizes and patterns."""

from __future__ import annotations

import builtins
import itertools
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.errors import InvalidModel, MissingPackage, TypeInferError
from anyir.ir.graph import Module
from anyir.ir.types import BOOL, C64, C128, F16, F32, F64, I4, I8, I32, I64, STRING, U8, U64, DType, TensorType
from anyir.kernels.budget import Budget, OverBudget, spending
from anyir.kernels.run import run
from anyir.kernels.text import numbers, text, texts

Call = Callable[..., Any]
BROKEN = b"\xff\xfe"


def words(*items: Any) -> np.ndarray:
    return np.array(items, object)


def test_the_normal_form_of_strings() -> None:
    made = texts(np.array([["a", b"b"], [np.str_("c"), np.bytes_(b"\xc3\xa9")]], object))
    assert made.tolist() == [["a", "b"], ["c", "é"]] and all(type(s) is str for s in made.flat)
    assert text(BROKEN) == BROKEN and texts(np.array(["x", "yz"])).dtype == object
    assert texts(np.array("x", object)).shape == () and texts(np.zeros((0, 2), object)).shape == (0, 2)


def test_concat(call: Call) -> None:
    assert call("string_concat", words("a", "é"), words("b")).tolist() == ["ab", "éb"]
    made = call("string_concat", words("a", BROKEN).reshape(2, 1), words("b", BROKEN))
    assert made.tolist() == [["ab", b"a\xff\xfe"], [b"\xff\xfeb", BROKEN * 2]]
    assert call("string_concat", words(b"\xc3"), words(b"\xa9")).tolist() == ["é"]  # two halves of one character
    assert call("string_concat", np.array("a", object), np.array("b", object)).shape == ()


def test_a_string_that_doubles_costs_its_length() -> None:
    """Sixty lines of a model would ask for an exabyte."""
    module = Module()
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(STRING, (1,)), "x")
    b, y = Builder(graph), x
    for _ in range(60):
        y = b.string_concat(y, y)
    graph.set_outputs([y])
    module.add_signature("main", graph, ["x"], ["y"])
    with spending(Budget(10**12, 10**6)), pytest.raises(OverBudget):
        run(module, [words("0123456789")])


@pytest.mark.parametrize("delimiter", [None, "", ",", "--", " "])
@pytest.mark.parametrize("most", [None, 0, 1, 2])
def test_split(delimiter: str | None, most: int | None, call: Call) -> None:
    given = ["a b  c", " a ", "", "a,b,,c", "--a--", "x"]
    wanted = [s.split(delimiter or None, -1 if most is None else most) for s in given]
    x = words(*given).reshape(2, 3)
    y, counts = call("string_split", x, delimiter=delimiter, maxsplit=most)
    longest = max(map(len, wanted))
    assert y.shape == (2, 3, longest) and counts.dtype == np.int64
    assert counts.reshape(-1).tolist() == [len(w) for w in wanted]
    assert y.reshape(6, -1).tolist() == [w + [""] * (longest - len(w)) for w in wanted]


def test_split_of_nothing_and_of_bytes(call: Call) -> None:
    y, counts = call("string_split", np.zeros((0,), object))
    assert y.shape == (0, 0) and counts.shape == (0,)
    y, _ = call("string_split", words(b"a,\xff,b"), delimiter=",")
    assert y.tolist() == [["a", b"\xff", "b"]]


def test_normalizer(call: Call) -> None:
    x = words("The", "the", "Straße", "i", BROKEN)

    def made(**attrs: Any) -> list:
        return call("string_normalizer", x, **attrs).tolist()

    assert made() == x.tolist()
    assert made(stopwords=("THE",)) == ["Straße", "i", BROKEN]
    assert made(stopwords=("the",), is_case_sensitive=True) == ["The", "Straße", "i", BROKEN]
    assert made(stopwords=("the", "The"), case_change_action="UPPER") == ["STRASSE", "I", BROKEN]
    assert made(case_change_action="UPPER", locale="tr_TR.UTF-8")[2:4] == ["STRASSE", "İ"]
    turkish = call("string_normalizer", words("Iİ"), case_change_action="LOWER", locale="az")
    assert turkish.tolist() == ["ıi"]


def test_normalizer_without_words_left(call: Call) -> None:
    x = words("a", "A")
    assert call("string_normalizer", x, stopwords=("a",)).tolist() == [""]
    assert call("string_normalizer", x.reshape(1, 2), stopwords=("a",)).tolist() == [[""]]
    assert call("string_normalizer", np.zeros((1, 0), object)).tolist() == [[""]]
    with pytest.raises(InvalidModel, match="2 rows"):
        call("string_normalizer", x.reshape(2, 1))


def test_regex(call: Call) -> None:
    x = words("ab", "aab\n", "é", BROKEN, "").reshape(1, 5)
    assert call("regex_full_match", x, pattern="a*b").tolist() == [[True, False, False, False, False]]
    assert call("regex_full_match", x, pattern=".").tolist() == [[False, False, True, False, False]]
    assert call("regex_full_match", x, pattern=r"\C\C").tolist() == [[True, False, True, True, False]]
    with pytest.raises(InvalidModel, match=r"'\(\?=a\)' is no RE2 pattern: invalid perl operator"):
        call("regex_full_match", x, pattern="(?=a)")


def test_a_hostile_pattern_takes_linear_time(call: Call) -> None:
    """Python's own `re` would need 2**5000 steps."""
    begin = time.process_time()
    assert not call("regex_full_match", words("a" * 5000 + "!"), pattern="(a+)+")[0]
    assert time.process_time() - begin < 5


def test_without_re2_the_extra_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *rest: Any, **named: Any) -> Any:
        if name == "re2":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(MissingPackage) as error:
        call("regex_full_match", words("a"), pattern="a")
    assert "anyir[regex]" in error.value.hint


def counted(tokens: list, pool: list[tuple], low: int, high: int, skips: int) -> list[int]:
    """How often each n-gram occurs, from the definition: its elements stand in a row at one distance."""
    found = []
    for gram in pool:
        distances = range(1, skips + 2) if len(gram) > 1 else (1,)
        found.append(
            sum(
                tuple(tokens[at : at + d * (len(gram) - 1) + 1 : d]) == gram
                for d in distances
                for at in range(len(tokens))
                if low <= len(gram) <= high
            )
        )
    return found


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_tf_idf(seed: int, mode: str, call: Call) -> None:
    rng = np.random.default_rng(seed)
    alphabet: list[Any] = [3, 5, 7] if seed % 2 else ["a", "é", "c"]
    sizes = [int(rng.integers(0, 4)) for _ in range(3)]
    sizes[0] += 1
    pool: list[tuple] = []
    for length, size in enumerate(sizes, 1):
        grams = list(itertools.product(alphabet, repeat=length))
        pool += [grams[int(i)] for i in sorted(rng.choice(len(grams), min(size, len(grams)), replace=False))]
    starts = [sum(len(g) for g in pool if len(g) < n) for n in (1, 2, 3)]
    indexes = [int(i) for i in rng.permutation(len(pool) + 2)[: len(pool)]]
    weights = [float(w) for w in rng.integers(1, 9, len(pool)) / 4] if seed % 3 else []
    low, high, skips = int(rng.integers(1, 3)), int(rng.integers(2, 4)), int(rng.integers(0, 4))
    rows = [[alphabet[int(i)] for i in rng.integers(0, 3, 9)] for _ in range(3)]
    x = np.array(rows, object if isinstance(alphabet[0], str) else (np.int64, np.int32)[seed % 4 == 1])
    flat = tuple(token for gram in pool for token in gram)
    attrs = {
        "mode": mode, "min_gram_length": low, "max_gram_length": high, "max_skip_count": skips,
        "ngram_counts": starts, "ngram_indexes": indexes, "weights": weights,
        "pool_strings" if isinstance(alphabet[0], str) else "pool_int64s": flat,
    }  # fmt: skip
    wanted = np.zeros((3, max(indexes) + 1), np.float32)
    for row, tokens in zip(wanted, rows, strict=True):
        for i, count in enumerate(counted(tokens, pool, low, high, skips)):
            weight = weights[i] if weights and mode != "TF" else 1.0
            row[indexes[i]] = weight * (min(count, 1) if mode == "IDF" else count)
    np.testing.assert_array_equal(call("tf_idf_vectorizer", x, **attrs), wanted)
    np.testing.assert_array_equal(call("tf_idf_vectorizer", x[1], **attrs), wanted[1])


POOL: dict[str, Any] = {
    "mode": "TF", "min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 0, "ngram_counts": (0, 1),
    "ngram_indexes": (0, 1), "pool_int64s": (1, 1, 2),
}  # fmt: skip


def test_tf_idf_of_nothing(call: Call) -> None:
    assert call("tf_idf_vectorizer", np.zeros((2, 0), np.int64), **POOL).tolist() == [[0, 0], [0, 0]]
    assert call("tf_idf_vectorizer", np.zeros((0, 3), np.int64), **POOL).shape == (0, 2)
    assert call("tf_idf_vectorizer", np.array(1), **POOL).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pool_strings": ("a",)}, "not both"),
        ({"pool_int64s": ()}, "not both"),
        ({"ngram_counts": (0, 2)}, "cut short"),
        ({"ngram_counts": (0, 9)}, "do not cut a pool of 3"),
        ({"ngram_counts": (1, 1)}, "do not cut a pool of 3"),
        ({"ngram_indexes": (0,)}, "1 ngram_indexes for 2 n-grams"),
        ({"ngram_indexes": (0, -1)}, "negative"),
        ({"weights": (1.0,)}, "1 weights for 2"),
        ({"min_gram_length": 3}, "n-grams of 3 to 2"),
        ({"pool_int64s": (), "pool_strings": ("a", "a", "b")}, "for the other kind"),
    ],
)
def test_tf_idf_attributes_that_do_not_fit_are_refused(change: dict, said: str) -> None:
    graph = Module().add_graph("main")
    x = graph.add_input(TensorType(I64, (4,)))
    with pytest.raises(TypeInferError, match=said):
        Builder(graph).tf_idf_vectorizer(x, **{**POOL, **change})


@pytest.mark.parametrize("dtype", [F32, F64, F16, I8, U8, I32, I64, U64, I4, BOOL, C64, C128])
def test_numbers_in_strings(dtype: DType, call: Call) -> None:
    made = call("cast", words("1", "+0", " 1e0 ", "1.0", "001"), to=dtype)
    assert made.dtype == dtype.numpy and made.tolist() == np.array([1, 0, 1, 1, 1]).astype(dtype.numpy).tolist()


def test_whole_numbers_are_exact(call: Call) -> None:
    edges = [str(2**63 - 1), str(-(2**63)), "9007199254740993", "-0.9", "1.5e3", "12345678901234567.0"]
    wanted = [2**63 - 1, -(2**63), 9007199254740993, 0, 1500, 12345678901234567]
    assert call("cast", words(*edges), to=I64).tolist() == wanted
    assert call("cast", words(str(2**64 - 1)), to=U64).tolist() == [2**64 - 1]


@pytest.mark.parametrize(("item", "dtype"), [
    (str(2**63), I64), ("-1", U8), ("128", I8), ("8", I4), ("INF", I32), ("nan", I64), ("1e300", I64), ("1e99999999999", I64),
    ("1_0", F32), ("0x10", F32), ("١", I64), ("", F32), ("one", F32), ("1 2", I64), (BROKEN, F32), ("9" * 5000, F64),
])  # fmt: skip
def test_what_is_no_number_of_the_type_is_refused(item: Any, dtype: DType, call: Call) -> None:
    with pytest.raises(InvalidModel, match="cast:"):
        call("cast", words(item), to=dtype)


def test_special_numbers(call: Call) -> None:
    made = call(
        "cast", words("INF", "+inf", "-Infinity", "NaN", "-0", "1e999", "1e-999", "0e99999999999999999999"), to=F32
    )
    assert made[:3].tolist() == [np.inf, np.inf, -np.inf] and np.isnan(made[3])
    assert np.signbit(made[4]) and made[5] == np.inf and made[6:].tolist() == [0, 0]


@pytest.mark.parametrize("target", [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_decimals_round_once(target: Any, call: Call) -> None:
    """A decimal just above the middle of two floats, which float64 takes for the middle, goes up."""
    dtype = DType.of(target)
    digits = {"f32": 24, "f16": 11, "bf16": 8, "f8e5m2": 3}[dtype.name]
    middle = 1 + Fraction(1, 2**digits)
    exact = f"{middle.numerator * 10**digits // middle.denominator:0{digits + 1}d}"
    plain = f"{exact[0]}.{exact[1:]}"
    up = float(np.array(1, target).astype(np.float64)) + 2.0 ** (1 - digits)
    items = words(plain, plain + "0" * 40 + "1", "-" + plain + "0" * 40 + "1")
    assert call("cast", items, to=dtype).astype(np.float64).tolist() == [1.0, up, -up]
    assert numbers(words("0.1"), F64)[0] == 0.1


def test_numbers_are_spelled_to_be_read_back(call: Call) -> None:
    rng = np.random.default_rng(5)
    for dtype in (np.float32, np.float64, np.float16):
        x = (rng.standard_normal(200) * 10.0 ** rng.integers(-4, 4, 200)).astype(dtype)
        spelled = call("cast", x, to=STRING)
        np.testing.assert_array_equal(call("cast", spelled, to=DType.of(dtype)), x)
        assert not any("e" in s for s in spelled)  # plain, as ONNX wants it
    assert call("cast", np.array([True, False]), to=STRING).tolist() == ["1", "0"]
    assert call("cast", np.array(-5, np.int8), to=STRING).item() == "-5"
