"""Inference of elementwise ops: broadcasting with symbols, dtype rules, arithmetic on known elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anyir.ir.errors import TypeInferError
from anyir.ir.types import BF16, BOOL, F32, I4, I8, I32, I64, U8, U32


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [
        (("N", 3), ("N", 3), "N, 3"),
        (("N", 1), (1, "M"), "N, M"),
        (("N", 3), (3,), "N, 3"),
        (("N", 4), (7, 4), "7, 4"),
        ((0, "N"), (1, 1), "0, N"),
        ((), ("N",), "N"),
    ],
)
def test_broadcasting(s: Any, shape_of: Any, left: tuple, right: tuple, wanted: str) -> None:
    assert shape_of(s.b.add(s.value(*left), s.value(*right))) == wanted


def test_two_symbols_may_broadcast_to_something_else(s: Any) -> None:
    n, m = s.value("N"), s.value("M")
    first, again = s.b.add(n, m), s.b.mul(m, n)
    assert first.shape == again.shape  # the same unknown, whoever asks
    assert str(first.shape[0]) not in ("N", "M")
    assert s.b.add(first, s.value("K")).shape != first.shape


def test_what_does_not_broadcast_is_refused(s: Any) -> None:
    with pytest.raises(TypeInferError, match=r"\[2, 3\] and \[2, 4\] do not broadcast \(axis 1"):
        s.b.add(s.value(2, 3), s.value(2, 4))


def test_dtypes_never_promote(s: Any) -> None:
    with pytest.raises(TypeInferError, match="must agree"):
        s.b.add(s.value(2), s.value(2, dtype=BF16))
    with pytest.raises(TypeInferError, match="dtype i32"):
        s.b.exp(s.value(2, dtype=I32))
    assert s.b.pow(s.value(2), s.value(2, dtype=I32)).dtype is F32
    assert s.b.less(s.value(2), s.value(2)).dtype is BOOL


def test_unknown_types_stay_unknown(s: Any, shape_of: Any) -> None:
    y = s.b.add(s.unranked(), s.value(3))
    assert shape_of(y) == "*" and y.dtype is F32
    assert s.b.exp(s.unranked(None)).dtype is None


@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        ("add", "N + 2"),
        ("sub", "N - 2"),
        ("mul", "2*N"),
        ("div", "N//2"),
        ("floor_div", "N//2"),
        ("mod", "N % 2"),
        ("max", "max(N, 2)"),
        ("min", "min(N, 2)"),
    ],
)
def test_arithmetic_on_dims(s: Any, op: str, wanted: str) -> None:
    (n,) = s.b.shape(s.value("N")).elems
    y = getattr(s.b, op)(s.b.shape(s.value("N")), 2)
    assert [str(e) for e in y.elems] == [wanted], n


@pytest.mark.parametrize(
    ("op", "a", "b", "wanted"),
    [
        ("div", -7, 2, -3),
        ("floor_div", -7, 2, -4),
        ("mod", -7, 2, 1),
        ("pow", 3, 4, 81),
        ("add", 2**63 - 1, 1, -(2**63)),
        ("bitwise_and", 12, 10, 8),
        ("equal", 3, 3, 1),
        ("less", 3, 3, 0),
    ],
)
def test_arithmetic_on_numbers(s: Any, op: str, a: int, b: int, wanted: int) -> None:
    assert getattr(s.b, op)(s.b.const(np.array(a)), s.b.const(np.array(b))).ints() == (wanted,)


def test_small_integers_wrap_and_symbols_do_not_fit_them(s: Any) -> None:
    n = s.b.shape(s.value("N", 300))
    small = s.b.cast(n, to=U8)
    assert small.elems == (None, 44)
    assert s.b.cast(n, to=I4).elems == (None, -4)
    assert [str(e) for e in s.b.cast(n, to=I32).elems] == ["N", "300"]
    assert s.b.cast(n, to=F32).elems is None
    assert s.b.cast(s.b.const(np.array([1000], np.int64)), to=I8).ints() == (-24,)


def test_division_by_a_known_zero_says_nothing(s: Any) -> None:
    assert s.b.div(s.b.shape(s.value("N")), 0).elems is None


def test_comparisons_of_dims(s: Any) -> None:
    n, m = s.b.shape(s.value("N")), s.b.shape(s.value("M"))
    assert s.b.equal(n, n).ints() == (1,)
    assert s.b.equal(n, m).elems is None
    assert s.b.less(n, s.b.add(n, 1)).ints() == (1,)
    assert s.b.less(n, 0).ints() == (0,)
    assert s.b.greater_equal(n, 0).ints() == (1,)
    assert s.b.not_(s.b.equal(n, n)).ints() == (0,)
    assert s.b.and_(s.b.equal(n, m), s.b.less(n, 0)).ints() == (0,)
    assert s.b.or_(s.b.equal(n, m), s.b.less_equal(0, n)).ints() == (1,)


def test_selection(s: Any) -> None:
    n, m = s.b.shape(s.value("N")), s.b.shape(s.value("M"))
    pick = s.b.where(s.b.const(np.array([True])), n, m)
    assert pick.elems == n.elems
    assert s.b.where(s.b.equal(n, m), n, n).elems == n.elems
    assert s.b.where(s.b.equal(n, m), n, m).elems is None
    minus = s.b.where(
        s.b.equal(s.b.const(np.array([3, -1])), -1), s.b.const(np.array([1, 1])), s.b.const(np.array([3, -1]))
    )
    assert minus.ints() == (3, 1)


def test_clip_of_a_dim(s: Any) -> None:
    n = s.b.shape(s.value("N"))
    zero, nine = s.b.const(np.array(0)), s.b.const(np.array(9))
    assert [str(e) for e in s.b.clip(n, zero, nine).elems] == ["min(N, 9)"]
    assert s.b.clip(n, None, s.value(dtype=I64)).elems is None
    with pytest.raises(TypeInferError, match="scalar"):
        s.b.clip(s.value(2), s.value(2))


def test_abs_and_sign_of_dims(s: Any) -> None:
    n = s.b.shape(s.value("N"))
    assert s.b.abs(n).elems == n.elems
    assert s.b.abs(s.b.sub(n, 5)).elems is None
    assert s.b.sign(s.b.add(n, 1)).ints() == (1,)
    assert [str(e) for e in s.b.neg(n).elems] == ["-N"]


def test_bitcast_needs_one_width(s: Any) -> None:
    assert s.b.bitcast(s.value("N"), to=U32).dtype is U32
    with pytest.raises(TypeInferError, match="32 bits"):
        s.b.bitcast(s.value("N"), to=I64)


def test_prelu_does_not_grow_x(s: Any) -> None:
    with pytest.raises(TypeInferError, match="broadcast"):
        s.b.prelu(s.value(1, 3), s.value(2, 3))
    with pytest.raises(TypeInferError, match="rank"):
        s.b.prelu(s.value(3), s.value(1, 3))


def test_axis_is_checked(s: Any) -> None:
    with pytest.raises(TypeInferError, match="axis 2 is out of range"):
        s.b.softmax(s.value("N", 3), axis=2)
