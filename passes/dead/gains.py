"""How far a channel is from a constant where nothing bounds it absolutely: |x[i] - mid[i]| <= radius[i] + gain[i] * sup|s|, s
being a value upstream whose size nobody knows.

At the input of each dense product the size is counted anew, so a gain is the sum of one row of weights, times what
depthwise kernels, norms, gates and activations (Lipschitz constants) can make of it: enough to see that a channel's share is
nothing beside its neighbours', and no looser than one layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.graph import Module, Node, Value
from ...ir.opdef import ELEMENTWISE
from .functions import at_points, lipschitz
from .layers import Layers
from .movement import POOLS, channel_axis, origin
from .products import Product
from .spans import BLOCK, Span, Spans

Array = np.ndarray

#: A gate is followed back to what it gates over this many products and pools.
HOPS = 4


@dataclass(frozen=True)
class Gain:
    """|x[i] - mid[i]| <= radius[i] + gain[i] * sup|source|; infinite where nothing is known."""

    mid: Array
    radius: Array
    gain: Array
    source: Value

    @property
    def numbers(self) -> tuple[Array, Array, Array]:
        return self.mid, self.radius, self.gain

    def times(self, factor: Array | float, mid: Array) -> Gain:
        """About another constant, every distance multiplied by at most `factor`."""
        return Gain(mid, _zero_or(self.radius, factor), _zero_or(self.gain, factor), self.source)

    def looser(self, radius: Array) -> Gain:
        return Gain(self.mid, self.radius + radius, self.gain, self.source)


def _zero_or(distance: Array, factor: Array | float) -> Array:
    return np.where(distance == 0, 0.0, distance * factor)


class Gains:
    """The gains along the channels of every value that stands between two products."""

    def __init__(self, module: Module, layers: Layers, spans: Spans) -> None:
        self.along: dict[tuple[Value, int], Gain] = {}
        self.products, self.spans = layers.products, spans
        for graph in module.all_graphs():
            for node in graph.nodes():
                with np.errstate(all="ignore"):
                    self._node(node)

    def at(self, value: Value, axis: int, size: int, *, bounded: bool = True) -> Gain | None:
        """What is known of a value with `size` channels: proven intervals first, or (not `bounded`) only where nothing is
        known in the size of a value upstream, or where they say more."""
        found, span = self.along.get((value, axis)), self.spans.at(value, axis).wide(size)
        finite = np.isfinite(span.lo) & np.isfinite(span.hi)
        if found is None and not finite.any():
            return None
        lo, hi = np.where(finite, span.lo, 0.0), np.where(finite, span.hi, 0.0)
        middle = lo / 2 + hi / 2
        if found is None:
            rest = np.where(finite, 0.0, np.inf)
            return Gain(middle, np.maximum(hi - middle, rest), rest, value)
        behind = found.gain > 0 if bounded else np.isinf(found.gain)
        near = finite & (hi - middle <= found.radius + np.where(behind, np.inf, 0.0))
        return Gain(
            np.where(near, middle, found.mid),
            np.where(near, hi - middle, found.radius),
            np.where(near, 0.0, found.gain),
            found.source,
        )

    def _node(self, node: Node) -> None:
        product = self.products.get(node)
        if product is not None:
            self._product(product)
        elif node.has(ELEMENTWISE) and node.result.shape is not None:
            for axis in sorted(
                {a for v in node.operands if v is not None for a in self._axes(v, len(node.result.shape))}
            ):
                self._tell(node.result, axis, self._elementwise(node, axis))
        elif node.name == "batch_norm":
            self._batch_norm(node)
        elif node.name in _CARRY:
            for axis in range(len(node.result.shape or ())):
                self._tell(node.result, axis, self._moved(node, axis))

    def _axes(self, value: Value, rank: int) -> list[int]:
        if value.shape is None or len(value.shape) != rank:
            return []
        return [axis for axis in range(rank) if (value, axis) in self.along]

    def _tell(self, value: Value, axis: int, gain: Gain | None) -> None:
        if gain is None or len(gain.gain) != value.shape[axis]:  # type: ignore[index]
            return
        lost = ~(np.isfinite(gain.mid) & np.isfinite(gain.radius) & np.isfinite(gain.gain))
        if not lost.all():
            radius, share = (np.where(lost, np.inf, part) for part in (gain.radius, gain.gain))
            self.along[value, axis] = Gain(np.where(lost, 0.0, gain.mid), radius, share, gain.source)

    def _input(self, p: Product) -> Gain:
        """What a product is given: counted anew, but for what is proven; a depthwise one goes on with what there is."""
        found = self.at(p.x, p.data_axis, p.channels)
        if p.groups > 1 and p.inside == 1 and found is not None:
            return found
        x = self.spans.at(p.x, p.data_axis).wide(p.channels)
        finite = np.isfinite(x.lo) & np.isfinite(x.hi)
        lo, hi = np.where(finite, x.lo, 0.0), np.where(finite, x.hi, 0.0)
        return Gain(lo / 2 + hi / 2, hi - (lo / 2 + hi / 2), np.where(finite, 0.0, 1.0), p.x)

    def _product(self, p: Product) -> None:
        bias = bias_of(p, self.spans)
        if bias is None or not p.is_finite:
            return
        x = self._input(p)
        radius = x.radius + np.abs(x.mid) if p.partial else x.radius
        column = np.stack([np.where(np.isfinite(a), a, 0.0).reshape(p.groups, -1) for a in (radius, x.gain)], axis=-1)
        unknown = (~np.isfinite(radius + x.gain)).astype(np.float64).reshape(p.groups, -1, 1)
        mid = x.mid.reshape(p.groups, -1, 1)
        made = np.empty((3, p.groups, p.outputs // p.groups))
        for rows, cube in p.blocks(BLOCK):
            size = np.abs(cube).sum(-1)
            made[0][:, rows] = (cube.sum(-1) @ mid)[..., 0]
            reach = np.where((size @ unknown) > 0, np.inf, size @ column)
            made[1][:, rows], made[2][:, rows] = reach[..., 0], reach[..., 1]
        centre, reached, gain = (part.reshape(-1) for part in made)
        scale = abs(p.alpha)
        self._tell(p.node.result, p.out_axis, Gain(p.alpha * centre + bias, scale * reached, scale * gain, x.source))

    def _elementwise(self, node: Node, axis: int) -> Gain | None:
        rank = len(node.result.shape)  # type: ignore[arg-type]
        operands = [v for v in node.operands if v is not None]
        known = [
            i
            for i, v in enumerate(operands)
            if v.shape is not None and len(v.shape) == rank and (v, axis) in self.along
        ]
        size = node.result.shape[axis]  # type: ignore[index]
        if len(known) == 2 == len(operands) and node.name == "mul":
            return self._gated(operands[0], operands[1], axis)
        if len(known) != 1 or type(size) is not int:
            return None
        x = self.at(operands[known[0]], axis, size)
        assert x is not None
        if node.name == "clip" and known[0] == 0:
            low, high = (None if v is None else v.scalar() for v in (*node.operands, None, None)[1:3])
            given = [v for v in node.operands[1:] if v is not None]
            return x.times(1.0, np.clip(x.mid, low, high)) if all(v.scalar() is not None for v in given) else None
        if len(operands) == 1:
            steep, points = lipschitz(node.name, node.attrs), at_points(node.name, node.attrs, x.mid)
            return None if steep is None or points is None else x.times(steep, points)
        if len(operands) != 2:
            return None
        other = operands[1 - known[0]]
        place = axis - rank + len(other.shape or ())
        along = other.shape is not None and place >= 0 and other.shape[place] != 1
        span = (self.spans.at(other, place) if along else self.spans.hull(other)).wide(size)
        return _binary(node.name, known[0], x, span)

    def _gated(self, x: Value, y: Value, axis: int) -> Gain | None:
        """x y of which one, the gate, is bounded: |x y - x0 y0| <= sup|y| |x - x0| + |x0| |y - y0|."""
        if x is y:
            return None
        size = [np.maximum(np.abs(span.lo), np.abs(span.hi)) for span in (self.spans.hull(x), self.spans.hull(y))]
        if not np.isfinite(size[1]).all():
            x, y, size = y, x, size[::-1]
        data, gate = self.along[x, axis], self.along[y, axis]
        same = self._in_size_of(gate, data.source)
        if same is None or len(data.mid) != len(gate.mid) or not np.isfinite(size[1]).all():
            return None
        about, weight = data.times(size[1], data.mid * gate.mid), np.abs(data.mid)
        gain = about.gain + _zero_or(same.gain, weight)
        return Gain(about.mid, about.radius + _zero_or(same.radius, weight), gain, data.source)

    def _in_size_of(self, x: Gain, source: Value) -> Gain | None:
        """The same distances in the size of another value, at most a few products further up."""
        for _ in range(HOPS):
            if x.source is source:
                return x
            found = next((gain for gain in self._of(x.source) if np.isfinite(gain.radius + gain.gain).all()), None)
            if found is None:
                return None
            base, rate = (np.abs(found.mid) + found.radius).max(), found.gain.max()
            x = Gain(x.mid, x.radius + _zero_or(x.gain, base), _zero_or(x.gain, rate), found.source)
        return None

    def _of(self, value: Value) -> list[Gain]:
        return [self.along[value, axis] for axis in self._axes(value, value.rank or 0)]

    def _batch_norm(self, node: Node) -> None:
        at = channel_axis(node)
        x = node.operands[0]
        params = node.operands[1:5]
        if (x, at) not in self.along or not all(v is not None and v.is_const for v in params):
            return
        scale, bias, mean, var = (v.array().astype(np.float64) for v in params)  # type: ignore[union-attr]
        factor = scale / np.sqrt(var + node.attr("epsilon"))
        found = self.at(x, at, len(factor))  # type: ignore[arg-type]
        self._tell(node.result, at, found.times(np.abs(factor), factor * (found.mid - mean) + bias))  # type: ignore[union-attr]

    def _moved(self, node: Node, axis: int) -> Gain | None:
        found = origin(node, 0, axis)
        if found is None or len(found) != 1 or len(found[0]) != 1:
            return None
        part = found[0][0]
        source = node.operands[part.operand]
        if (source, part.axis) not in self.along:
            return None
        x = self.at(source, part.axis, source.shape[part.axis])  # type: ignore[arg-type, index, union-attr]
        assert x is not None
        mid, radius, gain = (a[part.table] for a in (x.mid, x.radius, x.gain))
        spread = np.abs(mid - mid[:, :1]) + (np.abs(mid) if node.attrs.get("count_include_pad") else 0.0)
        return Gain(mid[:, 0], (radius + spread).max(axis=1), gain.max(axis=1), x.source)


#: A value between others of the channel, or a mean of them.
_CARRY = (POOLS - {"lp_pool", "global_lp_pool", "resize"}) | {
    "reduce_mean",
    "transpose",
    "reshape",
    "flatten",
    "squeeze",
    "unsqueeze",
}


def bias_of(p: Product, spans: Spans) -> Array | None:
    """The constant that each output gets, float64 [outputs]; None where it is computed."""
    if p.bias is None:
        return np.zeros(p.outputs)
    span = spans.at(p.bias, len(p.bias.shape) - 1) if p.bias.shape else spans.hull(p.bias)
    return span.wide(p.outputs).lo * p.beta if span.constant.all() else None


def _binary(name: str, place: int, x: Gain, other: Span) -> Gain | None:
    """`x` is operand `place`; of the other the span is known."""
    constant, size = other.constant, np.maximum(np.abs(other.lo), np.abs(other.hi))
    if name == "div" and place == 0 and constant.all() and (other.lo != 0).all():
        name, other, size = "mul", Span(1 / other.lo, 1 / other.hi), 1 / size
    if name == "mul":
        made = x.times(size, np.where(constant, x.mid * other.lo, 0.0))
        return made.looser(np.where(constant | (x.mid == 0), 0.0, np.abs(x.mid) * size))
    if name == "prelu" and place == 0:
        steep = np.maximum(1.0, size)
        made = x.times(steep, np.where(x.mid >= 0, x.mid, np.where(constant, x.mid * other.lo, 0.0)))
        return made.looser(np.where(constant | (x.mid >= 0), 0.0, np.abs(x.mid) * size))
    if name in ("add", "sub") and (name == "add" or place == 0):
        sign = 1.0 if name == "add" else -1.0
        middle = np.where(np.isfinite(other.lo + other.hi), (other.lo + other.hi) / 2, 0.0)
        return x.times(1.0, x.mid + sign * middle).looser(np.where(constant, 0.0, other.hi - middle))
    return None
