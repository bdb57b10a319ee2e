"""ONNX's own node-test vectors against the kernels of elementwise, logic, activation, reduce, shape, arrange, index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from anyir.ir.ops import get_op
from anyir.kernels.registry import get_kernel
from anyir.tests.support.onnx_vectors import assert_close, attributes, cases, spread

Call = tuple[str, list[Any], dict[str, Any]]
Adapter = Callable[[list[Any], dict[str, Any]], tuple[list[Any], dict[str, Any]]]

#: ONNX operators whose operands and attributes are ours, by our name.
SAME = {
    "elementwise": "Abs Neg Exp Log Sqrt Reciprocal Floor Ceil Round Sign Erf Sin Cos Tan Asin Acos Atan Sinh Cosh "
    "Asinh Acosh Atanh Identity Add Sub Mul Div Pow Mod Cast Clip BitCast",
    "logic": "Not BitwiseNot Equal Less Greater And Or Xor BitwiseAnd BitwiseOr BitwiseXor BitShift Where",
    "activation": "Relu LeakyRelu Elu Selu Celu ThresholdedRelu Sigmoid HardSigmoid HardSwish Mish Softplus Softsign "
    "Tanh Gelu Shrink Softmax LogSoftmax Hardmax Swish",
    "reduce": "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceSumSquare ArgMax ArgMin",
    "shape": "Reshape Transpose Concat Split Slice Pad Squeeze Unsqueeze Expand Tile Flatten",
    "arrange": "Shape Size Range DepthToSpace SpaceToDepth Trilu EyeLike ReverseSequence",
    "index": "Gather GatherElements OneHot Compress ScatterElements",
}

RENAMED = {
    "IsNaN": "is_nan",
    "IsInf": "is_inf",
    "LessOrEqual": "less_equal",
    "GreaterOrEqual": "greater_equal",
    "PRelu": "prelu",
    "CumSum": "cumsum",
    "CumProd": "cumprod",
    "TopK": "topk",
    "GatherND": "gather_nd",
    "ScatterND": "scatter_nd",
    "NonZero": "non_zero",
    "BitCast": "bitcast",
}


def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


NAMES = {n: RENAMED.get(n, _snake(n)) for family in SAME.values() for n in family.split()} | RENAMED
CHAINS = {"Max": "max", "Min": "min", "Sum": "add"}

#: Outside the op, with the reason.
EXCLUDED = {
    "test_range_float16_type_positive_delta_stash_type_1": "stash_type belongs to the frontend",
}


def _transpose(operands: list[Any], attrs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    return operands, attrs or {"perm": tuple(reversed(range(operands[0].ndim)))}


def _stash(operands: list[Any], attrs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    attrs.pop("stash_type", None)
    return operands, attrs


ADAPT: dict[str, Adapter] = {"Transpose": _transpose, "Range": _stash}

CASES = {n: c for n, c in cases(frozenset(NAMES) | frozenset(CHAINS)).items() if n not in EXCLUDED}


def _run(node: Any, inputs: list[Any]) -> list[np.ndarray]:
    operands = spread(node.input, inputs)
    if node.op_type in CHAINS:
        total = operands[0]
        for other in operands[1:]:
            total = get_kernel(CHAINS[node.op_type])(total, other)
        return [total]
    attrs = attributes(node)
    if node.op_type == "Split" and len(operands) == 1:
        attrs.setdefault("num_outputs", len(node.output))
    operands, attrs = ADAPT.get(node.op_type, lambda o, a: (o, a))(operands, attrs)
    name = NAMES[node.op_type]
    made = get_kernel(name)(*operands, **get_op(name).make_attrs(attrs))
    return list(made) if isinstance(made, tuple) else [made]


@pytest.mark.parametrize("name", CASES)
def test_vector(name: str) -> None:
    node = CASES[name].model.graph.node[0]
    for inputs, outputs in CASES[name].data_sets:
        made = _run(node, inputs)
        for index, wanted in enumerate(spread(node.output, outputs)):
            assert_close(np.asarray(made[index]), wanted)


def test_every_op_has_cases() -> None:
    seen = {case.model.graph.node[0].op_type for case in CASES.values()}
    assert set(NAMES) - seen <= {"Celu"}
