"""Random operators. A node without a seed draws with a salt of its own, so that every run gives the same numbers."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ...formats.onnx import dtypes
from ...ir.graph import Value
from ...ir.types import BOOL, F32, I32, DType
from .importer import Call, Importer, known_dtype
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
    """Before opset 12 the identity, unless a file below opset 7 says `is_test` 0: one that leaves it at that default is
    read as inference, with a note. The mask of what was kept is all ones."""
    if n.opset < 7 and not n.attr("is_test", 0):
        if "is_test" in n.node.attrs and n.attr("ratio", 0.5) > 0:
            y, kept = c.b.dropout(n.x, c.const(np.float32(n.attr("ratio", 0.5))), **draw(c, n))
            return y, c.b.cast(kept, to=known_dtype(n.x)) if n.wants(1) else None
        c.note(n, "read as inference: neither is_test nor a ratio says otherwise")
    return _identity(c, n, BOOL if n.opset >= 10 else n.x.dtype)


@handles("Dropout", since=12)
def dropout_operands(c: Importer, n: Call) -> Any:
    """The identity unless `training_mode` may be true: then elements are dropped at random and the others scaled up."""
    x, ratio, training = n.take(3)
    if training is None or training.scalar() is False or (ratio is not None and ratio.scalar() == 0):
        return _identity(c, n, BOOL)
    b = c.b
    if ratio is None:
        ratio = c.const(np.asarray(0.5, np.float32))
    ratio = b.reshape(ratio, ()) if ratio.rank else ratio
    if training.scalar() is None:
        training = b.reshape(training, ()) if training.rank else training
        ratio = b.where(training, ratio, c.scalar(0, ratio))
    return b.dropout(x, ratio, **draw(c, n))


def _identity(c: Importer, n: Call, mask: DType | None) -> Any:
    y = c.b.identity(n.x)
    if not n.wants(1):
        return y
    return y, c.b.expand(c.const(np.ones((), mask.numpy)), c.b.shape(n.x))  # type: ignore[union-attr]
