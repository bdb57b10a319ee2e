"""Reductions and normalisations that exporters wrote out become one op again: means, norms of vectors, layer, instance and
RMS norm with what scales and shifts their result, group norm.

A variance must be the mean of the squared differences: the mean of the squares less the square of the mean cancels where
the other does not. x over its Euclidean norm stays, and x over the norm or a number, whichever is larger: lp_normalization
gives 0, not NaN, for a vector of zeros, and unit length to one that is nearly that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ...ir.graph import Node, Value
from ..manager import pattern_pass
from ..optimize.common import same_dims
from ..pattern import literal_equals
from ..rewrite import StagingBuilder, rule
from .terms import fill, is_float, near, number, own, product, stands_for

# Reductions.


def _axes(node: Node) -> tuple[int, ...] | None:
    """The axes of a reduction, sorted and positive; None where they, or the rank, are not known."""
    axes, rank = node.operand("axes"), node.operands[0].rank
    if rank is None or (axes is not None and axes.ints() is None):
        return None
    given = () if axes is None else axes.ints()
    if not given:
        return () if node.attr("noop_with_empty_axes") else tuple(range(rank))
    return tuple(sorted(a % rank for a in given))


def _count(node: Node) -> int | None:
    """How many elements a reduction takes together; None where that is open."""
    axes, shape = _axes(node), node.operands[0].shape
    if axes is None or shape is None or not all(type(shape[a]) is int for a in axes):
        return None
    return math.prod(shape[a] for a in axes)  # type: ignore[misc]


def _again(b: StagingBuilder, name: str, node: Node, x: Value) -> Value:
    """The reduction of `x` called `name` over the axes of `node`."""
    return b.call(name, (x, *node.operands[1:]), dict(node.attrs)).result


@rule("mul", "div", numerics="ulp")
def mean_of_sum(b: StagingBuilder, node: Node):
    """sum(x) / n -> mean(x)"""
    found = product(node)
    if found is None or len(found.parts) != 1:
        return None
    total = own(found.parts[0], "reduce_sum")
    count = None if total is None or not is_float(total.result) else _count(total)
    if not count or not stands_for(total.result, node):  # type: ignore[union-attr]
        return None
    if not near(found.factor * count, 1.0, node.result):
        return b.decline("the divisor is not the number of elements")
    return _again(b, "reduce_mean", total, total.operands[0])  # type: ignore[arg-type,union-attr]


def _squared(value: Value | None) -> Value | None:
    """The y of y * y, when only one node uses the square."""
    node = own(value, "square", "mul", "pow")
    if node is None or not is_float(node.result):
        return None
    y = node.operands[0]
    if node.name == "mul" and node.operands[1] is not y:
        return None
    if node.name == "pow" and not (literal_equals(node.operands[1], 2) and stands_for(y, node)):
        return None
    return y


@rule("reduce_sum", numerics="ulp")
def sum_of_squares(b: StagingBuilder, node: Node):
    """sum(x * x) -> sum_square(x); sum(|x|) -> l1(x)"""
    x = _squared(node.operands[0])
    if x is not None:
        return _again(b, "reduce_sum_square", node, x)
    size = own(node.operands[0], "abs")
    return _again(b, "reduce_l1", node, size.operands[0]) if size is not None and is_float(node.result) else None


@rule("sqrt", numerics="ulp")
def root_of_sum_of_squares(b: StagingBuilder, node: Node):
    """sqrt(sum_square(x)) -> l2(x)"""
    total = own(node.operands[0], "reduce_sum_square")
    return None if total is None else _again(b, "reduce_l2", total, total.operands[0])


@rule("log", numerics="ulp")
def log_of_sum(b: StagingBuilder, node: Node):
    """log(sum(x)) -> log_sum(x)"""
    total = own(node.operands[0], "reduce_sum")
    return None if total is None else _again(b, "reduce_log_sum", total, total.operands[0])


@rule("reduce_log_sum", numerics="approx")
def log_of_sum_of_exp(b: StagingBuilder, node: Node):
    """log_sum(exp(x)) -> log_sum_exp(x); approx: it does not overflow where the written-out form does"""
    exp = own(node.operands[0], "exp")
    return None if exp is None else _again(b, "reduce_log_sum_exp", node, exp.operands[0])


# Parts of a normalisation.


def _mean_square(value: Value | None) -> tuple[Value, tuple[int, ...], Node] | None:
    """(d, axes, the node that squares) of mean(d * d) with its axes kept as dims of 1."""
    mean = own(value, "reduce_mean")
    if mean is not None and mean.attr("keepdims"):
        square, axes = mean.operands[0], _axes(mean)
        d = _squared(square)
        return (d, axes, square.node) if d is not None and axes else None  # type: ignore[return-value]
    node = own(value, "mul", "div")
    found = None if node is None else product(node)
    total = own(found.parts[0], "reduce_sum_square") if found is not None and len(found.parts) == 1 else None
    count = _count(total) if total is not None and total.attr("keepdims") else None
    if not count or not near(found.factor * count, 1.0, node.result):  # type: ignore[union-attr]
        return None
    return total.operands[0], _axes(total), total  # type: ignore[return-value,union-attr]


def _root(value: Value | None) -> Value | None:
    """The y of sqrt(y)."""
    node = own(value, "sqrt", "pow")
    if node is None or (node.name == "pow" and number(node.operands[1]) != 0.5):
        return None
    return node.operands[0]


def _inverse_root(value: Value | None) -> Value | None:
    """The y of 1 / sqrt(y)."""
    node = own(value, "rsqrt", "pow", "div", "reciprocal")
    if node is None:
        return None
    if node.name in ("rsqrt", "pow"):
        return node.operands[0] if node.name == "rsqrt" or number(node.operands[1]) == -0.5 else None
    if node.name == "div" and not literal_equals(node.operands[0], 1.0):
        return None
    return _root(node.operands[-1])


class _Norm:
    """d / sqrt(mean(d * d) + epsilon), perhaps times a constant `weight`; `square` is the node that squares d."""

    def __init__(self, d: Value, axes: tuple[int, ...], epsilon: float, square: Node, weight: Value | None) -> None:
        self.d = d
        self.axes = axes
        self.epsilon = epsilon
        self.square = square
        self.weight = weight

    @property
    def last(self) -> int | None:
        """The first of the axes, when they are the last ones."""
        first = self.axes[0]
        return first if self.axes == tuple(range(first, self.d.rank)) else None  # type: ignore[arg-type]

    @property
    def spatial(self) -> bool:
        """The axes are all but the first two."""
        return self.axes == tuple(range(2, self.d.rank))  # type: ignore[arg-type]

    def source(self, root: Node) -> tuple[Value, bool] | None:
        """(x, True) where d is x - mean(x) over the same axes and belongs to the norm alone; (d, False) else."""
        node = self.d.node
        if node is None or node.name != "sub":
            return self.d, False
        x, m = node.operands
        mean = own(m, "reduce_mean")
        if mean is None or mean.operands[0] is not x or not mean.attr("keepdims") or _axes(mean) != self.axes:
            return self.d, False
        inside = {root, self.square, *(v.node for v in root.operands)}
        return (x, True) if all(user in inside for user in self.d.users) else None


def _norms(root: Node) -> Iterator[_Norm]:
    """What `root` could be the end of."""
    if root.name == "div":
        d, below = root.operands
        yield from _checked(root, d, _root(below), None)
        return
    found = product(root)
    if found is None or not 2 <= len(found.parts) <= 3 or not is_float(root.result):
        return
    if not near(found.factor, 1.0, root.result):
        return
    for place, part in enumerate(found.parts):
        rest = [p for i, p in enumerate(found.parts) if i != place]
        under = _inverse_root(part)
        if under is None:
            continue
        for d, *others in (rest, rest[::-1])[: len(rest)]:
            weight = others[0] if others else None
            if weight is None or weight.is_const:
                yield from _checked(root, d, under, weight)


def _checked(root: Node, d: Value, under: Value | None, weight: Value | None) -> Iterator[_Norm]:
    total = own(under, "add")
    if total is None or not stands_for(d, root):
        return
    for value, constant in (total.operands, total.operands[::-1]):
        epsilon, found = number(constant), _mean_square(value)
        if epsilon is not None and epsilon >= 0 and found is not None and found[0] is d:
            yield _Norm(d, found[1], epsilon, found[2], weight)


def _vector(b: StagingBuilder, w: Value, x: Value, axis: int) -> Value | None:
    """A constant in the shape of x from `axis` on, when it has these elements and perhaps leading dims of 1."""
    want = () if x.shape is None else x.shape[axis:]
    have = w.shape
    if not w.is_const or w.dtype is not x.dtype or have is None or not all(type(d) is int for d in want):
        return None
    lead = len(have) - len(want)
    if lead < 0 or len(have) > x.rank or have[lead:] != want or any(d != 1 for d in have[:lead]):  # type: ignore[operator]
        return None
    return b.reshape(w, want, allowzero=0 in want) if lead else w


# Norms.


@rule("div", "mul", numerics="ulp", benefit=3)
def fuse_layer_norm(b: StagingBuilder, node: Node):
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) -> layer_norm(x)"""
    for norm in _norms(node):
        found = norm.source(node)
        if found is None or not found[1]:
            continue
        if norm.last is None:
            return b.decline("the axes are not the last ones")
        scale = None if norm.weight is None else _vector(b, norm.weight, found[0], norm.last)
        if norm.weight is not None and scale is None:
            return b.decline("the scale does not have the normalised shape")
        return b.layer_norm(found[0], scale, axis=norm.last, epsilon=norm.epsilon)
    return None


@rule("div", "mul", numerics="ulp", benefit=4)
def fuse_instance_norm(b: StagingBuilder, node: Node):
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) over all spatial axes -> instance_norm(x)"""
    for norm in _norms(node):
        found = norm.source(node)
        if found is None or not found[1] or not norm.spatial or norm.last is None or norm.weight is not None:
            continue
        x = found[0]
        channels = x.shape[1]  # type: ignore[index]
        if x.rank < 4 or type(channels) is not int:  # type: ignore[operator]
            return b.decline("the number of channels is open, or layer_norm says it")
        ones = [b.const(np.full(channels, fill, x.dtype.numpy)) for fill in (1, 0)]  # type: ignore[union-attr]
        return b.instance_norm(x, *ones, epsilon=norm.epsilon)
    return None


@rule("div", "mul", numerics="ulp")
def fuse_rms_norm(b: StagingBuilder, node: Node):
    """x / sqrt(mean(x^2) + eps) -> rms_norm(x)"""
    for norm in _norms(node):
        found = norm.source(node)
        if found is None or found[1]:
            continue
        if norm.last is None:
            return b.decline("the axes are not the last ones")
        scale = None if norm.weight is None else _vector(b, norm.weight, norm.d, norm.last)
        if norm.weight is not None and scale is None:
            return b.decline("the scale does not have the normalised shape")
        return b.rms_norm(norm.d, scale, axis=norm.last, epsilon=norm.epsilon)
    return None


@rule("add", numerics="ulp", benefit=3)
def norm_about_mean(b: StagingBuilder, node: Node):
    """x * r + (c - mean(x) * r) with r = w / sqrt(mean((x - mean(x))^2) + eps) -> (x - mean(x)) * r + c"""
    for scaled, moved in (node.operands, node.operands[::-1]):
        shift, times = own(moved, "sub"), own(scaled, "mul")
        about = None if shift is None else own(shift.operands[1], "mul")
        if times is None or about is None:
            continue
        for x, r in (times.operands, times.operands[::-1]):
            d = _difference(r) if r in about.operands and r.n_uses == 2 else None  # type: ignore[arg-type,union-attr]
            if d is not None and d.operands[0] is x and d.operands[1] in about.operands:
                return b.add(b.mul(d.result, r), shift.operands[0])  # type: ignore[union-attr]
    return None


def _difference(r: Value) -> Node | None:
    """The x - m of w / sqrt(mean((x - m)^2) + eps)."""
    node = r.node
    for part in node.operands if node is not None and node.name == "mul" else ():
        total = own(_inverse_root(part), "add")
        for value in () if total is None else total.operands:
            found = _mean_square(value)
            d = None if found is None else found[0].node
            if d is not None and d.name == "sub":
                return d
    return None


@rule("mul", numerics="ulp")
def norm_scale(b: StagingBuilder, node: Node):
    """layer_norm(x) * w -> layer_norm(x, w); rms_norm(x) * w -> rms_norm(x, w)"""
    for made, w in (node.operands, node.operands[::-1]):
        norm = own(made, "layer_norm", "rms_norm")
        if norm is None or len(norm.operands) > 1 or not stands_for(norm.operands[0], node):
            continue
        x, axis = norm.operands[0], norm.attr("axis") % norm.operands[0].rank
        scale = _vector(b, w, x, axis)
        if scale is None:
            return b.decline("the scale does not have the normalised shape")
        return b.call(norm.name, (x, scale), dict(norm.attrs)).result
    return None


@rule("add", numerics="ulp")
def norm_bias(b: StagingBuilder, node: Node):
    """layer_norm(x, w) + c -> layer_norm(x, w, c)"""
    for made, c in (node.operands, node.operands[::-1]):
        norm = own(made, "layer_norm")
        if norm is None or norm.operand("bias") is not None or not stands_for(norm.operands[0], node):
            continue
        x, scale = norm.operands[0], norm.operand("scale")
        bias = _vector(b, c, x, norm.attr("axis") % x.rank)
        if bias is None:
            return b.decline("the shift does not have the normalised shape")
        return b.call("layer_norm", (x, scale, bias), dict(norm.attrs)).result
    return None


def _grouped(norm: Node | None, x: Value | None) -> int | None:
    """How many groups a norm of x [batch, groups, rest] takes apart, each whole; None for other norms."""
    grouped = None if norm is None else norm.operands[0]
    if grouped is None or x is None or not grouped.rank or grouped.rank < 3 or not x.rank or x.rank < 3:
        return None
    whole = norm.attr("axis") % grouped.rank == 2 if norm.name == "layer_norm" else not norm.attr("channels_last")  # type: ignore[union-attr]
    channels, groups = x.shape[1], grouped.shape[1]  # type: ignore[index,union-attr]
    if not whole or type(channels) is not int or type(groups) is not int or not groups or channels % groups:
        return None
    return groups if same_dims(x.shape[:1], grouped.shape[:1]) else None  # type: ignore[index,union-attr]


@rule("reshape", numerics="ulp")
def fuse_group_norm(b: StagingBuilder, node: Node):
    """reshape(instance_norm(reshape(x, [batch, groups, rest]))) -> group_norm(x)"""
    norm = own(node.operands[0], "instance_norm", "layer_norm")
    cut = None if norm is None else own(norm.operands[0], "reshape")
    x = None if cut is None else cut.operands[0]
    groups = _grouped(norm, x)
    if groups is None or not stands_for(x, node):  # type: ignore[arg-type]
        return None
    if norm.name == "layer_norm" and len(norm.operands) > 1:  # type: ignore[union-attr]
        return b.decline("the scale is one for each place, not for each group")
    given = norm.operands[1:] or (b.const(np.ones(groups, x.dtype.numpy)), b.const(np.zeros(groups, x.dtype.numpy)))  # type: ignore[union-attr]
    if not all(v.is_const for v in given):  # type: ignore[union-attr]
        return b.decline("scale and shift are computed")
    channels: int = x.shape[1]  # type: ignore[union-attr,index,assignment]
    scale, bias = (b.const(np.repeat(v.array(), channels // groups)) for v in given)  # type: ignore[union-attr]
    if groups == channels:
        return b.instance_norm(x, scale, bias, epsilon=norm.attr("epsilon"))  # type: ignore[union-attr]
    return b.group_norm(x, scale, bias, num_groups=groups, epsilon=norm.attr("epsilon"))  # type: ignore[union-attr]


@rule("reshape", numerics="ulp")
def fuse_group_norm_of_last(b: StagingBuilder, node: Node):
    """reshape((y - mean(y)) / sqrt(mean((y - mean(y))^2) + eps) * w + c) with y = reshape(x, [batch, .., groups, rest]), over
    all axes but batch and groups -> group_norm(x), whose channels are last"""
    total = own(node.operands[0], "add")
    for made, c in (total.operands, total.operands[::-1]) if total is not None else ((node.operands[0], None),):
        root = own(made, "mul", "div")
        for norm in () if root is None else _norms(root):
            found = norm.source(root)  # type: ignore[arg-type]
            x = None if found is None or not found[1] else _uncut(norm, found[0])
            if x is None or not stands_for(x, node):
                continue
            scale, bias = _channels(norm.weight, norm.d, 1), _channels(c, norm.d, 0)
            if scale is None or bias is None:
                return b.decline("scale or shift is no number for each channel")
            rank: int = x.rank  # type: ignore[assignment]
            turned, ends = b.transpose(x, perm=(0, rank - 1, *range(1, rank - 1))), (b.const(scale), b.const(bias))
            y = b.group_norm(turned, *ends, num_groups=norm.d.shape[-2], epsilon=norm.epsilon)  # type: ignore[index,arg-type]
            return b.transpose(y, perm=(0, *range(2, rank), 1))
    return None


def _uncut(norm: _Norm, y: Value) -> Value | None:
    """The x of y = reshape(x) that cuts the last axis into groups, when `norm` is over all axes of y but batch and groups."""
    cut, rank = y.node, y.rank
    x = cut.operands[0] if cut is not None and cut.name == "reshape" else None
    if x is None or x.rank is None or rank != x.rank + 1 or rank < 4 or norm.axes != (*range(1, rank - 2), rank - 1):  # type: ignore[operator,misc]
        return None
    groups, size = y.shape[-2:]  # type: ignore[index,misc]
    known = type(groups) is int and type(size) is int and groups > 0 and x.shape[-1] == groups * size  # type: ignore[index]
    return x if known and same_dims(x.shape[:-1], y.shape[:-2]) else None  # type: ignore[index]


def _channels(value: Value | None, y: Value, default: int) -> np.ndarray | None:
    """A number for each of [groups, rest] of y, `default` where there is no value; None where it is no such constant."""
    pair: tuple[int, ...] = y.shape[-2:]  # type: ignore[index,assignment]
    if value is None:
        return np.full(math.prod(pair), default, y.dtype.numpy)  # type: ignore[union-attr]
    if not value.is_const or value.rank > y.rank or math.prod(value.shape[:-2]) != 1:  # type: ignore[operator,index,arg-type]
        return None
    last = value.array().reshape(value.shape[-2:])  # type: ignore[index,arg-type]
    have: tuple[int, ...] = last.shape[::-1]
    fits = all(a in (1, b) for a, b in zip(have, pair[::-1], strict=False))
    return np.broadcast_to(last, pair).reshape(-1) if fits else None


@rule("div", numerics="ulp")
def fuse_lp_normalization(b: StagingBuilder, node: Node):
    """x / where(norm(x) == 0, c, norm(x)) -> lp_normalization(x), which is 0 for a vector of zeros"""
    x, below = node.operands
    chosen = own(below, "where")
    test = None if chosen is None else own(chosen.operands[0], "equal")
    size = None if chosen is None else chosen.operands[2].node  # type: ignore[union-attr]
    if test is None or size is None or size.name not in ("reduce_l1", "reduce_l2") or size.operands[0] is not x:
        return None
    axes = _axes(size)
    if (
        axes is None
        or len(axes) != 1
        or not size.attr("keepdims")
        or size.result.n_uses != 2
        or not stands_for(x, node)
    ):  # type: ignore[arg-type]
        return b.decline("the norm is not that of one axis, kept as a dim of 1")
    instead = fill(chosen.operands[1])  # type: ignore[union-attr]
    zero = next((fill(v) for v in test.operands if v is not size.result), None)
    if size.result not in test.operands or zero != 0.0 or not instead or not math.isfinite(instead):
        return b.decline("it is not a norm of 0 that another divisor stands for")
    return b.lp_normalization(x, axis=axes[0], p=int(size.name[-1]))


fuse_norms = pattern_pass(
    "fuse-norms",
    [
        mean_of_sum,
        sum_of_squares,
        root_of_sum_of_squares,
        log_of_sum,
        log_of_sum_of_exp,
        fuse_layer_norm,
        fuse_instance_norm,
        fuse_rms_norm,
        norm_about_mean,
        norm_scale,
        norm_bias,
        fuse_group_norm,
        fuse_group_norm_of_last,
        fuse_lp_normalization,
    ],
    doc="Reductions and norms that were written out become one op.",
)
