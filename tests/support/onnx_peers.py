"""Small ONNX models in text, read by us and by two peers: onnxruntime and ONNX's own reference evaluator.

    agrees(model("g (float[2] x) => (float[2] y) { y = Neg(x) }"), {"x": x})

An expected result from elsewhere (a formula) may be given where no peer runs the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.errors import AnyIRError, Unsupported
from anyir.ir.graph import Module
from anyir.ir.parser import parse_module
from anyir.ir.verify import verify
from anyir.kernels.run import run
from anyir.passes.manager import run_pipeline
from anyir.passes.presets import preset
from anyir.runtimes import onnxruntime as ort
from anyir.tests.support.onnx_suite import differs
from onnx import parser

#: Relative and absolute tolerance between peers that compute in float32.
RTOL, ATOL = 1e-5, 1e-6


def model(body: str, *, opset: int = 18, ir_version: int = 8) -> onnx.ModelProto:
    """The model of one graph in ONNX's text syntax."""
    return parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>\n{body}')


def in_runtime(proto: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    return list(ort.run(proto.SerializeToString(), feeds).values())


def in_reference(proto: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    try:
        return ReferenceEvaluator(proto).run(None, dict(feeds))
    except Exception as error:
        raise Unsupported(f"onnx's reference evaluator: {error}") from None


PEERS = {"onnxruntime": in_runtime, "reference": in_reference}


def on_kernels(proto: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    return list(run(frontend.read(proto), feeds).values())


def valid(proto: onnx.ModelProto) -> bool:
    """The checker accepts the file: it wants to know the rank of each output."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def written(module: Module, level: int = 0, opset: int | None = None) -> onnx.ModelProto:
    """What we write at an -O level."""
    clone = module.clone()
    if level:
        run_pipeline(clone, preset(level))
        verify(clone)
    return backend.to_model_proto(clone, opset=opset)


def same(expected: list[Any], found: list[Any]) -> None:
    assert len(expected) == len(found)
    for index, (wanted, made) in enumerate(zip(expected, found, strict=True)):
        assert not (reason := differs(wanted, made, RTOL, ATOL)), f"output {index}: {reason}"


def agrees(
    proto: onnx.ModelProto,
    *feeds: Mapping[str, Any],
    peer: str = "onnxruntime",
    expected: list[list[Any]] | None = None,
    runs: bool = True,
) -> Module:
    """The kernels give what `peer` gives for the original (or what is `expected`), and so does `peer` for what we write at
    -O0 and -O2 (unless it cannot run that: `runs`), which is valid if the original is. Text, too, carries the module whole.
    Returns the module."""
    module = frontend.read(proto)
    again = parse_module(str(module))
    assert again == module
    files = [written(module, level) for level in (0, 2)]
    assert not valid(proto) or all(map(valid, files))
    for index, given in enumerate(feeds):
        truth = PEERS[peer](proto, given) if expected is None else expected[index]
        same(truth, list(run(module, given).values()))
        same(truth, list(run(again, given).values()))
        for file in files:
            same(truth, on_kernels(file, given))
            if runs:
                same(truth, PEERS[peer](file, given))
    return module


def refused(proto: onnx.ModelProto, feeds: Mapping[str, Any]) -> AnyIRError:
    """The error that reading or running ends with."""
    try:
        on_kernels(proto, feeds)
    except AnyIRError as error:
        return error
    raise AssertionError("it ran")
