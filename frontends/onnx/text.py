"""Operators on strings."""

from __future__ import annotations

from typing import Any

from .importer import Call, Importer
from .registry import handles


@handles("StringConcat")
def string_concat(c: Importer, n: Call) -> Any:
    return c.b.string_concat(*n.inputs)


@handles("StringSplit")
def string_split(c: Importer, n: Call) -> Any:
    return c.b.string_split(n.x, delimiter=n.attr("delimiter") or None, maxsplit=n.attr("maxsplit"))


@handles("StringNormalizer")
def string_normalizer(c: Importer, n: Call) -> Any:
    return c.b.string_normalizer(
        n.x,
        case_change_action=n.attr("case_change_action", "NONE"),
        is_case_sensitive=bool(n.attr("is_case_sensitive", 0)),
        locale=n.attr("locale", ""),
        stopwords=n.attr("stopwords", ()),
    )


@handles("RegexFullMatch")
def regex_full_match(c: Importer, n: Call) -> Any:
    pattern = n.attr("pattern")
    if pattern is None:
        raise n.invalid("RegexFullMatch has no pattern")
    return c.b.regex_full_match(n.x, pattern=pattern)


@handles("TfIdfVectorizer")
def tf_idf_vectorizer(c: Importer, n: Call) -> Any:
    attrs = {name: n.attr(name) for name in ("pool_int64s", "pool_strings", "weights") if n.attr(name) is not None}
    needed = ("max_gram_length", "max_skip_count", "min_gram_length", "mode", "ngram_counts", "ngram_indexes")
    return c.b.tf_idf_vectorizer(n.x, **{name: n.attr(name) for name in needed}, **attrs)
