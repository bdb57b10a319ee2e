"""TFLite's products, fused arithmetic and LSTM, each with its kernel."""

from __future__ import annotations

import numpy as np

from ....ir.errors import TypeInferError
from ....ir.opdef import OpDef, attr, op, operand, optional
from ....ir.ops.rules import agree
from ....ir.ops.shapes import broadcast_shapes
from ....ir.types import TensorType
from ....kernels.registry import get_kernel, kernel
from .common import FLOATS, Fused, activated, image


@op(name="tfl.fully_connected")
class FullyConnected(Fused):
    """x [..., K] times the transpose of w [O, K], plus b [O]: [..., O] with `keep_num_dims`, else [M, O]."""

    x = operand(FLOATS)
    w = operand(FLOATS)
    b = optional(FLOATS)
    keep_num_dims = attr(bool, False)

    def infer(self, x, w, b, *, keep_num_dims, **_):
        if x.shape is None or w.shape is None or len(w.shape) != 2 or not x.shape:
            raise TypeInferError(f"fully_connected takes x of known rank and w of rank 2, got {x.type} and {w.type}")
        agree(x.shape[-1], w.shape[1], "the contracted dims")
        if len(x.shape) != 2 and not keep_num_dims:
            raise TypeInferError("x of another rank than 2 needs keep_num_dims")
        return TensorType(x.dtype, (*x.shape[:-1], w.shape[0]))


@kernel("tfl.fully_connected")
def _fully_connected(x, w, b=None, *, keep_num_dims, fused_activation_function):
    y = x.astype(np.float64) @ w.astype(np.float64).T
    y = y if b is None else y + b
    return activated(y.astype(np.float32), fused_activation_function)


@op(name="tfl.batch_matmul")
class BatchMatmul(OpDef):
    """numpy's matmul of operands of rank 2 or more, either with its last two axes swapped first."""

    x = operand(FLOATS)
    y_ = operand(FLOATS)
    adj_x = attr(bool, False)
    adj_y = attr(bool, False)

    def infer(self, x, y, *, adj_x, adj_y):
        a, b = x.shape, y.shape
        if a is None or b is None or len(a) < 2 or len(b) < 2:
            raise TypeInferError(f"batch_matmul takes ranks of 2 or more, got {x.type} and {y.type}")
        (m, k), (k2, n) = (a[-2:][::-1] if adj_x else a[-2:]), (b[-2:][::-1] if adj_y else b[-2:])
        agree(k, k2, "the contracted dims")
        return TensorType(x.dtype, (*broadcast_shapes(a[:-2], b[:-2]), m, n))


@kernel("tfl.batch_matmul")
def _batch_matmul(x, y, *, adj_x, adj_y):
    a, b = (np.swapaxes(v, -1, -2) if swap else v for v, swap in ((x, adj_x), (y, adj_y)))
    return np.asarray(a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)


class Arithmetic(Fused):
    """Base of the float arithmetic with a fused activation; without one the core op stands."""

    x = operand(FLOATS)
    y_ = operand(FLOATS)

    def infer(self, x, y, **_):
        if x.shape is None or y.shape is None:
            return TensorType(x.dtype, None)
        return TensorType(x.dtype, broadcast_shapes(x.shape, y.shape))


def _arithmetic(name: str) -> None:
    doc = f"{name} of broadcast floats, and an activation."
    op(name=f"tfl.{name}")(type(name.capitalize(), (Arithmetic,), {"__doc__": doc, "__module__": __name__}))

    @kernel(f"tfl.{name}")
    def run(x, y, *, fused_activation_function):
        return activated(get_kernel(name)(x, y), fused_activation_function)


for _name in ("add", "sub", "mul", "div"):
    _arithmetic(_name)


@op(name="tfl.squared_difference")
class SquaredDifference(OpDef):
    """(x - y) ** 2, broadcast."""

    x = operand(FLOATS)
    y_ = operand(FLOATS)

    def infer(self, x, y):
        return TensorType(x.dtype, None if x.shape is None or y.shape is None else broadcast_shapes(x.shape, y.shape))


@kernel("tfl.squared_difference")
def _squared_difference(x, y):
    return np.asarray((x.astype(np.float64) - y) ** 2).astype(np.float32)


def _clamp(name: str, low: float, high: float) -> None:
    def infer(self, x):
        return x.type

    body = {
        "__doc__": f"x kept within {low:g} and {high:g}.",
        "__module__": __name__,
        "x": operand(FLOATS),
        "infer": infer,
    }
    op(name=f"tfl.{name}")(type(name.title().replace("_", ""), (OpDef,), body))

    @kernel(f"tfl.{name}")
    def run(x):
        return get_kernel("clip")(x, np.float32(low), np.float32(high))


_clamp("relu_n1_to_1", -1.0, 1.0)
_clamp("relu_0_to_1", 0.0, 1.0)


@op(name="tfl.unidirectional_sequence_lstm")
class UnidirectionalSequenceLstm(Fused):
    """LSTM over x [T, N, I] from a zero state, all outputs [T, N, H]; gates i, f, c, o of w [H, I], r [H, H], b [H]."""

    x = operand(FLOATS)
    w_i = operand(FLOATS)
    w_f = operand(FLOATS)
    w_c = operand(FLOATS)
    w_o = operand(FLOATS)
    r_i = operand(FLOATS)
    r_f = operand(FLOATS)
    r_c = operand(FLOATS)
    r_o = operand(FLOATS)
    b_i = operand(FLOATS)
    b_f = operand(FLOATS)
    b_c = operand(FLOATS)
    b_o = operand(FLOATS)
    fused_activation_function = attr(str, "TANH", choices=("TANH",))
    time_major = attr(bool, True)

    def infer(self, x, w_i, *_, **__):
        t, n, _ = image(x, self.name, 3)
        return TensorType(x.dtype, (t, n, w_i.shape[0]))


@kernel("tfl.unidirectional_sequence_lstm")
def _lstm(x, *weights, fused_activation_function, time_major):
    def gates(four: tuple) -> np.ndarray:  # i, f, c, o here; i, o, f, c in the core op
        return np.concatenate([four[0], four[3], four[1], four[2]])[None]

    w, r, b = (gates(weights[i : i + 4]) for i in (0, 4, 8))
    y, _, _ = get_kernel("lstm")(
        x,
        w,
        r,
        np.concatenate([b, np.zeros_like(b)], axis=1),
        hidden_size=r.shape[2],
        direction="forward",
        activations=(),
        activation_alpha=(),
        activation_beta=(),
        clip=None,
        input_forget=False,
    )
    return y[:, 0]
