"""Kernels of the text family, and what other kernels need of strings: their normal form, numbers read and spelled.

A string is `str`, or `bytes` where it is not UTF-8; tensors of strings are object arrays. Everything here is plain
Python; sizes are asked of the budget before they are made. `re2` is imported when it is called.
"""

from __future__ import annotations

import decimal
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..ir.errors import InvalidModel, MissingPackage
from ..ir.types import DType
from .budget import SLOW, hold, spend
from .registry import kernel

Array = np.ndarray
Text = str | bytes

#: Languages whose i has a dot in upper case too, and what that changes beside the common rules.
DOTTED = {"tr", "az"}
UPPER, LOWER = str.maketrans({"i": "İ"}), str.maketrans({"I": "ı", "İ": "i"})

#: What spells a number: an optional sign, decimal digits with one point, an exponent; or a word.
NUMBER = re.compile(r"\s*[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?|nan)\s*", re.ASCII | re.IGNORECASE)
WHOLE = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
#: Multiply-adds that take as long as reading or writing a number exactly.
READING = 20 * SLOW
#: More digits than any number type tells apart.
MOST_DIGITS = 4096


def text(item: Any) -> Text:
    """The normal form of one string: `str` where it is UTF-8."""
    if isinstance(item, bytes):
        try:
            return item.decode()
        except UnicodeDecodeError:
            return bytes(item)
    return str(item)


def raw(item: Text) -> bytes:
    """The bytes of a string."""
    return item if isinstance(item, bytes) else item.encode("utf-8", "surrogatepass")


def texts(x: Any) -> Array:
    """Strings in their normal form, as an object array of the same shape."""
    return _each(text, np.asarray(x, object))


def _each(function: Callable[[Any], Any], x: Array) -> Array:
    """An object array of what `function` makes of each element."""
    made = np.empty(x.size, object)
    made[:] = [function(item) for item in x.reshape(-1)]
    return made.reshape(x.shape)


@kernel("string_concat")
def string_concat(x: Array, y: Array) -> Array:
    """x + y, broadcast. Raises OverBudget before strings that are too long are made."""
    left, right = np.broadcast_arrays(x, y)
    hold(sum(len(a) + len(b) for a, b in zip(left.flat, right.flat, strict=True)))
    made = np.empty(left.size, object)
    made[:] = [_joined(a, b) for a, b in zip(left.flat, right.flat, strict=True)]
    return made.reshape(left.shape)


def _joined(a: Text, b: Text) -> Text:
    return a + b if isinstance(a, str) and isinstance(b, str) else text(raw(a) + raw(b))


@kernel("string_split")
def string_split(x: Array, *, delimiter: str | None, maxsplit: int | None) -> tuple[Array, Array]:
    """(parts, padded with "" to the most; their counts), cut as Python's `split` does: an empty string has no part
    without a delimiter and one empty part with one."""
    rows = [_parts(item, delimiter or None, -1 if maxsplit is None else maxsplit) for item in x.reshape(-1)]
    counts = np.array([len(row) for row in rows], np.int64).reshape(x.shape)
    most = max(map(len, rows), default=0)
    hold(8 * most * len(rows))
    made = np.full((len(rows), most), "", object)
    for place, row in zip(made, rows, strict=True):
        place[: len(row)] = row
    return made.reshape(*x.shape, most), counts


def _parts(item: Text, delimiter: str | None, most: int) -> list[Text]:
    if isinstance(item, str):
        return item.split(delimiter, most)  # type: ignore[return-value]
    return [text(part) for part in item.split(None if delimiter is None else raw(delimiter), most)]


@kernel("string_normalizer")
def string_normalizer(
    x: Array, *, case_change_action: str, is_case_sensitive: bool, locale: str, stopwords: tuple[str, ...]
) -> Array:
    """Words that are no stop words, in the wanted case; one empty string when none is left (ONNX StringNormalizer-10)."""
    if x.ndim == 2 and x.shape[0] != 1:
        raise InvalidModel(f"string_normalizer: {x.shape[0]} rows of words, one expected", code="F020")
    alike = (lambda word: word) if is_case_sensitive else (lambda word: _cased(word, "LOWER", locale))
    stops = {alike(word) for word in stopwords}
    kept = [word for word in x.reshape(-1) if alike(word) not in stops]
    made = np.empty(max(len(kept), 1), object)
    made[:] = [_cased(word, case_change_action, locale) for word in kept] or [""]
    return made.reshape((1,) * (x.ndim - 1) + (-1,))


def _cased(word: Text, action: str, locale: str) -> Text:
    """Unicode's rules, and those of languages with a dotted and a dotless i; bytes that are no text stay as they are."""
    if isinstance(word, bytes) or action == "NONE":
        return word
    dotted = locale[:2].lower() in DOTTED
    if action == "UPPER":
        return (word.translate(UPPER) if dotted else word).upper()
    return (word.translate(LOWER) if dotted else word).lower()


@kernel("regex_full_match")
def regex_full_match(x: Array, *, pattern: str) -> Array:
    """bool[...]: RE2 matches the whole string, in time linear in its length. Raises MissingPackage without `re2`,
    InvalidModel for a pattern that is none."""
    try:
        import re2
    except ImportError:
        raise MissingPackage(
            "regular expressions need the package google-re2", hint="pip install 'anyir[regex]'"
        ) from None
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True  # else memory is taken for every bracket
    try:
        compiled = re2.compile(raw(pattern), options)
    except re2.error as error:
        raise InvalidModel(f"regex_full_match: {pattern!r} is no RE2 pattern: {_said(error)}", code="F020") from None
    made = np.array([compiled.fullmatch(raw(item)) is not None for item in x.reshape(-1)], np.bool_)
    return made.reshape(x.shape)


def _said(error: Exception) -> str:
    """RE2 reports in bytes."""
    said = error.args[0] if error.args else ""
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)


@kernel("tf_idf_vectorizer")
def tf_idf_vectorizer(
    x: Array,
    *,
    max_gram_length: int,
    max_skip_count: int,
    min_gram_length: int,
    mode: str,
    ngram_counts: tuple[int, ...],
    ngram_indexes: tuple[int, ...],
    pool_int64s: tuple[int, ...],
    pool_strings: tuple[str, ...],
    weights: tuple[float, ...],
) -> Array:
    """f32: counts of the pool's n-grams in each row; see the op (ONNX TfIdfVectorizer-9)."""
    grams = _pool(pool_strings or pool_int64s, ngram_counts, min_gram_length, max_gram_length)
    rows = x.reshape(x.shape[0] if x.ndim == 2 else 1, x.shape[-1] if x.ndim else 1)
    size = max(ngram_indexes) + 1
    hold(8 * len(rows) * size)
    made = np.zeros((len(rows), size), np.float64)
    for row, tokens in zip(made, rows.tolist(), strict=True):
        for number, count in _counted(tokens, grams, max_skip_count).items():
            weight = weights[number] if weights and mode != "TF" else 1.0
            row[ngram_indexes[number]] += weight * (1 if mode == "IDF" else count)
    return made.astype(np.float32).reshape(*x.shape[:-1], size)


def _pool(pool: tuple, starts: tuple[int, ...], low: int, high: int) -> dict[int, dict[tuple, int]]:
    """By length, the n-grams that are counted and their numbers in the pool; of equal ones the last."""
    grams: dict[int, dict[tuple, int]] = {}
    number = 0
    for length, (start, end) in enumerate(zip(starts, (*starts[1:], len(pool)), strict=True), 1):
        for at in range(start, end, length):
            if low <= length <= high:
                grams.setdefault(length, {})[pool[at : at + length]] = number
            number += 1
    return grams


def _counted(tokens: list, grams: dict[int, dict[tuple, int]], skips: int) -> dict[int, int]:
    """How often each n-gram of the pool occurs. A single token has nothing to skip: it counts once."""
    found: dict[int, int] = {}
    for length, known in grams.items():
        far = min(skips, len(tokens) // (length - 1)) if length > 1 else 0
        for step in range(1, far + 2):
            reach = step * (length - 1)
            if reach < len(tokens):
                spend(SLOW * len(tokens) * (length + 2))
            for at in range(len(tokens) - reach):
                number = known.get(tuple(tokens[at : at + reach + 1 : step]))
                if number is not None:
                    found[number] = found.get(number, 0) + 1
    return found


def numbers(x: Array, to: DType) -> Array:
    """The numbers that strings spell (ONNX Cast-25), as an exact int64 or uint64 array for an integer type and as float64
    for others; for a type narrower than that, rounded to odd, so that the rounding to come is the only one.

    Plain and scientific spellings, INF and NaN in any case; for an integer type what stands after the point is dropped.
    Raises InvalidModel for anything else, and for what does not fit into an integer type.
    """
    spend(READING * x.size)
    spelled = [_spelling(item) for item in x.reshape(-1)]
    if not to.is_int:
        read = float if to.bits // (1 + (to.kind == "complex")) == 64 else _to_odd
        return np.array([read(item) for item in spelled], np.float64).reshape(x.shape)
    low = -(1 << (to.bits - 1)) if to.is_signed else 0
    whole = [_whole(item) for item in spelled]
    for item, value in zip(spelled, whole, strict=True):
        if not low <= value < low + (1 << to.bits):
            raise InvalidModel(f"cast: {item!r} does not fit into {to}", code="F021")
    return np.array(whole, np.int64 if to.is_signed else np.uint64).reshape(x.shape)


def _spelling(item: Text) -> str:
    if isinstance(item, bytes) or len(item) > MOST_DIGITS or not NUMBER.fullmatch(item):
        raise InvalidModel(f"cast: {item[:40]!r} spells no number", code="F021", hint="the strings must spell numbers")
    return item.strip()


def _whole(item: str) -> int:
    """The integral part. Raises InvalidModel for what has none, or one beyond every integer type."""
    if WHOLE.fullmatch(item):
        return int(item)
    value = _exact(item)
    if value is None or not value.is_finite() or value.adjusted() > MOST_DIGITS:
        raise InvalidModel(f"cast: {item!r} is no integer", code="F021")
    return int(value)


def _exact(item: str) -> decimal.Decimal | None:
    """The number itself; None where its exponent is out of all bounds."""
    try:
        return decimal.Decimal(item)
    except decimal.InvalidOperation:
        return None


def _to_odd(item: str) -> float:
    """The float64 nearest to the number; where it is not exact, the neighbour with an odd last bit instead, which rounds
    to any narrower type as the number itself does."""
    near = float(item)
    if not math.isfinite(near):
        return near
    exact, found = _exact(item), decimal.Decimal(near)
    if exact is None or exact == found or np.float64(near).view(np.int64) & 1:
        return near
    return math.nextafter(near, math.inf if exact > found else -math.inf)


def spellings(x: Iterable[Any]) -> list[str]:
    """Numbers as strings: integers and bools in decimal; floats plainly, by the fewest digits that read back as the
    same value; NaN, INF and -INF (ONNX Cast-25)."""
    return [_spell(item) for item in x]


def _spell(item: Any) -> str:
    if item.dtype.kind != "f":
        return str(int(item))
    if np.isnan(item):
        return "NaN"
    if np.isinf(item):
        return "INF" if item > 0 else "-INF"
    return np.format_float_positional(item, trim="-")
