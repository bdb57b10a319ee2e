"""qlinear_conv, qlinear_matmul and dynamic_quantize_lstm: exact sums, then float32 as onnxruntime's integer kernels.

A sum becomes float32, is multiplied by the ratio of scales (worked out in float32 too), rounded half to even and clamped
(MlasRequantizeOutput in onnxruntime). Imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..ir.types import DType
from .conv import conv_integer
from .jit import jit
from .matmul import matmul_integer
from .numeric import is_integer
from .precision import quiet, saturate, wide
from .product import BYTE_RANGE, EXACT_FLOAT32, integer_product, less_zero_point
from .quant import dynamic_quantize, requantize
from .recurrent import directions, gate_functions
from .registry import kernel

Array = np.ndarray
#: So many products of two 8-bit differences add up exactly in float32.
SAFE_TERMS = EXACT_FLOAT32 // BYTE_RANGE**2 // 4 * 4
#: The default gate functions of one direction.
USUAL = ["sigmoid", "tanh", "tanh"]


def _ratio(first: Array, second: Array, made: Array) -> Array:
    """first * second / made in float32."""
    with quiet():
        return first.astype(np.float32) * second.astype(np.float32) / made.astype(np.float32)


def _vector(parameter: Array, rank: int, axis: int) -> Array:
    """A vector laid along an axis counted from the end; single numbers and full shapes as they are."""
    if parameter.size == 1:
        return parameter.reshape(())
    return parameter.reshape(-1, *(1,) * (-axis - 1)) if parameter.ndim == 1 and rank > 1 else parameter


def _requantized(total: Array, ratio: Array, zero: Array) -> Array:
    """The one place where i32 sums become 8-bit integers."""
    shape = np.broadcast_shapes(total.shape, ratio.shape, zero.shape)
    return requantize(total, np.broadcast_to(ratio, shape), np.broadcast_to(zero, shape), to=DType.of(zero.dtype))


@kernel("qlinear_matmul")
def qlinear_matmul(a, a_scale, a_zp, b, b_scale, b_zp, y_scale, y_zp):
    """a [.., M, K], b [.., K, N] in 8 bits to y in the dtype of y_zp; parameters per tensor, row (a, y) or column (b)."""
    rows = [_vector(v, a.ndim, -2) for v in (a_scale, a_zp, y_scale, y_zp)]
    columns = [_vector(v, b.ndim, -1) for v in (b_scale, b_zp)]
    ratio = _ratio(rows[0], columns[0], rows[2])
    if a.ndim == 1:
        ratio = ratio.reshape(ratio.shape[-1:])
    if b.ndim == 1 and ratio.ndim:
        ratio = ratio.reshape(ratio.shape[:-1])
    if is_integer(a.dtype):
        return _requantized(matmul_integer(a, b, rows[1], columns[1]), ratio, rows[3])
    with quiet():
        total = np.matmul(wide(a) - wide(rows[1]), wide(b) - wide(columns[1]))
        return saturate(total * wide(ratio) + wide(rows[3]), y_zp.dtype)


@kernel("qlinear_conv")
def qlinear_conv(x, x_scale, x_zp, w, w_scale, w_zp, y_scale, y_zp, bias=None, **geometry):
    """x [N, C, *S], w [O, C/groups, *K] in 8 bits, bias [O] i32, to y [N, O, *S'] in the dtype of y_zp."""
    total = conv_integer(x, w, x_zp.reshape(()), w_zp, **geometry)
    channel = (-1, *(1,) * (x.ndim - 2))
    if bias is not None:
        total = total + bias.reshape(channel)
    ratio = _ratio(x_scale.reshape(()), w_scale, y_scale.reshape(()))
    ratio = ratio.reshape(channel) if ratio.size > 1 else ratio.reshape(())
    return _requantized(total, ratio, y_zp.reshape(()))


@kernel("dynamic_quantize_lstm")
def dynamic_quantize_lstm(
    x,
    w,
    r,
    b,
    seq_lens,
    h0,
    c0,
    p,
    w_scale,
    w_zp,
    r_scale,
    r_zp,
    *,
    hidden_size,
    direction="forward",
    activations=(),
    activation_alpha=(),
    activation_beta=(),
    clip=None,
    input_forget=False,
):
    """x [T, B, I], w [D, I, 4H], r [D, H, 4H] in gate order iofc to y [T, D, B, H], y_h and y_c [D, B, H], all f32.

    Each state is rounded to f32 where it is quantised; gates are computed in float64.
    """
    turned, size = directions(direction), hidden_size
    steps, batch = x.shape[:2]
    lengths = np.full(batch, steps) if seq_lens is None else seq_lens.astype(np.int64)
    names = tuple(activations) or ("Sigmoid", "Tanh", "Tanh") * len(turned)
    clips = [None if i % 3 == 2 else clip for i in range(len(names))]
    gates = gate_functions(names, activation_alpha, activation_beta, clips)
    bias = np.zeros((len(turned), 8 * size)) if b is None else wide(b)
    outputs, finals = [], []
    for d, reverse in enumerate(turned):
        product = _product(x[: max(lengths.max(initial=0), 0)], less_zero_point(w[d], w_zp[d]), w_scale[d])
        entries = wide(product) + (bias[d, : 4 * size] + bias[d, 4 * size :])
        peep = np.zeros(3 * size) if p is None else wide(p[d])
        recurrence = (less_zero_point(r[d], r_zp[d]), r_scale[d])
        cell = _cell(recurrence, gates[3 * d : 3 * d + 3], np.split(peep, 3), input_forget)
        if (
            r_scale[d].size == r_zp[d].size == 1
            and not clip
            and [name.lower() for name in names[3 * d : 3 * d + 3]] == USUAL
        ):
            cell = _usual_cell(cell, (r[d], r_zp[d], r_scale[d]), peep, input_forget)
        states = [np.zeros((batch, size), np.float32) if s is None else s[d] for s in (h0, c0)]
        y, last = _scan(cell, entries, states, (steps, lengths), reverse)
        outputs.append(y)
        finals.append(last)
    return (np.stack(outputs, axis=1), *(np.stack(last) for last in zip(*finals, strict=True)))


def _product(a: Array, weights: Array, scale: Array) -> Array:
    """f32 `a` quantised by its own range, times 8-bit weights less their zero point, in f32."""
    stored, unit, offset = dynamic_quantize(a)
    total = integer_product(less_zero_point(stored, offset), weights, BYTE_RANGE, BYTE_RANGE)
    return total.astype(np.float32) * (unit * scale)


def _cell(recurrence: tuple, gates: Sequence[Callable], peepholes: Sequence[Array], input_forget: bool) -> Callable:
    f, g, h = gates
    peep_i, peep_o, peep_f = peepholes

    def cell(entry: Array, hidden: Array, state: Array) -> tuple[Array, Array]:
        total = entry + wide(_product(hidden, *recurrence))
        i, o, forget, c = np.split(total, 4, axis=1)
        i = f(i + peep_i * state)
        forget = 1.0 - i if input_forget else f(forget + peep_f * state)
        made = forget * state + i * g(c)
        return (f(o + peep_o * made) * h(made)).astype(np.float32), made.astype(np.float32)

    return cell


def _usual_cell(slow: Callable, recurrence: tuple, peepholes: Array, input_forget: bool) -> Callable:
    """The cell with the usual gates, compiled where that pays."""
    weights, zero, scale = recurrence[0], np.float64(recurrence[1].item()), np.float32(recurrence[2].item())

    def cell(entry: Array, hidden: Array, state: Array) -> tuple[Array, Array]:
        made = np.empty(hidden.shape, np.float32), np.empty(hidden.shape, np.float32)
        given = (entry, hidden, np.array(state, np.float32), weights, zero, scale, peepholes, input_forget, *made)
        if not _usual_step.ready(*given):
            return slow(entry, hidden, state)
        _usual_step(*given)
        return made

    return cell


@jit(lambda entry, hidden, state, weights, *_: weights.size * len(hidden))
def _usual_step(
    entry, hidden, state, weights, offset_of_weights, scale, peepholes, input_forget, new_hidden, new_state
):
    """`_cell` with sigmoid, tanh, tanh on 8-bit weights as they are stored: sums of integers are exact, all else rounds
    where `_product` does."""
    size = hidden.shape[1]
    zero = np.float32(0.0)
    high, low = zero, zero
    for row in hidden:
        for value in row:
            high = value if value > high or value != value else high
            low = value if value < low or value != value else low
    unit = (high - low) / np.float32(255.0)
    unit = np.float32(1.0) if unit == zero else unit
    offset = min(max(np.rint(zero - low / unit), zero), np.float32(255.0))
    factor = unit * scale
    levels, total, part = np.empty(size, np.float32), np.empty(4 * size), np.empty(4 * size, np.float32)
    for b in range(len(hidden)):
        for k in range(size):
            levels[k] = min(max(np.rint(hidden[b, k] / unit) + offset, zero), np.float32(255.0)) - offset
        integer_sums(levels, weights, total, part)
        taken = 0.0
        for k in range(size):
            taken += levels[k] * offset_of_weights
        for n in range(4 * size):
            total[n] = entry[b, n] + np.float32(total[n] - taken) * factor
        for n in range(size):
            before = np.float64(state[b, n])
            i = sigmoid(total[n] + peepholes[n] * before)
            forget = 1.0 - i if input_forget else sigmoid(total[2 * size + n] + peepholes[2 * size + n] * before)
            made = forget * before + i * math.tanh(total[3 * size + n])
            out = sigmoid(total[size + n] + peepholes[size + n] * made)
            new_hidden[b, n], new_state[b, n] = out * math.tanh(made), made


@jit(lambda levels, weights, *_: weights.size)
def integer_sums(levels, weights, total, part):
    """total [N] = levels [K] @ weights [K, N] of 8 bits; levels are integral, up to 255 in size: exact in float32 for
    `SAFE_TERMS`."""
    total[:] = 0.0
    for start in range(0, len(levels), SAFE_TERMS):
        end = min(start + SAFE_TERMS, len(levels))
        whole = end - (end - start) % 4
        part[:] = np.float32(0.0)
        for k in range(start, whole, 4):
            a, b, c, d = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
            e, f, g, h = levels[k], levels[k + 1], levels[k + 2], levels[k + 3]
            for n in range(len(part)):
                first = e * np.float32(a[n]) + f * np.float32(b[n])
                part[n] += first + (g * np.float32(c[n]) + h * np.float32(d[n]))
        for k in range(whole, end):
            line, level = weights[k], levels[k]
            for n in range(len(part)):
                part[n] += level * np.float32(line[n])
        for n in range(len(part)):
            total[n] += part[n]


@jit(lambda x: 1)
def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def _scan(cell: Callable, entries: Array, states: Sequence[Array], sizes: tuple, reverse: bool) -> tuple:
    """y [T, B, H] and the last states; a sample that has ended keeps its states and yields 0.

    Its last state takes part in one more quantisation, after that zeros do, as in onnxruntime.
    """
    steps, lengths = sizes
    y = np.zeros((steps, *states[0].shape), np.float32)
    samples = np.arange(len(lengths))
    if np.all(lengths == len(entries)):
        order = range(len(entries))
        for step in reversed(order) if reverse else order:
            states = cell(entries[step], *states)
            y[step] = states[0]
        return y, states
    for step in range(len(entries)):
        at = np.where(lengths > step, lengths - 1 - step, step) if reverse else np.full(len(lengths), step)
        running = (step < lengths)[:, None]
        counted = np.where((step <= lengths)[:, None], states[0], 0).astype(np.float32)
        made = cell(entries[at, samples], counted, states[1])
        states = tuple(np.where(running, new, old) for new, old in zip(made, states, strict=True))
        y[at, samples] = np.where(running, states[0], 0)
    return y, states
