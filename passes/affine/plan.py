"""How a scale and shift go into the constants of other nodes: the changes that are planned, and the layers that take them.

A layer takes an affine that stands behind it (y = f * layer(x) + s) or before it (y = layer(f * x + s)) by other weights
and another bias. Everything is planned first and done only when the whole plan holds. A function that plans returns None,
or the reason why it cannot. Must not know how affines travel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...ir.graph import Node, Value
from ...ir.tensor import ArrayTensor, Tensor
from ...ir.types import DType
from ...ir.weights import Weight
from ..rewrite import StagingBuilder
from .affine import Affine, affine, applied, number, rounded, scaled

#: Nodes that one plan may touch or pass.
REACH = 12
#: Weights that others use too are copied up to so many bytes, about what the node that goes takes in a file.
COPY_BYTES = 512

DIGITS = "a number would run over or lose digits"


class New(NamedTuple):
    """The constant to be: `like`, if any, lends its role, and its key unless another is given; `weight` is an existing
    weight that moves here instead."""

    tensor: Tensor
    like: Weight | None
    key: str = ""
    weight: Weight | None = None


@dataclass
class Plan:
    """Operands to be replaced by new constants, attributes to be set, and the nodes on the way."""

    sources: tuple[Weight, ...] = ()
    operands: dict[Node, dict[int, New]] = field(default_factory=dict)
    attrs: dict[Node, dict[str, Any]] = field(default_factory=dict)
    seen: dict[Node, None] = field(default_factory=dict)
    copied: int = 0

    def visit(self, node: Node) -> str | None:
        """Each node is planned for once, and not too many are."""
        if node in self.seen:
            return "a node is reached twice"
        if len(self.seen) >= REACH:
            return "the way is too long"
        self.seen[node] = None
        return None

    def attempt(self, plan: Callable[[Plan], str | None]) -> str | None:
        """Plan something; where that fails nothing is kept of it."""
        trial = Plan(
            self.sources, {n: dict(d) for n, d in self.operands.items()}, {**self.attrs}, dict(self.seen), self.copied
        )
        why = plan(trial)
        if why is None:
            self.operands, self.attrs, self.seen, self.copied = trial.operands, trial.attrs, trial.seen, trial.copied
        return why

    def put(
        self, node: Node, index: int, tensor: Tensor | None, key: str = "", weight: Weight | None = None
    ) -> str | None:
        """Plan a constant for an operand; None for a tensor is a number that does not fit its dtype."""
        if tensor is None:
            return DIGITS
        old = node.operands[index] if index < len(node.operands) else None
        like = node.operands[1].weight if old is None else old.weight  # type: ignore[union-attr]
        if old is not None and old.n_uses > 1:
            self.copied += tensor.nbytes
            if self.copied > COPY_BYTES:
                return "others use the weight too"
        self.operands.setdefault(node, {})[index] = New(tensor, like, key, weight)
        return None

    def moved(self, tensor: ArrayTensor) -> Weight | None:
        """The weight that this vector is, so that one which only moves stays the weight that it was."""
        for weight in self.sources:
            same = weight.tensor.dtype is tensor.dtype and weight.tensor.shape == tensor.shape
            if same and weight.tensor.numpy().tobytes() == tensor.numpy().tobytes():
                return weight
        return None

    def commit(self, b: StagingBuilder) -> None:
        """Hand the changes to the builder, which makes them when the match is applied."""
        for node in dict.fromkeys((*self.operands, *self.attrs)):
            new = {i: self.constant(b, item) for i, item in sorted(self.operands.get(node, {}).items())}
            b.edit(node, new, self.attrs.get(node))

    def constant(self, b: StagingBuilder, new: New) -> Value:
        if new.weight is not None:
            return b.weight(new.weight)
        like, key = new.like, new.key
        if like is not None and not key and like.role == "const" and new.tensor.size <= 1:
            return b.const(new.tensor)
        by = ", ".join(dict.fromkeys(w.key for w in self.sources)) or "an attribute"
        origin = "; ".join(filter(None, (like.origin if like else "", f"scaled by {by}")))
        return b.const(
            new.tensor,
            key=key or (like.wanted if like else "weight"),
            role=like.role if like else "param",
            origin=origin,
        )


# ------------------------------------------------------------------------------------------------ operands of layers


def scale_operand(plan: Plan, node: Node, index: int, factor: np.ndarray) -> str | None:
    """Multiply a constant operand, or one dequantised from a constant, by an array that broadcasts to it."""
    value = node.operands[index]
    if value is None or not np.any(factor != 1.0):
        return None
    if value.weight is not None:
        return plan.put(node, index, scaled(value.weight, factor))
    maker = value.node
    if maker is None or maker.name != "dequantize" or value.n_uses != 1 or maker.operands[0].weight is None:  # type: ignore
        return "the weights are computed"
    return scale_dequantize(plan, maker, factor)


def scale_dequantize(plan: Plan, node: Node, factor: np.ndarray) -> str | None:
    """Multiply what a dequantize yields through its scale, whose blocks the factor must respect."""
    scale = node.operands[1]
    rank = node.result.rank
    array = None if rank is None else number(scale, rank)
    if array is None or not np.all(factor > 0):
        return "the scale of a dequantize is a positive constant"
    steps = (1,) * (factor.ndim - array.ndim) + array.shape
    if any(n not in (1, d) for n, d in zip(factor.shape, steps, strict=True)):
        return "the factor is finer than the scale"
    sizes = zip(factor.shape, node.result.shape, strict=True)  # type: ignore[arg-type]
    if any(n != 1 and n != d for n, d in sizes):
        return "the factor is finer than the scale"
    made = rounded((array * factor).reshape(array.shape), scale.dtype)  # type: ignore[union-attr, arg-type]
    return plan.put(node, 1, None if made is None else ArrayTensor(made, scale.dtype))  # type: ignore[union-attr]


def set_bias(
    plan: Plan,
    node: Node,
    made: Affine,
    channels: int,
    *,
    scale: float = 1.0,
    index: int = 2,
    dtype: DType | None = None,
) -> str | None:
    """The bias vector of a layer: factor * (scale * old) + shift, per channel; absent where it stays so."""
    old = node.operands[index] if index < len(node.operands) else None
    if old is None and not made.shifts:
        return None
    if old is not None and not made.shifts and scale == 1.0:
        return scale_operand(plan, node, index, made.factor.reshape(-1))
    array = np.zeros(channels) if old is None else number(old, 1)
    if array is None:
        return "the bias is computed"
    exact = np.broadcast_to(made.factor.reshape(-1) * (scale * array) + made.shift.reshape(-1), (channels,))
    weight = node.operands[1]
    kind = dtype or weight.dtype  # type: ignore[union-attr]
    data = rounded(exact, kind)  # type: ignore[arg-type]
    if data is None:
        return DIGITS
    tensor = ArrayTensor(np.array(data), kind)
    moved = plan.moved(tensor) if old is None and not made.scales else None
    name = weight.weight.wanted if weight is not None and weight.weight is not None else "layer"
    return plan.put(node, index, tensor, f"{name}.bias" if old is None else "", moved)


def only_along(made: Affine, axis: int) -> bool:
    """It varies along no axis but this one."""
    at = axis % made.rank
    return all(n == 1 for a in (made.factor, made.shift) for i, n in enumerate(a.shape) if i != at)


def _shaped(vector: np.ndarray, rank: int, axis: int) -> np.ndarray:
    return vector.reshape([-1 if i == axis else 1 for i in range(rank)])


# ------------------------------------------------------------------------------------------------ behind a layer


def conv_behind(plan: Plan, node: Node, made: Affine) -> str | None:
    shape = node.operands[1].shape  # type: ignore[union-attr]
    if node.attr("channels_last") or not only_along(made, 1):
        return "scale and shift must be constants per channel"
    sizes = [d for d in shape or () if isinstance(d, int)]
    if shape is None or len(sizes) != len(shape):
        return "the channels are not known"
    factor, channels = made.factor.reshape(-1), sizes[0]
    shaped = _shaped(factor, len(sizes), 0)
    if node.name == "conv_transpose":
        groups, rows = node.attr("groups"), sizes[0]
        channels = sizes[1] * groups
        if factor.size > 1:
            by_group = np.repeat(factor.reshape(groups, sizes[1]), rows // groups, axis=0)
            shaped = by_group.reshape(rows, sizes[1], *[1] * (len(sizes) - 2))
    return scale_operand(plan, node, 1, shaped) or set_bias(plan, node, made, channels)


def gemm_behind(plan: Plan, node: Node, made: Affine) -> str | None:
    """alpha A B + beta C: the factor goes into B, or, a single one, into alpha; the shift into C."""
    weight, c = node.operands[1], node.operand("c")
    if not only_along(made, 1):
        return "scale and shift must be constants per channel"
    beta = node.attr("beta")
    if c is not None and c.weight is None:
        return _gemm_of_computed(plan, node, made)
    why = None
    if weight.weight is not None or made.factor.size > 1:  # type: ignore[union-attr]
        why = scale_operand(plan, node, 1, _shaped(made.factor.reshape(-1), 2, 0 if node.attr("transB") else 1))
    else:
        plan.attrs.setdefault(node, {})["alpha"] = node.attr("alpha") * float(made.factor.item())
    return why or _gemm_addend(plan, node, made, beta)


def _gemm_of_computed(plan: Plan, node: Node, made: Affine) -> str | None:
    if made.shifts or made.factor.size > 1:
        return "the addend is computed"
    factor = float(made.factor.item())
    plan.attrs.setdefault(node, {}).update(alpha=node.attr("alpha") * factor, beta=node.attr("beta") * factor)
    return None


def _gemm_addend(plan: Plan, node: Node, made: Affine, beta: float) -> str | None:
    c, columns = node.operand("c"), node.result.shape[1]  # type: ignore[index]
    if c is None and not made.shifts:
        return None
    plan.attrs.setdefault(node, {})["beta"] = 1.0
    if (c is None or c.rank == 1) and isinstance(columns, int):
        return set_bias(plan, node, made, columns, scale=beta)
    if c is None:
        return "the channels are not known"
    array = number(c, 2)
    if array is None:
        return "the addend is large"
    made = made._replace(factor=made.factor * beta)
    return plan.put(node, 2, applied(made, c.weight))  # type: ignore[arg-type]


def matmul_behind(plan: Plan, node: Node, made: Affine) -> str | None:
    """x W: a factor along the columns; W x: one along the rows; no bias to take a shift."""
    a, b = node.operands
    if made.shifts:
        return "a matmul has no bias"
    if not a.rank or not b.rank:  # type: ignore[union-attr]
        return "the ranks are not known"
    left = is_weight(a) and not is_weight(b)
    return _matmul_operand(plan, node, 0, made, 2) if left else _matmul_operand(plan, node, 1, made, 1)


def is_weight(value: Value | None) -> bool:
    """A constant, or dequantised from one."""
    if value is None or value.node is None:
        return value is not None and value.weight is not None
    return value.node.name == "dequantize" and value.node.operands[0].weight is not None  # type: ignore[union-attr]


def _matmul_operand(plan: Plan, node: Node, index: int, made: Affine, from_end: int) -> str | None:
    """Scale operand `index` along its axis -from_end by a factor of the result that varies along that axis only."""
    weight = node.operands[index]
    ranks = [v.rank for v in node.operands]  # type: ignore[union-attr]
    if not is_weight(weight):
        return "the weights are computed"
    if made.factor.size > 1 and (1 in ranks or not only_along(made, -from_end)):
        return "scale and shift must be constants per channel"
    rank = weight.rank  # type: ignore[union-attr]
    shaped = _shaped(made.factor.reshape(-1), rank, max(rank - from_end, 0))  # type: ignore[arg-type, operator]
    return scale_operand(plan, node, index, shaped)


def norm_behind(plan: Plan, node: Node, made: Affine) -> str | None:
    """batch, instance and group norm: scale and bias per channel are operands 1 and 2."""
    scale, bias = node.operands[1:3]
    if node.attr("channels_last") or not only_along(made, 1) or scale.shape is None:  # type: ignore[union-attr]
        return "scale and shift must be constants per channel"
    if scale.weight is None or bias.weight is None:  # type: ignore[union-attr]
        return "the norm's parameters are computed"
    why = scale_operand(plan, node, 1, made.factor.reshape(-1))
    channels = scale.weight.tensor.shape[0]  # type: ignore[union-attr]
    return why or set_bias(plan, node, made, channels, dtype=bias.dtype)  # type: ignore[union-attr]


def trailing_norm_behind(plan: Plan, node: Node, made: Affine) -> str | None:
    """layer_norm and rms_norm: scale and bias broadcast from the right over the normalised axes."""
    rank, first = node.result.rank, node.attr("axis") % node.result.rank  # type: ignore[operator]
    arrays = (made.factor, made.shift)
    if any(n != 1 for array in arrays for n in array.shape[:first]):
        return "scale and shift must be constants along the normalised axes"
    scale, bias = node.operand("scale"), node.operand("bias") if node.name == "layer_norm" else None
    if scale is None or scale.weight is None or (bias is not None and bias.weight is None):
        return "the norm has no constant scale"
    if made.shifts and bias is None:
        return "the norm has no bias"
    why = plan.put(node, 1, applied(affine(rank, made.factor), scale.weight))  # type: ignore[arg-type]
    return why or (None if bias is None else plan.put(node, 2, applied(made, bias.weight)))


def dequantize_behind(plan: Plan, node: Node, made: Affine) -> str | None:
    if node.operands[0].node is not None:  # type: ignore[union-attr]
        return "what makes the integers quantises by the same scale"
    return "a dequantize has no bias" if made.shifts else scale_dequantize(plan, node, made.factor)


BEHIND: dict[str, Callable[[Plan, Node, Affine], str | None]] = {
    "conv": conv_behind,
    "conv_transpose": conv_behind,
    "gemm": gemm_behind,
    "batch_norm": norm_behind,
    "instance_norm": norm_behind,
    "group_norm": norm_behind,
    "layer_norm": trailing_norm_behind,
    "rms_norm": trailing_norm_behind,
    "dequantize": dequantize_behind,
}


# ------------------------------------------------------------------------------------------------ before a layer


def conv_before(plan: Plan, node: Node, index: int, made: Affine) -> str | None:
    """Scaled input channels scale the weights that read them; their shift is a bias where no window reaches outside."""
    weight = node.operands[1]
    if index != 0 or weight is None or weight.weight is None:
        return "the weights are computed"
    if node.attr("channels_last") or not only_along(made, 1):
        return "scale and shift must be constants per channel"
    shape, groups = weight.weight.tensor.shape, node.attr("groups")
    if made.shifts and (node.attr("auto_pad") != "explicit" or any(node.attr("pads"))):
        return "the zeros of the border would be shifted"
    factor, shift = (_per_weight(a, shape, groups) for a in (made.factor, made.shift))
    why = scale_operand(plan, node, 1, factor)
    if why or not made.shifts:
        return why
    array = number(weight, len(shape))
    if array is None:
        return "the weights are large"
    added = (array * shift).sum(tuple(range(1, len(shape))))
    return set_bias(plan, node, affine(1, shift=added), shape[0])


def _per_weight(array: np.ndarray, shape: tuple[int, ...], groups: int) -> np.ndarray:
    """An array per input channel, shaped to multiply weights [O, C / groups, *K]."""
    if array.size == 1:
        return array.reshape((1,) * len(shape))
    rows = (
        np.repeat(array.reshape(groups, shape[1]), shape[0] // groups, axis=0) if groups > 1 else array.reshape(1, -1)
    )
    return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))


def conv_transpose_before(plan: Plan, node: Node, index: int, made: Affine) -> str | None:
    weight = node.operands[1]
    if index != 0 or weight is None or weight.rank is None:
        return "the weights are computed"
    if node.attr("channels_last") or made.shifts or not only_along(made, 1):
        return "only a scale per channel goes into a transposed convolution"
    return scale_operand(plan, node, 1, _shaped(made.factor.reshape(-1), weight.rank, 0))


def gemm_before(plan: Plan, node: Node, index: int, made: Affine) -> str | None:
    """a' = f a + s along the inner axis: f into the rows of B, s B into C."""
    weight, c = node.operands[1], node.operand("c")
    if index != 0 or weight is None or weight.weight is None or not only_along(made, 0 if node.attr("transA") else 1):
        return "only a constant per column of the first operand goes into a gemm"
    inner = 1 if node.attr("transB") else 0
    why = scale_operand(plan, node, 1, _shaped(made.factor.reshape(-1), 2, inner))
    if why or not made.shifts:
        return why
    array = number(weight, 2)
    if array is None or (c is not None and (c.weight is None or c.rank != 1)):
        return "weights and bias must be constants"
    added = node.attr("alpha") * (array * _shaped(made.shift.reshape(-1), 2, inner)).sum(inner)
    if made.shift.size == 1:
        added = node.attr("alpha") * array.sum(inner) * made.shift.item()
    plan.attrs.setdefault(node, {})["beta"] = 1.0
    return set_bias(plan, node, affine(1, shift=added), array.shape[1 - inner], scale=node.attr("beta"))


def batch_norm_before(plan: Plan, node: Node, index: int, made: Affine) -> str | None:
    """(f x + s - mean) k + bias: the factor into the scale, k s into the bias."""
    scale, bias, _, var = node.operands[1:5]
    arrays = [number(v, 1) for v in node.operands[1:5]]
    if index != 0 or any(a is None for a in arrays) or node.attr("channels_last") or not only_along(made, 1):
        return "scale and shift must be constants per channel"
    (gamma, beta, mean, variance), factor, shift = arrays, made.factor.reshape(-1), made.shift.reshape(-1)
    each = gamma / np.sqrt(variance + node.attr("epsilon"))  # type: ignore[operator]
    # gamma' = f gamma keeps mean and variance; what the mean then takes away too much or too little is in the bias.
    exact = np.broadcast_to(beta + each * (shift + mean * (factor - 1.0)), gamma.shape)  # type: ignore
    data = rounded(exact, bias.dtype) if np.isfinite(exact).all() else None  # type: ignore[union-attr, arg-type]
    why = scale_operand(plan, node, 1, factor)
    return why or plan.put(node, 2, None if data is None else ArrayTensor(np.array(data), bias.dtype))  # type: ignore


BEFORE: dict[str, Callable[[Plan, Node, int, Affine], str | None]] = {
    "conv": conv_before,
    "conv_transpose": conv_transpose_before,
    "gemm": gemm_before,
    "batch_norm": batch_norm_before,
}
