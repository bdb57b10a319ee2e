"""Layers between dequantize nodes: conv, gemm and matmul whose data and weights are integers, and their biases.

The accumulator of such a layer counts in units of s_x * s_w[c]; a bias in these units is an i32 constant (Jacob et al.,
1712.05877, section 2.4). Everything here reads; nothing edits a graph.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...ir.graph import Node, Value
from ...ir.types import F32
from .qdq import Encoding, encoding_of, made_by

LAYERS = ("conv", "gemm", "matmul")
#: Biases stay below this: 2**30, and some room for scales that were chosen to reach it and then rounded to float32.
BIAS_LIMIT = 2**30 + 2**16


class Layer(NamedTuple):
    """A product of dequantised operands: `x` and `w` are the dequantize nodes."""

    node: Node
    x: Node
    w: Node

    @property
    def data(self) -> Encoding:
        return encoding_of(self.x)

    @property
    def weights(self) -> Encoding:
        return encoding_of(self.w)


def layer_of(node: Node | None) -> Layer | None:
    """The layer that `node` is: f32, both factors dequantised."""
    if node is None or node.name not in LAYERS or node.result.dtype is not F32:
        return None
    x, w = (made_by(v, "dequantize") for v in node.operands[:2])
    return None if x is None or w is None else Layer(node, x, w)


def channel_axis(layer: Layer) -> int:
    """The axis of the weights that output channels lie along."""
    node = layer.node
    if node.name == "conv":
        return 0
    rank = layer.w.result.rank or 2
    return 0 if node.name == "gemm" and node.attr("transB") else rank - 1


def along_channels(layer: Layer, value: Value | None) -> np.ndarray | None:
    """A constant scale or zero point of the weights as rank 0, or as a vector over output channels; None when it varies
    along another axis, or is computed."""
    if value is None or not value.is_const:
        return None
    array = value.array()
    if array.size == 1:
        return array.reshape(())
    axis = channel_axis(layer)
    rank, shape = layer.w.result.rank, layer.w.result.shape
    if array.ndim != rank or array.size != array.shape[axis] or shape is None or array.shape[axis] != shape[axis]:
        return None
    return array.reshape(-1)


def accumulator_scale(layer: Layer) -> np.ndarray | None:
    """s_x * s_w in float32: rank 0 or a vector over output channels; None where it is not constant or not so."""
    data, weights = layer.data, layer.weights
    if data.scale.scalar() is None or weights.block:
        return None
    scale = along_channels(layer, weights.scale)
    return None if scale is None else np.float32(data.scale.scalar()) * scale.astype(np.float32)


def bias_values(value: Value) -> np.ndarray | None:
    """A constant bias, float or behind dequantize, in float64; None when it is computed."""
    if value.is_const and value.dtype is not None and value.dtype.is_float:
        return value.array().astype(np.float64)
    node = made_by(value, "dequantize")
    if node is None or not all(v is None or v.is_const for v in node.operands):
        return None
    p = encoding_of(node)
    if p.block:
        return None
    stored = node.operands[0].array().astype(np.float64)  # type: ignore[union-attr]
    zeros, scales = p.zeros(), p.scales()
    if any(a.ndim not in (0, stored.ndim) and a.size != 1 for a in (zeros, scales)):
        return None
    zeros, scales = (a.reshape(()) if a.size == 1 else a for a in (zeros, scales))
    return (stored - zeros) * scales


def bias_integers(values: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    """A bias vector [C] in units of `scale`, rounded half to even, as i32; None where it is not finite or too large."""
    with np.errstate(all="ignore"):
        levels = np.rint(values / scale.astype(np.float64))
    if not (np.isfinite(levels).all() and (np.abs(levels) <= BIAS_LIMIT).all()):
        return None
    return levels.astype(np.int32)
