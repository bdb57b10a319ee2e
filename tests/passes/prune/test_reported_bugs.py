"""Bugs that users of other pruning and graph tools have reported, each as a test named after its report.

Everything is judged by what must hold anyway: the pruned network computes what the masked one computes.
"""

from __future__ import annotations

import anyir
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from anyir.ir.graph import Module
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.inputs import sample_inputs
from anyir.kernels.run import run
from anyir.passes.prune.groups import Group, find_groups
from anyir.passes.prune.remove import masked, remove_units
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

RNG = np.random.default_rng(0)


def groups_of(module: Module) -> dict[str, Group]:
    return {group.name: group for group in find_groups(module)}


def prune(module: Module, group: Group, units: list[int]) -> None:
    """Remove in place; the outputs must be those of the masked module."""
    shadow = masked(module, {group: units})
    remove_units(module, {group: units})
    verify(module)
    feeds = sample_inputs(module, seed=0)
    truth = run(shadow, feeds)
    report = compare(truth, run(module, feeds), limits_for(shadow, feeds, exact=truth))
    assert report.passed, str(report)


def shapes(module: Module) -> dict[str, tuple]:
    return {w.key: w.type.shape for w in module.weights if w.role != "const"}


def loaded(net: nn.Module, *shape: int) -> Module:
    torch.manual_seed(0)
    return anyir.load(net.eval(), inputs=(torch.randn(shape),))


def from_onnx(nodes: list, inputs: dict[str, list], outputs: dict[str, list], tensors: dict[str, np.ndarray]) -> Module:
    """A model of these nodes; an initializer that is named among the inputs is an input as well."""
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "g", *infos, initializers)
    return anyir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_torch_pruning_146_concat_with_itself() -> None:
    """x joined with x: one channel of x is two of the next layer's inputs."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(12, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            return self.b(torch.cat([x, x], 1))

    module = loaded(Net(), 1, 3, 8, 8)
    prune(module, groups_of(module)["a.weight"], [1, 4])
    assert shapes(module)["b.weight"] == (4, 8, 1, 1)


def test_torch_pruning_179_and_nni_5751_one_channel_is_not_depthwise() -> None:
    """A grey image: groups == in_channels == 1 looks like depthwise, and is a plain convolution of one channel."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 1, 1), nn.Conv2d(1, 5, 1)
            self.d = nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.d(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))

    module = loaded(Net(), 1, 1, 8, 8)
    assert {name: g.size for name, g in groups_of(module).items()} == {"a.weight": 6, "c.weight": 5}
    prune(module, groups_of(module)["a.weight"], [0, 5])
    prune(module, groups_of(module)["c.weight"], [2])
    assert shapes(module)["b.weight"] == (1, 4, 1, 1) and shapes(module)["c.weight"] == (4, 1, 1, 1)


def test_depthwise_pruned_to_a_single_channel_is_still_right() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.d, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.d(F.relu(self.a(x)))))

    module = loaded(Net(), 1, 3, 8, 8)
    prune(module, groups_of(module)["a.weight"], [0, 1, 3])
    assert shapes(module)["d.weight"] == (1, 1, 3, 3)
    assert [node.attr("groups") for node in module.all_nodes("conv")] == [1, 1, 1]


class MultiQuery(nn.Module):
    """Four query heads on one key head, which is expanded to all of them or left to broadcast."""

    def __init__(self, expand: bool) -> None:
        super().__init__()
        self.q, self.kv, self.o, self.expand = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(16, 8), expand

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, 4, 4).transpose(1, 2)
        k, v = (y[:, None] for y in self.kv(x).split(4, 2))
        if self.expand:
            k, v = k.expand(b, 4, t, 4), v.expand(b, 4, t, 4)
        y = (q @ k.transpose(2, 3) / 2).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, 16))


@pytest.mark.parametrize("expand", [False, True])
def test_onnxsim_1103_1122_multi_query_attention(expand: bool) -> None:
    """With one key head the expansion is a no-op, or has its own size: query heads go, and the key head stays."""
    module = loaded(MultiQuery(expand), 2, 5, 8)
    group = groups_of(module)["q.weight"]
    assert (group.kind, group.size) == ("head", 4)
    prune(module, group, [0, 2])
    assert shapes(module)["q.weight"] == (8, 8) and shapes(module)["kv.weight"] == (8, 8)


def test_ir_py_406_and_onnxruntime_21277_tied_weights() -> None:
    """The embedding is the last layer too, transposed: it is cut once, for both, and stays one."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.a = nn.Embedding(11, 6), nn.Linear(6, 6)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.words(ids)
            return (x + F.relu(self.a(x))) @ self.words.weight.T

    module = anyir.load(Net().eval(), inputs=(torch.randint(0, 11, (2, 5)),))
    group = groups_of(module)["words.weight"]
    prune(module, group, [1, 5])
    assert shapes(module) == {"words.weight": (11, 4), "a.weight": (4, 4), "a.bias": (4,)}


def test_weights_shared_by_two_nodes_are_not_pruned_for_one() -> None:
    """Two branches through one convolution: what follows either of them is cut with it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x))) + self.c(torch.tanh(self.a(x.flip(3))))

    module = loaded(Net(), 1, 3, 8, 8)
    prune(module, groups_of(module)["a.weight"], [0, 3])
    assert [shapes(module)[k][:2] for k in ("a.weight", "b.weight", "c.weight")] == [(4, 3), (4, 4), (4, 4)]


class Reshaped(nn.Module):
    """A matrix product's result as maps of three and of four dims, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.conv, self.b = nn.Linear(5, 24), nn.Conv2d(6, 7, 1), nn.Linear(28, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x)).view(-1, 6, 4).view(-1, 6, 2, 2)
        return self.b(F.relu(self.conv(y)).reshape(x.shape[0], -1))


def test_tinynn_65_and_torch_pruning_125_reshape_to_three_dims_and_more() -> None:
    module = loaded(Reshaped(), 2, 5)
    assert {name: g.size for name, g in groups_of(module).items()} == {"a.weight": 6, "conv.weight": 7}
    prune(module, groups_of(module)["a.weight"], [0, 4])
    prune(module, groups_of(module)["conv.weight"], [6])
    assert [shapes(module)[k] for k in ("a.weight", "conv.weight", "b.weight")] == [(16, 5), (6, 4, 1, 1), (3, 24)]


@pytest.mark.parametrize("rank", [3, 4])
def test_neural_compressor_525_the_number_of_heads_follows(rank: int) -> None:
    """Heads are gone from the weights: the attribute, or the shape constant, that says how many there were must follow."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            b, t, _ = x.shape
            q, k, v = (layer(x).view(b, t, 3, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, 12))

    if rank == 4:
        module = loaded(Net(), 2, 5, 12)
        prune(module, groups_of(module)["q.weight"], [1])
    else:
        module = _packed_attention()
        prune(module, groups_of(module)["q"], [1])
        (node,) = module.all_nodes("attention")
        assert (node.attr("q_num_heads"), node.attr("kv_num_heads")) == (2, 2)
    again = anyir.load(module)
    assert next(iter(groups_of(again).values())).size == 2


def _packed_attention() -> Module:
    """The operator with its heads packed in the last axis."""
    from anyir.tests.support.random_nets import Net, linear

    n = Net(np.random.default_rng(0))
    x = n.input(5, 7)
    q, k, v = (n.b.matmul(x, n.weight(7, 12, key=key)) for key in "qkv")
    y, *_ = n.b.attention(q, k, v, q_num_heads=3, kv_num_heads=3)
    return n.done(linear(n, y, 4)).module


def test_onnxruntime_24705_new_names_do_not_clash() -> None:
    """Names that a tool would make up for its copies are there already, as weights and as values."""
    tensors = {"w": weight(6, 3, 1, 1), "w_1": weight(6), "w_pruned": weight(4, 6, 1, 1), "w_1_1": weight(4)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "w_1"], ["w_2"]),
        helper.make_node("Relu", ["w_2"], ["w_pruned_1"]),
        helper.make_node("Conv", ["w_pruned_1", "w_pruned", "w_1_1"], ["y"]),
    ]
    module = from_onnx(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 4, 4, 4]}, tensors)
    prune(module, groups_of(module)["w"], [0, 2])
    assert shapes(module) == {"w": (4, 3, 1, 1), "w_1": (4,), "w_pruned": (4, 4, 1, 1), "w_1_1": (4,)}


def test_names_stay_unique_in_the_file(tmp_path) -> None:
    """A vector that two layers share is cut for each: the file has two of them, both with a name."""
    tensors = {
        "a": weight(7, 6),
        "b": weight(7, 6),
        "shift": weight(6),
        "shift_1": weight(4),
        "c": weight(6, 4),
        "d": weight(6, 4),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "a", "shift"], ["p"]),
        helper.make_node("Gemm", ["x", "b", "shift"], ["q"]),
        helper.make_node("Gemm", ["p", "c", "shift_1"], ["y"]),
        helper.make_node("Gemm", ["q", "d", "shift_1"], ["z"]),
    ]
    module = from_onnx(nodes, {"x": [2, 7]}, {"y": [2, 4], "z": [2, 4]}, tensors)
    found = groups_of(module)
    shadow = masked(module, {found["a"]: [0], found["b"]: [4, 5]})
    remove_units(module, {found["a"]: [0], found["b"]: [4, 5]})
    path = tmp_path / "m.onnx"
    anyir.save(module, str(path))
    names = [t.name for t in onnx.load(path).graph.initializer]
    assert len(names) == len(set(names)) == 7
    feeds = sample_inputs(shadow, seed=0)
    truth = run(shadow, feeds)
    assert compare(truth, run(anyir.load(str(path)), feeds), limits_for(shadow, feeds, exact=truth)).passed


def test_a_subgraph_that_captures_the_channels_is_cut_too() -> None:
    """Both branches of an If read a value of the outer graph, each by a weight of its own."""
    branches = {}
    for key in ("then", "else"):
        node = helper.make_node("Gemm", ["h", f"w_{key}"], [f"y_{key}"])
        info = helper.make_tensor_value_info(f"y_{key}", TensorProto.FLOAT, [2, 4])
        branches[f"{key}_branch"] = helper.make_graph([node], key, [], [info], [])
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["g"]),
        helper.make_node("Relu", ["g"], ["h"]),
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["flag"]),
        helper.make_node("If", ["flag"], ["y"], **branches),
    ]
    tensors = {"a": weight(7, 6), "w_then": weight(6, 4), "w_else": weight(6, 4), "zero": np.zeros((), np.float32)}
    module = from_onnx(nodes, {"x": [2, 7]}, {"y": [2, 4]}, tensors)
    prune(module, groups_of(module)["a"], [0, 3, 5])
    assert [shapes(module)[k] for k in ("a", "w_then", "w_else")] == [(7, 3), (3, 4), (3, 4)]


def test_an_initializer_that_is_an_input_too_is_not_cut() -> None:
    """Whoever feeds it feeds it whole: the channels that it makes stay, those behind it go."""
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["p"]),
        helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("Gemm", ["q", "b"], ["r"]),
        helper.make_node("Gemm", ["r", "c"], ["y"]),
    ]
    tensors = {"a": weight(7, 6), "b": weight(6, 5), "c": weight(5, 4)}
    module = from_onnx(nodes, {"x": [2, 7], "a": [7, 6]}, {"y": [2, 4]}, tensors)
    assert set(groups_of(module)) == {"b"}
    told = {g.name: g.pinned for g in find_groups(module, pinned=True)}
    assert told["b"] == "" and "a" not in told
    prune(module, groups_of(module)["b"], [1])
    assert module.signature.inputs[1].default.type.shape == (7, 6)  # type: ignore[union-attr]


def test_weights_in_constant_nodes_are_found() -> None:
    """PP-OCR files have no initializers at all, only Constant nodes."""
    nodes = [
        helper.make_node("Constant", [], [key], value=numpy_helper.from_array(array, key))
        for key, array in {"a": weight(6, 3, 1, 1), "b": weight(4, 6, 1, 1), "shift": weight(1, 6, 1, 1)}.items()
    ]
    nodes += [
        helper.make_node("Conv", ["x", "a"], ["p"]),
        helper.make_node("Add", ["p", "shift"], ["q"]),
        helper.make_node("Relu", ["q"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["y"]),
    ]
    module = from_onnx(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 4, 4, 4]}, {})
    (group,) = find_groups(module)
    prune(module, group, [0, 1, 5])
    assert {w.type.shape for w in module.weights} == {(3, 3, 1, 1), (4, 3, 1, 1), (1, 3, 1, 1)}
