"""Normalisations: by stored moments (batch_norm) or by the data's own (layer, instance, group, rms, lp, mvn, lrn)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..dims import dim_eq
from ..errors import TypeInferError
from ..opdef import PURE, SPATIAL, Axis, AxisMap, DtypeVar, OpDef, Sample, attr, ints, op, operand, optional
from ..types import FLOAT
from . import rules
from .shapes import norm_axis

T = DtypeVar("T", FLOAT)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def _per_channel(x, vectors: dict, channels_last: bool, least: int = 1):
    """x's type, after checking that each vector has one element per channel."""
    shape = rules.ranked(x, "x", least=least)
    if shape is not None:
        channels = shape[-1] if channels_last else shape[1] if len(shape) > 1 else 1
        for name, vector in vectors.items():
            rules.expect_vector(vector, channels, name)
    return x.type


@op
class BatchNorm(OpDef):
    """(x - mean) / sqrt(var + epsilon) * scale + bias per channel (ONNX BatchNormalization-15 at inference)."""

    x = operand(T)
    scale = operand(FLOAT)
    bias = operand(FLOAT)
    mean = operand(FLOAT)
    var = operand(FLOAT)
    epsilon = attr(float, 1e-5)
    channels_last = attr(bool, False)
    traits = PURE | SPATIAL

    def infer(self, x, scale, bias, mean, var, *, channels_last, **_):
        return _per_channel(x, {"scale": scale, "bias": bias, "mean": mean, "var": var}, channels_last)

    def axes(self, x, scale, bias, mean, var, *, channels_last, **_):
        if x.shape is None or len(x.shape) < 2:
            return None
        row = rules.data_axes(len(x.shape), channels_last, Axis("c"), "s")
        return AxisMap((row, *((Axis("c"),) for _ in range(4))), (row,))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, channels, last in (((2, 3, 4, 5), 3, False), ((4, 3), 3, False), ((2, 5, 3), 3, True)):
            vectors = [_normal(rng, channels) for _ in range(3)]
            var = np.abs(_normal(rng, channels)) + 0.1
            yield Sample((_normal(rng, *shape), *vectors, var), {"epsilon": 1e-3, "channels_last": last})


class _Trailing(OpDef):
    """Normalises over the axes from `axis` on."""

    x = operand(T)
    scale = optional(T)
    axis = attr(int, -1)
    epsilon = attr(float, 1e-5)

    def _check(self, x, axis, **vectors):
        if x.shape is None:
            return x.type
        norm_axis(axis, len(x.shape), "axis")
        for name, value in vectors.items():
            if value is None or value.shape is None:
                continue
            fits = len(value.shape) <= len(x.shape)
            for have, want in zip(value.shape[::-1], x.shape[::-1], strict=False):
                fits = fits and (have == 1 or dim_eq(have, want) is not False)
            if not fits:
                raise TypeInferError(
                    f"{name} of shape {rules.show(value.shape)} does not broadcast to {rules.show(x.shape)}"
                )
        return x.type

    def _rows(self, x, axis, *vectors):
        if x.shape is None:
            return None
        rank = len(x.shape)
        row = rules.passing(rank, range(axis % rank, rank))
        rows = [None if v is None else (None,) * v.rank if v.rank is not None else None for v in vectors]
        if any(v is not None and (v.rank is None or v.rank > rank - axis % rank) for v in vectors):
            return None
        return AxisMap((row, *rows), (row,))


@op
class LayerNorm(_Trailing):
    """Zero mean, unit variance over the axes from `axis` on, then scale and bias (ONNX LayerNormalization-17's Y)."""

    bias = optional(T)

    def infer(self, x, scale, bias, *, axis, **_):
        return self._check(x, axis, scale=scale, bias=bias)

    def axes(self, x, scale, bias, *, axis, **_):
        return self._rows(x, axis, scale, bias)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((_normal(rng, 2, 3, 5), _normal(rng, 5), _normal(rng, 5)))
        yield Sample((_normal(rng, 2, 3, 5), _normal(rng, 3, 5), None), {"axis": 1, "epsilon": 1e-3})
        yield Sample((_normal(rng, 2, 3, 5), None, None), {"axis": -3})


@op
class RmsNorm(_Trailing):
    """x / sqrt(mean(x^2) + epsilon) over the axes from `axis` on, then scale (ONNX RMSNormalization-23)."""

    def infer(self, x, scale, *, axis, **_):
        return self._check(x, axis, scale=scale)

    def axes(self, x, scale, *, axis, **_):
        return self._rows(x, axis, scale)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((_normal(rng, 2, 3, 5), _normal(rng, 5)))
        yield Sample((_normal(rng, 2, 3, 5), _normal(rng, 3, 5)), {"axis": -2, "epsilon": 1e-3})
        yield Sample((_normal(rng, 2, 4), None))


@op
class InstanceNorm(OpDef):
    """Zero mean and unit variance over the spatial axes of each sample and channel, then scale and bias [C]."""

    x = operand(T)
    scale = operand(T)
    bias = operand(T)
    epsilon = attr(float, 1e-5)
    channels_last = attr(bool, False)
    traits = PURE | SPATIAL

    def infer(self, x, scale, bias, *, channels_last, **_):
        return _per_channel(x, {"scale": scale, "bias": bias}, channels_last, least=3)

    def axes(self, x, scale, bias, *, channels_last, **_):
        if x.shape is None:
            return None
        row = rules.data_axes(len(x.shape), channels_last, Axis("c"))
        return AxisMap((row, (Axis("c"),), (Axis("c"),)), (row,))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((_normal(rng, 2, 3, 4, 5), _normal(rng, 3), _normal(rng, 3)), {"epsilon": 1e-2})
        yield Sample((_normal(rng, 2, 6, 3), _normal(rng, 3), _normal(rng, 3)), {"channels_last": True})


@op
class GroupNorm(OpDef):
    """Zero mean and unit variance over each of `num_groups` runs of channels, then scale and bias [C] (ONNX 21)."""

    x = operand(T)
    scale = operand(T)
    bias = operand(T)
    num_groups = attr(int)
    epsilon = attr(float, 1e-5)
    channels_last = attr(bool, False)
    traits = PURE | SPATIAL

    def infer(self, x, scale, bias, *, num_groups, channels_last, **_):
        made = _per_channel(x, {"scale": scale, "bias": bias}, channels_last, least=2)
        channels = None if x.shape is None else x.shape[-1 if channels_last else 1]
        if num_groups < 1 or (isinstance(channels, int) and channels % num_groups):
            raise TypeInferError(f"num_groups {num_groups} does not divide {channels} channels")
        return made

    def axes(self, x, scale, bias, *, channels_last, **_):
        if x.shape is None:
            return None
        row = rules.data_axes(len(x.shape), channels_last, None)
        return AxisMap((row, (None,), (None,)), (row,))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((_normal(rng, 2, 6, 4, 3), _normal(rng, 6), _normal(rng, 6)), {"num_groups": 3})
        yield Sample(
            (_normal(rng, 2, 5, 4), _normal(rng, 4), _normal(rng, 4)), {"num_groups": 2, "channels_last": True}
        )


@op
class Lrn(OpDef):
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels)^beta (ONNX LRN-13)."""

    x = operand(T)
    alpha = attr(float, 1e-4)
    beta = attr(float, 0.75)
    bias = attr(float, 1.0)
    size = attr(int)
    channels_last = attr(bool, False)
    traits = PURE | SPATIAL

    def infer(self, x, *, size, **_):
        rules.ranked(x, "x", least=2)
        if size < 1:
            raise TypeInferError(f"size is {size}; it must be at least 1")
        return x.type

    def axes(self, x, *, channels_last, **_):
        if x.shape is None:
            return None
        row = rules.data_axes(len(x.shape), channels_last, None, "s")
        return AxisMap((row,), (row,))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((_normal(rng, 2, 7, 3, 4),), {"size": 3, "alpha": 0.5, "bias": 2.0})
        yield Sample((_normal(rng, 1, 5, 3),), {"size": 4, "beta": 0.5, "alpha": 0.1})
        yield Sample((_normal(rng, 2, 3, 4, 6),), {"size": 5, "alpha": 0.3, "channels_last": True})


@op
class LpNormalization(OpDef):
    """x over its p-norm along `axis`; 0 where the norm is 0 (ONNX LpNormalization-22)."""

    x = operand(T)
    axis = attr(int, -1)
    p = attr(int, 2, choices=(1, 2))

    def infer(self, x, *, axis, **_):
        if x.shape is not None:
            norm_axis(axis, len(x.shape), "axis")
        return x.type

    def axes(self, x, *, axis, **_):
        if x.shape is None:
            return None
        row = rules.passing(len(x.shape), (axis,))
        return AxisMap((row,), (row,))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((_normal(rng, 2, 3, 4),))
        zero = _normal(rng, 3, 4)
        zero[:, 1] = 0
        yield Sample((zero,), {"axis": 0, "p": 1})


@op
class MeanVarianceNormalization(OpDef):
    """(x - mean) / (standard deviation + 1e-9) over `axes` (ONNX MeanVarianceNormalization-13)."""

    x = operand(T)
    axes_ = attr(ints, (0, 2, 3))

    def infer(self, x, *, axes):
        if x.shape is not None:
            for axis in axes:
                norm_axis(axis, len(x.shape), "axes")
        return x.type

    def axes(self, x, *, axes):
        if x.shape is None:
            return None
        row = rules.passing(len(x.shape), axes)
        return AxisMap((row,), (row,))

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((_normal(rng, 2, 3, 4, 5),))
        yield Sample((_normal(rng, 2, 3, 4),), {"axes": (-1,)})
