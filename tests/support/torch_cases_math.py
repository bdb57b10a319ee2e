"""Cases of the torch tests: arithmetic, activations, norms, products, reductions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .torch_cases import CASES, I, X, case

# ------------------------------------------------------------------------------------------------- elementwise

for _name in [
    "abs",
    "exp",
    "sin",
    "cos",
    "atan",
    "sinh",
    "asinh",
    "cosh",
    "tanh",
    "erf",
    "sigmoid",
    "floor",
    "ceil",
    "trunc",
    "neg",
    "sign",
    "square",
    "expm1",
    "round",
    "frac",
    "reciprocal",
]:
    case("elementwise", _name, getattr(torch, _name), X)
for _name in ["log", "log2", "log10", "log1p", "sqrt", "rsqrt"]:
    case("elementwise", _name, getattr(torch, _name), ("positive", X))
for _name in ["asin", "acos", "atanh", "tan"]:
    case("elementwise", _name, getattr(torch, _name), ("unit", X))
case("elementwise", "acosh", lambda x: torch.acosh(x + 1), ("positive", X))
case("elementwise", "exp2-erfc", lambda x: torch.exp2(x) + torch.erfc(x), X)
case("elementwise", "arith", lambda x, y: (x + y) * x - y / (x * x + 1), X, X)
case(
    "elementwise",
    "alpha",
    lambda x, y: torch.add(x, y, alpha=2) - torch.sub(x, y, alpha=0.5) + torch.rsub(x, 2, alpha=3),
    X,
    X,
)
case("elementwise", "scalars", lambda x: 2 - x * 3.5 + 1 / (x * x + 1.0) - (x - 1) / 3, X)
case("elementwise", "int-scalar", lambda i: (i * 2 + 1, i + 1.5, i / 2, i // 3, i % 4, i**2, -i, i > 1.5), ("int64", X))
case("elementwise", "int-float", lambda i, x: (i + x, i * x, torch.where(i > 0, i, x)), ("int64", X), X)
case("elementwise", "small-ints", lambda a, b: (a + b, a * 2, a + 0.5, a > b), ("int8", X), ("uint8", X))
case(
    "elementwise",
    "int-unary",
    lambda i: (i.exp(), i.float().sqrt().nan_to_num(), i.abs(), i.sigmoid(), i.sign()),
    ("int32", X),
)
case(
    "elementwise",
    "bools",
    lambda a, b: (a & b, a | b, a ^ b, ~a, a + b, a * 1.5, a.sum(1), a == b),
    ("bool", X),
    ("bool", X),
)
case("elementwise", "rank0", lambda x: x * torch.tensor(2.5, dtype=torch.float64) + x.sum() * 2, X)
case("elementwise", "rank0-int", lambda i: (i.sum() + i, i.sum() * 1.5), ("int32", X))
case("elementwise", "half", lambda x: (x * 0.1 + 1, x / 3, x > 0.3, torch.clamp(x, 0.1, 0.7)), ("float16", X))
case("elementwise", "bfloat", lambda x, y: (x * 0.1 + y, x - y, x.float() * 2), ("bfloat16", X), X)
case("elementwise", "double", lambda x: torch.tanh(x * 2), ("float64", X))
case(
    "elementwise",
    "division",
    lambda x, y: (torch.div(x, y, rounding_mode="floor"), torch.div(x, y, rounding_mode="trunc")),
    X,
    ("positive", X),
)
case(
    "elementwise",
    "int-division",
    lambda x, y: (
        x // (y.abs() + 1),
        torch.div(x, y.abs() + 1, rounding_mode="trunc"),
        torch.remainder(x, y.abs() + 2),
    ),
    ("int64", X),
    ("int64", X),
)
case("elementwise", "remainder", lambda x, y: (torch.remainder(x, y), torch.fmod(x, y), x % 0.7), X, ("positive", X))
case("elementwise", "pow", lambda x, y: (x**y, x**2, x**0.5, 2**y, x**-1, x.pow(3)), ("positive", X), X)
case(
    "elementwise",
    "extremes",
    lambda x, y: (torch.maximum(x, y), torch.minimum(x, y), torch.fmax(x, y), torch.max(x, y)),
    X,
    X,
)
case("elementwise", "compare", lambda x, y: (x == y, x != y, x < y, x <= y, x > y, x >= y, x > 0, x <= 0.5), X, X)
case("elementwise", "clamp", lambda x: (x.clamp(-0.5, 0.5), x.clamp(min=0), x.clamp(max=1), x.clamp_min(0.2)), X)
case("elementwise", "clamp-tensor", lambda x, y: x.clamp(min=y, max=y + 1), X, X)
case(
    "elementwise",
    "where",
    lambda x, y: (torch.where(x > 0, x, y), torch.where(x > 0, 1.0, y), torch.where(x > 0, x, 0)),
    X,
    X,
)
case("elementwise", "masked-fill", lambda x: (x.masked_fill(x > 0, -1e9), x.masked_fill(x < 0, float("-inf"))), X)
case("elementwise", "casts", lambda x: (x.to(torch.int32), x.double(), x.half(), x.bool(), x.long().float()), X)
case(
    "elementwise",
    "specials",
    lambda x: (torch.isnan(x / x.floor()), torch.isinf(1 / x.floor()), torch.isfinite(x), (x / 0).nan_to_num(nan=1.0)),
    X,
)
case(
    "elementwise",
    "lerp-addc",
    lambda x, y: (torch.lerp(x, y, 0.3), torch.addcmul(x, x, y, value=0.5), torch.addcdiv(x, x, y.abs() + 1, value=2)),
    X,
    X,
)
case("elementwise", "atan2-hypot", lambda x, y: (torch.atan2(x, y), torch.hypot(x, y), torch.logaddexp(x, y)), X, X)
case("elementwise", "round-decimals", lambda x: torch.round(x, decimals=2), X)
case("elementwise", "shifts", lambda i: (i << 2, i >> 1, i & 3, i | 8, i ^ 5, ~i), ("int64", X))
case(
    "elementwise",
    "logical",
    lambda x, y: (torch.logical_and(x > 0, y > 0), torch.logical_or(x, y), torch.logical_not(x)),
    X,
    X,
)
case("elementwise", "broadcast", lambda x, y: x[:, None, :] + y[None, :, None][:, :3], X, (6,))

# -------------------------------------------------------------------------------------------------- activation

for _act in (
    nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(-0.3, 0.8),
    nn.LeakyReLU(0.2), nn.PReLU(3), nn.ELU(0.7), nn.SELU(), nn.CELU(1.3), nn.GELU(), nn.GELU(approximate="tanh"),
    nn.Softplus(), nn.Softplus(2.0, 3.0), nn.LogSigmoid(), nn.Hardshrink(0.4), nn.Softshrink(0.3),
    nn.Threshold(0.1, -2.0), nn.Tanhshrink(), nn.Softsign(), nn.Softmax(1), nn.LogSoftmax(-1), nn.Softmax2d(),
    nn.RReLU(), nn.Softmin(1), nn.PReLU(),
):  # fmt: skip
    case("activation", f"{type(_act).__name__}{len(CASES.get('activation', []))}", _act, I)
case("activation", "glu", nn.GLU(1), (None, 4, 5))
case("activation", "softmax-dtype", lambda x: F.softmax(x, -1, dtype=torch.float32), ("float16", X))

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
case(
    "matmul", "addmm", lambda x, y, z: (torch.addmm(z, x, y), torch.addmm(z, x, y, beta=0.5, alpha=2)), X, (6, 3), (3,)
)
case(
    "matmul",
    "baddbmm",
    lambda x, y, z: torch.baddbmm(z, x, y, beta=0.5, alpha=2),
    (None, 3, 4),
    (None, 4, 5),
    (None, 3, 5),
)
case(
    "matmul",
    "einsum",
    lambda x, y: (torch.einsum("bij,bjk->bik", x, y), torch.einsum("b i j, b j k -> b", x, y)),
    (None, 3, 4),
    (None, 4, 5),
)
case("matmul", "outer", lambda x: torch.outer(x[:, 0], x[0]), X)
case("matmul", "bilinear", nn.Bilinear(4, 5, 3), (None, 4), (None, 5))
case("matmul", "mv-dot", lambda x, y: (torch.mv(x, y), torch.dot(y, y), torch.inner(x, x)), X, (6,))
case("matmul", "tensordot", lambda x, y: torch.tensordot(x, y, dims=([1], [0])), X, (6, 3))

# ------------------------------------------------------------------------------------------------------ reduce

case(
    "reduce",
    "sum",
    lambda x: (x.sum(), x.sum(1), x.sum((1, 2), keepdim=True), x.sum(-1, dtype=torch.float64)),
    (None, 3, 4),
)
case("reduce", "sum-int", lambda i: (i.sum(), i.sum(1), i.prod(1), (i > 0).sum(), i.float().mean()), ("int32", X))
case("reduce", "mean", lambda x: (x.mean(), x.mean(1), x.mean((0, 2), keepdim=True)), (None, 3, 4))
case(
    "reduce",
    "extremes",
    lambda x: (
        x.amax(1),
        x.amin((1, 2)),
        x.max(),
        x.min(),
        *x.max(1),
        *x.min(2, keepdim=True),
        *torch.aminmax(x, dim=1),
    ),
    (None, 3, 4),
)
case("reduce", "arg", lambda x: (x.argmax(1), x.argmin(2, keepdim=True), x.argmax()), (None, 3, 4))
case(
    "reduce", "any-all", lambda x: ((x > 0).any(), (x > 0).all(1), (x > 0).any(1, keepdim=True), x.any(2)), (None, 3, 4)
)
case("reduce", "prod", lambda x: (x.prod(), x.prod(1), x.prod(2, keepdim=True)), (None, 3, 2))
case(
    "reduce",
    "var",
    lambda x: (
        x.var(),
        x.var(1),
        x.std(2, unbiased=False),
        x.var((1, 2), correction=0, keepdim=True),
        *torch.var_mean(x, 1),
        *torch.std_mean(x, (1, 2)),
    ),
    (None, 3, 4),
)
case("reduce", "var-batch", lambda x: x.var(0), X)
case("reduce", "logsumexp", lambda x: (x.logsumexp(1), torch.logsumexp(x, (1, 2), keepdim=True)), (None, 3, 4))
case(
    "reduce",
    "norms",
    lambda x: (
        x.norm(),
        x.norm(dim=1),
        torch.linalg.vector_norm(x, 3, dim=(1, 2)),
        torch.linalg.vector_norm(x, float("inf"), dim=1),
        x.norm(p=1, dim=2),
    ),
    (None, 3, 4),
)
case("reduce", "cumsum", lambda x: (x.cumsum(1), x.cumprod(-1), (x > 0).cumsum(1)), X)
case("reduce", "topk", lambda x: (*x.topk(3, dim=1), *x.topk(2, largest=False)), X)
case("reduce", "sort", lambda x: (*x.sort(1), *x.sort(-1, descending=True), x.argsort(1)), X)
case("reduce", "cosine", lambda x, y: F.cosine_similarity(x, y), X, X)
case("reduce", "count", lambda x: (torch.count_nonzero(x > 0, dim=1), torch.count_nonzero(x > 0)), X)
case(
    "reduce", "losses", lambda x, y: (F.mse_loss(x, y), F.l1_loss(x, y, reduction="none"), F.smooth_l1_loss(x, y)), X, X
)
