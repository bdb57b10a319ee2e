"""Cases of the torch tests: windows, shapes, indexing, attention, recurrence, resizing, creation, in-place calls."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .torch_cases import I, X, case

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
case(
    "pool",
    "avg2d-ceil-exclude",
    nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
    (None, 3, 8, 8),
)
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

# ------------------------------------------------------------------------------------------------------- shape

case(
    "shape",
    "views",
    lambda x: (x.view(x.shape[0], -1), x.reshape(-1, 4), x.flatten(1), x.flatten(), x.unflatten(2, (2, 2)), x.ravel()),
    (None, 3, 4),
)
case(
    "shape",
    "view-two-dynamic",
    lambda x: x.reshape(x.shape[0], 2, -1).transpose(0, 1).reshape(2, x.shape[0], 3, 2),
    (None, 3, 4),
)
case(
    "shape",
    "permute",
    lambda x: (x.permute(0, 2, 1), x.transpose(1, 2), x.mT, x.movedim(1, -1), x[0].t(), x.swapaxes(0, 1)),
    (None, 3, 4),
)
case(
    "shape",
    "squeeze",
    lambda x: (x.squeeze(), x.squeeze(1), x.unsqueeze(-1), x[:, 0].unsqueeze(0), x.squeeze(2), x.squeeze((1, 3))),
    (None, 1, 4, 1),
)
case(
    "shape",
    "expand",
    lambda x: (
        x[:, None].expand(-1, 4, -1),
        x[:, :1].expand_as(x),
        x.repeat(2, 3),
        x.tile(2),
        torch.broadcast_to(x, (2, *x.shape)),
    ),
    X,
)
case("shape", "interleave", lambda x: (x.repeat_interleave(3, dim=1), x.repeat_interleave(2, 0)), X)
case(
    "shape",
    "slice",
    lambda x: (x[:, 1:4], x[:, ::2], x[:, -2:], x[1:], x[:, :-1], x[:-1], x[..., 3], x[0], x[-1], x[:, 1:100]),
    X,
)
case("shape", "slice-symbolic", lambda x: (x[: x.shape[0] // 2], x[x.shape[0] - 1 :], x.narrow(1, 2, 3)), X)
case("shape", "list", lambda x: [x[:, i] * i for i in range(3)], X)
case("shape", "nested", lambda x: {"a": x, "b": [x + 1, (x * 2, {"c": x})]}, X)
case(
    "shape",
    "cat",
    lambda x, y: (
        torch.cat([x, y], 1),
        torch.cat([x, y]),
        torch.stack([x, y], 1),
        torch.hstack([x, y]),
        torch.vstack([x, y]),
        torch.cat([x, y.long()], 1),
    ),
    X,
    X,
)
case(
    "shape",
    "split",
    lambda x: (*x.split(2, 1), *x.split([1, 2, 3], 1), *x.chunk(4, 1), *x.unbind(1), *torch.tensor_split(x, 3, dim=1)),
    X,
)
case("shape", "flip-roll", lambda x: (x.flip(1), x.flip((0, 1)), x.roll(2, 1), x.roll((1, -1), (0, 1)), x.fliplr()), X)
case(
    "shape",
    "pad",
    lambda x: (
        F.pad(x, (1, 2)),
        F.pad(x, (1, 1, 2, 0), value=3.0),
        F.pad(x, (-1, 1)),
        F.pad(x, (2, 1), mode="reflect"),
        F.pad(x, (1, 3), mode="replicate"),
        F.pad(x, (2, 2), mode="circular"),
    ),
    (None, 3, 6),
)
case(
    "shape",
    "pad2d",
    nn.Sequential(
        nn.ReflectionPad2d(2), nn.ReplicationPad2d((1, 0, 2, 1)), nn.ZeroPad2d(1), nn.ConstantPad2d((0, 1, 1, 0), 2.0)
    ),
    I,
)
case("shape", "pixel-shuffle", nn.PixelShuffle(2), (None, 12, 3, 4))
case("shape", "pixel-unshuffle", nn.PixelUnshuffle(2), (None, 3, 6, 4))
case("shape", "channel-shuffle", nn.ChannelShuffle(2), (None, 6, 3, 3))
case("shape", "tri", lambda x: (x.tril(), x.triu(1), x.tril(-1)), (None, 4, 5))
case(
    "shape",
    "diagonal",
    lambda x: (x.diagonal(dim1=1, dim2=2), torch.diagonal(x, 1, 1, 2), torch.diagonal(x, -2, 1, 2)),
    (None, 4, 5),
)
case("shape", "unfold", lambda x: x.unfold(1, 3, 2), (None, 8))
case("shape", "im2col", nn.Unfold(3, padding=1, stride=2), I)
case("shape", "meshgrid", lambda x: torch.meshgrid(x[0], x[1, :3], indexing="ij"), X)
case("shape", "meshgrid-xy", lambda x: torch.meshgrid(x[0], x[1, :3], indexing="xy"), X)
case("shape", "rot90", lambda x: torch.rot90(x, 1, (1, 2)), (None, 3, 4))
case("shape", "sizes", lambda x: (x * x.shape[0], x / x.shape[0], x.shape[0], x + x.shape[0] ** 0.5, x.numel()), X)

# ------------------------------------------------------------------------------------------------------- index

case("index", "embedding", nn.Embedding(10, 4, padding_idx=0), ("index10", X))
case(
    "index",
    "gather",
    lambda x, i: (x.gather(1, i), torch.take_along_dim(x, i, 1)),
    (3, 6),
    ("index6", (3, 3)),
    batch=False,
)
case("index", "gather-rows", lambda x, i: x.gather(1, i), (3, 6), ("index6", (2, 3)), batch=False)
case(
    "index",
    "index-select",
    lambda x: (x.index_select(1, torch.tensor([0, 3, 3])), x[:, [1, 2]], x[:, torch.tensor([[0, 1], [2, -1]])]),
    X,
)
case(
    "index",
    "advanced",
    lambda x: (x[:, [0, 2], [1, 3]], x[:, [[0], [2]], [1, 3]], x[:, [0, 1], :, [1, 2]], x[[0, 1], :, [1, 2]]),
    (None, 3, 4, 5),
)
case("index", "mask", lambda x: x[x > 0], X)
case(
    "index",
    "put",
    lambda x: torch.index_put(x, (torch.tensor([0, 1]), torch.tensor([2, 3])), torch.tensor([9.0, 8.0])),
    X,
)
case(
    "index",
    "put-accumulate",
    lambda x: torch.index_put(
        x, (torch.tensor([0, 0]), torch.tensor([2, 2])), torch.tensor([9.0, 8.0]), accumulate=True
    ),
    X,
)
case(
    "index",
    "put-middle",
    lambda x: torch.ops.aten.index_put(x, [None, torch.tensor([0, 2])], torch.tensor([[9.0], [8.0]])),
    (None, 3, 4),
)
case("index", "put-mask", lambda x: torch.index_put(x, (x > 0,), torch.tensor(5.0)), X)
case(
    "index",
    "scatter",
    lambda x, i, y: (
        x.scatter(1, i, y),
        x.scatter_add(1, i, y),
        x.scatter(1, i, 2.5),
        x.scatter_reduce(1, i, y, "amax"),
    ),
    X,
    ("index6", (None, 1)),
    X,
)
case(
    "index",
    "index-add",
    lambda x: (
        x.index_add(1, torch.tensor([0, 2]), x[:, :2]),
        x.index_fill(1, torch.tensor([1]), 7.0),
        x.index_copy(1, torch.tensor([5]), x[:, :1]),
    ),
    X,
)
case("index", "nonzero", lambda x: torch.nonzero(x > 0), X)
case("index", "one-hot", lambda i: F.one_hot(i, 5), ("index5", X))
case(
    "index",
    "scatter-slices",
    lambda x, y: (
        torch.select_scatter(x, y[:, 0], 1, 2),
        torch.slice_scatter(x, y[:, :2], 1, 1, 3),
        torch.slice_scatter(x, y[:, :3], 1, 0, 6, 2),
    ),
    X,
    X,
)
case("index", "take", lambda x: torch.take(x, torch.tensor([0, 3])), X)
case("index", "masked-select", lambda x: torch.masked_select(x, x > 0.2), X)

# --------------------------------------------------------------------------------------------------- attention

A = (None, 2, 5, 4)
case("attention", "plain", F.scaled_dot_product_attention, A, (None, 2, 7, 4), (None, 2, 7, 3))
case("attention", "causal", lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), A)
case(
    "attention",
    "causal-cross",
    lambda q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True),
    A,
    (None, 2, 7, 4),
)
case(
    "attention",
    "causal-cross-short",
    lambda q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True),
    A,
    (None, 2, 3, 4),
)
case("attention", "mask-rank3", lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m), A, (2, 5, 5))
case("attention", "mask", lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m), A, (5, 5))
case(
    "attention",
    "bool-mask",
    lambda q: F.scaled_dot_product_attention(q, q, q, attn_mask=torch.ones(5, 5).tril().bool(), scale=0.3),
    A,
)
case("attention", "rank3", lambda q: F.scaled_dot_product_attention(q, q, q), (None, 5, 4))
case("attention", "rank5", lambda q: F.scaled_dot_product_attention(q, q, q), (None, 2, 3, 5, 4))
case("attention", "grouped", lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True), (None, 4, 5, 4), A)
case("attention", "broadcast", F.scaled_dot_product_attention, A, (None, 1, 7, 4), (None, 1, 7, 3))
case("attention", "encoder", nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (None, 5, 8))
case(
    "attention",
    "encoder-norm-first",
    nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu"),
        2,
        enable_nested_tensor=False,
    ),
    (None, 5, 8),
)


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

case(
    "resize",
    "nearest",
    lambda x: (
        F.interpolate(x, scale_factor=2),
        F.interpolate(x, size=(5, 11)),
        F.interpolate(x, scale_factor=(1.5, 0.75)),
    ),
    I,
)
case("resize", "nearest-exact", lambda x: F.interpolate(x, size=(5, 11), mode="nearest-exact"), I)
case(
    "resize",
    "bilinear",
    lambda x: (
        F.interpolate(x, scale_factor=2, mode="bilinear"),
        F.interpolate(x, size=(5, 11), mode="bilinear"),
        F.interpolate(x, size=(5, 11), mode="bilinear", align_corners=True),
        F.interpolate(x, scale_factor=1.25, mode="bilinear"),
        F.interpolate(x, size=(1, 1), mode="bilinear"),
    ),
    I,
)
case(
    "resize",
    "bilinear-recompute",
    lambda x: F.interpolate(x, scale_factor=1.25, mode="bilinear", recompute_scale_factor=True),
    I,
)
case(
    "resize",
    "bicubic",
    lambda x: (
        F.interpolate(x, scale_factor=2, mode="bicubic"),
        F.interpolate(x, size=(5, 11), mode="bicubic", align_corners=True),
    ),
    I,
)
case(
    "resize",
    "antialias",
    lambda x: (
        F.interpolate(x, size=(3, 5), mode="bilinear", antialias=True),
        F.interpolate(x, size=(3, 5), mode="bicubic", antialias=True),
    ),
    I,
)
case(
    "resize",
    "linear1d",
    lambda x: (F.interpolate(x, size=7, mode="linear"), F.interpolate(x, size=7), F.interpolate(x, scale_factor=2.0)),
    (None, 3, 5),
)
case(
    "resize",
    "trilinear",
    lambda x: (F.interpolate(x, scale_factor=2, mode="trilinear"), F.interpolate(x, size=(2, 3, 5))),
    (None, 2, 3, 3, 3),
)
case(
    "resize",
    "grid-sample",
    lambda x, g: (
        F.grid_sample(x, g, align_corners=False),
        F.grid_sample(x, g, mode="nearest", padding_mode="border", align_corners=True),
        F.grid_sample(x, g, mode="bicubic", padding_mode="reflection", align_corners=False),
    ),
    I,
    ("unit", (None, 5, 6, 2)),
)
case("resize", "affine-grid", lambda t: F.affine_grid(t, (t.shape[0], 3, 4, 5), align_corners=False), (None, 2, 3))

# ---------------------------------------------------------------------------------------------------- creation

case(
    "creation",
    "constants",
    lambda x: (
        x + torch.ones(6),
        torch.zeros(x.shape[0], 3),
        torch.full((2, 2), 1.5),
        torch.full_like(x, 2),
        x.new_ones(3),
        torch.zeros_like(x, dtype=torch.int64),
    ),
    X,
)
case(
    "creation",
    "ranges",
    lambda x: (
        torch.arange(x.shape[0]),
        torch.arange(1, 7, 2),
        torch.arange(0, 1, 0.25),
        x + torch.arange(6),
        torch.linspace(0, 1, 6) + x,
        torch.arange(x.shape[0] * 2).float(),
    ),
    X,
)
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


def _assigned(x: torch.Tensor) -> Any:
    y = torch.zeros_like(x)
    y[:, 0] = 5
    y[:, 1:3] += x[:, 1:3]
    y[0, 4] = x[0, 0]
    y[1][2:4].mul_(2)
    part = y[:, ::2]
    part.clamp_(max=1.0)
    return y, part * 2, y[:, 0]


case("inplace", "views", _assigned, X)
