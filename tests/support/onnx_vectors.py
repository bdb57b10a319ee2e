"""ONNX's own node-test vectors: the onnx package makes inputs and expected outputs for one-node models."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import ml_dtypes
import numpy as np

TYPE_ATTRS = ("to", "dtype", "softmax_precision", "output_dtype")


@functools.cache
def _collected() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return collect_testcases(None)


def cases(op_types: frozenset[str]) -> dict[str, Any]:
    """Test cases by name whose model is one node of these types in ONNX's own domain."""
    found = {}
    for case in _collected():
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in op_types and not nodes[0].domain:
            found[case.name] = case
    return dict(sorted(found.items()))


def attributes(node: Any) -> dict[str, Any]:
    """Plain Python attributes; element types as IR dtypes."""
    import onnx

    made: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        if isinstance(value, list):
            value = tuple(v.decode() if isinstance(v, bytes) else v for v in value)
        made[attribute.name] = ir_dtype(value) if attribute.name in TYPE_ATTRS else value
    return made


def ir_dtype(number: int) -> Any:
    """The IR dtype of an ONNX element type."""
    import onnx
    from anyir.ir.types import STRING, DType

    return STRING if number == onnx.TensorProto.STRING else DType.of(onnx.helper.tensor_dtype_to_np_dtype(number))


def spread(names: Any, arrays: list[Any]) -> list[Any]:
    """One entry per name, None for an empty one."""
    remaining = iter(arrays)
    return [_array(next(remaining)) if name else None for name in names]


def _array(item: Any) -> np.ndarray:
    import onnx

    return onnx.numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else np.asarray(item)


def assert_close(made: np.ndarray, wanted: np.ndarray, steps: int = 4) -> None:
    """Same dtype and shape; equal unless float, and then within some units in the last place of the result."""
    assert made.shape == wanted.shape
    if wanted.dtype.kind in "OSU":
        assert made.reshape(-1).tolist() == [str(w) for w in wanted.reshape(-1)]
        return
    assert made.dtype == wanted.dtype
    if made.dtype.kind in "iub" or made.dtype.name.startswith(("int", "uint")):
        np.testing.assert_array_equal(made, wanted)
        return
    exact = wanted.astype(np.complex128 if wanted.dtype.kind == "c" else np.float64)
    epsilon = float(ml_dtypes.finfo(made.dtype).eps)
    tiny = float(ml_dtypes.finfo(made.dtype).smallest_subnormal)
    np.testing.assert_allclose(
        made.astype(exact.dtype), exact, rtol=steps * epsilon, atol=steps * max(tiny, epsilon**2)
    )
