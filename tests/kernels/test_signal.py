"""Signal kernels against numpy's transforms, torch's STFT and a mel filter bank written out loop by loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from anyir.ir.errors import InvalidModel
from anyir.ir.types import BF16, F16, F64, I32, U8

Call = Callable[..., Any]
rng = np.random.default_rng(5)
DTYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)


def pairs(z: np.ndarray) -> np.ndarray:
    return np.stack([z.real, z.imag], axis=-1)


def by_definition(x: np.ndarray, inverse: bool) -> np.ndarray:
    """The sum over all samples along the second last axis, for complex x [..., N]."""
    n = x.shape[-1]
    turn = np.exp((2j if inverse else -2j) * np.pi * np.outer(np.arange(n), np.arange(n)) / n)
    return x @ turn.T / (n if inverse else 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("inverse", [False, True])
def test_dft_is_its_definition(
    call: Call, rounded_once: Callable[..., None], dtype: type, parts: int, inverse: bool
) -> None:
    x = rng.standard_normal((3, 7, parts)).astype(dtype)
    wide = x.astype(np.float64)
    made = call("dft", x, inverse=inverse)
    assert made.dtype == x.dtype
    rounded_once(
        made, pairs(by_definition(wide[..., 0] + (1j * wide[..., 1] if parts == 2 else 0), inverse)), scale=7.0
    )


@pytest.mark.parametrize("length", [None, 4, 9, 12])
@pytest.mark.parametrize("axis", [0, 1, -3])
def test_dft_cuts_and_pads_along_any_axis(call: Call, length: int | None, axis: int) -> None:
    x = rng.standard_normal((9, 6, 2))
    size = None if length is None else np.array(length)
    z = x[..., 0] + 1j * x[..., 1]
    np.testing.assert_allclose(call("dft", x, size, np.array(axis)), pairs(np.fft.fft(z, length, axis % 3)), atol=1e-13)


def test_one_sided_transforms_are_each_others_inverse(call: Call) -> None:
    for n in (8, 9):
        x = rng.standard_normal((2, n, 1))
        half = call("dft", x, onesided=True)
        assert half.shape == (2, n // 2 + 1, 2)
        np.testing.assert_allclose(half, pairs(np.fft.rfft(x[..., 0])), atol=1e-13)
        np.testing.assert_allclose(call("dft", half, np.array(n), inverse=True, onesided=True), x, atol=1e-13)
    assert call("dft", half, inverse=True, onesided=True).shape == (2, 8, 1)


def test_dft_refuses(call: Call) -> None:
    x = rng.standard_normal((2, 4, 2))
    for attrs, operands in (({"onesided": True}, (x,)), ({}, (x, np.array(0))), ({}, (x, None, np.array(-1)))):
        with pytest.raises(InvalidModel):
            call("dft", *operands, **attrs)


@pytest.mark.parametrize("onesided", [False, True])
@pytest.mark.parametrize("length", [8, 5])
def test_stft_is_torchs(call: Call, onesided: bool, length: int) -> None:
    torch = pytest.importorskip("torch")
    x, window = rng.standard_normal((2, 21)), rng.standard_normal(length)
    wanted = torch.stft(
        torch.from_numpy(x),
        length,
        3,
        length,
        torch.from_numpy(window),
        center=False,
        onesided=onesided,
        return_complex=True,
    )
    made = call("stft", x[..., None], np.array(3), window, np.array(length), onesided=onesided)
    np.testing.assert_allclose(made, torch.view_as_real(wanted.transpose(1, 2)).numpy(), atol=1e-12)
    bare = call("stft", x[..., None], np.array(3), None, np.array(length), onesided=onesided)
    ones = call("stft", x[..., None], np.array(3), np.ones(length), None, onesided=onesided)
    np.testing.assert_array_equal(bare, ones)


def test_stft_of_complex_signals(call: Call) -> None:
    x = rng.standard_normal((1, 10, 2)).astype(np.float32)
    made = call("stft", x, np.array(5), None, np.array(5), onesided=False)
    frames = (x[..., 0] + 1j * x[..., 1]).astype(np.complex128).reshape(1, 2, 5)
    np.testing.assert_allclose(made, pairs(np.fft.fft(frames)), atol=1e-5)
    for step, length in ((0, 5), (1, 11), (1, 0)):
        with pytest.raises(InvalidModel):
            call("stft", x, np.array(step), None, np.array(length))
    with pytest.raises(InvalidModel):
        call("stft", x, np.array(1), np.ones(4, np.float32), np.array(5))


def triangles(bins: int, length: int, rate: int, low: float, high: float) -> np.ndarray:
    """ONNX's filter bank, element by element: mel(f) = 2595 log10(1 + f / 700)."""

    def mel(f: float) -> float:
        return 2595 * math.log10(1 + f / 700)

    step = (mel(high) - mel(low)) / (bins + 2)
    hertz = [700 * (10 ** ((mel(low) + i * step) / 2595) - 1) for i in range(bins + 2)]
    edges = [int((length + 1) * f // rate) for f in hertz]
    made = np.zeros((length // 2 + 1, bins))
    for i in range(bins):
        left, centre, right = edges[i : i + 3]
        for j in range(len(made)):
            if left <= j <= centre:
                made[j, i] = 1.0 if left == centre else (j - left) / (centre - left)
            elif centre < j < right:
                made[j, i] = (right - j) / (right - centre)
    return made


@pytest.mark.parametrize("dtype", [F64, F16, BF16, I32, U8])
def test_mel_weight_matrix(call: Call, dtype: Any) -> None:
    for bins, length, rate, low, high in (
        (8, 64, 8000, 125.0, 3800.0),
        (20, 256, 16000, 0.0, 8000.0),
        (1, 8, 100, 1.0, 40.0),
    ):
        counts = (np.array(v) for v in (bins, length, rate))
        made = call("mel_weight_matrix", *counts, np.array(low), np.array(high), dtype=dtype)
        assert made.dtype == dtype.numpy
        wanted = triangles(bins, length, rate, low, high)
        wanted = np.trunc(wanted) if dtype.is_int else wanted
        np.testing.assert_array_equal(made, wanted.astype(dtype.numpy))


def test_mel_weight_matrix_beyond_the_spectrum(call: Call) -> None:
    with pytest.raises(InvalidModel):
        call("mel_weight_matrix", np.array(4), np.array(16), np.array(100), np.array(0.0), np.array(90.0))


@pytest.mark.parametrize("name", ["hann", "hamming", "blackman"])
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("dtype", [F64, F16, BF16, I32, U8])
def test_windows(call: Call, rounded_once: Callable[..., None], name: str, periodic: bool, dtype: Any) -> None:
    """numpy's windows, but for ONNX's own weights of Hamming's: 25/46 and 21/46."""
    for size in (1, 2, 9, 64):
        longer = size + periodic
        wanted = {
            "hann": np.hanning(longer),
            "hamming": 25 / 46 - 21 / 46 * (1 - 2 * np.hanning(longer)),
            "blackman": np.blackman(longer),
        }[name][:size]
        made = call(f"{name}_window", np.array(size), periodic=periodic, dtype=dtype)
        assert made.dtype == dtype.numpy
        if dtype.is_int:
            np.testing.assert_array_equal(made, np.floor(wanted + 1e-9))
        else:
            rounded_once(made, wanted)
    with pytest.raises(InvalidModel):
        call(f"{name}_window", np.array(0), periodic=periodic, dtype=dtype)
