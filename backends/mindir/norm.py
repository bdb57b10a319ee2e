"""Normalisations that MindSpore has as one primitive; the others are decomposed. Must not import MindSpore."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import dim_eq
from ...ir.value import Node
from ...passes.decompose.rules import Declined, Outcome, axes_from, reshape_to, sizes, static
from .registry import FLOAT_2, FLOAT_3, Call, emits, lowers


def _two_or_four(node: Node) -> str | None:
    return None if node.operands[0].rank in (2, 4) else "BatchNorm takes [N, C] or [N, C, H, W]"


@emits("batch_norm", FLOAT_2, check=_two_or_four)
def batch_norm(node: Node) -> Call:
    return Call("BatchNorm", (*node.operands, False, float(node.attr("epsilon")), 0.1, 0), picks=(0,))


@lowers("batch_norm")
def other_batch_norm(b: Builder, node: Node) -> Outcome:
    """One spatial dim gets a second; three become two."""
    x, *vectors = node.operands
    if node.attr("channels_last") or x.dtype not in FLOAT_2:
        return Declined("")
    attrs = {"epsilon": node.attr("epsilon")}
    if x.rank == 3:
        return b.squeeze(b.batch_norm(b.unsqueeze(x, (2,)), *vectors, **attrs), (2,))
    if x.rank == 5 and static(*x.shape[1:]):
        c, d, h, w = x.shape[1:]
        flat = b.batch_norm(b.reshape(x, (-1, c, d, h * w)), *vectors, **attrs)
        return reshape_to(b, flat, sizes(x))
    return Declined("")


def _full_affine(node: Node) -> str | None:
    x, scale, bias = (*node.operands, None, None)[:3]
    if scale is None or bias is None:
        return "LayerNorm has a scale and a bias"
    tail = x.shape[axes_from(node.attr("axis"), x.rank)[0] :]
    for value in (scale, bias):
        if value.rank != len(tail) or any(dim_eq(a, c) is not True for a, c in zip(value.shape, tail, strict=True)):
            return "scale and bias have the normalised shape"
    return None


@emits("layer_norm", FLOAT_2, check=_full_affine)
def layer_norm(node: Node) -> Call:
    axis = axes_from(node.attr("axis"), node.operands[0].rank)[0]
    return Call("LayerNorm", (*node.operands, axis, axis, float(node.attr("epsilon"))), picks=(0,))


@lowers("layer_norm")
def partial_layer_norm(b: Builder, node: Node) -> Outcome:
    """A missing scale is ones, a missing bias zeros."""
    x, scale, bias = (*node.operands, None, None)[:3]
    tail: Any = x.shape[axes_from(node.attr("axis"), x.rank)[0] :]
    if x.dtype not in FLOAT_2 or not static(*tail) or (scale is not None and bias is not None):
        return Declined("")
    ones, zeros = np.ones(tail, x.dtype.numpy), np.zeros(tail, x.dtype.numpy)
    scale = b.const(ones) if scale is None else scale
    bias = b.const(zeros) if bias is None else bias
    return b.layer_norm(x, scale, bias, axis=node.attr("axis"), epsilon=node.attr("epsilon"))


def _four(node: Node) -> str | None:
    return None if node.operands[0].rank == 4 else "GroupNorm takes [N, C, H, W]"


@emits("group_norm", FLOAT_3, check=_four)
def group_norm(node: Node) -> Call:
    x, scale, bias = node.operands
    return Call("GroupNorm", (x, node.attr("num_groups"), scale, bias, float(node.attr("epsilon"))), picks=(0,))


@lowers("instance_norm")
def instance_norm(b: Builder, node: Node) -> Outcome:
    """Groups of one channel."""
    x, scale, bias = node.operands
    if x.rank != 4 or type(x.shape[1]) is not int or node.attr("channels_last") or x.dtype not in FLOAT_3:
        return Declined("")
    return b.group_norm(x, scale, bias, num_groups=x.shape[1], epsilon=node.attr("epsilon"))


def _odd(node: Node) -> str | None:
    if node.operands[0].rank != 4:
        return "LRN takes [N, C, H, W]"
    return None if node.attr("size") % 2 else "LRN has odd windows"


@emits("lrn", FLOAT_2, check=_odd)
def lrn(node: Node) -> Call:
    size = node.attr("size")
    attrs = {"depth_radius": size // 2, "bias": float(node.attr("bias")), "alpha": node.attr("alpha") / size}
    return Call("LRN", node.operands, attrs | {"beta": float(node.attr("beta")), "norm_region": "ACROSS_CHANNELS"})
