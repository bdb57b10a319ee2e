"""Activations and the softmax family."""

from __future__ import annotations

from typing import Any

from .importer import Call, Importer, rank_of
from .registry import handles

PLAIN = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "HardSwish": "hard_swish",
    "Mish": "mish",
}

# operator -> (op, its attributes, which the operator names alike)
WITH_ATTRIBUTES = {
    "LeakyRelu": ("leaky_relu", ("alpha",)),
    "Elu": ("elu", ("alpha",)),
    "Selu": ("selu", ("alpha", "gamma")),
    "Celu": ("celu", ("alpha",)),
    "ThresholdedRelu": ("thresholded_relu", ("alpha",)),
    "HardSigmoid": ("hard_sigmoid", ("alpha", "beta")),
    "Gelu": ("gelu", ("approximate",)),
    "Shrink": ("shrink", ("bias", "lambd")),
}

SOFTMAX = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Hardmax": "hardmax"}


@handles(*PLAIN)
def plain(c: Importer, n: Call) -> Any:
    return c.b.call(PLAIN[n.op_type], (n.x,)).result


@handles(*WITH_ATTRIBUTES)
def with_attributes(c: Importer, n: Call) -> Any:
    name, attributes = WITH_ATTRIBUTES[n.op_type]
    return c.b.call(name, (n.x,), {a: n.attrs[a] for a in attributes if a in n.attrs}).result


@handles("Swish", since=24)
def swish(c: Importer, n: Call) -> Any:
    alpha = n.attr("alpha", 1.0)
    return c.b.silu(n.x) if alpha == 1.0 else c.b.swish(n.x, alpha=alpha)


@handles("PRelu")
def prelu_channels(c: Importer, n: Call) -> Any:
    """Before opset 7 a slope of rank 1 belongs to the channels (axis 1), however many axes follow."""
    x, slope = n.inputs[:2]
    rank = rank_of(x, n)  # type: ignore[arg-type]
    if slope.rank == 1 and slope.shape != (1,) and rank > 2:  # type: ignore[union-attr]
        slope = c.b.unsqueeze(slope, tuple(range(1, rank - 1)))
    return c.b.prelu(x, slope)


@handles("PRelu", since=7)
def prelu(c: Importer, n: Call) -> Any:
    return c.b.prelu(*n.inputs)


@handles(*SOFTMAX, since=13)
def softmax(c: Importer, n: Call) -> Any:
    return c.b.call(SOFTMAX[n.op_type], (n.x,), {"axis": n.attr("axis", -1)}).result


@handles(*SOFTMAX)
def softmax_flattened(c: Importer, n: Call) -> Any:
    """Before opset 13 the input counts as a matrix: the axes from `axis` on are one row."""
    x = n.x
    rank = rank_of(x, n)
    axis = n.attr("axis", 1)
    if not -rank <= axis <= rank:
        raise n.invalid(f"axis {axis} is outside of rank {rank}")
    axis += rank if axis < 0 else 0
    name = SOFTMAX[n.op_type]
    if axis < rank and all(d == 1 for d in x.shape[axis + 1 :]):  # type: ignore[index]
        return c.b.call(name, (x,), {"axis": axis}).result
    row = c.b.call(name, (c.b.flatten(x, axis=axis),), {"axis": 1}).result
    return c.b.reshape(row, c.b.shape(x))
