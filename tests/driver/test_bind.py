"""`--bind`: inputs that become constants, and the branches that they decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyir
import numpy as np
import onnx
import onnxruntime
import pytest
from anyir.ir.errors import UsageError
from onnx import helper

FLOAT, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def two_rates(path: Path) -> Path:
    """Frames of 4 or of 6 samples by what `rate` says, each with a matrix of its own; `gain` is a vector of 2."""

    def branch(name: str, size: int) -> onnx.GraphProto:
        rng = np.random.default_rng(size)
        weights = onnx.numpy_helper.from_array(rng.normal(0, 1, (size, 2)).astype(np.float32), f"w{size}")
        made = helper.make_tensor_value_info(f"y{size}", FLOAT, ["n", 2])
        return helper.make_graph(
            [helper.make_node("MatMul", ["x", f"w{size}"], [f"y{size}"])], name, [], [made], [weights]
        )

    nodes = [
        helper.make_node("Equal", ["rate", "wanted"], ["slow"]),
        helper.make_node("If", ["slow"], ["y"], then_branch=branch("slow", 4), else_branch=branch("fast", 6)),
        helper.make_node("Mul", ["y", "gain"], ["z"]),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("x", FLOAT, ["n", "samples"]), value("rate", INT, []), value("gain", FLOAT, [2])]
    wanted = onnx.numpy_helper.from_array(np.array(8, np.int64), "wanted")
    graph = helper.make_graph(nodes, "g", inputs, [value("z", FLOAT, ["n", 2])], [wanted])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def answer(path: Path, **feeds: Any) -> np.ndarray:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


@pytest.mark.parametrize(("rate", "samples"), [(8, 4), (16, 6)])
def test_a_bound_input_decides_its_branch(irc: Any, tmp_path: Path, rate: int, samples: int) -> None:
    """The other branch does not fit the size; the file gives what the source gives with that value."""
    two_rates(tmp_path / "net.onnx")
    shape = ["--shape", f"x=n,{samples}"]
    done = irc("compile", "net.onnx", "-o", "out.onnx", *shape, "--bind", f"rate={rate}", "--bind", "gain=2,0.5")
    assert done.code == 0, done.err
    assert [i.name for i in onnx.load(tmp_path / "out.onnx").graph.input] == ["x"]
    assert not any(node.op_type in ("If", "Equal") for node in onnx.load(tmp_path / "out.onnx").graph.node)
    x = np.random.default_rng(0).normal(0, 1, (3, samples)).astype(np.float32)
    gain = np.array([2, 0.5], np.float32)
    wanted = answer(tmp_path / "net.onnx", x=x, rate=np.array(rate), gain=gain)
    np.testing.assert_allclose(answer(tmp_path / "out.onnx", x=x), wanted, rtol=samples * np.finfo(np.float32).eps)


def test_without_it_the_error_names_the_remedy(irc: Any, tmp_path: Path) -> None:
    two_rates(tmp_path / "net.onnx")
    done = irc("compile", "net.onnx", "-o", "out.onnx", "--shape", "x=n,4")
    assert done.code == 3 and "--bind NAME=VALUE" in done.err and not (tmp_path / "out.onnx").exists()


def test_the_callers_module_stays_as_it_is(tmp_path: Path) -> None:
    module = anyir.load(two_rates(tmp_path / "net.onnx"))
    bound = anyir.load(module, bind={"gain": 3, "rate": np.array(8)}, shapes={"x": ["n", 4]})
    assert module.signature.input_names() == ["x", "rate", "gain"] and bound.signature.input_names() == ["x"]
    assert {node.name for node in bound.all_nodes()} == {"matmul", "mul"}


@pytest.mark.parametrize(("text", "message"), [
    ("rat=8", "did you mean rate"),
    ("rate", "is not NAME=VALUE"),
    ("rate=1.5", "is no number for i64"),
    ("rate=9223372036854775808", "not 9223372036854775808"),
    ("rate=1,2", "has 2 values"),
    ("gain=1,2,3", "has 3 values"),
    ("x=1", "only inputs of a fixed size"),
])  # fmt: skip
def test_values_that_do_not_fit_are_refused(irc: Any, tmp_path: Path, text: str, message: str) -> None:
    two_rates(tmp_path / "net.onnx")
    done = irc("compile", "net.onnx", "-o", "out.onnx", "--bind", text)
    assert done.code == 2 and message in done.err


def test_an_input_is_bound_once(irc: Any, tmp_path: Path) -> None:
    two_rates(tmp_path / "net.onnx")
    assert "names 'rate' twice" in irc("opt", "net.onnx", "--bind", "rate=1", "--bind", "rate=2").err
    with pytest.raises(UsageError, match="no number"):
        anyir.load(tmp_path / "net.onnx", bind={"rate": "fast"})


def test_requests_that_contradict_are_refused_before_reading(irc: Any, tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"\x08\x08 no model")
    done = irc("compile", "damaged.onnx", "-o", "out.onnx", "--opset", "17", "--raise-opset")
    assert done.code == 2 and "opset 17 is asked for, and to raise it" in done.err
    done = irc("compile", "damaged.onnx", "-o", "out.onnx", "--opset", "7")
    assert done.code == 2 and "opset 7 cannot be written" in done.err
