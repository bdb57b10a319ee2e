"""Random operators. A node without a seed draws with a salt of its own, so that every run gives the same numbers."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ...formats.onnx import dtypes
from ...ir.graph import Value
from ...ir.types import BOOL, F32, I32, DType
from .importer import Call, Importer
from .registry import handles


def draw(c: Importer, n: Call) -> dict[str, int]:
    """`seed` and `salt`: the file's seed (a float), or a number per node."""
    seed = n.attr("seed")
    if seed is None:
        return {"seed": 0, "salt": c.next_salt()}
    return {
        "seed": int(seed) if float(seed).is_integer() else struct.unpack("<I", struct.pack("<f", seed))[0],
        "salt": 0,
    }


def _dtype(n: Call, otherwise: DType | None) -> DType:
    code = n.attr("dtype")
    return dtypes.from_code(code, n.label) if code else otherwise or F32


@handles("RandomUniform", "RandomUniformLike")
def random_uniform(c: Importer, n: Call) -> Any:
    return _drawn(c, n, "random_uniform", {"low": n.attr("low", 0.0), "high": n.attr("high", 1.0)})


@handles("RandomNormal", "RandomNormalLike")
def random_normal(c: Importer, n: Call) -> Any:
    return _drawn(c, n, "random_normal", {"mean": n.attr("mean", 0.0), "scale": n.attr("scale", 1.0)})


def _drawn(c: Importer, n: Call, name: str, attrs: dict[str, Any]) -> Value:
    like = n.inputs[0] if n.inputs else None
    shape = tuple(n.attr("shape")) if like is None else c.b.shape(like)
    attrs |= {"dtype": _dtype(n, None if like is None else like.dtype), **draw(c, n)}
    return c.b.call(name, (shape,), attrs).result


@handles("Bernoulli")
def bernoulli(c: Importer, n: Call) -> Any:
    return c.b.bernoulli(n.x, dtype=_dtype(n, n.x.dtype), **draw(c, n))


@handles("Multinomial")
def multinomial(c: Importer, n: Call) -> Any:
    return c.b.multinomial(n.x, sample_size=n.attr("sample_size", 1), dtype=_dtype(n, I32), **draw(c, n))


@handles("Dropout")
def dropout(c: Importer, n: Call) -> Any:
    """Before opset 12 the identity: old files that leave `is_test` at its training default are read as inference, with a
    note. The mask of what was kept is all ones."""
    if n.opset < 7 and not n.attr("is_test", 0):
        c.note(n, "is_test is 0, read as inference")
    return _identity(c, n, BOOL if n.opset >= 10 else n.x.dtype)


@handles("Dropout", since=12)
def dropout_operands(c: Importer, n: Call) -> Any:
    """The identity unless `training_mode` may be true: then elements are dropped at random and the others scaled up."""
    x, ratio, training = n.take(3)
    if training is None or training.scalar() is False:
        return _identity(c, n, BOOL)
    b = c.b
    if ratio is None:
        ratio = c.const(np.asarray(0.5, np.float32))
    ratio = b.reshape(ratio, ()) if ratio.rank else ratio
    training = b.reshape(training, ()) if training.rank else training
    drop = b.where(training, b.cast(ratio, to=F32), c.const(np.float32(0)))
    kept = b.greater_equal(b.random_uniform(b.shape(x), dtype=F32, **draw(c, n)), drop)
    scale = b.cast(b.reciprocal(b.sub(c.const(np.float32(1)), drop)), to=x.dtype)
    return b.where(kept, b.mul(x, scale), c.scalar(0, x)), kept


def _identity(c: Importer, n: Call, mask: DType | None) -> Any:
    y = c.b.identity(n.x)
    if not n.wants(1):
        return y
    return y, c.b.expand(c.const(np.ones((), mask.numpy)), c.b.shape(n.x))  # type: ignore[union-attr]
