"""ai.onnx.preview.training: steps of the optimisers against their formulas and PyTorch's optimisers, gradients against
PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from anyir.backends import onnx as backend
from anyir.frontends import onnx as frontend
from anyir.ir.errors import InvalidModel, Unsupported
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from onnx import TensorProto, helper, parser

torch = pytest.importorskip("torch")
ort = pytest.importorskip("anyir.runtimes.onnxruntime")

DOMAIN = "ai.onnx.preview.training"
CODES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int64": TensorProto.INT64}
RNG = np.random.default_rng(23)
SHAPES = ((3, 2), (4,), ())


def step(op_type: str, arrays: list[np.ndarray], results: int, **attrs: Any) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(f"x{i}", CODES[str(a.dtype)], a.shape) for i, a in enumerate(arrays)]
    outputs = [helper.make_tensor_value_info(f"y{i}", CODES[str(arrays[2].dtype)], None) for i in range(results)]
    node = helper.make_node(op_type, [i.name for i in infos], [o.name for o in outputs], domain=DOMAIN, **attrs)
    graph = helper.make_graph([node], "step", infos, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(DOMAIN, 1)], ir_version=8)


def tensors(dtype: Any, *positive: bool) -> list[list[np.ndarray]]:
    """Kinds of tensors, one per shape each; accumulators of squares are positive."""
    drawn = [[np.asarray(RNG.standard_normal(s)).astype(dtype) for s in SHAPES] for _ in positive]
    return [[np.abs(a) for a in kind] if p else kind for kind, p in zip(drawn, positive, strict=True)]


def check(proto: onnx.ModelProto, arrays: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    """Our kernels, and onnxruntime on what we write: it has no kernels for the domain itself."""
    feeds = {f"x{i}": a for i, a in enumerate(arrays)}
    module = frontend.read(proto)
    truth = {f"y{i}": np.asarray(w).astype(arrays[2].dtype) for i, w in enumerate(wanted)}
    limits = limits_for(module, feeds, runs=8)
    report = compare(truth, run(module, feeds), limits)
    assert report.passed, str(report)
    made = backend.to_model_proto(module)
    onnx.checker.check_model(made, full_check=True)
    assert compare(truth, ort.run(made.SerializeToString(), feeds), limits).passed


def wide(kinds: list[list[np.ndarray]]) -> list[tuple[np.ndarray, ...]]:
    """Per tensor its kinds, in float64."""
    return [tuple(a.astype(np.float64) for a in group) for group in zip(*kinds, strict=True)]


def f32(value: float) -> float:
    return float(np.float32(value))


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float64", "float64"), ("float64", "float32")])
def test_adagrad(count: int, dtypes: tuple[str, str]) -> None:
    rate, decay, norm, epsilon = 0.1, f32(0.2), f32(0.05), f32(1e-4)
    kinds = tensors(dtypes[1], False, False, True)
    arrays = [np.array(rate, dtypes[0]), np.array(count), *(a for kind in kinds for a in kind)]
    new: list[list[np.ndarray]] = [[], []]
    for x, g, h in wide(kinds):
        regular = norm * x + g
        total = h + regular * regular
        new[0].append(x - rate / (1 + count * decay) * regular / (np.sqrt(total) + epsilon))
        new[1].append(total)
    check(
        step("Adagrad", arrays, 6, decay_factor=decay, norm_coefficient=norm, epsilon=epsilon),
        arrays,
        [*new[0], *new[1]],
    )


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("norms", [(0.0, 0.0), (0.05, 0.1)])
def test_adam(count: int, norms: tuple[float, float]) -> None:
    alpha, beta, epsilon, rate = f32(0.9), f32(0.99), f32(1e-3), f32(0.1)
    norm, post = map(f32, norms)
    kinds = tensors("float32", False, False, False, True)
    arrays = [np.array(rate, np.float32), np.array(count), *(a for kind in kinds for a in kind)]
    new: list[list[np.ndarray]] = [[], [], []]
    for x, g, v, h in wide(kinds):
        regular = norm * x + g
        v, h = alpha * v + (1 - alpha) * regular, beta * h + (1 - beta) * regular * regular
        adjusted = rate * np.sqrt(1 - beta**count) / (1 - alpha**count) if count else rate
        new[0].append((1 - post) * (x - adjusted * v / (np.sqrt(h) + epsilon)))
        new[1].append(v)
        new[2].append(h)
    attrs = {"alpha": alpha, "beta": beta, "epsilon": epsilon, "norm_coefficient": norm, "norm_coefficient_post": post}
    check(step("Adam", arrays, 9, **attrs), arrays, [a for kind in new for a in kind])


@pytest.mark.parametrize("mode", ["standard", "nesterov"])
@pytest.mark.parametrize("count", [0, 2])
def test_momentum(mode: str, count: int) -> None:
    alpha, beta, norm, rate = f32(0.9), f32(0.7), f32(0.05), f32(0.1)
    kinds = tensors("float32", False, False, False)
    arrays = [np.array(rate, np.float32), np.array(count), *(a for kind in kinds for a in kind)]
    new: list[list[np.ndarray]] = [[], []]
    for x, g, v in wide(kinds):
        regular = norm * x + g
        v = alpha * v + (beta if count > 0 else 1) * regular
        new[0].append(x - rate * (regular + alpha * v if mode == "nesterov" else v))
        new[1].append(v)
    proto = step("Momentum", arrays, 6, alpha=alpha, beta=beta, norm_coefficient=norm, mode=mode)
    check(proto, arrays, [*new[0], *new[1]])


@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_is_what_pytorch_calls_sgd(nesterov: bool) -> None:
    start, gradients = RNG.standard_normal(5), RNG.standard_normal((3, 5))
    parameter = torch.nn.Parameter(torch.tensor(start))
    peer = torch.optim.SGD([parameter], lr=0.25, momentum=0.5, nesterov=nesterov)
    arrays = [np.array(0.25), np.array(0), start, gradients[0], np.zeros(5)]
    attrs = {"alpha": 0.5, "beta": 1.0, "norm_coefficient": 0.0, "mode": "nesterov" if nesterov else "standard"}
    module = frontend.read(step("Momentum", arrays, 2, **attrs))
    x, v = arrays[2], arrays[4]
    for i, g in enumerate(gradients):
        parameter.grad = torch.tensor(g)
        peer.step()
        x, v = run(module, [arrays[0], np.array(i), x, g, v]).values()
        np.testing.assert_allclose(x, parameter.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("op_type", "attrs", "message"),
    [
        ("Adagrad", {}, "4 tensors do not make groups of 3"),
        ("Momentum", {"alpha": 0.5, "beta": 1.0, "norm_coefficient": 0.0, "mode": "heavy"}, "mode is 'heavy'"),
    ],
)
def test_steps_that_are_refused(op_type: str, attrs: dict[str, Any], message: str) -> None:
    arrays = [np.array(0.1, np.float32), np.array(0), *[np.zeros(2, np.float32)] * 4]
    with pytest.raises(InvalidModel, match=message):
        frontend.read(step(op_type, arrays, 2, **attrs))


# -------------------------------------------------------------------------------------------------------- gradients

NET = """
<ir_version: 8, opset_import: ["" : 17, "ai.onnx.preview.training" : 1]>
net (float[N, 3] x, float[3, 4] w, float[4] c{more}) => ({outputs})
{{
  z = MatMul(x, w)
  s = Add(z, c)
  h = Tanh(s)
  p = Softmax <axis = 1> (h)
  q = Mul(p, h)
  y = ReduceSum <keepdims = 0> (q)
  {body}
}}
"""


def net(body: str, outputs: str, more: str = "") -> onnx.ModelProto:
    return parser.parse_model(NET.format(body=body, outputs=outputs, more=more))


def given(rows: int) -> list[np.ndarray]:
    return [RNG.standard_normal(s).astype(np.float32) for s in ((rows, 3), (3, 4), (4,))]


def y_of(x: Any, w: Any, c: Any) -> Any:
    h = torch.tanh(x @ w + c)
    return (torch.softmax(h, 1) * h).sum()


def leaves(arrays: list[np.ndarray]) -> list[Any]:
    return [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]


def agree(proto: onnx.ModelProto, arrays: list[np.ndarray], wanted: list[Any]) -> None:
    """Kernels, and onnxruntime on what is written; it has no operator for gradients."""
    module = frontend.read(proto)
    names = module.signature.input_names()
    feeds = dict(zip(names, arrays, strict=True))
    found = run(module, feeds)
    truth = {name: np.asarray(w, np.float32) for name, w in zip(found, wanted, strict=True)}
    limits = limits_for(module, feeds, runs=8)
    report = compare(truth, found, limits)
    assert report.passed, str(report)
    made = backend.to_model_proto(module)
    onnx.checker.check_model(made, full_check=True)
    assert compare(truth, ort.run(made.SerializeToString(), feeds), limits).passed


@pytest.mark.parametrize("rows", [1, 5])
def test_gradient(rows: int) -> None:
    body = 'dw, dc = ai.onnx.preview.training.Gradient <xs = ["w", "c"], zs = ["x"], y = "y"> (w, c, x)'
    arrays = given(rows)
    at = leaves(arrays)
    y_of(*at).backward()
    agree(net(body, "float[3, 4] dw, float[4] dc"), arrays, [at[1].grad.numpy(), at[2].grad.numpy()])


def test_gradient_at_other_values() -> None:
    body = 'dw, dx = ai.onnx.preview.training.Gradient <xs = ["w", "x"], zs = ["c"], y = "y"> (v, x, c)'
    arrays = [*given(3), RNG.standard_normal((3, 4)).astype(np.float32)]
    at = leaves(arrays)
    y_of(at[0], at[3], at[2]).backward()
    proto = net(body, "float[3, 4] dw, float[N, 3] dx, float y", ", float[3, 4] v")
    agree(proto, arrays, [at[3].grad.numpy(), at[0].grad.numpy(), y_of(*at[:3]).detach().numpy()])


def test_gradient_by_a_value_in_between() -> None:
    body = 'dh = ai.onnx.preview.training.Gradient <xs = ["h"], y = "y"> (h)'
    arrays = given(2)
    h = torch.tensor(np.tanh(arrays[0].astype(np.float64) @ arrays[1] + arrays[2]), requires_grad=True)
    (torch.softmax(h, 1) * h).sum().backward()
    agree(net(body, "float[N, 4] dh"), arrays, [h.grad.numpy()])


def test_gradient_of_a_gradient() -> None:
    body = """dx = ai.onnx.preview.training.Gradient <xs = ["x"], zs = ["w", "c"], y = "y"> (x, w, c)
    ddw = ai.onnx.preview.training.Gradient <xs = ["w"], zs = ["x", "c"], y = "dx"> (w, x, c)"""
    arrays = given(2)
    at = leaves(arrays)
    (once,) = torch.autograd.grad(y_of(*at), at[0], create_graph=True)
    (twice,) = torch.autograd.grad(once.sum(), at[1])
    agree(net(body, "float[3, 4] ddw"), arrays, [twice.numpy()])


def test_gradients_that_are_refused() -> None:
    call = "ai.onnx.preview.training.Gradient"
    with pytest.raises(InvalidModel, match="1 inputs for 2 names"):
        frontend.read(net(f'd = {call} <xs = ["w"], zs = ["x"], y = "y"> (w)', "float[3, 4] d"))
    with pytest.raises(InvalidModel, match="'nothing' is not computed"):
        frontend.read(net(f'd = {call} <xs = ["w"], y = "nothing"> (w)', "float[3, 4] d"))
    body = f'l = Det (b)\n d = {call} <xs = ["b"], y = "l"> (b)'
    with pytest.raises(Unsupported, match="the derivative of det is not known"):
        frontend.read(net(body, "float[N, 4, 2, 2] d", ", float[N, 4, 2, 2] b"))
