"""Small versions of the vision networks that people prune, in plain torch, and how many groups of channels a person counts.

    for case in ARCHITECTURES.values():
        net, inputs = case.live()           # torch
        module, feeds = case.loaded()       # IR

Networks over patches, tokens and time are in architectures_text.py; all are in ARCHITECTURES. Widths are a few
channels, no two alike where it matters, so that a mix-up of axes cannot pass unseen. Imports torch at the top: only for
tests that need it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyir
import numpy as np
import torch
import torch.nn.functional as F
from anyir.ir.graph import Module
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """`groups`: how many groups a person counts that may be cut; `normed`: how many with norms written out as well (0: none
    is held by a norm). `fast`: small enough for every run of the tests."""

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...]
    groups: int
    normed: int = 0
    tokens: int = 0
    fast: bool = False

    def loaded(self) -> tuple[Module, dict[str, np.ndarray]]:
        """The network in the IR by our own reading of torch, and its inputs by name."""
        net, inputs = self.live()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch about its own recurrent layers
            module = anyir.load(net, inputs=inputs)
        return module, dict(zip(module.signature.input_names(), (x.numpy() for x in inputs), strict=True))

    def live(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The network with lively numbers everywhere, in eval mode, and an example of its inputs."""
        torch.manual_seed(len(self.name))
        module = self.build().eval()
        for layer in module.modules():
            _enliven(layer)
        if self.tokens:
            return module, tuple(torch.randint(0, self.tokens, shape) for shape in self.inputs)
        return module, tuple(torch.randn(shape) for shape in self.inputs)


def _enliven(layer: nn.Module) -> None:
    """Norms that do something, biases that are not all alike, and channels that a relu does not switch off for good."""
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        layer.running_mean.uniform_(-0.2, 0.1)
        layer.running_var.uniform_(0.1, 0.5)
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    for name, parameter in layer.named_parameters(recurse=False):
        if parameter.ndim == 1:
            low, high = (0.7, 1.3) if isinstance(layer, norms) and name == "weight" else (-0.1, 0.5)
            nn.init.uniform_(parameter, low, high)


ARCHITECTURES: dict[str, Architecture] = {}


def architecture(
    groups: int, *inputs: tuple[int, ...], normed: int = 0, tokens: int = 0, fast: bool = False
) -> Callable[[Any], Any]:
    """Register a module class, or a function that makes a module, under its name in lower case."""

    def register(build: Any) -> Any:
        name = build.__name__.lower()
        ARCHITECTURES[name] = Architecture(name, build, inputs, groups, normed, tokens, fast)
        return build

    return register


def conv_bn(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    layers = [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Head(nn.Module):
    """Pool, flatten, classify."""

    def __init__(self, channels: int, classes: int = 5) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


IMAGE = (2, 3, 16, 16)


# ------------------------------------------------------------------------------------------------- plain and residual


@architecture(4, IMAGE, fast=True)
class Vgg(nn.Module):
    """Three convolutions, a hidden layer behind a flatten of 4 x 4 maps."""

    def __init__(self) -> None:
        super().__init__()
        layers = [conv_bn(3, 6), conv_bn(6, 8), nn.MaxPool2d(2), conv_bn(8, 10), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.top = nn.Sequential(nn.Flatten(), nn.Linear(160, 12), nn.ReLU(), nn.Linear(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.features(x))


class BasicBlock(nn.Module):
    def __init__(self, i: int, o: int, s: int, groups: int = 1, wide: int = 0) -> None:
        super().__init__()
        wide = wide or o
        self.a, self.b = conv_bn(i, wide, 3, s), conv_bn(wide, o, act=None)
        self.skip = conv_bn(i, o, 1, s, act=None) if s > 1 or i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(self.a(x)) + self.skip(x))


@architecture(6, IMAGE, fast=True)
class ResNet18(nn.Module):
    """Two stages of two blocks: a stream for each stage, an inner width for each block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.blocks = nn.Sequential(
            BasicBlock(8, 8, 1, wide=6), BasicBlock(8, 8, 1, wide=7), BasicBlock(8, 12, 2, wide=9), BasicBlock(12, 12, 1, wide=10)
        )  # fmt: skip
        self.head = Head(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


class Bottleneck(nn.Module):
    def __init__(self, i: int, mid: int, o: int, s: int = 1, groups: int = 1, se: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(i, mid, 1), conv_bn(mid, mid, 3, s, groups))
        self.se = SqueezeExcite(mid, 3) if se else nn.Identity()
        self.out = conv_bn(mid, o, 1, act=None)
        self.skip = conv_bn(i, o, 1, s, act=None) if s > 1 or i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.out(self.se(self.body(x))) + self.skip(x))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, inner: int, gate: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.down, self.up, self.gate = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


@architecture(7, IMAGE)
class ResNet50(nn.Module):
    """A stem, two streams, and two inner widths for each of the two bottlenecks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(3, 6), Bottleneck(6, 5, 8), Bottleneck(8, 7, 12, 2))
        self.body[1].body[1] = conv_bn(5, 5)
        self.head = Head(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@architecture(4, IMAGE)
class ResNeXt(nn.Module):
    """Grouped 3 x 3: groups go as a whole (four of two channels), or places in all groups (two of six)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(3, 6), Bottleneck(6, 8, 10, 1, groups=4), Bottleneck(10, 12, 10, 1, groups=2))
        self.head = Head(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@architecture(6, IMAGE)
class RegNet(nn.Module):
    """Grouped bottlenecks with squeeze-excite, hidden widths of which are groups of their own."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [Bottleneck(6, 8, 8, 2, groups=4, se=True), Bottleneck(8, 12, 10, 2, groups=4, se=True)]
        self.body = nn.Sequential(conv_bn(3, 6), *blocks)
        self.head = Head(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


# ---------------------------------------------------------------------------------------------------- concatenations


@architecture(8, IMAGE)
class DenseNet(nn.Module):
    """Every layer reads all before it: the stem, two widths for each of three layers, the transition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.layers = nn.ModuleList()
        for i in range(3):
            wide = 6 + 4 * i
            layer = nn.Sequential(nn.BatchNorm2d(wide), nn.ReLU(), nn.Conv2d(wide, 7, 1), conv_bn(7, 4, 3, act=None))
            self.layers.append(layer)
        self.transition = nn.Sequential(conv_bn(18, 9, 1), nn.AvgPool2d(2))
        self.head = Head(9)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.stem(x)]
        for layer in self.layers:
            parts.append(layer(torch.cat(parts, 1)))
        return self.head(self.transition(torch.cat(parts, 1)))


@architecture(7, IMAGE)
class Inception(nn.Module):
    """A stem, four branches (two of them with an inner width), joined."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 6)
        self.one = conv_bn(6, 4, 1)
        self.three = nn.Sequential(conv_bn(6, 5, 1), conv_bn(5, 6))
        self.five = nn.Sequential(conv_bn(6, 3, 1), conv_bn(3, 4, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(6, 3, 1))
        self.head = Head(17)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1))


@architecture(7, IMAGE)
class SqueezeNet(nn.Module):
    """Fire modules: squeeze, and two expansions side by side; the classifier is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.squeeze, self.one, self.three = (nn.ModuleList() for _ in range(3))
        for i, o in ((6, 5), (10, 6)):
            self.squeeze.append(nn.Conv2d(i, 4, 1))
            self.one.append(nn.Conv2d(4, o, 1))
            self.three.append(nn.Conv2d(4, o, 3, padding=1))
        self.top = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for squeeze, one, three in zip(self.squeeze, self.one, self.three, strict=True):
            x = F.relu(squeeze(x))
            x = torch.cat([F.relu(one(x)), F.relu(three(x))], 1)
        return F.relu(self.top(x)).mean((2, 3))


# --------------------------------------------------------------------------------------------------------- mobile nets


class Inverted(nn.Module):
    """Expand, depthwise, project."""

    def __init__(self, i: int, wide: int, o: int, k: int = 3, s: int = 1, act: Any = nn.ReLU6, se: int = 0) -> None:
        super().__init__()
        self.expand, self.depth = conv_bn(i, wide, 1, act=act), conv_bn(wide, wide, k, s, wide, act=act)
        self.se = SqueezeExcite(wide, se, nn.Hardsigmoid) if se else nn.Identity()
        self.project = conv_bn(wide, o, 1, act=None)
        self.residual = i == o and s == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.se(self.depth(self.expand(x))))
        return x + y if self.residual else y


@architecture(7, IMAGE, fast=True)
class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks = [Inverted(6, 10, 6), Inverted(6, 12, 8, s=2), Inverted(8, 14, 8)]
        self.body = nn.Sequential(conv_bn(3, 6, act=nn.ReLU6), *blocks, conv_bn(8, 12, 1, act=nn.ReLU6))
        self.head = nn.Sequential(Head(12, 9), nn.ReLU(), nn.Linear(9, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@architecture(6, IMAGE)
class MobileNetV3(nn.Module):
    """Squeeze-excite with hard activations; its hidden width is a group of its own."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.Hardswish
        blocks = [Inverted(6, 10, 6, se=4, act=act), Inverted(6, 12, 8, 5, 2, act=act, se=5)]
        self.body = nn.Sequential(conv_bn(3, 6, act=act), *blocks)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@architecture(7, IMAGE)
class EfficientNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks = [Inverted(6, 12, 8, se=3, act=nn.SiLU), Inverted(8, 14, 8, 5, act=nn.SiLU, se=4)]
        self.body = nn.Sequential(conv_bn(3, 6, 3, 2, act=nn.SiLU), *blocks, conv_bn(8, 11, 1, act=nn.SiLU))
        self.head = Head(11)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


@architecture(3, IMAGE)
class ShuffleNetV1(nn.Module):
    """Grouped 1 x 1, shuffle, depthwise, grouped 1 x 1, over a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.a, self.depth, self.b = (
            conv_bn(12, 18, 1, g=3),
            conv_bn(18, 18, g=18, act=None),
            conv_bn(18, 12, 1, g=3, act=None),
        )
        self.last = conv_bn(12, 7, 1)
        self.head = Head(7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.b(self.depth(shuffle(self.a(x), 3))))
        return self.head(self.last(x))


@architecture(4, IMAGE)
class ShuffleNetV2(nn.Module):
    """Half of the channels passes by; the halves are joined and shuffled, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.units = nn.ModuleList(
            nn.Sequential(conv_bn(6, 6, 1), conv_bn(6, 6, g=6, act=None), conv_bn(6, 6, 1)) for _ in range(2)
        )
        self.last = conv_bn(12, 9, 1)
        self.head = Head(9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for unit in self.units:
            a, b = x.chunk(2, 1)
            x = shuffle(torch.cat([a, unit(b)], 1), 2)
        return self.head(self.last(x))


class Ghost(nn.Module):
    """Half of the channels made from the other half by a cheap depthwise convolution."""

    def __init__(self, i: int, o: int, act: Any = nn.ReLU) -> None:
        super().__init__()
        self.primary, self.cheap = conv_bn(i, o // 2, 1, act=act), conv_bn(o // 2, o // 2, 3, g=o // 2, act=act)

    def forward(self, x: Tensor) -> Tensor:
        y = self.primary(x)
        return torch.cat([y, self.cheap(y)], 1)


@architecture(3, IMAGE)
class GhostNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.a, self.b = Ghost(8, 14), Ghost(14, 8, act=None)
        self.last = conv_bn(8, 9, 1)
        self.head = Head(9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.last(x + self.b(self.a(x))))


# ------------------------------------------------------------------------------------- images to images, detection


@architecture(7, IMAGE, fast=True)
class UNet(nn.Module):
    """Skips joined to what a transposed convolution brings back up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([conv_bn(3, 5), conv_bn(5, 7), conv_bn(7, 9)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(9, 6, 2, 2), nn.ConvTranspose2d(8, 4, 2, 2)])
        self.fuse = nn.ModuleList([conv_bn(13, 8), conv_bn(9, 6)])
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down[0](x)
        b = self.down[1](F.max_pool2d(a, 2))
        c = self.down[2](F.max_pool2d(b, 2))
        c = self.fuse[0](torch.cat([self.up[0](c), b], 1))
        return self.out(self.fuse[1](torch.cat([self.up[1](c), a], 1)))


@architecture(5, IMAGE)
class AutoEncoder(nn.Module):
    """Down and up again by strided and transposed convolutions, one of them grouped, with a code in between."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ELU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ELU())
        self.code, self.back = nn.Linear(128, 10), nn.Linear(10, 128)
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2),
            nn.LeakyReLU(0.1),
            nn.ConvTranspose2d(6, 3, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(self.code(self.encode(x).flatten(1)))
        return self.decode(F.relu(self.back(code)).reshape(-1, 8, 4, 4))


@architecture(3, IMAGE)
class SuperResolution(nn.Module):
    """Sub-pixel convolution twice: a channel behind pixel_shuffle is a block of channels before it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 7, 5, padding=2),
            nn.Conv2d(7, 20, 3, padding=1),
            nn.Conv2d(5, 9, 3, padding=1),
        )
        self.out = nn.Conv2d(9, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_shuffle(self.b(torch.tanh(self.a(x))), 2)
        return F.pixel_shuffle(self.out(torch.tanh(self.c(x))), 2)


@architecture(5, IMAGE)
class HrNet(nn.Module):
    """Two resolutions side by side that exchange by strided convolutions and by resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 6)
        self.high, self.low = (
            BasicBlock(6, 6, 1, wide=7),
            nn.Sequential(conv_bn(6, 9, 3, 2), BasicBlock(9, 9, 1, wide=8)),
        )
        self.rise, self.fall = conv_bn(9, 6, 1, act=None), conv_bn(6, 9, 3, 2, act=None)
        self.last = conv_bn(15, 10, 1)
        self.out = nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        high, low = self.high(x), self.low(x)
        a = F.relu(high + F.interpolate(self.rise(low), scale_factor=2.0, mode="nearest"))
        b = F.relu(low + self.fall(high))
        b = F.interpolate(b, size=(16, 16), mode="bilinear", align_corners=False)
        return self.out(self.last(torch.cat([a, b], 1)))


class C2f(nn.Module):
    """Split in two, one half through bottlenecks, all parts joined."""

    def __init__(self, i: int, c: int, o: int) -> None:
        super().__init__()
        self.a, self.b = conv_bn(i, 2 * c, 1, act=nn.SiLU), conv_bn(3 * c, o, 1, act=nn.SiLU)
        self.inner = nn.Sequential(conv_bn(c, c - 1, act=nn.SiLU), conv_bn(c - 1, c, act=nn.SiLU))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.a(x).chunk(2, 1))
        parts.append(parts[-1] + self.inner(parts[-1]))
        return self.b(torch.cat(parts, 1))


@architecture(14, (1, 3, 32, 32))
class Yolo(nn.Module):
    """Backbone, spatial pyramid pooling, a neck that joins scales, heads that are reshaped and joined along positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 6, 3, 2, act=nn.SiLU)
        self.one, self.two = C2f(6, 4, 8), nn.Sequential(conv_bn(8, 9, 3, 2, act=nn.SiLU), C2f(9, 5, 10))
        self.spp = conv_bn(30, 11, 1, act=nn.SiLU)
        self.neck = C2f(19, 4, 7)
        self.heads = nn.ModuleList([nn.Conv2d(7, 6, 1), nn.Conv2d(11, 6, 1)])

    def forward(self, x: Tensor) -> Tensor:
        a = self.one(self.stem(x))
        b = self.two(a)
        p = F.max_pool2d(b, 5, 1, 2)
        b = self.spp(torch.cat([b, p, F.max_pool2d(p, 5, 1, 2)], 1))
        a = self.neck(torch.cat([F.interpolate(b, scale_factor=2.0), a], 1))
        made = [head(y).flatten(2) for head, y in zip(self.heads, (a, b), strict=True)]
        return torch.cat(made, 2).sigmoid()


@architecture(4, (1, 3, 24, 24))
class Mtcnn(nn.Module):
    """The O-net: PReLU after each layer, a flatten, two heads on one trunk."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 5), (5, 7), (7, 8))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3) for i, o in sizes)
        self.slopes = nn.ModuleList(nn.PReLU(o) for _, o in sizes)
        self.fc, self.slope = nn.Linear(32, 10), nn.PReLU(10)
        self.face, self.box = nn.Linear(10, 2), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv, slope in zip(self.convs, self.slopes, strict=True):
            x = F.max_pool2d(slope(conv(x)), 2, ceil_mode=True)
        x = self.slope(self.fc(x.permute(0, 3, 2, 1).flatten(1)))
        return self.face(x).softmax(1), self.box(x)


@architecture(5, IMAGE)
class GroupNormNet(nn.Module):
    """Group norms of several groups: groups of channels go as a whole. Instance norms: channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.b, self.norm_b = nn.Conv2d(8, 9, 3, padding=1), nn.InstanceNorm2d(9, affine=True)
        self.c, self.norm_c = nn.Conv2d(9, 6, 3, padding=1), nn.GroupNorm(1, 6)
        self.d, self.norm_d = nn.Conv2d(6, 12, 3, padding=1), nn.GroupNorm(3, 12)
        self.e = nn.Conv2d(12, 10, 1)
        self.head = nn.Sequential(Head(10, 7), nn.Tanh(), nn.Linear(7, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm_a(self.a(x)))
        x = F.silu(self.norm_b(self.b(x)))
        x = F.silu(self.norm_d(self.d(F.silu(self.norm_c(self.c(x))))))
        return self.head(F.relu(self.e(x)))
