"""Random ops. ONNX has a seed only; every runtime draws its own numbers from it."""

from __future__ import annotations

from typing import Any

from ...formats.onnx import dtypes
from ...ir.graph import Node
from ...ir.types import BOOL, F32
from .emitter import Emitter
from .registry import emits
from .shape import as_i64

OPERATORS = {"random_uniform": "RandomUniform", "random_normal": "RandomNormal"}


def seed(n: Node) -> float:
    """One number for (seed, salt), exact in float32."""
    mixed = n.attr("seed") if not n.attr("salt") else n.attr("seed") * 1_000_003 + n.attr("salt")
    return float(mixed % (1 << 24))


@emits(*OPERATORS)
def drawn(e: Emitter, n: Node) -> None:
    """A shape that is not known is taken from a tensor of zeros."""
    keys = ("low", "high") if n.name == "random_uniform" else ("mean", "scale")
    attrs: dict[str, Any] = {key: n.attr(key) for key in keys}
    attrs |= {"dtype": dtypes.TO_CODE[n.attr("dtype")], "seed": seed(n)}
    (shape,) = n.operands
    known = shape.ints()  # type: ignore[union-attr]
    if known is not None:
        e.node(OPERATORS[n.name], [], shape=known, **attrs)
        return
    like = e.temp("ConstantOfShape", [as_i64(e, shape)], F32)
    e.node(f"{OPERATORS[n.name]}Like", [like], **attrs)


@emits("bernoulli", since=15)
def bernoulli(e: Emitter, n: Node) -> None:
    dtype = n.attr("dtype")
    e.node("Bernoulli", n.operands, dtype=None if dtype is None else dtypes.TO_CODE[dtype], seed=seed(n))


@emits("multinomial")
def multinomial(e: Emitter, n: Node) -> None:
    e.node(
        "Multinomial",
        n.operands,
        sample_size=n.attr("sample_size"),
        dtype=dtypes.TO_CODE[n.attr("dtype")],
        seed=seed(n),
    )


@emits("dropout")
def dropout(e: Emitter, n: Node) -> None:
    e.node("Dropout", [*n.operands, e.literal(True, BOOL)], seed=int(seed(n)))
