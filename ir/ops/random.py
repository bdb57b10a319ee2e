"""Random ops: functions of (seed, salt), so that a model gives the same numbers on every run.

Two nodes draw independently when their (seed, salt) differ; a frontend gives every node a salt of its own.
"""

from __future__ import annotations

import numpy as np

from ..dims import Expr, dim_lt
from ..errors import TypeInferError
from ..opdef import PURE, RANDOM, DtypeVar, OpDef, Sample, attr, op, operand
from ..types import BOOL, F16, F32, FLOAT, I32, I64, INDEX, DType, TensorType
from .sampling import draw, i64
from .shapes import FLOATS, entries

FLOATING = DtypeVar("T", FLOATS)


class Drawn(OpDef):
    """Base: a float tensor of `shape`."""

    shape = operand(INDEX)
    dtype = attr(DType, F32)
    seed = attr(int, 0)
    salt = attr(int, 0)
    traits = PURE | RANDOM
    reads_elems = True

    def infer(self, shape, *, dtype, **attrs):
        if dtype not in FLOATS:
            raise TypeInferError(f"random numbers of {dtype}: floats only", hint="cast the result")
        dims = entries(shape)
        if dims is None:
            return TensorType(dtype, None)
        if any(d is not None and dim_lt(d, 0) for d in dims):
            raise TypeInferError(f"a negative dim in the shape {dims}")
        return TensorType(dtype, [Expr.fresh() if d is None else d for d in dims])

    def samples(self, rng):
        for dims, dtype in (((64, 3), F32), ((), F32), ((0, 2), F16), ((500,), F16)):
            yield Sample((i64(*dims),), {"dtype": dtype, "seed": int(rng.integers(1000)), "salt": 3}, ("shape",))


@op
class RandomUniform(Drawn):
    """Uniform in [low, high)."""

    low = attr(float, 0.0)
    high = attr(float, 1.0)


@op
class RandomNormal(Drawn):
    """Normal with `mean` and standard deviation `scale`."""

    mean = attr(float, 0.0)
    scale = attr(float, 1.0)


@op
class Bernoulli(OpDef):
    """1 with the probability that x says, element by element, else 0; in `dtype` or that of x."""

    x = operand(FLOATING)
    dtype = attr(DType, None)
    seed = attr(int, 0)
    salt = attr(int, 0)
    traits = PURE | RANDOM

    def infer(self, x, *, dtype, seed, salt):
        return TensorType(dtype or x.dtype, x.shape)

    def axes(self, x, **attrs):
        return None  # the draw depends on the position: moving an axis changes it

    def samples(self, rng):
        yield Sample((draw(rng, (4, 5), F32, 0, 1),), {"seed": 7})
        yield Sample((np.array([0.0, 1.0], np.float32),), {"dtype": I32, "salt": 2})
        yield Sample((draw(rng, (), F32, 0, 1),))


@op
class Multinomial(OpDef):
    """[batch, sample_size] class numbers drawn with replacement; x [batch, classes] holds log-probabilities."""

    x = operand(FLOATING)
    sample_size = attr(int, 1)
    dtype = attr(DType, I32)
    seed = attr(int, 0)
    salt = attr(int, 0)
    traits = PURE | RANDOM
    reads_elems = True

    def infer(self, x, *, sample_size, dtype, seed, salt):
        if dtype not in (I32, I64) or sample_size < 1:
            raise TypeInferError(f"{sample_size} class numbers of {dtype}")
        if x.rank not in (None, 2):
            raise TypeInferError(f"{x.type} is no [batch, classes]")
        return TensorType(dtype, (Expr.fresh() if x.shape is None else x.shape[0], sample_size))

    def samples(self, rng):
        yield Sample((draw(rng, (3, 5)),), {"sample_size": 4, "seed": 1})
        yield Sample((draw(rng, (1, 2), F16),), {"dtype": I64})


@op
class Dropout(OpDef):
    """y is x / (1 - ratio) where a number drawn from [0, 1) is not below `ratio`, else 0; `mask` says where (ONNX Dropout
    in training mode). Inference has no dropout: frontends leave it out."""

    x = operand(DtypeVar("T", FLOAT))
    ratio = operand(FLOAT)
    seed = attr(int, 0)
    salt = attr(int, 0)
    results = ("y", "mask")
    traits = PURE | RANDOM

    def infer(self, x, ratio, *, seed, salt):
        if ratio.rank not in (None, 0):
            raise TypeInferError(f"the ratio {ratio.type} is no scalar")
        return [x.type, TensorType(BOOL, x.shape)]

    def axes(self, x, ratio, **attrs):
        return None  # the draw depends on the position: moving an axis changes it

    def samples(self, rng):
        yield Sample((draw(rng, (4, 5)), np.array(0.4, np.float32)), {"seed": 7})
        yield Sample((draw(rng, (0, 3), F16), np.array(0.5, np.float16)), {"salt": 2})
        yield Sample((draw(rng, ()), np.array(0, np.float32)))
