"""One small model of every operator of `com.microsoft` that is read: what the page of lowerings is made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from anyir.formats.onnx import microsoft
from anyir.tests.support.onnx_nodes import BYTE, FLOAT, one_node

ONE, ZERO = np.float32(0.5), np.uint8(3)
U8, I8, I32 = np.uint8, np.int8, np.int32


def _f(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def _u(*shape: int) -> np.ndarray:
    return np.ones(shape, U8)


_ELEMENTWISE = (_u(2, 4), ONE, ZERO, ONE, ZERO)
_PAIR = (_u(2, 4), ONE, ZERO, _u(2, 4), ONE, ZERO, ONE, ZERO)
_LSTM = (_f(3, 2, 5), np.ones((1, 5, 16), I8), np.ones((1, 4, 16), I8), *[None] * 5)
_LSTM += (_f(1), np.zeros(1, I8)) * 2
_CONVOLUTION = (_u(1, 2, 5, 5), ONE, ZERO, np.ones((3, 2, 3, 3), I8), ONE, I8(0), ONE, ZERO)

#: Operands in order, attributes, type of the result.
MODELS: dict[str, tuple[tuple, dict[str, Any], int]] = {
    "FusedConv": ((_f(1, 2, 5), _f(3, 2, 3)), {"activation": "Relu"}, FLOAT),
    "FusedMatMul": ((_f(3, 2), _f(3, 4)), {"transA": 1, "alpha": 0.5}, FLOAT),
    "FusedGemm": ((_f(2, 3), _f(3, 4)), {"activation": "Relu"}, FLOAT),
    "Gelu": ((_f(2, 3),), {}, FLOAT),
    "BiasGelu": ((_f(2, 3), _f(3)), {}, FLOAT),
    "FastGelu": ((_f(2, 3), _f(3)), {}, FLOAT),
    "QuickGelu": ((_f(2, 3),), {}, FLOAT),
    "SkipLayerNormalization": ((_f(1, 2, 4), _f(1, 2, 4), _f(4), _f(4), _f(4)), {}, FLOAT),
    "SkipSimplifiedLayerNormalization": ((_f(1, 2, 4), _f(1, 2, 4), _f(4), _f(4)), {}, FLOAT),
    "SimplifiedLayerNormalization": ((_f(1, 2, 4), _f(4)), {}, FLOAT),
    "EmbedLayerNormalization": (
        (np.zeros((1, 2), I32), None, _f(5, 4), _f(3, 4), None, _f(4), _f(4)),
        {},
        FLOAT,
    ),
    "RotaryEmbedding": ((_f(1, 2, 8), np.zeros((1, 2), np.int64), _f(3, 2), _f(3, 2)), {}, FLOAT),
    "Attention": ((_f(1, 2, 4), _f(4, 12), _f(12), np.ones((1, 2), I32)), {"num_heads": 2}, FLOAT),
    "MultiHeadAttention": ((_f(1, 2, 4), _f(1, 3, 4), _f(1, 3, 4), _f(12)), {"num_heads": 2}, FLOAT),
    "GroupQueryAttention": (
        (_f(1, 1, 8), _f(1, 1, 4), _f(1, 1, 4), _f(1, 1, 2, 4), _f(1, 1, 2, 4), np.array([2], I32), np.array(3, I32)),
        {"num_heads": 2, "kv_num_heads": 1},
        FLOAT,
    ),
    "QuantizeLinear": ((_f(2, 3), ONE, ZERO), {}, BYTE),
    "DequantizeLinear": ((_u(2, 3), ONE, ZERO), {}, FLOAT),
    "QLinearAdd": (_PAIR, {}, BYTE),
    "QLinearMul": (_PAIR, {}, BYTE),
    "QLinearSigmoid": (_ELEMENTWISE, {}, BYTE),
    "QLinearLeakyRelu": (_ELEMENTWISE, {}, BYTE),
    "QLinearSoftmax": (_ELEMENTWISE, {"opset": 13}, BYTE),
    "QLinearConcat": ((ONE, ZERO, _u(2, 3), ONE, ZERO), {"axis": 0}, BYTE),
    "QLinearGlobalAveragePool": ((_u(1, 2, 3, 3), ONE, ZERO, ONE, ZERO), {}, BYTE),
    "QLinearAveragePool": ((_u(1, 2, 3, 3), ONE, ZERO, ONE, ZERO), {"kernel_shape": [2, 2]}, BYTE),
    "QLinearConv": (_CONVOLUTION, {}, BYTE),
    "QGemm": ((_u(2, 3), ONE, ZERO, _u(3, 4), ONE, ZERO, np.ones(4, I32), ONE, ZERO), {}, BYTE),
    "MatMulIntegerToFloat": ((_u(2, 3), _u(3, 4), ONE, ONE, ZERO, ZERO, _f(4)), {}, FLOAT),
    "DynamicQuantizeMatMul": ((_f(2, 3), _u(3, 4), ONE, ZERO, _f(4)), {}, FLOAT),
    "DynamicQuantizeLSTM": (_LSTM, {"hidden_size": 4}, FLOAT),
    "MatMulNBits": ((_f(2, 32), _u(4, 2, 8), _f(4, 2), _u(4, 1)), {"N": 4, "K": 32, "block_size": 16}, FLOAT),
}


def models() -> Iterator[tuple[Any, set[str]]]:
    """(model, the name of its operator) for each operator of the table, in both of its domains."""
    for domain, op_type in microsoft.table():
        if op_type not in MODELS:
            continue
        operands, attributes, code = MODELS[op_type]
        inputs = {f"x{i}": operand for i, operand in enumerate(operands)}
        outputs = {"y": code} | ({"count": 6} if op_type == "EmbedLayerNormalization" else {})
        model, _ = one_node(op_type, inputs, outputs, domain=domain, attributes=attributes)
        yield model, {f"{domain or 'ai.onnx'}::{op_type}"}
