"""How many arguments each primitive takes in the modern dialect (mind_ir_version 2 and later). Data only.

MindSpore does not check it: a call with another number of arguments crashes the process. What is not in this table is
not written. Primitives defined by MindSpore's operator tables take all their parameters as arguments, defaults spelled
out; the older ones keep attributes.
"""

from __future__ import annotations

_BY_COUNT: dict[int, str] = {
    1: """
        Abs Neg Exp Log Sqrt Rsqrt Reciprocal Floor Ceil Trunc Sign Square Erf Sin Cos Tan Asin ACos Atan Sinh Cosh
        Asinh Acosh Atanh Log1p Expm1 IsNan IsInf LogicalNot Invert Identity ReLU ReLU6 Sigmoid Tanh SiLU Softsign
        Softplus Mish HSwish HSigmoid GeLU SeLU Shape TensorShape TensorToTuple NonZero MaxPool MaxPool3D
        MaxPoolWithArgmaxV2 Sort TensorToScalar AvgPool3D LRN DepthToSpace SpaceToDepth Tril Load
    """,
    2: """
        Add Sub Mul Div TruncateDiv FloorDiv FloorMod Mod Pow Atan2 Minimum Maximum Equal NotEqual Less LessEqual
        Greater GreaterEqual LogicalAnd LogicalOr LogicalXor BitwiseAnd BitwiseOr BitwiseXor LeftShift RightShift
        Round Elu CeLU HShrink SoftShrink Softmax LogSoftmax Cast PReLU Conv2D Conv3D Conv3DTranspose MatMulExt
        TupleGetItem ScalarAdd ScalarSub ScalarMul ScalarFloorDiv ScalarMod ScalarMax ScalarMin Reshape Transpose
        Squeeze ExpandDims BroadcastTo Tile Concat ReverseV2 Triu FillV2 GatherNd
    """,
    3: """
        BiasAdd ClampScalar Select Conv2DTranspose ReduceMean ReduceMax ReduceMin ReduceProd ReduceAll ReduceAny
        Argmax Argmin Split SplitWithSize PadV3 GatherD TensorScatterUpdate TensorScatterAdd TensorScatterMul
        TensorScatterMax TensorScatterMin Switch
    """,
    4: "MatMul BatchMatMul ReduceSum CumSum CumProd Gather Range ResizeNearestNeighborV2 ResizeBilinearV2 LSTM",
    5: "AvgPool GroupNorm TensorScatterElements",
    6: "LayerNorm",
    9: "BatchNorm StridedSlice",
}

ARITY: dict[str, int | None] = {name: count for count, names in _BY_COUNT.items() for name in names.split()}
ARITY["MakeTuple"] = ARITY["Partial"] = None  # any number
