"""Shape and arrange kernels against numpy and torch on every dtype: they copy, so everything is exact."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from anyir.ir.errors import InvalidModel
from anyir.ir.types import BOOL, F32, I32, I64

torch = pytest.importorskip("torch")

Call = Callable[..., Any]
RNG = np.random.default_rng(8)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


DTYPES = [
    np.float32,
    np.int8,
    np.bool_,
    ml_dtypes.bfloat16,
    ml_dtypes.int4,
    ml_dtypes.float8_e5m2,
    np.complex64,
    object,
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_moves(dtype: Any, call: Call) -> None:
    x = RNG.integers(0, 2, (2, 3, 4)).astype(dtype) if dtype is not object else np.full((2, 3, 4), "s", object)
    x[0, 1, 2] = x.dtype.type(1) if dtype is not object else "t"
    same = np.testing.assert_array_equal
    same(call("transpose", x, perm=(2, 0, 1)), x.transpose(2, 0, 1))
    same(call("concat", x, x, axis=1), np.concatenate([x, x], 1))
    same(call("slice", x, i64(1), i64(3), i64(1)), x[:, 1:3])
    same(call("expand", x[:, :1], i64(1, 5, 1)), np.broadcast_to(x[:, :1], (2, 5, 4)))
    same(call("tile", x, i64(1, 2, 1)), np.tile(x, (1, 2, 1)))
    same(call("reverse", x, axes=(0, 2)), x[::-1, :, ::-1])
    same(call("pad", x, i64(0, 1, 0, 0, 0, 2), mode="edge"), np.pad(x, ((0, 0), (1, 0), (0, 2)), mode="edge"))
    filled = call("pad", x, i64(1, 0), None, i64(0))
    assert filled.shape == (3, 3, 4) and filled.dtype == x.dtype
    assert (filled[0] == ("" if dtype is object else np.zeros((), x.dtype))).all()
    assert [p.shape for p in call("split", x, i64(1, 3), axis=2)] == [(2, 3, 1), (2, 3, 3)]


def test_reshape(call: Call) -> None:
    x = np.arange(24).reshape(2, 3, 4)
    assert call("reshape", x, i64(0, -1)).shape == (2, 12)
    assert call("reshape", x, i64(4, 0, 2)).shape == (4, 3, 2)
    assert call("reshape", np.zeros((0, 3)), i64(3, 0), allowzero=True).shape == (3, 0)
    for bad in ((5, -1), (7,), (0, 0, 0, 0)):
        with pytest.raises(InvalidModel):
            call("reshape", x, i64(*bad))


BOUNDS = [-100, -4, -3, -1, 0, 1, 2, 3, 100, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("step", [-3, -2, -1, 1, 2, 5])
def test_slices_are_onnx_slices(step: int, call: Call) -> None:
    """The rules of ONNX Slice-13 spelled out: add the dim to negatives, then clamp by the direction."""
    x = np.arange(4)
    for start, end in product(BOUNDS, BOUNDS):
        first, last = (v + 4 if v < 0 else v for v in (start, end))
        low, high = (0, 4) if step > 0 else (0, 3)
        first = min(max(first, low), high)
        last = min(max(last, 0 if step > 0 else -1), 4 if step > 0 else 3)
        wanted = [int(x[i]) for i in range(first, last, step)]
        assert call("slice", x, i64(start), i64(end), None, i64(step)).tolist() == wanted, (start, end, step)


def test_slice_operands_are_checked(call: Call) -> None:
    x = np.zeros((3, 4))
    for bad in (
        (i64(0), i64(1, 2)),
        (i64(0), i64(1), i64(2)),
        (i64(0, 0), i64(1, 1), i64(1, -1)),
        (i64(0), i64(1), i64(0), i64(0)),
    ):
        with pytest.raises(InvalidModel):
            call("slice", x, *bad)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap", "constant"])
@pytest.mark.parametrize("pads", [(0, 0), (2, 0), (0, 3), (3, 2), (9, 11)])
def test_pad_modes_as_numpy(mode: str, pads: tuple[int, int], call: Call) -> None:
    for size in (1, 2, 5):
        x = RNG.standard_normal((2, size)).astype(np.float32)
        wanted = np.pad(x, ((0, 0), pads), mode=mode)
        np.testing.assert_array_equal(call("pad", x, i64(0, pads[0], 0, pads[1]), mode=mode), wanted)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap", "constant"])
def test_negative_pads_crop_first(mode: str, call: Call) -> None:
    x = np.arange(5.0, dtype=np.float32)
    wanted = np.pad(x[1:], (0, 2), mode=mode)
    np.testing.assert_array_equal(call("pad", x, i64(-1, 2), mode=mode), wanted)
    assert call("pad", x, i64(-2, -3), mode=mode).shape == (0,)
    with pytest.raises(InvalidModel, match="cropped"):
        call("pad", x, i64(-3, -3), mode=mode)


def test_pad_values_and_axes(call: Call) -> None:
    x = np.ones((2, 2), np.int32)
    assert call("pad", x, i64(1, 0), np.int32(7), i64(-1)).tolist() == [[7, 1, 1], [7, 1, 1]]
    with pytest.raises(InvalidModel, match="empty"):
        call("pad", np.zeros((0,), np.float32), i64(1, 0), mode="reflect")
    assert call("pad", np.zeros((0,), np.float32), i64(1, 1)).tolist() == [0.0, 0.0]


def test_split(call: Call) -> None:
    x = np.arange(7)
    assert [p.tolist() for p in call("split", x, None, axis=0, num_outputs=3)] == [[0, 1, 2], [3, 4, 5], [6]]
    for bad in (i64(3, 3), i64(8, -1)):
        with pytest.raises(InvalidModel, match="lengths"):
            call("split", x, bad, axis=0)


def test_squeeze_and_unsqueeze(call: Call) -> None:
    x = np.zeros((1, 3, 1))
    assert call("squeeze", x).shape == (3,)
    assert call("squeeze", x, i64(-1)).shape == (1, 3)
    assert call("squeeze", x, i64()).shape == (1, 3, 1)
    assert call("unsqueeze", np.zeros((2, 3)), i64(0, -1)).shape == (1, 2, 3, 1)
    for bad in (i64(1), i64(3), i64(0, -3)):
        with pytest.raises(InvalidModel):
            call("squeeze", x, bad)


def test_flatten_at_both_ends(call: Call) -> None:
    x = np.zeros((2, 3, 4))
    shapes = [call("flatten", x, axis=a).shape for a in (0, 1, 2, 3, -1)]
    assert shapes == [(1, 24), (2, 12), (6, 4), (24, 1), (6, 4)]
    assert call("flatten", np.zeros(()), axis=0).shape == (1, 1)


def test_counting(call: Call) -> None:
    x = np.zeros((2, 3, 4))
    assert call("shape", x).tolist() == [2, 3, 4]
    assert call("shape", x, start=-2, end=-1).tolist() == [3]
    assert call("size", x) == 24 and call("size", x).dtype == np.int64


def test_ranges(call: Call) -> None:
    def ranged(*bounds: Any, dtype: Any) -> list:
        return call("range", *(np.asarray(v, dtype) for v in bounds)).tolist()

    assert ranged(1, 10, 4, dtype=np.int64) == [1, 5, 9]
    assert ranged(5, -2, -3, dtype=np.int32) == [5, 2, -1]
    assert ranged(3, 3, 1, dtype=np.int64) == ranged(3, 9, -1, dtype=np.int64) == []
    assert ranged(0.0, 1.0, 0.1, dtype=np.float32) == [float(np.float32(i * float(np.float32(0.1)))) for i in range(10)]
    for bad in ((0, 1, 0), (0.0, np.inf, 1.0)):
        with pytest.raises(InvalidModel):
            ranged(*bad, dtype=np.float32)


def test_constant_of_shape(call: Call) -> None:
    assert call("constant_of_shape", i64(2, 1), value=1.5, to=F32).tolist() == [[1.5], [1.5]]
    assert call("constant_of_shape", i64(), value=7, to=I64) == 7
    assert call("constant_of_shape", i64(2), value=True, to=BOOL).tolist() == [True, True]
    with pytest.raises(InvalidModel, match="shape"):
        call("constant_of_shape", i64(-1), value=0, to=I32)


def test_depth_to_space_as_torch(call: Call) -> None:
    x = RNG.standard_normal((2, 12, 3, 5)).astype(np.float32)
    crd = call("depth_to_space", x, blocksize=2, mode="CRD")
    np.testing.assert_array_equal(crd, torch.pixel_shuffle(torch.from_numpy(x), 2).numpy())
    np.testing.assert_array_equal(call("space_to_depth", crd, blocksize=2, mode="CRD"), x)
    dcr = call("depth_to_space", x, blocksize=2)
    np.testing.assert_array_equal(call("space_to_depth", dcr, blocksize=2), x)
    assert dcr[0, 1, 0, 1] == x[0, 1 * 3 + 1, 0, 0]  # depth index (bh=0, bw=1, c=1) of blocks (2, 2, 3)
    last = np.moveaxis(x, 1, -1)
    for mode in ("DCR", "CRD"):
        wanted = np.moveaxis(call("depth_to_space", x, blocksize=2, mode=mode), 1, -1)
        np.testing.assert_array_equal(call("depth_to_space", last, blocksize=2, mode=mode, channels_last=True), wanted)


@pytest.mark.parametrize("k", [-3, -1, 0, 1, 4])
@pytest.mark.parametrize("upper", [True, False])
def test_triangles(k: int, upper: bool, call: Call) -> None:
    x = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    wanted = (torch.triu if upper else torch.tril)(torch.from_numpy(x), k).numpy()
    np.testing.assert_array_equal(call("trilu", x, np.array(k), upper=upper), wanted)


def test_eye_like(call: Call) -> None:
    np.testing.assert_array_equal(call("eye_like", np.zeros((3, 4), np.int32), k=1), np.eye(3, 4, 1, np.int32))
    assert call("eye_like", np.zeros((2, 2), np.int32), dtype=F32).dtype == np.float32


def test_reverse_sequence(call: Call) -> None:
    x = np.arange(24).reshape(4, 3, 2)
    made = call("reverse_sequence", x, i64(1, 3, 4), batch_axis=1, time_axis=0)
    for batch, length in enumerate((1, 3, 4)):
        wanted = np.concatenate([x[:length, batch][::-1], x[length:, batch]])
        np.testing.assert_array_equal(made[:, batch], wanted)
    with pytest.raises(InvalidModel, match="lens"):
        call("reverse_sequence", x, i64(1, 3, 5), batch_axis=1, time_axis=0)


def test_kernels_do_not_write_into_operands(call: Call) -> None:
    x = np.arange(6.0).reshape(2, 3)
    x.flags.writeable = False
    call("pad", x, i64(0, 1, 0, 1))
    call("reverse", x, axes=(1,))
    call("trilu", x)
