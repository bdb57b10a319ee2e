"""Fourier transforms, windows and the mel filter bank. A complex signal is real data whose last axis holds (real, imaginary)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..dims import Dim, Expr, dim_lt
from ..errors import TypeInferError
from ..opdef import Axis, AxisMap, DtypeVar, OpDef, Sample, attr, op, operand, optional
from ..types import BF16, F16, F32, F64, INDEX, DType, TensorType
from . import rules
from .sampling import draw
from .shapes import FLOATS, NUMBERS, norm_axis

if TYPE_CHECKING:
    from ..value import Value

T = DtypeVar("T", FLOATS)
REAL_PART, COMPLEX = 1, 2


def scalar_dim(value: Value | None, what: str) -> Dim | None:
    """The known element of a scalar (or one-element) operand; None where it is absent or not known."""
    if value is None:
        return None
    count = value.type.numel if isinstance(value.type, TensorType) else None
    if isinstance(count, int) and count != 1:
        raise TypeInferError(f"{what} has {count} elements, one is expected")
    return value.elems[0] if value.elems else None


def _parts(shape: tuple[Dim, ...], what: str) -> Dim:
    """The last dim of a signal: 1 for real, 2 for complex data."""
    if isinstance(shape[-1], int) and shape[-1] not in (REAL_PART, COMPLEX):
        raise TypeInferError(f"the last dim of {what} is {shape[-1]}: 1 (real) or 2 (real and imaginary) is expected")
    return shape[-1]


def signal_axis(axis: int, rank: int) -> int:
    """`axis` as a non-negative number; the last one holds the parts of complex numbers. Raises TypeInferError."""
    along = norm_axis(axis, rank)
    if along == rank - 1:
        raise TypeInferError(f"axis {axis} is the last one of rank {rank}: it holds real and imaginary parts")
    return along


@op
class Dft(OpDef):
    """The discrete Fourier transform of x [*S, 1 or 2] along a scalar `axis` (-2), cut or zero-padded to `dft_length`
    (ONNX DFT-20).

    onesided: only the first dft_length // 2 + 1 bins; of an inverse transform, x holds those and the result is real,
    [*S, 1], of length 2 (n - 1) unless dft_length is given.
    """

    x = operand(T)
    dft_length = optional(INDEX)
    axis = optional(INDEX)
    inverse = attr(bool, False)
    onesided = attr(bool, False)
    reads_elems = True

    def infer(self, x, dft_length, axis, *, inverse, onesided):
        length = scalar_dim(dft_length, "dft_length")
        at = -2 if axis is None else scalar_dim(axis, "axis")
        shape = rules.ranked(x, "x", least=2)
        if shape is None:
            return TensorType(x.dtype, None)
        if _parts(shape, "x") == (REAL_PART if inverse else COMPLEX) and onesided:
            raise TypeInferError("a one-sided transform takes real data, its inverse complex data")
        last = REAL_PART if inverse and onesided else COMPLEX
        if not isinstance(at, int):
            kept = shape[:-1] if dft_length is None and not onesided else [Expr.fresh() for _ in shape[:-1]]
            return TensorType(x.dtype, (*kept, last))
        along = signal_axis(at, len(shape))
        made = self._bins(shape[along], dft_length is not None, length, inverse, onesided)
        return TensorType(x.dtype, (*shape[:along], made, *shape[along + 1 : -1], last))

    @staticmethod
    def _bins(size: Dim, given: bool, length: Dim | None, inverse: bool, onesided: bool) -> Dim:
        if given and length is None:
            return Expr.fresh()
        wanted = length if length is not None else 2 * (size - 1) if inverse and onesided else size
        if dim_lt(wanted, 1) is True and size != 0:
            raise TypeInferError(f"a transform of length {wanted}")
        return wanted // 2 + 1 if onesided and not inverse else wanted

    def axes(self, x, dft_length, axis, *, inverse, onesided):
        at = -2 if axis is None else scalar_dim(axis, "axis")
        if x.rank is None or not isinstance(at, int):
            return None
        row = rules.passing(x.rank, (at, -1))
        return AxisMap((row, *(None if v is None else (None,) * (v.rank or 0) for v in (dft_length, axis))), (row,))

    def samples(self, rng: np.random.Generator):
        axis = np.asarray(1, np.int64)
        yield Sample((draw(rng, (2, 7, 1)), None, None))
        yield Sample((draw(rng, (2, 6, 2)), None, None), {"inverse": True})
        yield Sample((draw(rng, (3, 5, 2, 2)), np.asarray(8, np.int64), axis), {}, ("dft_length", "axis"))
        yield Sample((draw(rng, (3, 9, 1)), np.asarray(6, np.int32), axis), {"onesided": True}, ("dft_length", "axis"))
        halves = {"inverse": True, "onesided": True}
        yield Sample((draw(rng, (2, 4, 2)), None, None), halves)
        yield Sample((draw(rng, (2, 3, 2), F64), np.asarray(5, np.int64), None), halves, ("dft_length",))
        yield Sample((draw(rng, (1, 4, 1), F16), None, None))


@op
class Stft(OpDef):
    """Fourier transforms of windowed frames of a signal [B, L, 1 or 2], one every `frame_step` samples:
    [B, frames, bins, 2] (ONNX STFT-17).

    A frame is as long as `frame_length`, else as `window`, else as the signal; `window` [frame] weighs its samples.
    """

    signal = operand(T)
    frame_step = operand(INDEX)
    window = optional(T)
    frame_length = optional(INDEX)
    onesided = attr(bool, True)
    reads_elems = True

    def infer(self, signal, frame_step, window, frame_length, *, onesided):
        shape = rules.ranked(signal, "signal", 3)
        weights = rules.ranked(window, "window", 1)
        step, frame = scalar_dim(frame_step, "frame_step"), scalar_dim(frame_length, "frame_length")
        if shape is None:
            return TensorType(signal.dtype, (*(Expr.fresh() for _ in range(3)), COMPLEX))
        _parts(shape, "signal")
        if frame is not None and weights is not None:
            frame = rules.agree(frame, weights[0], "window and frame_length")
        elif frame is None and frame_length is None:
            frame = shape[1] if window is None else None if weights is None else weights[0]
        elif frame is None and weights is not None:
            frame = weights[0]
        for what, value in (("frame_step", step), ("frame_length", frame)):
            if value is not None and dim_lt(value, 1) is True:
                raise TypeInferError(f"{what} is {value}")
        if frame is None:
            return TensorType(signal.dtype, (shape[0], Expr.fresh(), Expr.fresh(), COMPLEX))
        if dim_lt(shape[1], frame) is True:
            raise TypeInferError(f"frames of {frame} samples in a signal of {shape[1]}")
        count = (shape[1] - frame) // step + 1 if isinstance(step, int) else Expr.fresh()
        return TensorType(signal.dtype, (shape[0], count, frame // 2 + 1 if onesided else frame, COMPLEX))

    def axes(self, signal, frame_step, window, frame_length, *, onesided):
        rest = (None if v is None else (None,) * (v.rank or 0) for v in (frame_step, window, frame_length))
        return AxisMap(((Axis("n"), None, None), *rest), ((Axis("n"), None, None, None),))

    def samples(self, rng: np.random.Generator):
        step, frames = np.asarray(3, np.int64), np.asarray(5, np.int64)
        sizes = ("frame_step", "frame_length")
        yield Sample((draw(rng, (2, 17, 1)), step, draw(rng, (8,)), None), {}, sizes)
        yield Sample((draw(rng, (1, 12, 2)), step, None, frames), {"onesided": False}, sizes)
        yield Sample((draw(rng, (1, 9, 1), F64), np.asarray(2, np.int32), draw(rng, (5,), F64), frames), {}, sizes)
        yield Sample((draw(rng, (2, 6, 1)), np.asarray(1, np.int64), None, None), {}, sizes)


class _Window(OpDef):
    """Base: `size` weights; symmetric, or `periodic`: the first of a symmetric window that is one longer."""

    size = operand(INDEX)
    periodic = attr(bool, True)
    dtype = attr(DType, F32)
    reads_elems = True

    def infer(self, size, *, periodic, dtype):
        if dtype not in NUMBERS:
            raise TypeInferError(f"a window of {dtype}")
        count = scalar_dim(size, "size")
        if count is not None and dim_lt(count, 1) is True:
            raise TypeInferError(f"a window of {count} samples")
        return TensorType(dtype, (Expr.fresh() if count is None else count,))

    def samples(self, rng: np.random.Generator):
        for count, dtype, periodic in ((10, F32, True), (7, F64, False), (1, F16, True)):
            yield Sample((np.asarray(count, np.int64),), {"dtype": dtype, "periodic": periodic}, ("size",))
        yield Sample((np.asarray(6, np.int32),), {"dtype": BF16}, ("size",))


@op
class HannWindow(_Window):
    """0.5 - 0.5 cos(2 pi n / N) (ONNX HannWindow-17)."""


@op
class HammingWindow(_Window):
    """25/46 - 21/46 cos(2 pi n / N) (ONNX HammingWindow-17)."""


@op
class BlackmanWindow(_Window):
    """0.42 - 0.5 cos(2 pi n / N) + 0.08 cos(4 pi n / N) (ONNX BlackmanWindow-17)."""


@op
class MelWeightMatrix(OpDef):
    """[dft_length // 2 + 1, num_mel_bins]: triangular filters that are evenly spaced on the mel scale between two
    frequencies (ONNX MelWeightMatrix-17)."""

    num_mel_bins = operand(INDEX)
    dft_length = operand(INDEX)
    sample_rate = operand(INDEX)
    lower_edge_hertz = operand(FLOATS)
    upper_edge_hertz = operand(FLOATS)
    dtype = attr(DType, F32)
    reads_elems = True

    def infer(self, num_mel_bins, dft_length, sample_rate, lower_edge_hertz, upper_edge_hertz, *, dtype):
        if dtype not in NUMBERS:
            raise TypeInferError(f"a mel filter bank of {dtype}")
        edges = {"sample_rate": sample_rate, "lower edge": lower_edge_hertz, "upper edge": upper_edge_hertz}
        for name, value in edges.items():
            scalar_dim(value, name)
        bins, length = scalar_dim(num_mel_bins, "num_mel_bins"), scalar_dim(dft_length, "dft_length")
        rows = Expr.fresh() if length is None else length // 2 + 1
        return TensorType(dtype, (rows, Expr.fresh() if bins is None else bins))

    def samples(self, rng: np.random.Generator):
        sizes = ("num_mel_bins", "dft_length")
        for dtype, edge in ((F32, np.float32), (F64, np.float64), (BF16, np.float16)):
            counts = (np.asarray(v, np.int64) for v in (8, 64, 8000))
            yield Sample((*counts, np.asarray(125, edge), np.asarray(3800, edge)), {"dtype": dtype}, sizes)
        counts = (np.asarray(v, np.int32) for v in (2, 16, 8192))
        yield Sample((*counts, np.asarray(0, np.float32), np.asarray(4096, np.float32)), {}, sizes)
