"""Activations of ONNX and the softmax family. Formulas: kernels/activation.py; defaults: ONNX's."""

from __future__ import annotations

import numpy as np

from ..errors import TypeInferError
from ..opdef import ELEMENTWISE, IDEMPOTENT, PURE, SAME_QUANT, AxisMap, DtypeVar, OpDef, Sample, attr, op, operand
from ..types import F16, F64, I32
from .rules import passing
from .sampling import SHAPES, draw
from .shapes import FLOATS, INTS, NUMBERS, broadcast_shapes, norm_axis

FLOATING = DtypeVar("T", FLOATS)
NUMBER = DtypeVar("T", NUMBERS)
PRELU = DtypeVar("T", FLOATS | INTS)


class Activation(OpDef):
    """Base: one float operand, a result of its type."""

    x = operand(FLOATING)
    traits = PURE | ELEMENTWISE

    def infer(self, x, **attrs):
        return x.type

    def variants(self):
        """Attribute sets to sample besides the defaults."""
        return ()

    def samples(self, rng):
        for shape in SHAPES:
            yield Sample((draw(rng, shape),))
        for dtype in (F16, F64):
            yield Sample((draw(rng, (2, 3), dtype),))
        for attrs in self.variants():
            yield Sample((draw(rng, (3, 5)),), attrs)


@op
class Relu(Activation):
    """max(x, 0)."""

    x = operand(NUMBER)
    traits = PURE | ELEMENTWISE | IDEMPOTENT | SAME_QUANT

    def samples(self, rng):
        yield from super().samples(rng)
        yield Sample((draw(rng, (2, 3), I32),))


@op
class Relu6(Activation):
    """min(max(x, 0), 6)."""

    x = operand(NUMBER)
    traits = PURE | ELEMENTWISE | IDEMPOTENT | SAME_QUANT


@op
class LeakyRelu(Activation):
    """x where x >= 0, else alpha * x."""

    alpha = attr(float, 0.01)

    def variants(self):
        return ({"alpha": 0.3}, {"alpha": -0.5})


@op
class Prelu(OpDef):
    """x where x >= 0, else slope * x; the slope broadcasts to the shape of x, never the other way round."""

    x = operand(PRELU)
    slope = operand(PRELU)
    traits = PURE | ELEMENTWISE

    def infer(self, x, slope):
        if x.shape is not None and slope.shape is not None:
            if len(slope.shape) > len(x.shape):
                raise TypeInferError(f"slope {slope.type} has a higher rank than x {x.type}")
            made = broadcast_shapes(x.shape, slope.shape)
            if any(type(d) is int and type(m) is int and d != m for d, m in zip(x.shape, made, strict=True)):
                raise TypeInferError(f"slope {slope.type} does not broadcast to x {x.type}")
        return x.type

    def samples(self, rng):
        for shape, slope in (((2, 3), (2, 3)), ((2, 3, 4), (3, 1)), ((2, 3, 4), (1,)), ((5,), ()), ((2, 0), (1,))):
            yield Sample((draw(rng, shape), draw(rng, slope)))


@op
class Elu(Activation):
    """x where x > 0, else alpha * (exp(x) - 1)."""

    alpha = attr(float, 1.0)

    def variants(self):
        return ({"alpha": 2.0},)


@op
class Selu(Activation):
    """gamma * (x where x > 0, else alpha * (exp(x) - 1)). Klambauer et al., 2017; the defaults are ONNX's."""

    alpha = attr(float, 1.67326319217681884765625)
    gamma = attr(float, 1.05070102214813232421875)

    def variants(self):
        return ({"alpha": 2.0, "gamma": 3.0},)


@op
class Celu(Activation):
    """max(x, 0) + min(alpha * (exp(x / alpha) - 1), 0)."""

    alpha = attr(float, 1.0)

    def variants(self):
        return ({"alpha": 2.0},)


@op
class ThresholdedRelu(Activation):
    """x where x > alpha, else 0."""

    alpha = attr(float, 1.0)

    def variants(self):
        return ({"alpha": 2.0},)


@op
class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""


@op
class HardSigmoid(Activation):
    """min(max(alpha * x + beta, 0), 1)."""

    alpha = attr(float, 0.2)
    beta = attr(float, 0.5)

    def variants(self):
        return ({"alpha": 1 / 6, "beta": 0.5},)


@op
class HardSwish(Activation):
    """x * hard_sigmoid(x) with alpha 1/6 and beta 1/2."""


@op
class Silu(Activation):
    """x * sigmoid(x)."""


@op
class Swish(Activation):
    """x * sigmoid(alpha * x)."""

    alpha = attr(float, 1.0)

    def variants(self):
        return ({"alpha": 1.7},)


@op
class Mish(Activation):
    """x * tanh(softplus(x))."""


@op
class Softplus(Activation):
    """log(1 + exp(x))."""


@op
class Softsign(Activation):
    """x / (1 + |x|)."""


@op
class Tanh(Activation):
    """Hyperbolic tangent."""


@op
class Gelu(Activation):
    """x times the normal distribution function of x, or its tanh approximation."""

    approximate = attr(str, "none", choices=("none", "tanh"))

    def variants(self):
        return ({"approximate": "tanh"},)


@op
class Shrink(Activation):
    """x + bias below -lambd, x - bias above lambd, 0 between."""

    x = operand(NUMBER)
    bias = attr(float, 0.0)
    lambd = attr(float, 0.5)

    def variants(self):
        return ({"bias": 1.5, "lambd": 1.5},)


class AlongAxis(OpDef):
    """Base: computed over the whole of one axis, separately for all others."""

    x = operand(FLOATING)
    axis = attr(int, -1)

    def infer(self, x, *, axis):
        if x.rank is not None:
            norm_axis(axis, x.rank)
        return x.type

    def axes(self, x, *, axis):
        if x.rank is None:
            return None
        labels = passing(x.rank, (axis % x.rank,))
        return AxisMap((labels,), (labels,))

    def samples(self, rng):
        for shape, axis in (((7,), 0), ((2, 3), -1), ((2, 3, 4), 1), ((3, 1, 5), 1), ((0, 4), 1), ((2, 0), -1)):
            yield Sample((draw(rng, shape),), {"axis": axis})
        yield Sample((draw(rng, (3, 4), F16),), {"axis": 0})
        yield Sample((np.array([[1e4, -1e4, 1e4], [0, 0, 0]], np.float32),), {"axis": 1})


@op
class Softmax(AlongAxis):
    """exp(x) / sum(exp(x)) along `axis`."""


@op
class LogSoftmax(AlongAxis):
    """log(softmax(x)) along `axis`."""


@op
class Hardmax(AlongAxis):
    """1 at the first largest element along `axis`, 0 elsewhere."""
