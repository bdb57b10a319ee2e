"""ONNX's own node-test vectors against the kernels of conv, pool, matmul, norm, resize, recurrent, attention, quant.

The cases are made by the onnx package (inputs and expected outputs); the little table below says how an ONNX node's
attributes and operands are written for our op. Cases that our IR leaves to frontends (training outputs) are listed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("onnx")

from anyir.ir.ops import get_op
from anyir.ir.types import DType
from anyir.kernels.registry import get_kernel
from anyir.tests.support.onnx_vectors import attributes, cases, spread

AUTO_PAD = {"NOTSET": "explicit", "VALID": "explicit", "SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}
RENAMED = {"group": "groups"}

Operands = list[Any]
Adapter = Callable[[Operands, dict[str, Any]], tuple[Operands, dict[str, Any]]]


def _as_is(operands: Operands, attrs: dict[str, Any]) -> tuple[Operands, dict[str, Any]]:
    return operands, attrs


def _conv(operands: Operands, attrs: dict[str, Any]) -> tuple[Operands, dict[str, Any]]:
    attrs.pop("kernel_shape", None)
    return operands, attrs


def _recurrent(operands: Operands, attrs: dict[str, Any]) -> tuple[Operands, dict[str, Any]]:
    if attrs.pop("layout", 0):
        swapped = {0, 5, 6}
        operands = [v.swapaxes(0, 1) if v is not None and i in swapped else v for i, v in enumerate(operands)]
    return operands, attrs


def _quantised(operands: Operands, attrs: dict[str, Any]) -> tuple[Operands, dict[str, Any]]:
    """`axis` and `block_size` become the shape of scale and zero point."""
    axis, block = attrs.pop("axis", 1), attrs.pop("block_size", 0)
    attrs.pop("precision", None)
    x = operands[0]
    shape = [-1 if i == axis % max(x.ndim, 1) else 1 for i in range(x.ndim)]
    shaped = [p.reshape(shape) if p is not None and p.ndim == 1 and not block else p for p in operands[1:]]
    return [x, *shaped], attrs


def _quantize(operands: Operands, attrs: dict[str, Any]) -> tuple[Operands, dict[str, Any]]:
    operands, attrs = _quantised(operands, attrs)
    attrs["to"] = attrs.pop("output_dtype", None) or DType.of(operands[2].dtype)
    return operands, attrs


def _dequantize(operands: Operands, attrs: dict[str, Any]) -> tuple[Operands, dict[str, Any]]:
    operands, attrs = _quantised(operands, attrs)
    attrs["to"] = attrs.pop("output_dtype", None) or DType.of(operands[1].dtype)
    return operands, attrs


def _without(*names: str) -> Adapter:
    def adapt(operands: Operands, attrs: dict[str, Any]) -> tuple[Operands, dict[str, Any]]:
        return operands, {k: v for k, v in attrs.items() if k not in names}

    return adapt


OPS: dict[str, tuple[str, Adapter]] = {
    "Conv": ("conv", _conv),
    "ConvTranspose": ("conv_transpose", _conv),
    "ConvInteger": ("conv_integer", _conv),
    "MaxPool": ("max_pool", _as_is),
    "AveragePool": ("average_pool", _as_is),
    "LpPool": ("lp_pool", _as_is),
    "GlobalAveragePool": ("global_average_pool", _as_is),
    "GlobalMaxPool": ("global_max_pool", _as_is),
    "MaxUnpool": ("max_unpool", _as_is),
    "MatMul": ("matmul", _as_is),
    "Gemm": ("gemm", _as_is),
    "Einsum": ("einsum", _as_is),
    "MatMulInteger": ("matmul_integer", _as_is),
    "BatchNormalization": ("batch_norm", _without("momentum")),
    "LayerNormalization": ("layer_norm", _without("stash_type")),
    "InstanceNormalization": ("instance_norm", _as_is),
    "GroupNormalization": ("group_norm", _without("stash_type")),
    "RMSNormalization": ("rms_norm", _without("stash_type")),
    "LRN": ("lrn", _as_is),
    "LpNormalization": ("lp_normalization", _as_is),
    "MeanVarianceNormalization": ("mean_variance_normalization", _as_is),
    "Resize": ("resize", _as_is),
    "GridSample": ("grid_sample", _as_is),
    "AffineGrid": ("affine_grid", _as_is),
    "LSTM": ("lstm", _recurrent),
    "GRU": ("gru", _recurrent),
    "RNN": ("rnn", _recurrent),
    "Attention": ("attention", _as_is),
    "RotaryEmbedding": ("rotary_embedding", _as_is),
    "QuantizeLinear": ("quantize", _quantize),
    "DequantizeLinear": ("dequantize", _dequantize),
    "DynamicQuantizeLinear": ("dynamic_quantize", _as_is),
}

#: Cases outside the IR's ops, with the reason.
EXCLUDED = {
    "test_batchnorm_epsilon_training_mode": "training",
    "test_batchnorm_example_training_mode": "training",
}

#: Cases whose inputs and expected values are typed with four decimals.
PRINTED = frozenset({"test_averagepool_2d_ceil_last_window_starts_on_pad", "test_gridsample_bicubic"})


CASES = {name: case for name, case in cases(frozenset(OPS)).items() if name not in EXCLUDED}


def _run(case: Any, inputs: list[Any]) -> tuple[Any, ...]:
    node = case.model.graph.node[0]
    name, adapt = OPS[node.op_type]
    given = {RENAMED.get(k, k): AUTO_PAD[v] if k == "auto_pad" else v for k, v in attributes(node).items()}
    back = given.get("layout", 0)
    operands, attrs = adapt(spread(node.input, inputs), given)
    if name == "max_pool" and len(node.output) > 1:
        name = "max_pool_with_indices"
    made = get_kernel(name)(*operands, **get_op(name).make_attrs(attrs))
    made = made if isinstance(made, tuple) else (made,)
    if back:
        y, *states = made
        made = (y.transpose(2, 0, 1, 3), *(s.swapaxes(0, 1) for s in states))
    return made


def assert_close(made: np.ndarray, wanted: np.ndarray, inputs: list[Any], typed: float) -> None:
    """Equal for integers; for floats within the rounding of a reference that sums in its own dtype."""
    assert made.shape == wanted.shape
    assert made.dtype == wanted.dtype
    if made.dtype.kind in "iub" or made.dtype.name.startswith(("int", "uint")):
        np.testing.assert_array_equal(made, wanted)
        return
    epsilon = float(ml_dtypes.finfo(made.dtype).eps)
    coarse = [float(ml_dtypes.finfo(v.dtype).eps) for v in inputs if DType.of(v.dtype).is_float]
    terms = 8 + max((v.size for v in inputs), default=0) ** 0.5
    exact = wanted.astype(np.float64)
    largest = np.abs(exact[np.isfinite(exact)]).max(initial=1e-3)
    limit = max([epsilon, *coarse]) * terms * largest + typed
    np.testing.assert_allclose(made.astype(np.float64), exact, rtol=0, atol=limit)


@pytest.mark.parametrize("name", CASES)
def test_vector(name: str) -> None:
    case = CASES[name]
    node = case.model.graph.node[0]
    for inputs, outputs in case.data_sets:
        made = _run(case, inputs)
        given = [v for v in spread(node.input, inputs) if v is not None]
        for index, wanted in enumerate(spread(node.output, outputs)):
            if wanted is not None and index < len(made):
                assert_close(made[index], wanted, given, 1e-4 * (name in PRINTED))


def test_every_op_has_cases() -> None:
    missing = set(OPS) - {case.model.graph.node[0].op_type for case in CASES.values()}
    assert not missing
