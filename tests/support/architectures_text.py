"""Small versions of the networks over patches, tokens and time that people prune; see architectures.py."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architectures import IMAGE, architecture, conv_bn

TOKENS = (2, 6)


# --------------------------------------------------------------------------------------------------------- transformers


class Attention(nn.Module):
    """Multi-head attention written out, or by torch's fused function; keys and values may have fewer heads."""

    def __init__(self, width: int, heads: int, size: int, kv: int = 0, fused: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.heads, self.kv, self.size, self.fused = heads, kv or heads, size, fused
        self.q, self.o = nn.Linear(width, heads * size, bias), nn.Linear(heads * size, width, bias)
        self.k, self.v = nn.Linear(width, self.kv * size, bias), nn.Linear(width, self.kv * size, bias)

    def split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], heads, self.size).transpose(1, 2)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, rotary: Any = None, memory: Tensor | None = None
    ) -> Tensor:
        memory = x if memory is None else memory
        q, k, v = (
            self.split(self.q(x), self.heads),
            self.split(self.k(memory), self.kv),
            self.split(self.v(memory), self.kv),
        )
        if rotary is not None:
            q, k = rotary(q), rotary(k)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=self.kv != self.heads)
        else:
            if 1 < self.kv < self.heads:
                k, v = (repeat_heads(t, self.heads // self.kv) for t in (k, v))
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.size)
            y = (scores if mask is None else scores + mask).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], self.heads * self.size))


def repeat_heads(x: Tensor, times: int) -> Tensor:
    b, h, t, d = x.shape
    return x[:, :, None].expand(b, h, times, t, d).reshape(b, h * times, t, d)


class RmsNorm(nn.Module):
    def __init__(self, width: int, fused: bool = False) -> None:
        super().__init__()
        self.weight, self.fused = nn.Parameter(torch.rand(width) + 0.5), fused

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class Encoder(nn.Module):
    """Pre- or post-norm layer with a two-layer feed-forward."""

    def __init__(self, width: int, heads: int, size: int, wide: int, pre: bool = True, fused: bool = False) -> None:
        super().__init__()
        self.attention = Attention(width, heads, size, fused=fused)
        self.a, self.b, self.pre = nn.Linear(width, wide), nn.Linear(wide, width), pre
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.pre:
            x = x + self.attention(self.norms[0](x), mask)
            return x + self.b(F.gelu(self.a(self.norms[1](x))))
        x = self.norms[0](x + self.attention(x, mask))
        return self.norms[1](x + self.b(F.gelu(self.a(x))))


@architecture(4, IMAGE, normed=5, fast=True)
class Vit(nn.Module):
    """Heads and the feed-forward of two layers; a class token and learned positions on the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 12, 4, 4), nn.Parameter(torch.randn(1, 1, 12))
        self.place = nn.Parameter(torch.randn(1, 17, 12))
        self.layers = nn.ModuleList([Encoder(12, 3, 4, 10), Encoder(12, 4, 5, 14, fused=True)])
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class SwinBlock(nn.Module):
    """Windows of 4 x 4, shifted or not, with a bias for each pair of places."""

    def __init__(self, c: int, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift = heads, shift
        self.norm_a, self.norm_b = nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.o = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.table = nn.Parameter(torch.randn(49, heads))
        y, x = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
        y, x = y.flatten(), x.flatten()
        self.register_buffer("index", (y[:, None] - y[None] + 3) * 7 + (x[:, None] - x[None] + 3))
        self.mlp = nn.Sequential(nn.Linear(c, 10), nn.GELU(), nn.Linear(10, c))

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        y = self.norm_a(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = y.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(y).reshape(-1, 16, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.reshape(-1)].view(16, 16, self.heads).permute(2, 0, 1)
        y = ((q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5 + bias).softmax(-1) @ v
        y = self.o(y.transpose(1, 2).reshape(-1, 16, c))
        y = y.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.mlp(self.norm_b(x))


@architecture(6, (2, 3, 16, 16), normed=8)
class Swin(nn.Module):
    """Fused q, k, v; window partitions; patch merging between the two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.one, self.merge, self.reduce = SwinBlock(8, 2, 0), nn.LayerNorm(32), nn.Linear(32, 12, bias=False)
        self.two, self.three = SwinBlock(8, 4, 2), SwinBlock(12, 3, 0)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(self.stem(x).permute(0, 2, 3, 1)))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        x = self.three(self.reduce(self.merge(x)))
        return self.head(self.norm(x).mean((1, 2)))


@architecture(5, TOKENS, normed=6, tokens=11)
class Bert(nn.Module):
    """Three embeddings, post-norm layers, a pooler."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(11, 12), nn.Embedding(6, 12), nn.Embedding(2, 12)
        self.norm = nn.LayerNorm(12)
        self.layers = nn.ModuleList([Encoder(12, 3, 4, 10, pre=False), Encoder(12, 2, 5, 9, pre=False)])
        self.pool, self.out = nn.Linear(12, 7), nn.Linear(7, 3)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])
        x = self.norm(self.words(ids) + self.places(places) + self.kinds(torch.zeros_like(ids)))
        mask = torch.where(ids == 0, -1e4, 0.0)[:, None, None]
        for layer in self.layers:
            x = layer(x, mask)
        return self.out(torch.tanh(self.pool(x[:, 0])))


@architecture(4, TOKENS, normed=5, tokens=11)
class Gpt2(nn.Module):
    """One projection for q, k and v, cut in three; a causal mask; the embedding used again to speak."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 12), nn.Embedding(6, 12)
        self.norms = nn.ModuleList(nn.LayerNorm(12) for _ in range(5))
        self.qkv = nn.ModuleList(nn.Linear(12, 36) for _ in range(2))
        self.o = nn.ModuleList(nn.Linear(12, 12) for _ in range(2))
        self.a, self.b = (
            nn.ModuleList(nn.Linear(12, 10) for _ in range(2)),
            nn.ModuleList(nn.Linear(10, 12) for _ in range(2)),
        )

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.shape[1]
        x = self.words(ids) + self.places.weight[:t]
        mask = torch.full((t, t), -1e4).triu(1)
        for i in range(2):
            heads = 3 if i else 4
            q, k, v = self.qkv[i](self.norms[2 * i](x)).split(12, 2)
            q, k, v = (y.view(-1, t, heads, 12 // heads).transpose(1, 2) for y in (q, k, v))
            y = (q @ k.transpose(-1, -2) / math.sqrt(12 // heads) + mask).softmax(-1) @ v
            x = x + self.o[i](y.transpose(1, 2).reshape(-1, t, 12))
            x = x + self.b[i](F.gelu(self.a[i](self.norms[2 * i + 1](x)), approximate="tanh"))
        return self.norms[4](x) @ self.words.weight.T


class Rotary:
    """Rotary positions, by halves or by neighbours."""

    def __init__(self, size: int, length: int, neighbours: bool) -> None:
        angles = torch.arange(length)[:, None] / 100.0 ** (torch.arange(0, size, 2) / size)
        self.neighbours = neighbours
        self.cos, self.sin = (
            t.repeat_interleave(2, -1) if neighbours else torch.cat([t, t], -1) for t in (angles.cos(), angles.sin())
        )

    def __call__(self, x: Tensor) -> Tensor:
        if self.neighbours:
            turned = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
        else:
            half = x.shape[-1] // 2
            turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * self.cos[: x.shape[2]] + turned * self.sin[: x.shape[2]]


class Llama(nn.Module):
    def __init__(self, heads: int, kv: int, neighbours: bool, fused: bool, tied: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 12)
        self.layers = nn.ModuleList()
        for wide in (9, 10):
            norms = nn.ModuleList([RmsNorm(12, fused), RmsNorm(12, fused)])
            attention = Attention(12, heads, 4, kv, fused=fused, bias=False)
            mlp = nn.ModuleList([nn.Linear(12, wide, False), nn.Linear(12, wide, False), nn.Linear(wide, 12, False)])
            self.layers.append(nn.ModuleList([norms, attention, mlp]))
        self.norm, self.head = RmsNorm(12, fused), nn.Linear(12, 11, bias=False)
        if tied:
            self.head.weight = self.words.weight
        self.rotary = Rotary(4, 6, neighbours)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        mask = torch.full((ids.shape[1], ids.shape[1]), -1e4).triu(1)
        for norms, attention, (gate, up, down) in self.layers:
            x = x + attention(norms[0](x), mask, self.rotary)
            y = norms[1](x)
            x = x + down(F.silu(gate(y)) * up(y))
        return self.head(self.norm(x))


@architecture(5, TOKENS, tokens=11, fast=True)
def llama_gqa() -> nn.Module:
    """Two key heads for six query heads, written out: a key head takes its query heads along. RMS norms hold nothing."""
    return Llama(6, 2, False, False, False)


@architecture(5, TOKENS, tokens=11)
def llama_gqa_fused() -> nn.Module:
    """The same by torch's fused attention and norm."""
    return Llama(6, 2, False, True, False)


@architecture(5, TOKENS, tokens=11)
def llama_mqa() -> nn.Module:
    """One key head for all: query heads go one by one. Rotary by neighbours, tied embeddings."""
    return Llama(3, 1, True, False, True)


@architecture(5, TOKENS, tokens=11)
def llama_mqa_fused() -> nn.Module:
    return Llama(3, 1, True, True, True)


@architecture(5, TOKENS, TOKENS, tokens=11)
class T5(nn.Module):
    """Encoder and decoder with RMS norms and a bias for each distance, shared embedding, attention across."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.far = nn.Embedding(11, 12), nn.Embedding(8, 3)
        self.norms = nn.ModuleList(RmsNorm(12) for _ in range(6))
        self.enc, self.dec, self.cross = (Attention(12, 3, size, bias=False) for size in (4, 5, 3))
        self.enc_mlp = nn.ModuleList([nn.Linear(12, 9, False), nn.Linear(9, 12, False)])
        self.dec_mlp = nn.ModuleList([nn.Linear(12, 10, False), nn.Linear(12, 10, False), nn.Linear(10, 12, False)])

    def bias(self, t: int) -> Tensor:
        line = torch.arange(t)
        return self.far((line[:, None] - line[None]).abs().clamp(max=7)).permute(2, 0, 1)[None]

    def forward(self, ids: Tensor, out: Tensor) -> Tensor:
        bias = self.bias(6)
        x = self.words(ids)
        x = x + self.enc(self.norms[0](x), bias)
        x = self.norms[2](x + self.enc_mlp[1](F.relu(self.enc_mlp[0](self.norms[1](x)))))
        y = self.words(out)
        y = y + self.dec(self.norms[3](y), bias + torch.full((6, 6), -1e4).triu(1))
        y = y + self.cross(self.norms[4](y), memory=x)
        z = self.norms[5](y)
        y = y + self.dec_mlp[2](F.gelu(self.dec_mlp[0](z)) * self.dec_mlp[1](z))
        return y @ self.words.weight.T


@architecture(5, (2, 6, 12), normed=5)
class TorchEncoder(nn.Module):
    """torch's own encoder layers, whose attention folds the heads into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.TransformerEncoderLayer(12, h, w, 0.0, batch_first=True) for h, w in ((3, 10), (4, 9)))
        self.hidden, self.out = nn.Linear(12, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(self.b(self.a(x)).mean(1))))


# ------------------------------------------------------------------------------------------------- patches and mixing


class ConvNextBlock(nn.Module):
    def __init__(self, c: int, wide: int) -> None:
        super().__init__()
        self.depth, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c, eps=1e-6)
        self.a, self.b = nn.Linear(c, wide), nn.Linear(wide, c)
        self.gamma = nn.Parameter(torch.rand(c) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(F.gelu(self.a(self.norm(self.depth(x).permute(0, 2, 3, 1)))))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


@architecture(2, IMAGE, normed=3)
class ConvNext(nn.Module):
    """The wide layer of each block; the stream itself only with its norms written out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.Sequential(ConvNextBlock(8, 12), ConvNextBlock(8, 14))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x)).mean((2, 3))))


@architecture(4, IMAGE)
class MlpMixer(nn.Module):
    """Two blocks that mix tokens (positions: the hidden layer is a group) and channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(4))
        self.tokens = nn.ModuleList(nn.Sequential(nn.Linear(16, 10), nn.GELU(), nn.Linear(10, 16)) for _ in range(2))
        self.channels = nn.ModuleList(nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)) for _ in range(2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        for i in range(2):
            x = x + self.tokens[i](self.norms[2 * i](x).transpose(1, 2)).transpose(1, 2)
            x = x + self.channels[i](self.norms[2 * i + 1](x))
        return self.head(x.mean(1))


# ------------------------------------------------------------------------------------------------------ recurrent nets


@architecture(4, (2, 7, 5), fast=True)
class StackedLstm(nn.Module):
    """Two layers, both directions, then a hidden layer: units of both directions go in step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True)
        self.a, self.b, self.out = nn.Linear(12, 8), nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        return self.out(torch.tanh(self.b(F.relu(self.a(y[:, -1])))))


@architecture(3, TOKENS, TOKENS, tokens=11)
class Seq2Seq(nn.Module):
    """A GRU whose last state starts another: one group of units for both."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(11, 5), nn.Embedding(11, 7)
        self.encoder, self.decoder = nn.GRU(5, 6, batch_first=True), nn.GRU(7, 6, batch_first=True)
        self.out = nn.Linear(6, 11)

    def forward(self, ids: Tensor, out: Tensor) -> Tensor:
        _, state = self.encoder(self.source(ids))
        y, _ = self.decoder(self.target(out), state)
        return self.out(y)


@architecture(3, (2, 7, 5))
class ElmanTagger(nn.Module):
    """A plain recurrent net over a convolution in time, tagging each step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(5, 6, 3, padding=1), nn.RNN(6, 8, batch_first=True, nonlinearity="relu")
        self.a, self.out = nn.Linear(8, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))
        return self.out(torch.tanh(self.a(y))).log_softmax(-1)


@architecture(4, (2, 1, 16, 24))
class Crnn(nn.Module):
    """Convolutions, columns as steps, a bidirectional LSTM, a class for each step: a text recogniser."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(conv_bn(1, 5), nn.MaxPool2d(2), conv_bn(5, 6), nn.MaxPool2d((4, 1)), conv_bn(6, 7))
        self.rnn, self.out = nn.LSTM(14, 6, bidirectional=True), nn.Linear(12, 9)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs(x)
        y, _ = self.rnn(y.flatten(1, 2).permute(2, 0, 1))
        return self.out(y)


# ------------------------------------------------------------------------------------------------------ along the time


@architecture(6, (2, 3, 20))
class WaveNet(nn.Module):
    """Gated dilated convolutions: tanh and sigmoid halves of one convolution, a residual stream and a skip stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 6, 1)
        self.gates = nn.ModuleList(nn.Conv1d(6, 10, 2, dilation=d) for d in (1, 2, 4))
        self.res = nn.ModuleList(nn.Conv1d(5, 6, 1) for _ in range(3))
        self.skip = nn.ModuleList(nn.Conv1d(5, 7, 1) for _ in range(3))
        self.a, self.out = nn.Conv1d(7, 8, 1), nn.Conv1d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.stem(x), 0
        for i, (gate, res, skip) in enumerate(zip(self.gates, self.res, self.skip, strict=True)):
            a, b = gate(F.pad(x, (2**i, 0))).chunk(2, 1)
            y = torch.tanh(a) * torch.sigmoid(b)
            x, total = x + res(y), total + skip(y)
        return self.out(F.relu(self.a(F.relu(total))))


@architecture(3, (2, 3, 20))
class Tcn(nn.Module):
    """Causal convolutions that pad on both sides and chop off the end, with residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.ModuleList([nn.Conv1d(3, 6, 3, padding=2), nn.Conv1d(6, 6, 3, padding=4, dilation=2)])
        self.b = nn.ModuleList([nn.Conv1d(6, 7, 3, padding=2), nn.Conv1d(7, 6, 3, padding=4, dilation=2)])
        self.down, self.out = nn.Conv1d(3, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a[0](x)[..., :-2])
        x = F.relu(F.relu(self.a[1](y)[..., :-4]) + self.down(x))
        y = F.relu(self.b[0](x)[..., :-2])
        x = F.relu(F.relu(self.b[1](y)[..., :-4]) + x)
        return self.out(x[..., -1])


@architecture(5, (2, 10, 8), normed=6)
class Conformer(nn.Module):
    """Half-step feed-forwards around attention and a gated convolution in time."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(4))
        self.stem = nn.Linear(8, 8)
        self.first = nn.Sequential(nn.Linear(8, 10), nn.SiLU(), nn.Linear(10, 8))
        self.attention = Attention(8, 2, 4)
        self.gate, self.depth = nn.Conv1d(8, 12, 1), nn.Conv1d(6, 6, 3, padding=1, groups=6)
        self.norm, self.back = nn.BatchNorm1d(6), nn.Conv1d(6, 8, 1)
        self.last = nn.Sequential(nn.Linear(8, 9), nn.SiLU(), nn.Linear(9, 8))
        self.hidden, self.out = nn.Linear(8, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + 0.5 * self.first(self.norms[0](x))
        x = x + self.attention(self.norms[1](x))
        y = F.glu(self.gate(self.norms[2](x).transpose(1, 2)), 1)
        x = x + self.back(F.silu(self.norm(self.depth(y)))).transpose(1, 2)
        x = x + 0.5 * self.last(self.norms[3](x))
        return self.out(F.relu(self.hidden(x)))


# ------------------------------------------------------------------------------------------------------ several inputs


@architecture(3, IMAGE, IMAGE)
class Siamese(nn.Module):
    """Two images through the same weights, compared by a cosine."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(3, 6), nn.MaxPool2d(2), conv_bn(6, 8))
        self.fc = nn.Linear(8, 7)

    def embed(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = self.embed(a), self.embed(b)
        return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)


@architecture(5, (4, 6), (4, 9))
class TwoTower(nn.Module):
    """Users and things meet in an inner product of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 5, bias=False))
        self.thing = nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 5, bias=False))

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        return self.user(u) @ self.thing(v).T
