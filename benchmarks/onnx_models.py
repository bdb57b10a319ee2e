"""Large ONNX files for the benchmarks: as many nodes as asked for, in the mix that exporters write."""

from __future__ import annotations

from typing import Any

import numpy as np

WIDTH = 8
HEADS = 2


class Writer:
    """Nodes and initialisers of one graph; every value gets a name of its own."""

    def __init__(self) -> None:
        from onnx import helper, numpy_helper

        self.make_node, self.from_array = helper.make_node, numpy_helper.from_array
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.rng = np.random.default_rng(0)
        self.path = ""

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        number = len(self.nodes)
        names = [f"{self.path}/{op_type}_{number}_output_{i}" for i in range(outputs)]
        self.nodes.append(self.make_node(op_type, inputs, names, name=f"{self.path}/{op_type}_{number}", **attrs))
        return names[0] if outputs == 1 else names

    def weight(self, key: str, *shape: int) -> str:
        name = f"{self.path.strip('/')}.{key}"
        data = self.rng.standard_normal(shape).astype(np.float32)
        self.initializers.append(self.from_array(data, name))
        return name

    def const(self, *numbers: int) -> str:
        """A Constant node, as the TorchScript exporter writes shape arithmetic."""
        return self.op("Constant", value=self.from_array(np.array(numbers, np.int64)))

    def scalar(self, number: int) -> str:
        return self.op("Constant", value=self.from_array(np.array(number, np.int64)))


def convolutions(w: Writer, x: str) -> str:
    """[N, WIDTH, H, W] to the same: 8 nodes, a residual block with norm, activations and squeeze-and-excite."""
    y = w.op("Conv", x, w.weight("conv1.weight", WIDTH, WIDTH, 3, 3), pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    norm = [w.weight(f"bn.{key}", WIDTH) for key in ("weight", "bias", "running_mean", "running_var")]
    y = w.op("Relu", w.op("BatchNormalization", y, *norm, epsilon=1e-3))
    y = w.op("Conv", y, w.weight("conv2.weight", WIDTH, 1, 1, 1), w.weight("conv2.bias", WIDTH), group=WIDTH)
    gate = w.op("Sigmoid", w.op("GlobalAveragePool", y))
    return w.op("Add", w.op("Mul", y, gate), x)


def attention(w: Writer, x: str) -> str:
    """[B, S, WIDTH] to the same: 60 nodes, self-attention as TorchScript writes it, shapes computed at run time."""
    shape = w.op("Shape", x)
    batch, length = (w.op("Gather", shape, w.scalar(axis), axis=0) for axis in (0, 1))

    def sized(*parts: str) -> str:
        return w.op("Concat", *(w.op("Unsqueeze", part, w.const(0)) for part in parts), axis=0)

    def linear(key: str, value: str) -> str:
        return w.op("Add", w.weight(f"{key}.bias", WIDTH), w.op("MatMul", value, w.weight(f"{key}.w", WIDTH, WIDTH)))

    def heads(key: str) -> str:
        inner = sized(batch, length, w.scalar(HEADS), w.scalar(WIDTH // HEADS))
        return w.op("Transpose", w.op("Reshape", linear(key, x), inner), perm=[0, 2, 1, 3])

    query, key, value = (heads(name) for name in "qkv")
    scores = w.op("MatMul", query, w.op("Transpose", key, perm=[0, 1, 3, 2]))
    weights = w.op("Softmax", w.op("Div", scores, w.op("Constant", value_float=2.0)), axis=-1)
    mixed = w.op("Transpose", w.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    y = w.op("Add", x, linear("out", w.op("Reshape", mixed, sized(batch, length, w.scalar(WIDTH)))))
    y = w.op("LayerNormalization", y, w.weight("ln.weight", WIDTH), w.weight("ln.bias", WIDTH), axis=-1)
    y = w.op("Add", y, linear("mlp2", w.op("Relu", linear("mlp1", y))))
    left, right = w.op("Split", y, w.const(WIDTH // 2, WIDTH // 2), axis=-1, outputs=2)
    return w.op("Concat", left, right, axis=-1)


def large_model(nodes: int) -> Any:
    """About `nodes` nodes: blocks of convolutions and of attention on two inputs, every block with its own weights."""
    import onnx
    from onnx import TensorProto, helper

    w = Writer()
    image, tokens, number = "image", "tokens", 0
    while len(w.nodes) < nodes:
        w.path = f"/blocks.{number}"
        if number % 4:
            image = convolutions(w, image)
        else:
            tokens = attention(w, tokens)
        number += 1
    info = helper.make_tensor_value_info
    shapes = {"image": ["N", WIDTH, "H", "W"], "tokens": ["B", "S", WIDTH]}
    inputs = [info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [info(image, TensorProto.FLOAT, shapes["image"]), info(tokens, TensorProto.FLOAT, shapes["tokens"])]
    graph = helper.make_graph(w.nodes, "large", inputs, outputs, w.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="pytorch")
    onnx.checker.check_model(model)
    return model
