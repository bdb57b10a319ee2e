"""Pipelines as text: they read back, and mistakes are shown where they stand."""

from __future__ import annotations

import pytest
from anyir.ir.errors import UsageError
from anyir.passes.manager import check_pipeline
from anyir.passes.pipeline import DEPTH_LIMIT, Fix, Step, parse_pipeline, print_pipeline
from anyir.passes.presets import LEVELS, preset
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True).filter(lambda name: name not in ("fix",))
VALUES = st.one_of(
    st.booleans(), st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(blacklist_characters="'\n", blacklist_categories=("Cs",)), max_size=8),
)  # fmt: skip
STEPS = st.builds(Step, NAMES, st.dictionaries(NAMES, VALUES, max_size=3))
PIPELINES = st.recursive(
    st.lists(STEPS, max_size=3), lambda inner: st.lists(st.one_of(STEPS, st.builds(lambda s: Fix(tuple(s)), inner)), max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(PIPELINES)
def test_what_is_printed_reads_back(steps: list[Step | Fix]) -> None:
    back = parse_pipeline(print_pipeline(steps))
    assert back == steps
    assert repr(back) == repr(steps), "1 is not 1.0 and not true"


def test_the_example_of_the_design() -> None:
    text = "canonicalize,fold{max_bytes=1000000},fix(cse,dce)"
    steps = parse_pipeline(text)
    assert steps == [Step("canonicalize"), Step("fold", {"max_bytes": 1000000}), Fix((Step("cse"), Step("dce")))]
    assert print_pipeline(steps) == text


def test_blanks_do_not_matter() -> None:
    assert parse_pipeline(" a { x = 1 , y = true } , fix ( b ) ") == parse_pipeline("a{x=1,y=true},fix(b)")
    assert parse_pipeline("") == [] and parse_pipeline("fix()") == [Fix(())]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("false", False), ("1", 1), ("-3", -3), ("1.0", 1.0), ("1e-5", 1e-05), ("-2.", -2.0),
        ("word", "word"), ("a-b.c", "a-b.c"), ("'two words'", "two words"), ("'true'", "true"), ("''", ""),
        ("block:32", "block:32"), ("block:4x1", "block:4x1"), ("2:4", "2:4"), ("'block:32'", "block:32"),
    ],
)  # fmt: skip
def test_values(text: str, value: object) -> None:
    (step,) = parse_pipeline(f"p{{v={text}}}")
    assert repr(step.options["v"]) == repr(value)


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("a b", "unexpected 'b'", 3), ("a,,b", "expected a pass, found ','", 3), ("a,", "a pass is missing", 3),
        ("a{x}", "expected '=', found '}'", 4), ("a{x=}", "expected a value", 5), ("a{x=1", "expected '}', found 'the end'", 6),
        ("a{x=1,x=2}", "option x is given twice", 8), ("fix(a", "expected ')'", 6), ("a)", "unexpected ')'", 2),
        ("b(a)", "only fix(...) groups passes", 2), ("1", "expected a pass, found '1'", 1), ("a;b", "unexpected ';'", 2),
        ("a{x='1}", "unexpected", 5),
    ],
)  # fmt: skip
def test_mistakes_are_shown_where_they_stand(text: str, message: str, column: int) -> None:
    with pytest.raises(UsageError) as caught:
        parse_pipeline(text)
    first, shown, caret = str(caught.value).splitlines()
    assert message in first and f"at column {column} " in first
    assert shown == f"  {text}" and caret.index("^") == column + 1


def test_deep_nesting_is_refused() -> None:
    assert parse_pipeline("fix(" * DEPTH_LIMIT + "a" + ")" * DEPTH_LIMIT)
    with pytest.raises(UsageError, match="nested too deeply"):
        parse_pipeline("fix(" * 2000 + "a" + ")" * 2000)


@pytest.mark.parametrize("level", LEVELS)
def test_presets_are_pipelines_with_reasons(level: int) -> None:
    assert print_pipeline(parse_pipeline(preset(level))) == preset(level).replace("1e-5", "1e-05")
    assert all(len(reason) > 10 for _, reason in LEVELS[level])


def test_there_is_no_level_four() -> None:
    with pytest.raises(UsageError, match="no level -O4"):
        preset(4)


def test_pairs_need_no_quotes() -> None:
    text = "prune{structure=2:4},quantize{per=block:32}"
    assert print_pipeline(parse_pipeline(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quantize{weights=int9}", "quantize: weights='int9'; weights is one of: int8, int4, float16"),
        ("prune{ranking=best}", "prune: ranking='best'; ranking is one of: local, global"),
    ],
)
def test_a_choice_that_there_is_not_is_refused_before_anything_runs(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_pipeline(f"dce,{text}")
