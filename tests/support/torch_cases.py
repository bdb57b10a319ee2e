"""Small torch modules by operator family: one case is a module and example inputs whose first axis is the batch.

Used by the tests of the torch frontend and of the torch backend; imports torch at the top.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from anyir.frontends.torch.live import to_numpy
from torch import nn

Inputs = tuple[torch.Tensor, ...]


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args)


@dataclass(frozen=True, eq=False)
class Case:
    """`make(batch)` gives the inputs; a case with `batch=False` has fixed shapes only."""

    name: str
    module: nn.Module
    shapes: tuple[Any, ...]
    batch: bool = True

    def inputs(self, batch: int) -> Inputs:
        generator = torch.Generator().manual_seed(len(self.name) + batch)
        return tuple(_draw(shape, batch, generator) for shape in self.shapes)


def _draw(shape: Any, batch: int, generator: torch.Generator) -> torch.Tensor:
    """A tensor for a shape, or for (kind, shape): kind positive, unit, index<n>, bool, or a dtype's name."""
    kind, dims = shape if isinstance(shape[0], str) else ("", shape)
    size = [batch if d is None else d for d in dims]
    if kind.startswith("index"):
        return torch.randint(0, int(kind[5:]), size, generator=generator)
    if kind == "bool":
        return torch.rand(size, generator=generator) > 0.4
    if kind in ("int64", "int32", "uint8", "int8"):
        low = 0 if kind == "uint8" else -9
        return torch.randint(low, 10, size, generator=generator).to(getattr(torch, kind))
    x = torch.randn(size, generator=generator)
    if kind == "positive":
        return x.abs() + 0.1
    if kind == "unit":
        return torch.rand(size, generator=generator) * 1.8 - 0.9
    return x.to(getattr(torch, kind)) if kind else x


CASES: dict[str, list[Case]] = {}


def case(family: str, name: str, what: nn.Module | Callable[..., Any], *shapes: Any, **options: Any) -> None:
    torch.manual_seed(len(name))
    module = what if isinstance(what, nn.Module) else Call(what)
    CASES.setdefault(family, []).append(Case(f"{family}-{name}", _settled(module), shapes, **options))


def _settled(module: nn.Module) -> nn.Module:
    """Running statistics and affine parameters that are not the neutral ones."""
    for part in module.modules():
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            if isinstance(part, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm) and tensor.is_floating_point():
                tensor.data = torch.rand_like(tensor) + 0.5 if "var" in name or name == "weight" else torch.randn_like(tensor) * 0.3
    return module.eval()


X = (None, 6)
I = (None, 3, 8, 8)  # noqa: E741

# ------------------------------------------------------------------------------------------------- elementwise

for _name in "abs exp sin cos atan sinh asinh cosh tanh erf sigmoid floor ceil trunc neg sign square expm1 round frac reciprocal".split():
    case("elementwise", _name, getattr(torch, _name), X)
for _name in "log log2 log10 log1p sqrt rsqrt".split():
    case("elementwise", _name, getattr(torch, _name), ("positive", X))
for _name in "asin acos atanh tan".split():
    case("elementwise", _name, getattr(torch, _name), ("unit", X))
case("elementwise", "acosh", lambda x: torch.acosh(x + 1), ("positive", X))
case("elementwise", "exp2-erfc", lambda x: torch.exp2(x) + torch.erfc(x), X)
case("elementwise", "arith", lambda x, y: (x + y) * x - y / (x * x + 1), X, X)
case("elementwise", "alpha", lambda x, y: torch.add(x, y, alpha=2) - torch.sub(x, y, alpha=0.5) + torch.rsub(x, 2, alpha=3), X, X)
case("elementwise", "scalars", lambda x: 2 - x * 3.5 + 1 / (x * x + 1.0) - (x - 1) / 3, X)
case("elementwise", "int-scalar", lambda i: (i * 2 + 1, i + 1.5, i / 2, i // 3, i % 4, i**2, -i, i > 1.5), ("int64", X))
case("elementwise", "int-float", lambda i, x: (i + x, i * x, torch.where(i > 0, i, x)), ("int64", X), X)
case("elementwise", "small-ints", lambda a, b: (a + b, a * 2, a + 0.5, a > b), ("int8", X), ("uint8", X))
case("elementwise", "int-unary", lambda i: (i.exp(), i.float().sqrt().nan_to_num(), i.abs(), i.sigmoid(), i.sign()), ("int32", X))
case("elementwise", "bools", lambda a, b: (a & b, a | b, a ^ b, ~a, a + b, a * 1.5, a.sum(1), a == b), ("bool", X), ("bool", X))
case("elementwise", "rank0", lambda x: x * torch.tensor(2.5, dtype=torch.float64) + x.sum() * 2, X)
case("elementwise", "rank0-int", lambda i: (i.sum() + i, i.sum() * 1.5), ("int32", X))
case("elementwise", "half", lambda x: (x * 0.1 + 1, x / 3, x > 0.3, torch.clamp(x, 0.1, 0.7)), ("float16", X))
case("elementwise", "bfloat", lambda x, y: (x * 0.1 + y, x - y, x.float() * 2), ("bfloat16", X), X)
case("elementwise", "double", lambda x: torch.tanh(x * 2), ("float64", X))
case("elementwise", "division", lambda x, y: (torch.div(x, y, rounding_mode="floor"), torch.div(x, y, rounding_mode="trunc")), X, ("positive", X))
case("elementwise", "int-division", lambda x, y: (x // (y.abs() + 1), torch.div(x, y.abs() + 1, rounding_mode="trunc"), torch.remainder(x, y.abs() + 2)), ("int64", X), ("int64", X))
case("elementwise", "remainder", lambda x, y: (torch.remainder(x, y), torch.fmod(x, y), x % 0.7), X, ("positive", X))
case("elementwise", "pow", lambda x, y: (x**y, x**2, x**0.5, 2**y, x**-1, x.pow(3)), ("positive", X), X)
case("elementwise", "extremes", lambda x, y: (torch.maximum(x, y), torch.minimum(x, y), torch.fmax(x, y), torch.max(x, y)), X, X)
case("elementwise", "compare", lambda x, y: (x == y, x != y, x < y, x <= y, x > y, x >= y, x > 0, x <= 0.5), X, X)
case("elementwise", "clamp", lambda x: (x.clamp(-0.5, 0.5), x.clamp(min=0), x.clamp(max=1), x.clamp_min(0.2)), X)
case("elementwise", "clamp-tensor", lambda x, y: x.clamp(min=y, max=y + 1), X, X)
case("elementwise", "where", lambda x, y: (torch.where(x > 0, x, y), torch.where(x > 0, 1.0, y), torch.where(x > 0, x, 0)), X, X)
case("elementwise", "masked-fill", lambda x: (x.masked_fill(x > 0, -1e9), x.masked_fill(x < 0, float("-inf"))), X)
case("elementwise", "casts", lambda x: (x.to(torch.int32), x.double(), x.half(), x.bool(), x.long().float()), X)
case("elementwise", "specials", lambda x: (torch.isnan(x / x.floor()), torch.isinf(1 / x.floor()), torch.isfinite(x), (x / 0).nan_to_num(nan=1.0)), X)
case("elementwise", "lerp-addc", lambda x, y: (torch.lerp(x, y, 0.3), torch.addcmul(x, x, y, value=0.5), torch.addcdiv(x, x, y.abs() + 1, value=2)), X, X)
case("elementwise", "atan2-hypot", lambda x, y: (torch.atan2(x, y), torch.hypot(x, y), torch.logaddexp(x, y)), X, X)
case("elementwise", "round-decimals", lambda x: torch.round(x, decimals=2), X)
case("elementwise", "shifts", lambda i: (i << 2, i >> 1, i & 3, i | 8, i ^ 5, ~i), ("int64", X))
case("elementwise", "logical", lambda x, y: (torch.logical_and(x > 0, y > 0), torch.logical_or(x, y), torch.logical_not(x)), X, X)
case("elementwise", "broadcast", lambda x, y: x[:, None, :] + y[None, :, None][:, :3], X, (6,))

# -------------------------------------------------------------------------------------------------- activation

for _act in (
    nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(-0.3, 0.8), nn.LeakyReLU(0.2), nn.PReLU(3),
    nn.ELU(0.7), nn.SELU(), nn.CELU(1.3), nn.GELU(), nn.GELU(approximate="tanh"), nn.Softplus(), nn.Softplus(2.0, 3.0), nn.LogSigmoid(),
    nn.Hardshrink(0.4), nn.Softshrink(0.3), nn.Threshold(0.1, -2.0), nn.Tanhshrink(), nn.Softsign(), nn.Softmax(1), nn.LogSoftmax(-1),
    nn.Softmax2d(), nn.RReLU(), nn.Softmin(1), nn.PReLU(),
):  # fmt: skip
    case("activation", f"{type(_act).__name__}{len(CASES.get('activation', []))}", _act, I)
case("activation", "glu", nn.GLU(1), (None, 4, 5))
case("activation", "softmax-dtype", lambda x: F.softmax(x, -1, dtype=torch.float32), ("float16", X))

# -------------------------------------------------------------------------------------------------------- conv

case("conv", "1d", nn.Conv1d(4, 6, 3, stride=2, padding=1), (None, 4, 11))
case("conv", "2d", nn.Conv2d(3, 5, 3, stride=(2, 1), padding=(1, 2)), I)
case("conv", "2d-dilated", nn.Conv2d(3, 4, 3, dilation=2, bias=False), I)
case("conv", "3d", nn.Conv3d(2, 3, (1, 2, 3), padding=1), (None, 2, 4, 5, 6))
case("conv", "groups", nn.Conv2d(4, 8, 3, groups=2), (None, 4, 6, 6))
case("conv", "depthwise", nn.Conv2d(4, 8, 3, groups=4, padding=1), (None, 4, 6, 6))
case("conv", "same", nn.Conv2d(3, 4, 4, padding="same"), I)
case("conv", "same-dilated", nn.Conv1d(3, 4, 2, padding="same", dilation=3), (None, 3, 9))
case("conv", "valid", nn.Conv2d(3, 4, 3, padding="valid", stride=2), I)
case("conv", "reflect", nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), I)
case("conv", "circular", nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="circular"), I)
case("conv", "unbatched", nn.Conv2d(3, 4, 3), (3, 8, 8), batch=False)
case("conv", "t1d", nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1), (None, 3, 7))
case("conv", "t2d", nn.ConvTranspose2d(4, 6, (3, 4), stride=2, padding=(1, 0), groups=2), (None, 4, 5, 6))
case("conv", "t2d-dilated", nn.ConvTranspose2d(3, 4, 3, dilation=2, output_padding=1, stride=2), (None, 3, 5, 6))
case("conv", "t3d", nn.ConvTranspose3d(2, 3, 2, stride=2), (None, 2, 3, 3, 3))
case("conv", "computed-weight", lambda x, w: F.conv2d(x, w * 2, padding=1), I, (4, 3, 3, 3))

# -------------------------------------------------------------------------------------------------------- pool

case("pool", "max1d", nn.MaxPool1d(3, stride=2, padding=1), (None, 3, 11))
case("pool", "max2d", nn.MaxPool2d(3, stride=2, padding=1), I)
case("pool", "max2d-ceil", nn.MaxPool2d(3, stride=2, ceil_mode=True), I)
case("pool", "max2d-dilated", nn.MaxPool2d(2, stride=1, dilation=2), I)
case("pool", "max3d", nn.MaxPool3d(2), (None, 2, 4, 4, 5))
case("pool", "max-indices", nn.MaxPool2d(2, return_indices=True), I)
case("pool", "max-unbatched", nn.MaxPool2d(2), (3, 8, 8), batch=False)
case("pool", "avg1d", nn.AvgPool1d(3, 2), (None, 3, 11))
case("pool", "avg2d", nn.AvgPool2d(3, stride=2, padding=1), I)
case("pool", "avg2d-exclude", nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), I)
case("pool", "avg2d-ceil", nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True), (None, 3, 7, 8))
case("pool", "avg2d-ceil-exclude", nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False), (None, 3, 8, 8))
case("pool", "avg2d-divisor", nn.AvgPool2d(2, divisor_override=3), I)
case("pool", "avg3d", nn.AvgPool3d(2), (None, 2, 4, 4, 5))
case("pool", "lp", nn.LPPool2d(2, 3), I)
case("pool", "adaptive-1", nn.AdaptiveAvgPool2d(1), I)
case("pool", "adaptive-even", nn.AdaptiveAvgPool2d((4, 2)), I)
case("pool", "adaptive-odd", nn.AdaptiveAvgPool2d((3, 5)), I)
case("pool", "adaptive-none", nn.AdaptiveAvgPool2d((None, 2)), I)
case("pool", "adaptive1d", nn.AdaptiveAvgPool1d(3), (None, 3, 10))
case("pool", "adaptive-max", nn.AdaptiveMaxPool2d((3, 3)), I)
case("pool", "global-max", lambda x: F.adaptive_max_pool2d(x, 1), I)

# -------------------------------------------------------------------------------------------------------- norm

case("norm", "batch1d", nn.BatchNorm1d(6), X)
case("norm", "batch2d", nn.BatchNorm2d(3, eps=1e-3), I)
case("norm", "batch2d-plain", nn.BatchNorm2d(3, affine=False), I)
case("norm", "batch3d", nn.BatchNorm3d(2), (None, 2, 3, 3, 3))
case("norm", "layer", nn.LayerNorm(6), X)
case("norm", "layer-2", nn.LayerNorm((8, 8), bias=False), I)
case("norm", "layer-plain", nn.LayerNorm(8, elementwise_affine=False), I)
case("norm", "instance", nn.InstanceNorm2d(3, affine=True), I)
case("norm", "instance-stats", nn.InstanceNorm2d(3, track_running_stats=True), I)
case("norm", "instance-plain", nn.InstanceNorm1d(3), (None, 3, 9))
case("norm", "group", nn.GroupNorm(2, 6), (None, 6, 4, 4))
case("norm", "group-plain", nn.GroupNorm(3, 6, affine=False), (None, 6, 5))
case("norm", "rms", nn.RMSNorm(6), X)
case("norm", "rms-eps", nn.RMSNorm((6,), eps=1e-4, elementwise_affine=False), X)
case("norm", "local-response", nn.LocalResponseNorm(3), I)
case("norm", "normalize", lambda x: (F.normalize(x, dim=1), F.normalize(x, p=1.0, dim=-1)), X)
case("norm", "weight-norm", nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), X)

# ------------------------------------------------------------------------------------------------------ matmul

case("matmul", "linear", nn.Linear(6, 4), X)
case("matmul", "linear-3d", nn.Linear(6, 4), (None, 5, 6))
case("matmul", "linear-4d-nobias", nn.Linear(6, 4, bias=False), (None, 2, 5, 6))
case("matmul", "mm", lambda x, y: (x @ y, torch.mm(x, y), x @ y[:, 0]), X, (6, 3))
case("matmul", "bmm", lambda x, y: (torch.bmm(x, y), x @ y, torch.matmul(x, y[0])), (None, 3, 4), (None, 4, 5))
case("matmul", "addmm", lambda x, y, z: (torch.addmm(z, x, y), torch.addmm(z, x, y, beta=0.5, alpha=2)), X, (6, 3), (3,))
case("matmul", "baddbmm", lambda x, y, z: torch.baddbmm(z, x, y, beta=0.5, alpha=2), (None, 3, 4), (None, 4, 5), (None, 3, 5))
case("matmul", "einsum", lambda x, y: (torch.einsum("bij,bjk->bik", x, y), torch.einsum("b i j, b j k -> b", x, y)), (None, 3, 4), (None, 4, 5))
case("matmul", "outer", lambda x: torch.outer(x[:, 0], x[0]), X)
case("matmul", "bilinear", nn.Bilinear(4, 5, 3), (None, 4), (None, 5))
case("matmul", "mv-dot", lambda x, y: (torch.mv(x, y), torch.dot(y, y), torch.inner(x, x)), X, (6,))
case("matmul", "tensordot", lambda x, y: torch.tensordot(x, y, dims=([1], [0])), X, (6, 3))

# ------------------------------------------------------------------------------------------------------ reduce

case("reduce", "sum", lambda x: (x.sum(), x.sum(1), x.sum((1, 2), keepdim=True), x.sum(-1, dtype=torch.float64)), (None, 3, 4))
case("reduce", "sum-int", lambda i: (i.sum(), i.sum(1), i.prod(1), (i > 0).sum(), i.float().mean()), ("int32", X))
case("reduce", "mean", lambda x: (x.mean(), x.mean(1), x.mean((0, 2), keepdim=True)), (None, 3, 4))
case("reduce", "extremes", lambda x: (x.amax(1), x.amin((1, 2)), x.max(), x.min(), *x.max(1), *x.min(2, keepdim=True), *torch.aminmax(x, dim=1)), (None, 3, 4))
case("reduce", "arg", lambda x: (x.argmax(1), x.argmin(2, keepdim=True), x.argmax()), (None, 3, 4))
case("reduce", "any-all", lambda x: ((x > 0).any(), (x > 0).all(1), (x > 0).any(1, keepdim=True), x.any(2)), (None, 3, 4))
case("reduce", "prod", lambda x: (x.prod(), x.prod(1), x.prod(2, keepdim=True)), (None, 3, 2))
case("reduce", "var", lambda x: (x.var(), x.var(1), x.std(2, unbiased=False), x.var((1, 2), correction=0, keepdim=True), *torch.var_mean(x, 1), *torch.std_mean(x, (1, 2))), (None, 3, 4))
case("reduce", "var-batch", lambda x: x.var(0), X)
case("reduce", "logsumexp", lambda x: (x.logsumexp(1), torch.logsumexp(x, (1, 2), keepdim=True)), (None, 3, 4))
case("reduce", "norms", lambda x: (x.norm(), x.norm(dim=1), torch.linalg.vector_norm(x, 3, dim=(1, 2)), torch.linalg.vector_norm(x, float("inf"), dim=1), x.norm(p=1, dim=2)), (None, 3, 4))
case("reduce", "cumsum", lambda x: (x.cumsum(1), x.cumprod(-1), (x > 0).cumsum(1)), X)
case("reduce", "topk", lambda x: (*x.topk(3, dim=1), *x.topk(2, largest=False)), X)
case("reduce", "sort", lambda x: (*x.sort(1), *x.sort(-1, descending=True), x.argsort(1)), X)
case("reduce", "cosine", lambda x, y: F.cosine_similarity(x, y), X, X)
case("reduce", "count", lambda x: (torch.count_nonzero(x > 0, dim=1), torch.count_nonzero(x > 0)), X)
case("reduce", "losses", lambda x, y: (F.mse_loss(x, y), F.l1_loss(x, y, reduction="none"), F.smooth_l1_loss(x, y)), X, X)

# ------------------------------------------------------------------------------------------------------- shape

case("shape", "views", lambda x: (x.view(x.shape[0], -1), x.reshape(-1, 4), x.flatten(1), x.flatten(), x.unflatten(2, (2, 2)), x.ravel()), (None, 3, 4))
case("shape", "view-two-dynamic", lambda x: x.reshape(x.shape[0], 2, -1).transpose(0, 1).reshape(2, x.shape[0], 3, 2), (None, 3, 4))
case("shape", "permute", lambda x: (x.permute(0, 2, 1), x.transpose(1, 2), x.mT, x.movedim(1, -1), x[0].t(), x.swapaxes(0, 1)), (None, 3, 4))
case("shape", "squeeze", lambda x: (x.squeeze(), x.squeeze(1), x.unsqueeze(-1), x[:, 0].unsqueeze(0), x.squeeze(2), x.squeeze((1, 3))), (None, 1, 4, 1))
case("shape", "expand", lambda x: (x[:, None].expand(-1, 4, -1), x[:, :1].expand_as(x), x.repeat(2, 3), x.tile(2), torch.broadcast_to(x, (2, *x.shape))), X)
case("shape", "interleave", lambda x: (x.repeat_interleave(3, dim=1), x.repeat_interleave(2, 0)), X)
case("shape", "slice", lambda x: (x[:, 1:4], x[:, ::2], x[:, -2:], x[1:], x[:, :-1], x[:-1], x[..., 3], x[0], x[-1], x[:, 1:100]), X)
case("shape", "slice-symbolic", lambda x: (x[: x.shape[0] // 2], x[x.shape[0] - 1 :], x.narrow(1, 2, 3)), X)
case("shape", "list", lambda x: [x[:, i] * i for i in range(3)], X)
case("shape", "nested", lambda x: {"a": x, "b": [x + 1, (x * 2, {"c": x})]}, X)
case("shape", "cat", lambda x, y: (torch.cat([x, y], 1), torch.cat([x, y]), torch.stack([x, y], 1), torch.hstack([x, y]), torch.vstack([x, y]), torch.cat([x, y.long()], 1)), X, X)
case("shape", "split", lambda x: (*x.split(2, 1), *x.split([1, 2, 3], 1), *x.chunk(4, 1), *x.unbind(1), *torch.tensor_split(x, 3, dim=1)), X)
case("shape", "flip-roll", lambda x: (x.flip(1), x.flip((0, 1)), x.roll(2, 1), x.roll((1, -1), (0, 1)), x.fliplr()), X)
case("shape", "pad", lambda x: (F.pad(x, (1, 2)), F.pad(x, (1, 1, 2, 0), value=3.0), F.pad(x, (-1, 1)), F.pad(x, (2, 1), mode="reflect"), F.pad(x, (1, 3), mode="replicate"), F.pad(x, (2, 2), mode="circular")), (None, 3, 6))
case("shape", "pad2d", nn.Sequential(nn.ReflectionPad2d(2), nn.ReplicationPad2d((1, 0, 2, 1)), nn.ZeroPad2d(1), nn.ConstantPad2d((0, 1, 1, 0), 2.0)), I)
case("shape", "pixel-shuffle", nn.PixelShuffle(2), (None, 12, 3, 4))
case("shape", "pixel-unshuffle", nn.PixelUnshuffle(2), (None, 3, 6, 4))
case("shape", "channel-shuffle", nn.ChannelShuffle(2), (None, 6, 3, 3))
case("shape", "tri", lambda x: (x.tril(), x.triu(1), x.tril(-1)), (None, 4, 5))
case("shape", "diagonal", lambda x: (x.diagonal(dim1=1, dim2=2), torch.diagonal(x, 1, 1, 2), torch.diagonal(x, -2, 1, 2)), (None, 4, 5))
case("shape", "unfold", lambda x: x.unfold(1, 3, 2), (None, 8))
case("shape", "im2col", nn.Unfold(3, padding=1, stride=2), I)
case("shape", "meshgrid", lambda x: torch.meshgrid(x[0], x[1, :3], indexing="ij"), X)
case("shape", "meshgrid-xy", lambda x: torch.meshgrid(x[0], x[1, :3], indexing="xy"), X)
case("shape", "rot90", lambda x: torch.rot90(x, 1, (1, 2)), (None, 3, 4))
case("shape", "sizes", lambda x: (x * x.shape[0], x / x.shape[0], x.shape[0], x + x.shape[0] ** 0.5, x.numel()), X)

# ------------------------------------------------------------------------------------------------------- index

case("index", "embedding", nn.Embedding(10, 4, padding_idx=0), ("index10", X))
case("index", "gather", lambda x, i: (x.gather(1, i), torch.take_along_dim(x, i, 1)), (3, 6), ("index6", (3, 3)), batch=False)
case("index", "gather-rows", lambda x, i: x.gather(1, i), (3, 6), ("index6", (2, 3)), batch=False)
case("index", "index-select", lambda x: (x.index_select(1, torch.tensor([0, 3, 3])), x[:, [1, 2]], x[:, torch.tensor([[0, 1], [2, -1]])]), X)
case("index", "advanced", lambda x: (x[:, [0, 2], [1, 3]], x[:, [[0], [2]], [1, 3]], x[:, [0, 1], :, [1, 2]], x[[0, 1], :, [1, 2]]), (None, 3, 4, 5))
case("index", "mask", lambda x: x[x > 0], X)
case("index", "put", lambda x: torch.index_put(x, (torch.tensor([0, 1]), torch.tensor([2, 3])), torch.tensor([9.0, 8.0])), X)
case("index", "put-accumulate", lambda x: torch.index_put(x, (torch.tensor([0, 0]), torch.tensor([2, 2])), torch.tensor([9.0, 8.0]), accumulate=True), X)
case("index", "put-middle", lambda x: torch.ops.aten.index_put(x, [None, torch.tensor([0, 2])], torch.tensor([[9.0], [8.0]])), (None, 3, 4))
case("index", "put-mask", lambda x: torch.index_put(x, (x > 0,), torch.tensor(5.0)), X)
case("index", "scatter", lambda x, i, y: (x.scatter(1, i, y), x.scatter_add(1, i, y), x.scatter(1, i, 2.5), x.scatter_reduce(1, i, y, "amax")), X, ("index6", (None, 1)), X)
case("index", "index-add", lambda x: (x.index_add(1, torch.tensor([0, 2]), x[:, :2]), x.index_fill(1, torch.tensor([1]), 7.0), x.index_copy(1, torch.tensor([5]), x[:, :1])), X)
case("index", "nonzero", lambda x: torch.nonzero(x > 0), X)
case("index", "one-hot", lambda i: F.one_hot(i, 5), ("index5", X))
case("index", "scatter-slices", lambda x, y: (torch.select_scatter(x, y[:, 0], 1, 2), torch.slice_scatter(x, y[:, :2], 1, 1, 3), torch.slice_scatter(x, y[:, :3], 1, 0, 6, 2)), X, X)
case("index", "take", lambda x: torch.take(x, torch.tensor([0, 3])), X)
case("index", "masked-select", lambda x: torch.masked_select(x, x > 0.2), X)

# --------------------------------------------------------------------------------------------------- attention

A = (None, 2, 5, 4)
case("attention", "plain", F.scaled_dot_product_attention, A, (None, 2, 7, 4), (None, 2, 7, 3))
case("attention", "causal", lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), A)
case("attention", "causal-cross", lambda q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True), A, (None, 2, 7, 4))
case("attention", "causal-cross-short", lambda q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True), A, (None, 2, 3, 4))
case("attention", "mask-rank3", lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m), A, (2, 5, 5))
case("attention", "mask", lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m), A, (5, 5))
case("attention", "bool-mask", lambda q: F.scaled_dot_product_attention(q, q, q, attn_mask=torch.ones(5, 5).tril().bool(), scale=0.3), A)
case("attention", "rank3", lambda q: F.scaled_dot_product_attention(q, q, q), (None, 5, 4))
case("attention", "rank5", lambda q: F.scaled_dot_product_attention(q, q, q), (None, 2, 3, 5, 4))
case("attention", "grouped", lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True), (None, 4, 5, 4), A)
case("attention", "broadcast", F.scaled_dot_product_attention, A, (None, 1, 7, 4), (None, 1, 7, 3))
case("attention", "encoder", nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (None, 5, 8))
case("attention", "encoder-norm-first", nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu"), 2, enable_nested_tensor=False), (None, 5, 8))


class MultiHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        return self.attention(x, x, x)


case("attention", "multihead", MultiHead(), (None, 5, 8))

# --------------------------------------------------------------------------------------------------- recurrent

S = (None, 5, 4)
case("recurrent", "lstm", nn.LSTM(4, 3, batch_first=True), S)
case("recurrent", "lstm-deep", nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True), S)
case("recurrent", "lstm-nobias", nn.LSTM(4, 3, bias=False), (5, None, 4), batch=False)
case("recurrent", "gru", nn.GRU(4, 3, batch_first=True), S)
case("recurrent", "gru-deep", nn.GRU(4, 3, num_layers=2, bidirectional=True, batch_first=True), S)
case("recurrent", "rnn", nn.RNN(4, 3, batch_first=True), S)
case("recurrent", "rnn-relu", nn.RNN(4, 3, nonlinearity="relu", bidirectional=True, batch_first=True), S)
case("recurrent", "lstm-cell", nn.LSTMCell(4, 3), (None, 4))
case("recurrent", "gru-cell", nn.GRUCell(4, 3), (None, 4))

# ------------------------------------------------------------------------------------------------------ resize

case("resize", "nearest", lambda x: (F.interpolate(x, scale_factor=2), F.interpolate(x, size=(5, 11)), F.interpolate(x, scale_factor=(1.5, 0.75))), I)
case("resize", "nearest-exact", lambda x: F.interpolate(x, size=(5, 11), mode="nearest-exact"), I)
case("resize", "bilinear", lambda x: (F.interpolate(x, scale_factor=2, mode="bilinear"), F.interpolate(x, size=(5, 11), mode="bilinear"), F.interpolate(x, size=(5, 11), mode="bilinear", align_corners=True), F.interpolate(x, scale_factor=1.25, mode="bilinear"), F.interpolate(x, size=(1, 1), mode="bilinear")), I)
case("resize", "bilinear-recompute", lambda x: F.interpolate(x, scale_factor=1.25, mode="bilinear", recompute_scale_factor=True), I)
case("resize", "bicubic", lambda x: (F.interpolate(x, scale_factor=2, mode="bicubic"), F.interpolate(x, size=(5, 11), mode="bicubic", align_corners=True)), I)
case("resize", "antialias", lambda x: (F.interpolate(x, size=(3, 5), mode="bilinear", antialias=True), F.interpolate(x, size=(3, 5), mode="bicubic", antialias=True)), I)
case("resize", "linear1d", lambda x: (F.interpolate(x, size=7, mode="linear"), F.interpolate(x, size=7), F.interpolate(x, scale_factor=2.0)), (None, 3, 5))
case("resize", "trilinear", lambda x: (F.interpolate(x, scale_factor=2, mode="trilinear"), F.interpolate(x, size=(2, 3, 5))), (None, 2, 3, 3, 3))
case("resize", "grid-sample", lambda x, g: (F.grid_sample(x, g, align_corners=False), F.grid_sample(x, g, mode="nearest", padding_mode="border", align_corners=True), F.grid_sample(x, g, mode="bicubic", padding_mode="reflection", align_corners=False)), I, ("unit", (None, 5, 6, 2)))
case("resize", "affine-grid", lambda t: F.affine_grid(t, (t.shape[0], 3, 4, 5), align_corners=False), (None, 2, 3))

# ---------------------------------------------------------------------------------------------------- creation

case("creation", "constants", lambda x: (x + torch.ones(6), torch.zeros(x.shape[0], 3), torch.full((2, 2), 1.5), torch.full_like(x, 2), x.new_ones(3), torch.zeros_like(x, dtype=torch.int64)), X)
case("creation", "ranges", lambda x: (torch.arange(x.shape[0]), torch.arange(1, 7, 2), torch.arange(0, 1, 0.25), x + torch.arange(6), torch.linspace(0, 1, 6) + x, torch.arange(x.shape[0] * 2).float()), X)
case("creation", "eye", lambda x: (torch.eye(6) + x[:1], torch.eye(2, 3)), X)
case("creation", "literals", lambda x: x * torch.tensor([1.0, 2, 3, 4, 5, 6]) + torch.tensor(3), X)
case("creation", "mask", lambda x: torch.triu(torch.ones(6, 6), 1).bool().float() + x[:1], X)

# ---------------------------------------------------------------------------------------------------- in place


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.conv(x))
        y += x
        z = self.act(y)
        z.mul_(2).clamp_(max=3.0)
        return y + 1


case("inplace", "residual", InPlace(), I)


def _filled(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y.fill_(2.0)
    y.add_(x).sub_(1)
    y.masked_fill_(y > 0, 0.5)
    return y


case("inplace", "fill", _filled, X)
case("inplace", "dropout", nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Linear(6, 2)), X)

# ----------------------------------------------------------------------------------------------------- running


def all_cases() -> list[Case]:
    return [one for family in CASES.values() for one in family]


@functools.cache
def exported(case: Case) -> torch.export.ExportedProgram:
    """The program of a case, its batch dynamic where it has one; made once per process."""
    shapes: Any = None
    if case.batch:
        dims = [shape[1] if isinstance(shape[0], str) else shape for shape in case.shapes]
        shapes = tuple({i: torch.export.Dim.AUTO for i, d in enumerate(size) if d is None} or None for size in dims)
        shapes = (shapes,) if isinstance(case.module, Call) else shapes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(case.module, case.inputs(3), dynamic_shapes=shapes)


def saved(case: Case, folder: Path) -> Path:
    """The program of a case as a `.pt2` file."""
    path = folder / "case.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(exported(case), path)
    return path


def arrays(tensors: Any) -> list[np.ndarray]:
    """Tensors, nested as they may be, as arrays; Python numbers as the frontend turns them into scalars."""
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(tensors) if leaf is not None]
    return [to_numpy(torch, leaf) if isinstance(leaf, torch.Tensor) else np.asarray(leaf) for leaf in leaves]


def expected(case: Case, batch: int) -> list[np.ndarray]:
    """What torch computes."""
    with torch.no_grad():
        return arrays(case.module(*case.inputs(batch)))


def batches(case: Case) -> tuple[int, ...]:
    return (3, 5) if case.batch else (3,)
