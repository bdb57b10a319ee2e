"""Inference of shape, arrange, index and reduce ops on symbolic dims and known elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anyir.ir.errors import TypeInferError
from anyir.ir.types import BOOL, F32, I32, I64


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("source", "target", "wanted"),
    [
        (("N", 3, 4), (0, -1), "N, 12"),
        (("N", 3, 4), (-1, 6), "2*N, 6"),
        (("N", 16, "H"), (0, 4, 4, -1), "N, 4, 4, H"),
        (("N", 4), (-1,), "4*N"),
        (("N", 6), (-1, 4), "N + N//2, 4"),
        ((2, 3), (3, 2), "3, 2"),
        ((1,), (), ""),
    ],
)
def test_reshape(s: Any, shape_of: Any, source: tuple, target: tuple, wanted: str) -> None:
    assert shape_of(s.b.reshape(s.value(*source), i64(*target))) == wanted


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ((2, 3), (4, 2), "6 elements"),
        ((2, 3), (4, -1), "do not fill"),
        ((2, 3), (-1, -1), "two -1"),
        ((2, 3), (0, 0, 0), "position 2"),
        ((2, 3), (-2, 3), "-2"),
        ((0, 3), (0, -1), "undetermined"),
    ],
)
def test_reshapes_that_cannot_be(s: Any, source: tuple, target: tuple, why: str) -> None:
    with pytest.raises(TypeInferError, match=why):
        s.b.reshape(s.value(*source), i64(*target))


def test_a_reshape_computed_from_dims(s: Any, shape_of: Any) -> None:
    """The flatten of an exporter: concat(shape(x)[0:1], -1), and heads split off a width."""
    x = s.value("N", "T", 64)
    dims = s.b.shape(x)
    first = s.b.slice(dims, i64(0), i64(1))
    assert shape_of(s.b.reshape(x, s.b.concat(first, i64(-1), axis=0))) == "N, 64*T"
    width = s.b.gather(dims, i64(2))
    heads = s.b.concat(s.b.slice(dims, i64(0), i64(2)), i64(8), s.b.div(width, 8), axis=0)
    assert shape_of(s.b.reshape(x, heads)) == "N, T, 8, 8"
    scalar = s.b.gather(dims, np.array(1))
    assert shape_of(scalar) == "" and [str(e) for e in scalar.elems] == ["T"]
    assert [str(e) for e in s.b.unsqueeze(scalar, i64(0)).elems] == ["T"]
    total = s.b.reduce_prod(dims, i64(0), keepdims=False)
    assert [str(e) for e in total.elems] == [str(s.b.size(x).elems[0])]


def test_an_unknown_entry_leaves_the_others_known(s: Any) -> None:
    other = s.value(1, dtype=I64)
    y = s.b.reshape(s.value("N", 6), s.b.concat(other, i64(3, 2), axis=0))
    assert str(y.shape[0]) == "N" and y.shape[1:] == (3, 2)
    z = s.b.reshape(s.value("N", 6), s.value(3, dtype=I64))
    assert z.rank == 3 and len(set(z.shape)) == 3
    assert s.b.reshape(s.value("N", 6), s.value("K", dtype=I64)).rank is None


@pytest.mark.parametrize(
    ("dim", "bounds", "wanted"),
    [
        ("N", (0, 2**63 - 1), "N"),
        ("N", (1, 2**31 - 1), "max(N - 1, 0)"),
        ("N", (0, -1), "max(N - 1, 0)"),
        ("N", (0, 5), "min(N, 5)"),
        ("N", (-3, 2**63 - 1), "min(N, 3)"),
        ("N + 4", (2, 2**63 - 1), "N + 2"),
        ("N", (0, 2**63 - 1, 2), "(N + 1)//2"),
        ("N", (-1, -(2**63), -1), "N"),
        (7, (5, 1, -2), "2"),
        (7, (-100, 100, 3), "3"),
    ],
)
def test_slice_lengths(s: Any, shape_of: Any, dim: Any, bounds: tuple, wanted: str) -> None:
    start, end, *step = bounds
    y = s.b.slice(s.value(dim, 2), i64(start), i64(end), i64(0), i64(*step) if step else None)
    assert shape_of(y) == f"{wanted}, 2"


def test_symbolic_lengths_hold_for_every_size(s: Any) -> None:
    from anyir.ir.dims import evaluate

    for start in (-4, -1, 0, 1, 3, 9):
        for end in (-4, -1, 0, 2, 5, 2**63 - 1):
            for step in (1, 2, 3):
                y = s.b.slice(s.value("N"), i64(start), i64(end), i64(0), i64(step))
                for n in range(8):
                    assert evaluate(y.shape[0], {"N": n}) == len(range(n)[start:end:step]), (start, end, step, n)


def test_slice_with_dim_bounds(s: Any, shape_of: Any) -> None:
    x, y = s.value("N + M", 2), s.value("N")
    assert shape_of(s.b.slice(x, i64(0), s.b.shape(y), i64(0))) == "N, 2"
    assert shape_of(s.b.slice(x, s.b.shape(y), i64(2**63 - 1), i64(0))) == "M, 2"


def test_elements_survive_moves(s: Any) -> None:
    n = s.b.shape(s.value("N", 3, 5))
    assert s.b.slice(n, i64(-1), i64(-(2**63)), i64(0), i64(-1)).elems == n.elems[::-1]
    assert s.b.reverse(n, axes=(0,)).elems == n.elems[::-1]
    assert s.b.transpose(s.b.unsqueeze(n, i64(0)), perm=(1, 0)).elems == n.elems
    assert s.b.expand(s.b.gather(n, np.array(0)), i64(2)).elems == n.elems[:1] * 2
    assert s.b.tile(n, i64(2)).elems == n.elems * 2
    assert s.b.split(n, i64(1, 2), axis=0)[1].ints() == (3, 5)
    assert s.b.scatter_nd(n, np.array([[1]]), i64(7)).elems == (n.elems[0], 7, 5)
    assert s.b.gather_nd(n, np.array([[2], [0]])).elems == (5, n.elems[0])
    assert s.b.identity(n).elems == n.elems
    assert s.b.squeeze(s.b.unsqueeze(n, i64(1)), i64(1)).elems == n.elems


def test_concat(s: Any, shape_of: Any) -> None:
    assert shape_of(s.b.concat(s.value("N", 3), s.value("M", 3), axis=0)) == "M + N, 3"
    assert shape_of(s.b.concat(s.value("N", "K"), s.value("N", 5), axis=-2)) == "2*N, 5"
    assert s.b.concat(s.unranked(), s.value("N", 3), axis=0).shape[1] == 3
    for bad, why in (((2, 4), "axis 1"), ((2,), "ranks")):
        with pytest.raises(TypeInferError, match=why):
            s.b.concat(s.value(2, 3), s.value(*bad), axis=0)


def test_split(s: Any, shape_of: Any) -> None:
    parts = s.b.split(s.value("N", 12), axis=1, num_outputs=3)
    assert [shape_of(p) for p in parts] == ["N, 4"] * 3
    halves = s.b.split(s.value("2*N"), axis=0, num_outputs=2)
    assert [shape_of(p) for p in halves] == ["N", "N"]
    with pytest.raises(TypeInferError, match="do not add up"):
        s.b.split(s.value(7), i64(3, 3), axis=0)


def test_pad(s: Any, shape_of: Any) -> None:
    assert shape_of(s.b.pad(s.value("N", 4), i64(1, 0, 2, -1))) == "N + 3, 3"
    assert shape_of(s.b.pad(s.value("N", 4), i64(1, 1), None, i64(-1), mode="edge")) == "N, 6"
    for pads, mode, why in ((i64(-3, -2), "constant", "cropped"), (i64(1, 1, 1), "constant", "3 pads")):
        with pytest.raises(TypeInferError, match=why):
            s.b.pad(s.value(4), pads, mode=mode)
    with pytest.raises(TypeInferError, match="empty axis"):
        s.b.pad(s.value(0), i64(1, 0), mode="reflect")


def test_squeeze_and_unsqueeze(s: Any, shape_of: Any) -> None:
    assert shape_of(s.b.squeeze(s.value("N", 1, 3), i64(1))) == "N, 3"
    assert shape_of(s.b.squeeze(s.value("N", 3), i64(0))) == "3"  # the dim must turn out to be 1
    assert shape_of(s.b.squeeze(s.value("N", 1))) == "*"
    assert shape_of(s.b.squeeze(s.value("N + 2", 1))) == "N + 2"
    assert shape_of(s.b.unsqueeze(s.value("N"), i64(0, -1))) == "1, N, 1"
    with pytest.raises(TypeInferError, match="size 1"):
        s.b.squeeze(s.value(2), i64(0))


def test_expand_and_tile(s: Any, shape_of: Any) -> None:
    dims = s.b.shape(s.value("N", "T"))
    assert shape_of(s.b.expand(s.value(1, 1), dims)) == "N, T"
    assert shape_of(s.b.expand(s.value(3, 1), i64(2, 1, 4))) == "2, 3, 4"
    assert shape_of(s.b.tile(s.value("N", 2), i64(3, 4))) == "3*N, 8"
    with pytest.raises(TypeInferError, match="repeats"):
        s.b.tile(s.value(2, 2), i64(2))


def test_ranges(s: Any, shape_of: Any) -> None:
    n = s.b.gather(s.b.shape(s.value("N")), np.array(0))
    assert shape_of(s.b.range(np.array(0), n, np.array(1))) == "N"
    assert shape_of(s.b.range(np.array(2), n, np.array(2))) == "max((N + 1)//2 - 1, 0)"
    assert s.b.range(np.array(5), np.array(-1), np.array(-2)).ints() == (5, 3, 1)
    zero, one, tenth = (s.b.const(np.array(v, np.float32)) for v in (0, 1, 0.1))
    assert shape_of(s.b.range(zero, one, tenth)) == "10"
    with pytest.raises(TypeInferError, match="delta 0"):
        s.b.range(np.array(0), np.array(3), np.array(0))


def test_constants_and_counts(s: Any, shape_of: Any) -> None:
    dims = s.b.shape(s.value("N", 2))
    assert shape_of(s.b.constant_of_shape(dims, value=0.0, to=F32)) == "N, 2"
    assert s.b.constant_of_shape(i64(2), value=7, to=I64).ints() == (7, 7)
    assert [str(e) for e in s.b.shape(s.value("N", 2, "M"), start=-2).elems] == ["2", "M"]
    assert str(s.b.size(s.value("N", 2)).elems[0]) == "2*N"
    assert s.b.shape(s.unranked()).elems is None


def test_depth_and_space(s: Any, shape_of: Any) -> None:
    assert shape_of(s.b.depth_to_space(s.value("N", 12, "H", 5), blocksize=2)) == "N, 3, 2*H, 10"
    assert shape_of(s.b.space_to_depth(s.value("N", 3, "4*H", 6), blocksize=2)) == "N, 12, 2*H, 3"
    for shape in ((1, 6, 2, 2), (1, 4, 2)):
        with pytest.raises(TypeInferError):
            s.b.depth_to_space(s.value(*shape), blocksize=2)


def test_gather(s: Any, shape_of: Any) -> None:
    x = s.value("N", 5, "M")
    assert shape_of(s.b.gather(x, s.value("K", 2, dtype=I64), axis=1)) == "N, K, 2, M"
    assert shape_of(s.b.gather_nd(x, s.value("N", 4, 1, dtype=I64), batch_dims=1)) == "N, 4, M"
    assert shape_of(s.b.gather_elements(x, s.value("N", 2, "M", dtype=I32), axis=1)) == "N, 2, M"
    with pytest.raises(TypeInferError, match="index 5 is out of range"):
        s.b.gather(x, i64(0, 5), axis=1)
    with pytest.raises(TypeInferError, match="4 coordinates"):
        s.b.gather_nd(x, s.value(2, 4, dtype=I64))


def test_scatter(s: Any, shape_of: Any) -> None:
    x = s.value("N", 5)
    assert shape_of(s.b.scatter_nd(x, s.value(3, 1, dtype=I64), s.value(3, 5))) == "N, 5"
    with pytest.raises(TypeInferError, match="expected shape"):
        s.b.scatter_nd(x, s.value(3, 1, dtype=I64), s.value(3, 4))
    with pytest.raises(TypeInferError, match="updates"):
        s.b.scatter_elements(x, s.value(2, 5, dtype=I64), s.value(3, 5))
    with pytest.raises(TypeInferError, match="reduction add"):
        text = s.b.const(np.array(["a"], object))
        s.b.scatter_elements(text, i64(0), text, reduction="add")


def test_data_dependent_sizes_are_fresh(s: Any) -> None:
    x = s.value(4, dtype=BOOL)
    first, second = s.b.non_zero(x), s.b.non_zero(s.value(4, dtype=BOOL))
    assert first.shape[0] == 1 and first.shape[1] != second.shape[1]
    assert s.b.non_zero(s.b.const(np.array([0, 3, 0, 2]))).ints() == (1, 3)
    assert s.b.compress(s.value("N", 2), np.array([True, False, True]), axis=0).shape == (2, 2)
    assert s.b.compress(s.value("N", 2), s.value("N", dtype=BOOL), axis=0).shape[1] == 2


def test_one_hot(s: Any, shape_of: Any) -> None:
    values = np.array([0, 1], np.float32)
    at = s.value("N", dtype=I64)
    assert shape_of(s.b.one_hot(at, np.array(10), values)) == "N, 10"
    assert shape_of(s.b.one_hot(at, s.b.gather(s.b.shape(s.value("K")), i64(0)), values, axis=0)) == "K, N"
    with pytest.raises(TypeInferError, match="values"):
        s.b.one_hot(at, np.array(10), np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("axes", "attrs", "wanted"),
    [
        ((1,), {}, "N, 1, M"),
        ((-1, 0), {"keepdims": False}, "4"),
        (None, {"keepdims": False}, ""),
        ((), {"noop_with_empty_axes": True}, "N, 4, M"),
    ],
)
def test_reductions(s: Any, shape_of: Any, axes: Any, attrs: dict, wanted: str) -> None:
    y = s.b.reduce_mean(s.value("N", 4, "M"), None if axes is None else i64(*axes), **attrs)
    assert shape_of(y) == wanted


def test_reductions_over_unknown_axes(s: Any) -> None:
    x = s.value("N", 4)
    assert s.b.reduce_sum(x, s.value(1, dtype=I64)).rank == 2
    assert s.b.reduce_sum(x, s.value(1, dtype=I64), keepdims=False).rank == 1
    assert s.b.reduce_sum(x, s.value("K", dtype=I64), keepdims=False).rank is None
    with pytest.raises(TypeInferError, match="twice"):
        s.b.reduce_sum(x, i64(0, -2))


def test_topk_and_arg_reductions(s: Any, shape_of: Any) -> None:
    values, indices = s.b.topk(s.value("N", 9), i64(3))
    assert shape_of(values) == shape_of(indices) == "N, 3" and indices.dtype is I64
    assert shape_of(s.b.arg_max(s.value("N", 9), axis=1, keepdims=False)) == "N"
    for bad in (10, -1):
        with pytest.raises(TypeInferError, match=f"k = {bad}"):
            s.b.topk(s.value("N", 9), i64(bad))
    with pytest.raises(TypeInferError, match="empty"):
        s.b.arg_max(s.value(0), axis=0)


def test_reshape_keeps_the_axes_that_it_keeps(s: Any) -> None:
    node = s.b.reshape(s.value("N", 4, 5, 7), i64(0, 20, 7)).node
    mapping = node.op.axis_map(node)
    assert [a and a.label for a in mapping.operands[0]] == ["h0", None, None, "t0"]
    assert [a and a.label for a in mapping.results[0]] == ["h0", None, "t0"]


def test_broadcasting_again_what_is_in_a_symbol_already_changes_nothing(s: Any) -> None:
    a, b, c = (s.value(name) for name in "ABC")
    both = s.b.add(a, b)
    assert both.type is not a.type and both.type is not b.type
    assert s.b.add(both, a).type is both.type and s.b.add(b, a).type is both.type
    assert s.b.add(s.b.add(c, a), b).type is s.b.add(both, c).type


def test_pieces_of_a_split_by_sizes_that_are_not_all_known(s: Any, shape_of: Any) -> None:
    def pieces(dim: Any, elems: tuple) -> list[str]:
        sizes = s.value(len(elems), dtype=I64)
        sizes.refine(sizes.type, elems)
        return [shape_of(y) for y in s.b.call("split", (s.value(dim), sizes)).results]

    assert pieces("N", (2, None)) == ["2", "N - 2"]
    assert pieces(0, (None, None, None)) == ["0", "0", "0"]
    first, second = pieces(6, (None, None))
    assert first.startswith("_") and second.startswith("_") and first != second


def test_squeezing_as_many_axes_as_can_be_meant(s: Any, shape_of: Any) -> None:
    axes = s.value(1, dtype=I64)
    assert shape_of(s.b.squeeze(s.value(1, 3, 4), axes)) == "3, 4"
    assert shape_of(s.b.squeeze(s.value("N", 3, 4), axes)) == "3, 4"
    assert s.b.squeeze(s.value(1, 3, 1), axes).shape != (3,), "either of two may be meant"
    assert all(str(d).startswith("_") for d in s.b.squeeze(s.value("N", 3, "M"), axes).shape)


def test_the_last_n_of_n(s: Any, shape_of: Any) -> None:
    """x[-n:] of n elements is all of them, for n = 0 too; of others it is not, when n may be 0."""
    x = s.value("N", dtype=F32)
    start = s.b.neg(s.b.shape(x))
    assert shape_of(s.b.slice(x, start, i64(2**63 - 1))) == "N"
    assert shape_of(s.b.slice(s.value("M"), start, i64(2**63 - 1))).startswith("_")


def test_expand_by_sizes_that_are_not_known(s: Any, shape_of: Any) -> None:
    made = s.b.expand(s.value(3, 1, "N"), s.value(3, dtype=I64))
    assert made.shape[0] == 3 and all(str(d).startswith("_") for d in made.shape[1:])
