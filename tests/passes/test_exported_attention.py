"""torch's multi-head attention as its exporters write it out: behind -O2 as short as one would write it by hand, and the numbers
of torch."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

import anyir
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch
from anyir.frontends.onnx import read
from anyir.kernels.compare import compare, limits_for
from anyir.kernels.run import run
from torch import Tensor, nn

#: One product, its bias, a reshape, a transpose and a split for all heads; keys turned, two products and a softmax; heads
#: joined by a transpose and a reshape; the product behind and its bias. One more is the mean of the weights.
BY_HAND = 13
#: Where queries, keys and values do not move together each is reshaped and transposed by itself.
APART = 3


class Attend(nn.Module):
    """Self-attention, or with a second input of the same width; all parameters are random."""

    def __init__(self, batch_first: bool, weights: bool, causal: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=batch_first)
        self.weights, self.causal = weights, causal
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        mask = nn.Transformer.generate_square_subsequent_mask(5) if self.causal else None
        y = others[0] if others else x
        found = self.attention(x, y, y, need_weights=self.weights, attn_mask=mask)
        return found if self.weights else found[0]


def exported(net: nn.Module, inputs: tuple[Tensor, ...], dynamo: bool) -> bytes:
    file = io.BytesIO()
    with redirect_stdout(io.StringIO()):
        if dynamo:
            made: Any = torch.onnx.export(net, inputs, dynamo=True, opset_version=18, verbose=False)
            return made.model_proto.SerializeToString()
        torch.onnx.export(net, inputs, file, dynamo=False, opset_version=17)
    return file.getvalue()


def check(net: nn.Module, inputs: tuple[Tensor, ...], dynamo: bool = False) -> int:
    """How many nodes are left; they compute what torch does."""
    before = read(exported(net.eval(), inputs, dynamo))
    after = anyir.optimize(before.clone(), 2)
    signature = before.signatures["serving_default"]
    feeds = dict(zip(signature.input_names(), (x.numpy() for x in inputs), strict=True))
    with torch.no_grad():
        wanted = net(*inputs)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    found = run(after, feeds)
    truth = {name: value.numpy() for name, value in zip(found, wanted, strict=True)}
    report = compare(truth, found, limits_for(before, feeds))
    assert report.passed, str(report)
    return len(after.main)


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("weights", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch first"])
def test_self_attention_is_as_short_as_by_hand(batch_first: bool, weights: bool, dynamo: bool) -> None:
    torch.manual_seed(0)
    left = check(Attend(batch_first, weights), (torch.randn(3, 5, 16),), dynamo)
    assert left <= BY_HAND + weights + APART * (not batch_first)


@pytest.mark.parametrize("weights", [False, True], ids=["", "weights"])
def test_a_mask_adds_one_node(weights: bool) -> None:
    torch.manual_seed(0)
    assert check(Attend(True, weights, causal=True), (torch.randn(3, 5, 16),)) <= BY_HAND + weights + 1


@pytest.mark.parametrize("weights", [False, True], ids=["", "weights"])
def test_attention_to_another_value_takes_a_second_product(weights: bool) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 5, 16), torch.randn(3, 4, 16)
    assert check(Attend(True, weights), inputs) <= BY_HAND + weights + 1 + APART
