"""Attention as people write it in torch: masks, shared heads, rotary embedding, caches, packed projections. Imports torch.

`SPELLINGS` names functions of (x, q, k, v, mask) with heads split, in the order in which exporters have met them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS, SIZE = 32, 4, 8
LOWEST = torch.finfo(torch.float32).min


class Attention(nn.Module):
    """Projections around one spelling; `shared` heads of keys and values, `packed`: one projection for all three."""

    def __init__(self, core: Callable[..., Tensor], shared: int = HEADS, packed: bool = False) -> None:
        super().__init__()
        self.core, self.shared, self.packed = core, shared, packed
        self.q = nn.Linear(WIDTH, (3 if packed else 1) * WIDTH)
        self.k, self.v = (nn.Identity() if packed else nn.Linear(WIDTH, shared * SIZE) for _ in range(2))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.packed:
            y = self.core(self.q(x))
        else:
            y = self.core(
                x, split(self.q(x), HEADS), split(self.k(x), self.shared), split(self.v(x), self.shared), mask
            )
        return self.out(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], WIDTH))


class Cached(Attention):
    """With the keys and values of earlier tokens, which come back with the new ones behind them."""

    def __init__(self, shared: int) -> None:
        super().__init__(plain, shared)

    def forward(self, x: Tensor, past_k: Tensor, past_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        q, k, v = split(self.q(x), HEADS), split(self.k(x), self.shared), split(self.v(x), self.shared)
        k, v = torch.cat((past_k, k), 2), torch.cat((past_v, v), 2)
        y = weigh(scores(q, repeated(k)), repeated(v))
        return self.out(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], WIDTH)), k, v


def split(x: Tensor, heads: int) -> Tensor:
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-1, -2) / math.sqrt(SIZE)


def weigh(score: Tensor, v: Tensor) -> Tensor:
    return score.softmax(-1) @ v


def plain(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return weigh(scores(q, k), v)


def repeated(k: Tensor) -> Tensor:
    """Every head for as many queries as share it."""
    batch, heads, length, size = k.shape
    return k[:, :, None].expand(batch, heads, HEADS // heads, length, size).reshape(batch, HEADS, length, size)


# Masks.


def padding(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return weigh(scores(q, k) + (1.0 - mask[:, None, None].float()) * LOWEST, v)


def padded_and_causal(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    later = torch.full((x.shape[1], x.shape[1]), LOWEST).triu(1)[None, None]
    return weigh(scores(q, k) + (later + (1.0 - mask[:, None, None].float()) * LOWEST), v)


def replaced(low: float) -> Callable[..., Tensor]:
    def core(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return weigh(scores(q, k).masked_fill(mask[:, None, None] == 0, low), v)

    return core


def safe(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None] > 0)


def lower(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    length = x.shape[1]
    return weigh(scores(q, k).masked_fill(torch.tril(torch.ones(length, length)) == 0, -math.inf), v)


def upper(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    return weigh(scores(q, k) + torch.triu(torch.full((x.shape[1], x.shape[1]), -math.inf), 1), v)


def buffered(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    seen = torch.tril(torch.ones(16, 16, dtype=torch.bool)).view(1, 1, 16, 16)[:, :, : x.shape[1], : x.shape[1]]
    return weigh(torch.where(seen, scores(q, k), torch.full([], LOWEST)), v)


def causal(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


# Scales, shared heads.


def capped(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    return weigh(20 * torch.tanh(scores(q, k) / 20), v)


def halved(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    return weigh((q * SIZE**-0.25) @ (k * SIZE**-0.25).transpose(-1, -2), v)


def expanded(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    return weigh(scores(q, repeated(k)), repeated(v))


def interleaved(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    return weigh(scores(q, k.repeat_interleave(2, 1)), v.repeat_interleave(2, 1))


def picked(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    return weigh(scores(q, k[:, [0, 0, 1, 1]]), v[:, [0, 0, 1, 1]])


def tiled(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    return weigh(scores(q, k.repeat(1, HEADS, 1, 1)), v.repeat(1, HEADS, 1, 1))


# Rotary embedding.


def angles(length: int, width: int) -> Tensor:
    return torch.outer(torch.arange(length).float(), 10000 ** -(torch.arange(0, width, 2).float() / width))


def _swapped(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), -1)


def rotated(width: int) -> Callable[..., Tensor]:
    def core(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
        angle = angles(x.shape[1], width)
        angle = torch.cat((angle, angle), -1)[None, None]

        def turned(y: Tensor) -> Tensor:
            part = y[..., :width]
            part = part * angle.cos() + _swapped(part) * angle.sin()
            return part if width == SIZE else torch.cat((part, y[..., width:]), -1)

        return weigh(scores(turned(q), turned(k)), v)

    return core


def complex_pairs(x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    cos, sin = (f(angles(x.shape[1], SIZE))[None, None] for f in (torch.cos, torch.sin))

    def turned(y: Tensor) -> Tensor:
        a, b = y[..., ::2], y[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)

    return weigh(scores(turned(q), turned(k)), v)


# Packed projections, of [batch, length, 3 * width].


def chunked(y: Tensor) -> Tensor:
    q, k, v = (split(part, HEADS) for part in y.chunk(3, -1))
    return weigh(scores(q, k), v)


def sliced(y: Tensor) -> Tensor:
    q, k, v = (split(y[..., i * WIDTH : (i + 1) * WIDTH], HEADS) for i in range(3))
    return weigh(scores(q, k), v)


def unbound(y: Tensor) -> Tensor:
    q, k, v = y.reshape(y.shape[0], y.shape[1], 3, HEADS, SIZE).permute(2, 0, 3, 1, 4).unbind(0)
    return weigh(scores(q, k), v)


#: The module, whether it takes a mask, and how many ONNX operators of attention and rotary embedding it has.
SPELLINGS: dict[str, tuple[Callable[[], nn.Module], bool, tuple[int, int]]] = {
    "padding": (lambda: Attention(padding), True, (1, 0)),
    "padded and causal": (lambda: Attention(padded_and_causal), True, (1, 0)),
    "replaced by a large number": (lambda: Attention(replaced(-1e9)), True, (1, 0)),
    "replaced by the lowest number": (lambda: Attention(replaced(LOWEST)), True, (1, 0)),
    "replaced by -inf": (lambda: Attention(replaced(-math.inf)), True, (0, 0)),
    "safe softmax": (lambda: Attention(safe), True, (1, 0)),
    "lower triangle": (lambda: Attention(lower), False, (1, 0)),
    "upper triangle": (lambda: Attention(upper), False, (1, 0)),
    "corner of a triangle": (lambda: Attention(buffered), False, (1, 0)),
    "causal": (lambda: Attention(causal), False, (1, 0)),
    "capped": (lambda: Attention(capped), False, (1, 0)),
    "scaled on both sides": (lambda: Attention(halved), False, (1, 0)),
    "heads expanded": (lambda: Attention(expanded, 2), False, (1, 0)),
    "heads repeated": (lambda: Attention(interleaved, 2), False, (1, 0)),
    "heads picked": (lambda: Attention(picked, 2), False, (1, 0)),
    "one head": (lambda: Attention(plain, 1), False, (1, 0)),
    "one head tiled": (lambda: Attention(tiled, 1), False, (1, 0)),
    "rotary halves": (lambda: Attention(rotated(SIZE)), False, (1, 2)),
    "rotary of a part": (lambda: Attention(rotated(4)), False, (1, 2)),
    "rotary of complex numbers": (lambda: Attention(complex_pairs), False, (1, 2)),
    "packed in chunks": (lambda: Attention(chunked, packed=True), False, (1, 0)),
    "packed in slices": (lambda: Attention(sliced, packed=True), False, (1, 0)),
    "packed and unbound": (lambda: Attention(unbound, packed=True), False, (1, 0)),
    "cache": (lambda: Cached(HEADS), False, (1, 0)),
    "cache of shared heads": (lambda: Cached(2), False, (1, 0)),
}


def inputs(module: nn.Module, masked: bool) -> tuple[Tensor, ...]:
    """Two samples; of the second the mask hides a part."""
    torch.manual_seed(0)
    if isinstance(module, Cached):
        past = (2, module.shared, 5, SIZE)
        return torch.randn(2, 1, WIDTH), torch.randn(past), torch.randn(past)
    x = torch.randn(2, 6, WIDTH)
    return (x, torch.tensor([[1] * 6, [1] * 4 + [0] * 2])) if masked else (x,)


def exported(module: nn.Module, given: tuple[Tensor, ...], exporter: str) -> bytes:
    """The ONNX file of the "script" exporter (with open sizes if "open") or of "dynamo"."""
    file = io.BytesIO()
    with redirect_stdout(io.StringIO()):
        if exporter == "dynamo":
            made: Any = torch.onnx.export(
                module.eval(), given, dynamo=True, opset_version=18, optimize=False, verbose=False
            )
            file.write(made.model_proto.SerializeToString())
        else:
            names = [f"x{i}" for i in range(len(given))]
            open_ = {0: "B", 1: "T"}
            axes = {n: open_ if i == 0 or given[i].ndim < 4 else {0: "B", 2: "P"} for i, n in enumerate(names)}
            torch.onnx.export(
                module.eval(), given, file, dynamo=False, opset_version=14, input_names=names,
                dynamic_axes=axes if exporter == "open" else None,
            )  # fmt: skip
    return file.getvalue()
