"""Sequences and optionals on the kernels: Python's own lists say what is right, and operands stay as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anyir.ir.errors import InvalidModel
from anyir.ir.types import F32, TensorType
from anyir.kernels.compare import compare

Call = Callable[..., Any]
A, B, C = (np.full((n, 2), n, np.float32) for n in (1, 2, 3))


def ids(items: list[np.ndarray]) -> list[int]:
    return [len(item) for item in items]


@pytest.mark.parametrize("at", range(-3, 4))
def test_insert_and_erase_as_lists_do(at: int, call: Call) -> None:
    seq = [A, B, C]
    wanted = list(seq)
    wanted.insert(at, np.zeros((9, 2), np.float32))
    made = call("sequence_insert", seq, np.zeros((9, 2), np.float32), np.array(at))
    assert ids(made) == ids(wanted) and ids(seq) == [1, 2, 3]
    if at < 3:
        del wanted[at]
        assert ids(call("sequence_erase", seq, np.array(at, np.int32))) == ids(
            [x for i, x in enumerate(seq) if i != at % 3]
        )
        assert call("sequence_at", seq, np.array([at])) is seq[at]


def test_without_a_position(call: Call) -> None:
    seq = [A, B]
    assert ids(call("sequence_insert", seq, C)) == [1, 2, 3] and ids(call("sequence_erase", seq)) == [1]
    assert ids(seq) == [1, 2] and call("sequence_length", seq).tolist() == 2
    assert call("sequence_insert", [], A) == [A] and call("sequence_empty", elem=TensorType(F32)) == []


@pytest.mark.parametrize("at", [2, -3])
@pytest.mark.parametrize(("op", "rest"), [("sequence_at", ()), ("sequence_erase", ()), ("sequence_insert", (A,))])
def test_a_position_out_of_range(op: str, rest: tuple, at: int, call: Call) -> None:
    at += 1 if rest and at > 0 else 0  # right behind the end is a place to insert
    with pytest.raises(InvalidModel, match=f"position {at} in a sequence of 2"):
        call(op, [A, B], *rest, np.array(at))


def test_split(call: Call) -> None:
    x = np.arange(12).reshape(3, 4)
    assert [p.shape for p in call("split_to_sequence", x)] == [(1, 4)] * 3
    columns = call("split_to_sequence", x, axis=-1, keepdims=False)
    assert [p.tolist() for p in columns] == x.T.tolist()
    assert [p.shape for p in call("split_to_sequence", x, np.array(3), axis=1, keepdims=False)] == [(3, 3), (3, 1)]
    assert [p.shape for p in call("split_to_sequence", x, np.array([0, 3]))] == [(0, 4), (3, 4)]
    assert call("split_to_sequence", x[:0]) == [] and call("split_to_sequence", x[:0], np.array(2)) == []
    for wrong in (np.array([1, 1]), np.array([4, -1]), np.array(0), np.array(-1)):
        with pytest.raises(InvalidModel):
            call("split_to_sequence", x, wrong)


def test_join(call: Call) -> None:
    np.testing.assert_array_equal(call("concat_from_sequence", [A, B], axis=0), np.concatenate([A, B]))
    np.testing.assert_array_equal(call("concat_from_sequence", [A, A], axis=-1, new_axis=True), np.stack([A, A], -1))
    with pytest.raises(InvalidModel, match="empty"):
        call("concat_from_sequence", [], axis=0)


def test_optionals(call: Call) -> None:
    assert call("optional", A) is A and call("optional", type=TensorType(F32)) is None
    assert call("optional_get_element", [A]) == [A] and call("optional_has_element", [A])
    assert not call("optional_has_element", None) and not call("optional_has_element")
    with pytest.raises(InvalidModel, match="absent"):
        call("optional_get_element", None)


def test_comparing_sequences() -> None:
    same = compare({"s": [A, B], "o": None}, {"s": [A, B.copy()], "o": None})
    assert same.passed and [row.name for row in same.rows] == ["s[0]", "s[1]", "o"]
    assert not compare({"s": [A, B]}, {"s": [A]}).passed and not compare({"s": [A, B]}, {"s": [A, C]}).passed
    assert not compare({"o": None}, {"o": A}).passed and not compare({"o": A}, {"o": None}).passed
