"""Runs ONNX files in onnxruntime, on the CPU and in this process. Imports the package only when called.

Dtypes that its numpy binding lacks (bfloat16, fp8, 2- and 4-bit) travel as OrtValues, bit for bit.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..formats.onnx import dtypes
from ..ir.errors import AnyIRError, MissingPackage, SystemFailure, Unsupported, clean
from ..ir.storage import read_bytes
from ..ir.tensor import pack, unpack
from ..ir.types import BOOL, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64, DType

NATIVE = frozenset({BOOL, I8, I16, I32, I64, U8, U16, U32, U64, F16, F32, F64})


def available() -> str | None:
    """The installed version, None when there is none."""
    import importlib.metadata

    try:
        return importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        return None


def run(
    path: str | os.PathLike | bytes,
    inputs: Mapping[str, np.ndarray],
    *,
    threads: int = 0,
    optimise: bool = True,
    timeout: float | None = None,
) -> dict[str, np.ndarray]:
    """Outputs by name, in the file's order. `path` may be the bytes of a model too.

    Raises MissingPackage, Unsupported (onnxruntime has no kernel or does not know the opset), SystemFailure (it failed).
    `timeout` is accepted for the sake of a common signature: this runtime does not abort or hang the process.
    """
    session = load(path, threads=threads, optimise=optimise)
    names = [o.name for o in session.get_outputs()]
    others = any(not o.type.startswith("tensor(") for o in session.get_outputs())  # those cannot leave it as OrtValues
    try:
        if not others and all(_as_ort_value(array) for array in inputs.values()):
            feeds = {name: _value(array) for name, array in inputs.items()}
            made = [_array(value) for value in session.run_with_ort_values(names, feeds)]
        else:
            made = session.run(names, dict(inputs))
    except Exception as error:
        raise SystemFailure(f"onnxruntime failed: {clean(error, 600)}") from None
    return dict(zip(names, made, strict=True))


def load(path: str | os.PathLike | bytes, *, threads: int = 0, optimise: bool = True) -> Any:
    """An inference session. Raises as `run` does."""
    if available() is None:
        raise MissingPackage("onnxruntime is not installed", hint="pip install 'anyir[ort]'")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    source = path if isinstance(path, bytes) else os.fspath(path)
    options.intra_op_num_threads = 1 if _differs_by_threads(source) else threads
    # Products with stored integers in float32, as the file says: by default data is rounded to 8 bits on the way.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _refusal(error) from None


#: Words of onnxruntime for graphs that break ONNX's own rules.
_BROKEN = ("INVALID_GRAPH", "Type Error:", "InferenceError]")


def _refusal(error: Exception) -> AnyIRError:
    """What onnxruntime says when it cannot load a file: it lacks an operator or a kernel, or the graph breaks ONNX's rules."""
    text = clean(error, 600)
    if any(word in text for word in _BROKEN) and "is not a registered function/op" not in text:
        return SystemFailure(f"onnxruntime refused the file: {text}", code="F130")
    return Unsupported(f"onnxruntime cannot load the model: {text}")


def _differs_by_threads(source: str | bytes) -> bool:
    """DynamicQuantizeLSTM gives each thread some samples of the batch, and rounds their states by the range of those alone
    (UniDirectionalLstm in onnxruntime): only one thread takes the range of all. Its name anywhere in the file is enough."""
    try:
        data = source if isinstance(source, bytes) else read_bytes(source)
    except AnyIRError:
        return False  # what is wrong with the file, onnxruntime says
    return b"DynamicQuantizeLSTM" in data


def operators(path: str | os.PathLike) -> Counter[str]:
    """How often each operator stands in the graph that onnxruntime makes of a file, its own fusions done; subgraphs are not
    entered. Raises as `run` does."""
    import tempfile

    from ..formats.onnx.container import load as read

    if available() is None:
        raise MissingPackage("onnxruntime is not installed", hint="pip install 'anyir[ort]'")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
    with tempfile.TemporaryDirectory(prefix="irc-fused-") as folder:
        options.optimized_model_filepath = os.path.join(folder, "fused.onnx")
        try:
            ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _refusal(error) from None
        made, _ = read(options.optimized_model_filepath)
    return Counter(node.op_type for node in made.graph.node)


#: Operators that multiply and add, in integers and in floats, by onnxruntime's names after its fusions.
INTEGER_LAYERS = frozenset((
    "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention", "QOrderedMatMul",
))  # fmt: skip
FLOAT_LAYERS = frozenset((
    "Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulNBits", "LSTM", "GRU", "RNN",
    "Attention", "MultiHeadAttention", "GroupQueryAttention", "Einsum",
))  # fmt: skip


def integer_layers(path: str | os.PathLike) -> tuple[int, int]:
    """How many layers onnxruntime computes in integers, and how many there are. Raises as `run` does."""
    found = operators(path)
    integer = sum(found[name] for name in INTEGER_LAYERS)
    return integer, integer + sum(found[name] for name in FLOAT_LAYERS)


def _as_ort_value(array: Any) -> bool:
    """Strings, sequences, maps and absent optionals can only be fed as they are."""
    return array is not None and not isinstance(array, list | dict) and np.asarray(array).dtype.kind not in "OUS"


def _value(array: Any) -> Any:
    """An OrtValue of an array; scalars stay of rank 0."""
    import onnxruntime as ort

    array = np.asarray(array, order="C")
    kind = DType.of(array.dtype)
    if kind in NATIVE:
        return ort.OrtValue.ortvalue_from_numpy(array)
    made = ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), dtypes.TO_CODE[kind], "cpu", 0)
    raw = pack(array, kind.bits) if kind.is_packed else array.reshape(-1).view(np.uint8)
    _memory(made, raw.size)[:] = raw
    return made


def _array(value: Any) -> Any:
    """The array of an OrtValue; lists for sequences, None for an empty optional."""
    if not value.has_value():
        return None
    if not value.is_tensor():
        return value.to_sequence() if hasattr(value, "to_sequence") else value
    code = value.element_type()
    kind = dtypes.FROM_CODE[code]
    if kind in NATIVE or kind.kind == "string":
        return value.numpy()
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64))
    raw = _memory(value, dtypes.file_bytes(kind, count)).copy()
    return (unpack(raw, kind, count) if kind.is_packed else raw.view(kind.numpy)).reshape(shape)


def _memory(value: Any, size: int) -> np.ndarray:
    """The bytes of an OrtValue, writable."""
    import ctypes

    if not size:
        return np.zeros(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(value.data_ptr()))
