"""Models of one ai.onnx.ml operator, and the three ways of running them that must agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.passes.manager import run_pipeline
from anyir.passes.presets import preset
from anyir.runtimes import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

CODES = {
    "f": TensorProto.FLOAT,
    "d": TensorProto.DOUBLE,
    "e": TensorProto.FLOAT16,
    "i": TensorProto.INT32,
    "h": TensorProto.INT16,
    "l": TensorProto.INT64,
    "O": TensorProto.STRING,
}
F32, I64, STR = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def texts(*items: str) -> np.ndarray:
    made = np.empty(len(items), object)
    made[:] = items
    return made


def tensor(array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array))


def a_map(key: int, value: int) -> Any:
    return helper.make_map_type_proto(key, helper.make_tensor_type_proto(value, []))


def maps_of(key: int) -> Any:
    return helper.make_sequence_type_proto(a_map(key, F32))


def model(
    op_type: str, inputs: dict[str, Any], outputs: list[Any], version: int, domain: str = "ai.onnx.ml", **attrs: Any
) -> onnx.ModelProto:
    """One node. Inputs are arrays (rows open) or types; outputs are element codes, whose shapes are left open, or types."""
    infos = []
    for name, item in inputs.items():
        if isinstance(item, np.ndarray):
            shape = [None, *item.shape[1:]] if item.ndim else []
            infos.append(helper.make_tensor_value_info(name, CODES[item.dtype.char], shape))
        else:
            infos.append(helper.make_value_info(name, item))
    results = [
        helper.make_tensor_value_info(f"o{i}", o, None) if isinstance(o, int) else helper.make_value_info(f"o{i}", o)
        for i, o in enumerate(outputs)
    ]
    node = helper.make_node(op_type, list(inputs), [r.name for r in results], domain=domain, **attrs)
    graph = helper.make_graph([node], "one", infos, results)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, version)])
    made.ir_version = 10 if version >= 5 else 8
    return made


def ours(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    return list(run(frontend.read(proto), feeds).values())


def check_against_onnxruntime(proto: onnx.ModelProto, feeds: dict[str, Any]) -> None:
    """Kernels, the file written back, and the file after -O2 give what onnxruntime gives for the original."""
    truth = ort.run(proto.SerializeToString(), feeds)
    check_against(proto, feeds, truth)


def check_against(
    proto: onnx.ModelProto, feeds: dict[str, Any], truth: dict[str, Any], *, written: bool = True
) -> None:
    """Kernels, file and optimised file all give `truth`, within what rounding explains."""
    module = frontend.read(proto)
    limits = limits_for(module, feeds, runs=8)
    report = compare(truth, run(module, feeds), limits)
    assert report.passed, f"kernels: {report}"
    if not written:
        return
    for level in (0, 2):
        if level:
            run_pipeline(module, preset(level))
            verify(module)
        made = backend.to_model_proto(module)
        onnx.checker.check_model(made, full_check=True)
        again = frontend.read(made)
        assert backend.to_model_proto(again).SerializeToString(deterministic=True) == made.SerializeToString(
            deterministic=True
        )
        assert compare(truth, run(again, feeds), limits).passed, f"-O{level}, read back"
        report = compare(truth, ort.run(made.SerializeToString(), feeds), limits)
        assert report.passed, f"-O{level}: {report}"
