"""Convolutions, pools, resizes, products and LSTMs: TFLite's own ops, options copied slot by slot."""

from __future__ import annotations

from ...ir.errors import Unsupported
from ...ir.value import Value
from .registry import Call, handles

_WINDOWED = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "MAX_POOL_2D", "AVERAGE_POOL_2D", "TRANSPOSE_CONV")
_ENUMS = {"padding": "Padding", "fused_activation_function": "ActivationFunctionType"}


def _attrs(c: Call, name: str) -> dict:
    """The options that the op has as attributes."""
    from ...ir.ops import get_op

    known = get_op(name).attributes
    return {k: c.enum(k, _ENUMS[k]) if k in _ENUMS else v for k, v in (c.options or {}).items() if k in known}


@handles(*_WINDOWED)
def windowed(c: Call) -> Value:
    name = f"tfl.{c.builtin.lower()}"
    if c.builtin == "TRANSPOSE_CONV" and not c.has(3):
        raise Unsupported("TRANSPOSE_CONV without bias", code="U235")
    return c.b.call(name, [v for v in c.operands if v is not None], _attrs(c, name)).result


@handles("FULLY_CONNECTED")
def fully_connected(c: Call) -> Value:
    """Without keep_num_dims, x of any rank is a matrix of rows."""
    x, w = c.x, c.operand(1)
    attrs = _attrs(c, "tfl.fully_connected")
    if x.rank != 2 and not attrs["keep_num_dims"]:
        x = c.b.reshape(x, (-1, w.shape[1]))
    operands = (x, w, *((c.operand(2),) if c.has(2) else ()))
    return c.b.call("tfl.fully_connected", operands, attrs).result


@handles("BATCH_MATMUL", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def two_operands(c: Call) -> Value:
    name = f"tfl.{c.builtin.lower()}"
    return c.b.call(name, c.operands, _attrs(c, name)).result


@handles("DEPTH_TO_SPACE", "SPACE_TO_DEPTH")
def blocks(c: Call) -> Value:
    return c.b.call(c.builtin.lower(), (c.x,), {"blocksize": c.option("block_size"), "channels_last": True}).result


@handles("LOCAL_RESPONSE_NORMALIZATION")
def lrn(c: Call) -> Value:
    size = 2 * c.option("radius") + 1
    attrs = {"bias": c.option("bias"), "beta": c.option("beta"), "alpha": c.option("alpha") * size}
    return c.b.lrn(c.x, size=size, channels_last=True, **attrs)


@handles("UNIDIRECTIONAL_SEQUENCE_LSTM")
def lstm(c: Call) -> Value:
    """The plain form: no peepholes, projection or normalisation, time first."""
    extras = [*range(9, 12), 16, 17, *range(20, 24)]
    if any(c.has(i) for i in extras) or not c.option("time_major") or c.option("cell_clip") or not c.has(1):
        raise Unsupported("an LSTM with peepholes, projection, clipping, normalisation or batch first", code="U236")
    weights = [c.operand(i) for i in (*range(1, 9), *range(12, 16))]
    return c.b.call("tfl.unidirectional_sequence_lstm", (c.x, *weights)).result
