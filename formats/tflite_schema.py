"""The TFLite flatbuffer schema (version 3d) as data: every enum, table, slot, type and default.

Notation of the tables, parsed once at import: `Table(slot:type=default ...)`, slots in vtable order, `-` a slot that
the schema has retired. Types: scalars `bool i8 u8 i32 ...`, `string`, a table's name, `[T]` a vector of T, `<Enum>` a
union whose type byte is the slot before it. Enums number from 0 and skip with `NAME=value`. Defaults that are not
written are zero. Must not import anything of the package: reader, writer and operator tables stand on this file.
"""

from __future__ import annotations

from dataclasses import dataclass

_ENUMS = """
TensorType(FLOAT32 FLOAT16 INT32 UINT8 INT64 STRING BOOL INT16 COMPLEX64 INT8 FLOAT64 COMPLEX128 UINT64 RESOURCE
    VARIANT UINT32 UINT16 INT4 BFLOAT16 INT2 UINT4 FLOAT8_E4M3FN FLOAT8_E5M2)
QuantizationDetails(NONE CustomQuantization BlockwiseQuantization MultiAxisQuantization)
DimensionType(DENSE SPARSE_CSR)
SparseIndexVector(NONE Int32Vector Uint16Vector Uint8Vector)
BuiltinOperator(ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
    EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
    LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE
    RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM
    EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE
    MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT
    LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER
    GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL
    LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND
    LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE
    RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N
    GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE
    NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL
    PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS
    HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE
    READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL
    GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
    UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE
    STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP STABLEHLO_CONCATENATE
    STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE
    STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG
    STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT
    STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT
    STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA STABLEHLO_DOT_GENERAL
    STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE
    STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT
    STABLEHLO_CASE)
BuiltinOptions(NONE Conv2DOptions DepthwiseConv2DOptions ConcatEmbeddingsOptions LSHProjectionOptions
    Pool2DOptions SVDFOptions RNNOptions FullyConnectedOptions SoftmaxOptions ConcatenationOptions AddOptions
    L2NormOptions LocalResponseNormalizationOptions LSTMOptions ResizeBilinearOptions CallOptions ReshapeOptions
    SkipGramOptions SpaceToDepthOptions EmbeddingLookupSparseOptions MulOptions PadOptions GatherOptions
    BatchToSpaceNDOptions SpaceToBatchNDOptions TransposeOptions ReducerOptions SubOptions DivOptions
    SqueezeOptions SequenceRNNOptions StridedSliceOptions ExpOptions TopKV2Options SplitOptions
    LogSoftmaxOptions CastOptions DequantizeOptions MaximumMinimumOptions ArgMaxOptions LessOptions NegOptions
    PadV2Options GreaterOptions GreaterEqualOptions LessEqualOptions SelectOptions SliceOptions
    TransposeConvOptions SparseToDenseOptions TileOptions ExpandDimsOptions EqualOptions NotEqualOptions
    ShapeOptions PowOptions ArgMinOptions FakeQuantOptions PackOptions LogicalOrOptions OneHotOptions
    LogicalAndOptions LogicalNotOptions UnpackOptions FloorDivOptions SquareOptions ZerosLikeOptions FillOptions
    BidirectionalSequenceLSTMOptions BidirectionalSequenceRNNOptions UnidirectionalSequenceLSTMOptions
    FloorModOptions RangeOptions ResizeNearestNeighborOptions LeakyReluOptions SquaredDifferenceOptions
    MirrorPadOptions AbsOptions SplitVOptions UniqueOptions ReverseV2Options AddNOptions GatherNdOptions
    CosOptions WhereOptions RankOptions ReverseSequenceOptions MatrixDiagOptions QuantizeOptions
    MatrixSetDiagOptions HardSwishOptions IfOptions WhileOptions DepthToSpaceOptions NonMaxSuppressionV4Options
    NonMaxSuppressionV5Options ScatterNdOptions SelectV2Options DensifyOptions SegmentSumOptions
    BatchMatMulOptions CumsumOptions CallOnceOptions BroadcastToOptions Rfft2dOptions Conv3DOptions
    HashtableOptions HashtableFindOptions HashtableImportOptions HashtableSizeOptions VarHandleOptions
    ReadVariableOptions AssignVariableOptions RandomOptions BucketizeOptions GeluOptions
    DynamicUpdateSliceOptions UnsortedSegmentProdOptions UnsortedSegmentMaxOptions UnsortedSegmentMinOptions
    UnsortedSegmentSumOptions ATan2Options SignOptions BitcastOptions BitwiseXorOptions RightShiftOptions)
BuiltinOptions2(NONE StablehloConcatenateOptions StablehloBroadcastInDimOptions StablehloSliceOptions
    StablehloConvolutionOptions StablehloCustomCallOptions StablehloReduceOptions StablehloScatterOptions
    StablehloCompareOptions StablehloDynamicSliceOptions StablehloPadOptions StablehloIotaOptions
    StablehloDotGeneralOptions StablehloReduceWindowOptions StablehloSortOptions StablehloWhileOptions
    StablehloGatherOptions StablehloTransposeOptions DilateOptions StablehloRngBitGeneratorOptions
    ReduceWindowOptions StableHLOCompositeOptions StablehloShiftLeftOptions StablehloCaseOptions)
StablehloPrecisionConfig(DEFAULT HIGH HIGHEST)
StablehloComparisonDirection(STABLEHLO_COMPARISON_DIRECTION_EQ STABLEHLO_COMPARISON_DIRECTION_NE
    STABLEHLO_COMPARISON_DIRECTION_GE STABLEHLO_COMPARISON_DIRECTION_GT STABLEHLO_COMPARISON_DIRECTION_LE
    STABLEHLO_COMPARISON_DIRECTION_LT)
StablehloComparisonType(STABLEHLO_COMPARISON_TYPE_NOTYPE STABLEHLO_COMPARISON_TYPE_FLOAT
    STABLEHLO_COMPARISON_TYPE_FLOAT_TOTAL_ORDER STABLEHLO_COMPARISON_TYPE_SIGNED
    STABLEHLO_COMPARISON_TYPE_UNSIGNED)
RngAlgorithm(DEFAULT PHILOX THREEFRY)
Padding(SAME VALID)
ActivationFunctionType(NONE RELU RELU_N1_TO_1 RELU6 TANH SIGN_BIT)
LSHProjectionType(UNKNOWN SPARSE DENSE)
FullyConnectedOptionsWeightsFormat(DEFAULT SHUFFLED4x16INT8)
LSTMKernelType(FULL BASIC)
CombinerType(SUM MEAN SQRTN)
MirrorPadMode(REFLECT SYMMETRIC)
ReduceWindowFunction(UNSUPPORTED ADD MUL MINIMUM MAXIMUM ALL ANY)
CustomOptionsFormat(FLEXBUFFERS)
"""

_STRUCTURE = """
Model(version:u32 operator_codes:[OperatorCode] subgraphs:[SubGraph] description:string buffers:[Buffer]
    metadata_buffer:[i32] metadata:[Metadata] signature_defs:[SignatureDef]
    external_buffer_groups:[ExternalBufferGroup] external_buffers:[ExternalBuffer])
OperatorCode(deprecated_builtin_code:i8 custom_code:string version:i32=1 builtin_code:i32)
SubGraph(tensors:[Tensor] inputs:[i32] outputs:[i32] operators:[Operator] name:string
    debug_metadata_index:i32=-1)
Tensor(shape:[i32] type:i8 buffer:u32 name:string quantization:QuantizationParameters is_variable:bool
    sparsity:SparsityParameters shape_signature:[i32] has_rank:bool variant_tensors:[VariantSubType]
    external_buffer:u32)
QuantizationParameters(min:[f32] max:[f32] scale:[f32] zero_point:[i64] details_type:u8
    details:<QuantizationDetails> quantized_dimension:i32)
CustomQuantization(custom:[u8])
BlockwiseQuantization(scales:i32 zero_points:i32 block_size:i32 block_shape:[i32])
MultiAxisQuantization(scales:i32 zero_points:i32 block_size:i32 quantized_dimensions:[i32])
SparsityParameters(traversal_order:[i32] block_map:[i32] dim_metadata:[DimensionMetadata])
DimensionMetadata(format:i8 dense_size:i32 array_segments_type:u8 array_segments:<SparseIndexVector>
    array_indices_type:u8 array_indices:<SparseIndexVector>)
Int32Vector(values:[i32])
Uint16Vector(values:[u16])
Uint8Vector(values:[u8])
VariantSubType(shape:[i32] type:i8 has_rank:bool)
Operator(opcode_index:u32 inputs:[i32] outputs:[i32] builtin_options_type:u8 builtin_options:<BuiltinOptions>
    custom_options:[u8] custom_options_format:i8 mutating_variable_inputs:[bool] intermediates:[i32]
    large_custom_options_offset:u64 large_custom_options_size:u64 builtin_options_2_type:u8
    builtin_options_2:<BuiltinOptions2> debug_metadata_index:i32=-1)
Buffer(data:[u8] offset:u64 size:u64)
ExternalBufferGroup(name:string)
ExternalBuffer(id:u32 group:u32 offset:u64 length:u64 packing:string)
Metadata(name:string buffer:u32)
TensorMap(name:string tensor_index:u32)
SignatureDef(inputs:[TensorMap] outputs:[TensorMap] signature_key:string - subgraph_index:u32)
"""

_OPTIONS = """
AddOptions(fused_activation_function:i8 pot_scale_int16:bool=1)
ArgMaxOptions(output_type:i8)
ArgMinOptions(output_type:i8)
BatchMatMulOptions(adj_x:bool adj_y:bool asymmetric_quantize_inputs:bool)
BidirectionalSequenceLSTMOptions(fused_activation_function:i8 cell_clip:f32 proj_clip:f32 merge_outputs:bool
    time_major:bool=1 asymmetric_quantize_inputs:bool)
BidirectionalSequenceRNNOptions(time_major:bool fused_activation_function:i8 merge_outputs:bool
    asymmetric_quantize_inputs:bool)
BucketizeOptions(boundaries:[f32])
CallOnceOptions(init_subgraph_index:i32)
CallOptions(subgraph:u32)
CastOptions(in_data_type:i8 out_data_type:i8)
ConcatEmbeddingsOptions(num_channels:i32 num_columns_per_channel:[i32] embedding_dim_per_channel:[i32])
ConcatenationOptions(axis:i32 fused_activation_function:i8)
Conv2DOptions(padding:i8 stride_w:i32 stride_h:i32 fused_activation_function:i8 dilation_w_factor:i32=1
    dilation_h_factor:i32=1 quantized_bias_type:i8)
Conv3DOptions(padding:i8 stride_d:i32 stride_w:i32 stride_h:i32 fused_activation_function:i8
    dilation_d_factor:i32=1 dilation_w_factor:i32=1 dilation_h_factor:i32=1)
CumsumOptions(exclusive:bool reverse:bool)
DepthToSpaceOptions(block_size:i32)
DepthwiseConv2DOptions(padding:i8 stride_w:i32 stride_h:i32 depth_multiplier:i32 fused_activation_function:i8
    dilation_w_factor:i32=1 dilation_h_factor:i32=1)
DivOptions(fused_activation_function:i8)
EmbeddingLookupSparseOptions(combiner:i8)
FakeQuantOptions(min:f32 max:f32 num_bits:i32 narrow_range:bool)
FullyConnectedOptions(fused_activation_function:i8 weights_format:i8 keep_num_dims:bool
    asymmetric_quantize_inputs:bool quantized_bias_type:i8 quant_spec:[u8])
GatherOptions(axis:i32 batch_dims:i32)
GeluOptions(approximate:bool)
HashtableOptions(table_id:i32 key_dtype:i8 value_dtype:i8)
IfOptions(then_subgraph_index:i32 else_subgraph_index:i32)
L2NormOptions(fused_activation_function:i8)
LSHProjectionOptions(type:i8)
LSTMOptions(fused_activation_function:i8 cell_clip:f32 proj_clip:f32 kernel_type:i8
    asymmetric_quantize_inputs:bool)
LeakyReluOptions(alpha:f32)
LocalResponseNormalizationOptions(radius:i32 bias:f32 alpha:f32 beta:f32)
MirrorPadOptions(mode:i8)
MulOptions(fused_activation_function:i8)
OneHotOptions(axis:i32)
PackOptions(values_count:i32 axis:i32)
Pool2DOptions(padding:i8 stride_w:i32 stride_h:i32 filter_width:i32 filter_height:i32
    fused_activation_function:i8)
RNNOptions(fused_activation_function:i8 asymmetric_quantize_inputs:bool)
RandomOptions(seed:i64 seed2:i64)
ReduceWindowOptions(reduce_function:i32)
ReducerOptions(keep_dims:bool)
ReshapeOptions(new_shape:[i32])
ResizeBilinearOptions(- - align_corners:bool half_pixel_centers:bool)
ResizeNearestNeighborOptions(align_corners:bool half_pixel_centers:bool)
ReverseSequenceOptions(seq_dim:i32 batch_dim:i32)
SVDFOptions(rank:i32 fused_activation_function:i8 asymmetric_quantize_inputs:bool)
SequenceRNNOptions(time_major:bool fused_activation_function:i8 asymmetric_quantize_inputs:bool)
ShapeOptions(out_type:i8)
SkipGramOptions(ngram_size:i32 max_skip_size:i32 include_all_ngrams:bool)
SoftmaxOptions(beta:f32)
SpaceToDepthOptions(block_size:i32)
SparseToDenseOptions(validate_indices:bool)
SplitOptions(num_splits:i32)
SplitVOptions(num_splits:i32)
SqueezeOptions(squeeze_dims:[i32])
StableHLOCompositeOptions(name:string decomposition_subgraph_index:i32 composite_attributes:[u8]
    composite_attributes_format:i8 version:i32)
StablehloBroadcastInDimOptions(broadcast_dimensions:[i64])
StablehloCaseOptions(branch_subgraph_indices:[i32])
StablehloCompareOptions(comparison_direction:u32 compare_type:u32)
StablehloConcatenateOptions(dimension:i64)
StablehloConvolutionOptions(window_strides:[i64] padding:[i64] lhs_dilation:[i64] rhs_dilation:[i64]
    window_reversal:[bool] input_batch_dimension:i64 input_feature_dimension:i64 input_spatial_dimensions:[i64]
    kernel_input_feature_dimension:i64 kernel_output_feature_dimension:i64 kernel_spatial_dimensions:[i64]
    output_batch_dimension:i64 output_feature_dimension:i64 output_spatial_dimensions:[i64]
    feature_group_count:i64 batch_group_count:i64 precision_config:[u32])
StablehloCustomCallOptions(call_target_name:string has_side_effect:bool backend_config:string api_version:i32
    called_computations:[i32] custom_attributes:[u8])
StablehloDotGeneralOptions(lhs_batching_dimensions:[i64] rhs_batching_dimensions:[i64]
    lhs_contracting_dimensions:[i64] rhs_contracting_dimensions:[i64] precision_config:[u32])
StablehloDynamicSliceOptions(slice_sizes:[i64])
StablehloGatherOptions(offset_dims:[i64] collapsed_slice_dims:[i64] start_index_map:[i64] index_vector_dim:i64
    slice_sizes:[i64] indices_are_sorted:bool)
StablehloIotaOptions(iota_dimension:i64)
StablehloPadOptions(edge_padding_low:[i64] edge_padding_high:[i64] interior_padding:[i64])
StablehloReduceOptions(dimensions:[i64] body_subgraph_index:i32)
StablehloReduceWindowOptions(window_dimensions:[i64] window_strides:[i64] base_dilations:[i64]
    window_dilations:[i64] padding:[i64] body_subgraph_index:i32)
StablehloRngBitGeneratorOptions(algorithm:i8)
StablehloScatterOptions(indices_are_sorted:bool update_window_dims:[i64] inserted_window_dims:[i64]
    scatter_dims_to_operand_dims:[i64] index_vector_dim:i64 unique_indices:bool
    update_computation_subgraph_index:i32)
StablehloSliceOptions(start_indices:[i64] limit_indices:[i64] strides:[i64])
StablehloSortOptions(dimension:i64 is_stable:bool comparator_subgraph_index:i32)
StablehloTransposeOptions(permutation:[i64])
StablehloWhileOptions(cond_subgraph_index:i32 body_subgraph_index:i32)
StridedSliceOptions(begin_mask:i32 end_mask:i32 ellipsis_mask:i32 new_axis_mask:i32 shrink_axis_mask:i32
    offset:bool)
SubOptions(fused_activation_function:i8 pot_scale_int16:bool=1)
TransposeConvOptions(padding:i8 stride_w:i32 stride_h:i32 fused_activation_function:i8 quantized_bias_type:i8)
UnidirectionalSequenceLSTMOptions(fused_activation_function:i8 cell_clip:f32 proj_clip:f32 time_major:bool
    asymmetric_quantize_inputs:bool diagonal_recurrent_tensors:bool)
UniqueOptions(idx_out_type:i8=2)
UnpackOptions(num:i32 axis:i32)
VarHandleOptions(container:string shared_name:string)
WhileOptions(cond_subgraph_index:i32 body_subgraph_index:i32)
"""

_EMPTY_OPTIONS = """
ATan2Options AbsOptions AddNOptions AssignVariableOptions BatchToSpaceNDOptions BitcastOptions BitwiseXorOptions
    BroadcastToOptions CosOptions DensifyOptions DequantizeOptions DilateOptions DynamicUpdateSliceOptions
    EqualOptions ExpOptions ExpandDimsOptions FillOptions FloorDivOptions FloorModOptions GatherNdOptions
    GreaterEqualOptions GreaterOptions HardSwishOptions HashtableFindOptions HashtableImportOptions
    HashtableSizeOptions LessEqualOptions LessOptions LogSoftmaxOptions LogicalAndOptions LogicalNotOptions
    LogicalOrOptions MatrixDiagOptions MatrixSetDiagOptions MaximumMinimumOptions NegOptions
    NonMaxSuppressionV4Options NonMaxSuppressionV5Options NotEqualOptions PadOptions PadV2Options PowOptions
    QuantizeOptions RangeOptions RankOptions ReadVariableOptions ReverseV2Options Rfft2dOptions
    RightShiftOptions ScatterNdOptions SegmentSumOptions SelectOptions SelectV2Options SignOptions SliceOptions
    SpaceToBatchNDOptions SquareOptions SquaredDifferenceOptions StablehloShiftLeftOptions TileOptions
    TopKV2Options TransposeOptions UnsortedSegmentMaxOptions UnsortedSegmentMinOptions
    UnsortedSegmentProdOptions UnsortedSegmentSumOptions WhereOptions ZerosLikeOptions
"""

_REDUCTIONS = "MEAN SUM REDUCE_PROD REDUCE_MAX REDUCE_MIN REDUCE_ANY REDUCE_ALL"
# Builtin operators whose options table is not `<CamelCase of the operator's name>Options`.
_SHARED_OPTIONS = {
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "L2_POOL_2D": "Pool2DOptions",
    "L2_NORMALIZATION": "L2NormOptions",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "SequenceRNNOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "CONV_3D_TRANSPOSE": "Conv3DOptions",
    "RANDOM_UNIFORM": "RandomOptions",
    "RANDOM_STANDARD_NORMAL": "RandomOptions",
    "MULTINOMIAL": "RandomOptions",
    **dict.fromkeys(_REDUCTIONS.split(), "ReducerOptions"),
}


@dataclass(frozen=True, slots=True)
class Slot:
    """One vtable slot: `vector` says [kind]; `union` names the enum whose members are the tables allowed here."""

    name: str
    kind: str
    vector: bool = False
    union: str = ""
    default: int | float = 0


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the schema; a retired slot is None, so that positions stay the vtable's."""

    name: str
    slots: tuple[Slot | None, ...]


def _entries(text: str) -> list[tuple[str, list[str]]]:
    found = []
    for entry in text.split(")"):
        name, _, body = entry.strip().partition("(")
        if name:
            found.append((name, body.split()))
    return found


def _enum(words: list[str]) -> dict[str, int]:
    members, following = {}, 0
    for word in words:
        name, _, value = word.partition("=")
        members[name] = int(value) if value else following
        following = members[name] + 1
    return members


def _slot(word: str) -> Slot | None:
    if word == "-":
        return None
    name, _, rest = word.partition(":")
    kind, _, default = rest.partition("=")
    number: int | float = 0
    if default:
        number = float(default) if kind == "f32" else int(default)
    if kind.startswith("<"):
        return Slot(name, "table", union=kind[1:-1])
    if kind.startswith("["):
        return Slot(name, kind[1:-1], vector=True)
    return Slot(name, kind, default=number)


def _tables() -> dict[str, Table]:
    tables = {name: Table(name, ()) for name in _EMPTY_OPTIONS.split()}
    for name, words in _entries(_STRUCTURE) + _entries(_OPTIONS):
        tables[name] = Table(name, tuple(_slot(word) for word in words))
    return tables


def _options_of() -> dict[str, str]:
    by_op = {
        name.removesuffix("Options").lower(): name
        for union in ("BuiltinOptions", "BuiltinOptions2")
        for name in ENUMS[union]
    }
    named = {op: by_op.get(op.lower().replace("_", "")) for op in ENUMS["BuiltinOperator"]}
    return {op: table for op, table in named.items() if table} | _SHARED_OPTIONS


ENUMS: dict[str, dict[str, int]] = {name: _enum(words) for name, words in _entries(_ENUMS)}
TABLES: dict[str, Table] = _tables()
# The scalar kinds: struct format character and size in bytes.
SCALARS = {"bool": ("?", 1), "i8": ("b", 1), "u8": ("B", 1), "u16": ("H", 2), "i32": ("i", 4), "u32": ("I", 4)} | {
    "f32": ("f", 4),
    "i64": ("q", 8),
    "u64": ("Q", 8),
}
# Vectors that the schema marks `force_align`.
ALIGNED = {("Buffer", "data"): 16, ("CustomQuantization", "custom"): 16}
# Builtin operator -> its options table; operators that have none are absent.
OPTIONS_OF: dict[str, str] = _options_of()
OP_NAMES: dict[int, str] = {code: name for name, code in ENUMS["BuiltinOperator"].items()}
TYPE_NAMES: dict[int, str] = {code: name for name, code in ENUMS["TensorType"].items()}
FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
