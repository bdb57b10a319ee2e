"""lstm, gru, rnn: one layer, one or two directions, time-major, gates in ONNX's order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from ..dims import Dim, Expr
from ..errors import TypeInferError
from ..opdef import Axis, AxisMap, DtypeVar, OpDef, Sample, attr, floats, op, operand, optional, strs
from ..types import FLOAT, I32, I64, TensorType
from . import rules

T = DtypeVar("T", FLOAT)
DIRECTIONS = ("forward", "reverse", "bidirectional")

#: Gate activations, as ONNX spells them in lower case.
ACTIVATIONS = (
    "relu",
    "tanh",
    "sigmoid",
    "affine",
    "leakyrelu",
    "thresholdedrelu",
    "scaledtanh",
    "hardsigmoid",
    "elu",
    "softsign",
    "softplus",
)


class _Recurrent(OpDef):
    """What the three ops share: x [T, B, I], w [D, G H, I], r [D, G H, H], b [D, 2 G H], seq_lens [B], h0 [D, B, H]."""

    x = operand(T)
    w = operand(T)
    r = operand(T)
    b = optional(T)
    seq_lens = optional(frozenset({I32, I64}))
    h0 = optional(T)
    hidden_size = attr(int)
    direction = attr(str, "forward", choices=DIRECTIONS)
    activations = attr(strs, ())
    activation_alpha = attr(floats, ())
    activation_beta = attr(floats, ())
    clip = attr(float, None)
    results: ClassVar[tuple[str, ...]] = ("y", "y_h")

    gates = 1
    functions = 1  # activations per direction

    def _types(
        self, operands: dict[str, Any], hidden_size: int, direction: str, activations: tuple[str, ...]
    ) -> list[TensorType]:
        """Types of y and the last states. Raises TypeInferError for shapes that do not fit."""
        count = 2 if direction == "bidirectional" else 1
        self._check_activations(activations, count)
        if hidden_size < 1:
            raise TypeInferError(f"hidden_size is {hidden_size}; it must be at least 1")
        dtype = rules.first_dtype(*(operands[k] for k in ("x", "w", "r")))
        steps, batch, inputs = self._extents(operands)
        wide = self.gates * hidden_size
        wanted: dict[str, tuple[Dim, ...]] = {
            "w": (count, wide, inputs),
            "r": (count, wide, hidden_size),
            "b": (count, 2 * wide),
            "seq_lens": (batch,),
            "h0": (count, batch, hidden_size),
            "c0": (count, batch, hidden_size),
            "p": (count, 3 * hidden_size),
        }
        for name, shape in wanted.items():
            self._fit(operands.get(name), name, shape)
        state = TensorType(dtype, (count, batch, hidden_size))
        return [TensorType(dtype, (steps, count, batch, hidden_size)), *[state] * (len(self.results) - 1)]

    @staticmethod
    def _extents(operands: dict[str, Any]) -> tuple[Dim, Dim, Dim]:
        """Steps, batch and input features, from the other operands where the rank of x is unknown."""
        x = rules.ranked(operands["x"], "x", 3)
        if x is not None:
            return x[0], x[1], x[2]
        w, state = rules.ranked(operands["w"], "w", 3), rules.ranked(operands.get("h0"), "h0", 3)
        return Expr.fresh(), state[1] if state else Expr.fresh(), w[2] if w else Expr.fresh()

    def _fit(self, value: Any, name: str, wanted: tuple[Dim, ...]) -> None:
        shape = rules.ranked(value, name, len(wanted))
        for have, want in zip(shape or (), wanted, strict=False):
            rules.agree(have, want, f"{name} has shape {rules.show(shape or ())}, expected {rules.show(wanted)}")

    def _check_activations(self, activations: tuple[str, ...], count: int) -> None:
        if activations and len(activations) != self.functions * count:
            raise TypeInferError(f"{len(activations)} activations, expected {self.functions * count}")
        for name in activations:
            if name.lower() not in ACTIVATIONS:
                raise TypeInferError(f"unknown gate activation {name!r}; known: {', '.join(ACTIVATIONS)}")

    def _rows(self, operands: tuple[Any, ...], names: tuple[str, ...]) -> AxisMap:
        """Batches pass and input features are contracted; time, directions and gates keep their places."""
        batch, inputs = Axis("b"), Axis("i", "contract")
        rows: dict[str, rules.AxisRow] = {
            "x": (None, batch, inputs),
            "w": (None, None, inputs),
            "r": (None, None, None),
            "b": (None, None),
            "seq_lens": (batch,),
            "h0": (None, batch, None),
            "c0": (None, batch, None),
            "p": (None, None),
        }
        made = tuple(None if v is None else rows[k] for k, v in zip(names, operands, strict=True))
        return AxisMap(made, ((None, None, batch, None), *[(None, batch, None)] * (len(self.results) - 1)))

    def _draw(self, rng: np.random.Generator, direction: str, seq_lens: Any, states: int) -> list[np.ndarray | None]:
        count = 2 if direction == "bidirectional" else 1
        wide = self.gates * HIDDEN
        lens = None if seq_lens is None else np.array(seq_lens, np.int32)
        shapes = [(STEPS, BATCH, INPUTS), (count, wide, INPUTS), (count, wide, HIDDEN), (count, 2 * wide)]
        made = [rng.standard_normal(s).astype(np.float32) for s in shapes]
        return [*made, lens, *(rng.standard_normal((count, BATCH, HIDDEN)).astype(np.float32) for _ in range(states))]


STEPS, BATCH, INPUTS, HIDDEN = 4, 3, 2, 5


@op
class Rnn(_Recurrent):
    """h = f(x w' + h r' + b) over time (ONNX RNN-22)."""

    def infer(self, x, w, r, b, seq_lens, h0, *, hidden_size, direction, activations, **_):
        operands = {"x": x, "w": w, "r": r, "b": b, "seq_lens": seq_lens, "h0": h0}
        return self._types(operands, hidden_size, direction, activations)

    def axes(self, *operands, **_):
        return self._rows(operands, ("x", "w", "r", "b", "seq_lens", "h0"))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for direction, lens, extra in (
            ("forward", None, {}),
            ("reverse", (4, 1, 3), {"clip": 0.7}),
            ("bidirectional", (2, 4, 1), {"activations": ("Relu", "LeakyRelu"), "activation_alpha": (0.3,)}),
        ):
            attrs = {"hidden_size": HIDDEN, "direction": direction, **extra}
            yield Sample(tuple(self._draw(rng, direction, lens, 1)), attrs)


@op
class Gru(_Recurrent):
    """A gated recurrent unit, gates z r h (ONNX GRU-22); linear_before_reset applies r after the product, as cuDNN."""

    linear_before_reset = attr(bool, False)
    gates = 3
    functions = 2

    def infer(self, x, w, r, b, seq_lens, h0, *, hidden_size, direction, activations, **_):
        operands = {"x": x, "w": w, "r": r, "b": b, "seq_lens": seq_lens, "h0": h0}
        return self._types(operands, hidden_size, direction, activations)

    def axes(self, *operands, **_):
        return self._rows(operands, ("x", "w", "r", "b", "seq_lens", "h0"))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for direction, lens, extra in (
            ("forward", None, {}),
            ("reverse", (4, 1, 3), {"linear_before_reset": True}),
            ("bidirectional", (2, 4, 1), {"linear_before_reset": True, "clip": 1.0}),
            ("bidirectional", None, {"activations": ("HardSigmoid", "Softsign", "Sigmoid", "Elu")}),
        ):
            attrs = {"hidden_size": HIDDEN, "direction": direction, **extra}
            yield Sample(tuple(self._draw(rng, direction, lens, 1)), attrs)
        yield Sample((*self._draw(rng, "forward", None, 0)[:3], None, None, None), {"hidden_size": HIDDEN})


@op
class Lstm(_Recurrent):
    """Long short-term memory, gates i o f c, optional peepholes p [D, 3 H] in the order i o f (ONNX LSTM-22)."""

    c0 = optional(T)
    p = optional(T)
    input_forget = attr(bool, False)
    results = ("y", "y_h", "y_c")
    gates = 4
    functions = 3

    def infer(self, x, w, r, b, seq_lens, h0, c0, p, *, hidden_size, direction, activations, **_):
        operands = {"x": x, "w": w, "r": r, "b": b, "seq_lens": seq_lens, "h0": h0, "c0": c0, "p": p}
        return self._types(operands, hidden_size, direction, activations)

    def axes(self, *operands, **_):
        return self._rows(operands, ("x", "w", "r", "b", "seq_lens", "h0", "c0", "p"))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for direction, lens, peephole, extra in (
            ("forward", None, False, {}),
            ("reverse", (4, 1, 3), True, {"clip": 0.9}),
            ("bidirectional", (2, 4, 1), True, {}),
            ("bidirectional", None, False, {"activations": ("Sigmoid", "Relu", "Tanh") * 2}),
            ("forward", (1, 4, 2), False, {"input_forget": True}),
        ):
            attrs = {"hidden_size": HIDDEN, "direction": direction, **extra}
            count = 2 if direction == "bidirectional" else 1
            p = rng.standard_normal((count, 3 * HIDDEN)).astype(np.float32) if peephole else None
            yield Sample((*self._draw(rng, direction, lens, 2), p), attrs)
        yield Sample((*self._draw(rng, "forward", None, 0)[:3], None, None, None, None, None), {"hidden_size": HIDDEN})
