"""Models of one ONNX node, and the judgement of onnxruntime on what we make of them.

    model, feeds = one_node("FusedGemm", {"A": a, "B": b}, {"Y": FLOAT}, activation="Relu")
    judge(model, feeds)

`judge` runs the original in onnxruntime (on one thread: some kernels quantise by thread), the lowered module on our
kernels, and what we write at -O0 and -O2 in onnxruntime again. Differences must be what rounding explains; integers equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.graph import Module
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.passes.manager import run_pipeline
from anyir.passes.presets import preset
from anyir.runtimes import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
FLOAT, HALF, BYTE, SBYTE, INT32 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.UINT8,
    TensorProto.INT8,
    TensorProto.INT32,
)
Feeds = dict[str, np.ndarray]
Check = Callable[[Mapping[str, Any], Mapping[str, Any]], None]


def element(array: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype)


def one_node(
    op_type: str,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, int | None],
    *,
    domain: str = MICROSOFT,
    opset: int = 17,
    const: Iterable[str] = (),
    dynamic: bool = False,
    attributes: Mapping[str, Any] | None = None,
    **more: Any,
) -> tuple[onnx.ModelProto, Feeds]:
    """A model and its inputs. A None among the inputs, or as the type of an output, is left out; those named in `const`
    are initializers; `dynamic` gives every dim of an input a name of its own."""
    given = {name: np.asarray(value) for name, value in inputs.items() if value is not None}
    node = helper.make_node(
        op_type,
        [name if name in given else "" for name in inputs],
        [name if code is not None else "" for name, code in outputs.items()],
        domain=domain,
    )
    for name, value in {**(attributes or {}), **more}.items():
        node.attribute.append(helper.make_attribute(name, value))
    feeds = {name: value for name, value in given.items() if name not in const}

    def shape(name: str, array: np.ndarray) -> list[Any]:
        return [f"{name}_{i}" for i in range(array.ndim)] if dynamic else list(array.shape)

    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, element(a), shape(name, a)) for name, a in feeds.items()],
        [helper.make_tensor_value_info(name, code, None) for name, code in outputs.items() if code is not None],
        [numpy_helper.from_array(value, name) for name, value in given.items() if name in const],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10 if opset < 25 else 13), feeds


def written(model: onnx.ModelProto, level: int, opset: int | None = None) -> onnx.ModelProto:
    """What we write of a model, accepted by the checker: standard operators, and the one that would become a loop."""
    module = frontend.read(model)
    if level:
        run_pipeline(module, preset(level))
    proto = backend.to_model_proto(module, opset=opset)
    onnx.checker.check_model(proto, full_check=True)
    domains = {node.domain for node in proto.graph.node if node.op_type != "DynamicQuantizeLSTM"}
    assert domains <= {"", "ai.onnx.ml"}
    return proto


def explained(module: Module, feeds: Feeds, exact: Mapping[str, Any]) -> Check:
    """Equal up to the rounding that the graph of `module` does on these inputs."""
    limits = limits_for(module, feeds, exact=exact)

    def check(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        report = compare(wanted, found, limits)
        assert report.passed, str(report)

    return check


def judge(model: onnx.ModelProto, feeds: Feeds, check: Check | None = None, *, optimise: bool = True) -> None:
    """See the module. `check` compares results in another way than by the rounding of the graph."""
    wanted = ort.run(model.SerializeToString(), feeds, threads=1)
    module = frontend.read(model)
    found = run(module, feeds)
    check = check or explained(module, feeds, found)
    check(wanted, found)
    for level in (0, 2):
        proto = written(model, level)
        check(wanted, ort.run(proto.SerializeToString(), feeds, threads=1, optimise=optimise))


def nearest(real: np.ndarray, spread: float) -> Check:
    """Integers that `real` rounds to. A value within `spread` quanta of a half may go either way: float32 arithmetic
    does not tell them apart."""

    def check(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        for made in (wanted, found):
            (array,) = made.values()
            info = np.iinfo(array.dtype)
            gap = np.abs(array - np.clip(real, info.min, info.max))
            assert array.shape == real.shape
            assert gap.max() <= 0.5 + spread, f"{gap.max()} quanta away"

    return check


__all__ = [
    "BYTE",
    "FLOAT",
    "HALF",
    "INT32",
    "MICROSOFT",
    "SBYTE",
    "element",
    "explained",
    "judge",
    "nearest",
    "one_node",
    "written",
]


def carried(model: onnx.ModelProto, reason: str) -> None:
    """A form of an operator that has no lowering: it goes through untouched, and the reason is said."""
    module = frontend.read(model)
    (node,) = module.main.nodes("opaque")
    assert len(module.main) == 1 and re.search(reason, module.diagnostics[-1]), module.diagnostics
    (written_node,), (own_node,) = backend.to_model_proto(module).graph.node, model.graph.node
    assert sorted(map(str, written_node.attribute)) == sorted(map(str, own_node.attribute))
    while own_node.input and not own_node.input[-1]:
        own_node.input.pop()
    for part in ("attribute", "name"):
        written_node.ClearField(part)
        own_node.ClearField(part)
    assert written_node == own_node
