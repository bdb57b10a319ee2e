"""Ops on strings: joining, splitting, cleaning, matching, and counting n-grams of words or numbers.

ONNX's operators of the same names. A string is text; what a file holds that is not UTF-8 stays bytes. Knows no kernels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..dims import Expr
from ..errors import TypeInferError
from ..opdef import ELEMENTWISE, PURE, OpDef, Sample, attr, floats, ints, op, operand, strs
from ..types import BOOL, F32, I32, I64, STRING, TensorType
from .rules import ranked
from .shapes import broadcast_values

TEXT = frozenset({STRING})
TOKENS = frozenset({STRING, I32, I64})


def words(*items: str) -> np.ndarray:
    """A vector of strings, for samples."""
    return np.array(items, object)


@op
class StringConcat(OpDef):
    """Each string of `x` followed by that of `y`; both broadcast."""

    x = operand(TEXT)
    y = operand(TEXT)
    traits = PURE | ELEMENTWISE

    def infer(self, x, y):
        return TensorType(STRING, broadcast_values([x, y]))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((words("a", "b c", ""), words("x", "", "z")))
        yield Sample((words("a", "b").reshape(2, 1), words("x", "é", "z")))
        yield Sample((np.array("a", object), words("x", "y")))


@op
class StringSplit(OpDef):
    """The parts of each string between `delimiter`s, along a new last axis, missing ones ""; and how many there are.

    At most `maxsplit` cuts are made, from the left. Without a delimiter runs of white space are one, and white space at
    both ends is dropped. The new axis is as long as the most parts.
    """

    x = operand(TEXT)
    delimiter = attr(str, None)
    maxsplit = attr(int, None)
    results = ("y", "counts")

    def infer(self, x, *, delimiter, maxsplit):
        shape = None if x.shape is None else (*x.shape, Expr.fresh())
        return TensorType(STRING, shape), TensorType(I64, x.shape)

    def samples(self, rng):
        x = words("a b  c", " d ", "e")
        yield Sample((x,))
        yield Sample((x.reshape(3, 1),), {"maxsplit": 1})
        yield Sample((words("a,b,,c", ",", "d"),), {"delimiter": ","})
        yield Sample((words("a--b-c", "--", "d"),), {"delimiter": "--", "maxsplit": 1})


@op
class StringNormalizer(OpDef):
    """A list of words without those in `stopwords`, in upper or lower case: [C] or [1, C] to the same rank.

    Whether a word is a stop word does not depend on its case unless `is_case_sensitive`. When no word is left, one empty
    string is. `locale` is one such as tr_TR where case depends on the language.
    """

    x = operand(TEXT)
    case_change_action = attr(str, "NONE", choices=("NONE", "LOWER", "UPPER"))
    is_case_sensitive = attr(bool, False)
    locale = attr(str, "")
    stopwords = attr(strs, ())

    def infer(self, x, *, stopwords, **attrs):
        shape = ranked(x, "the operand of string_normalizer", 1, 2)
        if shape is None:
            return TensorType(STRING)
        if len(shape) == 2 and type(shape[0]) is int and shape[0] != 1:
            raise TypeInferError(f"string_normalizer takes one row of words, not {shape[0]}")
        kept = Expr.fresh() if stopwords or type(shape[-1]) is not int else max(shape[-1], 1)
        return TensorType(STRING, (kept,) if len(shape) == 1 else (1, kept))

    def samples(self, rng):
        x = words("Monday", "the", "THE", "tuesday")
        yield Sample((x,))
        yield Sample((x,), {"stopwords": ("the",), "case_change_action": "UPPER"})
        yield Sample((x.reshape(1, 4),), {"stopwords": ("the",), "is_case_sensitive": True})
        yield Sample((x[1:3],), {"stopwords": ("The",), "case_change_action": "LOWER"})


@op
class RegexFullMatch(OpDef):
    """bool: the regular expression `pattern` (RE2 syntax) matches the whole string."""

    x = operand(TEXT)
    pattern = attr(str)
    traits = PURE | ELEMENTWISE

    def infer(self, x, *, pattern):
        return TensorType(BOOL, x.shape)

    def samples(self, rng):
        x = words("ab", "aab", "b", "")
        yield Sample((x,), {"pattern": "a*b"})
        yield Sample((x.reshape(2, 2),), {"pattern": "(a|b){2}"})


@op
class TfIdfVectorizer(OpDef):
    """How often each n-gram of the pool occurs among the elements of a row: [C] or [N, C] to [size] or [N, size].

    `pool_strings` or `pool_int64s` holds all 1-grams, then all 2-grams and so on, the k-grams from `ngram_counts[k - 1]`
    on; the count of the i-th n-gram of the pool stands at `ngram_indexes[i]`. N-grams of `min_gram_length` to
    `max_gram_length` are counted, their elements next to each other or with the same number, up to `max_skip_count`, of
    others between. Mode IDF is weight i where the i-th occurs, TFIDF weight i times its count.
    """

    x = operand(TOKENS)
    max_gram_length = attr(int)
    max_skip_count = attr(int)
    min_gram_length = attr(int)
    mode = attr(str, choices=("TF", "IDF", "TFIDF"))
    ngram_counts = attr(ints)
    ngram_indexes = attr(ints)
    pool_int64s = attr(ints, ())
    pool_strings = attr(strs, ())
    weights = attr(floats, ())

    def infer(self, x, **attrs):
        check_pool(attrs, None if x.dtype is None else x.dtype is STRING)
        shape = ranked(x, "the operand of tf_idf_vectorizer", 0, 1, 2)
        size = max(attrs["ngram_indexes"], default=-1) + 1
        return TensorType(F32, None if shape is None else (*shape[:-1], size))

    def samples(self, rng):
        row = np.array([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]], np.int64)
        pool = {
            "ngram_counts": (0, 4),
            "ngram_indexes": (6, 5, 4, 3, 2, 1, 0),
            "pool_int64s": (2, 3, 5, 4, 5, 6, 7, 8, 6, 7),
        }
        for mode in ("TF", "IDF", "TFIDF"):
            weights = () if mode == "TF" else (0.5, 2.0, 1.0, 3.0, 4.0, 5.0, 6.0)
            lengths = {"min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 5}
            yield Sample((row,), {**pool, **lengths, "mode": mode, "weights": weights})
        names = {"ngram_counts": (0, 1), "ngram_indexes": (1, 0), "pool_strings": ("a", "a", "b")}
        lengths = {"min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 0, "mode": "TF"}
        yield Sample((words("a", "b", "a", "b"),), {**names, **lengths})
        yield Sample((row[0].astype(np.int32),), {**pool, **lengths})


def check_pool(attrs: dict, of_strings: bool | None) -> None:
    """The attributes of tf_idf_vectorizer fit together. Raises TypeInferError."""
    texts, numbers, starts = attrs["pool_strings"], attrs["pool_int64s"], attrs["ngram_counts"]
    if bool(texts) == bool(numbers):
        raise TypeInferError("a pool of strings or one of integers is needed, and not both")
    if of_strings is not None and of_strings != bool(texts):
        raise TypeInferError(f"a pool of {'strings' if texts else 'integers'} for the other kind of operand")
    count = len(texts or numbers)
    ends = (*starts[1:], count)
    if not starts or starts[0] != 0 or any(not 0 <= a <= b for a, b in zip(starts, ends, strict=True)):
        raise TypeInferError(f"ngram_counts {starts[:20]} do not cut a pool of {count}")
    if any((b - a) % n for n, (a, b) in enumerate(zip(starts, ends, strict=True), 1)):
        raise TypeInferError("an n-gram of the pool is cut short")
    grams = sum((b - a) // n for n, (a, b) in enumerate(zip(starts, ends, strict=True), 1))
    indexes, weights = attrs["ngram_indexes"], attrs["weights"]
    if len(indexes) != grams or min(indexes) < 0:
        raise TypeInferError(f"{len(indexes)} ngram_indexes for {grams} n-grams, or one of them is negative")
    if weights and len(weights) != grams:
        raise TypeInferError(f"{len(weights)} weights for {grams} n-grams")
    low, high = attrs["min_gram_length"], attrs["max_gram_length"]
    if not 1 <= low <= high or attrs["max_skip_count"] < 0:
        raise TypeInferError(f"n-grams of {low} to {high} elements with up to {attrs['max_skip_count']} skipped")
