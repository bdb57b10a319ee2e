"""Operator versions of TFLite as data: the lowest version of each builtin whose kernels cover how it is used.

A rule is (version, condition) and the first that holds wins; without any, the version is 1. The conditions look at
types, ranks, quantisation and options only. Source: LiteRT, `tflite/tools/versioning/op_version.cc` (2026). Runtimes
refuse a version that is too high, and choose kernels by one that is too low, so both directions matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What the rules read of one tensor: TensorType name, shape, number of quantisation scales (0: none), the scale."""

    type: str
    shape: tuple[int, ...] = ()
    scales: int = 0
    scale: float = 0.0
    sparse: bool = False


@dataclass(frozen=True, slots=True)
class OpFacts:
    """One use of an operator: facts of its operands (None where omitted) and results, and its options."""

    inputs: tuple[TensorFacts | None, ...]
    outputs: tuple[TensorFacts, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def t(self, index: int) -> str:
        """Type name of operand `index`, or '' when it is absent."""
        tensor = self.inputs[index] if index < len(self.inputs) else None
        return tensor.type if tensor is not None else ""

    def rank(self, index: int = 0) -> int:
        tensor = self.inputs[index] if index < len(self.inputs) else None
        return len(tensor.shape) if tensor is not None else 0

    def quantised(self, index: int = 0) -> bool:
        tensor = self.inputs[index] if index < len(self.inputs) else None
        return tensor is not None and tensor.scales > 0

    def per_channel(self, index: int) -> bool:
        tensor = self.inputs[index] if index < len(self.inputs) else None
        return tensor is not None and tensor.scales > 1

    def any_type(self, *names: str) -> bool:
        tensors = (*self.inputs, *self.outputs)
        return any(tensor is not None and tensor.type in names for tensor in tensors)


Condition = Callable[[OpFacts], Any]
_F8 = ("FLOAT8_E4M3FN", "FLOAT8_E5M2")


def _is(*names: str, at: int = 0) -> Condition:
    return lambda op: op.t(at) in names


def _out(*names: str) -> Condition:
    return lambda op: op.outputs[0].type in names


def _option(name: str) -> Condition:
    return lambda op: op.options.get(name)


def _rank_above(limit: int) -> Condition:
    return lambda op: max((op.rank(i) for i in range(len(op.inputs))), default=0) > limit


def _broadcast_above(limit: int) -> Condition:
    """Two operands of different shapes and a rank above `limit`."""

    def condition(op: OpFacts) -> bool:
        a, b = op.inputs[0], op.inputs[1]
        return a is not None and b is not None and a.shape != b.shape and max(len(a.shape), len(b.shape)) > limit

    return condition


def _both(*conditions: Condition) -> Condition:
    return lambda op: all(condition(op) for condition in conditions)


def _rescales_up(op: OpFacts) -> bool:
    a, b = op.inputs[0], op.inputs[1]
    return bool(
        a and b and a.scale and b.scale and op.outputs[0].scale and a.scale * b.scale / op.outputs[0].scale >= 1
    )


def _hybrid(op: OpFacts) -> bool:
    return op.t(0) == "FLOAT32" and op.t(1) in ("INT8", "INT4", "INT2")


def _grouped(op: OpFacts) -> bool:
    x, w = op.inputs[0], op.inputs[1]
    return x is not None and w is not None and len(w.shape) == 4 and x.shape[-1] != w.shape[-1]


def _dilated(op: OpFacts) -> bool:
    return op.options.get("dilation_w_factor", 1) != 1 or op.options.get("dilation_h_factor", 1) != 1


_8, _16, _I8 = _is("INT8"), _is("INT16"), ("INT8", "UINT8")
_16_QUANTISED = _both(_16, lambda op: op.quantised())
_16_PLAIN = _both(_16, lambda op: not op.quantised())
_16X8 = _both(_16, _is("INT8", at=1))
_W4, _W2, _W8 = _is("INT4", at=1), _is("INT2", at=1), _is("INT8", at=1)
_8X8 = _both(_8, _W8)
_BIAS_TYPE = _both(_16X8, _option("quantized_bias_type"))
_CHANNELS = _both(_hybrid, lambda op: op.per_channel(1))
_8_2 = ((2, _8),)
_16_3_8_2 = ((3, _16), (2, _8))
_8_16_2 = ((2, _is("INT8", "INT16")),)

Rules = tuple[tuple[int, Condition], ...]
RULES: dict[str, Rules] = {
    "ADD": (
        (6, _is("FLOAT16")),
        (5, _16_PLAIN),
        (4, _is("INT64")),
        (3, _both(_16_QUANTISED, lambda op: not op.options.get("pot_scale_int16", 1))),
        (2, _8),
    ),
    "SUB": (
        (5, _both(_16_QUANTISED, lambda op: not op.options.get("pot_scale_int16", 1))),
        (4, _is("INT64")),
        (3, _broadcast_above(4)),
        (2, _8),
    ),
    "MUL": (
        (8, _is("FLOAT16")),
        (7, _16_PLAIN),
        (7, _is("UINT32")),
        (6, _is("COMPLEX64")),
        (5, _is("INT64")),
        (4, _16),
        (3, _rescales_up),
        (2, _8),
    ),
    "DIV": ((2, _broadcast_above(4)),),
    "MAXIMUM": ((4, _16), (3, _broadcast_above(4)), (2, _8)),
    "MINIMUM": ((4, _16), (3, _broadcast_above(4)), (2, _8)),
    "LESS": _16_3_8_2,
    "GREATER_EQUAL": _16_3_8_2,
    "EQUAL": ((5, _16), (3, _is("STRING")), (2, _8)),
    "NOT_EQUAL": ((4, _16), (3, _is("STRING")), (2, _8)),
    "CONV_2D": (
        (8, _BIAS_TYPE),
        (6, _grouped),
        (4, _16),
        (3, _8X8),
        (7, _both(_8, _W4)),
        (7, _both(_hybrid, _W4)),
        (5, _CHANNELS),
        (2, _hybrid),
    ),
    "DEPTHWISE_CONV_2D": ((5, _16), (6, _CHANNELS), (4, _hybrid), (3, _8X8), (7, _both(_8, _W4)), (2, _dilated)),
    "FULLY_CONNECTED": (
        (14, _W2),
        (13, _both(_16, _W4)),
        (12, _CHANNELS),
        (12, _both(_hybrid, _W4)),
        (11, _BIAS_TYPE),
        (8, lambda op: op.inputs[1] is not None and op.inputs[1].sparse),
        (7, _16),
        (6, lambda op: len(op.inputs) == 2),
        (5, _option("keep_num_dims")),
        (4, _8X8),
        (10, _both(_8, _W4)),
        (9, _both(_hybrid, _option("asymmetric_quantize_inputs"))),
        (3, _hybrid),
    ),
    "TRANSPOSE_CONV": (
        (5, _both(_is("INT16", at=2), _option("quantized_bias_type"))),
        (4, _option("fused_activation_function")),
        (3, lambda op: len(op.inputs) == 4),
        (2, _is("INT8", at=2)),
    ),
    "BATCH_MATMUL": ((3, _16), (2, _8), (4, _both(_hybrid, _option("asymmetric_quantize_inputs")))),
    "SOFTMAX": ((4, _is("FLOAT16")), (3, _16), (2, _8)),
    "RELU": ((3, _16), (2, _is(*_I8))),
    "GELU": ((3, _is("FLOAT16")), (2, _is(*_I8))),
    "SIN": ((2, _is("FLOAT16")),),
    "COS": ((2, _is("FLOAT16")),),
    "ABS": ((5, _is("INT32")), (3, _16_QUANTISED), (4, _16), (2, _is(*_I8))),
    "SIGN": ((2, _is("INT32")),),
    "LEAKY_RELU": ((2, _16),),
    "CONCATENATION": ((7, _is(*_F8)), (6, _is("FLOAT16")), (5, _is("INT4")), (4, _is("UINT32")), (3, _16), (2, _8)),
    "TRANSPOSE": (
        (9, _is("FLOAT16")),
        (8, _rank_above(6)),
        (8, _is("BFLOAT16")),
        (7, _is("INT4")),
        (6, _rank_above(5)),
        (5, _16),
        (4, _rank_above(4)),
        (3, _is("BOOL")),
        (2, _8),
    ),
    "SLICE": (
        (8, _is("FLOAT16")),
        (7, _is("INT4")),
        (6, _is("UINT32")),
        (5, _rank_above(4)),
        (4, _16),
        (3, _is("STRING")),
        (2, _8),
    ),
    "STRIDED_SLICE": (
        (8, _option("offset")),
        (7, _is("UINT32")),
        (6, _option("ellipsis_mask")),
        (6, _option("new_axis_mask")),
        (5, _is("STRING")),
        (4, _rank_above(4)),
        (3, _is("BOOL")),
        (2, _8),
    ),
    "PAD": ((6, _is(*_F8)), (5, _is("BOOL")), (4, _rank_above(4)), (3, _16), (2, _8)),
    "PADV2": ((6, _is(*_F8)), (5, _is("BOOL")), (4, _rank_above(4)), (3, _16), (2, _8)),
    "GATHER": (
        (8, _is(*_F8)),
        (7, _is("INT4")),
        (6, _is("INT16", at=1)),
        (5, _option("batch_dims")),
        (4, _16),
        (3, _is("BOOL")),
        (2, _8),
    ),
    "GATHER_ND": ((6, _is(*_F8)), (5, _is("BOOL")), (4, _is("INT16", at=1)), (3, _16), (2, _is("STRING", "INT8"))),
    "SPLIT": ((5, _is(*_F8, at=1)), (4, _is("INT16", at=1)), (3, _is("INT32", at=1)), (2, _is("INT8", at=1))),
    "SPLIT_V": ((3, _is(*_F8)), (2, _8)),
    "PACK": ((5, _is(*_F8)), (2, _8), (3, _16), (4, _is("UINT32"))),
    "UNPACK": ((6, _is(*_F8)), (2, _is(*_I8)), (3, _is("BOOL")), (4, _16), (5, _is("FLOAT16", "BFLOAT16"))),
    "TILE": ((3, _8), (2, _is("STRING"))),
    "SQUEEZE": ((2, _is("STRING")),),
    "REVERSE_V2": ((4, _is(*_F8)), (3, _8), (2, _is("BOOL"))),
    "RANGE": ((2, _is("INT64")),),
    "WHERE": ((2, lambda op: op.t(0) != "BOOL"),),
    "TOPK_V2": ((3, lambda op: op.any_type("INT16")), (2, _8)),
    "ARG_MAX": ((3, _is("BOOL")), (2, _8)),
    "ARG_MIN": ((3, _is("BOOL")), (2, _8)),
    "SELECT": ((4, _is("UINT32", at=1)), (3, _rank_above(4)), (2, _is("INT8", at=1))),
    "SELECT_V2": ((2, _is("UINT32", at=1)),),
    "FILL": (
        (5, _is(*_F8, at=1)),
        (4, _is("FLOAT16", at=1)),
        (3, _is("INT8", "INT16", at=1)),
        (2, _is("BOOL", "STRING", at=1)),
    ),
    "SPACE_TO_BATCH_ND": ((4, _16), (3, lambda op: op.rank() != 4), (2, _8)),
    "BATCH_TO_SPACE_ND": ((4, _16), (3, lambda op: op.rank() != 4), (2, _8)),
    "RESIZE_BILINEAR": ((4, _16), (3, _option("half_pixel_centers")), (2, _8)),
    "RESIZE_NEAREST_NEIGHBOR": ((4, _16), (3, _option("half_pixel_centers")), (3, _option("align_corners")), (2, _8)),
    "CAST": (
        (9, lambda op: op.any_type(*_F8)),
        (8, lambda op: op.any_type("INT2", "UINT4")),
        (7, lambda op: op.any_type("BFLOAT16")),
        (6, _both(_is("INT4"), _out("FLOAT32"))),
        (5, lambda op: op.any_type("FLOAT64", "FLOAT16")),
        (4, lambda op: op.any_type("UINT16")),
        (3, lambda op: op.any_type("INT8")),
        (2, lambda op: op.any_type("UINT32")),
    ),
    "QUANTIZE": ((5, _out("UINT4")), (4, _out("INT4")), (3, lambda op: op.outputs[0].scales > 1), (2, _out("INT16"))),
    "DEQUANTIZE": (
        (9, _is(*_F8)),
        (8, _is("UINT4")),
        (7, _is("INT2")),
        (6, _is("INT4")),
        (5, _both(_8, lambda op: op.per_channel(0))),
        (3, _is("INT16", "FLOAT16")),
        (2, _8),
    ),
    "DYNAMIC_UPDATE_SLICE": (
        (6, _is("BFLOAT16")),
        (5, _is("INT4")),
        (4, _16),
        (3, _is("FLOAT16")),
        (2, _is("INT64", at=2)),
    ),
    "BROADCAST_TO": ((4, _is(*_F8)), (3, _is("INT8", "INT16")), (2, lambda op: True)),
    "EMBEDDING_LOOKUP": ((5, _W2), (4, _W4), (4, lambda op: op.per_channel(1)), (1, lambda op: True)),
    "L2_NORMALIZATION": ((2, _out("INT8")),),
    "FLOOR_DIV": ((3, _is("INT8", "INT16")), (2, _is("FLOAT32"))),
    "FAKE_QUANT": ((2, _option("narrow_range")),),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (
        (3, _both(_hybrid_lstm := _both(_is("FLOAT32"), _is("INT8", at=2)), _option("asymmetric_quantize_inputs"))),
        (2, _hybrid_lstm),
    ),
    **dict.fromkeys(
        ["SQUARED_DIFFERENCE", "SUM", "GREATER", "LESS_EQUAL", "LOG_SOFTMAX", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE"], _8_2
    ),
    **dict.fromkeys(["TANH", "LOGISTIC", "AVERAGE_POOL_2D", "MAX_POOL_2D"], _16_3_8_2),
    **dict.fromkeys(["MEAN", "MIRROR_PAD", "REDUCE_MAX", "REDUCE_MIN", "RELU6", "RSQRT"], _16_3_8_2),
    **dict.fromkeys(["EXP", "LOG", "SQRT", "REDUCE_PROD", "FLOOR_MOD"], _8_16_2),
}


def version_of(builtin: str, facts: OpFacts) -> int:
    """The version to write for `builtin` (its BuiltinOperator name) used as `facts` say."""
    return next((version for version, condition in RULES.get(builtin, ()) if condition(facts)), 1)
