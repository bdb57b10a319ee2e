"""Signal operators. Windows have bodies in their schemas, but those compute in float32 whatever is asked for."""

from __future__ import annotations

from typing import Any

from ...formats.onnx import dtypes
from .importer import Call, Importer
from .registry import handles


@handles("DFT", since=17)
def dft_axis_attribute(c: Importer, n: Call) -> Any:
    """Opset 17 has the axis as an attribute, 1 by default."""
    x, length = n.take(2)
    return _dft(c, n, x, length, n.attr("axis", 1))


@handles("DFT", since=20)
def dft(c: Importer, n: Call) -> Any:
    return _dft(c, n, *n.take(3))


def _dft(c: Importer, n: Call, x: Any, length: Any, axis: Any) -> Any:
    return c.b.dft(x, length, axis, inverse=bool(n.attr("inverse", 0)), onesided=bool(n.attr("onesided", 0)))


@handles("STFT", since=17)
def stft(c: Importer, n: Call) -> Any:
    return c.b.stft(*n.take(4), onesided=bool(n.attr("onesided", 1)))


WINDOWS = {"HannWindow": "hann_window", "HammingWindow": "hamming_window", "BlackmanWindow": "blackman_window"}


@handles(*WINDOWS, since=17)
def window(c: Importer, n: Call) -> Any:
    attrs = {"periodic": bool(n.attr("periodic", 1)), "dtype": dtypes.from_code(n.attr("output_datatype", 1), n.label)}
    return c.b.call(WINDOWS[n.op_type], (n.x,), attrs).result


@handles("MelWeightMatrix", since=17)
def mel_weight_matrix(c: Importer, n: Call) -> Any:
    return c.b.mel_weight_matrix(*n.take(5), dtype=dtypes.from_code(n.attr("output_datatype", 1), n.label))
