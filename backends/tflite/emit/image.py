"""Rows of TFLite's own ops over images, sequences and matrices: their attributes are the option slots."""

from __future__ import annotations

import numpy as np

from ....ir.value import Node
from ..table import Emitted, index_operand, plain, row

for _name in ("conv_2d", "depthwise_conv_2d", "conv_3d"):
    row(f"tfl.{_name}", _name.upper(), "f32")(plain)
for _name in ("max_pool_2d", "average_pool_2d"):
    row(f"tfl.{_name}", _name.upper(), "f32 i8 i16")(plain)
row("tfl.batch_matmul", "BATCH_MATMUL", "f32")(plain)


@row("tfl.fully_connected", "FULLY_CONNECTED", "f32")
def _fully_connected(node: Node) -> Emitted:
    return Emitted(node.operands, dict(node.attrs))


@row("tfl.transpose_conv", "TRANSPOSE_CONV", "f32", data=2)
def _transpose_conv(node: Node) -> Emitted:
    shape, w, x, b = node.operands
    known = shape.ints()
    return Emitted([np.asarray(known, np.int32) if known else shape, w, x, b], dict(node.attrs))


def _sized(node: Node) -> Emitted:
    return Emitted([node.operands[0], index_operand(node.operands[1])], dict(node.attrs))


row("tfl.resize_bilinear", "RESIZE_BILINEAR", "f32 i8 i16")(_sized)
row("tfl.resize_nearest_neighbor", "RESIZE_NEAREST_NEIGHBOR", "f32 i8 i16")(_sized)


def _block_moves(node: Node) -> str | None:
    if not node.attr("channels_last"):
        return "the kernel wants channels last"
    return None if node.attrs.get("mode", "DCR") == "DCR" else "the kernel takes depth-column-row order only"


def _block(node: Node) -> Emitted:
    return Emitted(node.operands, {"block_size": node.attr("blocksize")})


row("depth_to_space", "DEPTH_TO_SPACE", "f32 i32 i64 u8 i8", _block_moves)(_block)
row("space_to_depth", "SPACE_TO_DEPTH", "f32 i32 i64 u8 i8", _block_moves)(_block)


def _odd_last(node: Node) -> str | None:
    if not node.attr("channels_last") or node.operands[0].rank != 4:
        return "the kernel wants [N, H, W, C]"
    return None if node.attr("size") % 2 else "an even window has no radius"


@row("lrn", "LOCAL_RESPONSE_NORMALIZATION", "f32", _odd_last)
def _lrn(node: Node) -> Emitted:
    size = node.attr("size")
    options = {"radius": (size - 1) // 2, "bias": node.attr("bias"), "beta": node.attr("beta")}
    return Emitted(node.operands, options | {"alpha": node.attr("alpha") / size})


@row("tfl.unidirectional_sequence_lstm", "UNIDIRECTIONAL_SEQUENCE_LSTM", "f32")
def _lstm(node: Node) -> Emitted:
    """24 operands; the writer makes the two state tensors (18, 19), which are variables."""
    x, *weights = node.operands
    w, r, b = weights[:4], weights[4:8], weights[8:]
    no_peepholes, no_projection, no_norms = [None] * 3, [None] * 2, [None] * 4
    inputs = [x, *w, *r, *no_peepholes, *b, *no_projection, None, None, *no_norms]
    return Emitted(inputs, dict(node.attrs))
