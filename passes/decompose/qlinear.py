"""qlinear_conv, qlinear_matmul and dynamic_quantize_lstm as integer products, requantize, and a loop. Knows no target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Graph
from ...ir.types import BOOL, F32, I64, TensorType
from ...ir.value import Node, Value
from .recurrent import gate_functions, part
from .rules import Declined, Size, decomposes, scalar, shape_of


def ratio_of(b: Builder, first: Value, second: Value, made: Value) -> Value:
    """first second / made in f32, as the integer kernels have it."""
    return b.div(b.mul(_f32(b, first), _f32(b, second)), _f32(b, made))


def _f32(b: Builder, x: Value) -> Value:
    return x if x.dtype is F32 else b.cast(x, to=F32)


def shaped(b: Builder, value: Value, rank: int, axis: int) -> Value | None:
    """A parameter as rank 0, or of rank `rank` with a vector's entries along `axis`; None when its shape is not known."""
    if value.shape is None or any(type(d) is not int for d in value.shape):
        return None
    if all(d == 1 for d in value.shape):
        return _reshaped(b, value, ())
    if value.rank == 1:
        return _reshaped(b, value, tuple(-1 if i == axis % rank else 1 for i in range(rank)))
    return _reshaped(b, value, (*(1,) * (rank - value.rank), *value.shape))  # type: ignore[arg-type, operator]


def _reshaped(b: Builder, value: Value, shape: tuple[int, ...]) -> Value:
    if value.shape == shape:
        return value
    return b.const(value.array().reshape(shape)) if value.is_const else b.reshape(value, shape)


@decomposes("qlinear_matmul")
def qlinear_matmul(b: Builder, node: Node) -> Value | Declined:
    """requantize(matmul_integer(a, b), a_scale b_scale / y_scale)"""
    a, a_scale, a_zero, w, w_scale, w_zero, y_scale, y_zero = node.operands
    if not a.dtype.is_int:
        return Declined(f"products of {a.dtype} are not decomposed")
    if a.rank is None or w.rank is None or a.rank < 2 or w.rank < 2:
        return Declined("an operand is a vector, or of unknown rank")
    rank = max(a.rank, w.rank)
    rows = [shaped(b, v, rank, -2) for v in (a_scale, y_scale, y_zero)]
    columns = shaped(b, w_scale, rank, -1)
    zeros = shaped(b, a_zero, a.rank, -2), shaped(b, w_zero, w.rank, -1)
    if columns is None or None in rows or None in zeros:
        return Declined("the shape of a scale or zero point is not known")
    total = b.matmul_integer(a, w, *zeros)
    return b.requantize(total, ratio_of(b, rows[0], columns, rows[1]), rows[2], to=node.result.dtype)


@decomposes("qlinear_conv")
def qlinear_conv(b: Builder, node: Node) -> Value | Declined:
    """requantize(conv_integer(x, w) + bias, x_scale w_scale / y_scale)"""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = (*node.operands, None)[:9]
    if x.rank is None:
        return Declined("the rank is not known")
    scales = [shaped(b, v, x.rank, 1) for v in (x_scale, w_scale, y_scale)]
    zeros = [shaped(b, v, 1, 0) for v in (x_zero, w_zero, y_zero)]
    if None in scales or None in zeros:
        return Declined("the shape of a scale or zero point is not known")
    total = b.conv_integer(x, w, *zeros[:2], **dict(node.attrs))
    if bias is not None:
        total = b.add(total, _reshaped(b, bias, (-1, *(1,) * (x.rank - 2))))
    return b.requantize(total, ratio_of(b, *scales), zeros[2], to=node.result.dtype)


@decomposes("dynamic_quantize_lstm", needs=("loop",))
def dynamic_quantize_lstm(b: Builder, node: Node) -> tuple[Value, ...] | Declined:
    """A loop per direction: the input's products come before it, each step quantises the state it starts from."""
    turned = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[node.attr("direction")]
    functions = gate_functions(b, node, ("Sigmoid", "Tanh", "Tanh"), len(turned), unclipped=2)
    x, lens = node.operands[0], node.operand("seq_lens")
    if functions is None or x.shape is None:
        return Declined("an unknown gate activation, or an input of unknown rank")
    length = _steps(b, x)
    data = x if lens is None else _blanked(b, x, lens, length)
    rows = []
    for d, backwards in enumerate(turned):
        entries = b.add(_product(b, data, *_weights(b, node, d, "w")), _bias(b, node, d))
        entries = _turned(b, entries, lens) if backwards else entries
        y, hidden, cell = _scan(b, node, d, entries, length)
        y = _turned(b, y, lens) if backwards else y
        rows.append([b.unsqueeze(y, (1,)), b.unsqueeze(hidden, (0,)), b.unsqueeze(cell, (0,))])
    return tuple(_joined(b, column, axis) for column, axis in zip(zip(*rows, strict=True), (1, 0, 0), strict=True))


def _steps(b: Builder, x: Value) -> Value:
    """How many steps there are: an i64 scalar."""
    steps = x.shape[0]
    return b.const(np.asarray(steps, np.int64)) if type(steps) is int else b.squeeze(b.shape(x, start=0, end=1), (0,))


def _blanked(b: Builder, x: Value, lens: Value, length: Value) -> Value:
    """Zeros for the steps after the longest sample's last: what stands there must not widen the range that is quantised."""
    longest = b.cast(b.reduce_max(lens, (0,), keepdims=False), to=I64)
    there = b.less(b.range(np.int64(0), length, np.int64(1)), longest)
    return b.where(b.unsqueeze(there, (1, 2)), x, scalar(b, 0, x))


def _joined(b: Builder, values: Sequence[Value], axis: int) -> Value:
    return b.concat(*values, axis=axis) if len(values) > 1 else values[0]


def _turned(b: Builder, x: Value, lens: Value | None) -> Value:
    """Each sample's own steps in reverse order."""
    if lens is None:
        return b.reverse(x, axes=(0,))
    return b.reverse_sequence(x, b.cast(lens, to=I64), batch_axis=1, time_axis=0)


def _weights(b: Builder, node: Node, d: int, name: str) -> tuple[Value, Value, Value]:
    """Weights, scale and zero point of one direction; a scale and zero point per tensor have rank 0."""
    weights, scale, zero = (_taken(b, node.operand(key), d) for key in (name, f"{name}_scale", f"{name}_zp"))
    return weights, scale, zero


def _taken(b: Builder, value: Value, d: int) -> Value:
    return b.const(np.asarray(value.array()[d])) if value.is_const else b.gather(value, np.asarray(d), axis=0)


def _bias(b: Builder, node: Node, d: int) -> Value:
    """Input bias plus recurrent bias."""
    both, wide = node.operand("b"), 4 * node.attr("hidden_size")
    if both is None:
        return b.const(np.zeros(1, np.float32))
    if both.is_const:
        halves = both.array()[d].astype(np.float64)
        return b.const((halves[:wide] + halves[wide:]).astype(np.float32))
    return b.add(part(b, both, d, 0, wide), part(b, both, d, wide, 2 * wide))


def _product(b: Builder, a: Value, weights: Value, scale: Value, zero: Value) -> Value:
    stored, unit, offset = b.dynamic_quantize(a)
    return b.mul(b.cast(b.matmul_integer(stored, weights, offset, zero), to=F32), b.mul(unit, scale))


def _scan(b: Builder, node: Node, d: int, entries: Value, length: Value) -> tuple[Value, Value, Value]:
    """All steps of one direction: y [T, B, H] and the last states."""
    x, size, lens = node.operands[0], node.attr("hidden_size"), node.operand("seq_lens")
    shape = shape_of(b, [Size(x, 1), size])
    zero = b.constant_of_shape(shape, value=0.0, to=F32)
    states = [zero if v is None else part(b, v, d) for v in (node.operand("h0"), node.operand("c0"))]
    weights = _weights(b, node, d, "r")
    peepholes = [part(b, node.operand("p"), d, i * size, (i + 1) * size) for i in range(3)]
    captured = [v for v in (entries, lens, *weights, *peepholes) if v is not None and not v.is_const]
    region = b.module.new_region("step")
    step, _ = region.add_input(TensorType(I64, ()), "i"), region.add_input(TensorType(BOOL, ()), "going")
    carried = [region.add_input(TensorType(F32, (x.shape[1], size)), name) for name in ("h", "c")]  # type: ignore[index]
    inside = {v: region.add_input(v.type) for v in captured}
    functions = gate_functions(Builder(region), node, ("Sigmoid", "Tanh", "Tanh"), 2, unclipped=2)
    made = _step(
        region, node, functions[d], step, carried, [inside.get(v, v) for v in (entries, lens, *weights, *peepholes)]
    )  # type: ignore[index, arg-type]
    region.set_outputs([region.inputs[1], *made])
    hidden, cell, y = b.call("loop", [length, None, *states, *captured], {"carried": 2}, [region]).results
    return y, hidden, cell


def _step(
    region: Graph, node: Node, gates: list[Callable], step: Value, carried: list[Value], given: list[Value]
) -> list[Value]:
    """One time step: the new states, and what it yields."""
    entries, lens, weights, scale, zero, *peepholes = given
    b, (hidden, state), (f, g, h) = Builder(region), carried, gates

    def looked(gate: Value, weight: Value | None, at: Value) -> Value:
        return gate if weight is None else b.add(gate, b.mul(weight, at))

    counted = hidden if lens is None else _counted(b, hidden, step, lens)
    total = b.add(b.gather(entries, step, axis=0), _product(b, counted, weights, scale, zero))
    i, o, forget, c = b.split(total, axis=1, num_outputs=4)
    i = f(looked(i, peepholes[0], state))
    keep = b.sub(scalar(b, 1, i), i) if node.attr("input_forget") else f(looked(forget, peepholes[2], state))
    new = b.add(b.mul(keep, state), b.mul(i, g(c)))
    shown = b.mul(f(looked(o, peepholes[1], new)), h(new))
    if lens is None:
        return [shown, new, shown]
    running = b.unsqueeze(b.less(step, b.cast(lens, to=I64)), (1,))
    return [b.where(running, shown, hidden), b.where(running, new, state), b.where(running, shown, scalar(b, 0, shown))]


def _counted(b: Builder, hidden: Value, step: Value, lens: Value) -> Value:
    """What the step quantises: the states of samples that have not ended before it, and zeros."""
    there = b.unsqueeze(b.less_equal(step, b.cast(lens, to=I64)), (1,))
    return b.where(there, hidden, scalar(b, 0, hidden))
