"""Straight-through training: the training form computes what the quantised student computes, and its weights come back as
integers of the same scales."""

from __future__ import annotations

from pathlib import Path

import anyir
import numpy as np
import pytest
import torch
from anyir.backends.torch import to_torch
from anyir.compress.distill import distill
from anyir.compress.distill.quantised import training_form
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import Unsupported
from anyir.ir.graph import Module, Value
from anyir.ir.types import F16, F32, I4, I8, I32, U8, DType, TensorType
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.tests.support.distillation import accuracy, mlp, points

X, Y = points(768, 0)
X_TEST, Y_TEST = points(512, 1)


def pair(b: Builder, x: Value, scale: float, zero: int, to: DType = I8) -> Value:
    parameters = np.float32(scale), np.array(zero, to.numpy)
    return b.dequantize(b.quantize(x, *parameters, to=to), *parameters, to=F32)


def quantised(widths: tuple[int, ...], seed: int, stored: DType = I8, high: int = 127, role: str = "param") -> Module:
    """An MLP as QDQ: symmetric weights per output channel with a scale from their range, i32 biases, i8 activations and
    outputs: sums in another order still round to the same."""
    source = mlp(widths, seed)
    module = Module("quantised")
    graph = module.add_graph("main")
    b = Builder(graph)
    y = graph.add_input(TensorType(F32, (sym("N"), widths[0])), "x")
    step = 1 / 64
    for i in range(len(widths) - 1):
        w = source.weights[f"fc{i}.weight"].tensor.numpy()
        scale = (np.abs(w).max(1, keepdims=True) / high).astype(np.float32)
        integers = np.clip(np.rint(w / scale), -high, high).astype(stored.numpy)
        weight = b.const(integers, stored, key=f"fc{i}.weight", role=role)
        bias = b.const(np.arange(w.shape[0], dtype=np.int32), key=f"fc{i}.bias", role=role)
        y = pair(b, y, step, -3)
        scales = scale.reshape(-1) * np.float32(step)
        y = b.gemm(y, b.dequantize(weight, scale, to=F32), b.dequantize(bias, scales, to=F32), transB=True)
        y, step = (b.relu(y), 1 / 24) if i + 2 < len(widths) else (y, step)
    graph.set_outputs([pair(b, y, 1 / 16, 0)])
    module.add_signature("serving_default", graph, ["x"], ["y"])
    return module


@pytest.mark.parametrize("stored", [I8, I4])
@pytest.mark.parametrize("role", ["param", "const"])
def test_forward_is_the_students(stored: DType, role: str) -> None:
    """To the last bit, on the kernels and in torch; the student itself is left alone."""
    student = quantised((4, 8, 3), 0, stored, 7 if stored is I4 else 127, role)
    text = str(student)
    form = training_form(student)
    verify(form.module)
    assert form.quantised and str(student) == text
    wanted = run(student, [X])["y"]
    np.testing.assert_array_equal(run(form.module, [X])["y"], wanted)
    live = to_torch(form.module)
    np.testing.assert_array_equal(live(torch.from_numpy(X))["y"].detach(), wanted)
    assert {name for name, _ in live.named_parameters()} == {"fc0.weight", "fc0.bias", "fc1.weight", "fc1.bias"}


def test_gradients_go_straight_through() -> None:
    """As if nothing were rounded, except where an activation or a weight is beyond its range: there they stop."""
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    x = graph.add_input(TensorType(F32, (5,)), "x")
    graph.set_outputs([b.mul(pair(b, x, 0.5, 10, U8), 3.0)])
    module.add_signature("main", graph, ["x"], ["y"])
    live = to_torch(training_form(module).module)
    given = torch.tensor([-100.0, -5.2, 0.3, 122.4, 200.0], requires_grad=True)  # u8 with zero point 10: -5 ... 122.5
    made = live(given)["y"]
    made.sum().backward()
    assert made.tolist() == [-15.0, -15.0, 1.5, 367.5, 367.5]
    assert given.grad.tolist() == [0.0, 3.0, 3.0, 3.0, 0.0]
    infinite = torch.tensor([torch.inf, -torch.inf, 1.0, 1.0, 1.0], requires_grad=True)
    live(infinite)["y"].sum().backward()
    assert torch.isfinite(infinite.grad).all()


def test_untouched_weights_come_back_bit_for_bit() -> None:
    """Also an i32 bias that float32 cannot hold."""
    student = quantised((4, 8, 3), 0)
    student.set_weight(student.weights["fc0.bias"], np.arange(8, dtype=np.int32) + (1 << 30) + 1)
    form = training_form(student)
    copy = student.clone()
    form.bring_back(copy, {k: form.module.weights[k].tensor.numpy() for k in form.masters})
    assert copy == student


def test_trained_weights_come_back_as_integers() -> None:
    """Rounded half to even by the same scale, within the range that the student uses."""
    student = quantised((4, 8, 3), 0)
    form = training_form(student)
    rng = np.random.default_rng(0)
    trained = {k: m.start + rng.normal(0, 0.5, m.start.shape).astype(np.float32) for k, m in form.masters.items()}
    copy = student.clone()
    form.bring_back(copy, trained)
    for key in ("fc0.weight", "fc1.weight"):
        scale, before = form.masters[key].scale, student.weights[key].tensor.numpy()
        found = copy.weights[key].tensor.numpy()
        wanted = np.clip(np.rint(trained[key] / scale), -127, 127)
        assert found.dtype == np.int8 and (found == wanted).all() and (found != before).any()
    moved = training_form(student)
    for key in trained:
        moved.module.set_weight(moved.module.weights[key], trained[key])
    np.testing.assert_array_equal(run(moved.module, [X])["y"], run(copy, [X])["y"])


def test_a_quantised_student_learns() -> None:
    """Weights of four bits and coarse activations lose much; training with the same scales wins most of it back."""
    teacher = mlp((4, 48, 48, 3), 1, name="teacher")
    teacher = distill(teacher, teacher, {"x": X, "labels": Y}, losses="labels", epochs=25, rate=0.01).module
    start = quantised((4, 24, 3), 5, I4, 7)
    report = distill(
        teacher, start, {"x": X, "labels": Y}, eval_data={"x": X_TEST, "labels": Y_TEST}, epochs=12, rate=0.02
    )
    assert report.quantised and report.after > report.before + 0.2
    assert accuracy(report.module, X_TEST, Y_TEST) == pytest.approx(report.after)
    assert report.check["max_abs"] == 0
    scales = [w.tensor.digest() for w in start.weights if w.role == "const"]
    assert [w.tensor.digest() for w in report.module.weights if w.role == "const"] == scales
    assert report.module.weights["fc0.weight"].tensor.dtype is I4


def test_integers_that_only_move_are_followed() -> None:
    """Between quantize and dequantize: concat with integer constants, pad, max_pool, transpose, clip."""
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    x = graph.add_input(TensorType(F32, (1, 2, 4, 4)), "x")
    scale, zero = np.float32(0.1), np.int8(3)
    q = b.quantize(x, scale, zero, to=I8)
    q = b.pad(q, (0, 0, 1, 1, 0, 0, 1, 1), zero)
    q = b.max_pool(q, kernel_shape=(2, 2))
    q = b.concat(q, b.const(np.full((1, 1, 5, 5), 7, np.int8)), axis=1)
    q = b.clip(b.transpose(q, perm=(0, 2, 3, 1)), np.int8(-20), np.int8(90))
    graph.set_outputs([b.dequantize(q, scale, zero, to=F32)])
    module.add_signature("main", graph, ["x"], ["y"])
    form = training_form(module)
    verify(form.module)
    x = np.random.default_rng(0).normal(0, 4, (1, 2, 4, 4)).astype(np.float32)
    wanted = run(module, [x])["y"]
    np.testing.assert_array_equal(run(form.module, [x])["y"], wanted)
    given = torch.from_numpy(x).requires_grad_()
    made = to_torch(form.module)(given)["y"]
    np.testing.assert_array_equal(made.detach(), wanted)
    made.sum().backward()
    assert given.grad.abs().sum() > 0


def test_ranges_taken_from_the_data_are_followed() -> None:
    """dynamic_quantize: scale and zero point follow the batch."""
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    x = graph.add_input(TensorType(F32, (sym("N"), 4)), "x")
    graph.set_outputs([b.dequantize(*b.dynamic_quantize(x), to=F32)])
    module.add_signature("main", graph, ["x"], ["y"])
    form = training_form(module)
    for given in (X, X[:1], np.zeros((2, 4), np.float32), np.abs(X)):
        np.testing.assert_array_equal(run(form.module, [given])["y"], run(module, [given])["y"])


def test_half_weights_have_float_masters() -> None:
    student = mlp((4, 8, 3), 0)
    graph = student.main
    for node in list(graph.nodes("gemm")):
        for index in (1, 2):
            weight = node.operands[index].weight
            b = Builder(graph, before=node)
            stored = b.const(weight.tensor.numpy().astype(np.float16), key=f"{weight.key}.half", role="param")
            node.set_operand(index, b.cast(stored, to=F32))
    student.drop_unused_weights()
    form = training_form(student)
    live = to_torch(form.module)
    assert {p.dtype for p in live.parameters()} == {torch.float32} and not form.quantised
    found, wanted = {"y": live(torch.from_numpy(X))["y"].detach().numpy()}, run(student, [X])
    assert compare(wanted, found, limits_for(student, [X], exact=wanted)).passed
    report = distill(mlp((4, 16, 3), 3), student, X, eval_data=X_TEST, epochs=3, rate=0.01)
    assert {w.tensor.dtype for w in report.module.weights if w.role == "param"} == {F16}
    assert report.epochs[-1]["loss"] < report.epochs[0]["loss"] and report.check["passed"]


def test_quantised_outputs_are_refused() -> None:
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    x = graph.add_input(TensorType(F32, (2, 4)), "x")
    graph.set_outputs([b.quantize(x, np.float32(0.1), np.int8(0), to=I8)])
    module.add_signature("main", graph, ["x"], ["y"])
    with pytest.raises(Unsupported, match="is quantised"):
        training_form(module)


def test_a_weight_with_two_scales_stays_as_it_is() -> None:
    module = Module()
    graph = module.add_graph("main")
    b = Builder(graph)
    x = graph.add_input(TensorType(F32, (2, 4)), "x")
    w = b.const(np.ones((4, 4), np.int8), key="w", role="param")
    y = b.matmul(b.matmul(x, b.dequantize(w, np.float32(0.1), to=F32)), b.dequantize(w, np.float32(0.2), to=F32))
    graph.set_outputs(
        [b.add(y, b.dequantize(b.const(np.ones(4, np.int32), key="c", role="param"), np.float32(1), to=F32))]
    )
    module.add_signature("main", graph, ["x"], ["y"])
    form = training_form(module)
    assert set(form.masters) == {"c"} and any("w is used with several scales" in note for note in form.notes)
    assert form.masters["c"].low == -form.masters["c"].high == -(2**31 - 1) and I32.bits == 32


def test_what_was_trained_leaves_as_integers(tmp_path: Path) -> None:
    """A QDQ file in, trained, and an int8 TFLite file out that LiteRT runs to the bits of the kernels."""
    anyir.save(quantised((4, 16, 3), 0), tmp_path / "student.onnx")
    options = {"eval_data": X_TEST, "epochs": 2, "rate": 0.01}
    student, output = str(tmp_path / "student.onnx"), str(tmp_path / "tuned.tflite")
    report = anyir.distill(mlp((4, 24, 3), 3), student, X, output, **options)
    assert report.quantised and report.written.verified and report.check["max_abs"] == 0
    again = anyir.load(output)
    np.testing.assert_array_equal(run(again, [X])["y"], run(report.module, [X])["y"])
    assert {w.tensor.dtype for w in again.used_weights() if len(w.tensor.shape) == 2 and w.role == "param"} == {I8}
