"""Small ONNX models on which other optimisers of ONNX files fail: `MODELS` makes them, `feeds_of` says what to feed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from anyir.tests.support.made_models import CONTROL_FLOW
from anyir.tests.support.onnx_files import parsed
from onnx import helper, numpy_helper

RNG = 3


def weights(model: onnx.ModelProto, **arrays: np.ndarray) -> onnx.ModelProto:
    """`model` with initializers of these names."""
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def contradicting_shapes() -> onnx.ModelProto:
    """Declared shapes of inner values and of an output's second dim that the graph contradicts."""
    model = parsed(
        """net (float[N, 6] x) => (float[N, M] y)
        { r = Reshape(x, target) t = Transpose<perm = [0, 2, 1]>(r) u = Identity(t) s = Shape(u)
          v = ReduceMean<axes = [1], keepdims = 0>(u) y = Relu(v) }""",
        opset=17,
    )
    weights(model, target=np.array([-1, 2, 3]))
    for name, shape in (("r", [7, 7]), ("t", ["N", 2, 3]), ("v", ["N", 3])):
        model.graph.value_info.append(helper.make_tensor_value_info(name, 1, shape))
    return model


def reductions_at_17() -> onnx.ModelProto:
    """Axes of ReduceMean, ReduceMax and L2 are attributes before opset 18, those of ReduceSum an input since 13."""
    return weights(
        parsed(
            """net (float[N, 4, 6] x) => (float[N, 1, 1] y, float[N, 4] z)
            { i = Identity(x) m = ReduceMean<axes = [-1, 1]>(i) n = ReduceL2<axes = [2, 1]>(i) a = Add(m, n)
              b = ReduceSum(i, axes) c = ReduceMax<axes = [2], keepdims = 0>(i)
              d = Sub(x, i) e = ReduceMax<axes = [2], keepdims = 0>(d) z = Sub(c, e)
              f = ReduceMax<axes = [1, 2]>(b) y = Mul(a, f) }""",
            opset=17,
        ),
        axes=np.array([1]),
    )


def opset_11() -> onnx.ModelProto:
    """Axes of Squeeze, Unsqueeze and ReduceSum are attributes, and Softmax takes everything from its axis on."""
    return weights(
        parsed(
            """net (float[N, 4, 6] x) => (float[N, 4, 6] y, float[N, 4] z)
            { u = Unsqueeze<axes = [0, 4]>(x) i = Identity(u) s = Squeeze<axes = [0, -1]>(i)
              m = Softmax<axis = 1>(s) c = Clip(m, low, high) p = Pad<mode = "constant">(c, pads)
              y = Dropout<ratio = 0.5>(p) r = ReduceSum<axes = [-1], keepdims = 0>(m) z = Neg(r) }""",
            opset=11,
            ir=6,
        ),
        low=np.array(0.01, np.float32), high=np.array(0.9, np.float32), pads=np.zeros(6, np.int64),
    )  # fmt: skip


def opset_12_flat_softmax() -> onnx.ModelProto:
    """LogSoftmax and Hardmax of opset 12 flatten; BatchNormalization and Dropout have outputs that nobody uses."""
    rng = np.random.default_rng(RNG)
    return weights(
        parsed(
            """net (float[N, 3, 4] x) => (float[N, 3, 4] y, float[N, 12] h)
            { b = BatchNormalization<epsilon = 0.01>(x, s, t, m, v) l = LogSoftmax(b) y = Identity(l)
              f = Flatten(b) h = Hardmax(f) }""",
            opset=12,
            ir=7,
        ),
        **{name: (np.abs(rng.standard_normal(3)) + 0.5).astype(np.float32) for name in "stmv"},
    )


def unsorted_branches() -> onnx.ModelProto:
    """The nodes of a branch, and of the branch in it, stand in reverse order."""
    model = sorted_branches()
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _reverse(attribute.g)
    return model


def _reverse(graph: onnx.GraphProto) -> None:
    nodes = list(graph.node)[::-1]
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _reverse(attribute.g)
    del graph.node[:]
    graph.node.extend(nodes)


def sorted_branches() -> onnx.ModelProto:
    """The same in the order that the specification asks for."""
    return parsed(
        """net (bool c, float[N] x) => (float[N] y)
        { a = Abs(x)
          y = If(c) <
            then_branch = t () => (float[N] p) {
              p1 = Exp(a) p2 = Neg(p1) p3 = Exp(a) d = Not(c)
              p4 = If(d) <then_branch = tt () => (float[N] q) { q1 = Add(p2, p3) q = Tanh(q1) },
                          else_branch = te () => (float[N] r) { r1 = Sub(p2, p3) r = Tanh(r1) }>
              p = Add(p4, p2) },
            else_branch = e () => (float[N] s) { s1 = Exp(a) s = Neg(s1) }> }"""
    )


def batch_norms() -> onnx.ModelProto:
    """Batch norms that can go into a convolution, one that cannot, and one before it."""
    rng = np.random.default_rng(RNG)
    model = parsed(
        """net (float[N, 4, 5, 5] x) => (float[N, 4, 5, 5] y)
        { n0 = BatchNormalization(x, a0, b0, c0, d0)
          k1 = Conv<pads = [1, 1, 1, 1]>(n0, w1) n1 = BatchNormalization(k1, a1, b1, c1, d1) r1 = Relu(n1)
          n2 = BatchNormalization(r1, a2, b2, c2, d2) k2 = Conv<pads = [1, 1, 1, 1]>(n2, w2, e2)
          n3 = BatchNormalization(k2, a3, b3, c3, d3) y = Add(n3, x) }""",
        opset=15,
    )
    made = {
        f"{name}{i}": (np.abs(rng.standard_normal(4)) + 0.5).astype(np.float32) for i in range(4) for name in "abcd"
    }
    made |= {f"w{i}": rng.standard_normal((4, 4, 3, 3)).astype(np.float32) for i in (1, 2)}
    return weights(model, **made, e2=rng.standard_normal(4).astype(np.float32))


def branches_with_weights() -> onnx.ModelProto:
    """Both branches hold the same weight as an initializer of their own, and use one of the graph around them."""
    rng = np.random.default_rng(RNG)
    shared, own = (rng.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
    model = parsed(
        """net (bool c, float[N, 64] x) => (float[N, 64] y)
        { y = If(c) <
            then_branch = t () => (float[N, 64] p) { p1 = MatMul(x, shared) p2 = MatMul(p1, own) p = Relu(p2) },
            else_branch = e () => (float[N, 64] q) { q1 = MatMul(x, shared) q2 = MatMul(q1, own2) q = Neg(q2) }> }"""
    )
    for attribute, name in zip(model.graph.node[0].attribute, ("own", "own2"), strict=True):
        attribute.g.initializer.append(numpy_helper.from_array(own, name))
    return weights(model, shared=shared)


def awkward_names() -> onnx.ModelProto:
    """Nodes without names or all of one name, an optional output that is left out, values with odd names."""
    model = parsed(
        """net (float[N, 4] x) => (float[N, 4] y)
        { a = Identity(x) b = Dropout(a) c = Relu(b) d = Identity(c) y = Identity(d) }""",
        opset=13,
    )
    renamed = {"a": "0", "b": "a/b:0", "c": "%x", "d": "x.1 é"}
    for number, node in enumerate(model.graph.node):
        node.name = "" if number % 2 else "same"
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    return model


def initializers_as_inputs() -> onnx.ModelProto:
    """IR version 3: every initializer is an input too, and may be fed something else in a later one."""
    rng = np.random.default_rng(RNG)
    model = parsed(
        """net (float[N, 4] x, float[4, 4] w, float[4] b) => (float[N, 4] y)
        { m = MatMul(x, w) i = Identity(b) y = Add(m, i) }""",
        opset=9,
        ir=3,
    )
    return weights(model, w=rng.standard_normal((4, 4)).astype(np.float32), b=np.zeros(4, np.float32))


def outputs_of_no_node() -> onnx.ModelProto:
    """Outputs that are an input, an initializer, the same value twice over, and an If that yields what it was given."""
    return weights(
        parsed(
            """net (float[2] x, bool c) => (float[2] x, float[2] w, float[2] y, float[2] z, float[2] k)
            { y = Identity(x) z = Identity(y)
              k = If(c) <then_branch = t () => (float[2] p) { p = Identity(x) },
                         else_branch = e () => (float[2] q) { q = Identity(w) }> }"""
        ),
        w=np.ones(2, np.float32),
    )


def control_flow() -> onnx.ModelProto:
    """A Loop with If in If, a Scan, an If over a constant and a local function."""
    return onnx.parser.parse_model(CONTROL_FLOW)


def bomb() -> onnx.ModelProto:
    """A hundred million elements out of a few bytes, of which one is needed."""
    return weights(
        parsed(
            """net (float[N] x) => (float[N] y)
            { big = ConstantOfShape(size) more = Expand(one, size) sum = Add(big, more)
              last = Gather(sum, place) y = Mul(x, last) }"""
        ),
        size=np.array([100_000_000]), one=np.ones(1, np.float32), place=np.array(99_999_999),
    )  # fmt: skip


def doubling() -> onnx.ModelProto:
    """A weight is tiled: folded, the file would be eight times as long."""
    return weights(
        parsed(
            """net (float[N, 64, 512] x) => (float[N, 64, 512] y)
            { t = Tile(w, repeats) y = Add(x, t) }"""
        ),
        w=np.random.default_rng(RNG).standard_normal((8, 512)).astype(np.float32), repeats=np.array([8, 1]),
    )  # fmt: skip


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    make.__name__: make
    for make in (
        contradicting_shapes, reductions_at_17, opset_11, opset_12_flat_softmax, unsorted_branches, batch_norms,
        branches_with_weights, awkward_names, initializers_as_inputs, outputs_of_no_node, control_flow, bomb, doubling,
    )
}  # fmt: skip


def feeds_of(model: onnx.ModelProto, seed: int = 0, size: int = 2) -> dict[str, Any]:
    """Numbers for the inputs that have no initializer."""
    rng = np.random.default_rng(seed)
    given = {init.name for init in model.graph.initializer}
    feeds: dict[str, Any] = {}
    for info in model.graph.input:
        if info.name in given:
            continue
        shape = [d.dim_value or size for d in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        made = rng.standard_normal(shape)
        numbers = made > 0 if dtype.kind == "b" else made * 2
        feeds[info.name] = np.asarray(numbers).astype(dtype)
    return feeds
