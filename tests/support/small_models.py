"""Small ONNX files for tests of the command line: seeded, a few kilobytes, with something for every pass to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F32 = TensorProto.FLOAT


def _weights(seed: int, **shapes: tuple[int, ...]) -> list[TensorProto]:
    rng = np.random.default_rng(seed)
    return [
        numpy_helper.from_array(rng.uniform(0.1, 0.9, shape).astype(np.float32), name) for name, shape in shapes.items()
    ]


def cnn(path: Path, *, seed: int = 0, external: bool = False, batch: int | str = "N") -> Path:
    """conv, batch norm, relu, x * sigmoid(x), pooling, gemm, softmax; `image` [batch, 1, 8, 8] to `scores` [batch, 4]."""
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["c"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "act"),
        helper.make_node("Sigmoid", ["r"], ["s"], "gate"),
        helper.make_node("Mul", ["r", "s"], ["m"], "swish"),
        helper.make_node("GlobalAveragePool", ["m"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "head", "offset"], ["g"], "dense", transB=1),
        helper.make_node("Softmax", ["g"], ["scores"], "probs", axis=-1),
    ]
    weights = _weights(
        seed, kernel=(6, 1, 3, 3), bias=(6,), scale=(6,), shift=(6,), mean=(6,), var=(6,), head=(4, 6), offset=(4,)
    )
    return save(path, nodes, weights, {"image": [batch, 1, 8, 8]}, {"scores": [batch, 4]}, external=external)


def swish(path: Path) -> Path:
    """x * sigmoid(x) in float, and the same in double over a bias, so that a rule for floats has a match and more to see."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"], "gate"),
        helper.make_node("Mul", ["x", "s"], ["y"], "times"),
        helper.make_node("Sigmoid", ["x"], ["t"], "other_gate"),
        helper.make_node("Mul", ["t", "b"], ["z"], "scaled"),
    ]
    return save(path, nodes, _weights(0, b=(3,)), {"x": [2, 3]}, {"y": [2, 3], "z": [2, 3]})


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: list[TensorProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    *,
    external: bool = False,
) -> Path:
    """Float inputs and outputs, opset 17."""
    infos = [[helper.make_tensor_value_info(n, F32, dims) for n, dims in side.items()] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "net", infos[0], infos[1], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if external:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    else:
        onnx.save(model, path)
    return path
