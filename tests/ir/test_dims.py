"""Symbolic dims: evaluation is a homomorphism, text round-trips, comparison never contradicts evaluation."""

from __future__ import annotations

import copy
import operator
import pickle  # noqa: TID251  (our own objects travel between processes)

import numpy as np
import pytest
from anyir.ir.dims import (
    Expr,
    Facts,
    bind_shape,
    ceildiv,
    dim_eq,
    dim_le,
    dim_lt,
    dim_max,
    dim_min,
    dim_range,
    evaluate,
    match_dim,
    parse_dim,
    product,
    simplify,
    substitute,
    sym,
    symbols,
)
from anyir.ir.errors import AnyIRError, InvalidModel, UsageError
from hypothesis import given, settings
from hypothesis import strategies as st

N, M, K = sym("N"), sym("M"), sym("K")

# A tree is an int, a symbol's name, or (operator, left, right): built once as a dim and once as plain numbers.
OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "min": dim_min,
    "max": dim_max,
    "ceildiv": ceildiv,
}
NUMBERS = OPERATORS | {"min": min, "max": max, "ceildiv": lambda a, b: -(-a // b)}
leaves = st.one_of(st.integers(-6, 9), st.sampled_from(["N", "M", "K"]))
trees = st.recursive(leaves, lambda inner: st.tuples(st.sampled_from(sorted(OPERATORS)), inner, inner), max_leaves=9)
values = st.fixed_dictionaries({name: st.integers(0, 40) for name in "NMK"})


def fold(tree, leaf, table):
    if not isinstance(tree, tuple):
        return leaf(tree)
    op, left, right = tree
    return table[op](fold(left, leaf, table), fold(right, leaf, table))


def as_dim(tree):
    """The dim of a tree, or None where it divides by the number zero."""
    try:
        return fold(tree, lambda leaf: sym(leaf) if isinstance(leaf, str) else leaf, OPERATORS)
    except (ZeroDivisionError, InvalidModel):
        return None


def as_number(tree, bound):
    """The number of a tree, or None where it divides by zero under these values."""
    try:
        return fold(tree, lambda leaf: bound[leaf] if isinstance(leaf, str) else leaf, NUMBERS)
    except ZeroDivisionError:
        return None


@settings(max_examples=600)
@given(trees, values)
def test_evaluation_is_a_homomorphism(tree, bound):
    dim, number = as_dim(tree), as_number(tree, bound)
    if dim is not None and number is not None:
        assert evaluate(dim, bound) == number


@settings(max_examples=400)
@given(trees)
def test_text_round_trips(tree):
    dim = as_dim(tree)
    if dim is not None:
        assert parse_dim(str(dim)) == dim
        assert pickle.loads(pickle.dumps(dim)) is dim or not isinstance(dim, Expr)


@settings(max_examples=400)
@given(trees, trees, st.lists(values, min_size=1, max_size=6))
def test_comparison_never_contradicts_evaluation(left, right, bounds):
    a, b = as_dim(left), as_dim(right)
    if a is None or b is None:
        return
    answers = [(dim_eq(a, b), operator.eq), (dim_lt(a, b), operator.lt), (dim_le(a, b), operator.le)]
    low, high = dim_range(a)
    for bound in bounds:
        x, y = as_number(left, bound), as_number(right, bound)
        if x is None or y is None:
            continue
        assert low <= x <= high
        for answer, relation in answers:
            assert answer is None or answer == relation(x, y)


@settings(max_examples=300)
@given(trees, trees, st.integers(1, 6), st.integers(0, 9), st.integers(0, 9), st.lists(st.integers(0, 9), min_size=2))
def test_facts_never_contradict_evaluation(left, right, divisor, low, span, picks):
    facts = Facts()
    facts.add_divisor("N", divisor)
    facts.add_range("M", low, low + span)
    facts.add_equal(K, 2 * M + 1)
    a, b = as_dim(left), as_dim(right)
    if a is None or b is None:
        return
    answers = [(dim_eq, operator.eq), (dim_lt, operator.lt), (dim_le, operator.le)]
    simple = simplify(a, facts)
    for n in picks:
        m = low + n % (span + 1)
        bound = {"N": n * divisor, "M": m, "K": 2 * m + 1}
        x, y = as_number(left, bound), as_number(right, bound)
        if x is None or y is None:
            continue
        assert evaluate(simple, bound) == x
        for compare, relation in answers:
            answer = compare(a, b, facts)
            assert answer is None or answer == relation(x, y), (a, b, bound)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("(2*N)//2", "N"),
        ("(4*N + 2)//2", "2*N + 1"),
        ("N % 1", "0"),
        ("N % N", "0"),
        ("N // N", "1"),
        ("(N*M + M)//M", "N + 1"),
        ("(N*N + 2*N + 1)//(N + 1)", "N + 1"),
        ("((N - 1)//2 + 1 - 1)//2 + 1", "(N + 3)//4"),
        ("(N % 8) % 4", "N % 4"),
        ("(N % 4)//4", "0"),
        ("(6*N + 3)//4", "(N + 1)//2 + N"),
        ("max(N, 0)", "N"),
        ("min(N, N + 3)", "N"),
        ("min(3, N, 7)", "min(N, 3)"),
        ("min(min(N, M), K)", "min(K, M, N)"),
        ("ceildiv(2*N, 2)", "N"),
        ("N*196 + 1", "196*N + 1"),
        ("N - N", "0"),
        ("-N + 2", "-N + 2"),
        ("(N//2)*2", "2*(N//2)"),
        ("N**2*M", "M*N^2"),
        ('"batch size" * 2', '2*"batch size"'),
        ('"min" + 1', '"min" + 1'),
    ],
)
def test_normal_form(text, normal):
    assert str(parse_dim(text)) == normal
    assert parse_dim(normal) == parse_dim(text)


def test_equal_expressions_are_one_object():
    assert (N + 1) * (N - 1) is N * N - 1
    assert copy.deepcopy(N + M) is N + M
    assert 3 * (N // 3) + N % 3 is not N
    assert dim_eq(3 * (N // 3) + N % 3, N) is True


def test_numpy_integers_mix_in():
    assert np.int64(3) * N == 3 * N == N * np.int32(3)
    assert np.int64(7) - N == 7 - N
    with pytest.raises(TypeError):
        N + 1.5


def test_no_truth_value_and_no_number():
    for use in (bool, int, range):
        with pytest.raises(TypeError):
            use(N)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (dim_le(N // 2, N), True),
        (dim_lt(N, N + 1), True),
        (dim_le(dim_min(N, 5), N), True),
        (dim_le(N, dim_max(N, 5)), True),
        (dim_eq(2 * N + 1, 4 * M), False),
        (dim_eq(N, N + 1), False),
        (dim_eq(N, M), None),
        (dim_lt(N, 1), None),
        (dim_lt(N, 0), False),
        (dim_le(N % 4, 3), True),
        (dim_lt((N + 3) // 4 * 4, N), False),
    ],
)
def test_comparisons(answer, expected):
    assert answer is expected


def test_a_declared_fact_justifies_nothing():
    facts = Facts()
    facts.add_equal(N, M, "declared")
    facts.add_divisor("N", 4, "declared")
    facts.add_range("N", 5, 9, "declared")
    assert dim_eq(N, M, facts) is None
    assert dim_eq(N % 4, 0, facts) is None
    assert dim_lt(N, 10, facts) is None
    facts.add_equal(N, M, "guard")
    assert dim_eq(N, M, facts) is True


def test_facts():
    facts = Facts()
    facts.add_divisor("N", 4)
    facts.add_divisor("N", 6, "guard")
    facts.add_range("M", 2, 10)
    facts.add_equal(N * M, K * K)
    assert dim_eq(N % 12, 0, facts) is True
    assert dim_eq(N // 2 * 2, N, facts) is True
    assert dim_lt(1, M, facts) is True
    assert dim_eq(2 * N * M, 2 * K * K, facts) is True
    assert simplify(dim_min(M, 20), facts) == M
    assert facts == facts.copy()
    with pytest.raises(InvalidModel, match="cannot be equal"):
        facts.add_equal(M, 11)
    with pytest.raises(UsageError):
        facts.add_range("M", 0, 3, "guess")
    with pytest.raises(InvalidModel):
        facts.add_range("M", 3, 2)


def test_binding_sizes():
    assert match_dim(2 * N + 1, 7) == {"N": 3}
    assert match_dim(2 * N + 1, 8) is None
    assert match_dim(N, -1) is None
    assert match_dim(N * M, 6) == {}
    assert match_dim(N * M, 6, {"N": 2}) == {"M": 3}
    assert match_dim(5, 5) == {} and match_dim(5, 6) is None
    assert bind_shape((N * M, M), (6, 3)) == {"N": 2, "M": 3}
    with pytest.raises(InvalidModel, match=r"does not fit \[N, N\] with N=2"):
        bind_shape((N, N), (2, 3))
    with pytest.raises(InvalidModel, match="rank 1"):
        bind_shape((N, N), (2,))


def test_substitution_and_symbols():
    assert substitute(N // 2 + M, {"N": 2 * K}) == K + M
    assert substitute(N + M, {"N": M, "M": N}) == N + M
    assert symbols(dim_min(N, M // K)) == ("K", "M", "N")
    assert product((N, 3, 2)) == 6 * N and product(()) == 1
    with pytest.raises(UsageError, match="N has no value"):
        evaluate(N, {})
    with pytest.raises(InvalidModel):
        evaluate(M // N, {"M": 1, "N": 0})
    with pytest.raises(InvalidModel):
        N // 0


def test_growth_is_capped_and_deterministic():
    sums = [product(sym(f"a{i}") + 1 for i in range(12)) for _ in range(2)]
    assert sums[0] is sums[1] and len(sums[0].terms) <= 64
    deep = N
    for _ in range(200):
        deep = dim_max(deep // M, 3) + 1
    assert len(str(deep)) < 2000 and parse_dim(str(deep)) is deep
    huge = N
    for _ in range(300):
        huge = huge * huge + 1
    assert len(str(huge)) < 2000
    negative = product(sym(f"a{i}") - 1 for i in range(12))
    assert dim_le(0, negative) is None and dim_le(0, sums[0]) is True


def test_fresh_symbols_are_new():
    taken = sym("_100000")
    fresh = {Expr.fresh() for _ in range(10)}
    assert len(fresh) == 10 and taken not in fresh


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "N +", "N N", "(N", "N)", "2.5", "N**", "N^-1", "N^99", "N//0", "N%0", "f(N)", "min()", "ceildiv(N)",
        "__import__('os')", "N\0", '"N', '"\\q"', "N;M", "é", "9" * 50, "(" * 100 + "N" + ")" * 100, "N" * 300_000,
        "9999999999999999999999999999999999999*9999999999999999999999999999999999999",
    ],
)  # fmt: skip
def test_bad_text_is_one_clear_error(text):
    with pytest.raises(AnyIRError):
        parse_dim(text)


def test_many_signs_and_terms_do_not_recurse():
    assert parse_dim("-" * 60_001 + "N") == -N
    assert parse_dim("+".join(["N"] * 30_000)) == 30_000 * N


def test_common_factors_cancel() -> None:
    assert str((N * M * K) // (4 * N * M)) == "K//4"
    assert str((N * M + N * K) // (N * 2)) == "(K + M)//2"
    assert (N * M * K) // (N * M) is K
    for n, m, k in ((1, 3, 9), (5, 2, 7), (3, 8, 4)):
        bindings = {"N": n, "M": m, "K": k}
        assert evaluate((N * M * K) // (4 * N * M), bindings) == (n * m * k) // (4 * n * m)
        assert evaluate((N * M + N * K) // (N * 2), bindings) == (n * m + n * k) // (2 * n)
