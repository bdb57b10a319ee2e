"""Torch expressions of normalisations."""

from __future__ import annotations

import math

from ...ir.value import Node, Value
from .calls import Call, Refusal, only, rank_of, row, shape_of


def _same_dtype(node: Node) -> None:
    dtypes = {value.dtype for value in node.inputs()}
    if len(dtypes) > 1:
        raise Refusal("torch normalises in one dtype")


@row("batch_norm")
def batch_norm(node: Node) -> Call:
    only(node, "epsilon")
    _same_dtype(node)
    x, scale, bias, mean, var = node.operands
    assert x is not None
    if rank_of(x) < 2:
        raise Refusal("torch's batch_norm wants a channel axis")
    if not mean.is_const or not var.is_const:  # type: ignore[union-attr]
        raise Refusal("torch's batch_norm hands no gradient to computed statistics")
    return Call("F.batch_norm", x, mean, var, weight=scale, bias=bias, training=False, eps=node.attr("epsilon"))


def _normalized(node: Node, x: Value) -> tuple[int, ...]:
    """The trailing dims that are normalised; scale and bias must have exactly their shape."""
    dims = shape_of(x)[node.attr("axis") % rank_of(x) :]
    if not all(isinstance(dim, int) for dim in dims):
        raise Refusal("the normalised dims are not fixed")
    for value in list(node.inputs())[1:]:
        if value.shape != dims:
            raise Refusal(f"a scale or bias of shape {value.shape} for dims {dims}")
    return dims  # type: ignore[return-value]


@row("layer_norm")
def layer_norm(node: Node) -> Call:
    x, scale, bias = (*node.operands, None, None)[:3]
    assert x is not None
    return Call("F.layer_norm", x, _normalized(node, x), scale, bias, eps=node.attr("epsilon"))


@row("rms_norm")
def rms_norm(node: Node) -> Call:
    x, scale = (*node.operands, None)[:2]
    assert x is not None
    return Call("F.rms_norm", x, _normalized(node, x), scale, eps=node.attr("epsilon"))


@row("instance_norm")
def instance_norm(node: Node) -> Call:
    only(node, "epsilon")
    x, scale, bias = node.operands
    assert x is not None
    spatial = shape_of(x)[2:]
    if not spatial or not all(isinstance(dim, int) for dim in spatial) or math.prod(spatial) < 2:  # type: ignore[arg-type, operator]
        raise Refusal("torch's instance_norm wants several elements per channel")
    return Call("F.instance_norm", x, weight=scale, bias=bias, use_input_stats=True, eps=node.attr("epsilon"))


@row("group_norm")
def group_norm(node: Node) -> Call:
    only(node, "num_groups", "epsilon")
    x, scale, bias = node.operands
    return Call("F.group_norm", x, node.attr("num_groups"), scale, bias, eps=node.attr("epsilon"))
