"""Live modules and ExportedPrograms: batch, names, nesting, state, control flow, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from anyir.frontends import torch as frontend
from anyir.ir.dims import sym
from anyir.ir.errors import Unsupported, UsageError
from anyir.ir.verify import verify
from anyir.kernels.run import run
from torch import nn


class Net(nn.Module):
    """Dict and list results, a tied weight, batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)
        self.twin = nn.Linear(4, 3)
        self.twin.weight = self.head.weight
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]), persistent=False)

    def forward(self, image: torch.Tensor, factor: torch.Tensor | None = None) -> Any:
        y = self.drop(self.norm(self.conv(image))).relu().mean((2, 3))
        out = {"logits": self.head(y) * self.scale, "parts": [y, (self.twin(y),)]}
        if factor is not None:
            out["scaled"] = y * factor
        return out


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(batch))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize("example", [1, 2, 4])
def test_batch_is_dynamic_whatever_the_example(net: Net, example: int) -> None:
    module = frontend.read(net, inputs=(images(example),))
    verify(module)
    assert module.main.inputs[0].shape == (sym("N"), 1, 8, 8)
    net.eval()
    for batch in (1, 2, 5):
        wanted = net(images(batch))
        found = run(module, {"image": images(batch).numpy()})
        np.testing.assert_allclose(found["logits"], wanted["logits"].detach(), atol=1e-6)
        np.testing.assert_allclose(found["parts.1.0"], wanted["parts"][1][0].detach(), atol=1e-6)


def test_interface_keeps_names_order_and_nesting(net: Net) -> None:
    module = frontend.read(net, inputs={"image": images(2), "factor": torch.ones(2, 1)})
    assert module.signature.input_names() == ["image", "factor"]
    assert [slot.path for slot in module.signature.outputs] == [("logits",), ("parts", 0), ("parts", 1, 0), ("scaled",)]
    renamed = frontend.read(net, inputs=(images(2),), names={"image": "x", "logits": "y"})
    assert renamed.signature.input_names() == ["x"]
    assert renamed.signature.output_names()[0] == "y"
    assert frontend.read(net, inputs=(images(2),), names=["pixels"]).signature.input_names() == ["pixels"]


def test_weights_keep_their_names_and_roles(net: Net) -> None:
    module = frontend.read(net, inputs=(images(2),))
    roles = {weight.key: weight.role for weight in module.weights}
    assert roles["conv.weight"] == "param" and roles["norm.running_mean"] == "buffer" and roles["scale"] == "buffer"
    assert module.weights["head.weight"].aliases == ("twin.weight",)
    np.testing.assert_array_equal(module.weights["conv.weight"].tensor.numpy(), net.conv.weight.detach().numpy())


def test_the_users_module_is_left_as_it_was(net: Net) -> None:
    net.train()
    net.drop.eval()
    frontend.read(net, inputs=(images(2),))
    assert net.training and net.conv.training and not net.drop.training
    net.eval()


def test_dynamic_shapes_by_name_and_none_at_all(net: Net) -> None:
    module = frontend.read(net, inputs=(images(2),), dynamic_shapes={"image": {0: "batch", 2: "height"}})
    assert module.main.inputs[0].shape == (sym("batch"), 1, sym("height"), 8)
    assert module.facts.range_of("height")[0] >= 3
    fixed = frontend.read(net, inputs=(images(2),), dynamic_shapes={})
    assert fixed.main.inputs[0].shape == (2, 1, 8, 8)


def test_locations_name_module_and_line(net: Net) -> None:
    module = frontend.read(net, inputs=(images(2),))
    conv = next(module.main.nodes("conv"))
    assert conv.loc.scope == "conv" and conv.loc.file == "test_live.py" and conv.loc.line > 0


def test_exported_program_keeps_its_sizes(net: Net) -> None:
    program = torch.export.export(net.eval(), (images(3),), dynamic_shapes={"image": {0: torch.export.Dim("b")}})
    assert frontend.read(program).main.inputs[0].shape == (sym("N"), 1, 8, 8)


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def read(function: Any, x: torch.Tensor, **options: Any) -> Any:
    module = frontend.read(Function(function), inputs=(x,), **options)
    verify(module)
    return module


def test_cond_and_while_loop() -> None:
    from torch._higher_order_ops import while_loop

    branch = read(lambda x: torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x * 2, (x,)), torch.randn(4, 3))
    ones = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run(branch, [ones])["output_0"], ones + 1)
    np.testing.assert_array_equal(run(branch, [-ones])["output_0"], ones * -2)
    loop = read(
        lambda x: while_loop(lambda i, y: i < 5, lambda i, y: (i + 1, y * 2), (torch.tensor(0), x)), torch.randn(4, 3)
    )
    np.testing.assert_array_equal(run(loop, [ones])["output_1"], ones * 32)


def test_what_has_no_handler_is_decomposed_by_torch() -> None:
    def function(x: torch.Tensor) -> Any:
        y = x.clone()
        y[:, 0] = 5  # a view changed in place
        return torch.trapz(y, dim=1)

    x = torch.randn(3, 4)
    found = run(read(function, x), [x.numpy()])["output_0"]
    np.testing.assert_allclose(found, function(x), rtol=1e-6)


def test_grad_mode_blocks_are_inlined() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = x + 1
        return y * 2

    x = torch.randn(3, 4)
    np.testing.assert_allclose(run(read(function, x), [x.numpy()])["output_0"], function(x), rtol=1e-6)


def test_offenders_are_listed_together_with_their_places() -> None:
    def function(x: torch.Tensor) -> Any:
        return torch.linalg.svdvals(x), torch.fft.fft(x).abs()

    with pytest.raises(Unsupported) as caught:
        read(function, torch.randn(4, 4), dynamic_shapes={})
    text = str(caught.value)
    assert "linalg" in text and "fft" in text and "test_live.py" in text and len(text) < 8192


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x + self.count


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Counter(), "count"),
        (Function(lambda x: x.add_(1)), "user input mutation"),
        (Function(lambda x: x + torch.rand(3)), "random"),
        (Function(lambda x: nn.functional.dropout(x, 0.5, training=True)), "training"),
    ],
    ids=["buffer", "input", "random", "dropout"],
)
def test_effects_are_refused(module: nn.Module, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        frontend.read(module, inputs=(torch.randn(2, 3),), dynamic_shapes={})


def test_usage_errors() -> None:
    with pytest.raises(UsageError, match="example inputs"):
        frontend.read(Function(lambda x: x))
    with pytest.raises(UsageError, match="no torch module"):
        frontend.read(object())
    with pytest.raises(Unsupported, match="dynamic_shapes"):  # this module wants a batch of 4
        frontend.read(Function(lambda x: x.reshape(4, 3) + 1), inputs=(torch.randn(4, 3),))
