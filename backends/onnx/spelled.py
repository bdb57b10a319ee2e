"""Rich ops in opsets that have no operator for them, in the fewest nodes that say the same.

Where onnxruntime recognises a spelling and fuses it, it is this one. Half floats would be felt to round on the way: they are
refused here and go through f32 (passes/decompose).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...ir.graph import Node, Value
from ...ir.types import F32, F64
from .emitter import Emitter, Literal, Ref, Temp
from .reduce import reduced
from .registry import emits


def _real(e: Emitter, n: Node, since: int) -> Value:
    """The data, f32 or f64. Raises Refusal for other types."""
    x: Value = n.operands[0]  # type: ignore[assignment]
    if x.dtype not in (F32, F64):
        e.needs(since, f"{n.name} of {x.dtype}")
    return x


def _const(e: Emitter, number: float, like: Value) -> Literal:
    return e.literal(number, like.dtype)


@emits("hard_swish")
def hard_swish(e: Emitter, n: Node) -> None:
    """x hard_sigmoid(x / 6 + 1/2): the definition of HardSwish."""
    x = _real(e, n, 14)
    if x.dtype is F64:
        e.needs(14, "a sixth in an attribute")
    e.node("Mul", [x, e.temp("HardSigmoid", [x], F32, alpha=1 / 6, beta=0.5)])


@emits("gelu")
def gelu(e: Emitter, n: Node) -> None:
    """x (1 + erf(x / sqrt 2)) / 2; approximately x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), which is not shortened to
    a sigmoid: onnxruntime has one kernel for all of it."""
    x = _real(e, n, 20)
    if n.attr("approximate") == "tanh":
        cubed = e.temp("Mul", [e.temp("Pow", [x, _const(e, 3, x)], x.dtype), _const(e, 0.044715, x)], x.dtype)
        inner = e.temp("Mul", [e.temp("Add", [x, cubed], x.dtype), _const(e, math.sqrt(2 / math.pi), x)], x.dtype)
        gate = e.temp("Add", [e.temp("Tanh", [inner], x.dtype), _const(e, 1, x)], x.dtype)
        e.node("Mul", [e.temp("Mul", [x, _const(e, 0.5, x)], x.dtype), gate])
        return
    curve = e.temp("Erf", [e.temp("Div", [x, _const(e, math.sqrt(2), x)], x.dtype)], x.dtype)
    gated = e.temp("Mul", [x, e.temp("Add", [curve, _const(e, 1, x)], x.dtype)], x.dtype)
    e.node("Mul", [gated, _const(e, 0.5, x)])


def axes_of(e: Emitter, n: Node, x: Value) -> tuple[int, ...]:
    """The axes that a norm from `axis` on takes together, counted from the end."""
    axis = n.attr("axis")
    if axis < 0:
        return tuple(range(axis, 0))
    if x.rank is None:
        raise e.refuse("the rank is not known")
    return tuple(range(axis - x.rank, 0))


def _product(e: Emitter, n: Node, centred: Ref, root: Temp, affine: Sequence[Value | None]) -> None:
    """centred / root * scale + bias, the last node of which gives the result."""
    steps: list[tuple[str, Ref]] = [("Div", root)]
    steps += [(op, v) for op, v in zip(("Mul", "Add"), affine, strict=False) if v is not None]
    _chain(e, n, centred, steps)


def _chain(e: Emitter, n: Node, first: Ref, steps: Sequence[tuple[str, Ref]]) -> None:
    """One node for each step, on what the step before gives and a value of its own."""
    for op, value in steps[:-1]:
        first = e.temp(op, [first, value], n.result.dtype)
    e.node(steps[-1][0], [first, steps[-1][1]])


def _root_of_mean_square(e: Emitter, n: Node, x: Ref, axes: tuple[int, ...]) -> Temp:
    """sqrt(mean(x^2) + epsilon)"""
    like: Value = n.operands[0]  # type: ignore[assignment]
    square = e.temp("Pow", [x, _const(e, 2, like)], like.dtype)
    mean = reduced(e, "ReduceMean", square, axes, like.dtype)
    return e.temp("Sqrt", [e.temp("Add", [mean, _const(e, n.attr("epsilon"), like)], like.dtype)], like.dtype)


@emits("layer_norm")
def layer_norm(e: Emitter, n: Node) -> None:
    x = _real(e, n, 17)
    axes = axes_of(e, n, x)
    centred = e.temp("Sub", [x, reduced(e, "ReduceMean", x, axes, x.dtype)], x.dtype)
    _product(e, n, centred, _root_of_mean_square(e, n, centred, axes), n.operands[1:])


@emits("rms_norm")
def rms_norm(e: Emitter, n: Node) -> None:
    x = _real(e, n, 23)
    _product(e, n, x, _root_of_mean_square(e, n, x, axes_of(e, n, x)), n.operands[1:])


def scale_or_ones(e: Emitter, n: Node) -> Ref:
    """The scale of a norm whose operator needs one: ones where the op has none and the normalised dims are known."""
    x: Value = n.operands[0]  # type: ignore[assignment]
    scale = n.operand("scale")
    if scale is not None:
        return scale
    dims = x.shape[min(axes_of(e, n, x)) :] if x.shape is not None else (None,)
    known = [d for d in dims if isinstance(d, int)]
    if len(known) < len(dims) or math.prod(known) > 1 << 16:
        raise e.refuse("the operator needs a scale, whose shape is not known or large")
    return e.literal(np.ones(known), x.dtype)


@emits("group_norm")
def group_norm(e: Emitter, n: Node) -> None:
    """An instance norm whose channels are the groups; opset 18's GroupNormalization has a scale per group, not per channel."""
    x = _real(e, n, 21)
    if n.attr("channels_last"):
        raise e.refuse("ONNX has channels first only")
    groups = n.attr("num_groups")
    if x.rank is None or x.rank < 3:
        raise e.refuse("the rank is not known")
    if any(d == 0 for d in x.shape):  # type: ignore[union-attr]
        raise e.refuse("a dim is 0")
    inner = x.shape[1:]  # type: ignore[index]
    rest = math.prod(inner) // groups if all(type(d) is int for d in inner) else -1  # type: ignore[arg-type]
    flat = e.temp("Reshape", [x, e.ints((0, groups, rest))], x.dtype)
    units = [_vector(e, number, groups, x) for number in (1, 0)]
    normal = e.temp("InstanceNormalization", [flat, *units], x.dtype, epsilon=n.attr("epsilon"))
    column = e.ints((-1, *(1,) * (x.rank - 2)))
    steps: list[tuple[str, Ref]] = [("Reshape", _whole_shape(e, x))]
    for op, vector, idle in (("Mul", n.operand("scale"), 1), ("Add", n.operand("bias"), 0)):
        if not _is_filled(vector, idle):  # type: ignore[arg-type]
            steps.append((op, _column(e, vector, column)))  # type: ignore[arg-type]
    _chain(e, n, normal, steps)


def _is_filled(vector: Value, number: float) -> bool:
    """All its elements are this number."""
    return vector.is_const and bool(np.all(vector.array() == number))


def _vector(e: Emitter, number: float, length: int, like: Value) -> Literal:
    return e.literal(np.full(length, number), like.dtype)


def _whole_shape(e: Emitter, x: Value) -> Ref:
    """The shape of `x`, constant where at most one dim behind the first is not known: 0 stands for that."""
    batch, *inner = x.shape  # type: ignore[misc]
    dims = [batch if type(batch) is int else 0, *(d if type(d) is int else -1 for d in inner)]
    return e.ints(dims) if dims.count(-1) <= 1 else e.temp("Shape", [x], e.ints(()).dtype)


def _column(e: Emitter, vector: Value, shape: Literal) -> Ref:
    """A [C] vector that broadcasts along the channel axis."""
    if vector.is_const:
        return Literal(vector.array().reshape(tuple(shape.array)), vector.dtype, vector.weight.key)  # type: ignore[arg-type, union-attr]
    return e.temp("Reshape", [vector, shape], vector.dtype)
