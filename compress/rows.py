"""Rows of samples: what a layer multiplies its matrix by, at sampled places, beside what it makes there.

    x, (y,) = sample_rows(layer, inputs, [outputs], share, rng)        # [G, P, D], [G, P, O / G] in float64

A convolution's row is what lies under one output place; G are its groups, 1 for other layers. Columns of x are those of
`layer.matrix`. Imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..ir.dims import symbols
from ..ir.graph import Module, Node
from ..ir.ops.window import Window, output_sizes, resolve_pads, transposed, window
from ..kernels.conv import channels_first, framed, in_three_dims, widen, windows
from ..passes.manager import Feeds
from ..passes.prune.layers import RECURRENT, Layer, layers_of

#: Rows that are sampled of all: this many, and this many per column.
ROWS, ROWS_PER_COLUMN = 8192, 16
#: Attributes that say where a convolution's windows lie.
GEOMETRY = ("strides", "pads", "dilations", "auto_pad")
CONVOLUTIONS = frozenset({"conv", "conv_transpose"})
SAMPLED = CONVOLUTIONS | {"gemm", "matmul"}


def sampled_layer(node: Node) -> Layer | str:
    """The layer of a node whose rows can be sampled, else why they cannot."""
    found = layers_of(node)
    if not found:
        return f"{node.name} has no constant matrix"
    if node.name in RECURRENT:
        return f"what an {node.name} makes of its inputs goes on through its gates from step to step"
    if node.name not in SAMPLED or found[0].index != 1:
        return f"{node.name} is not a product of data with a matrix on its right"
    if node.name == "conv_transpose":
        if node.attr("groups") != 1:
            return "it is a transposed convolution in groups"
        return replace(found[0], row_axes=1)
    if node.name == "matmul" and (node.operands[1].rank != 2 or (node.operands[0].rank or 0) < 2):  # type: ignore[union-attr]
        return "it is a batch of matrices"
    if node.name == "gemm" and (node.attr("alpha") != 1.0 or node.attr("beta") != 1.0):
        return "its product is scaled"
    return found[0]


def columns_of(layer: Layer) -> int:
    """Columns of the layer's matrix."""
    shape = layer.value.array().shape
    return math.prod(shape[axis] for axis in layer.perm[layer.row_axes :])


def channel_axis(node: Node) -> int:
    """The axis of the channels in what a sampled layer makes."""
    return 1 if node.name in CONVOLUTIONS and not node.attrs.get("channels_last") else (node.result.rank or 1) - 1


def input_axis(node: Node) -> int:
    """The axis of the channels in what a sampled layer reads."""
    if node.name in CONVOLUTIONS and not node.attrs.get("channels_last"):
        return 1
    return 0 if node.attrs.get("transA") else (node.operands[0].rank or 1) - 1  # type: ignore[union-attr]


def rows_wanted(columns: int, count: int, samples: int) -> int:
    """How many rows `samples` of `count` samples are to give for a layer with that many columns."""
    return max((ROWS + ROWS_PER_COLUMN * columns) * samples // max(count, 1), 16)


def sample_rows(
    layer: Layer, x: np.ndarray, outputs: Sequence[np.ndarray], share: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """About `share` rows of one batch: all of them, or a seeded sample of places."""
    node = layer.node
    if node.name in CONVOLUTIONS:
        return _conv_rows(layer, x, outputs, share, rng)
    data = x.T if node.attrs.get("transA") else x
    flat = data.reshape(-1, data.shape[-1])
    chosen = _choose(len(flat), share, rng)
    made = [y.reshape(-1, y.shape[-1])[None, chosen].astype(np.float64) for y in outputs]
    return flat[None, chosen].astype(np.float64), made


def _conv_rows(
    layer: Layer, x: np.ndarray, outputs: Sequence[np.ndarray], share: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    node, groups, last = layer.node, layer.node.attr("groups"), bool(layer.node.attrs.get("channels_last"))
    data = channels_first(np.asarray, x, last)
    geometry = window(layer.value.shape[2:], **{name: node.attr(name) for name in GEOMETRY})  # type: ignore[index]
    if node.name == "conv":
        geometry = resolve_pads(geometry, data.shape[2:])
        made_sizes = output_sizes(geometry, data.shape[2:])
    else:
        geometry, made_sizes = transposed(
            geometry, data.shape[2:], node.attr("output_padding"), node.attr("output_shape")
        )
        data, geometry = _spread(data, geometry)
    sizes = (1,) * (5 - data.ndim) + tuple(made_sizes)
    full = widen(geometry)
    view = windows(np.ascontiguousarray(framed(in_three_dims(data), full, sizes)), full, sizes)
    if node.name == "conv_transpose":
        view = view[:, :, ::-1, ::-1, ::-1]
    places = _choose(int(np.prod(sizes)), -(-share // len(x)), rng)
    d, h, w = np.unravel_index(places, sizes)
    taps = view[..., d, h, w]  # [N, C, KD, KH, KW, P]
    taps = taps.reshape(len(x), groups, taps.shape[1] // groups, -1, len(places))
    rows = taps.transpose(1, 0, 4, 3, 2).reshape(groups, len(x) * len(places), -1)
    made = []
    for output in outputs:
        y = channels_first(np.asarray, output, last)
        y = y.reshape(len(x), groups, y.shape[1] // groups, -1)[..., places]
        made.append(y.transpose(1, 0, 3, 2).reshape(groups, len(x) * len(places), -1).astype(np.float64))
    return rows.astype(np.float64), made


def _spread(x: np.ndarray, geometry: Window) -> tuple[np.ndarray, Window]:
    """A transposed convolution as one whose kernel is turned round: x with zeros between its places, and the window over it."""
    sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], geometry.strides, strict=True)]
    made = np.zeros((*x.shape[:2], *sizes), x.dtype)
    made[(slice(None),) * 2 + tuple(slice(None, None, step) for step in geometry.strides)] = x
    begins = tuple(extent - 1 - begin for extent, begin in zip(geometry.extents, geometry.begins, strict=True))
    return made, geometry._replace(strides=(1,) * len(begins), begins=begins)


def _choose(count: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted places, all of them or a seeded sample."""
    return np.arange(count) if wanted >= count else np.sort(rng.choice(count, wanted, replace=False))


def first_half(rows: int, count: int, seen: int, samples: int) -> int:
    """How many of a batch's rows are of the first half of all `count` samples, `seen` of which came before this batch's
    `samples`: neighbours, often alike, are on one side."""
    return rows * min(max(count - 2 * seen, 0), 2 * samples) // (2 * max(samples, 1))


def any_number(module: Module) -> bool:
    """Whether a model takes any number of samples at once."""
    firsts = {value.shape[0] if value.shape else 1 for value in module.signature.graph.inputs}
    return len(firsts) == 1 and all(symbols(dim) for dim in firsts)


def samples_of(batch: Mapping[str, Any]) -> int:
    return max((len(a) for a in batch.values() if np.ndim(a)), default=1)


class Thinned:
    """About `wanted` samples of a data set, or of its first or second `half`: whole batches, evenly spaced; where that half
    has none, the others. Meets `Feeds`."""

    def __init__(self, feeds: Feeds, wanted: int, half: int | None = None) -> None:
        self.feeds = feeds
        sizes = [samples_of(batch) for batch in feeds.batches()]
        middle = -(-len(sizes) // 2)
        free = list(range(len(sizes)) if half is None else range(middle) if half == 0 else range(middle, len(sizes)))
        free = free or list(range(len(sizes)))
        total = sum(sizes[place] for place in free)
        count = min(max(round(len(free) * wanted / max(total, 1)), 1), len(free))
        self.places = frozenset(free[(2 * i + 1) * len(free) // (2 * count)] for i in range(count))
        self.count = sum(sizes[place] for place in self.places)
        self.digest = f"{feeds.digest}/{sorted(self.places)}"

    def batches(self) -> Iterator[Mapping[str, Any]]:
        for place, batch in enumerate(self.feeds.batches()):
            if place in self.places:
                yield batch


def affordable(feeds: Feeds, work: float, per_sample: float) -> Feeds:
    """As many samples as make about `work` multiplications, and 64 at least; all where it is not known what a sample costs."""
    wanted = max(int(work / per_sample), 64) if per_sample else feeds.count
    return feeds if wanted >= feeds.count else Thinned(feeds, wanted)


class Singled:
    """`wanted` single samples of a data set, evenly spaced over its first or second half, those of one shape in one batch. For
    models that take any number of samples at once. Meets `Feeds`."""

    def __init__(self, feeds: Feeds, wanted: int, half: int) -> None:
        self.feeds = feeds
        middle = -(-feeds.count // 2)
        start, end = (0, middle) if half == 0 or middle == feeds.count else (middle, feeds.count)
        self.count = min(wanted, end - start)
        self.places = [start + (2 * i + 1) * (end - start) // (2 * self.count) for i in range(self.count)]
        self.digest = f"{feeds.digest}/{self.places}"

    def batches(self) -> Iterator[Mapping[str, Any]]:
        alike: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        seen = 0
        for batch in self.feeds.batches():
            size = samples_of(batch)
            for place in self.places:
                if seen <= place < seen + size:
                    sample = {key: array[place - seen : place - seen + 1] for key, array in batch.items()}
                    alike.setdefault(tuple(array.shape for array in sample.values()), []).append(sample)
            seen += size
        for found in alike.values():
            yield {key: np.concatenate([sample[key] for sample in found]) for key in found[0]}
