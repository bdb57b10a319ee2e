"""Small networks with seeded random weights, exported by PyTorch itself: a residual CNN (by both of its exporters), an encoder
and a decoder. Imports torch only when called."""

from __future__ import annotations

import io
import math
from functools import cache
from typing import Any


def residual_cnn() -> Any:
    """Stem, two residual blocks (one with a projection), pooled head. The running statistics and scales are far from 0 and 1:
    else every batch-norm fusion looks right."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inside: int, out: int, stride: int) -> None:
            super().__init__()
            self.main = nn.Sequential(
                nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
                nn.Conv2d(out, out, 3, 1, 1, groups=2, bias=False), nn.BatchNorm2d(out),
            )  # fmt: skip
            self.side = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            self.plain = stride == 1 and inside == out

        def forward(self, x: Any) -> Any:
            return torch.relu(self.main(x) + (x if self.plain else self.side(x)))

    torch.manual_seed(0)
    stem = (nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU(), nn.MaxPool2d(3, 2, 1))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10), nn.Softmax(-1))
    model = nn.Sequential(*stem, Block(8, 8, 1), Block(8, 16, 2), *head)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def _attention(width: int, heads: int) -> Any:
    from torch import nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

        def forward(self, x: Any, bias: Any) -> Any:
            batch, length, _ = x.shape
            q, k, v = (layer(x).view(batch, length, heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
            scores = q @ k.transpose(-1, -2) / math.sqrt(width // heads) + bias
            return self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))

    return Attention()


def transformer(causal: bool, width: int = 32) -> Any:
    """Token and position embeddings, two post-norm attention blocks under a padding mask. Causal: a decoder with a head over the
    vocabulary; else an encoder with a head on the first token."""
    import torch
    from torch import nn

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(64, width), nn.Embedding(32, width)
            self.attend = nn.ModuleList(_attention(width, 4) for _ in range(2))
            self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
            gelu = nn.GELU(approximate="tanh" if causal else "none")
            self.feed = nn.ModuleList(
                nn.Sequential(nn.Linear(width, 4 * width), gelu, nn.Linear(4 * width, width)) for _ in range(2)
            )
            self.head = nn.Linear(width, 64 if causal else 5)

        def forward(self, ids: Any, mask: Any) -> Any:
            length = ids.shape[1]
            x = self.words(ids) + self.places(torch.arange(length, device=ids.device))
            allowed = mask[:, None, None, :] > 0
            if causal:
                allowed = allowed & torch.ones(length, length, dtype=torch.bool).tril()
            bias = torch.where(allowed, 0.0, torch.finfo(x.dtype).min)
            for i, (attend, feed) in enumerate(zip(self.attend, self.feed, strict=True)):
                x = self.norms[2 * i](x + attend(x, bias))
                x = self.norms[2 * i + 1](x + feed(x))
            return self.head(x if causal else x[:, 0])

    torch.manual_seed(1 if causal else 0)
    return Transformer().eval()


@cache
def exported(name: str) -> bytes:
    """The ONNX file of one of NAMES. `-ts` is the older exporter with nothing folded and BatchNormalization kept."""
    import torch

    batch = torch.export.Dim("batch", min=1, max=64)
    made = io.BytesIO()
    if name == "torch-cnn-ts":
        options = {"dynamic_axes": {"x": {0: "batch", 2: "height"}}, "training": torch.onnx.TrainingMode.PRESERVE}
        keep = {"do_constant_folding": False, "opset_version": 17, "dynamo": False, "input_names": ["x"]}
        torch.onnx.export(residual_cnn(), (torch.zeros(2, 3, 40, 32),), made, **options, **keep)
        return made.getvalue()
    if name == "torch-cnn":
        model, inputs, shapes = residual_cnn(), (torch.zeros(2, 3, 40, 32),), ({0: batch},)
    else:
        length = torch.export.Dim("length", min=2, max=31)
        ids, mask = torch.zeros(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64)
        model, inputs = transformer(causal=name == "torch-decoder"), (ids, mask)
        shapes = ({0: batch, 1: length}, {0: batch, 1: length})
    program = torch.onnx.export(model, inputs, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    program.save(made)
    return made.getvalue()


NAMES = ("torch-cnn", "torch-cnn-ts", "torch-encoder", "torch-decoder")
