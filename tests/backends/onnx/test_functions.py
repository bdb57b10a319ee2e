"""Models of the backend suite as one function that a model calls: the numbers are those of the model, the file is valid."""

from __future__ import annotations

import onnx
import pytest
from anyir.backends import onnx as backend
from anyir.frontends.onnx import read
from anyir.kernels.run import run
from anyir.tests.support import onnx_suite as suite

GROUPS = 4
EVERY = 12


def called(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph of `model` as the body of a function, its initializers as further operands."""
    made = onnx.ModelProto(ir_version=max(model.ir_version, 8), opset_import=model.opset_import)
    made.opset_import.add(domain="wrap", version=1)
    stored = [t.name for t in model.graph.initializer]
    inputs = list(dict.fromkeys([*(i.name for i in model.graph.input), *stored]))
    outputs = [o.name for o in model.graph.output]
    made.functions.add(
        domain="wrap", name="f", input=inputs, output=outputs, node=model.graph.node, opset_import=made.opset_import
    )
    made.graph.name = "caller"
    made.graph.node.add(op_type="f", domain="wrap", input=inputs, output=outputs)
    for field in ("input", "output", "initializer"):
        getattr(made.graph, field).extend(getattr(model.graph, field))
    return made


@pytest.mark.parametrize("group", range(GROUPS))
def test_a_model_inside_a_function(group: int) -> None:
    wrong = {}
    for case in suite.sampled(GROUPS * EVERY, group):
        model = case.load()
        if case.name in suite.RANDOM or model.functions or model.graph.sparse_initializer:
            continue
        if suite.judged(case, suite.on_kernels) != "pass":
            continue
        source = called(model)
        module = read(source)
        found = suite.judged(case, lambda _, feeds, module=module: list(run(module, feeds).values()))
        proto = backend.to_model_proto(module)
        first = proto.SerializeToString(deterministic=True)
        if found != "pass" or len(proto.functions) != 1:
            wrong[case.name] = found
        if backend.to_model_proto(read(first)).SerializeToString(deterministic=True) != first:
            wrong[case.name] = "written again it is another file"
    assert not wrong
