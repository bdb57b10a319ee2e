"""What onnxruntime says of files that it does not load: one breaks ONNX's rules, another needs what it has not."""

from __future__ import annotations

import onnx
import pytest
from anyir.ir.errors import SystemFailure, Unsupported
from anyir.runtimes import onnxruntime
from onnx import TensorProto, helper

pytestmark = pytest.mark.skipif(onnxruntime.available() is None, reason="onnxruntime is not installed")


def one_node(op: str, first: int, second: int, domain: str = "") -> bytes:
    """A file of one node with two inputs of these types."""
    inputs = [helper.make_tensor_value_info(name, type_, [2]) for name, type_ in (("a", first), ("b", second))]
    output = helper.make_tensor_value_info("c", first, [2])
    node = helper.make_node(op, ["a", "b"], ["c"], domain=domain)
    graph = helper.make_graph([node], "g", inputs, [output])
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return model.SerializeToString()


def test_a_file_that_breaks_the_rules_is_a_failure() -> None:
    with pytest.raises(SystemFailure, match="refused the file") as caught:
        onnxruntime.load(one_node("Add", TensorProto.FLOAT, TensorProto.INT16))
    assert caught.value.code == "F130"


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(one_node("Add", TensorProto.FLOAT, TensorProto.FLOAT, "com.example"), id="operator"),
        pytest.param(one_node("Mod", TensorProto.BFLOAT16, TensorProto.BFLOAT16), id="kernel"),
    ],
)
def test_what_it_lacks_is_no_fault_of_the_file(model: bytes) -> None:
    with pytest.raises(Unsupported, match="cannot load the model"):
        onnxruntime.load(model)
