"""Students of integer arithmetic (QOperator files, dynamic quantisation) train as their QDQ form does, and stay integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyir
import numpy as np
import pytest
import torch
from anyir.backends.torch import to_torch
from anyir.compress.distill import distill
from anyir.compress.distill.integers import told_scales
from anyir.compress.distill.quantised import training_form
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import Unsupported
from anyir.ir.graph import Module
from anyir.ir.types import F32, I8, U8, TensorType
from anyir.ir.verify import verify
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from anyir.tests.support.distillation import accuracy, mlp, points

X, Y = points(768, 0)
X_TEST, Y_TEST = points(512, 1)
RNG = np.random.default_rng(0)
TEACHER = np.random.default_rng(4).normal(0, 0.1, (128, 3)).astype(np.float32)


def module_of(build: Any, shape: tuple[Any, ...]) -> Module:
    """A module of one f32 input "x" and what `build` makes of it."""
    module = Module("integers")
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, shape), "x")
    graph.set_outputs([build(Builder(graph), x)])
    module.add_signature("main", graph, ["x"], ["y"])
    return module


def integers_of(module: Module | None) -> list[np.ndarray]:
    """The 8-bit weights of rank 2 and more, in the order of their use."""
    assert module is not None
    found = [w.tensor.numpy() for w in module.used_weights() if w.tensor.dtype in (I8, U8)]
    return [array for array in found if array.ndim >= 2 and array.size > 8]


def image_net(b: Builder, x: Any) -> Any:
    """Two convolutions, the second depthwise, and a dense layer as QDQ; weights per channel, biases in the sums' unit."""

    def pair(y: Any, scale: float) -> Any:
        parameters = np.float32(scale), np.int8(-3)
        return b.dequantize(b.quantize(y, *parameters, to=I8), *parameters, to=F32)

    def layer(y: Any, key: str, shape: tuple[int, ...], step: float, **attrs: Any) -> Any:
        integers = RNG.integers(-127, 128, shape).astype(np.int8)
        scale = RNG.uniform(0.002, 0.004, (shape[0], *(1,) * (len(shape) - 1))).astype(np.float32)
        stored = b.const(integers, key=f"{key}.weight", role="param")
        offsets = b.const(RNG.integers(-99, 99, shape[0]).astype(np.int32), key=f"{key}.bias", role="param")
        w, c = b.dequantize(stored, scale, to=F32), b.dequantize(offsets, scale.reshape(-1) * np.float32(step), to=F32)
        return b.conv(y, w, c, **attrs) if len(shape) == 4 else b.gemm(y, w, c, transB=True)

    y = pair(layer(pair(x, 0.02), "conv", (6, 2, 3, 3), 0.02, pads=(1, 1, 1, 1)), 0.03)
    y = pair(layer(y, "depthwise", (6, 1, 3, 3), 0.03, groups=6), 0.04)
    return pair(
        layer(b.reshape(b.max_pool(y, kernel_shape=(2, 2), strides=(2, 2)), (-1, 54)), "dense", (3, 54), 0.04), 0.05
    )


def image_student(folder: Path) -> tuple[Module, Module]:
    """`image_net` as a QDQ file and as a QOperator file, both read again."""
    small = module_of(image_net, (sym("N"), 2, 8, 8))
    for form in ("qdq", "qoperator"):
        anyir.save(small, folder / f"{form}.onnx", quant_form=form)
    return anyir.load(folder / "qdq.onnx"), anyir.load(folder / "qoperator.onnx")


def test_a_qoperator_student_trains_as_its_qdq_form(tmp_path: Path) -> None:
    """QLinearConv (depthwise too) and QGemm: the same masters, the same outputs, and after training the same integers."""
    qdq, qoperator = image_student(tmp_path)
    assert {n.name for n in qoperator.all_nodes()} >= {"qlinear_conv", "matmul_integer", "requantize"}
    x = np.random.default_rng(2).normal(0, 1, (64, 2, 8, 8)).astype(np.float32)
    form = training_form(qoperator)
    verify(form.module)
    wanted = run(qoperator, [x])["y"]
    np.testing.assert_array_equal(run(form.module, [x])["y"], wanted)
    np.testing.assert_array_equal(to_torch(form.module)(torch.from_numpy(x))["y"].detach(), wanted)
    taught = module_of(lambda b, x: b.matmul(b.reshape(x, (-1, 128)), TEACHER), (sym("N"), 2, 8, 8))
    one, two = (distill(taught, student, x, epochs=3, rate=0.01) for student in (qdq, qoperator))
    assert two.quantised and two.check["max_abs"] == 0 and one.curve == two.curve
    for before, first, second in zip(*map(integers_of, (qoperator, one.module, two.module)), strict=True):
        np.testing.assert_array_equal(first, second)
        assert (second != before).mean() > 0.2
    assert {n.name for n in two.module.all_nodes()} == {n.name for n in qoperator.all_nodes()}


def test_a_dynamically_quantised_student_learns(tmp_path: Path) -> None:
    """onnxruntime's own quantize_dynamic: DynamicQuantizeLinear, MatMulInteger; the result runs there to the same answers."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    from anyir.runtimes import onnxruntime

    teacher = mlp((4, 48, 3), 1, name="teacher")
    teacher = distill(teacher, teacher, {"x": X, "labels": Y}, losses="labels", epochs=25, rate=0.01).module
    anyir.save(mlp((4, 24, 3), 5), tmp_path / "float.onnx")
    quantization.quantize_dynamic(tmp_path / "float.onnx", tmp_path / "student.onnx")
    student = anyir.load(tmp_path / "student.onnx")
    assert len([*student.main.nodes("matmul_integer")]) == 2 == len(training_form(student).masters)
    np.testing.assert_array_equal(run(training_form(student).module, [X])["y"], run(student, [X])["y"])
    test = {"x": X_TEST, "labels": Y_TEST}
    report = distill(teacher, student, {"x": X, "labels": Y}, eval_data=test, epochs=8, rate=0.03)
    assert report.quantised and report.after > report.before + 0.2
    batches = [slice(i, i + report.options["batch"]) for i in range(0, len(X_TEST), report.options["batch"])]
    right = [accuracy(report.module, X_TEST[part], Y_TEST[part]) * len(X_TEST[part]) for part in batches]
    assert sum(right) / len(X_TEST) == pytest.approx(report.after)  # ranges are those of a batch
    assert all(
        array.dtype == before.dtype for array, before in zip(*map(integers_of, (report.module, student)), strict=True)
    )
    anyir.save(report.module, tmp_path / "tuned.onnx")
    judged = onnxruntime.run(tmp_path / "tuned.onnx", {"x": X_TEST})["y"].argmax(-1)
    assert (judged == run(report.module, [X_TEST])["y"].argmax(-1)).all()


def row_quantised(b: Builder, x: Any) -> Any:
    """What Keras' int8 layers do: each row of the data by its own largest number, rounded, clipped, cast."""
    scale = b.div(b.const(np.float32(127)), b.reduce_max(b.abs(x), (-1,), keepdims=True))
    rounded = b.clip(b.round(b.mul(x, scale)), np.float32(-127), np.float32(127))
    w = b.const(RNG.integers(-127, 128, (4, 3)).astype(np.int8), key="w", role="param")
    total = b.matmul_integer(b.cast(rounded, to=I8), w)
    return b.div(b.cast(total, to=F32), b.mul(b.const(np.full(3, 300, np.float32)), scale))


def zero_points(b: Builder, x: Any) -> Any:
    """conv_integer and matmul_integer with zero points of every kind, an i32 bias, requantize, a transposed weight."""
    q = b.quantize(x, np.float32(0.05), np.uint8(120), to=U8)
    w = b.const(RNG.integers(-50, 50, (6, 2, 3, 3)).astype(np.int8), key="w", role="param")
    offsets = b.const(RNG.integers(-5, 5, 6).astype(np.int8))
    total = b.conv_integer(q, w, np.uint8(120), offsets, pads=(1, 1, 1, 1))
    total = b.add(total, b.const(RNG.integers(-900, 900, (6, 1, 1)).astype(np.int32), key="c", role="param"))
    scales = b.div(b.mul(np.float32(0.05), b.const(RNG.uniform(0.01, 0.03, (6, 1, 1)).astype(np.float32))), 0.1)
    q = b.requantize(total, b.unsqueeze(scales, (0,)), np.int8(-4), to=I8)
    q = b.reshape(q, (-1, 96))
    v = b.const(RNG.integers(0, 256, (5, 96)).astype(np.uint8), key="v", role="param")
    product = b.matmul_integer(q, b.transpose(v, perm=(1, 0)), np.int8(-4), np.uint8(130))
    return b.mul(b.cast(product, to=F32), b.mul(np.float32(0.1), np.float32(0.02)))


@pytest.mark.parametrize(("build", "shape", "keys"), [
    (row_quantised, (sym("N"), 4), {"w"}), (zero_points, (sym("N"), 2, 4, 4), {"w", "c", "v"}),
])  # fmt: skip
def test_the_form_computes_the_same_and_every_weight_has_a_gradient(build: Any, shape: tuple, keys: set[str]) -> None:
    student = module_of(build, shape)
    form = training_form(student)
    verify(form.module)
    x = np.random.default_rng(3).normal(0, 1, (8, *shape[1:])).astype(np.float32)
    wanted = run(student, [x])["y"]
    np.testing.assert_array_equal(run(form.module, [x])["y"], wanted)
    live, given = to_torch(form.module), torch.from_numpy(x).requires_grad_()
    made = live(given)["y"]
    found = {"y": made.detach().numpy()}
    assert compare({"y": wanted}, found, limits_for(student, [x], exact={"y": wanted})).passed
    made.square().sum().backward()
    gradients = {name: parameter.grad.abs().sum() for name, parameter in live.named_parameters()}
    assert set(form.masters) == set(gradients) == keys
    assert all(size > 0 for size in (*gradients.values(), given.grad.abs().sum()))
    copy = student.clone()
    form.bring_back(copy, {key: master.start for key, master in form.masters.items()})
    assert copy == student


def test_units_are_the_scales_behind_the_sums() -> None:
    """The gradient of a master is that of the real weight: here of y = x w with w = integers times 0.02."""

    def build(b: Builder, x: Any) -> Any:
        w = b.const(np.full((2, 1), 50, np.int8), key="w", role="param")
        product = b.matmul_integer(b.quantize(x, np.float32(0.5), np.int8(0), to=I8), w)
        return b.mul(b.cast(product, to=F32), b.mul(np.float32(0.5), np.float32(0.02)))

    student = module_of(build, (1, 2))
    (product,) = student.main.nodes("matmul_integer")
    assert [value.scalar() for value in told_scales(product)] == [np.float32(0.5), np.float32(0.02)]
    live = to_torch(training_form(student).module)
    live(torch.tensor([[3.0, -2.0]]))["y"].sum().backward()
    four_roundings = 4 * np.finfo(np.float32).eps  # of both scales, of their product and of that with the integers
    np.testing.assert_allclose(live.w.grad, [[3.0], [-2.0]], rtol=four_roundings)
    np.testing.assert_allclose(live.w.detach(), np.full((2, 1), 1.0), rtol=four_roundings)


REFUSED = {
    "it rounds in fixed point": lambda b, t: b.requantize(t, np.float32(0.1), to=I8, rounding="fixed_point"),
    "it wraps around in i8": lambda b, t: b.cast(t, to=I8),
    "it computes with integers": lambda b, t: b.mul(t, t),
}  # fmt: skip


@pytest.mark.parametrize("reason", list(REFUSED))
def test_other_integer_arithmetic_is_refused(reason: str) -> None:
    def build(b: Builder, x: Any) -> Any:
        q = b.quantize(x, np.float32(0.1), np.int8(0), to=I8)
        total = b.matmul_integer(q, b.const(np.ones((4, 3), np.int8), key="w"))
        return b.dequantize(REFUSED[reason](b, total), np.float32(0.1), to=F32)

    with pytest.raises(Unsupported, match=reason):
        training_form(module_of(build, (2, 4)))


def test_shared_integer_weights_stay_as_they_are() -> None:
    def build(b: Builder, x: Any) -> Any:
        w = b.const(np.eye(4, dtype=np.int8), key="w", role="param")
        for _ in range(2):
            q = b.quantize(x, np.float32(0.1), np.int8(0), to=I8)
            x = b.mul(b.cast(b.matmul_integer(q, w), to=F32), np.float32(0.1))
        return b.add(x, b.const(np.ones(4, np.float32), key="c", role="param"))

    student = module_of(build, (2, 4))
    form = training_form(student)
    assert not form.masters and all("shared or computed" in note for note in form.notes) and len(form.notes) == 2
    x = np.random.default_rng(0).normal(0, 3, (2, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(form.module, [x])["y"], run(student, [x])["y"])
