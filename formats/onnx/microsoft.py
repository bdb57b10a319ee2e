"""Signatures of operators that onnxruntime defines and the onnx package does not: a table of data, in `Schema` records.

`com.microsoft` (version 1) and what onnxruntime's optimisers put into the default domain. Source: onnxruntime's
docs/ContribOperators.md. Operators of that domain that are not listed here have no schema: they are carried through.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache

from .schemas import Attribute, Formal, Schema

DOMAIN = "com.microsoft"

FLOAT, INT, STRING, FLOATS, INTS, STRINGS = 1, 2, 3, 6, 7, 8  # AttributeProto.AttributeType

_CODES = {float: FLOAT, int: INT, str: STRING}


def _required(code: int) -> Attribute:
    return Attribute(code, True, None)


def _attribute(given: object) -> Attribute:
    """A type code for an attribute without a default, the default itself for one that has it, or a whole record."""
    if isinstance(given, Attribute):
        return given
    if isinstance(given, _Default):
        return Attribute(_CODES[type(given.value)], False, given.value)
    return Attribute(given, False, None)  # type: ignore[arg-type]


class _Default:
    """A default; floats as the 32 bits that a file would hold."""

    def __init__(self, value: float | str) -> None:
        self.value = struct.unpack("<f", struct.pack("<f", value))[0] if isinstance(value, float) else value


def _formals(text: str, types: dict[str, str]) -> tuple[Formal, ...]:
    """`X:T bias?:T *inputs:TV`: names with type variables or plain types; `?` optional, `*` variadic and of mixed types."""
    made = []
    for word in text.split():
        name, _, variable = word.partition(":")
        spelled = frozenset(f"tensor({t})" for t in types.get(variable, variable).split())
        optional, variadic = name.endswith("?"), name.startswith("*")
        made.append(Formal(name.strip("?*"), variable, optional, variadic, not variadic, spelled))
    return tuple(made)


def _operator(
    name: str,
    inputs: str,
    outputs: str,
    types: dict[str, str],
    attributes: Mapping[str, object] | None = None,
    domain: str = DOMAIN,
) -> Schema:
    ins, outs = _formals(inputs, types), _formals(outputs, types)
    most = 2**31 - 1 if ins[-1].variadic else len(ins)
    least = max(i for i, formal in enumerate(ins, 1) if not formal.optional)
    results = max((i for i, formal in enumerate(outs, 1) if not formal.optional), default=0)
    attrs = {key: _attribute(given) for key, given in (attributes or {}).items()}
    return Schema(name, domain, 1, False, ins, outs, attrs, (least, most), (results, len(outs)), False)


_ALL = {"T": "float16 float double bfloat16"}
_THREE = {"T": "float16 float double"}
_HALVES = {"T": "float16 float bfloat16"}
_BYTE = {"T": "int8 uint8"}
_MASKED = _HALVES | {"M": "int32"}
_ZERO, _ONE, _MINUS = _Default(0), _Default(1), _Default(-1)
_EPSILON, _TINY, _LAST = _Default(1e-5), _Default(1e-12), _Default(-1)
_NORM = {"stash_type": _ONE, "epsilon": _EPSILON, "axis": _LAST}
_VALUES = {"T": "float16 float double bfloat16", "V": "float16 float double bfloat16", "U": "float double"}
_WINDOW: dict[str, object] = {
    "auto_pad": _Default("NOTSET"),
    "dilations": INTS,
    "group": _ONE,
    "kernel_shape": INTS,
    "pads": INTS,
    "strides": INTS,
}
_BINARY = "A:T A_scale:float A_zero_point?:T B:T B_scale:float B_zero_point?:T C_scale:float C_zero_point?:T"
_UNARY = "X:T X_scale:float X_zero_point?:T Y_scale:float Y_zero_point?:T"
_STORED = "int8 uint8 int16 uint16"

_OPERATORS = (
    # Fused products.
    _operator(
        "FusedConv", "X:T W:T B?:T Z?:T", "Y:T", _THREE, _WINDOW | {"activation": STRING, "activation_params": FLOATS}
    ),
    _operator(
        "FusedMatMul",
        "A:T B:T",
        "Y:T",
        _ALL,
        {"alpha": _Default(1.0), "transA": _ZERO, "transB": _ZERO, "transBatchA": _ZERO, "transBatchB": _ZERO},
    ),
    _operator(
        "FusedGemm",
        "A:T B:T C?:T",
        "Y:T",
        {"T": "float16 float double uint32 uint64 int32 int64"},
        {"alpha": _Default(1.0), "beta": _Default(1.0), "transA": _ZERO, "transB": _ZERO, "activation": STRING}
        | dict.fromkeys(("activation_alpha", "activation_beta", "activation_gamma"), FLOAT),
    ),
    # Activations.
    _operator("Gelu", "X:T", "Y:T", _ALL),
    _operator("FastGelu", "X:T bias?:T", "Y:T", _ALL),
    _operator("BiasGelu", "A:T B:T", "C:T", _ALL),
    _operator("QuickGelu", "X:T", "Y:T", _ALL, {"alpha": _Default(1.702)}),
    # Normalisation and embeddings.
    _operator(
        "SkipLayerNormalization",
        "input:T skip:T gamma:T beta?:T bias?:T",
        "output:T mean?:U inv_std_var?:U input_skip_bias_sum?:T",
        _HALVES | {"U": "float"},
        {"epsilon": _TINY},
    ),
    _operator(
        "SkipSimplifiedLayerNormalization",
        "input:T skip:T gamma:T bias?:T",
        "output:T mean?:U inv_std_var?:U input_skip_bias_sum?:T",
        _HALVES | {"U": "float"},
        {"epsilon": _TINY},
    ),
    _operator("SimplifiedLayerNormalization", "X:T scale:V", "Y:V inv_std_var?:U", _VALUES, _NORM, ""),
    _operator("SimplifiedLayerNormalization", "X:T scale:V", "Y:V inv_std_var?:U", _VALUES, _NORM),
    _operator("LayerNormalization", "X:T Scale:V B?:V", "Y:V Mean?:U InvStdDev?:U", _VALUES, _NORM, ""),
    _operator(
        "EmbedLayerNormalization",
        "input_ids:T1 segment_ids?:T1 word_embedding:T position_embedding:T segment_embedding?:T gamma:T beta:T mask?:T1"
        " position_ids?:T1",
        "output:T mask_index?:T1 embedding_sum?:T",
        {"T1": "int32", "T": "float float16"},
        {"epsilon": _TINY, "mask_index_type": INT},
    ),
    # Attention.
    _operator(
        "RotaryEmbedding",
        "input:T position_ids:M cos_cache:T sin_cache:T",
        "output:T",
        _HALVES | {"M": "int64"},
        {"scale": FLOAT}
        | dict.fromkeys(("interleaved", "is_packed_batching", "num_heads", "rotary_embedding_dim"), INT),
    ),
    _operator(
        "Attention",
        "input:T weights:T bias?:T mask_index?:M past?:T attention_bias?:T past_sequence_length?:M",
        "output:T present?:T",
        _MASKED,
        {"num_heads": _required(INT), "unidirectional": _ZERO, "qkv_hidden_sizes": INTS}
        | dict.fromkeys(("scale", "mask_filter_value"), FLOAT)
        | dict.fromkeys(("do_rotary", "past_present_share_buffer", "rotary_embedding_dim"), INT),
    ),
    _operator(
        "MultiHeadAttention",
        "query:T key?:T value?:T bias?:T key_padding_mask?:M attention_bias?:T past_key?:T past_value?:T"
        " past_sequence_length?:M cache_indirection?:M",
        "output:T present_key?:T present_value?:T qk?:QK",
        _MASKED | {"QK": _HALVES["T"]},
        {"num_heads": _required(INT), "unidirectional": _ZERO, "scale": FLOAT, "mask_filter_value": FLOAT},
    ),
    _operator(
        "GroupQueryAttention",
        "query:T key?:T value?:T past_key?:C past_value?:C seqlens_k:M total_sequence_length:M cos_cache?:T sin_cache?:T"
        " position_ids?:int64 attention_bias?:T head_sink?:T k_scale?:S v_scale?:S q_norm_weight?:T k_norm_weight?:T"
        " query_seqlens?:M",
        "output:T present_key?:C present_value?:C output_qk?:T",
        _MASKED | {"C": "float float16 bfloat16 uint8 int8 float8e4m3fn", "S": "float"},
        {"num_heads": _required(INT), "kv_num_heads": _required(INT), "local_window_size": _MINUS, "causal": _ONE}
        | {"k_quant_type": _Default("NONE"), "v_quant_type": _Default("NONE"), "qk_norm_epsilon": _Default(1e-6)}
        | {"qk_output": _ZERO, "sliding_window_cache": _ZERO, "smooth_softmax": _MINUS}
        | dict.fromkeys(("scale", "softcap", "q_norm_epsilon", "k_norm_epsilon"), FLOAT)
        | dict.fromkeys(("do_rotary", "rotary_interleaved", "kv_cache_bit_width"), INT),
    ),
    # Quantisation.
    _operator(
        "QuantizeLinear",
        "x:T1 y_scale:T1 y_zero_point?:T2",
        "y:T2",
        {"T1": "float16 float", "T2": f"{_STORED} int4 uint4"},
        {"axis": INT},
    ),
    _operator(
        "DequantizeLinear",
        "x:T1 x_scale:T2 x_zero_point?:T1",
        "y:T2",
        {"T1": f"{_STORED} int32 int4 uint4", "T2": "float16 float"},
        {"axis": INT},
    ),
    _operator("QLinearAdd", _BINARY, "C:T", _BYTE),
    _operator("QLinearMul", _BINARY, "C:T", _BYTE),
    _operator("QLinearSigmoid", _UNARY, "Y:T", _BYTE),
    _operator("QLinearLeakyRelu", _UNARY, "Y:T", _BYTE, {"alpha": _Default(0.01)}),
    _operator(
        "QLinearSoftmax",
        "X:T X_scale:float x_zero_point?:T y_scale:float y_zero_point:T",
        "Y:T",
        _BYTE,
        {"axis": _LAST, "opset": _required(INT)},
    ),
    _operator(
        "QLinearConcat",
        "Y_scale:TF Y_zero_point:T8 *inputs:TV",
        "Y:T8",
        {"TF": "float", "T8": "int8 uint8", "TV": "int8 uint8 float"},
        {"axis": _required(INT)},
    ),
    _operator(
        "QLinearGlobalAveragePool",
        "X:T x_scale:float x_zero_point:T y_scale:float y_zero_point:T",
        "Y:T",
        _BYTE,
        {"channels_last": _ZERO},
    ),
    _operator(
        "QLinearAveragePool",
        "X:T x_scale:float x_zero_point?:T y_scale:float y_zero_point?:T",
        "Y:T",
        _BYTE,
        {"auto_pad": _Default("NOTSET"), "kernel_shape": _required(INTS), "pads": INTS, "strides": INTS}
        | dict.fromkeys(("ceil_mode", "channels_last", "count_include_pad"), _ZERO),
    ),
    _operator(
        "QLinearConv",
        "x:T1 x_scale:float x_zero_point:T1 w:T2 w_scale:float w_zero_point:T2 y_scale:float y_zero_point:T3 B?:T4",
        "y:T3",
        {"T1": "int8 uint8", "T2": "int8 uint8", "T3": "int8 uint8", "T4": "int32"},
        _WINDOW | {"channels_last": _ZERO},
    ),
    _operator(
        "QGemm",
        "A:TA a_scale:T a_zero_point:TA B:TB b_scale:T b_zero_point:TB C?:TC y_scale?:T y_zero_point?:TYZ",
        "Y:TY",
        {
            "T": "float",
            "TA": "int8 uint8",
            "TB": "int8 uint8",
            "TC": "int32",
            "TYZ": "int8 uint8",
            "TY": "float int8 uint8",
        },
        {"alpha": _Default(1.0), "transA": _ZERO, "transB": _ZERO},
    ),
    _operator(
        "MatMulIntegerToFloat",
        "A:T1 B:T2 a_scale:T3 b_scale:T3 a_zero_point?:T1 b_zero_point?:T2 bias?:T3",
        "Y:T3",
        {"T1": "int8 uint8", "T2": "int8 uint8", "T3": "float float16"},
    ),
    _operator(
        "DynamicQuantizeMatMul",
        "A:T1 B:T2 b_scale:T1 b_zero_point?:T2 bias?:T1",
        "Y:T1",
        {"T1": "float", "T2": "int8 uint8"},
    ),
    _operator(
        "DynamicQuantizeLSTM",
        "X:T W:T2 R:T2 B?:T sequence_lens?:T1 initial_h?:T initial_c?:T P?:T W_scale:T W_zero_point:T2 R_scale:T"
        " R_zero_point:T2",
        "Y?:T Y_h?:T Y_c?:T",
        {"T": "float", "T1": "int32", "T2": "int8 uint8"},
        {"direction": _Default("forward"), "input_forget": _ZERO, "clip": FLOAT, "hidden_size": INT}
        | {"activations": STRINGS, "activation_alpha": FLOATS, "activation_beta": FLOATS},
    ),
    _operator(
        "MatMulNBits",
        "A:T1 B:T2 scales:T1 zero_points?:T3 g_idx?:T4 bias?:T1",
        "Y:T1",
        {"T1": _HALVES["T"], "T2": "uint8", "T3": f"uint8 {_HALVES['T']}", "T4": "int32"},
        {"K": _required(INT), "N": _required(INT), "block_size": _required(INT), "bits": _Default(4)}
        | dict.fromkeys(("accuracy_level", "weight_prepacked"), _ZERO),
    ),
)


@cache
def table() -> dict[tuple[str, str], Schema]:
    """The records by domain and operator."""
    return {(schema.domain, schema.op_type): schema for schema in _OPERATORS}
