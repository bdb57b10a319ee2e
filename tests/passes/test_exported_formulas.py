"""Activations and norms as torch's exporters write them out: one op each behind -O2, and the numbers of torch."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import anyir
import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from anyir.frontends.onnx import read
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from torch import Tensor, nn

SHAPE = (2, 8, 3, 5)
SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772


class Net(nn.Module):
    def __init__(self, formula: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.formula, self.layers = formula, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x, *self.layers)


def groups(x: Tensor) -> Tensor:
    """A norm of four groups, written out, with a scale and a shift."""
    rows = x.reshape(2, 4, -1)
    rows = (rows - rows.mean(2, keepdim=True)) / torch.sqrt(rows.var(2, unbiased=False, keepdim=True) + 1e-5)
    return rows.reshape(SHAPE) * torch.linspace(1, 2, 8).view(1, 8, 1, 1) + torch.linspace(0, 1, 8).view(1, 8, 1, 1)


def celu(x: Tensor) -> Tensor:
    return torch.clamp(x, min=0) + torch.clamp(0.7 * (torch.exp(x / 0.7) - 1), max=0)


def zero_safe(x: Tensor) -> Tensor:
    norm = x.norm(dim=1, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


#: The module, and the op that is left of it.
FORMULAS: dict[str, tuple[Callable[[], Net], str]] = {
    "selu, one line": (lambda: Net(lambda x: SCALE * torch.where(x > 0, x, ALPHA * (torch.exp(x) - 1))), "selu"),
    "selu, two": (lambda: Net(lambda x: torch.where(x > 0, SCALE * x, SCALE * ALPHA * (torch.exp(x) - 1))), "selu"),
    "celu": (lambda: Net(celu), "celu"),
    "elu, a sum": (lambda: Net(lambda x: torch.relu(x) + torch.clamp(torch.exp(x) - 1, max=0)), "elu"),
    "elu, a difference": (lambda: Net(lambda x: torch.relu(x) - torch.relu(1 - torch.exp(x))), "elu"),
    "elu": (lambda: Net(lambda x: F.elu(x, 0.3)), "elu"),
    "leaky relu, a maximum": (lambda: Net(lambda x: torch.maximum(x, x * 0.2)), "leaky_relu"),
    "leaky relu, a difference": (lambda: Net(lambda x: torch.relu(x) - 0.1 * torch.relu(-x)), "leaky_relu"),
    "softplus": (lambda: Net(F.softplus), "softplus"),
    "softsign": (lambda: Net(F.softsign), "softsign"),
    "hard swish": (lambda: Net(lambda x: x * F.relu6(x + 3) / 6), "hard_swish"),
    "tanh": (lambda: Net(lambda x: 2 * torch.sigmoid(2 * x) - 1), "tanh"),
    "log softmax": (lambda: Net(lambda x: x - torch.logsumexp(x, 1, keepdim=True)), "log_softmax"),
    "group norm": (lambda: Net(lambda x, n: n(x), nn.GroupNorm(4, 8)), "group_norm"),
    "group norm, written out": (lambda: Net(groups), "group_norm"),
    "layer norm": (lambda: Net(lambda x, n: n(x), nn.LayerNorm(5)), "layer_norm"),
    "unit vectors": (lambda: Net(zero_safe), "lp_normalization"),
}


def exported(net: nn.Module, x: Tensor, dynamo: bool) -> bytes:
    file = io.BytesIO()
    with redirect_stdout(io.StringIO()):
        if dynamo:
            made: Any = torch.onnx.export(net, (x,), dynamo=True, opset_version=18, optimize=False, verbose=False)
            return made.model_proto.SerializeToString()
        torch.onnx.export(net, (x,), file, dynamo=False, opset_version=13)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["script", "dynamo"])
@pytest.mark.parametrize("name", FORMULAS)
def test_it_is_one_op(name: str, dynamo: bool) -> None:
    make, wanted = FORMULAS[name]
    torch.manual_seed(0)
    net, x = make().eval(), torch.randn(SHAPE) * 3
    x[0, :, 0, 0] = 0
    data = exported(net, x, dynamo)
    before, after = read(data), anyir.optimize(read(data), 2)
    found = Counter(node.name for node in after.all_nodes())
    affine = (
        {"range", "mul", "add", "reshape"} if "written out" in name and dynamo else set()
    )  # vectors that torch computes
    assert found[wanted] == 1 and set(found) <= {wanted, "return", *affine}, found
    feeds = {before.signatures["serving_default"].input_names()[0]: x.numpy()}
    limits = limits_for(before, feeds)
    truth = run(before, feeds)
    assert compare(truth, run(after, feeds), limits).passed
    with torch.no_grad():
        report = compare(dict.fromkeys(truth, net(x).numpy()), run(after, feeds), limits)
    assert report.passed, str(report)
