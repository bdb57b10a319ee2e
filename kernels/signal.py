"""Kernels of the signal family: numpy's Fourier transforms in float64, rounded once at the end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..ir.errors import InvalidModel
from ..ir.ops.signal import signal_axis
from ..ir.types import DType
from .budget import SLOW, hold, spend
from .numeric import is_float, narrow, truncate, wide
from .registry import kernel

Array = np.ndarray


def _one(value: Array) -> int:
    """The only element of an integer operand."""
    return int(np.asarray(value).reshape(-1)[0])


def _complex(x: Array) -> Array:
    """x [*S, 1 or 2] as complex128 [*S]."""
    data = wide(x)
    return data[..., 0] + 1j * data[..., 1] if x.shape[-1] == 2 else data[..., 0].astype(np.complex128)


def _pairs(y: Array, dtype: np.dtype) -> Array:
    """complex128 [*S] as [*S, 2] in a float dtype."""
    return narrow(np.stack([y.real, y.imag], axis=-1), dtype)


@kernel("dft")
def dft(
    x: Array, dft_length: Array | None = None, axis: Array | None = None, *, inverse: bool, onesided: bool
) -> Array:
    """numpy's fft, ifft, rfft and irfft along one axis of x [*S, 1 or 2]."""
    along = signal_axis(-2 if axis is None else _one(axis), x.ndim)
    if onesided and x.shape[-1] == (1 if inverse else 2):
        raise InvalidModel("dft: a one-sided transform takes real data, its inverse complex data", code="F020")
    default = 2 * (x.shape[along] - 1) if inverse and onesided else x.shape[along]
    length = default if dft_length is None else _one(dft_length)
    if length < 1:
        raise InvalidModel(f"dft: a transform of length {length}", code="F020")
    hold(16 * length * (x.size // max(x.shape[along], 1)))
    data = _complex(x)
    if onesided and inverse:
        return narrow(np.fft.irfft(data, length, along)[..., None], x.dtype)
    if onesided:
        return _pairs(np.fft.rfft(data.real, length, along), x.dtype)
    return _pairs((np.fft.ifft if inverse else np.fft.fft)(data, length, along), x.dtype)


@kernel("stft")
def stft(
    signal: Array, frame_step: Array, window: Array | None = None, frame_length: Array | None = None, *, onesided: bool
) -> Array:
    """[B, frames, bins, 2] of a signal [B, L, 1 or 2]; a complex signal's one-sided result is its first bins."""
    step, samples = _one(frame_step), signal.shape[1]
    default = samples if window is None else window.shape[0]
    frame = default if frame_length is None else _one(frame_length)
    if step < 1 or not 1 <= frame <= samples:
        raise InvalidModel(f"stft: frames of {frame} every {step} of {samples} samples", code="F020")
    if window is not None and window.shape[0] != frame:
        raise InvalidModel(f"stft: a window of {window.shape[0]} for frames of {frame}", code="F020")
    hold(16 * frame * signal.shape[0] * ((samples - frame) // step + 1))
    frames = np.lib.stride_tricks.sliding_window_view(_complex(signal), frame, axis=1)[:, ::step]
    if window is not None:
        frames = frames * wide(window)
    bins = np.fft.fft(frames, axis=-1)
    return _pairs(bins[..., : frame // 2 + 1] if onesided else bins, signal.dtype)


def _window(*weights: float) -> Callable[..., Array]:
    """The kernel of a sum of cosines, in float64; a symmetric window of one sample is 1, as its middle always is."""

    def kernel_of_window(size: Array, *, periodic: bool, dtype: DType) -> Array:
        count = _one(size)
        if count < 1:
            raise InvalidModel(f"a window of {count} samples", code="F020")
        hold(32 * count)
        span = count if periodic else count - 1
        turns = np.arange(count) / span if span else np.full(count, 0.5)
        made = sum(((-1) ** k * w * np.cos(2.0 * np.pi * k * turns) for k, w in enumerate(weights)), np.zeros(count))
        return _numbers(made, dtype)

    return kernel_of_window


kernel("hann_window")(_window(0.5, 0.5))
kernel("hamming_window")(_window(25 / 46, 21 / 46))
kernel("blackman_window")(_window(0.42, 0.5, 0.08))


def _numbers(y: Array, dtype: DType) -> Array:
    """float64 in any dtype of numbers; integers are cut off, as a cast does, but for a sum that is 1 up to rounding."""
    return narrow(y, dtype.numpy) if is_float(dtype.numpy) else truncate(np.round(y, 12), dtype.numpy)


#: Multiply-adds that take as long as the two slopes of a triangle: a dozen steps in plain Python and as many small arrays.
BIN = 50 * SLOW


@kernel("mel_weight_matrix")
def mel_weight_matrix(
    num_mel_bins: Array,
    dft_length: Array,
    sample_rate: Array,
    lower_edge_hertz: Array,
    upper_edge_hertz: Array,
    *,
    dtype: DType,
) -> Array:
    """mel(f) = 2595 log10(1 + f / 700); num_mel_bins + 2 edges, (upper - lower) / (num_mel_bins + 2) mel apart, each put
    on the spectrum bin below it. A triangle rises from its left edge to 1 at its centre and falls to its right edge."""
    count, length, rate = _one(num_mel_bins), _one(dft_length), _one(sample_rate)
    low, high = (float(wide(v).reshape(-1)[0]) for v in (lower_edge_hertz, upper_edge_hertz))
    rows = length // 2 + 1
    if count < 0 or length < 1 or rate < 1 or not low > -700 or not high > -700:
        raise InvalidModel(f"mel_weight_matrix: {count} bins, dft of {length}, {rate} Hz, {low} to {high}", code="F020")
    hold(8 * rows * count)
    spend(BIN * count)
    first, last = (2595.0 * np.log10(1.0 + f / 700.0) for f in (low, high))
    mel = first + np.arange(count + 2) * ((last - first) / (count + 2))
    edges = np.floor((length + 1) * (700.0 * (10.0 ** (mel / 2595.0) - 1.0)) / rate).astype(np.int64)
    if count and not (edges.min() >= 0 and edges[1:-1].max() < rows and edges[-1] <= rows):
        raise InvalidModel(f"mel_weight_matrix: {low} to {high} Hz lie outside of {rate / 2} Hz", code="F020")
    made = np.zeros((rows, count))
    for i, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        made[left : centre + 1, i] = 1.0 if left == centre else (np.arange(left, centre + 1) - left) / (centre - left)
        if right > centre:
            made[centre:right, i] = (right - np.arange(centre, right)) / (right - centre)
    return _numbers(made, dtype)
