"""Signal ops."""

from __future__ import annotations

from typing import Any

from ...formats.onnx import dtypes
from ...ir.graph import Node
from .emitter import Emitter
from .registry import emits
from .shape import as_i64, operands


def _flags(n: Node) -> dict[str, Any]:
    return {"inverse": int(n.attr("inverse")) or None, "onesided": int(n.attr("onesided")) or None}


@emits("dft", since=17)
def dft_axis_attribute(e: Emitter, n: Node) -> None:
    """Before opset 20 the axis is an attribute that counts from the front or the back; its default is 1."""
    x, length, axis = operands(n, 3)
    known = (-2,) if axis is None else e.known(axis, "the axis of DFT", 20)
    if x.rank is not None:
        known = (known[0] % x.rank,)  # type: ignore[index]
    e.node("DFT", [x, length], axis=known[0], **_flags(n))  # type: ignore[index]


@emits("dft", since=20)
def dft(e: Emitter, n: Node) -> None:
    x, length, axis = operands(n, 3)
    e.node("DFT", [x, length, as_i64(e, axis)], **_flags(n))


@emits("stft", since=17)
def stft(e: Emitter, n: Node) -> None:
    e.node("STFT", n.operands, onesided=int(n.attr("onesided")))


WINDOWS = {"hann_window": "HannWindow", "hamming_window": "HammingWindow", "blackman_window": "BlackmanWindow"}


@emits(*WINDOWS, since=17)
def window(e: Emitter, n: Node) -> None:
    e.node(
        WINDOWS[n.name], n.operands, periodic=int(n.attr("periodic")), output_datatype=dtypes.TO_CODE[n.attr("dtype")]
    )


@emits("mel_weight_matrix", since=17)
def mel_weight_matrix(e: Emitter, n: Node) -> None:
    e.node("MelWeightMatrix", n.operands, output_datatype=dtypes.TO_CODE[n.attr("dtype")])
