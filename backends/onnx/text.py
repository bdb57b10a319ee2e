"""Rows of the ops on strings."""

from __future__ import annotations

from ...ir.graph import Node
from .emitter import Emitter
from .registry import emits


@emits("string_concat", since=20)
def string_concat(e: Emitter, n: Node) -> None:
    e.node("StringConcat", n.operands)


@emits("string_split", since=20)
def string_split(e: Emitter, n: Node) -> None:
    e.node("StringSplit", n.operands, delimiter=n.attr("delimiter"), maxsplit=n.attr("maxsplit"))


@emits("string_normalizer", since=10)
def string_normalizer(e: Emitter, n: Node) -> None:
    e.node(
        "StringNormalizer",
        n.operands,
        case_change_action=n.attr("case_change_action"),
        is_case_sensitive=n.attr("is_case_sensitive"),
        locale=n.attr("locale") or None,
        stopwords=n.attr("stopwords") or None,
    )


@emits("regex_full_match", since=20)
def regex_full_match(e: Emitter, n: Node) -> None:
    e.node("RegexFullMatch", n.operands, pattern=n.attr("pattern"))


@emits("tf_idf_vectorizer", since=9)
def tf_idf_vectorizer(e: Emitter, n: Node) -> None:
    """Empty lists are left out."""
    e.node("TfIdfVectorizer", n.operands, **{name: value if value != () else None for name, value in n.attrs.items()})
