"""Integer arithmetic: matmul_integer, conv_integer, qlinear_matmul, qlinear_conv, and the recurrent dynamic_quantize_lstm.

Scales and zero points stay operands in ONNX's shapes, so that what a file says survives. Sums are exact in i32; the ratio
of scales is worked out and applied in float32, as onnxruntime does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..dims import Dim
from ..errors import TypeInferError
from ..opdef import PURE, SPATIAL, AxisMap, OpDef, Sample, attr, floats, op, operand, optional, strs
from ..types import BF16, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F16, F32, I8, I32, U8, TensorType
from . import rules
from .conv import Sliding, _conv_axes, conv_shape
from .matmul import matmul_axes, matmul_shape
from .recurrent import DIRECTIONS

if TYPE_CHECKING:
    from ..value import Value

BYTE = frozenset({I8, U8})
SMALL = BYTE | {F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ}
SCALE = frozenset({F16, BF16, F32})


def _expect_same(zero_point: Value | None, data: Value, what: str) -> None:
    if zero_point is not None and None not in (zero_point.dtype, data.dtype) and zero_point.dtype is not data.dtype:
        raise TypeInferError(f"{what} has dtype {zero_point.dtype}, its operand {data.dtype}; they must agree")


def _one(value: Value, what: str) -> None:
    """A single element."""
    if value.shape is not None and any(isinstance(d, int) and d != 1 for d in value.shape):
        raise TypeInferError(f"{what} of shape {rules.show(value.shape)} is not a single number")


def _along(value: Value, size: Dim, what: str) -> None:
    """A single element, or one for each of `size` rows, columns or channels."""
    if value.rank == 1 and value.shape[0] != 1:
        rules.agree(value.shape[0], size, f"{what} of shape {rules.show(value.shape)}")


@op
class MatmulInteger(OpDef):
    """(a - a_zp)(b - b_zp) in i32 for 8-bit a and b (ONNX MatMulInteger-10).

    Zero points are scalars; a_zp may be one per row of a [M], b_zp one per column of b [N], or of the operand's rank.
    """

    a = operand(BYTE)
    b = operand(BYTE)
    a_zp = optional(BYTE)
    b_zp = optional(BYTE)

    def infer(self, a, b, a_zp, b_zp):
        if a.shape is None or b.shape is None:
            return TensorType(I32, None)
        for value, other, what, axis in ((a_zp, a, "a_zp", -2), (b_zp, b, "b_zp", -1)):
            _expect_same(value, other, what)
            if value is not None and value.rank == 1 and other.rank > 1 and value.shape[0] != 1:
                rules.agree(value.shape[0], other.shape[axis], f"{what} and its operand")
        return TensorType(I32, matmul_shape(a.shape, b.shape))

    def axes(self, a, b, a_zp, b_zp):
        if not a.shape or not b.shape or any(z is not None and z.rank != 0 for z in (a_zp, b_zp)):
            return None
        made = matmul_axes(a.shape, b.shape)
        return AxisMap((*made.operands, *(None if z is None else () for z in (a_zp, b_zp))), made.results)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        a, b = _bytes(rng, (3, 4), U8), _bytes(rng, (4, 5), I8)
        yield Sample((a, b, None, None))
        yield Sample((a, b, np.uint8(7), np.int8(-3)))
        yield Sample((a, b, _bytes(rng, (3,), U8), _bytes(rng, (5,), I8)))
        yield Sample((_bytes(rng, (2, 3, 4), I8), _bytes(rng, (4, 2), U8), np.int8(5), None))


@op
class ConvInteger(Sliding):
    """conv of x - x_zp with w - w_zp in i32 for 8-bit x and w (ONNX ConvInteger-10); w_zp may be per output channel."""

    x = operand(BYTE)
    w = operand(BYTE)
    x_zp = optional(BYTE)
    w_zp = optional(BYTE)
    channels_last = attr(bool, False)
    traits = PURE | SPATIAL

    def infer(self, x, w, x_zp, w_zp, *, groups, channels_last, **geometry):
        _expect_same(x_zp, x, "x_zp")
        _expect_same(w_zp, w, "w_zp")
        rules.ranked(x_zp, "x_zp", 0, 1)
        if w_zp is not None and w_zp.rank == 1 and w.shape is not None and w_zp.shape[0] != 1:
            rules.agree(w_zp.shape[0], w.shape[0], "w_zp and output channels")
        return TensorType(I32, conv_shape(x, w, groups, channels_last, **geometry))

    def axes(self, x, w, x_zp, w_zp, *, groups, channels_last, **geometry):
        made = _conv_axes(x, w, groups, channels_last, **geometry)
        if made is None or any(z is not None and z.rank != 0 for z in (x_zp, w_zp)):
            return None
        return AxisMap((*made.operands, *(None if z is None else () for z in (x_zp, w_zp))), made.results)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, w = _bytes(rng, (2, 4, 6, 5), U8), _bytes(rng, (6, 2, 3, 3), I8)
        yield Sample((x, w, None, None), {"groups": 2})
        yield Sample((x, w, np.uint8(128), np.int8(2)), {"groups": 2, "pads": (1, 1, 0, 1), "strides": (2, 1)})
        yield Sample((x, _bytes(rng, (4, 1, 2, 2), I8), np.uint8(3), _bytes(rng, (4,), I8)), {"groups": 4})
        yield Sample(
            (_bytes(rng, (1, 5, 6, 4), I8), _bytes(rng, (3, 4, 3, 3), I8), None, None), {"channels_last": True}
        )


@op
class QlinearMatmul(OpDef):
    """round((a - a_zp)(b - b_zp) * (a_scale * b_scale / y_scale)) + y_zp, saturated (ONNX QLinearMatMul-21).

    Parameters are single numbers, vectors (one per row of a and y, per column of b), or [.., M, 1] and [.., 1, N].
    """

    a = operand(SMALL)
    a_scale = operand(SCALE)
    a_zp = operand(SMALL)
    b = operand(SMALL)
    b_scale = operand(SCALE)
    b_zp = operand(SMALL)
    y_scale = operand(SCALE)
    y_zp = operand(SMALL)

    def infer(self, a, a_scale, a_zp, b, b_scale, b_zp, y_scale, y_zp):
        _expect_same(a_zp, a, "a_zp")
        _expect_same(b_zp, b, "b_zp")
        if a.shape is None or b.shape is None:
            return TensorType(y_zp.dtype, None)
        for values, size, what in (
            ((a_scale, a_zp), a.shape[-2] if len(a.shape) > 1 else 1, "a"),
            ((b_scale, b_zp), b.shape[-1], "b"),
        ):
            for value in values:
                _along(value, size, f"a parameter of {what}")
        return TensorType(y_zp.dtype, matmul_shape(a.shape, b.shape))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        scales = [np.array(s, np.float32) for s in (0.02, 0.05, 0.3)]
        for left, right, made in ((U8, I8, U8), (I8, I8, I8), (U8, U8, I8)):
            a, b = _bytes(rng, (2, 3, 4), left), _bytes(rng, (4, 5), right)
            zeros = [_bytes(rng, (), t) for t in (left, right, made)]
            yield Sample((a, scales[0], zeros[0], b, scales[1], zeros[1], scales[2], zeros[2]))
        columns = rng.uniform(0.01, 0.1, 5).astype(np.float32)
        a, b = _bytes(rng, (3, 4), U8), _bytes(rng, (4, 5), I8)
        yield Sample((a, scales[0], np.uint8(7), b, columns, _bytes(rng, (5,), I8), scales[2], np.uint8(128)))


@op
class QlinearConv(Sliding):
    """conv of x - x_zp with w - w_zp, plus an i32 bias, times x_scale * w_scale / y_scale, rounded, plus y_zp, saturated
    (ONNX QLinearConv-10). w_scale and w_zp may be vectors, one entry per output channel."""

    x = operand(BYTE)
    x_scale = operand(frozenset({F32}))
    x_zp = operand(BYTE)
    w = operand(BYTE)
    w_scale = operand(frozenset({F32}))
    w_zp = operand(BYTE)
    y_scale = operand(frozenset({F32}))
    y_zp = operand(BYTE)
    bias = optional(frozenset({I32}))

    def infer(self, x, x_scale, x_zp, w, w_scale, w_zp, y_scale, y_zp, bias, *, groups, **geometry):
        _expect_same(x_zp, x, "x_zp")
        _expect_same(w_zp, w, "w_zp")
        for value, what in ((x_scale, "x_scale"), (x_zp, "x_zp"), (y_scale, "y_scale"), (y_zp, "y_zp")):
            _one(value, what)
        if w.shape is not None:
            rules.expect_vector(bias, w.shape[0], "bias")
            _along(w_scale, w.shape[0], "w_scale")
            _along(w_zp, w.shape[0], "w_zp")
        return TensorType(y_zp.dtype, conv_shape(x, w, groups, False, **geometry))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        x, w = _bytes(rng, (2, 4, 6, 5), U8), _bytes(rng, (6, 2, 3, 3), I8)
        bias = rng.integers(-5000, 5000, 6).astype(np.int32)
        scales = [np.array(s, np.float32) for s in (0.02, 0.05, 0.3)]
        one = (x, scales[0], np.uint8(9), w, scales[1], np.int8(0), scales[2], np.uint8(128))
        yield Sample((*one, None), {"groups": 2})
        yield Sample((*one, bias), {"groups": 2, "pads": (1, 1, 0, 1), "strides": (2, 1)})
        channels = rng.uniform(0.01, 0.1, 6).astype(np.float32)
        many = (x, scales[0], np.uint8(9), w, channels, _bytes(rng, (6,), I8), scales[2], np.int8(-3))
        yield Sample((*many, bias), {"groups": 2, "auto_pad": "same_upper", "dilations": (1, 2)})
        x, w = _bytes(rng, (1, 2, 7), I8), _bytes(rng, (3, 2, 2), I8)
        yield Sample((x, scales[0], np.int8(3), w, scales[1], np.int8(1), scales[2], np.int8(0), None))


@op
class DynamicQuantizeLstm(OpDef):
    """lstm whose products are integer (onnxruntime's DynamicQuantizeLSTM): the input of all steps, and the state of each
    step, are quantised to u8 by their own range, over the whole batch.

    x [T, B, I] f32, w [D, I, 4H] and r [D, H, 4H] 8-bit, parameters [D] or [D, 4H]; the rest is as in lstm.
    """

    x = operand(frozenset({F32}))
    w = operand(BYTE)
    r = operand(BYTE)
    b = optional(frozenset({F32}))
    seq_lens = optional(frozenset({I32}))
    h0 = optional(frozenset({F32}))
    c0 = optional(frozenset({F32}))
    p = optional(frozenset({F32}))
    w_scale = operand(frozenset({F32}))
    w_zp = operand(BYTE)
    r_scale = operand(frozenset({F32}))
    r_zp = operand(BYTE)
    hidden_size = attr(int)
    direction = attr(str, "forward", choices=DIRECTIONS)
    activations = attr(strs, ())
    activation_alpha = attr(floats, ())
    activation_beta = attr(floats, ())
    clip = attr(float, None)
    input_forget = attr(bool, False)
    results = ("y", "y_h", "y_c")
    traits = PURE

    def infer(self, x, w, r, b, seq_lens, h0, c0, p, w_scale, w_zp, r_scale, r_zp, *, hidden_size, direction, **_):
        count = 2 if direction == "bidirectional" else 1
        _expect_same(w_zp, w, "w_zp")
        _expect_same(r_zp, r, "r_zp")
        shape = rules.ranked(x, "x", 3)
        if shape is None:
            return [TensorType(F32, None)] * 3
        steps, batch, inputs = shape
        wide, state = 4 * hidden_size, (count, batch, hidden_size)
        wanted = {"w": (w, (count, inputs, wide)), "r": (r, (count, hidden_size, wide)), "b": (b, (count, 2 * wide))}
        wanted |= {"seq_lens": (seq_lens, (batch,)), "h0": (h0, state), "c0": (c0, state)}
        wanted["p"] = (p, (count, 3 * hidden_size))
        for name, value in {"w_scale": w_scale, "w_zp": w_zp, "r_scale": r_scale, "r_zp": r_zp}.items():
            wanted[name] = (value, (count, wide)[: len(rules.ranked(value, name, 1, 2) or ())])
        for name, (value, expected) in wanted.items():
            for have, want in zip(rules.ranked(value, name, len(expected)) or (), expected, strict=False):
                rules.agree(have, want, f"{name} has shape {rules.show(value.shape)}, expected {rules.show(expected)}")
        return [TensorType(F32, (steps, *state)), TensorType(F32, state), TensorType(F32, state)]

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for direction, stored, wide, lens in (
            ("forward", I8, False, None),
            ("bidirectional", U8, False, (4, 2, 3)),
            ("reverse", I8, True, (1, 4, 4)),
        ):
            count = 2 if direction == "bidirectional" else 1
            yield Sample(_lstm(rng, count, stored, wide, lens), {"hidden_size": 3, "direction": direction})


def _lstm(rng: np.random.Generator, count: int, stored, wide: bool, lens) -> tuple:
    """Operands for 4 steps of 3 samples with 5 features and 3 hidden units."""
    scale_shape = (count, 12) if wide else (count,)
    scales = [rng.uniform(0.002, 0.01, scale_shape).astype(np.float32) for _ in range(2)]
    zero = np.full(scale_shape, 0 if stored is I8 else 128, stored.numpy)
    x = rng.standard_normal((4, 3, 5)).astype(np.float32)
    b = rng.standard_normal((count, 24)).astype(np.float32)
    w, r = _bytes(rng, (count, 5, 12), stored), _bytes(rng, (count, 3, 12), stored)
    lengths = None if lens is None else np.array(lens, np.int32)
    state = rng.uniform(-1, 1, (count, 3, 3)).astype(np.float32)
    return (x, w, r, b, lengths, state, state / 2, None, scales[0], zero, scales[1], zero)


def _bytes(rng: np.random.Generator, shape: tuple[int, ...], dtype) -> np.ndarray:
    info = np.iinfo(dtype.numpy)
    return np.asarray(rng.integers(info.min, info.max + 1, shape)).astype(dtype.numpy)
